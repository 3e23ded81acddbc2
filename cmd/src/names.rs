//! `weft dns-add`, `dns-remove`, `dns-lookup` and `dns-args`; and the names that `attach` and `expose` register.

use std::net::IpAddr;

use anyhow::{Context, bail, ensure};
use ipnet::IpNet;
use weft::{
    api::{Attachment, DnsServer, Lookup, NameAddRequest, NameRemoveRequest, NamesChanged},
    names::{DnsName, Owner},
};
use weft_plugin::client::{Client, ClientError};
use weft_router::dns::PORT;

use crate::{
    cli::{DnsAdd, DnsRemove},
    output,
};

/// The status for what is not there (RFC 9110 §15.5.5).
const NOT_FOUND: u16 = 404;

/// What the words of a command are: addresses wherever they stand, then a container, then a name.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    addresses: Vec<IpAddr>,
    container: Option<Owner>,
    name: Option<DnsName>,
}

/// Gives addresses, or all addresses of a container, a name.
pub(crate) fn add(client: &Client, add: &DnsAdd) -> anyhow::Result<()> {
    let Words { mut addresses, container, name } = Words::of(&add.words)?;
    let name = name.context("no name given: weft dns-add NAME ADDRESS…, or CONTAINER NAME")?;
    if let (Some(container), true) = (&container, addresses.is_empty()) {
        addresses = addresses_of(client, container)?;
    }
    ensure!(!addresses.is_empty(), "no address given: weft dns-add {name} ADDRESS…, or CONTAINER {name}");
    client.post::<NamesChanged>("/dns/add", &NameAddRequest { owner: container, name, addresses })?;
    Ok(())
}

/// Takes names away.
pub(crate) fn remove(client: &Client, remove: DnsRemove) -> anyhow::Result<()> {
    let request = match remove.all {
        Some(container) => NameRemoveRequest { owner: Some(container.parse()?), name: None, addresses: Vec::new() },
        None => {
            let Words { addresses, container, name } = Words::of(&remove.words)?;
            NameRemoveRequest { owner: container, name, addresses }
        }
    };
    let changed: NamesChanged = client.post("/dns/remove", &request)?;
    if changed.changed == 0 {
        output::warn("nothing here had such a name: `weft status dns` lists names with their owners and routers");
    }
    Ok(())
}

/// Prints where a name leads, or which names an address has, one a line.
pub(crate) fn lookup(client: &Client, asked: &str, json: bool) -> anyhow::Result<()> {
    // Whatever is asked is one segment of a path.
    ensure!(asked.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)), "`{asked}` is no name");
    let found: Lookup = client.get(&format!("/dns/lookup/{asked}"))?;
    if json {
        return output::json(&found);
    }
    if asked.parse::<IpAddr>().is_ok() {
        return found.names.iter().try_for_each(output::line);
    }
    found.addresses.iter().try_for_each(output::line)
}

/// Prints options for `docker run`; nothing if no query is answered here.
pub(crate) fn args(client: &Client) -> anyhow::Result<()> {
    let server: DnsServer = match client.get("/dns") {
        Ok(server) => server,
        Err(ClientError::Refused { status: NOT_FOUND, .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // Resolvers know no other port.
    let usual = server.listening.iter().filter(|address| address.port() == PORT);
    let mut words: Vec<String> = usual.map(|address| format!("--dns={}", address.ip())).collect();
    if words.is_empty() {
        output::warn(format_args!("names are not answered at port {PORT} here yet: `weft expose` gives an address"));
        return Ok(());
    }
    words.push(format!("--dns-search={}", server.domain));
    output::line(words.join(" "))
}

/// Registers names of who has just got these addresses.
pub(crate) fn register(client: &Client, owner: &str, names: &[DnsName], addresses: &[IpNet]) -> anyhow::Result<()> {
    for name in names {
        let addresses = addresses.iter().map(IpNet::addr).collect();
        let request = NameAddRequest { owner: Some(owner.parse()?), name: name.clone(), addresses };
        let added = client.post::<NamesChanged>("/dns/add", &request);
        added.with_context(|| format!("{owner} has its addresses, but not the name {name}"))?;
    }
    Ok(())
}

fn addresses_of(client: &Client, container: &Owner) -> anyhow::Result<Vec<IpAddr>> {
    let attachments: Vec<Attachment> = client.get("/ps")?;
    let Some(own) = attachments.iter().find(|attachment| attachment.container == container.as_str()) else {
        bail!("{container} is not attached: `weft ps` lists who is, and addresses may be given instead");
    };
    Ok(own.addresses.iter().map(IpNet::addr).collect())
}

impl Words {
    fn of(words: &[String]) -> anyhow::Result<Self> {
        let is_address = |word: &&String| word.parse::<IpAddr>().is_ok();
        let addresses = words.iter().filter_map(|word| word.parse().ok()).collect();
        let others: Vec<&String> = words.iter().filter(|word| !is_address(word)).collect();
        let (container, name) = match &others[..] {
            [] => (None, None),
            [name] => (None, Some(name.parse()?)),
            [container, name] => (Some(container.parse()?), Some(name.parse()?)),
            [_, _, more, ..] => bail!("`{more}` is too much: give addresses, then a container or none, then a name"),
        };
        Ok(Self { addresses, container, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> anyhow::Result<Words> {
        Words::of(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_addresses_a_container_and_a_name() {
        for (text, addresses, container, name) in [
            ("web 10.0.0.1 fd00::1", 2, None, Some("web")),
            ("10.0.0.1 web.weft.local", 1, None, Some("web.weft.local")),
            ("c1 web", 0, Some("c1"), Some("web")),
            ("10.0.0.1 /run/netns/c1 web", 1, Some("/run/netns/c1"), Some("web")),
            ("10.0.0.1 1234 web", 1, Some("1234"), Some("web")),
            ("10.0.0.1", 1, None, None),
        ] {
            let words = words(text).unwrap();
            assert_eq!(words.addresses.len(), addresses, "{text}");
            assert_eq!(words.container.as_ref().map(Owner::as_str), container, "{text}");
            assert_eq!(words.name.as_ref().map(DnsName::as_str), name, "{text}");
        }
        assert!(words("a b c").is_err() && words("a_b /x").is_err());
    }
}
