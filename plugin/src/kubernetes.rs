//! Kubernetes: which routers to connect to follows from the cluster's nodes.
//!
//! Here is what is read of a Node object (`v1.Node`): its name, and the addresses in `status.addresses`.

use serde::Deserialize;

/// The address type under which nodes reach each other.
const INTERNAL: &str = "InternalIP";

/// A Node object, as far as it concerns us.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Node {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
struct Status {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl Node {
    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Where its router may be found by others of the cluster.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.status.addresses.iter().filter(|address| address.kind == INTERNAL).map(|address| address.address.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_addresses_are_where_routers_are() {
        let text = r#"{"kind":"Node","metadata":{"name":"n1","uid":"x"},"status":{"addresses":[
            {"type":"InternalIP","address":"10.0.0.1"},{"type":"Hostname","address":"n1"},
            {"type":"InternalIP","address":"fd00::1"}]}}"#;
        let node: Node = serde_json::from_str(text).unwrap();
        assert_eq!(node.name(), "n1");
        assert_eq!(node.addresses().collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
        let bare: Node = serde_json::from_str(r#"{"metadata":{"name":"n2"}}"#).unwrap();
        assert_eq!(bare.addresses().count(), 0);
    }
}
