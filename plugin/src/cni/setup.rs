//! Puts the plugins where runtimes look for them, and a configuration beside.
//!
//! Runtimes may call at any moment: each file appears under its name whole. What is there already and right is left alone, and so is a
//! configuration that somebody wrote.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::Program;

/// Where runtimes look for plugins.
pub const BIN_DIR: &str = "/opt/cni/bin";
/// Where runtimes look for configurations.
pub const CONF_DIR: &str = "/etc/cni/net.d";
/// Our configuration; runtimes that take one take the first by name.
const CONF_NAME: &str = "10-weft.conflist";
/// Version 1.0.0, which is what plugins of others in the chain speak that are older than 2023.
const CONF: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "weft",
  "plugins": [
    {
      "type": "weft-net",
      "capabilities": { "ips": true, "mac": true }
    },
    {
      "type": "portmap",
      "capabilities": { "portMappings": true },
      "snat": true
    }
  ]
}
"#;

/// A file cannot be put in place.
#[derive(Debug, Error)]
#[error("cannot install {}: {source}", path.display())]
pub struct SetupError {
    path: PathBuf,
    source: io::Error,
}

/// What became of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Installed {
    /// It is there now.
    New(PathBuf),
    /// It was there already, the same.
    Same(PathBuf),
    /// Another one is there, which was left alone.
    Kept(PathBuf),
}

/// Installs `program`, this one, as both plugins in `bin_dir`, and the configuration in `conf_dir`.
///
/// # Errors
/// What the system says, and of which file.
pub fn install(program: &Path, bin_dir: &Path, conf_dir: &Path) -> Result<Vec<Installed>, SetupError> {
    let mut done = Vec::new();
    let net = bin_dir.join(Program::Network.name());
    done.push(put(&net, |path| is_same(program, path), |unready| copy(program, unready))?);
    let ipam = bin_dir.join(Program::Addresses.name());
    // One file under two names, where the file system can.
    let link = |unready: &Path| fs::hard_link(&net, unready).or_else(|_| copy(&net, unready));
    done.push(put(&ipam, |path| is_same(&net, path), link)?);
    let conf = conf_dir.join(CONF_NAME);
    done.push(match fs::read(&conf) {
        Ok(text) if text != CONF.as_bytes() => Installed::Kept(conf),
        Ok(_) => Installed::Same(conf),
        // Unreadable or not there: trying to write it tells.
        Err(_) => put(&conf, |_| Ok(false), |unready| fs::write(unready, CONF))?,
    });
    Ok(done)
}

/// Makes a file under another name and moves it in place, unless it is right already.
fn put(
    path: &Path,
    is_right: impl Fn(&Path) -> io::Result<bool>,
    make: impl Fn(&Path) -> io::Result<()>,
) -> Result<Installed, SetupError> {
    let failed = |source| SetupError { path: path.to_owned(), source };
    if is_right(path).unwrap_or(false) {
        return Ok(Installed::Same(path.to_owned()));
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut unready = path.as_os_str().to_owned();
    unready.push(".tmp");
    let unready = Path::new(&unready);
    // Of an installation that was broken off.
    let _ = fs::remove_file(unready);
    let made = make(unready).and_then(|()| File::open(unready)?.sync_all()).and_then(|()| fs::rename(unready, path));
    if made.is_err() {
        let _ = fs::remove_file(unready);
    }
    made.map(|()| Installed::New(path.to_owned())).map_err(failed)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut bytes, mut other_bytes) = (Vec::new(), Vec::new());
    loop {
        bytes.clear();
        other_bytes.clear();
        one.by_ref().take(1 << 20).read_to_end(&mut bytes)?;
        other.by_ref().take(1 << 20).read_to_end(&mut other_bytes)?;
        if bytes != other_bytes {
            return Ok(false);
        }
        if bytes.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    struct Scratch {
        dir: tempfile::TempDir,
        program: PathBuf,
        bin: PathBuf,
        conf: PathBuf,
    }

    impl Scratch {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let program = dir.path().join("weft");
            fs::write(&program, "the program").unwrap();
            let (bin, conf) = (dir.path().join("opt/cni/bin"), dir.path().join("etc/cni/net.d"));
            Self { dir, program, bin, conf }
        }

        fn install(&self) -> Result<Vec<Installed>, SetupError> {
            install(&self.program, &self.bin, &self.conf)
        }
    }

    #[test]
    fn it_is_installed_once_and_replaced_when_it_changes() {
        let scratch = Scratch::new();
        let paths = [scratch.bin.join("weft-net"), scratch.bin.join("weft-ipam"), scratch.conf.join(CONF_NAME)];
        assert_eq!(scratch.install().unwrap(), paths.clone().map(Installed::New));
        assert_eq!(scratch.install().unwrap(), paths.clone().map(Installed::Same));
        let before = fs::metadata(&paths[0]).unwrap();
        assert_eq!((before.permissions().mode() & 0o777, before.nlink()), (0o755, 2));
        fs::write(&scratch.program, "the next program").unwrap();
        let done = scratch.install().unwrap();
        assert_eq!(done[..2], [Installed::New(paths[0].clone()), Installed::New(paths[1].clone())]);
        assert_eq!(fs::read(&paths[1]).unwrap(), b"the next program");
        assert_ne!(fs::metadata(&paths[0]).unwrap().ino(), before.ino(), "one that runs is not written to");
        assert_eq!(fs::read_dir(&scratch.bin).unwrap().count(), 2, "nothing unready is left");
    }

    #[test]
    fn a_configuration_of_somebody_else_is_kept() {
        let scratch = Scratch::new();
        fs::create_dir_all(&scratch.conf).unwrap();
        let path = scratch.conf.join(CONF_NAME);
        fs::write(&path, "mine").unwrap();
        assert_eq!(scratch.install().unwrap()[2], Installed::Kept(path.clone()));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        serde_json::from_str::<serde_json::Value>(CONF).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.dir.path().join("opt")).unwrap();
        fs::write(scratch.dir.path().join("opt/cni"), "no directory").unwrap();
        let error = scratch.install().unwrap_err().to_string();
        assert!(error.contains("weft-net"), "{error}");
    }
}
