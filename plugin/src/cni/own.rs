//! Addresses that the network gives out itself: questions to the router.

use ipnet::IpNet;
use weft::api::{Addresses, allocation::AddressStatus, interface};

use super::{
    call::Attachment,
    failure::{Code, Failure},
    outcome::{Ip, Outcome},
    session::{Session, is_absence},
};

/// Gives an interface its addresses: those asked for, else one in each subnet of the configuration, else in the default ones. The same
/// ones when asked again.
pub(super) fn add(session: &Session<'_>, attachment: &Attachment) -> Result<Outcome, Failure> {
    let owner = attachment.owner(&session.config.network);
    let asked = session.config.asked(session.env)?;
    let given: Addresses = if asked.ips.is_empty() {
        let request = serde_json::json!({ "owner": owner, "subnets": session.config.subnets() });
        session.router.post("/ipam/allocate", &request)?
    } else {
        let request = serde_json::json!({ "owner": owner, "addresses": with_prefixes(session, &asked.ips)? });
        session.router.post("/ipam/claim", &request)?
    };
    if given.addresses.is_empty() {
        return Err(Failure::new(Code::TryAgain, "the router gave no address"));
    }
    let ipam = &session.config.fields.ipam;
    let gateway = |net: &IpNet| ipam.gateway.filter(|gateway| gateway.is_ipv4() == net.addr().is_ipv4());
    let ips = given.addresses.iter().map(|net| Ip::new(*net, gateway(net))).collect();
    Ok(Outcome { ips, routes: ipam.routes.clone(), dns: session.config.fields.dns.clone(), ..Outcome::default() })
}

/// Whether the interface has what ADD said.
pub(super) fn check(session: &Session<'_>, attachment: &Attachment, added: &Outcome) -> Result<(), Failure> {
    let owner = attachment.owner(&session.config.network);
    let has: Addresses = session.router.get(&format!("/ipam/owners/{}", escaped(&owner)))?;
    let is_missing = |ip: &&Ip| !has.addresses.contains(&ip.address);
    match added.ips.iter().find(is_missing) {
        Some(ip) => Err(Failure::new(Code::NotAsAdded, format!("{owner} does not have the address {}", ip.address))),
        None => Ok(()),
    }
}

/// Frees what interfaces have that the runtime does not know any more.
pub(super) fn gc(session: &Session<'_>) -> Result<(), Failure> {
    let valid = session.config.valid()?;
    let network = &session.config.network;
    let is_stale = |owner: &String| {
        interface::network_of(owner) == Some(network)
            && !valid.iter().any(|v| interface::name(network, &v.container, &v.device) == *owner)
    };
    let status: AddressStatus = session.router.get("/status/ipam")?;
    let failed: Vec<String> = status
        .owners
        .into_iter()
        .map(|allotment| allotment.owner)
        .filter(is_stale)
        .filter_map(|owner| session.free(&owner).err().map(|error| format!("{owner}: {error}")))
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(Code::Incomplete, "not all was freed").with(failed.join("; ")))
    }
}

/// Whether an address could be given out.
pub(super) fn status(session: &Session<'_>) -> Result<(), Failure> {
    let status: AddressStatus = session.router.get("/status/ipam").map_err(|error| {
        let failure = Failure::from(error);
        let code = if is_absence(&failure) { Code::LimitedConnectivity } else { Code::NotAvailable };
        Failure { code: code as u32, ..failure }
    })?;
    if matches!(status.state.as_str(), "ready" | "idle" | "conflict") {
        return Ok(());
    }
    Err(Failure::new(Code::NotAvailable, format!("addresses are not given out: {}", status.state)).with(status.info))
}

/// The addresses with the prefix lengths of their subnets: as given, of the configuration, or of the network.
fn with_prefixes(session: &Session<'_>, ips: &[(std::net::IpAddr, Option<u8>)]) -> Result<Vec<IpNet>, Failure> {
    let mut subnets = session.config.subnets();
    if ips.iter().any(|(ip, prefix)| prefix.is_none() && !subnets.iter().any(|subnet| subnet.contains(ip))) {
        let status: AddressStatus = session.router.get("/status/ipam").map_err(Failure::from)?;
        subnets.extend(status.default_subnets);
        subnets.extend(status.ranges);
    }
    let with_prefix = |(ip, prefix): &(std::net::IpAddr, Option<u8>)| {
        let of_subnet = || subnets.iter().find(|subnet| subnet.contains(ip)).map(IpNet::prefix_len);
        let net = prefix.or_else(of_subnet).and_then(|prefix| IpNet::new(*ip, prefix).ok());
        net.ok_or_else(|| {
            Failure::new(Code::InvalidConfig, format!("{ip} is in no subnet of the network: give its prefix length"))
        })
    };
    ips.iter().map(with_prefix).collect()
}

/// For a segment of a path.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Frees what an interface has; left as a note if no router hears.
pub(super) fn del(session: &Session<'_>, attachment: &Attachment) -> Result<(), Failure> {
    let owner = attachment.owner(&session.config.network);
    let freed = session.catch_up().and_then(|()| session.free(&owner).map_err(Failure::from));
    match freed {
        Err(failure) if is_absence(&failure) => session.note(&owner),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_safe_in_a_path() {
        assert_eq!(escaped("weft/0a/eth0 ä"), "weft%2F0a%2Feth0%20%C3%A4");
    }
}
