//! `weft status` and `weft report`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, de::DeserializeOwned};
use weft::api::{
    Connection, Endpoint, Path, Peer, Report, Summary, TargetStatus,
    text::{self, Table},
};

use crate::{addresses, cli::What, client::Client, output};

/// Prints the summary or a table, for people or as JSON.
pub(crate) fn status(client: &Client, what: What, json: bool) -> anyhow::Result<()> {
    match what {
        What::Summary if json => output::json(&client.get::<Summary>("/status?format=json")?),
        What::Summary => output::table(&text::summary(&client.get::<Report>("/report")?)),
        What::Connections => show::<Connection>(client, "connections", json, text::connections),
        What::Peers => show::<Peer>(client, "peers", json, text::peers),
        What::Targets => show::<TargetStatus>(client, "targets", json, text::targets),
        What::Endpoints => show::<Endpoint>(client, "endpoints", json, text::endpoints),
        What::Ipam => addresses::status(client, json),
        What::Paths => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            show::<Path>(client, "paths", json, |paths| text::paths(paths, now))
        }
    }
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
