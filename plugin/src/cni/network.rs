//! The verbs of `weft-net`.

use weft::api::{Addresses, AttachRequest, Attachment as Attached, interface};
use weft_host::station::{self, Station};

use super::{
    call::{self, Attachment, Verb},
    failure::{Code, Failure},
    gateway, ipam,
    outcome::{Dns, Interface, Outcome},
    session::{Session, is_absence},
};

/// Plugs a container in. Whatever fails, what was done before is undone, as far as it can be.
pub(super) fn add(session: &Session<'_>) -> Result<Outcome, Failure> {
    let attachment = call::attachment(Verb::Add, session.env)?;
    let before = session.config.fields.prev_result.as_ref().map(Outcome::read).transpose()?;
    let is_new = station::inspect(attachment.namespace()?, &attachment.device)?.is_none();
    session.catch_up()?;
    let addresses = ipam::add(session, &attachment, is_new)?;
    let plugged = plug(session, &attachment, addresses).inspect_err(|_| {
        // What was there before this call is not its to undo.
        if is_new {
            // The failure that led here is what counts; the runtime calls DEL besides.
            let _ = session.detach(&attachment.owner(&session.config.network));
            let _ = ipam::del(session, &attachment);
        }
    })?;
    Ok(match before {
        Some(before) => plugged.after(before),
        None => plugged,
    })
}

/// Unplugs a container, also one whose namespace is gone, and also while no router runs.
pub(super) fn del(session: &Session<'_>) -> Result<(), Failure> {
    let attachment = call::attachment(Verb::Del, session.env)?;
    let owner = attachment.owner(&session.config.network);
    let unplugged = session.catch_up().and_then(|()| session.detach(&owner).map_err(Failure::from));
    match unplugged {
        Err(failure) if is_absence(&failure) => {
            station::unplug(&owner)?;
            session.note(&owner)?;
            // Ours are freed by whoever reads the note.
            if session.config.is_own_ipam() { Ok(()) } else { ipam::del(session, &attachment) }
        }
        unplugged => unplugged.and_then(|()| ipam::del(session, &attachment)),
    }
}

/// Sees whether a container is as ADD left it.
pub(super) fn check(session: &Session<'_>) -> Result<(), Failure> {
    let attachment = call::attachment(Verb::Check, session.env)?;
    let added = added(session, &attachment)?;
    let namespace = attachment.namespace()?;
    let seen = station::inspect(namespace, &attachment.device)?;
    let seen = seen.ok_or_else(|| changed(format!("there is no device {} in {namespace}", attachment.device)))?;
    compare(&seen, &attachment, &session.config.network, &added)?;
    ipam::check(session, &attachment, &added)
}

/// Unplugs what the runtime does not know any more, and frees its addresses. Goes on after a failure.
pub(super) fn gc(session: &Session<'_>) -> Result<(), Failure> {
    let network = &session.config.network;
    let valid: Vec<String> =
        session.config.valid()?.iter().map(|valid| interface::name(network, &valid.container, &valid.device)).collect();
    session.catch_up()?;
    let attached: Vec<Attached> = session.router.get("/ps")?;
    let names = attached.into_iter().map(|attached| attached.container);
    let stale = names.filter(|name| interface::network_of(name) == Some(network) && !valid.contains(name));
    let mut failed: Vec<String> =
        stale.filter_map(|name| session.detach(&name).err().map(|error| format!("{name}: {error}"))).collect();
    failed.extend(ipam::gc(session).err().map(|failure| failure.to_string()));
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Code::Incomplete, "not all could be cleaned up").with(failed.join("; ")))
}

/// Whether an ADD could succeed.
pub(super) fn status(session: &Session<'_>) -> Result<(), Failure> {
    session.router.ready().map_err(|error| {
        let is_there = matches!(error, crate::client::ClientError::Refused { .. });
        let code = if is_there { Code::NotAvailable } else { Code::LimitedConnectivity };
        Failure { code: code as u32, ..Failure::from(error) }
    })?;
    ipam::status(session)
}

/// What ADD said of this interface.
pub(super) fn added(session: &Session<'_>, attachment: &Attachment) -> Result<Outcome, Failure> {
    let result = session.config.fields.prev_result.as_ref();
    let result = result.ok_or_else(|| Failure::new(Code::InvalidConfig, "CHECK needs `prevResult`"))?;
    let mut added = Outcome::read(result)?;
    let is_it = |interface: &Interface| interface.name == attachment.device && !interface.sandbox.is_empty();
    let own = added.interfaces.iter().position(is_it);
    // Those of other interfaces are not ours to check.
    added.ips.retain(|ip| ip.interface.is_none() || ip.interface == own);
    Ok(added)
}

