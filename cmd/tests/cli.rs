//! The built binary as a person meets it: what it prints, where, and with which status.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

#[test]
fn without_a_router_each_verb_says_so() {
    let here = Here::new();
    let verbs: &[&[&str]] = &[
        &["status"],
        &["status", "peers", "--json"],
        &["report"],
        &["connect", "host-1"],
        &["forget", "host-1"],
        &["attach", "10.32.1.5/24", "c1"],
        &["detach", "c1"],
        &["ps"],
        &["expose", "10.32.1.1/24"],
        &["hide"],
        &["attach", "c1"],
        &["status", "ipam"],
        &["explain", "ip", "10.32.0.1"],
        &["explain", "host-1"],
        &["explain", "--json", "host 1"],
        &["rmpeer", "host-1"],
        &["prime", "--alone"],
    ];
    for verb in verbs {
        let socket = here.run().join("weft.sock");
        let message = format!(
            "error: Weft is not running here (no answer at {}). Start it with `weft launch`, or set --run-dir.\n",
            socket.display()
        );
        assert_eq!(here.fails(verb), (1, message), "{verb:?}");
    }
}

#[test]
fn stopping_nothing_is_well() {
    let here = Here::new();
    assert_eq!(here.prints(&["stop"]), "Weft is not running\n");
}

#[test]
fn usage_errors_end_with_2() {
    let here = Here::new();
    for words in [
        &["dance"][..],
        &["attach"],
        &["explain", "ip", "host"],
        &["explain"],
        &["rmpeer"],
        &["launch", "--port", "x"],
        &["status", "weather"],
        &["forget"],
    ] {
        assert_eq!(here.fails(words).0, 2, "{words:?}");
    }
}

#[test]
fn a_bad_address_is_explained() {
    let here = Here::new();
    for (cidr, message) in [
        ("10.32.1.5", "`10.32.1.5` lacks its prefix length: write it like 10.32.1.5/24"),
        ("10.32.1.5/33", "`10.32.1.5/33` has a bad prefix length: use 0 to 32"),
        ("10.32.1.500/24", "`10.32.1.500/24` does not begin with an IP address"),
        ("net:10.32.1.5/24", "`10.32.1.5/24` is an address, not a subnet: its subnet is net:10.32.1.0/24"),
        ("net:10.32.1.4/31", "`10.32.1.4/31` is too small to give out addresses of"),
    ] {
        for words in [&["attach", cidr, "c1"][..], &["detach", cidr, "c1"], &["expose", cidr], &["hide", cidr]] {
            let (status, error) = here.fails(words);
            assert_eq!(status, 1);
            assert!(error.contains(message), "{words:?}: {error}");
        }
    }
}

#[test]
fn a_bad_file_of_options_is_explained() {
    let here = Here::new();
    let file = here.dir.path().join("weft.toml");
    fs::write(&file, "port = 6783\ncolour = 1\n").unwrap();
    let file = file.to_str().unwrap();
    for verb in ["launch", "router", "status"] {
        let (status, error) = here.fails(&[verb, "--config", file]);
        assert_eq!(status, 1);
        assert!(error.contains("weft.toml, given by --config: line 2: unknown field `colour`, expected"), "{error}");
    }
    let (_, error) = here.fails(&["launch", "--config", "/none.toml"]);
    assert!(error.contains("cannot read /none.toml, given by --config: No such file"), "{error}");
}

#[test]
fn a_missing_password_file_is_named() {
    let here = Here::new();
    let (status, error) = here.fails(&["router", "--password-file", "/none"]);
    assert_eq!(status, 1);
    assert!(error.contains("cannot read the password file /none: No such file"), "{error}");
}

