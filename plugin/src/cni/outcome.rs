//! What is printed when all went well (specification 1.1.0, section 5), in each version's form, and read from the plugins before.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft::api::Route;

use super::{
    failure::{Code, Failure},
    version::Version,
};

/// The result of an ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// The version that it is written in; set when it is printed.
    #[serde(rename = "cniVersion", default)]
    pub(super) version: String,
    /// The devices; a plugin for addresses has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) interfaces: Vec<Interface>,
    /// The addresses.
    #[serde(default)]
    pub(super) ips: Vec<Ip>,
    /// The routes.
    #[serde(default)]
    pub(super) routes: Vec<Route>,
    /// What the container shall ask for names.
    #[serde(default)]
    pub(super) dns: Dns,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Interface {
    /// Its name.
    pub(super) name: String,
    /// Its Ethernet address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) mac: String,
    /// Bytes of the largest IP packet; since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mtu: Option<u32>,
    /// Path of the namespace that it is in; empty for the host's.
    #[serde(default)]
    pub(super) sandbox: String,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ip {
    /// `4` or `6`; until 0.4.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// The address with its prefix length.
    pub(super) address: IpNet,
    /// The subnet's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gateway: Option<IpAddr>,
    /// Which of the interfaces has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) interface: Option<usize>,
}

/// What a container shall ask for names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dns {
    /// Servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) domain: String,
    /// Domains to search.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) search: Vec<String>,
    /// Options of the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) options: Vec<String>,
}

impl Ip {
    /// An address, of no interface yet.
    pub(super) fn new(address: IpNet, gateway: Option<IpAddr>) -> Self {
        Self { version: None, address, gateway, interface: None }
    }
}

impl Outcome {
    /// Reads the result of another plugin, or of an ADD before.
    ///
    /// # Errors
    /// Code 6 if it is none.
    pub(super) fn read(value: &serde_json::Value) -> Result<Self, Failure> {
        Self::deserialize(value).map_err(|error| Failure::new(Code::Decode, "a result cannot be read").with(error))
    }

    /// In the form of a version.
    ///
    /// # Errors
    /// Code 5, which does not happen.
    pub(super) fn written(mut self, version: Version) -> Result<String, Failure> {
        self.version = version.to_string();
        for ip in &mut self.ips {
            let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
            ip.version = (version < Version::V1_0_0).then(|| family.to_owned());
        }
        if version < Version::V1_1_0 {
            self.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
            // Nor had routes more than these.
            self.routes = self.routes.iter().map(|route| Route::new(route.dst, route.gw)).collect();
        }
        serde_json::to_string(&self).map_err(|error| Failure::new(Code::Io, error))
    }

    /// What plugins before have made, with this behind it.
    #[must_use]
    pub(super) fn after(self, mut before: Self) -> Self {
        let shift = before.interfaces.len();
        before.interfaces.extend(self.interfaces);
        before.ips.extend(self.ips.into_iter().map(|ip| Ip { interface: ip.interface.map(|n| n + shift), ..ip }));
        before.routes.extend(self.routes);
        if self.dns != Dns::default() {
            before.dns = self.dns;
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let interface = |name: &str, sandbox: &str| Interface {
            name: name.to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            mtu: Some(1340),
            sandbox: sandbox.to_owned(),
        };
        let ip =
            Ip { interface: Some(1), ..Ip::new("10.2.0.5/24".parse().unwrap(), Some("10.2.0.1".parse().unwrap())) };
        let v6 = Ip { interface: Some(1), ..Ip::new("fd00::5/64".parse().unwrap(), None) };
        Outcome {
            interfaces: vec![interface("vethwe1", ""), interface("eth0", "/run/netns/x")],
            ips: vec![ip, v6],
            routes: vec![Route { mtu: Some(1000), ..Route::new("0.0.0.0/0".parse().unwrap(), None) }],
            dns: Dns { nameservers: vec!["10.2.0.1".to_owned()], ..Dns::default() },
            ..Outcome::default()
        }
    }

    #[test]
    fn each_version_has_its_form() {
        let of_1_1 = concat!(
            r#"{"cniVersion":"1.1.0","interfaces":[{"name":"vethwe1","mac":"02:00:00:00:00:01","mtu":1340,"sandbox":""},"#,
            r#"{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1340,"sandbox":"/run/netns/x"}],"#,
            r#""ips":[{"address":"10.2.0.5/24","gateway":"10.2.0.1","interface":1},{"address":"fd00::5/64","interface":1}],"#,
            r#""routes":[{"dst":"0.0.0.0/0","mtu":1000}],"dns":{"nameservers":["10.2.0.1"]}}"#
        );
        let of_1_0 = of_1_1.replace("1.1.0", "1.0.0").replace(r#","mtu":1340"#, "").replace(r#","mtu":1000"#, "");
        let of_0_4 = of_1_0
            .replace("1.0.0", "0.4.0")
            .replace(r#"{"address":"10"#, r#"{"version":"4","address":"10"#)
            .replace(r#"{"address":"fd"#, r#"{"version":"6","address":"fd"#);
        let of_0_3 = of_0_4.replace("0.4.0", "0.3.1");
        for (version, expected) in Version::ALL.into_iter().zip([&of_0_3, &of_0_4, &of_1_0, of_1_1]) {
            assert_eq!(&outcome().written(version).unwrap(), expected);
            let read = Outcome::read(&serde_json::from_str(expected).unwrap()).unwrap();
            assert_eq!(&read.written(version).unwrap(), expected);
        }
    }

    #[test]
    fn what_was_before_stays_before() {
        let both = outcome().after(outcome());
        assert_eq!(both.interfaces.len(), 4);
        assert_eq!(both.ips.iter().map(|ip| ip.interface).collect::<Vec<_>>(), [Some(1), Some(1), Some(3), Some(3)]);
    }

    #[test]
    fn any_result_is_survived() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(value) = serde_json::from_slice(bytes)
                && let Ok(read) = Outcome::read(&value)
            {
                read.written(Version::V1_0_0).unwrap();
            }
        });
    }
}
