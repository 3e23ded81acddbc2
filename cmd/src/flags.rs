//! What `weft launch`, `weft router` and the file of `--config` take alike: one definition for all three.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde::{Deserialize, de};
use weft::{
    api::address::{self, AddressError},
    id::{NetworkName, Nickname},
    ipam::Init,
    link::keys::{REKEY_AFTER, REKEY_AFTER_MIN},
    names::DnsName,
    node::input::Target,
};
use weft_plugin::docker::Scope;
use weft_router::{
    dns::{Listen, PORT},
    fastdp::{Mode, ModeError},
};

/// Options of a router; what is not given is `None`, so that the file or the default may say.
#[derive(Args, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RouterFlags {
    /// The network's secret. Better use --password-file: others may see this before it is scrubbed from the process
    /// list, and shells write histories. [env: WEFT_PASSWORD]
    #[arg(long, value_name = "SECRET", conflicts_with = "password_file", help_heading = "Security")]
    pub(crate) password: Option<String>,
    /// Read the network's secret from this file, `-` for standard input; `weft secret` makes one. Without a secret
    /// nothing is authenticated: whoever reaches the port may join
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    #[serde(alias = "password-file")]
    pub(crate) password_file: Option<PathBuf>,
    /// Take also a password that is guessed easily (below about 50 bits)
    #[arg(long, help_heading = "Security")]
    #[serde(alias = "allow-weak-password")]
    pub(crate) allow_weak_password: bool,
    /// Subnets of the underlay whose peers are trusted with unsealed frames on the fast datapath, if they trust us too
    /// [default: none]
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', help_heading = "Security")]
    #[serde(alias = "trusted-subnets")]
    pub(crate) trusted_subnets: Option<Vec<IpNet>>,

    /// TCP and UDP port, ours and that of peers given without one [default: 6783]
    #[arg(long, help_heading = "Network")]
    pub(crate) port: Option<NonZeroU16>,
    /// Listen on this address of the host only [default: all]
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub(crate) host: Option<IpAddr>,
    /// Name of the network to join; routers of other networks are refused [default: weft]
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub(crate) network: Option<NetworkName>,
    /// What people call this router [default: the host's name]
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub(crate) nickname: Option<Nickname>,
    /// Most connections to peers, 0 for no limit; up to 32 while the mesh has no more other peers, unless this is below 16
    /// [default: 16]
    #[arg(long, value_name = "NUMBER", help_heading = "Network")]
    #[serde(alias = "conn-limit")]
    pub(crate) conn_limit: Option<usize>,
    /// Connect only to the given peers, not to those that they tell of
    #[arg(long, help_heading = "Network")]
    #[serde(alias = "no-discovery")]
    pub(crate) no_discovery: bool,
    /// Pass on no frames of other routers, not even for those that cannot reach each other by themselves
    #[arg(long, help_heading = "Network")]
    #[serde(alias = "no-relay")]
    pub(crate) no_relay: bool,
    /// Let packets of the sleeve wait for a core like all processes. Without this they go before those that keep them waiting, as what
    /// the kernel forwards does, while a sixteenth of each core is left
    #[arg(long, help_heading = "Network")]
    #[serde(alias = "no-realtime")]
    pub(crate) no_realtime: bool,
    /// Connect to the peers of the last run
    #[arg(long, conflicts_with = "peers", help_heading = "Network")]
    pub(crate) resume: bool,
    /// MTU of the bridge and of containers in bytes, 576 to 65535; IPv6 needs 1280. `auto` follows the underlay, less what
    /// frames cost on it: 1340 on Ethernet [default: auto]
    #[arg(long, value_name = "BYTES", help_heading = "Network")]
    pub(crate) mtu: Option<Mtu>,
    /// How frames pass within the kernel where both ends can: `vxlan`, `ovs` (Open vSwitch), `auto` for the better of
    /// those that the kernel has, or `off`. The sleeve carries all else [default: auto]
    #[arg(long, value_name = "MODE", help_heading = "Network")]
    pub(crate) fastdp: Option<Fastdp>,
    /// Most ESP associations side by side for each direction of a link, 1, 2, 4 or 8, so that several cores can open what one
    /// peer sends; both ends use the lesser number [default: one for each two cores]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=8), help_heading = "Network")]
    #[serde(alias = "esp-lanes")]
    pub(crate) esp_lanes: Option<u8>,

    /// Renew the keys of links, the sleeve's and ESP's, after so many seconds, 2 to 120: for tests, which have no hours
    /// [default: 120]
    #[arg(long, value_name = "SECONDS", hide = true, help_heading = "Security")]
    #[serde(alias = "rekey-after")]
    pub(crate) rekey_after: Option<RekeyAfter>,
    /// Domain of the network's names [default: weft.local]
    #[arg(long, value_name = "DOMAIN", help_heading = "Names")]
    #[serde(alias = "dns-domain")]
    pub(crate) dns_domain: Option<DnsName>,
    /// For how many seconds the answer to a query may be kept [default: 1]
    #[arg(long, value_name = "SECONDS", help_heading = "Names")]
    #[serde(alias = "dns-ttl")]
    pub(crate) dns_ttl: Option<u32>,
    /// Where queries for names are answered, by UDP and TCP: `bridge` for all addresses of this host on the network, at
    /// port 53, as soon as it has any; or addresses of this host, each with a port or port 53. Only who is on the device
    /// with the address, or the host itself, is answered [default: bridge]
    #[arg(long, value_name = "ADDRESS[:PORT],…", conflicts_with = "no_dns", help_heading = "Names")]
    #[serde(alias = "dns-listen")]
    pub(crate) dns_listen: Option<DnsListen>,
    /// Answer no queries for names
    #[arg(long, help_heading = "Names")]
    #[serde(alias = "no-dns")]
    pub(crate) no_dns: bool,
    /// File that lists the servers to ask for all other names [default: /etc/resolv.conf]
    #[arg(long, value_name = "FILE", help_heading = "Names")]
    #[serde(alias = "resolv-conf")]
    pub(crate) resolv_conf: Option<PathBuf>,
    /// Addresses that the network gives out: a range of IPv4, one of IPv6, or both; the same on all routers [default: 10.32.0.0/12]
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', help_heading = "Addresses")]
    #[serde(alias = "ipalloc-range")]
    pub(crate) ipalloc_range: Option<Vec<Subnet>>,
    /// Subnets of the ranges that addresses are given out of when nobody says which [default: the ranges]
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', help_heading = "Addresses")]
    #[serde(alias = "ipalloc-default-subnet")]
    pub(crate) ipalloc_default_subnet: Option<Vec<Subnet>>,
    /// Who shares the ranges at first: `consensus`: those who are there, when a majority of the given peers is (of NUMBER by
    /// `consensus=NUMBER`); `seed=NAME,…`: the peers of these names, without asking; `observer`: others. Whoever comes later is
    /// given some [default: consensus]
    #[arg(long, value_name = "HOW", help_heading = "Addresses")]
    #[serde(alias = "ipalloc-init")]
    pub(crate) ipalloc_init: Option<IpallocInit>,
    /// Give out no addresses
    #[arg(long, conflicts_with_all = ["ipalloc_range", "ipalloc_default_subnet", "ipalloc_init"], help_heading = "Addresses")]
    #[serde(alias = "no-ipalloc")]
    pub(crate) no_ipalloc: bool,
    /// Whether containers of Docker use this network by `docker run --net weft`: `auto` if Docker is on this host and this is
    /// its one router (with the default --run-dir), `off`, or the directory where Docker looks for plugins' sockets [default: auto]
    #[arg(long, value_name = "MODE", help_heading = "Docker")]
    #[serde(alias = "docker-plugin")]
    pub(crate) docker_plugin: Option<DockerPlugin>,
    /// Whose Docker's networks are: `local` for those of each engine, `global` for those of a swarm, by a managed plugin
    /// [default: local]
    #[arg(long, value_name = "SCOPE", help_heading = "Docker")]
    #[serde(alias = "docker-scope")]
    pub(crate) docker_scope: Option<DockerScope>,

    /// Where status and metrics are served by HTTP, read-only; `off` for nowhere [default: 127.0.0.1:6784]
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Watching")]
    #[serde(alias = "http-addr")]
    pub(crate) http_addr: Option<HttpAddr>,
    /// What to log: this and what is worse [default: info]
    #[arg(long, value_name = "LEVEL", value_enum, help_heading = "Watching")]
    #[serde(alias = "log-level")]
    pub(crate) log_level: Option<LogLevel>,
    /// How to log, to standard error [default: text]
    #[arg(long, value_name = "FORMAT", value_enum, help_heading = "Watching")]
    #[serde(alias = "log-format")]
    pub(crate) log_format: Option<LogFormat>,
    /// Write every input of the router into this file, to be replayed by developers; it discloses this run's keys
    #[arg(long, value_name = "FILE", help_heading = "Watching")]
    pub(crate) record: Option<PathBuf>,

    /// Routers to connect to: HOST, HOST:PORT, an IP address or [IPv6]:PORT
    #[arg(value_name = "PEER")]
    pub(crate) peers: Vec<Target>,

    // On the command line these belong to every verb.
    #[arg(skip)]
    #[serde(alias = "data-dir")]
    pub(crate) data_dir: Option<PathBuf>,
    #[arg(skip)]
    #[serde(alias = "run-dir")]
    pub(crate) run_dir: Option<PathBuf>,
}

