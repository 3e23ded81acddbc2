//! `weft sim` as a person meets it.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn sim(words: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.arg("sim").args(words).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn prints(words: &[&str], input: &str) -> String {
    let output = sim(words, input);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The words of a table, whatever its columns are like.
fn squeezed(text: &str) -> String {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
    text.lines().map(line).collect()
}

fn fails(words: &[&str], input: &str) -> (i32, String) {
    let output = sim(words, input);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_few_numbers_are_enough_and_give_the_same_each_time() {
    let words = ["--peers", "5", "--seed", "7", "--loss", "1%", "--for", "10s"];
    let text = prints(&words, "");
    assert!(text.contains("Peers: 5\n") && text.contains("Seed: 7\n"), "{text}");
    assert!(squeezed(&text).contains("\n0.0 s start after "), "{text}");
    assert_eq!(text, prints(&words, ""));
    let json: Value = serde_json::from_str(&prints(&[&words[..], &["--json"]].concat(), "")).unwrap();
    assert_eq!((&json["peers"], &json["seed"], &json["simulated_s"]), (&5.into(), &7.into(), &10.0.into()));
    assert_eq!(json["phases"][0]["pairs_without_path"], 0);
    assert!(json["phases"][0]["bytes_per_second"]["mean"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_example_runs_as_it_is_printed_and_is_as_it_expects() {
    let example = prints(&["--example"], "");
    let text = prints(&["-"], &example);
    assert!(text.contains("cut berlin–paris") && !text.contains("NOT AS EXPECTED"), "{text}");
}

#[test]
fn what_is_not_as_expected_is_printed_and_ends_with_1() {
    let output = sim(&["-", "--peers", "3", "--for", "5s"], "[expect]\nsettled = \"1us\"\nconnections = 2\n");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "error: not as expected: settled\n");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(squeezed(&text).contains("\nconnections 2 2 as expected\n"), "{text}");
    assert!(text.contains("NOT AS EXPECTED\n"), "{text}");
}

#[test]
fn what_is_wrong_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mesh.toml");
    fs::write(&file, "peers = 3\n[[event]]\nat = \"5s\"\ncut = [\"peer1\", \"peer9\"]\n").unwrap();
    let file = file.to_str().unwrap();
    let message = "line 2: no peer is called `peer9`: there are peer1, peer2, peer3\n";
    assert_eq!(fails(&[file], ""), (1, format!("error: cannot use {file}: {message}")));
    let (status, error) = fails(&["/none.toml"], "");
    assert!(status == 1 && error.starts_with("error: cannot read /none.toml: No such file"), "{error}");
    let (status, error) = fails(&["--for", "5s"], "");
    assert_eq!((status, error.as_str()), (1, "error: 0 peers: it takes 2 to 5000, by `peers` or --peers\n"));
    let (status, error) = fails(&["--from-report", "-"], "{}");
    assert_eq!(status, 1);
    assert!(error.contains("cannot use -, given by --from-report: it is not what `weft report` prints"), "{error}");
    for words in [&[][..], &["--peers", "1"], &["--peers", "3", "--loss", "2"], &["--peers", "3", "--for", "60"]] {
        assert_eq!(fails(words, "").0, 2, "{words:?}");
    }
}

/// `report.json` is what one of three real routers printed, of which a and c had a firewall for UDP between them.
#[test]
fn a_real_report_becomes_a_network() {
    let report = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report.json");
    let words = ["--from-report", report.to_str().unwrap(), "-", "--for", "30s", "--json"];
    let json: Value = serde_json::from_str(&prints(&words, "[[event]]\nat = \"15s\"\ncrash = [\"b\"]")).unwrap();
    let [start, crashed] = &json["phases"].as_array().unwrap()[..] else { panic!("{json:#}") };
    assert_eq!(
        (&json["peers"], &start["pairs_without_path"], &start["pairs_parted"]),
        (&3.into(), &0.into(), &0.into())
    );
    let worst = &start["stretch"]["worst"];
    let time = worst["time_ms"].as_f64().unwrap();
    assert!((0.1..2.0).contains(&time), "{json:#}");
    // Without b nothing gets from a to c.
    assert_eq!((&crashed["event"], &crashed["pairs_parted"]), (&"crash b".into(), &2.into()), "{json:#}");
}
