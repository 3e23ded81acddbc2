//! The host itself on the network: addresses of the bridge, translation of what passes to elsewhere, and forwarding.
//!
//! What is exposed are the bridge's own addresses; which of them without masquerade, the bridge's mark says. The packet filter's rules
//! follow from these two, so that they are put back whole at each start, whatever was flushed meanwhile.
//!
//! Without an exposed IPv6 address the bridge has no IPv6 at all, so that nobody on the network reaches a host that is not exposed.
//!
//! Forwarding is a switch of the whole host. It is switched on, if it is off, when the first address with masquerade is exposed; the
//! mark remembers that it was us, and with the last such address, or at reset, it is switched off again. One that was on stays on.

use std::net::IpAddr;

use ipnet::IpNet;
use weft::api::ExposeRequest;

use super::{
    Edge,
    container::{add_all, given},
};
use crate::{
    addressing, announce,
    error::HostError,
    mark::{BridgeMark, Mark},
    netlink::Link,
    nft,
    sysctl::{self, Forwarding},
};

impl Edge {
    pub(super) fn expose(&self, request: &ExposeRequest<IpNet>) -> Result<Vec<IpNet>, HostError> {
        let asked = addressing::checked(&request.addresses)?;
        let (bridge, before) = self.our_bridge()?;
        let has = self.exposed(&bridge)?;
        let mut others = self.taken(None)?;
        others.extend(self.on_other_devices(&bridge)?);
        let missing = addressing::missing(&asked, &has, &others)?;

        let plain_before = before.plain.clone();
        let mut plain: Vec<IpNet> = plain_before.iter().copied().filter(|net| !asked.contains(net)).collect();
        if request.without_masquerade {
            plain.extend(&asked);
            plain.sort();
        }
        let wanted = BridgeMark { plain, ..before };
        if !Mark::Bridge(BridgeMark { switched4: true, switched6: true, ..wanted.clone() }).fits() {
            return Err(HostError::TooManyExposed);
        }
        if missing.iter().any(|net| net.addr().is_ipv6()) {
            sysctl::unmute(&self.bridge)?;
        }
        add_all(&self.netlink, &bridge, &missing)?;
        if let Err(error) = self.settle(&bridge, wanted) {
            self.unexpose(&bridge, &missing, plain_before)?;
            return Err(error);
        }
        let addresses: Vec<IpAddr> = asked.iter().map(IpNet::addr).collect();
        if let Err(error) = announce::announce(&bridge, &addresses) {
            tracing::warn!(%error, "neighbours are not told of the exposed addresses");
        }
        Ok(asked)
    }

    pub(super) fn hide(&self, request: &ExposeRequest<IpNet>) -> Result<Vec<IpNet>, HostError> {
        let (bridge, mut mark) = match self.our_bridge() {
            Err(HostError::NoBridge(_)) => return Ok(Vec::new()),
            found => found?,
        };
        let leaving = addressing::leaving(&request.addresses, &self.exposed(&bridge)?);
        mark.plain.retain(|net| !leaving.contains(net));
        self.unexpose(&bridge, &leaving, mark.plain)?;
        Ok(leaving)
    }

    fn unexpose(&self, bridge: &Link, leaving: &[IpNet], plain: Vec<IpNet>) -> Result<(), HostError> {
        leaving.iter().try_for_each(|net| self.netlink.remove_address(bridge, *net))?;
        // Read again: forwarding may have been switched on since.
        let (_, mark) = self.our_bridge()?;
        self.settle(bridge, BridgeMark { plain, ..mark })
    }

    /// The host's addresses on the bridge, in order.
    pub(super) fn exposed(&self, bridge: &Link) -> Result<Vec<IpNet>, HostError> {
        Ok(given(&self.netlink.addresses(None)?, bridge.index))
    }

