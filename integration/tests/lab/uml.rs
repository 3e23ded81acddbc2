//! The guest is worth nothing unless it tells the truth: status, output, what it may write, and that nothing stays behind.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use weft_integration::{
    lab::wait::wait_until,
    uml::{self, Ended, Guest},
};

const LIMIT: Duration = Duration::from_secs(100);
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether guests can run here; says so if not.
fn guests_run() -> bool {
    let missing = uml::missing();
    if let Some(missing) = &missing {
        println!("SKIPPED: no User-Mode Linux here: {missing}");
    }
    missing.is_none()
}

fn run(guest: &Guest, command: &[&str]) -> (Ended, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = guest.run(command, &mut out, &mut err).unwrap();
    (ended, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn a_guest_tells_what_its_command_said_and_how_it_ended() {
    if !guests_run() {
        return;
    }
    let script = r#"
        printf '%s|' "$@"; echo "$PWD|$ODD|$WEFT_UML|$(id -u)"; echo aside >&2
        sh -c 'kill -9 $$'; echo $?; /no/such; echo $?
        ip netns add inside && ip -n inside link add type veth && echo links
        head -c 3000000 /dev/zero | tr '\0' x
        exit 7"#;
    let guest = Guest::new(LIMIT).env("ODD", " a\nb ");
    let (ended, out, err) = run(&guest, &["sh", "-c", script, "sh", "one two", "", "three\nfour"]);
    assert_eq!(ended, Ended::Status(7), "{out:.500} {err}");
    let own = std::env::current_dir().unwrap();
    let (told, many) = out.split_at(out.len().saturating_sub(3_000_000));
    assert_eq!(told, format!("one two||three\nfour|{}| a\nb |1|0\n137\n127\nlinks\n", own.display()));
    assert!(many.len() == 3_000_000 && many.bytes().all(|byte| byte == b'x'));
    assert!(err.starts_with("aside\n"), "{err}");
    assert!(!fs::exists("/run/netns/inside").unwrap(), "not on the host");
}

#[test]
fn a_guest_writes_only_where_it_may() {
    if !guests_run() {
        return;
    }
    let dir = std::env::temp_dir().join(format!("weft-uml-test{}", std::process::id()));
    fs::create_dir_all(dir.join("mine")).unwrap();
    fs::create_dir_all(dir.join("yours")).unwrap();
    let script = r#"echo 1 >"$0/mine/file" && echo 2 >"$0/yours/file" && cat "$0/mine/file" && kill -15 $$"#;
    let guest = Guest::new(LIMIT).writable(dir.join("yours"));
    let (ended, out, err) = run(&guest, &["bash", "-c", script, dir.to_str().unwrap()]);
    let written = (fs::exists(dir.join("mine/file")).unwrap(), fs::read_to_string(dir.join("yours/file")));
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!((ended, out.as_str()), (Ended::Status(143), "1\n"), "{err}");
    assert!(!written.0 && written.1.unwrap() == "2\n");
}

#[test]
fn guests_run_side_by_side_and_end_when_their_time_is_over() {
    if !guests_run() {
        return;
    }
    let slow = thread::spawn(|| run(&Guest::new(Duration::from_secs(20)), &["sh", "-c", "echo so far; sleep 100"]));
    let (ended, out, err) = run(&Guest::new(LIMIT), &["echo", "beside"]);
    assert_eq!((ended, out.as_str(), err.as_str()), (Ended::Status(0), "beside\n", ""));
    let (ended, out, _) = slow.join().unwrap();
    assert!(matches!(ended, Ended::TimedOut(_)), "{ended:?}");
    assert_eq!(out, "so far\n");
}

#[test]
fn a_guest_that_panics_is_told() {
    if !guests_run() {
        return;
    }
    let guest = owner(&["sh", "-c", "echo c >/proc/sysrq-trigger"]).spawn().unwrap();
    let pid = guest.id();
    let done = guest.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(125) && said.contains("anic"), "{} {said}", done.status);
    assert!(kernels(pid).is_empty(), "{:?}", kernels(pid));
}

#[test]
fn a_guest_goes_with_its_owner() {
    if !guests_run() {
        return;
    }
    let mut owner = sleeping().unwrap();
    let pid = owner.id();
    assert!(!kernels(pid).is_empty());
    owner.kill().unwrap();
    owner.wait().unwrap();
    // The kernel itself ends at once; what it traced may need the next guest's help.
    run(&Guest::new(LIMIT), &["true"]);
    wait_until("nothing of the kernel is left", PATIENCE, || Ok(kernels(pid).is_empty())).unwrap();
    let directory = std::env::temp_dir().join(format!("weft-uml{pid}-0"));
    assert!(!directory.exists(), "the next guest removes what was left");
}

/// The program `uml`, which owns its guest.
fn owner(command: &[&str]) -> Command {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_uml"));
    owner.args(["--limit", "100"]).args(command).stdout(Stdio::piped()).stderr(Stdio::piped());
    owner
}

/// One whose guest sleeps.
fn sleeping() -> Result<Child> {
    let mut owner = owner(&["sh", "-c", "echo ready; sleep 100"]).spawn()?;
    let mut line = String::new();
    BufReader::new(owner.stdout.take().context("its output")?).read_line(&mut line)?;
    anyhow::ensure!(line == "ready\n", "{line}");
    Ok(owner)
}

/// Processes that run for the guests of a process.
fn kernels(owner: u32) -> Vec<String> {
    let name = format!("weft-uml{owner}-");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).filter(|line| line.contains(&name)).collect()
}
