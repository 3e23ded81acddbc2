//! Two that reach each other by relays alone: one that has too much to do is left for another, and one that dies.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use weft::api::path::{PeerExplanation, Way};
use weft_integration::lab::{
    container::Container,
    cut::Cut,
    host::Host,
    mesh::{Mesh, launch_all, password_file},
    namespace::join,
    stream::Stream,
    trial::trial,
    wait::wait_for,
};

const PACE: Duration = Duration::from_millis(20);
const SETTLING: Duration = Duration::from_secs(60);
/// Of a load is told when it lasted for 2 s, what waits is measured; the other way must be better for 3 s, longer if it was left.
const LEFT: Duration = Duration::from_secs(40);
/// A second, were it not for the other tests of this machine.
const FAILED_OVER: Duration = Duration::from_secs(6);
/// Senders to each side, so that all workers of a router get some.
const SENDERS: u16 = 3;
/// What the relay with too much to do may use of a core: otherwise, on few cores, its senders have less than it could pass on.
const CPU_PERCENT: u32 = 15;
const PORT: u16 = 7790;

/// Datagrams as fast as they go, in both directions.
struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Flood {
    fn start(one: &Container, other: &Container) -> Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let mut threads = Vec::new();
        for (from, to) in [(one, other), (other, one)] {
            let to = SocketAddr::from((to.v4()?, PORT));
            for _ in 0..SENDERS {
                let stop = Arc::clone(&stop);
                threads.push(from.namespace().spawn(move || send(to, &stop))?);
            }
        }
        Ok(Self { stop, threads })
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().try_for_each(join)
    }
}

fn send(to: SocketAddr, stop: &AtomicBool) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    while !stop.load(Ordering::Relaxed) {
        // Nobody listens: refusals come back.
        let _ = socket.send_to(&[0; 64], to);
    }
    Ok(())
}

/// The relay of each way that `from` sends to `to` by; None if it sends straight.
fn relays(from: &Host, to: &Host) -> Result<Vec<Option<String>>> {
    let explained: PeerExplanation = from.json(&["explain", to.name()])?;
    Ok(explained.ways.iter().filter(|way| way.in_use).map(relay).collect())
}

fn relay(way: &Way) -> Option<String> {
    Some(way.relays.first()?.nickname.as_ref()?.to_string())
}

#[test]
fn a_relay_with_too_much_to_do_is_left_for_another_and_so_is_one_that_dies() {
    trial(|lab| {
        let hosts = lab.hosts(["A", "C", "R1", "R2", "F"])?;
        let password = format!("--password-file={}", password_file(lab, &hosts[0], "secret")?.display());
        let first = hosts[0].v4().to_string();
        launch_all(&hosts, |host| {
            // A control group may refuse threads with real-time priority (CONFIG_RT_GROUP_SCHED).
            let mut args = vec![password.clone(), String::from("--fastdp=off"), String::from("--no-realtime")];
            args.extend((!host.name().starts_with('R')).then(|| String::from("--no-relay")));
            args.extend((host.name() != "A").then(|| first.clone()));
            args
        })?;
        let mesh = Mesh::of(hosts.to_vec())?;
        mesh.wait_settled(SETTLING)?;
        let [a, c, one, two, _] = &hosts;
        let [from, to, at_one, at_two, flooder] = &mesh.containers[..] else { bail!("a container of each host") };
        let _cut = lab.cut(&Cut::between("A", "C"))?;
        let stream = Stream::start(from, to, false, PACE, 64)?;
        // Flows may be spread over both: one of them is given work.
        let (ways, _) = wait_for("A sends to C by a relay", SETTLING, || {
            let ways = relays(a, c)?;
            ensure!(ways.iter().all(Option::is_some), "{ways:?}");
            Ok(ways)
        })?;
        let is_first = ways.first().is_some_and(|way| way.as_deref() == Some(one.name()));
        let (busy, at_busy, other) = if is_first { (one, at_one, two) } else { (two, at_two, one) };
        let only = |relay: &Host| {
            for (from, to) in [(a, c), (c, a)] {
                let relays = relays(from, to)?;
                ensure!(relays == [Some(relay.name().into())], "{} sends to {} by {relays:?}", from.name(), to.name());
            }
            Ok(())
        };

        busy.limit_cpu(CPU_PERCENT)?;
        let flood = Flood::start(at_busy, flooder)?;
        let (_, took) = wait_for("both leave the relay that is busy", LEFT, || only(other))?;
        let explained: PeerExplanation = a.json(&["explain", "C"])?;
        let way = explained.ways.iter().find(|way| relay(way).as_deref() == Some(busy.name()));
        println!("left after {took:.1?}, as {}: now {way:#?}", explained.path.reason);
        flood.stop()?;

        let killed_at = Instant::now();
        other.kill9()?;
        wait_for("both leave the relay that is dead", FAILED_OVER, || only(busy))?;
        stream.wait_flowing(FAILED_OVER)?;
        println!("nothing came for {:?} when the other was killed", stream.gap_since(killed_at));
        Ok(())
    });
}