    /// Puts back, at start, what follows from the bridge. Rules of a bridge that is no more are taken away; a host without `nft` has
    /// none.
    pub(super) fn restore_exposure(&self, bridge: &Link, mark: &BridgeMark) -> Result<(), HostError> {
        match self.settle(bridge, mark.clone()) {
            Err(error) if self.masqueraded(bridge, mark)?.is_empty() => {
                tracing::debug!(%error, "no stale rules of the packet filter could be removed");
                Ok(())
            }
            result => result,
        }
    }

    /// Removes the rules, and switches off the forwarding that was switched on for them.
    pub(super) fn unsettle(&self, bridge: Option<(&Link, &BridgeMark)>) -> Vec<HostError> {
        let masqueraded = bridge.map_or(Ok(Vec::new()), |(link, mark)| self.masqueraded(link, mark));
        let mut failed = Vec::new();
        match (nft::apply("remove the table of weft", &nft::script(&self.bridge, &[])), masqueraded) {
            (Err(error), Ok(rules)) if rules.is_empty() => tracing::debug!(%error, "there were no rules to remove"),
            (removed, _) => failed.extend(removed.err()),
        }
        for forwarding in [Forwarding::V4, Forwarding::V6] {
            if bridge.is_some_and(|(_, mark)| mark.switched(forwarding)) {
                failed.extend(forwarding.set(false).err());
            }
        }
        failed
    }

    /// Brings rules, forwarding and the bridge's memory to what its addresses and `mark` say.
    fn settle(&self, bridge: &Link, mut mark: BridgeMark) -> Result<(), HostError> {
        if !self.exposed(bridge)?.iter().any(|net| net.addr().is_ipv6()) {
            // Else containers reached the host by its link-local address, exposed or not.
            sysctl::mute(&self.bridge)?;
        }
        let masqueraded = self.masqueraded(bridge, &mark)?;
        let mut on = Vec::new();
        for forwarding in [Forwarding::V4, Forwarding::V6] {
            let needed = masqueraded.iter().any(|net| forwarding.concerns(net.addr()));
            if needed && !forwarding.is_on()? {
                self.check_risk(forwarding)?;
                on.push(forwarding);
                *mark.switched_mut(forwarding) = true;
            }
            if !needed && mark.switched(forwarding) {
                forwarding.set(false)?;
                *mark.switched_mut(forwarding) = false;
            }
        }
        // Remembered before it is done: if we are killed in between, it can still be reverted.
        self.netlink.set_alias(bridge, &Mark::Bridge(mark).to_string())?;
        on.into_iter().try_for_each(|forwarding| forwarding.set(true))?;
        match nft::apply("put the rules of weft in place", &nft::script(&self.bridge, &masqueraded)) {
            Err(HostError::NftMissing) if masqueraded.is_empty() => Ok(()),
            result => result,
        }
    }

    fn check_risk(&self, forwarding: Forwarding) -> Result<(), HostError> {
        // A host that forwards takes itself for a router and ignores the advertisements of others (accept_ra, ip-sysctl).
        if forwarding == Forwarding::V6 && self.netlink.lives_by_advertisements()? {
            return Err(HostError::ForwardingRisky);
        }
        Ok(())
    }

    /// The exposed addresses with masquerade.
    fn masqueraded(&self, bridge: &Link, mark: &BridgeMark) -> Result<Vec<IpNet>, HostError> {
        let exposed = self.exposed(bridge)?;
        Ok(exposed.into_iter().filter(|net| !mark.plain.contains(net)).collect())
    }

    /// Addresses of this host on all but the bridge, with who has them.
    fn on_other_devices(&self, bridge: &Link) -> Result<Vec<(IpNet, String)>, HostError> {
        let links = self.netlink.links()?;
        let name =
            |index: u32| links.iter().find(|link| link.index == index).map_or("a device", |link| link.name.as_str());
        let addresses = self.netlink.addresses(None)?.into_iter().filter(|address| address.index != bridge.index);
        Ok(addresses.map(|address| (address.net, format!("{} of this host", name(address.index)))).collect())
    }
}
