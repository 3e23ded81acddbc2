//! The nodes of the cluster, as the watch tells of them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::Event;
use weft::{id::PeerName, node::input::Target};

use super::member::Member;

/// What an event changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Nothing of interest.
    Nothing,
    /// A node is new or different.
    Member,
    /// A node has gone, or may have gone unseen.
    Departure,
}

/// The nodes known, one of which is our own.
#[derive(Debug)]
pub(super) struct Cluster {
    own: String,
    members: BTreeMap<String, Member>,
    /// A list on its way; it replaces the members when it is whole.
    listing: BTreeMap<String, Member>,
    is_listed: bool,
}

impl Cluster {
    /// Nothing is known yet but our own node's name.
    pub(super) fn new(own: String) -> Self {
        Self { own, members: BTreeMap::new(), listing: BTreeMap::new(), is_listed: false }
    }

    /// The whole list at once.
    pub(super) fn of(own: String, members: BTreeMap<String, Member>) -> Self {
        Self { own, members, listing: BTreeMap::new(), is_listed: true }
    }

    /// Takes in what the watch says.
    pub(super) fn handle(&mut self, event: Event<Node>) -> Change {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(node) => self.listing.extend(Member::read(node)),
            Event::InitDone => {
                self.members = std::mem::take(&mut self.listing);
                self.is_listed = true;
                return Change::Departure;
            }
            Event::Apply(node) => {
                let Some((name, member)) = Member::read(node) else {
                    return Change::Nothing;
                };
                // Nodes are written every few seconds; little of it is for us.
                if self.members.get(&name) == Some(&member) {
                    return Change::Nothing;
                }
                self.members.insert(name, member);
                return Change::Member;
            }
            Event::Delete(node) => {
                let known = node.metadata.name.and_then(|name| self.members.remove(&name));
                return if known.is_some() { Change::Departure } else { Change::Nothing };
            }
        }
        Change::Nothing
    }

    /// Our own node; None before the first list, and in a list that cannot be believed because it is not in there.
    pub(super) fn own(&self) -> Option<&Member> {
        self.members.get(&self.own)
    }

    /// Whether there was a list, and our own node is not among what is known since.
    pub(super) fn lacks_own(&self) -> bool {
        self.is_listed && self.own().is_none()
    }

    /// Where the routers of all others are; None as for [`Self::own`].
    pub(super) fn targets(&self) -> Option<BTreeSet<Target>> {
        let own = self.own()?;
        let others = self.members.iter().filter(|(name, _)| **name != self.own);
        let targets = others.flat_map(|(_, member)| member.targets.iter());
        Some(targets.filter(|target| !own.targets.contains(target)).cloned().collect())
    }

    /// Whether it looks as if the router that was `node`'s had gone with it, or had been replaced.
    pub(super) fn has_lost(&self, peer: PeerName, node: &str) -> bool {
        self.own().is_some() && is_gone(peer, self.members.get(node))
    }
}

/// Whether a router is gone that was at a node, going by what the node is now.
///
/// A node that is there without saying who its router is may be about to say that it is still this one.
pub(super) fn is_gone(peer: PeerName, node: Option<&Member>) -> bool {
    node.is_none_or(|member| member.peer.is_some_and(|current| current != peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, address: &str, peer: Option<&str>) -> Node {
        let annotations = peer.map_or_else(Default::default, |peer| serde_json::json!({ "weft.io/peer": peer }));
        let node = serde_json::json!({
            "kind": "Node", "apiVersion": "v1", "metadata": { "name": name, "annotations": annotations },
            "status": { "addresses": [{ "type": "InternalIP", "address": address }] },
        });
        serde_json::from_value(node).unwrap()
    }

    fn listed(nodes: impl IntoIterator<Item = Node>) -> Cluster {
        let mut cluster = Cluster::new("a".into());
        relist(&mut cluster, nodes);
        cluster
    }

    fn relist(cluster: &mut Cluster, nodes: impl IntoIterator<Item = Node>) {
        assert_eq!(cluster.handle(Event::Init), Change::Nothing);
        for node in nodes {
            assert_eq!(cluster.handle(Event::InitApply(node)), Change::Nothing);
        }
        assert_eq!(cluster.handle(Event::InitDone), Change::Departure);
    }

    fn targets(cluster: &Cluster) -> Option<Vec<String>> {
        Some(cluster.targets()?.iter().map(Target::to_string).collect())
    }

    const OLD: PeerName = PeerName([1; 6]);
    const NEW: PeerName = PeerName([2; 6]);

    #[test]
    fn the_targets_are_the_others() {
        let mut cluster = Cluster::new("a".into());
        assert_eq!(targets(&cluster), None);
        assert!(!cluster.lacks_own());
        relist(&mut cluster, [node("a", "10.0.0.1", None), node("b", "10.0.0.2", None)]);
        assert_eq!(targets(&cluster), Some(vec!["10.0.0.2".into()]));
        assert_eq!(cluster.handle(Event::Apply(node("c", "10.0.0.3", None))), Change::Member);
        assert_eq!(cluster.handle(Event::Apply(node("c", "10.0.0.3", None))), Change::Nothing);
        assert_eq!(cluster.handle(Event::Delete(node("b", "10.0.0.2", None))), Change::Departure);
        assert_eq!(cluster.handle(Event::Delete(node("b", "10.0.0.2", None))), Change::Nothing);
        assert_eq!(targets(&cluster), Some(vec!["10.0.0.3".into()]));
    }

    #[test]
    fn a_list_counts_when_it_is_whole() {
        let mut cluster = listed([node("a", "10.0.0.1", None), node("b", "10.0.0.2", None)]);
        cluster.handle(Event::Init);
        cluster.handle(Event::InitApply(node("a", "10.0.0.1", None)));
        assert_eq!(targets(&cluster), Some(vec!["10.0.0.2".into()]));
        // Broken off, and begun again.
        relist(&mut cluster, [node("a", "10.0.0.1", None), node("c", "10.0.0.3", None)]);
        assert_eq!(targets(&cluster), Some(vec!["10.0.0.3".into()]));
    }

    #[test]
    fn a_list_without_our_own_node_is_not_believed() {
        let mut cluster = listed([node("a", "10.0.0.1", None), node("b", "10.0.0.2", None)]);
        assert!(cluster.has_lost(OLD, "z"));
        relist(&mut cluster, []);
        assert_eq!(targets(&cluster), None);
        assert!(cluster.lacks_own() && !cluster.has_lost(OLD, "z"));
    }

    #[test]
    fn a_router_is_gone_with_its_node_or_when_another_is_there() {
        let old = OLD.to_string();
        let cluster = listed([node("a", "10.0.0.1", None), node("b", "10.0.0.2", Some(&old))]);
        assert!(!cluster.has_lost(OLD, "a"), "the node may yet say that it is this one");
        assert!(!cluster.has_lost(OLD, "b"));
        assert!(cluster.has_lost(NEW, "b"), "another has taken its place");
        assert!(cluster.has_lost(OLD, "c"));
    }
}