/// The fast datapath's mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fastdp(pub(crate) Mode);

impl FromStr for Fastdp {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        text.parse().map(Self)
    }
}

/// Whether there is a plugin for Docker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum DockerPlugin {
    /// If Docker is there.
    Auto,
    /// There is none.
    Off,
    /// Its socket is in this directory.
    In(PathBuf),
}

impl FromStr for DockerPlugin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            path if path.starts_with('/') => Ok(Self::In(path.into())),
            _ => Err(format!("`{text}` is neither `auto` nor `off` nor a directory that begins with `/`")),
        }
    }
}

/// Whose Docker's networks are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DockerScope(pub(crate) Scope);

impl FromStr for DockerScope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

/// The MTU; None follows the underlay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mtu(pub(crate) Option<u16>);

impl FromStr for Mtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self(None));
        }
        let bad = |_| format!("`{text}` is neither a number of bytes up to 65535 nor `auto`");
        text.parse().map(|mtu| Self(Some(mtu))).map_err(bad)
    }
}

/// The age at which links renew their keys; it can only be shortened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RekeyAfter(pub(crate) Duration);

impl FromStr for RekeyAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let after = text.parse().ok().map(Duration::from_secs);
        after.filter(|after| (REKEY_AFTER_MIN..=REKEY_AFTER).contains(after)).map(Self).ok_or_else(|| {
            let (least, most) = (REKEY_AFTER_MIN.as_secs(), REKEY_AFTER.as_secs());
            format!("`{text}` is no number of seconds from {least} to {most}")
        })
    }
}

