//! How a bridge treats one of its ports.

use netlink_packet_route::{RouteNetlinkMessage, link::InfoBridgePort};
use rtnetlink::LinkBridgePort;

use super::{Link, Netlink};
use crate::error::HostError;

/// What a port may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortRules {
    /// Stations are learnt from what comes in here.
    pub(crate) learning: bool,
    /// Frames to unknown stations, to groups and to all go out here.
    pub(crate) flood: bool,
    /// No frame passes between it and another isolated port.
    pub(crate) isolated: bool,
}

impl PortRules {
    /// Whether the port is so already.
    pub(crate) fn hold(self, link: &Link) -> bool {
        self.settings().iter().all(|setting| link.port.contains(setting))
    }

    fn settings(self) -> [InfoBridgePort; 5] {
        [
            InfoBridgePort::Learning(self.learning),
            InfoBridgePort::UnicastFlood(self.flood),
            InfoBridgePort::MulticastFlood(self.flood),
            InfoBridgePort::BroadcastFlood(self.flood),
            InfoBridgePort::Isolated(self.isolated),
        ]
    }
}

impl Netlink {
    /// Changes what a port may do.
    pub(crate) fn set_port_rules(&self, link: &Link, rules: PortRules) -> Result<(), HostError> {
        let mut builder = LinkBridgePort::new(link.index);
        for setting in rules.settings() {
            builder = builder.append_info_data(setting);
        }
        let doing = format!("set what {} may do as a port of its bridge", link.name);
        self.change(&doing, RouteNetlinkMessage::NewLink(builder.build()), 0)
    }

    /// Lets frames leave by the port that they came in by, or not.
    pub(crate) fn set_hairpin(&self, link: &Link, on: bool) -> Result<(), HostError> {
        let message = LinkBridgePort::new(link.index).hairpin(on).build();
        let doing = format!("set the hairpin mode of {}", link.name);
        self.change(&doing, RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Makes a device of ours a port of the bridge, not yet up, so that it can be given its rules before frames pass.
    pub(crate) fn plug_silently(&self, link: &Link, bridge: &Link, alias: &str) -> Result<(), HostError> {
        let message = rtnetlink::LinkUnspec::new_with_index(link.index).alias(alias).controller(bridge.index).build();
        let doing = format!("plug {} into {}", link.name, bridge.name);
        self.change(&doing, RouteNetlinkMessage::SetLink(message), 0)
    }
}
