//! `make demo` and `make lab`: they do what they say, tell by their exit status, and leave nothing behind in any case.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weft_integration::lab::{command::Run, host::binary, sweep, wait::wait_until};

const PATIENCE: Duration = Duration::from_secs(10);

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.env("WEFT_BIN", binary().unwrap()).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// The lab of the process that works for `watcher`.
fn lab_of(watcher: &Child) -> String {
    let pid = watcher.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    format!("{}{}-0", sweep::OWNED, children.trim())
}

#[test]
fn the_demo_tells_its_story_and_leaves_nothing() {
    let mut child = demo().spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    wait_until("the demo has a lab", PATIENCE, || Ok(sweep::exists(&lab_of(&child)))).unwrap();
    let lab = lab_of(&child);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    assert!(text.contains("✓ All of it worked") && !text.contains('✗') && !text.contains('\u{1b}'), "{text}");
    // With ESP in the kernel it seals; without it the routers do, and status says why not the kernel.
    let sealed_by_kernel = text.contains("by the kernel (fastdp with ESP)");
    assert!(sealed_by_kernel != text.contains("not by fastdp: frames must be sealed"), "{text}");
    for seen in [
        "upgraded from sleeve to fastdp: after",
        "back to the sleeve: after",
        "fastdp again, once it has",
        "on C looks for web and pings it: 10.",
    ] {
        assert!(text.contains(seen), "{seen} in {text}");
    }
    assert!(!sweep::exists(&lab));
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut child = demo().spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Three hosts on one underlay")));
        let lab = lab_of(&child);
        assert!(sweep::exists(&lab));
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert!(lines.any(|line| line.contains("interrupted")));
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal as i32));
        assert!(!sweep::exists(&lab));
    }
}

#[test]
fn a_demo_that_fails_says_so_and_leaves_nothing() {
    let mut child = demo().env("WEFT_BIN", "/bin/false").spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{text}");
    assert!(text.contains('✗') && text.contains("It did not work"), "{text}");
    assert!(sweep::leftovers().is_ok());
}

#[test]
fn the_playground_stays_until_it_is_taken_down() {
    // A name that is swept if we are killed, and is not that of a lab in use.
    let name = format!("{}{}-99", sweep::OWNED, std::process::id());
    let demo = Run::new(env!("CARGO_BIN_EXE_demo")).env("WEFT_BIN", binary().unwrap()).env("WEFT_LAB_NAME", &name);
    let run = |word| demo.clone().args(["lab", word]);
    let text = run("up").checked().unwrap();
    let up_again = run("up").output().unwrap().refused().unwrap();
    let status = Run::new(sweep::directory(&name).join("A/weft")).args(["status", "connections"]).output();
    let ping = text.lines().find(|line| line.contains(" ping ")).unwrap().replace("ping", "ping -c 3 -W 1");
    let ping = Run::new("sh").args(["-c", ping.trim()]).checked();
    run("down").checked().unwrap();
    assert!(up_again.contains("make lab-down"), "{up_again}");
    status.unwrap().checked().unwrap();
    assert!(ping.unwrap().contains(" 0% packet loss"));
    assert!(!sweep::exists(&name));
}
