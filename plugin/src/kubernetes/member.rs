//! What is read of a Node object (`v1.Node`).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use weft::{id::PeerName, node::input::Target};

use super::PEER_ANNOTATION;

/// The condition that keeps pods away from a node without network.
pub(super) const CONDITION: &str = "NetworkUnavailable";
/// Kinds of addresses under which nodes reach each other; the first that a node has.
const KINDS: [&str; 2] = ["InternalIP", "ExternalIP"];

/// A node of the cluster, as far as it concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Member {
    /// Where its router may be found.
    pub(super) targets: Vec<Target>,
    /// Its router, as its sidecar announced it.
    pub(super) peer: Option<PeerName>,
    /// Whether it is marked as having its network.
    pub(super) is_up: bool,
}

impl Member {
    /// The name and what else is of use; None for an object without a name, which no server sends.
    pub(super) fn read(node: Node) -> Option<(String, Self)> {
        let status = node.status.unwrap_or_default();
        let addresses = status.addresses.unwrap_or_default();
        let of_kind = |kind: &str| -> Vec<Target> {
            let addresses = addresses.iter().filter(|address| address.type_ == kind);
            let addresses = addresses.filter_map(|address| address.address.parse::<IpAddr>().ok());
            addresses.filter_map(|address| address.to_string().parse().ok()).collect()
        };
        let targets = KINDS.into_iter().map(of_kind).find(|targets| !targets.is_empty()).unwrap_or_default();
        let annotation = node.metadata.annotations.unwrap_or_default().remove(PEER_ANNOTATION);
        let mut conditions = status.conditions.unwrap_or_default().into_iter();
        let is_up = conditions.any(|condition| condition.type_ == CONDITION && condition.status == "False");
        let peer = annotation.and_then(|name| name.parse().ok());
        Some((node.metadata.name?, Self { targets, peer, is_up }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, Member) {
        Member::read(serde_json::from_str(text).unwrap()).unwrap()
    }

    #[test]
    fn internal_addresses_are_where_routers_are() {
        let (name, member) = read(
            r#"{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1","uid":"x",
                "annotations":{"weft.io/peer":"7e:52:00:aa:bb:01","other":"y"}},
                "status":{"addresses":[{"type":"ExternalIP","address":"192.0.2.1"},{"type":"InternalIP","address":"10.0.0.1"},
                {"type":"Hostname","address":"n1"},{"type":"InternalIP","address":"fd00:0::1"},
                {"type":"InternalIP","address":"rubbish"}],
                "conditions":[{"type":"Ready","status":"False"},{"type":"NetworkUnavailable","status":"False"}]}}"#,
        );
        let targets = ["10.0.0.1", "fd00::1"].map(|target| target.parse().unwrap()).to_vec();
        let peer = Some("7e:52:00:aa:bb:01".parse().unwrap());
        assert_eq!((name.as_str(), member), ("n1", Member { targets, peer, is_up: true }));
    }

    #[test]
    fn what_is_missing_is_not_made_up() {
        let bare = read(r#"{"kind":"Node","apiVersion":"v1","metadata":{"name":"n2"}}"#);
        assert_eq!(bare, ("n2".to_owned(), Member::default()));
        let (_, member) = read(
            r#"{"kind":"Node","apiVersion":"v1","metadata":{"name":"n3","annotations":{"weft.io/peer":"nonsense"}},
                "status":{"addresses":[{"type":"ExternalIP","address":"192.0.2.1"}],
                "conditions":[{"type":"NetworkUnavailable","status":"True"}]}}"#,
        );
        assert_eq!(member, Member { targets: vec!["192.0.2.1".parse().unwrap()], peer: None, is_up: false });
        assert_eq!(Member::read(Node::default()), None);
    }
}
