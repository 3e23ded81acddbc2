//! The one table of the packet filter that is ours, `inet NAME` with the bridge's name: rendered whole from what is wanted, and put in
//! place by one `nft -f -`, which is atomic. No other table is read or touched.
//!
//! For each subnet that is exposed with masquerade: what leaves it for elsewhere takes this host's address on the way out, and what
//! comes to it from elsewhere takes this host's address on the bridge, because the stations there have no route back (as Weave Net).

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{ErrorKind, Read, Write as _},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::error::HostError;

const PROGRAM: &str = "nft";
/// Where it may be, if our own environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long it may take: it waits for the kernel's lock only.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look whether it is done.
const LOOK: Duration = Duration::from_millis(2);
/// Most bytes of its words that we repeat.
const WORDS_MAX: u64 = 400;

/// The whole script for a bridge and the addresses that are exposed on it with masquerade; without any it removes the table.
pub(crate) fn script(bridge: &str, masqueraded: &[IpNet]) -> String {
    // Made before it is deleted, so that deleting never fails.
    let mut text = format!("table inet {bridge}\ndelete table inet {bridge}\n");
    let subnets: BTreeSet<IpNet> = masqueraded.iter().map(IpNet::trunc).collect();
    if subnets.is_empty() {
        return text;
    }
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "table inet {bridge} {{\n\tchain postrouting {{\n\t\ttype nat hook postrouting priority 100; policy accept;\n"
    );
    for net in subnets {
        let (ip, multicast) = match net {
            IpNet::V4(_) => ("ip", "224.0.0.0/4"),
            IpNet::V6(_) => ("ip6", "ff00::/8"),
        };
        let _ = write!(
            text,
            "\t\t{ip} saddr {net} {ip} daddr {multicast} return\n\
             \t\toifname != \"{bridge}\" {ip} saddr {net} {ip} daddr != {net} masquerade\n\
             \t\toifname \"{bridge}\" {ip} saddr != {net} {ip} daddr {net} masquerade\n"
        );
    }
    text.push_str("\t}\n}\n");
    text
}

/// Runs a script in the calling thread's namespace.
pub(crate) fn apply(doing: &'static str, script: &str) -> Result<(), HostError> {
    run(PROGRAM, doing, script)
}

fn run(program: &str, doing: &'static str, script: &str) -> Result<(), HostError> {
    let failed = |message: String| HostError::Nft { doing, message };
    // Our environment may hold the password of the network.
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .env_clear()
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(
            |error| if error.kind() == ErrorKind::NotFound { HostError::NftMissing } else { failed(error.to_string()) },
        )?;
    // A script is far smaller than a pipe holds, so this cannot wait. If nft ends early, its own words say more than EPIPE.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(script.as_bytes()));
    let success = wait(&mut child).map_err(|error| failed(error.to_string()))?;
    match (success, written) {
        (Some(true), Some(Ok(()))) => Ok(()),
        (None, _) => Err(failed(format!("no end within {} s", PATIENCE.as_secs()))),
        (Some(_), _) => Err(failed(words(&mut child))),
    }
}

/// Whether it succeeded; none if it had to be ended.
fn wait(child: &mut Child) -> std::io::Result<Option<bool>> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        std::thread::sleep(LOOK);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

fn words(child: &mut Child) -> String {
    let mut bytes = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What could be read is enough.
        let _ = stderr.take(WORDS_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn rules_are_rendered_whole() {
        let text = script("weft", &nets(&["10.2.0.254/24", "10.2.0.253/24", "fd00:2::1/64"]));
        let expected = "\
table inet weft
delete table inet weft
table inet weft {
\tchain postrouting {
\t\ttype nat hook postrouting priority 100; policy accept;
\t\tip saddr 10.2.0.0/24 ip daddr 224.0.0.0/4 return
\t\toifname != \"weft\" ip saddr 10.2.0.0/24 ip daddr != 10.2.0.0/24 masquerade
\t\toifname \"weft\" ip saddr != 10.2.0.0/24 ip daddr 10.2.0.0/24 masquerade
\t\tip6 saddr fd00:2::/64 ip6 daddr ff00::/8 return
\t\toifname != \"weft\" ip6 saddr fd00:2::/64 ip6 daddr != fd00:2::/64 masquerade
\t\toifname \"weft\" ip6 saddr != fd00:2::/64 ip6 daddr fd00:2::/64 masquerade
\t}
}
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_missing_program_and_its_refusal_are_told_apart() {
        assert_eq!(run("weft-no-such-nft", "do it", ""), Err(HostError::NftMissing));
        let error = run(PROGRAM, "read nonsense", "nonsense").unwrap_err();
        assert!(error.to_string().starts_with("nft cannot read nonsense: /dev/stdin:1:"), "{error}");
    }

    #[test]
    fn with_nothing_to_masquerade_the_table_vanishes() {
        assert_eq!(script("weft", &[]), "table inet weft\ndelete table inet weft\n");
    }
}
