//! Containers of one host are on the same switch as those of all others.

use std::time::Duration;

use weft_integration::lab::{
    mesh::{Mesh, attached},
    transfer::transfer,
    trial::trial,
};

const BYTES: u64 = 20_000_000;
const DATAGRAMS: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn containers_of_one_host_are_on_the_switch_of_all() {
    trial(|lab| {
        let mut mesh = Mesh::settled(lab, ["A", "B"], false)?;
        mesh.containers.push(attached(&mesh.hosts[0], "c2", 3)?);
        mesh.all_ping(5)?;
        let [a, b, a2] = &mesh.containers[..] else { unreachable!("three containers") };
        for (from, to) in [(a, b), (b, a2), (a, a2)] {
            for inner6 in [false, true] {
                let done = transfer(from.namespace(), (to.namespace(), to.address(inner6)?), BYTES, PATIENCE)?;
                println!("{} to {}: {:.0} Mbit/s", from.namespace().name(), to.namespace().name(), done.rate() / 1e6);
            }
        }
        mesh.many_hear(DATAGRAMS)
    });
}
