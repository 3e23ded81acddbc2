//! The verbs, as `weft --help`, the man page and the completions show them.

use std::{net::IpAddr, path::PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use weft::{names::DnsName, node::input::Target};
use weft_plugin::{client::Client, cni::setup};
use weft_router::{
    Config,
    config::{DEFAULT_DATA_DIR, DEFAULT_RUN_DIR},
};

use crate::{
    flags::{LogFormat, LogLevel, RouterFlags},
    settings,
    sim::Sim,
};

/// One encrypted Ethernet over any set of hosts.
///
/// On each host: `weft launch [PEER…]`, then `weft attach CONTAINER`; the containers of all hosts then see each
/// other as if plugged into one switch.
#[derive(Parser)]
#[command(name = "weft", version, max_term_width = 120, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb takes: which of several routers on this machine is meant.
#[derive(Args, Clone)]
#[command(next_help_heading = "Which router")]
pub(crate) struct Globals {
    /// Directory of the router's identity and targets [default: /var/lib/weft]
    #[arg(long, global = true, value_name = "DIR", env = "WEFT_DATA_DIR", hide_env_values = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Directory of the router's socket and pid file [default: /run/weft]
    #[arg(long, global = true, value_name = "DIR", env = "WEFT_RUN_DIR", hide_env_values = true)]
    pub(crate) run_dir: Option<PathBuf>,
    /// File with options, such as `port = 6783`: keys are the long options without dashes in front, flags given here
    /// and the environment come first
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Where a router keeps its things.
pub(crate) struct Dirs {
    /// Identity and targets.
    pub(crate) data: PathBuf,
    /// Socket, pid file, log.
    pub(crate) run: PathBuf,
}

impl Globals {
    /// The directories: flag, environment, file, default.
    pub(crate) fn dirs(&self) -> anyhow::Result<Dirs> {
        Ok(self.dirs_with(&settings::file(self.config.as_deref())?))
    }

    /// As [`Self::dirs`], with the file already read.
    pub(crate) fn dirs_with(&self, file: &RouterFlags) -> Dirs {
        let pick = |given: &Option<PathBuf>, file: &Option<PathBuf>, default: &str| {
            given.clone().or_else(|| file.clone()).unwrap_or_else(|| default.into())
        };
        Dirs {
            data: pick(&self.data_dir, &file.data_dir, DEFAULT_DATA_DIR),
            run: pick(&self.run_dir, &file.run_dir, DEFAULT_RUN_DIR),
        }
    }

    /// A client of the router meant.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(Config::socket_path(&self.dirs()?.run)))
    }
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Start the router in the background; return when it is ready
    Launch(Box<RouterFlags>),
    /// Run the router in the foreground
    Router {
        /// Its flags.
        #[command(flatten)]
        flags: Box<RouterFlags>,
        /// Leave the terminal's session; `launch` asks for this.
        #[arg(long, hide = true)]
        background: bool,
    },
    /// Stop the router; containers stay attached
    Stop,
    /// Stop the router and remove all that it made: bridge, attachments, rules, identity, targets
    Reset,
    /// Show how the router does: a summary, or one of the tables
    Status {
        /// Which table
        #[arg(value_enum, default_value_t = What::Summary, hide_default_value = true)]
        what: What,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print all that the router knows, as JSON
    Report,
    /// Tell why frames go to a peer the way they do, or what is known of something else
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Explain {
        /// Of something else
        #[command(subcommand)]
        what: Option<Explain>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The peer, by name or nickname
        #[arg(value_name = "PEER", required = true)]
        peer: Option<String>,
    },
    /// Declare peers dead for good: hosts and containers of theirs are gone, and their addresses are taken over
    Rmpeer {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Which, by name or nickname
        #[arg(value_name = "PEER", required = true)]
        peers: Vec<String>,
    },
    /// Wait until addresses can be given out, at most ten seconds
    Prime {
        /// After a restart: go on without hearing from any other peer. Only if nobody declared this one dead meanwhile
        #[arg(long)]
        alone: bool,
    },
    /// Add peers to connect to
    Connect {
        /// Forget all earlier targets
        #[arg(long)]
        replace: bool,
        /// Where: HOST, HOST:PORT, an IP address or [IPv6]:PORT
        #[arg(value_name = "PEER", required_unless_present = "replace")]
        peers: Vec<Target>,
    },
    /// Forget peers to connect to; connections that exist go on
    Forget {
        /// Which, as they were given
        #[arg(value_name = "PEER", required = true)]
        peers: Vec<Target>,
    },
    /// Plug a container into the network; print the addresses it has got
    Attach(Attach),
    /// Unplug a container, or take addresses from it; print the addresses taken
    Detach(Detach),
    /// List attached containers: name, Ethernet address, addresses
    Ps {
        /// Only these; `weft:expose` is this host
        #[arg(value_name = "CONTAINER")]
        containers: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give this host an address on the network, and let containers reach beyond it
    Expose(Expose),
    /// Take this host's addresses on the network away again
    Hide(Hide),
    /// Give addresses, or a container, a name that the whole network finds
    DnsAdd(DnsAdd),
    /// Take names away that were given on this host
    DnsRemove(DnsRemove),
    /// Print where a name leads, or which names an address has
    DnsLookup {
        /// A name, with or without the domain, or an address
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print options for `docker run`, by which a container finds the network's names
    DnsArgs,
    /// Install the plugins for container runtimes that speak CNI, and a configuration for them
    SetupCni {
        /// Where the runtime looks for plugins
        #[arg(long = "cni-bin-dir", value_name = "DIR", default_value = setup::BIN_DIR)]
        bin_dir: PathBuf,
        /// Where the runtime looks for configurations
        #[arg(long, value_name = "DIR", default_value = setup::CONF_DIR)]
        conf_dir: PathBuf,
    },
    /// Run beside the router of a Kubernetes node: tells it of the other nodes, and the cluster of it
    Kubernetes(Kubernetes),
    /// Simulate routers on a described or recorded network, and tell how well they find their ways: needs no router
    Sim(Box<Sim>),
    /// Print a new network secret, for `--password-file`
    Secret,
    /// Print the version
    Version,
    /// Print a completion script, such as: weft completions bash > /etc/bash_completion.d/weft
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Print the manual page, as: weft man | man -l -
    Man {
        /// Write the pages of all verbs into this directory instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Tables of `weft status`.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum What {
    /// Everything in short
    #[value(hide = true)]
    Summary,
    /// Connections to peers, and attempts at them
    Connections,
    /// All routers of the network and their links
    Peers,
    /// Where we were asked to connect
    Targets,
    /// Ethernet stations of the network, and at which router they are
    Endpoints,
    /// How frames get to each peer, and why
    Paths,
    /// Names of the network, where they lead, and whose they are
    Dns,
    /// Addresses that the network gives out: state, who may give out how many, who has which here
    Ipam,
}

/// What `weft explain` tells of.
#[derive(Subcommand)]
pub(crate) enum Explain {
    /// An address: who may give it out, who has it, who uses it
    Ip {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Which
        address: IpAddr,
    },
}

/// `weft attach`.
#[derive(Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Attach {
    /// Add no route for multicast in the container
    #[arg(long)]
    pub(crate) no_multicast_route: bool,
    /// A name for the container, with or without the domain; may be given several times. It is gone when the container is
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) names: Vec<DnsName>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Addresses with prefix length, such as 10.32.1.5/24 or fd00::5/64, or net:SUBNET for one that is free there
    /// [default: net:default]
    #[arg(value_name = "ADDRESS", num_args = 0..)]
    pub(crate) addresses: Vec<String>,
    /// Name of a network namespace, path of one, a process id, or a container of Docker's by its name or id
    #[arg(value_name = "CONTAINER", required = true)]
    pub(crate) container: String,
}

/// `weft detach`.
#[derive(Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Detach {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Addresses to take, with prefix length, or net:SUBNET for those of it [default: all, and the interface with them]
    #[arg(value_name = "ADDRESS", num_args = 0..)]
    pub(crate) addresses: Vec<String>,
    /// The container, named as at attach
    #[arg(value_name = "CONTAINER", required = true)]
    pub(crate) container: String,
}

/// `weft expose`.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Expose {
    /// A name for this host, with or without the domain; may be given several times
    #[arg(short = 'h', long = "name", value_name = "NAME")]
    pub(crate) names: Vec<DnsName>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Leave source addresses as they are when traffic leaves the network through this host
    #[arg(long)]
    pub(crate) without_masquerade: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Addresses with prefix length, such as 10.32.1.1/24 or fd00::1/64, or net:SUBNET for one that is free there
    /// [default: net:default]
    #[arg(value_name = "ADDRESS")]
    pub(crate) addresses: Vec<String>,
}

/// `weft dns-add`.
#[derive(Args)]
#[command(
    override_usage = "weft dns-add [OPTIONS] NAME ADDRESS…\n       weft dns-add [OPTIONS] [ADDRESS…] CONTAINER NAME"
)]
pub(crate) struct DnsAdd {
    /// Addresses, if not all of the container's; a container, named as at attach; and the name, with or without the domain.
    /// A container's name is gone when the container is
    #[arg(value_name = "WORD", required = true)]
    pub(crate) words: Vec<String>,
}

