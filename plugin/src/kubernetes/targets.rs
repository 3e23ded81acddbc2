//! The targets that the router has of its sidecar: compared with those that it should have, and mended.
//!
//! Which are ours is kept in a file, before the router is told: others' targets are not ours to forget. The file is also
//! what the router reads when it starts (`--config`), so that it never starts without knowing whom to look for.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use weft::{
    api::{ConnectRequest, ForgetRequest, TargetStatus},
    node::input::Target,
};

use super::{KubernetesError, router::Router, with_causes};
use crate::client::ClientError;

/// Most targets told at once: a call to the router has 64 KiB.
const BATCH: usize = 1000;
/// Largest file of targets that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// The targets that are ours.
#[derive(Debug)]
pub(super) struct Targets {
    file: PathBuf,
    ours: BTreeSet<Target>,
}

impl Targets {
    /// As an earlier run left them; none if there was none.
    pub(super) fn load(file: PathBuf) -> Self {
        let ours = match read(&file) {
            Ok(ours) => ours,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "the file of targets cannot be read: old targets stay");
                BTreeSet::new()
            }
        };
        Self { file, ours }
    }

    /// Whether an earlier run left the file.
    pub(super) fn is_kept(file: &Path) -> bool {
        read(file).is_ok()
    }

    /// Says what is ours, for the router to read when it starts.
    pub(super) fn keep(&mut self, ours: BTreeSet<Target>) -> Result<(), KubernetesError> {
        if ours != self.ours || !self.file.exists() {
            let failed = |source| KubernetesError::File { path: self.file.clone(), source };
            write(&self.file, &ours).map_err(failed)?;
            self.ours = ours;
        }
        Ok(())
    }

    /// Has the router look for all that are wanted, and no more for those of ours that are not.
    pub(super) async fn give(&mut self, router: &Router, wanted: &BTreeSet<Target>) -> Result<(), GiveError> {
        let present: Vec<TargetStatus> = router.get("/status/targets?format=json").await?;
        let present: BTreeSet<Target> = present.into_iter().map(|line| line.target).collect();
        let missing: Vec<Target> = wanted.difference(&present).cloned().collect();
        let surplus: Vec<Target> = self.ours.difference(wanted).filter(|t| present.contains(*t)).cloned().collect();

        self.keep(self.ours.iter().chain(&missing).cloned().collect())?;
        for targets in missing.chunks(BATCH) {
            router.tell("/connect", ConnectRequest { targets: targets.to_vec(), replace: false }).await?;
        }
        for targets in surplus.chunks(BATCH) {
            router.tell("/forget", ForgetRequest { targets: targets.to_vec() }).await?;
        }
        self.keep(self.ours.intersection(wanted).cloned().collect())?;
        for target in missing {
            tracing::info!(%target, "a node to connect to");
        }
        for target in surplus {
            tracing::info!(%target, "a node that is no more");
        }
        Ok(())
    }
}

/// Why targets were not given.
#[derive(Debug, thiserror::Error)]
pub(super) enum GiveError {
    /// The router did not take them.
    #[error(transparent)]
    Router(#[from] ClientError),
    /// They could not be written down.
    #[error("{}", with_causes(.0))]
    File(#[from] KubernetesError),
}

#[derive(Deserialize)]
struct File {
    peers: BTreeSet<Target>,
}

fn read(path: &Path) -> io::Result<BTreeSet<Target>> {
    use io::Read;
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
    let file: File = toml::from_str(&text).map_err(|error| io::Error::other(error.message().to_owned()))?;
    Ok(file.peers)
}

/// Replaces the file as a whole: the router may read it at any time.
fn write(path: &Path, targets: &BTreeSet<Target>) -> io::Result<()> {
    use std::fmt::Write;
    let mut text = "# Written by `weft kubernetes`: the other nodes of the cluster.\npeers = [\n".to_owned();
    for target in targets {
        // A host name, an address, a port: nothing in there needs escaping.
        let _ = writeln!(text, "  \"{target}\",");
    }
    text.push_str("]\n");
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(targets: &[&str]) -> BTreeSet<Target> {
        targets.iter().map(|target| target.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("peers.toml");
        assert!(!Targets::is_kept(&path));
        let mut targets = Targets::load(path.clone());
        for ours in [set(&[]), set(&["10.0.0.1", "fd00::1", "host-2:7000"])] {
            targets.keep(ours.clone()).unwrap();
            assert!(Targets::is_kept(&path));
            assert_eq!(Targets::load(path.clone()).ours, ours);
        }
        fs::write(&path, "peers = [\"not a host\"]").unwrap();
        assert!(!Targets::is_kept(&path));
        assert_eq!(Targets::load(path).ours, set(&[]));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let mut targets = Targets::load("/proc/weft/peers.toml".into());
        let error = with_causes(&targets.keep(set(&["10.0.0.1"])).unwrap_err());
        assert!(error.starts_with("cannot write /proc/weft/peers.toml: "), "{error}");
        assert_eq!(targets.ours, set(&[]));
    }
}
