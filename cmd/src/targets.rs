//! `weft connect` and `weft forget`.

use weft::{
    api::{ConnectRequest, ForgetRequest},
    node::input::Target,
};
use weft_plugin::client::Client;

/// Adds targets, or replaces all.
pub(crate) fn connect(client: &Client, targets: Vec<Target>, replace: bool) -> anyhow::Result<()> {
    Ok(client.tell("/connect", &ConnectRequest { targets, replace })?)
}

/// Removes targets.
pub(crate) fn forget(client: &Client, targets: Vec<Target>) -> anyhow::Result<()> {
    Ok(client.tell("/forget", &ForgetRequest { targets })?)
}