/// `weft dns-remove`.
#[derive(Args)]
#[command(
    override_usage = "weft dns-remove [OPTIONS] NAME [ADDRESS…]\n       weft dns-remove [OPTIONS] [ADDRESS…] CONTAINER NAME\n       \
    weft dns-remove [OPTIONS] ADDRESS…\n       weft dns-remove [OPTIONS] --all CONTAINER"
)]
pub(crate) struct DnsRemove {
    /// All names of this container
    #[arg(long, value_name = "CONTAINER", conflicts_with = "words")]
    pub(crate) all: Option<String>,
    /// Which: the name, of this container only, with these addresses only; or whatever leads to these addresses
    #[arg(value_name = "WORD", required_unless_present = "all")]
    pub(crate) words: Vec<String>,
}

/// `weft hide`.
#[derive(Args)]
pub(crate) struct Hide {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Addresses to take, with prefix length, or net:SUBNET for those of it [default: all]
    #[arg(value_name = "ADDRESS")]
    pub(crate) addresses: Vec<String>,
}

/// `weft kubernetes`.
#[derive(Args)]
pub(crate) struct Kubernetes {
    /// Name of this node's Node object
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(crate) node: String,
    /// Where the other nodes' addresses are kept, for the router's --config [default: kubernetes/peers.toml in the data
    /// directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) peers_file: Option<PathBuf>,
    /// Only write that file, and end: to be done before the router starts
    #[arg(long)]
    pub(crate) first_peers: bool,
    /// What to log: this and what is worse
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "info")]
    pub(crate) log_level: LogLevel,
    /// How to log, to standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[cfg(test)]