#[test]
fn a_weak_secret_is_refused_and_not_repeated() {
    let here = Here::new();
    for (words, env) in [(&["router", "--password", "hunter2"][..], None), (&["router"], Some("hunter2"))] {
        let mut command = here.command(words);
        if let Some(env) = env {
            command.env("WEFT_PASSWORD", env);
        }
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("cannot use the password given"), "{error}");
        assert!(error.contains("--allow-weak-password"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let mut command = here.command(&["router"]);
    let output = command.env("WEFT_PASSWORD", "").output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("WEFT_PASSWORD is empty"));
}

#[test]
fn a_secret_is_scrubbed_from_the_process_list() {
    for (words, env) in [
        (&["--password", "correct horse"][..], None),
        (&["--password=correct horse"], None),
        (&[], Some("correct horse")),
    ] {
        let here = Here::new();
        // It waits for its options to be written, which never are.
        let options = here.run().join("options");
        nix::unistd::mkfifo(&options, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut command = here.command(&["router", "--nickname", "x", "--config", options.to_str().unwrap()]);
        command.args(words).args(["host-1", "host-2"]);
        if let Some(env) = env {
            command.env("WEFT_PASSWORD", env);
        }
        let mut child = command.spawn().unwrap();
        let proc = Path::new("/proc").join(child.id().to_string());
        let deadline = Instant::now() + Duration::from_secs(10);
        let arguments = loop {
            let read = || fs::read_to_string(proc.join("cmdline")).unwrap();
            if read().contains("--password-file=-") || Instant::now() > deadline {
                // Again: a reading while the program was replaced may have begun with the old words.
                break read();
            }
        };
        let environment = fs::read(proc.join("environ")).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            arguments.contains("\0--nickname=x\0") && arguments.ends_with("\0--\0host-1\0host-2\0"),
            "{arguments:?}"
        );
        assert!(arguments.contains("--password-file=-") && !arguments.contains("horse"), "{arguments:?}");
        assert!(!String::from_utf8_lossy(&environment).contains("horse"));
    }
}

#[test]
fn a_readable_password_file_is_warned_of() {
    let here = Here::new();
    let file = here.dir.path().join("secret");
    fs::write(&file, "hunter2\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let words = ["router", "--password-file", file.to_str().unwrap()];
    assert!(here.fails(&words).1.contains("warning: others may read the secret in"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!here.fails(&words).1.contains("warning"));
}

#[test]
fn a_failed_launch_shows_why() {
    let here = Here::new();
    let (status, error) = here.fails(&["launch", "--password", "hunter2"]);
    assert_eq!(status, 1);
    assert!(error.starts_with("error: Weft did not start (exit status: 1). The end of "), "{error}");
    assert!(error.contains("weft.log:\n    error: cannot use the password given"), "{error}");
}

#[test]
fn new_secrets_are_strong_and_differ() {
    let here = Here::new();
    let (one, two) = (here.prints(&["secret"]), here.prints(&["secret"]));
    assert_ne!(one, two);
    assert!(one.trim().len() >= 43, "{one}");
}

#[test]
fn version_completions_and_manual_need_no_router() {
    let here = Here::new();
    assert_eq!(here.prints(&["version"]), concat!("weft ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(here.prints(&["completions", "bash"]).contains("_weft()"));
    assert!(here.prints(&["man"]).contains(".TH weft 1"));
    let pages = here.dir.path().join("pages");
    fs::create_dir(&pages).unwrap();
    here.prints(&["man", "--dir", pages.to_str().unwrap()]);
    assert!(pages.join("weft.1").exists() && pages.join("weft-attach.1").exists());
}

#[test]
fn answers_of_the_router_are_printed() {
    let attached = r#"{"addresses":["10.32.1.5/24","fd00::5/64"]}"#;
    let (request, output) = answered(&["attach", "10.32.1.5/24", "fd00::5/64", "c1"], 200, attached);
    assert_eq!(text(&output.stdout), "10.32.1.5 fd00::5\n");
    assert!(request.starts_with("POST /attach HTTP/1.0\r\n"), "{request}");
    assert!(
        request.ends_with(r#"{"container":"c1","addresses":["10.32.1.5/24","fd00::5/64"],"no_multicast_route":false}"#)
    );

    let list = r#"[{"container":"c1","mac":"0a:00:00:00:00:01","addresses":["10.32.1.5/24"]},
                   {"container":"c2","mac":"0a:00:00:00:00:02","addresses":[]}]"#;
    let (_, output) = answered(&["ps"], 200, list);
    assert_eq!(text(&output.stdout), "c1 0a:00:00:00:00:01 10.32.1.5/24\nc2 0a:00:00:00:00:02\n");
    let (_, output) = answered(&["ps", "c2"], 200, list);
    assert_eq!(text(&output.stdout), "c2 0a:00:00:00:00:02\n");

    let (request, output) = answered(&["connect", "--replace", "host-1", "[fd00::1]:7000"], 200, "{}");
    assert!(output.status.success());
    assert!(request.ends_with(r#"{"targets":["host-1","[fd00::1]:7000"],"replace":true}"#), "{request}");
}

#[test]
fn tables_have_no_colours_in_a_pipe_unless_forced() {
    let targets = r#"[{"target":"host-1","state":"connected","tries":0,"retry_ms":null,"info":""}]"#;
    let plain = "TARGET  STATE      TRIES  RETRY  INFO\nhost-1  connected      0      -\n";
    let (request, output) = answered(&["status", "targets"], 200, targets);
    assert!(request.starts_with("GET /status/targets?format=json "), "{request}");
    assert_eq!(text(&output.stdout), plain);

    let here = Here::new();
    let server = here.serve(200, targets);
    let output = here.command(&["status", "targets"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    server.join().unwrap();
    assert!(text(&output.stdout).contains("\x1b[32mconnected\x1b[0m"), "{}", text(&output.stdout));

    let (_, output) = answered(&["status", "targets", "--json"], 200, targets);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json[0]["state"], "connected");
}

#[test]
fn refusals_of_the_router_are_repeated() {
    let refusal = r#"{"error":"there is no network namespace `c9`"}"#;
    let (_, output) = answered(&["attach", "10.32.1.5/24", "c9"], 404, refusal);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "error: there is no network namespace `c9`\n");

    let (_, output) = answered(&["ps"], 200, "<html>");
    assert!(text(&output.stderr).contains("cannot read the answer to /ps: is the running router of another version?"));
}

#[test]
fn a_second_router_is_not_launched() {
    let (_, output) = answered(&["launch"], 200, "{}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "error: Weft is already running; you can stop it with `weft stop`\n");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let here = Here::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = here.command(&["man"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

/// Directories of a router that does not run.
#[test]
fn outside_a_cluster_there_is_nothing_to_run_beside() {
    let here = Here::new();
    let output = here.kubernetes(&["--node", "a"]).output().unwrap();
    let message = text(&output.stderr);
    assert!(message.starts_with("error: no access to a Kubernetes API server: neither"), "{message}");
    assert_eq!(output.status.code(), Some(1));
    let output = here.kubernetes(&[]).output().unwrap();
    assert!(text(&output.stderr).contains("--node <NAME>"), "{}", text(&output.stderr));
}

#[test]
fn beside_a_router_one_waits_for_the_api_server_until_told_to_stop() {
    let here = Here::new();
    let config = here.run().join("kubeconfig");
    let access = r#"{"apiVersion":"v1","kind":"Config","current-context":"c",
        "clusters":[{"name":"c","cluster":{"server":"http://127.0.0.1:1"}}],"users":[{"name":"u","user":{}}],
        "contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}"#;
    fs::write(&config, access).unwrap();
    for (words, complaint, status) in [
        (&["--node", "a"][..], "the nodes of the cluster cannot be watched", 0),
        (&["--node", "a", "--first-peers"][..], "the nodes of the cluster are not known yet", 1),
    ] {
        let mut child = here.kubernetes(words).env("KUBECONFIG", &config).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // It ends with the child, should it never say so. Libraries do not complain beside us.
        let mut ours =
            lines.by_ref().map(|line| line.unwrap()).inspect(|line| assert!(line.contains(" weft_"), "{line}"));
        let line = ours.find(|line| line.contains(complaint)).unwrap();
        assert!(line.contains("refused"), "{line}");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(status), "{words:?}");
        assert!(!here.run().join("data/kubernetes/peers.toml").exists());
    }
}

struct Here {
    dir: TempDir,
}

impl Here {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn run(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.args(words).env("WEFT_RUN_DIR", self.run()).env("WEFT_DATA_DIR", self.run().join("data"));
        for variable in ["WEFT_PASSWORD", "NO_COLOR", "CLICOLOR_FORCE"] {
            command.env_remove(variable);
        }
        command
    }

    /// `weft kubernetes` outside any cluster.
    fn kubernetes(&self, words: &[&str]) -> Command {
        let mut command = self.command(&[&["kubernetes"], words].concat());
        command.env("HOME", self.run());
        for variable in ["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "NODE_NAME"] {
            command.env_remove(variable);
        }
        command
    }

    fn prints(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout).to_owned()
    }

    /// Status and standard error of a command that must fail and print nothing.
    fn fails(&self, words: &[&str]) -> (i32, String) {
        let output = self.command(words).output().unwrap();
        assert_eq!(text(&output.stdout), "", "{words:?}");
        (output.status.code().unwrap(), text(&output.stderr).to_owned())
    }

    /// A router that gives one answer; the thread ends with the request that it got.
    fn serve(&self, status: u16, body: &'static str) -> thread::JoinHandle<String> {
        let listener = UnixListener::bind(self.run().join("weft.sock")).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let request = request_of(&mut stream);
            let length = body.len();
            write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
                .unwrap();
            request
        })
    }
}

fn answered(words: &[&str], status: u16, body: &'static str) -> (String, Output) {
    let here = Here::new();
    let server = here.serve(status, body);
    let output = here.command(words).output().unwrap();
    (server.join().unwrap(), output)
}

/// Reads one request whole, by its content-length.
fn request_of(stream: &mut impl Read) -> String {
    let mut request = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).unwrap();
        request.push_str(text(&buffer[..count]));
        let whole = request.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            body.len() >= length.map_or(0, |length| length.parse().unwrap())
        });
        if whole || count == 0 {
            return request;
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