/// A subnet that addresses are given out of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Subnet(pub(crate) IpNet);

impl FromStr for Subnet {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        address::parse_subnet(text).map(Self)
    }
}

/// Who shares the ranges at first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IpallocInit(pub(crate) Init);

impl FromStr for IpallocInit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, value) = text.split_once('=').map_or((text, None), |(word, value)| (word, Some(value)));
        match (word, value) {
            ("consensus", None) => Ok(Self(Init::Consensus(None))),
            ("consensus", Some(number)) => match number.parse() {
                Ok(number) if number > 0 => Ok(Self(Init::Consensus(Some(number)))),
                Ok(_) | Err(_) => Err(format!("`{number}` is no number of peers, such as in consensus=3")),
            },
            ("seed", Some(names)) => {
                let name = |name: &str| {
                    name.parse().map_err(|_| {
                        format!("`{name}` is not the name of a peer: `weft status` there tells it, such as 7e:52:00:aa:bb:01")
                    })
                };
                names.split(',').map(name).collect::<Result<_, _>>().map(|names| Self(Init::Seed(names)))
            }
            ("observer", None) => Ok(Self(Init::Observer)),
            _ => Err(format!("`{text}` is not one of consensus, consensus=NUMBER, seed=NAME,… and observer")),
        }
    }
}

/// Where the read-only HTTP API listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HttpAddr(pub(crate) Option<SocketAddr>);

impl FromStr for HttpAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text == "off" {
            return Ok(Self(None));
        }
        let bad = |_| format!("`{text}` is not ADDRESS:PORT, such as 127.0.0.1:6784 or [::1]:6784, nor `off`");
        text.parse().map(|address| Self(Some(address))).map_err(bad)
    }
}

/// Where queries for names are answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DnsListen(pub(crate) Listen);

impl FromStr for DnsListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "bridge" {
            return Ok(Self(Listen::Bridge));
        }
        let place = |word: &str| {
            let address: IpAddr = match word.parse() {
                Ok(address) => address,
                Err(_) => return word.parse().ok().filter(|place: &SocketAddr| place.port() != 0),
            };
            Some(SocketAddr::new(address, PORT))
        };
        let is_one = |place: &SocketAddr| !place.ip().is_unspecified() && !place.ip().is_multicast();
        let places = text.split(',').map(|word| place(word).filter(is_one)).collect::<Option<_>>();
        let bad =
            || format!("`{text}` is neither `bridge` nor addresses of this host, such as 10.32.0.1 or [fd00::1]:5353");
        places.map(|places| Self(Listen::At(places))).ok_or_else(bad)
    }
}

/// How much is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogLevel {
    /// Every packet of the control side
    Trace,
    /// Every decision
    Debug,
    /// What a user would notice
    Info,
    /// What should be looked at
    #[value(alias = "warn")]
    #[serde(alias = "warn")]
    Warning,
    /// What makes the router stop
    Error,
}

/// What log lines look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl<'de> Deserialize<'de> for Fastdp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for DockerPlugin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for IpallocInit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for DockerScope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for Mtu {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum NumberOrText {
            Number(u16),
            Text(String),
        }
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(mtu) => Ok(Self(Some(mtu))),
            NumberOrText::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for RekeyAfter {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer)?.to_string().parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for DnsListen {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for HttpAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}
