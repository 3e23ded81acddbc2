use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use super::*;

fn config() -> NodeConfig {
    NodeConfig {
        version: "0.0.0-test".to_owned(),
        identity: Identity::generate(&Entropy::seeded([3; 32])),
        secret: NetworkSecret::restored(Zeroizing::new([8; 32]), Zeroizing::new([9; 32]), false),
        network: NetworkName::default(),
        nickname: "host-1".parse().unwrap(),
        uid: Uid(42),
        port: 6783,
        conn_limit: 7,
        discovery: false,
        relay: false,
        trusted_subnets: vec!["10.0.0.0/8".parse().unwrap()],
        rekey_after: Duration::from_secs(7),
        targets: vec!["host-2:7000".parse().unwrap()],
        cipher: Cipher::ChaCha20Poly1305,
        started: 1_700_000_000,
        allocation: None,
    }
}

/// Drives a node and its recording through some inputs; the file, and the report at the end.
fn recorded(directory: &Path, limit: u64) -> (PathBuf, Report) {
    let path = directory.join("run.jsonl");
    let seed = [5; 32];
    let mut recorder = Recorder::begin_with_limit(&path, &config(), &seed, limit).unwrap();
    let mut node = Node::new(config(), Entropy::seeded(seed));
    let inputs = [
        Input::Timeout,
        Input::LocalAddresses(vec!["192.0.2.1".parse().unwrap()]),
        Input::Station { mac: "02:00:00:00:00:01".parse().unwrap(), addresses: Vec::new(), attached: true },
        Input::Connect { targets: vec!["host-3".parse().unwrap()], replace: false },
        Input::Carried { peers: vec![weft::id::PeerName([2; 6])] },
        Input::Timeout,
    ];
    let mut now = Time::ZERO;
    for input in inputs {
        now = now + Duration::from_millis(700);
        recorder.input(&input, now);
        node.handle(input, now);
        while node.poll_output().is_some() {}
    }
    let report = node.report(now);
    recorder.finish(report.clone(), now);
    (path, report)
}

#[test]
fn a_recorded_run_played_back_ends_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, report) = recorded(scratch.path(), FILE_MAX);
    let replayed = replay(&path).unwrap();
    assert_eq!(replayed.recorded.as_ref(), Some(&report));
    assert_eq!(replayed.node.report(replayed.now), report);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 8);
}

#[test]
fn only_the_owner_may_read_a_recording_even_over_an_older_file() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("run.jsonl"), "old").unwrap();
    let (path, _) = recorded(scratch.path(), FILE_MAX);
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_recording_that_is_full_ends_with_a_whole_line() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, _) = recorded(scratch.path(), 900);
    assert!(fs::metadata(&path).unwrap().len() <= 900);
    let replayed = replay(&path).unwrap();
    assert!(replayed.recorded.is_none());
}

#[test]
fn a_damaged_recording_is_refused_with_its_line() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, _) = recorded(scratch.path(), FILE_MAX);
    let text = fs::read_to_string(&path).unwrap();
    for (damaged, complaint) in [
        (text.replace("\"Timeout\"", "\"Timely\""), "line 2"),
        (text.replace("\"weft_record\":1", "\"weft_record\":9"), "format 9"),
        (String::new(), "empty"),
    ] {
        fs::write(&path, damaged).unwrap();
        let error = replay(&path).unwrap_err().to_string();
        assert!(error.contains(complaint), "{error}");
    }
    assert!(matches!(replay(&scratch.path().join("none")), Err(RecordError::File { .. })));
}
