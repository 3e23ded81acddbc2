//! The host's resolvers, as resolv.conf(5) lists them.

use std::{
    fs::{self, File},
    io::Read,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::PORT;

/// Servers that are used, of more that are listed; the C library uses three.
const SERVERS_MAX: usize = 8;
/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 64 << 10;
/// How often the file is looked at, if anybody asks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The file, and what it said when it changed last.
#[derive(Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
    stamp: Option<Stamp>,
    looked: Option<Instant>,
    servers: Vec<IpAddr>,
}

/// What changes when a file does, whether it is written to or replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    inode: (u64, u64),
    modified: (i64, i64),
    len: u64,
}

impl ResolvConf {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, stamp: None, looked: None, servers: Vec::new() }
    }

    /// The servers, in order; reads the file anew if it has changed.
    pub(super) fn servers(&mut self) -> Vec<SocketAddr> {
        let now = Instant::now();
        if self.looked.is_none_or(|looked| now - looked >= LOOK_EVERY) {
            let is_first = self.looked.replace(now).is_none();
            self.look(is_first);
        }
        self.servers.iter().map(|server| SocketAddr::new(*server, PORT)).collect()
    }

    fn look(&mut self, is_first: bool) {
        let stamp = stamp(&self.path);
        if stamp == self.stamp && !is_first {
            return;
        }
        self.stamp = stamp;
        match read(&self.path) {
            Ok(text) => self.servers = parse(&text),
            Err(error) => {
                warn!(path = %self.path.display(), %error, "the host's resolvers are not known: names beyond the network fail");
                self.servers.clear();
            }
        }
        info!(servers = ?self.servers, "names beyond the network are asked of the host's resolvers");
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    let inode = (meta.dev(), meta.ino());
    Some(Stamp { inode, modified: (meta.mtime(), meta.mtime_nsec()), len: meta.len() })
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The addresses behind `nameserver`, each once. Addresses that need an interface (`fe80::1%eth0`) are left out.
fn parse(text: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(server) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        if !servers.contains(&server) && servers.len() < SERVERS_MAX {
            servers.push(server);
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_all_else_is_passed_over() {
        let text = "# nameserver 1.1.1.1\nsearch example.com\nnameserver 192.0.2.1 # first\n\tnameserver\tfd00::53\n\
                    nameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver\nnameserver x\noptions ndots:2";
        assert_eq!(parse(text), ["192.0.2.1".parse::<IpAddr>().unwrap(), "fd00::53".parse().unwrap()]);
        let many: String = (0..100).map(|i| format!("nameserver 10.0.0.{i}\n")).collect();
        assert_eq!(parse(&many).len(), SERVERS_MAX);
    }

    #[test]
    fn any_text_is_read() {
        bolero::check!().for_each(|bytes: &[u8]| assert!(parse(&String::from_utf8_lossy(bytes)).len() <= SERVERS_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_file_is_followed_whether_written_or_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("resolv.conf");
        let mut conf = ResolvConf::new(path.clone());
        let mut servers = || {
            let now = conf.servers();
            now.into_iter().map(|server| server.ip().to_string()).collect::<Vec<_>>()
        };
        assert!(servers().is_empty(), "there is no file");
        fs::write(&path, "nameserver 192.0.2.1").unwrap();
        assert!(servers().is_empty(), "it was looked at just now");
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(servers(), ["192.0.2.1"]);
        fs::write(scratch.path().join("new"), "nameserver 192.0.2.2").unwrap();
        fs::rename(scratch.path().join("new"), &path).unwrap();
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(servers(), ["192.0.2.2"]);
        fs::remove_file(&path).unwrap();
        tokio::time::advance(LOOK_EVERY).await;
        assert!(servers().is_empty());
    }
}
