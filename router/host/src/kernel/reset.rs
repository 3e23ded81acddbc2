//! Back to the host as it was: every step is tried, whatever became of the others.

use super::{Edge, bridge::bridge_mark};
use crate::{error::HostError, fastdp::vxlan, mark::Mark, netlink::Link, ovs};

impl Edge {
    pub(super) fn reset(&self) -> Result<(), HostError> {
        let links = self.netlink.links()?;
        let bridge =
            links.iter().find(|link| link.name == self.bridge).and_then(|link| Some((link, bridge_mark(link)?)));
        let mut failed = self.unsettle(bridge.as_ref().map(|(link, mark)| (*link, mark)));
        // Only the bridge knows what there is to revert: it stays until that is done, so that a second reset finds it.
        let reverted = failed.is_empty();
        if bridge.is_some() {
            self.forget_bridged();
        }
        let index = bridge.as_ref().map(|(link, _)| link.index);
        failed.extend(ovs::remove(&self.netlink, &self.bridge).err());
        failed.extend(vxlan::remove(&self.netlink, &self.bridge).err());
        for link in links.iter().filter(|link| is_our_port(link, index) && !ovs::is_datapath(link, &self.bridge)) {
            failed.extend(self.netlink.remove(link).err());
        }
        if let Some((link, _)) = bridge.filter(|_| reverted) {
            failed.extend(self.netlink.remove(link).err());
        }
        if failed.is_empty() { Ok(()) } else { Err(HostError::Incomplete(failed)) }
    }
}

/// Whether a device was plugged into our bridge by us, or is marked by us and plugged in nowhere.
fn is_our_port(link: &Link, bridge: Option<u32>) -> bool {
    let marked = link.alias.as_deref().and_then(Mark::parse);
    matches!(marked, Some(Mark::Port | Mark::Container(_))) && (link.controller.is_none() || link.controller == bridge)
}
