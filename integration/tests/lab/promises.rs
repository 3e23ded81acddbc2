//! The forms that outside programs rely on: the keys of `--json`, the read-only HTTP API, exit codes, the scrubbed secret.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_integration::lab::{host::Host, mesh::Mesh, trial::trial};

#[test]
fn the_keys_of_json_are_as_promised() {
    trial(|lab| {
        let mesh = Mesh::settled(lab, ["A", "B"], false)?;
        let a = &mesh.hosts[0];
        let connections =
            ["direction", "address", "state", "encrypted", "method", "name", "nickname", "mtu", "rtt_us", "info"];
        keys_are(a, "connections", &connections)?;
        keys_are(a, "peers", &["name", "nickname", "addresses", "connections"])?;
        let paths = [
            "name", "nickname", "path", "relays", "further", "method", "rtt_us", "loss", "losses", "mtu", "since",
            "reason",
        ];
        keys_are(a, "paths", &paths)?;
        let connection = a.expect_established("B")?;
        ensure!(connection.encrypted && ["sleeve", "fastdp"].contains(&connection.method.as_str()), "{connection:?}");
        ensure!(connection.name == Some(mesh.hosts[1].report()?.router.name), "{connection:?}");
        Ok(())
    });
}

fn keys_are(host: &Host, what: &str, promised: &[&str]) -> Result<()> {
    let list: Vec<serde_json::Map<String, Value>> = host.json(&["status", what])?;
    let promised: BTreeSet<_> = promised.iter().copied().collect();
    ensure!(!list.is_empty(), "{what} is empty");
    for item in &list {
        let keys: BTreeSet<_> = item.keys().map(String::as_str).collect();
        ensure!(keys == promised, "{what}: {item:?}");
    }
    Ok(())
}

#[test]
fn http_on_loopback_reads_and_never_writes() {
    trial(|lab| {
        let host = lab.host("A")?;
        host.launch::<&str>(&[])?;
        for path in ["/status", "/status/peers?format=json", "/report", "/metrics", "/health", "/ready"] {
            let answer = http(&host, "GET", path)?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        }
        ensure!(http(&host, "GET", "/metrics")?.contains("# TYPE weft_"), "{}", http(&host, "GET", "/metrics")?);
        for path in ["/connect", "/forget", "/attach", "/detach", "/expose", "/hide", "/stop", "/reset"] {
            let answer = http(&host, "POST", path)?;
            ensure!(answer.starts_with("HTTP/1.1 404") || answer.starts_with("HTTP/1.1 405"), "{path}: {answer}");
        }
        let socket = fs::metadata(host.run_dir().join("weft.sock"))?;
        ensure!(std::os::unix::fs::PermissionsExt::mode(&socket.permissions()) & 0o777 == 0o600);
        let text = host.weft(&["status"])?.checked()?;
        ensure!(text.contains(&host.report()?.router.name.to_string()), "{text}");
        Ok(())
    });
}

fn http(host: &Host, method: &'static str, path: &'static str) -> Result<String> {
    host.namespace().within(move || {
        let mut stream = TcpStream::connect("127.0.0.1:6784")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        write!(stream, "{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("{method} {path}"))?;
        Ok(answer)
    })
}

#[test]
fn a_secret_on_the_command_line_is_scrubbed() {
    trial(|lab| {
        let host = lab.host("A")?;
        let secret = host.weft(&["secret"])?.checked()?.trim().to_owned();
        ensure!(secret.len() >= 43, "256 bits take 43 characters at least: {secret}");
        host.launch(&["--password", &secret])?;
        ensure!(host.report()?.router.encryption);
        for pid in host.namespace().processes() {
            for file in ["cmdline", "environ"] {
                let content = fs::read(format!("/proc/{pid}/{file}"))?;
                ensure!(!String::from_utf8_lossy(&content).contains(&secret), "{file} of {pid} shows the secret");
            }
        }
        ensure!(!host.log().contains(&secret));
        Ok(())
    });
}

#[test]
fn weak_and_empty_secrets_are_refused() {
    trial(|lab| {
        let host = lab.host("A")?;
        for (weak, word) in [("", "empty"), ("hello", "weak")] {
            let said = host.try_launch(&["--password", weak])?.refused()?;
            ensure!(said.contains(word), "{said}");
        }
        host.launch(&["--password", "hello", "--allow-weak-password"])
    });
}

#[test]
fn a_router_in_the_foreground_is_the_same_router() {
    trial(|lab| {
        let host = lab.host("A")?;
        host.router::<&str>(&[])?;
        let name = host.report()?.router.name;
        host.stop()?;
        host.launch::<&str>(&[])?;
        ensure!(host.report()?.router.name == name);
        Ok(())
    });
}

#[test]
fn a_spoilt_store_is_set_aside_and_the_router_starts() {
    trial(|lab| {
        let host = lab.host("A")?;
        host.launch::<&str>(&[])?;
        let name = host.report()?.router.name;
        host.stop()?;
        fs::write(host.data_dir().join("weft.redb"), "this is no database")?;
        host.relaunch()?;
        ensure!(host.report()?.router.name != name, "a new identity");
        let files = fs::read_dir(host.data_dir())?.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
        ensure!(files.len() >= 2, "the old file is still there: {files:?}");
        ensure!(host.log().contains("aside"), "{}", host.log());
        Ok(())
    });
}
