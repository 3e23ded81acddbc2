use clap::Parser;

use super::*;
use crate::cli::{Cli, Verb};

#[test]
fn without_options_there_are_defaults() {
    let settings = settle("", None, &[]).unwrap();
    let config = settings.config();
    assert_eq!((config.port, config.conn_limit, config.mtu), (6783, 200, None));
    assert_eq!(config.http_addr, Some("127.0.0.1:6784".parse().unwrap()));
    assert_eq!((config.network.as_str(), config.discovery, config.resume), ("weft", true, false));
    assert_eq!(settings.log_level, LogLevel::Info);
    assert!(settings.password.is_none());
    assert!(!config.nickname.as_str().is_empty());
}

#[test]
fn a_flag_comes_before_the_file() {
    let file =
        "port = 7000\nnetwork = 'file'\nlog_level = 'debug'\nconn-limit = 5\nno-discovery = true\npeers = ['a', 'b:1']";
    let settings = settle(file, None, &["--port", "8000", "--log-level", "warn"]).unwrap();
    let config = settings.config();
    assert_eq!((config.port, config.network.as_str(), config.conn_limit), (8000, "file", 5));
    assert_eq!(settings.log_level, LogLevel::Warning);
    assert!(!config.discovery);
    assert_eq!(config.targets, ["a".parse().unwrap(), "b:1".parse().unwrap()]);
    assert_eq!(settle(file, None, &["c"]).unwrap().config().targets, ["c".parse().unwrap()]);
}

#[test]
fn every_key_of_the_file_is_understood() {
    let file = "
        password_file = '/etc/weft/secret'
        allow_weak_password = true
        trusted_subnets = ['10.0.0.0/8', 'fd00::/8']
        port = 7000
        host = '10.0.0.1'
        network = 'blue'
        nickname = 'one'
        conn_limit = 0
        no_discovery = true
        resume = true
        mtu = 1400
        fastdp = 'off'
        docker_plugin = '/plugins'
        docker_scope = 'global'
        http_addr = 'off'
        log_level = 'error'
        log_format = 'json'
        record = '/tmp/record'
        data_dir = '/d'
        run_dir = '/r'
    ";
    let settings = settle(file, None, &[]).unwrap();
    let kebab: String =
        file.lines().map(|line| line.replacen('_', "-", line.find('=').map_or(0, |_| 2)) + "\n").collect();
    let again = settle(&kebab, None, &[]).unwrap();
    assert_eq!(format!("{:?}", settings.config()), format!("{:?}", again.config()));
    let config = settings.config();
    assert_eq!((config.http_addr, config.mtu, config.resume), (None, Some(1400), true));
    assert_eq!((config.data_dir.to_str(), config.run_dir.to_str()), (Some("/d"), Some("/r")));
    assert_eq!(config.trusted_subnets.len(), 2);
    assert_eq!((settings.log_level, settings.log_format), (LogLevel::Error, LogFormat::Json));
    assert_eq!(settings.password, Some(Source::File("/etc/weft/secret".into())));
}

#[test]
fn the_password_comes_from_flag_then_environment_then_file() {
    let file = "password = 'from file'";
    let password = |env: Option<&str>, flags: &[&str]| settle(file, env, flags).unwrap().password.unwrap();
    assert_eq!(password(None, &[]).read().unwrap().as_str(), "from file");
    assert_eq!(password(Some("from env"), &[]).read().unwrap().as_str(), "from env");
    assert_eq!(password(Some("from env"), &["--password", "from flag"]).read().unwrap().as_str(), "from flag");
    assert_eq!(password(Some("from env"), &["--password-file", "/x"]), Source::File("/x".into()));
    let empty = password(Some(""), &[]).read().unwrap_err().to_string();
    assert!(empty.starts_with("WEFT_PASSWORD is empty"), "{empty}");
}

