//! Which addresses may be given to whom: rules that the kernel's edge and its double share.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use crate::error::HostError;

/// Checks what was asked for, and leaves out repetitions.
///
/// # Errors
/// [`HostError::NoAddress`] for none, [`HostError::UnusableAddress`] for one that no station can have.
pub(crate) fn checked(asked: &[IpNet]) -> Result<Vec<IpNet>, HostError> {
    let mut seen = BTreeSet::new();
    let addresses: Vec<IpNet> = asked.iter().copied().filter(|address| seen.insert(*address)).collect();
    if addresses.is_empty() {
        return Err(HostError::NoAddress);
    }
    for &address in &addresses {
        if let Some(what) = why_unusable(address) {
            return Err(HostError::UnusableAddress { address, what });
        }
        if let Some(other) = addresses.iter().find(|other| other.addr() == address.addr() && **other != address) {
            return Err(taken(address, format!("the same request, as {other}")));
        }
    }
    Ok(addresses)
}

/// As [`checked`], where none is well too.
///
/// # Errors
/// [`HostError::UnusableAddress`] for one that no station can have.
pub(crate) fn optional(asked: &[IpNet]) -> Result<Vec<IpNet>, HostError> {
    if asked.is_empty() { Ok(Vec::new()) } else { checked(asked) }
}

/// Those of the addresses asked for that a station does not have yet.
///
/// # Errors
/// [`HostError::AddressTaken`] if the station has an address with another prefix length, or `others` (with a description) have it.
pub(crate) fn missing(asked: &[IpNet], has: &[IpNet], others: &[(IpNet, String)]) -> Result<Vec<IpNet>, HostError> {
    let mut missing = Vec::new();
    for &address in asked {
        if has.contains(&address) {
            continue;
        }
        if let Some(other) = has.iter().find(|other| other.addr() == address.addr()) {
            return Err(taken(address, format!("itself as {other}")));
        }
        if let Some((_, by)) = others.iter().find(|(other, _)| other.addr() == address.addr()) {
            return Err(taken(address, by.clone()));
        }
        missing.push(address);
    }
    Ok(missing)
}

/// Those of the addresses that a station has that shall go, in order: the ones asked for, or all if none is.
pub(crate) fn leaving(asked: &[IpNet], has: &[IpNet]) -> Vec<IpNet> {
    let mut leaving: Vec<IpNet> = has.iter().copied().filter(|net| asked.is_empty() || asked.contains(net)).collect();
    leaving.sort();
    leaving
}

/// Whether the kernel gives the address of itself: never ours to give, take or show.
pub(crate) fn is_automatic(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Whether peers on other hosts may use an address of this host.
pub(crate) fn is_underlay(address: IpAddr) -> bool {
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return false;
    }
    match address {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

fn taken(address: IpNet, by: String) -> HostError {
    HostError::AddressTaken { address, by }
}

fn why_unusable(net: IpNet) -> Option<&'static str> {
    let address = net.addr();
    if address.is_unspecified() {
        return Some("no address");
    }
    if address.is_loopback() {
        return Some("a loopback address");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    if is_automatic(address) {
        return Some("a link-local address, which the kernel chooses itself");
    }
    if net.prefix_len() == 0 {
        return Some("an address whose subnet is the whole world");
    }
    let IpNet::V4(v4) = net else { return None };
    if v4.addr() == Ipv4Addr::BROADCAST {
        return Some("the broadcast address");
    }
    // RFC 3021: subnets of two and one addresses have neither.
    if v4.prefix_len() >= 31 {
        return None;
    }
    if v4.addr() == v4.network() {
        return Some("the name of its subnet, not an address in it");
    }
    (v4.addr() == v4.broadcast()).then_some("the broadcast address of its subnet")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_no_station_can_have_is_refused() {
        let bad = [
            "0.0.0.0/8",
            "127.0.0.1/8",
            "224.0.0.1/4",
            "10.2.0.0/24",
            "10.2.0.255/24",
            "255.255.255.255/32",
            "10.0.0.1/0",
            "::/64",
            "::1/128",
            "ff02::1/64",
            "fe80::1/64",
        ];
        for text in bad {
            assert!(matches!(checked(&nets(&[text])), Err(HostError::UnusableAddress { .. })), "{text}");
        }
        for text in ["10.2.0.1/24", "10.2.0.0/31", "10.2.0.0/32", "169.254.1.1/16", "fd00::1/64", "fd00::/64"] {
            assert!(checked(&nets(&[text])).is_ok(), "{text}");
        }
        assert_eq!(checked(&[]), Err(HostError::NoAddress));
    }

    #[test]
    fn repetitions_are_left_out_and_contradictions_refused() {
        assert_eq!(checked(&nets(&["10.2.0.1/24", "10.2.0.1/24"])), Ok(nets(&["10.2.0.1/24"])));
        assert!(matches!(checked(&nets(&["10.2.0.1/24", "10.2.0.1/16"])), Err(HostError::AddressTaken { .. })));
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let has = nets(&["10.2.0.1/24"]);
        assert_eq!(missing(&nets(&["10.2.0.1/24", "10.2.0.2/24"]), &has, &[]), Ok(nets(&["10.2.0.2/24"])));
        assert!(missing(&nets(&["10.2.0.1/16"]), &has, &[]).is_err());
        let others = vec![("10.2.0.9/16".parse().unwrap(), "eth0 of \"c1\"".to_owned())];
        let error = missing(&nets(&["10.2.0.9/24"]), &has, &others).unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.2.0.9/24 is taken by eth0 of \"c1\": detach it there first, or choose another"
        );
    }

    #[test]
    fn none_asked_means_all_leave() {
        let has = nets(&["10.2.0.1/24", "fd00::1/64"]);
        assert_eq!(leaving(&[], &has), has);
        assert_eq!(leaving(&nets(&["fd00::1/64", "10.2.0.1/16"]), &has), nets(&["fd00::1/64"]));
    }

    #[test]
    fn peers_are_not_told_addresses_that_mean_nothing_to_them() {
        for text in ["127.0.0.1", "169.254.0.3", "::1", "fe80::1", "0.0.0.0", "224.0.0.1"] {
            assert!(!is_underlay(text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.1", "192.0.2.1", "fd00::1", "2001:db8::1"] {
            assert!(is_underlay(text.parse().unwrap()), "{text}");
        }
    }
}
