//! A mesh ready to be used: routers launched on hosts, a container on each, and the wait until all of them see all.

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, anyhow};

use super::{
    Lab,
    container::{self, Container},
    datagram::Station,
    host::Host,
    wait::wait_for,
};

/// For a small mesh to settle on a busy machine.
const SETTLING: Duration = Duration::from_secs(20);

/// Hosts, each with a router and one container; the order of both is that of the names.
#[derive(Debug)]
pub struct Mesh {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// One container of each.
    pub containers: Vec<Container>,
}

/// The addresses on the network of the container with a number: IPv4 and IPv6, with prefix lengths.
pub fn overlay(number: usize) -> [String; 2] {
    [format!("10.32.0.{number}/16"), format!("fd32::{number:x}/64")]
}

/// A new secret in a file that `--password-file` takes, made by `weft secret`.
pub fn password_file(lab: &Lab, host: &Host, name: &str) -> Result<PathBuf> {
    let path = lab.dir().join(name);
    fs::write(&path, host.weft(&["secret"])?.checked()?).with_context(|| path.display().to_string())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

impl Mesh {
    /// One host for each name, all of which share a secret and are given the first as peer; settled when this returns.
    /// With `ipv6` the underlay has no IPv4.
    pub fn settled<const N: usize>(lab: &Lab, names: [&str; N], ipv6: bool) -> Result<Self> {
        let hosts = lab.hosts(names)?;
        if ipv6 {
            hosts.iter().try_for_each(Host::drop_ipv4)?;
        }
        let password = password_file(lab, &hosts[0], "secret")?;
        let first = hosts[0].address(ipv6).to_string();
        let peers = |host: &Host| if host.name() == names[0] { Vec::new() } else { vec![first.clone()] };
        launch_all(&hosts, |host| [vec![format!("--password-file={}", password.display())], peers(host)].concat())?;
        let mesh = Self::of(hosts.to_vec())?;
        mesh.wait_settled(SETTLING)?;
        Ok(mesh)
    }

    /// Attaches a container on each of these hosts, whose routers run.
    pub fn of(hosts: Vec<Host>) -> Result<Self> {
        let attach = |(index, host): (usize, &Host)| attached(host, "c1", index + 1);
        let containers = hosts.iter().enumerate().map(attach).collect::<Result<_>>()?;
        Ok(Self { hosts, containers })
    }

    /// As [`Self::of`], with addresses that the network gives out.
    pub fn given(hosts: Vec<Host>) -> Result<Self> {
        let containers = hosts.iter().map(|host| host.container("c1")?.attach(&[])).collect::<Result<_>>()?;
        Ok(Self { hosts, containers })
    }

    /// Waits until every router has a direct path to every other.
    pub fn wait_settled(&self, deadline: Duration) -> Result<Duration> {
        wait_for("every router has a direct path to every other", deadline, || self.expect_direct())
            .map(|(_, took)| took)
    }

    /// Whether every router has a direct path to every other, now.
    pub fn expect_direct(&self) -> Result<()> {
        self.hosts.iter().try_for_each(|host| {
            let paths = host.paths()?;
            let direct = paths.iter().filter(|path| path.path == "direct").count();
            let missing =
                || anyhow!("{} has {direct} direct paths of {}: {paths:?}", host.name(), self.hosts.len() - 1);
            if direct + 1 == self.hosts.len() { Ok(()) } else { Err(missing()) }
        })
    }

    /// Pairs of different containers, each both ways.
    pub fn pairs(&self) -> impl Iterator<Item = (&Container, &Container)> {
        let all = &self.containers;
        all.iter()
            .flat_map(move |from| all.iter().filter(|to| to.namespace() != from.namespace()).map(move |to| (from, to)))
    }

    /// Expects `count` pings between all pairs, by both protocols, to be answered exactly once.
    pub fn all_ping(&self, count: u32) -> Result<()> {
        for (from, to) in self.pairs() {
            for address in [IpAddr::from(to.v4()?), to.v6()?.into()] {
                from.ping(address).count(count).all_answered()?;
            }
        }
        Ok(())
    }
}

/// A container `name` of a host, attached with the addresses of number `number`.
pub fn attached(host: &Host, name: &str, number: usize) -> Result<Container> {
    let [v4, v6] = overlay(number);
    host.container(name)?.attach(&[&v4, &v6])
}

/// Launches all of these routers at once.
pub fn launch_all(hosts: &[Host], args: impl Fn(&Host) -> Vec<String>) -> Result<()> {
    let launches: Vec<_> = hosts.iter().map(|host| (host.clone(), args(host))).collect();
    let threads: Vec<_> = launches.into_iter().map(|(host, args)| thread::spawn(move || host.launch(&args))).collect();
    threads.into_iter().try_for_each(super::namespace::join)
}

/// The container as sender or receiver of datagrams.
pub fn station(container: &Container) -> Result<Station> {
    Ok(Station { namespace: container.namespace().clone(), device: container::DEVICE, v4: container.v4()? })
}
