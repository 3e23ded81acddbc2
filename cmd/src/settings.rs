//! From flags, environment and file to what a router is told: flag before environment before file before default.

mod allocation;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use weft::{id::Nickname, link::keys::REKEY_AFTER};
use weft_plugin::docker::{self, Scope};
use weft_router::{
    Config,
    config::{DEFAULT_BRIDGE, DEFAULT_CONN_LIMIT, DEFAULT_HTTP_ADDR, DEFAULT_RUN_DIR},
    dns::{DEFAULT_DOMAIN, DEFAULT_RESOLV_CONF, DEFAULT_TTL, DnsConfig, Listen},
    fastdp::Mode,
};

use crate::{
    cli::Globals,
    docker::engine_socket,
    flags::{
        DnsListen, DockerPlugin, DockerScope, Fastdp, HttpAddr, LogFormat, LogLevel, Mtu, RekeyAfter, RouterFlags,
    },
    password::{self, Source},
};

/// TCP and UDP port unless configured; Weave Net's.
const DEFAULT_PORT: u16 = 6783;
/// Most seconds that an answer may be kept (RFC 2181 §8).
const TTL_MAX: u32 = i32::MAX as u32;
/// Largest file of options that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// The settings of one router, settled but for its secret: that may take a while, and only the router itself needs it.
pub(crate) struct Settings {
    /// How much to log.
    pub(crate) log_level: LogLevel,
    /// How to log.
    pub(crate) log_format: LogFormat,
    /// Where the secret is.
    pub(crate) password: Option<Source>,
    /// What Docker's plugin is told, if there is one.
    pub(crate) docker: Option<docker::Settings>,
    allow_weak_password: bool,
    config: Config,
}

impl Settings {
    /// Settles all settings; `env_password` is `WEFT_PASSWORD`.
    pub(crate) fn new(
        flags: RouterFlags,
        globals: &Globals,
        env_password: Option<String>,
        file: RouterFlags,
    ) -> anyhow::Result<Self> {
        let dirs = globals.dirs_with(&file);
        let allocation = allocation::settled(&flags, &file)?;
        ensure!(
            file.password.is_none() || file.password_file.is_none(),
            "the file of --config has both `password` and `password_file`: keep one"
        );
        ensure!(!file.resume || file.peers.is_empty(), "the file of --config has both `resume` and `peers`: keep one");
        let password = Source::pick(flags.password, flags.password_file, "--password")
            .or_else(|| Source::pick(env_password, None, "WEFT_PASSWORD"))
            .or_else(|| Source::pick(file.password, file.password_file, "`password` in the file of --config"));
        let allow_weak_password = flags.allow_weak_password || file.allow_weak_password;
        // Peers and --resume exclude each other: what the command line says of either comes before both of the file.
        let (targets, resume) = if flags.resume || !flags.peers.is_empty() {
            (flags.peers, flags.resume)
        } else {
            (file.peers, file.resume)
        };
        let http_addr = match flags.http_addr.or(file.http_addr) {
            Some(HttpAddr(address)) => address,
            None => DEFAULT_HTTP_ADDR.parse().ok(),
        };
        let mode = flags.docker_plugin.or(file.docker_plugin).unwrap_or(DockerPlugin::Auto);
        let scope = flags.docker_scope.or(file.docker_scope).map_or(Scope::Local, |DockerScope(scope)| scope);
        let docker = plugin_directory(mode, &dirs.run, docker::is_here()).map(|plugins| docker::Settings {
            plugins,
            engine: engine_socket(),
            router: Config::socket_path(&dirs.run),
            scope,
        });
        let network = flags.network.or(file.network).unwrap_or_default();
        let no_dns = flags.no_dns || (file.no_dns && flags.dns_listen.is_none());
        let listen = flags.dns_listen.or(file.dns_listen).map_or(Listen::Bridge, |DnsListen(listen)| listen);
        let domain = flags.dns_domain.or(file.dns_domain);
        let dns = DnsConfig {
            domain: domain.map_or_else(|| DEFAULT_DOMAIN.parse(), Ok)?,
            ttl: flags.dns_ttl.or(file.dns_ttl).unwrap_or(DEFAULT_TTL),
            listen: (!no_dns).then_some(listen),
            resolv_conf: flags.resolv_conf.or(file.resolv_conf).unwrap_or_else(|| DEFAULT_RESOLV_CONF.into()),
        };
        ensure!(dns.ttl <= TTL_MAX, "the TTL {} is larger than DNS allows, {TTL_MAX}", dns.ttl);
        let config = Config {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data_dir: dirs.data,
            run_dir: dirs.run,
            host: flags.host.or(file.host),
            port: flags.port.or(file.port).map_or(DEFAULT_PORT, u16::from),
            secret: weft::secret::NetworkSecret::open(&network),
            network,
            nickname: flags.nickname.or(file.nickname).map_or_else(hostname, Ok)?,
            conn_limit: flags.conn_limit.or(file.conn_limit).unwrap_or(DEFAULT_CONN_LIMIT),
            discovery: !(flags.no_discovery || file.no_discovery),
            relay: !(flags.no_relay || file.no_relay),
            realtime: !(flags.no_realtime || file.no_realtime),
            trusted_subnets: flags.trusted_subnets.or(file.trusted_subnets).unwrap_or_default(),
            targets,
            resume,
            mtu: flags.mtu.or(file.mtu).and_then(|Mtu(mtu)| mtu),
            fastdp: flags.fastdp.or(file.fastdp).map_or(Mode::Auto, |Fastdp(mode)| mode),
            rekey_after: flags.rekey_after.or(file.rekey_after).map_or(REKEY_AFTER, |RekeyAfter(after)| after),
            esp_lanes: flags.esp_lanes.or(file.esp_lanes),
            bridge: DEFAULT_BRIDGE.to_owned(),
            http_addr,
            dns,
            allocation,
            record: flags.record.or(file.record),
        };
        Ok(Self {
            log_level: flags.log_level.or(file.log_level).unwrap_or(LogLevel::Info),
            log_format: flags.log_format.or(file.log_format).unwrap_or(LogFormat::Text),
            password,
            docker,
            allow_weak_password,
            config,
        })
    }

