//! Real callers of the CNI plugin: podman and containerd, each command as users type it (`integration/cni-runtimes.sh`).

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use weft_integration::{
    lab::{
        command::{Done, Run},
        host::binary,
    },
    scenario::callers::with_callers,
};

/// The script's status when a program is missing.
const MISSING: i32 = 77;
/// An engine takes seconds to start on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn podman_and_containerd_plug_their_containers_in() {
    with_callers("CNI: podman and containerd", missing(), |lab| {
        let host = lab.host("A")?;
        let dir = host.dir().join("engines");
        std::fs::create_dir(&dir)?;
        let run = script().arg(host.namespace().name()).arg(&dir).arg(binary()?).deadline(DEADLINE);
        let Done { status, stdout, stderr, .. } = run.output()?;
        if !status.success() {
            bail!("{status}\n{stdout}{stderr}");
        }
        print!("{stdout}");
        expect_no_mounts(&dir)
    });
}

fn script() -> Run {
    Run::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("cni-runtimes.sh"))
}

/// Which program is not here, in the script's words; none if all are.
fn missing() -> Option<String> {
    let done = script().arg("--needed").output().unwrap();
    (done.status.code() == Some(MISSING)).then_some(done.stdout)
}

/// Mounts of engines would keep the lab's directory from being removed.
fn expect_no_mounts(dir: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&dir.display().to_string())).collect();
    if left.is_empty() { Ok(()) } else { bail!("mounts are left: {left:?}") }
}
