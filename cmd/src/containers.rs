//! `weft attach`, `detach`, `ps`, `expose` and `hide`.

use weft::{
    api::{Addresses, AttachRequest, Attachment, ExposeRequest, address::WantedAddress},
    names::owner::EXPOSED,
};
use weft_plugin::client::Client;

use crate::{
    cli::{Attach, Detach, Expose, Hide},
    docker, names, output,
};

/// Plugs a container in.
pub(crate) fn attach(client: &Client, attach: Attach) -> anyhow::Result<()> {
    let Attach { no_multicast_route, names, json, addresses, container } = attach;
    let (named, addresses) = (docker::resolved(&container)?.running()?, parsed(&addresses)?);
    let owner = named.owner().to_owned();
    let docker::Named { container, name, .. } = named;
    let request = AttachRequest { container, name, addresses, no_multicast_route, ..AttachRequest::default() };
    let attached: Addresses = client.post("/attach", &request)?;
    names::register(client, &owner, &names, &attached.addresses)?;
    show(&attached, json)
}

/// Unplugs a container, wholly or in part.
pub(crate) fn detach(client: &Client, detach: Detach) -> anyhow::Result<()> {
    let Detach { json, addresses, container } = detach;
    // Where its namespace is tells under what it is attached; of one that does not run only its name is left.
    let (container, name) = docker::resolved(&container)?.for_detach();
    let request: AttachRequest =
        AttachRequest { container, name, addresses: parsed(&addresses)?, ..AttachRequest::default() };
    show(&client.post("/detach", &request)?, json)
}

/// Gives this host addresses.
pub(crate) fn expose(client: &Client, expose: Expose) -> anyhow::Result<()> {
    let Expose { names, without_masquerade, json, addresses, .. } = expose;
    let request = ExposeRequest { addresses: parsed(&addresses)?, without_masquerade };
    let exposed: Addresses = client.post("/expose", &request)?;
    names::register(client, EXPOSED, &names, &exposed.addresses)?;
    show(&exposed, json)
}

/// Takes addresses of this host away.
pub(crate) fn hide(client: &Client, hide: Hide) -> anyhow::Result<()> {
    let Hide { json, addresses } = hide;
    show(&client.post("/hide", &ExposeRequest { addresses: parsed(&addresses)?, without_masquerade: false })?, json)
}

/// Lists what is attached; only `containers`, if any are named.
pub(crate) fn ps(client: &Client, containers: &[String], json: bool) -> anyhow::Result<()> {
    let mut attachments: Vec<Attachment> = client.get("/ps")?;
    let names = containers.iter().map(|name| docker::names(name)).collect::<anyhow::Result<Vec<_>>>()?.concat();
    attachments.retain(|attachment| containers.is_empty() || names.contains(&attachment.container));
    if json {
        return output::json(&attachments);
    }
    attachments.iter().try_for_each(|Attachment { container, mac, addresses }| {
        let words = addresses.iter().map(|address| format!(" {address}")).collect::<String>();
        output::line(format_args!("{container} {mac}{words}"))
    })
}

fn parsed(addresses: &[String]) -> anyhow::Result<Vec<WantedAddress>> {
    Ok(addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>()?)
}

/// Prints addresses as `weave attach` does: without prefix length, a space between them.
fn show(addresses: &Addresses, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(addresses);
    }
    let words: Vec<_> = addresses.addresses.iter().map(|address| address.addr().to_string()).collect();
    if words.is_empty() { Ok(()) } else { output::line(words.join(" ")) }
}