    /// Settles all settings from the process's own environment and the file that the flags name.
    pub(crate) fn gather(flags: RouterFlags, globals: &Globals) -> anyhow::Result<Self> {
        let file = file(globals.config.as_deref())?;
        if let (Some(path), Some(_)) = (&globals.config, &file.password) {
            password::warn_if_readable(path);
        }
        Self::new(flags, globals, password::from_env()?, file)
    }

    /// As [`Self::gather`], for who needs no secret and does not look where it is.
    pub(crate) fn without_secret(flags: RouterFlags, globals: &Globals) -> anyhow::Result<Self> {
        Self::new(flags, globals, None, file(globals.config.as_deref())?)
    }

    /// What the router is told but for its secret: to look at.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// What the router is told. Reads and stretches the secret, which takes up to a second.
    pub(crate) fn into_config(self) -> anyhow::Result<Config> {
        let Some(source) = self.password else {
            return Ok(self.config);
        };
        let text = source.read()?;
        let secret = weft::secret::NetworkSecret::from_text(&text, &self.config.network, self.allow_weak_password)
            .with_context(|| format!("cannot use {source}"))?;
        Ok(Config { secret, ..self.config })
    }
}

/// The options in a file; none without a file.
pub(crate) fn file(path: Option<&Path>) -> anyhow::Result<RouterFlags> {
    let Some(path) = path else {
        return Ok(RouterFlags::default());
    };
    let text =
        read_bounded(path, FILE_MAX).with_context(|| format!("cannot read {}, given by --config", path.display()))?;
    parse(&text).with_context(|| format!("cannot use {}, given by --config", path.display()))
}

/// Reads a text file of at most `max` bytes.
pub(crate) fn read_bounded(path: &Path, max: u64) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    fs::File::open(path)?.take(max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > max {
        return Err(io::Error::other(format!("it is larger than {max} bytes")));
    }
    Ok(text)
}

fn parse(text: &str) -> anyhow::Result<RouterFlags> {
    toml::from_str(text).map_err(|error| {
        // The library's own display repeats the line, which may hold the password.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        anyhow::anyhow!("line {line}: {}", error.message())
    })
}

/// Where the socket of Docker's plugin is, if there is one. Of several routers on a host the one with the default directory is Docker's.
fn plugin_directory(mode: DockerPlugin, run_dir: &Path, is_here: bool) -> Option<PathBuf> {
    match mode {
        DockerPlugin::Auto => (is_here && run_dir == Path::new(DEFAULT_RUN_DIR)).then(|| docker::PLUGINS.into()),
        DockerPlugin::Off => None,
        DockerPlugin::In(directory) => Some(directory),
    }
}

fn hostname() -> anyhow::Result<Nickname> {
    let name = nix::unistd::gethostname().context("cannot read the host's name: give --nickname")?;
    let Some(name) = name.to_str() else {
        bail!("the host's name is no text: give --nickname");
    };
    name.parse().context("the host's name cannot be the nickname: give --nickname")
}

#[cfg(test)]
mod tests;
