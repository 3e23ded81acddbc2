//! `make lab`: the demo's three hosts with containers, left up to play with.

use std::{fmt::Write, fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result, ensure};

use super::{
    screen::{complain, line, title, verdict},
    story,
};
use crate::lab::{Lab, cut::Cut, host, host::Host, mesh::Mesh, sweep};

/// Its name, if the environment gives none: not one that a sweep removes.
const NAME: &str = "weft-lab";
/// The environment's variable with another name, for tests beside a lab in use.
const NAME_VARIABLE: &str = "WEFT_LAB_NAME";
/// In the lab's directory while it is up.
const UP: &str = "up";

fn name() -> String {
    std::env::var(NAME_VARIABLE).unwrap_or_else(|_| NAME.to_owned())
}

/// Whether there is none yet.
pub(super) fn expect_absent() -> Result<()> {
    ensure!(!sweep::exists(&name()), "the lab is up already: `make lab-down` removes it");
    Ok(())
}

/// Makes it and says how to use it.
pub(super) fn up() -> Result<bool> {
    let mut lab = Lab::named(&name())?;
    title("Three hosts to play with")?;
    let made = story::launched(&lab).and_then(story::attached).and_then(|mesh| {
        mesh.wait_settled(story::SETTLING)?;
        instructions(&lab, &mesh)
    });
    match made {
        Ok(text) => {
            fs::write(lab.dir().join(UP), "")?;
            lab.keep();
            line(text)?;
            Ok(true)
        }
        Err(error) => {
            complain(&error);
            line(lab.diagnosis())?;
            Ok(false)
        }
    }
}

/// Removes it.
pub(super) fn down() -> Result<()> {
    let name = name();
    let was_there = sweep::exists(&name);
    sweep::remove(&name);
    ensure!(!sweep::exists(&name), "{} is still there", sweep::directory(&name).display());
    verdict(true, if was_there { "The lab is removed." } else { "There was no lab." })
}

/// Removes it unless it came up whole.
pub(super) fn remove_unless_up(well: bool) -> Result<()> {
    let name = name();
    if !(well && sweep::directory(&name).join(UP).exists()) {
        sweep::remove(&name);
    }
    Ok(())
}

fn instructions(lab: &Lab, mesh: &Mesh) -> Result<String> {
    let dir = lab.dir().display();
    let mut text = String::from("\nThe hosts' routers are driven by a command each:\n");
    for host in &mesh.hosts {
        write_command(host)?;
    }
    writeln!(text, "  {dir}/A/weft status connections")?;
    writeln!(text, "  {dir}/B/weft status peers")?;
    writeln!(
        text,
        "  {dir}/C/weft stop; {dir}/C/weft launch --password-file {dir}/secret {} {}",
        story::RANGE,
        mesh.hosts[1].v4()
    )?;
    writeln!(text, "Hosts and containers are network namespaces:")?;
    let [a, _, c] = &mesh.containers[..] else { anyhow::bail!("a container for each of three hosts") };
    writeln!(text, "  ip netns exec {} ping {}", a.namespace().name(), c.v4()?)?;
    writeln!(text, "  ip netns exec {} tcpdump -ni {}", a.host().namespace().name(), host::UNDERLAY)?;
    writeln!(text, "The path from A to C is cut, and healed, on the switch between them:")?;
    let script = lab.dir().join("cut-A-C.nft");
    fs::write(&script, Cut::between("A", "C").table("cut"))?;
    writeln!(text, "  ip netns exec {}-sw nft -f {}", lab.name(), script.display())?;
    writeln!(text, "  ip netns exec {}-sw nft delete table bridge cut", lab.name())?;
    write!(text, "`make lab-down` removes all of it.")?;
    Ok(text)
}

/// A command that runs `weft` on the host.
fn write_command(host: &Host) -> Result<()> {
    let path = host.dir().join("weft");
    let (data, run) = (host.data_dir(), host.run_dir());
    let script = format!(
        "#!/bin/sh\nexec ip netns exec {} env WEFT_DATA_DIR={} WEFT_RUN_DIR={} {} \"$@\"\n",
        host.namespace().name(),
        data.display(),
        run.display(),
        host::binary()?.display()
    );
    fs::write(&path, script).with_context(|| path.display().to_string())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(|| path.display().to_string())
}