mod shipped;
#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_container_comes_last() {
        let Verb::Attach(attach) = Cli::parse_from(["weft", "attach", "10.0.0.1/24", "fd00::1/64", "c1"]).verb else {
            panic!("not attach");
        };
        assert_eq!(attach.addresses, ["10.0.0.1/24", "fd00::1/64"]);
        assert_eq!(attach.container, "c1");
        let Verb::Attach(attach) = Cli::parse_from(["weft", "attach", "c1"]).verb else { panic!("not attach") };
        assert_eq!((attach.addresses.len(), attach.container.as_str()), (0, "c1"));
        assert!(Cli::try_parse_from(["weft", "attach"]).is_err());

        for (args, addresses) in [(vec!["c1"], vec![]), (vec!["10.0.0.1/24", "c1"], vec!["10.0.0.1/24"])] {
            let all = ["weft", "detach"].into_iter().chain(args);
            let Verb::Detach(detach) = Cli::parse_from(all).verb else { panic!("not detach") };
            assert_eq!(
                (detach.addresses, detach.container.as_str()),
                (addresses.iter().map(|a| a.to_string()).collect(), "c1")
            );
        }
    }

    #[test]
    fn directories_come_from_the_flag_then_the_file() {
        let mut file = RouterFlags { run_dir: Some("/file/run".into()), ..RouterFlags::default() };
        let mut globals = Globals { data_dir: Some("/flag/data".into()), run_dir: None, config: None };
        let dirs = globals.dirs_with(&file);
        assert_eq!((dirs.data, dirs.run), ("/flag/data".into(), "/file/run".into()));
        file.run_dir = None;
        globals.data_dir = None;
        let dirs = globals.dirs_with(&file);
        assert_eq!((dirs.data, dirs.run), (DEFAULT_DATA_DIR.into(), DEFAULT_RUN_DIR.into()));
    }
}
