use clap::Parser;
use weft::ipam::Init;

use super::*;
use crate::cli::{Cli, Verb};

#[test]
fn without_options_there_are_defaults() {
    let settings = settle("", None, &[]).unwrap();
    let config = settings.config();
    assert_eq!((config.port, config.conn_limit, config.mtu), (6783, 16, None));
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
        ipalloc_range = ['10.2.0.0/16', 'fd02::/64']
        ipalloc_default_subnet = ['10.2.3.0/24', 'fd02::/64']
        ipalloc_init = 'consensus=3'
        docker_plugin = '/plugins'
        docker_scope = 'global'
        http_addr = 'off'
        dns_domain = 'Example.net.'
        dns_ttl = 30
        dns_listen = '127.0.0.1:5353,fd00::1'
        resolv_conf = '/r.conf'
        log_level = 'error'
        log_format = 'json'
        record = '/tmp/record'
        data_dir = '/d'
        run_dir = '/r'
    ";
    let settings = settle(file, None, &[]).unwrap();
    let kebab: String = file.lines().map(|line| kebab_key(line) + "\n").collect();
    let again = settle(&kebab, None, &[]).unwrap();
    assert_eq!(format!("{:?}", settings.config()), format!("{:?}", again.config()));
    let config = settings.config();
    assert_eq!((config.http_addr, config.mtu, config.resume), (None, Some(1400), true));
    assert_eq!((config.data_dir.to_str(), config.run_dir.to_str()), (Some("/d"), Some("/r")));
    assert_eq!(config.trusted_subnets.len(), 2);
    assert_eq!((config.dns.domain.as_str(), config.dns.ttl), ("example.net", 30));
    let places = ["127.0.0.1:5353", "[fd00::1]:53"].map(|place| place.parse().unwrap());
    assert_eq!(config.dns.listen, Some(Listen::At(places.to_vec())));
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
fn keys_can_be_renewed_earlier_and_never_later() {
    let after = |file: &str, flags: &[&str]| settle(file, None, flags).map(|it| it.config().rekey_after.as_secs());
    assert_eq!(after("", &[]).unwrap(), 120);
    assert_eq!(after("rekey_after = 30", &[]).unwrap(), 30);
    assert_eq!(after("rekey_after = 30", &["--rekey-after", "5"]).unwrap(), 5);
    assert!(after("rekey_after = 121", &[]).is_err());
    for wrong in ["1", "121", "0", "-5", "x"] {
        assert!(Cli::try_parse_from(["weft", "router", &format!("--rekey-after={wrong}")]).is_err(), "{wrong}");
    }
}

#[test]
fn the_mtu_follows_the_underlay_unless_given() {
    assert_eq!(settle("mtu = 1400", None, &["--mtu", "auto"]).unwrap().config().mtu, None);
    assert_eq!(settle("mtu = 'auto'", None, &["--mtu", "1280"]).unwrap().config().mtu, Some(1280));
    assert!(Cli::try_parse_from(["weft", "router", "--mtu", "70000"]).is_err());
}

#[test]
fn names_are_answered_on_the_bridge_unless_told_otherwise() {
    let listen = |file: &str, flags: &[&str]| settle(file, None, flags).unwrap().config().dns.listen.clone();
    assert_eq!(listen("", &[]), Some(Listen::Bridge));
    assert_eq!(listen("", &["--no-dns"]), None);
    assert_eq!(listen("no_dns = true", &[]), None);
    assert_eq!(listen("no_dns = true", &["--dns-listen", "bridge"]), Some(Listen::Bridge));
    for bad in ["", "eth0", "0.0.0.0", "10.0.0.1:0", "10.0.0.1,"] {
        assert!(Cli::try_parse_from(["weft", "router", "--dns-listen", bad]).is_err(), "{bad}");
    }
    assert!(Cli::try_parse_from(["weft", "router", "--dns-domain", "a..b"]).is_err());
    assert!(settle("dns_ttl = 3000000000", None, &[]).is_err());
}

#[test]
fn addresses_are_given_out_as_the_flags_say_or_the_file() {
    let allocation = |file: &str, flags: &[&str]| settle(file, None, flags).unwrap().config().allocation.clone();
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<ipnet::IpNet>>();
    let default = allocation("", &[]).unwrap();
    assert_eq!((default.ranges, default.default_subnets), (nets(&["10.32.0.0/12"]), nets(&["10.32.0.0/12"])));
    assert_eq!((default.init, default.kept), (Init::Consensus(None), None));

    let file = "ipalloc-range = ['10.2.0.0/16']\nipalloc_default_subnet = ['10.2.1.0/24']\nipalloc_init = 'observer'";
    let filed = allocation(file, &[]).unwrap();
    assert_eq!((filed.default_subnets, filed.init), (nets(&["10.2.1.0/24"]), Init::Observer));
    let flagged =
        allocation(file, &["--ipalloc-range", "10.3.0.0/16,fd03::/64", "--ipalloc-init", "consensus=3"]).unwrap();
    assert_eq!((&flagged.ranges, flagged.init), (&flagged.default_subnets, Init::Consensus(Some(3))));
    assert_eq!(flagged.ranges, nets(&["10.3.0.0/16", "fd03::/64"]));
    let seeded = allocation("", &["--ipalloc-init", "seed=7e:52:00:aa:bb:01,7e:52:00:aa:bb:02"]).unwrap();
    assert!(matches!(seeded.init, Init::Seed(names) if names.len() == 2));
    assert_eq!(allocation("", &["--no-ipalloc"]), None);
    assert_eq!(allocation("no_ipalloc = true", &[]), None);
    assert!(allocation("no_ipalloc = true", &["--ipalloc-range", "10.3.0.0/16"]).is_some());
    assert_eq!(allocation(file, &["--no-ipalloc"]), None);
}

#[test]
fn bad_options_of_addresses_are_explained() {
    for (flags, message) in [
        (["--ipalloc-range", "10.2.0.1/16"], "its subnet is net:10.2.0.0/16"),
        (["--ipalloc-range", "10.2.0.0/31"], "too small"),
        (["--ipalloc-init", "consensus=0"], "no number of peers"),
        (["--ipalloc-init", "seed=host-1"], "`host-1` is not the name of a peer: `weft status` there tells it"),
        (["--ipalloc-init", "seed"], "is not one of consensus"),
        (["--ipalloc-init", "observer=1"], "is not one of consensus"),
    ] {
        let words = ["weft", "router"].iter().chain(&flags);
        let error = Cli::try_parse_from(words).err().unwrap().to_string();
        assert!(error.contains(message), "{flags:?}: {error}");
    }
    for (flags, message) in [
        (["--ipalloc-default-subnet", "10.2.0.0/24"], "is not within 10.32.0.0/12 of --ipalloc-range"),
        (["--ipalloc-range", "10.2.0.0/16,10.3.0.0/16"], "give at most one of IPv4 and one of IPv6"),
        (["--ipalloc-default-subnet", "10.32.0.0/24,10.32.1.0/24"], "give at most one"),
    ] {
        let error = format!("{:#}", settle("", None, &flags).err().unwrap());
        assert!(error.contains(message), "{flags:?}: {error}");
    }
    assert!(Cli::try_parse_from(["weft", "router", "--no-ipalloc", "--ipalloc-range", "10.2.0.0/16"]).is_err());
    let both = format!("{:#}", settle("no_ipalloc = true\nipalloc_init = 'observer'", None, &[]).err().unwrap());
    assert!(both.contains("both `no_ipalloc` and"), "{both}");
}

#[test]
fn http_can_be_off() {
    for off in ["", "off"] {
        assert_eq!(settle("", None, &["--http-addr", off]).unwrap().config().http_addr, None);
    }
}

/// A line with a key of dashes.
fn kebab_key(line: &str) -> String {
    line.split_once('=').map_or_else(|| line.to_owned(), |(key, value)| format!("{}={value}", key.replace('_', "-")))
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
