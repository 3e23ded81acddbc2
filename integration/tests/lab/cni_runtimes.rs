//! Real callers of the CNI plugin: podman and containerd, each command as users type it (`integration/cni-runtimes.sh`).

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use weft_integration::lab::{command::Run, host::binary, trial::trial};

/// The script's status when a program is missing.
const MISSING: i32 = 77;
/// An engine takes seconds to start on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn podman_and_containerd_plug_their_containers_in() {
    trial(|lab| {
        let host = lab.host("A")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cni-runtimes.sh");
        let dir = host.dir().join("engines");
        std::fs::create_dir(&dir)?;
        let run = Run::new(script).arg(host.namespace().name()).arg(&dir).arg(binary()?).deadline(DEADLINE);
        let done = run.output()?;
        if done.status.code() == Some(MISSING) {
            println!("SKIPPED: {}", done.stdout);
            eprintln!("weft: SKIPPED, NOT TRIED: podman and containerd with the CNI plugin: {}", done.stdout.trim());
            return Ok(());
        }
        if !done.status.success() {
            bail!("{}\n{}{}", done.status, done.stdout, done.stderr);
        }
        print!("{}", done.stdout);
        expect_no_mounts(&dir)
    });
}

/// Mounts of engines would keep the lab's directory from being removed.
fn expect_no_mounts(dir: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&dir.display().to_string())).collect();
    if left.is_empty() { Ok(()) } else { bail!("mounts are left: {left:?}") }
}