#[test]
fn contradictions_are_refused() {
    assert!(Cli::try_parse_from(["weft", "router", "--password", "x", "--password-file", "y"]).is_err());
    assert!(Cli::try_parse_from(["weft", "router", "--resume", "peer"]).is_err());
    let error = |file: &str, flags: &[&str]| format!("{:#}", settle(file, None, flags).err().unwrap());
    assert!(error("password = 'a'\npassword_file = 'b'", &[]).contains("both `password` and `password_file`"));
    assert!(error("resume = true\npeers = ['a']", &[]).contains("both `resume` and `peers`"));
    // What the command line says of targets replaces what the file says.
    assert!(!settle("resume = true", None, &["a"]).unwrap().config().resume);
    assert!(settle("peers = ['a']", None, &["--resume"]).unwrap().config().targets.is_empty());
}

#[test]
fn a_bad_file_names_line_and_key_but_shows_no_secret() {
    let error = |file: &str| format!("{:#}", parse(file).err().unwrap());
    let unknown = error("port = 1\ncolour = 'red'");
    assert!(unknown.starts_with("line 2: unknown field `colour`, expected one of `password`"), "{unknown}");
    assert!(unknown.contains("`trusted_subnets`") && unknown.contains("`run_dir`"), "{unknown}");
    assert!(error("fastdp = 'fast'").contains("give auto, vxlan, ovs or off"));
    assert!(error("mtu = 'large'").contains("nor `auto`"));
    assert!(error("http_addr = 'localhost'").contains("is not ADDRESS:PORT"));
    assert!(error("port = 0").contains("nonzero"));
    assert!(error("peers = ['a b']").contains("`a b` is not a peer"));
    assert!(error("conn_limit = 1\nconn-limit = 2").contains("duplicate field"));
    let secret = error("password = 'hunter2' x");
    assert!(secret.starts_with("line 1:") && !secret.contains("hunter2"), "{secret}");
}

#[test]
fn modes_of_the_fast_datapath_have_names() {
    for (flag, mode) in [("auto", Mode::Auto), ("vxlan", Mode::Vxlan), ("ovs", Mode::Ovs), ("off", Mode::Off)] {
        assert_eq!(settle("", None, &["--fastdp", flag]).unwrap().config().fastdp, mode);
        assert_eq!(mode.to_string(), flag);
    }
    let error = Cli::try_parse_from(["weft", "router", "--fastdp", "fast"]).err().unwrap().to_string();
    assert!(error.contains("`fast` is no mode of the fast datapath"), "{error}");
    assert!(Cli::try_parse_from(["weft", "router", "--esp-lanes", "9"]).is_err());
}

#[test]
fn the_mtu_follows_the_underlay_unless_given() {
    assert_eq!(settle("mtu = 1400", None, &["--mtu", "auto"]).unwrap().config().mtu, None);
    assert_eq!(settle("mtu = 'auto'", None, &["--mtu", "1280"]).unwrap().config().mtu, Some(1280));
    assert!(Cli::try_parse_from(["weft", "router", "--mtu", "70000"]).is_err());
}

#[test]
fn http_can_be_off() {
    for off in ["", "off"] {
        assert_eq!(settle("", None, &["--http-addr", off]).unwrap().config().http_addr, None);
    }
}

fn settle(file: &str, env_password: Option<&str>, flags: &[&str]) -> anyhow::Result<Settings> {
    let cli = Cli::parse_from(["weft", "router"].iter().chain(flags));
    let Verb::Router { flags, .. } = cli.verb else { panic!("not router") };
    Settings::new(*flags, &cli.globals, env_password.map(str::to_owned), parse(file)?)
}

#[test]
fn one_router_of_a_host_is_dockers() {
    let default = Path::new(DEFAULT_RUN_DIR);
    let at = |mode, run_dir, is_here| plugin_directory(mode, run_dir, is_here);
    assert_eq!(at(DockerPlugin::Auto, default, true), Some(docker::PLUGINS.into()));
    assert_eq!(at(DockerPlugin::Auto, default, false), None);
    assert_eq!(at(DockerPlugin::Auto, Path::new("/other"), true), None);
    assert_eq!(at(DockerPlugin::Off, default, true), None);
    let settings = settle("docker_plugin = '/p'", None, &["--docker-scope", "global", "--run-dir", "/r"]).unwrap();
    let told = settings.docker.unwrap();
    assert_eq!((told.plugins, told.router, told.scope), ("/p".into(), "/r/weft.sock".into(), Scope::Global));
    assert!(settle("", None, &["--docker-plugin", "off"]).unwrap().docker.is_none());
}