/// Attaches, with the addresses that were given.
fn plug(session: &Session<'_>, attachment: &Attachment, mut outcome: Outcome) -> Result<Outcome, Failure> {
    let fields = &session.config.fields;
    gateway::settle(session, &mut outcome)?;
    let namespace = attachment.namespace()?;
    let request = AttachRequest {
        container: namespace.to_owned(),
        name: Some(attachment.owner(&session.config.network)),
        device: Some(attachment.device.clone()),
        addresses: outcome.ips.iter().map(|ip| ip.address).collect(),
        routes: outcome.routes.clone(),
        // A route of its own for multicast would be needed only without a default route.
        no_multicast_route: true,
        hairpin: Some(fields.hairpin_mode.unwrap_or(true)),
        mac: session.config.asked(session.env)?.mac,
        mtu: Some(fields.mtu).filter(|mtu| *mtu > 0),
    };
    let attached = session.router.post::<Addresses>("/attach", &request);
    // Of a refusal, that the namespace vanished meanwhile is the better reason.
    attached.map_err(|error| station::is_namespace(namespace).map_or_else(Failure::from, |()| error.into()))?;
    let vanished = || Failure::new(Code::UnknownContainer, format!("{namespace} vanished while it was plugged in"));
    let seen = station::inspect(namespace, &attachment.device)?.ok_or_else(vanished)?;
    outcome.interfaces = interfaces(&seen, attachment, namespace);
    outcome.ips.iter_mut().for_each(|ip| ip.interface = Some(outcome.interfaces.len() - 1));
    if outcome.dns == Dns::default() {
        outcome.dns = fields.dns.clone();
    }
    Ok(outcome)
}

/// The host's side, then the container's.
fn interfaces(seen: &Station, attachment: &Attachment, namespace: &str) -> Vec<Interface> {
    let mac = |mac: Option<weft::id::Mac>| mac.map(|mac| mac.to_string()).unwrap_or_default();
    let outside = seen.outside.as_ref().map(|outside| Interface {
        name: outside.device.clone(),
        mac: mac(outside.mac),
        mtu: Some(outside.mtu),
        sandbox: String::new(),
    });
    let inside = Interface {
        name: attachment.device.clone(),
        mac: mac(seen.mac),
        mtu: Some(seen.mtu),
        sandbox: namespace.to_owned(),
    };
    outside.into_iter().chain([inside]).collect()
}

/// Whether a device is as it was added.
fn compare(seen: &Station, attachment: &Attachment, network: &str, added: &Outcome) -> Result<(), Failure> {
    let owner = attachment.owner(network);
    let outside = seen.outside.as_ref().filter(|outside| outside.container == owner && outside.plugged);
    let outside = outside.ok_or_else(|| changed(format!("it is not plugged into the bridge as {owner}")))?;
    for interface in &added.interfaces {
        let (mac, mtu) = if interface.sandbox.is_empty() && interface.name == outside.device {
            (outside.mac, outside.mtu)
        } else if !interface.sandbox.is_empty() && interface.name == attachment.device {
            (seen.mac, seen.mtu)
        } else {
            continue;
        };
        if !interface.mac.is_empty() && mac.map(|mac| mac.to_string()) != Some(interface.mac.to_ascii_lowercase()) {
            return Err(changed(format!("{} does not have the Ethernet address {}", interface.name, interface.mac)));
        }
        if interface.mtu.is_some_and(|added| added != mtu) {
            return Err(changed(format!("{} has an MTU of {mtu}", interface.name)));
        }
    }
    if let Some(ip) = added.ips.iter().find(|ip| !seen.addresses.contains(&ip.address)) {
        return Err(changed(format!("the address {} is missing", ip.address)));
    }
    let has = |route: &weft::api::Route| {
        seen.routes.iter().any(|(dst, gw)| *dst == route.dst.trunc() && (route.gw.is_none() || *gw == route.gw))
    };
    // Routes of other tables are not looked at.
    match added.routes.iter().find(|route| route.table.is_none() && !has(route)) {
        Some(route) => Err(changed(format!("the route to {} is missing", route.dst))),
        None => Ok(()),
    }
}

fn changed(what: impl ToString) -> Failure {
    Failure::new(Code::NotAsAdded, "the container is not as ADD left it").with(what)
}
