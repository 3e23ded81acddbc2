//! `weft status` and `weft report`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, de::DeserializeOwned};
use weft::api::{
    Connection, Endpoint, NameLine, Path, Peer, Report, Summary, TargetStatus,
    path::PeerExplanation,
    text::{self, Table},
};
use weft_plugin::client::Client;

use crate::{addresses, cli::What, output};

/// Prints the summary or a table, for people or as JSON.
pub(crate) fn status(client: &Client, what: What, json: bool) -> anyhow::Result<()> {
    match what {
        What::Summary if json => output::json(&client.get::<Summary>("/status?format=json")?),
        What::Summary => output::table(&text::summary(&client.get::<Report>("/report")?)),
        What::Connections => show::<Connection>(client, "connections", json, text::connections),
        What::Peers => show::<Peer>(client, "peers", json, text::peers),
        What::Targets => show::<TargetStatus>(client, "targets", json, text::targets),
        What::Endpoints => show::<Endpoint>(client, "endpoints", json, text::endpoints),
        What::Dns => show::<NameLine>(client, "dns", json, text::names),
        What::Ipam => addresses::status(client, json),
        What::Paths => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            show::<Path>(client, "paths", json, |paths| text::paths(paths, now))
        }
    }
}

/// Prints why frames go to a peer the way they do.
pub(crate) fn explain(client: &Client, peer: &str, json: bool) -> anyhow::Result<()> {
    let explanation: PeerExplanation = client.get(&format!("/explain/peer/{}?format=json", escaped(peer)))?;
    if json {
        return output::json(&explanation);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for (number, table) in text::peer(&explanation, now).iter().enumerate() {
        if number > 0 {
            output::line("")?;
        }
        output::table(table)?;
    }
    Ok(())
}

/// A text as a part of a path of a URL (RFC 3986 §2.1).
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Prints everything.
pub(crate) fn report(client: &Client) -> anyhow::Result<()> {
    output::json(&client.get::<Report>("/report")?)
}

fn show<T: Serialize + DeserializeOwned>(
    client: &Client,
    what: &str,
    json: bool,
    table: impl Fn(&[T]) -> Table,
) -> anyhow::Result<()> {
    let lines: Vec<T> = client.get(&format!("/status/{what}?format=json"))?;
    if json { output::json(&lines) } else { output::table(&table(&lines)) }
}
