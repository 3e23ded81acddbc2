//! What a reset removes: everything of ours on the host, and our files in the data directory.

use std::{fs, io, path::Path};

use tracing::info;
use weft_host::{Host, spool::Spool};

use super::RunError;
use crate::fastdp;

/// Our files begin with this.
const PREFIX: &[u8] = b"weft.";

/// Leaves the host as it was before. Goes on after a failure, and reports the first.
pub(super) async fn remove(host: &dyn Host, bridge: &str, vxlan_port: u16, data_dir: &Path) -> Result<(), RunError> {
    // Before the bridge, which its devices are ports of; states and policies last of that, so that nothing leaves in clear.
    let fast = fastdp::remove(bridge, vxlan_port).map_err(RunError::from);
    let host = host.reset().await.map_err(RunError::from);
    let files = remove_files(data_dir);
    fast.and(host).and(files)?;
    info!(data_dir = %data_dir.display(), "bridge, containers' interfaces and stored data are removed");
    Ok(())
}

/// Removes our files, and the directory if nothing else is in it. Other people's files stay.
fn remove_files(directory: &Path) -> Result<(), RunError> {
    let failed = |path: &Path, source| RunError::Remove { path: path.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(directory, error)),
        Ok(entries) => entries,
    };
    for entry in entries {
        let entry = entry.map_err(|error| failed(directory, error))?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX) {
            fs::remove_file(entry.path()).map_err(|error| failed(&entry.path(), error))?;
        }
    }
    Spool::of(directory).clear().map_err(|error| failed(directory, error))?;
    // Not empty, or a mount point: then it is not only ours.
    let _ = fs::remove_dir(directory);
    Ok(())
}

#[cfg(test)]
mod tests {
    use weft::id::PeerName;
    use weft_host::{BridgeConfig, FakeHost, HostError};

    use super::*;

    #[tokio::test]
    async fn nothing_of_ours_is_left_and_nothing_of_others_is_lost() {
        let scratch = tempfile::tempdir().unwrap();
        let data_dir = scratch.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        for name in ["weft.redb", "weft.redb.unreadable-1700000000", "letter.txt"] {
            fs::write(data_dir.join(name), "").unwrap();
        }
        let host = FakeHost::new();
        host.ensure_bridge(BridgeConfig { peer: PeerName([2; 6]), mtu: None }).await.unwrap();
        Spool::of(&data_dir).add("weft/0a/eth0").unwrap();
        remove(&host, "weft", 6784, &data_dir).await.unwrap();
        assert!(host.ports().await.is_err(), "the bridge is gone");
        let left: Vec<_> = fs::read_dir(&data_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["letter.txt"]);

        fs::remove_file(data_dir.join("letter.txt")).unwrap();
        fs::write(data_dir.join("weft.redb"), "").unwrap();
        host.fail_next(HostError::Busy);
        assert!(matches!(remove(&host, "weft", 6784, &data_dir).await, Err(RunError::Host(HostError::Busy))));
        assert!(!data_dir.exists(), "the files are removed all the same");
        remove(&host, "weft", 6784, &data_dir).await.unwrap();
    }
}
