//! `weft status ipam`, `explain ip`, `rmpeer` and `prime`.

use std::net::IpAddr;

use weft::api::{
    AddressExplanation, PrimeRequest, RemovePeersRequest,
    allocation::{AddressStatus, PeerLabel, Removal},
    text,
};

use crate::{client::Client, output};

/// Prints how the network gives out addresses.
pub(crate) fn status(client: &Client, json: bool) -> anyhow::Result<()> {
    let status: AddressStatus = client.get("/status/ipam?format=json")?;
    if json {
        return output::json(&status);
    }
    for (number, table) in text::ipam(&status).iter().enumerate() {
        if number > 0 {
            output::line("")?;
        }
        output::table(table)?;
    }
    Ok(())
}

/// Prints what is known of an address.
pub(crate) fn explain(client: &Client, address: IpAddr, json: bool) -> anyhow::Result<()> {
    let explanation: AddressExplanation = client.get(&format!("/explain/ip/{address}?format=json"))?;
    if json { output::json(&explanation) } else { output::table(&text::explanation(&explanation)) }
}

/// Declares peers dead.
pub(crate) fn rmpeer(client: &Client, peers: Vec<String>, json: bool) -> anyhow::Result<()> {
    let removal: Removal = client.post("/ipam/remove-peers", &RemovePeersRequest { peers })?;
    if json {
        return output::json(&removal);
    }
    let listed = |peers: &[PeerLabel]| peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let removed = listed(&removal.removed);
    output::line(format_args!("{} addresses taken over from {removed}", removal.reclaimed))?;
    if !removal.waiting_for.is_empty() {
        output::warn(format_args!(
            "not all is taken over yet: {} must agree and cannot be reached. It goes on when they can; if they are gone for \
             good, too: `weft rmpeer`",
            listed(&removal.waiting_for)
        ));
    }
    Ok(())
}

/// Waits until addresses can be given out.
pub(crate) fn prime(client: &Client, alone: bool) -> anyhow::Result<()> {
    Ok(client.tell("/ipam/prime", &PrimeRequest { alone })?)
}
