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
    docker, output,
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
    let Words { addresses, container, name } = Words::of(&add.words)?;
    let name = name.context("no name given: weft dns-add NAME ADDRESS…, or CONTAINER NAME")?;
    let Some(container) = container else {
        ensure!(!addresses.is_empty(), "no address given: weft dns-add {name} ADDRESS…, or CONTAINER {name}");
        client.post::<NamesChanged>("/dns/add", &NameAddRequest { owner: None, name, addresses })?;
        return Ok(());
    };
    for (owner, addresses) in places(&container, addresses, client.get("/ps")?, &docker::names(container.as_str())?)? {
        let request = NameAddRequest { owner: Some(owner), name: name.clone(), addresses };
        client.post::<NamesChanged>("/dns/add", &request)?;
    }
    Ok(())
}

/// Takes names away.
pub(crate) fn remove(client: &Client, remove: DnsRemove) -> anyhow::Result<()> {
    let Words { addresses, container, name } = match remove.all {
        Some(container) => Words { addresses: Vec::new(), container: Some(container.parse()?), name: None },
        None => Words::of(&remove.words)?,
    };
    let owners: Vec<Option<Owner>> = match container {
        None => vec![None],
        Some(container) => {
            let called = docker::names(container.as_str())?;
            called.iter().map(|name| Ok(Some(name.parse()?))).collect::<anyhow::Result<_>>()?
        }
    };
    let mut removed = 0;
    for owner in owners {
        let request = NameRemoveRequest { owner, name: name.clone(), addresses: addresses.clone() };
        removed += client.post::<NamesChanged>("/dns/remove", &request)?.changed;
    }
    if removed == 0 {
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

/// Under whom a container's addresses get a name: whatever it is attached under, so that the name is gone when that is. `called` are the
/// names by which the router may list it.
fn places(
    container: &Owner,
    addresses: Vec<IpAddr>,
    mut attached: Vec<Attachment>,
    called: &[String],
) -> anyhow::Result<Vec<(Owner, Vec<IpAddr>)>> {
    attached.retain(|line| called.contains(&line.container) && !line.addresses.is_empty());
    let has = |line: &Attachment| line.addresses.iter().map(IpNet::addr).collect::<Vec<_>>();
    if addresses.is_empty() {
        ensure!(
            !attached.is_empty(),
            "{container} is not attached: `weft ps` lists who is, and addresses may be given instead"
        );
        return attached.iter().map(|line| Ok((line.container.parse()?, has(line)))).collect();
    }
    let its = attached.iter().find(|line| has(line).contains(&addresses[0])).or(attached.first());
    let owner = its.map_or_else(|| Ok(container.clone()), |line| line.container.parse())?;
    Ok(vec![(owner, addresses)])
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

    fn attached(container: &str, addresses: &[&str]) -> Attachment {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Attachment { container: container.to_owned(), mac: weft::id::Mac([2; 6]), addresses }
    }

    #[test]
    fn a_name_is_of_what_the_container_is_attached_under() {
        let lines = || {
            vec![
                attached("docker:0a", &["10.0.0.1/24", "fd00::1/64"]),
                attached("docker:0b", &["10.0.1.1/24"]),
                attached("docker:0c", &[]),
                attached("other", &["10.0.0.9/24"]),
            ]
        };
        let called = ["web", "7", "docker:0a", "docker:0b", "docker:0c"].map(str::to_owned);
        let web: Owner = "web".parse().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let shown = |addresses: &[&str], called: &[String]| {
            let addresses = addresses.iter().map(|text| ip(text)).collect();
            let places = places(&web, addresses, lines(), called)?;
            let shown = places.into_iter().map(|(owner, addresses)| (owner.to_string(), addresses));
            anyhow::Ok(shown.collect::<Vec<_>>())
        };
        let all = [
            ("docker:0a".to_owned(), vec![ip("10.0.0.1"), ip("fd00::1")]),
            ("docker:0b".to_owned(), vec![ip("10.0.1.1")]),
        ];
        assert_eq!(shown(&[], &called).unwrap(), all);
        assert_eq!(shown(&["10.0.1.1"], &called).unwrap(), [all[1].clone()]);
        assert_eq!(shown(&["10.9.9.9"], &called).unwrap(), [("docker:0a".to_owned(), vec![ip("10.9.9.9")])]);
        assert_eq!(shown(&["10.9.9.9"], &called[..1]).unwrap(), [("web".to_owned(), vec![ip("10.9.9.9")])]);
        assert!(shown(&[], &called[..1]).unwrap_err().to_string().contains("web is not attached"));
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
