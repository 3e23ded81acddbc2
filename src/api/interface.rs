//! Interfaces of containers that a runtime plugs in by CNI, and what they are called among attachments and owners of addresses:
//! `NETWORK/CONTAINER/DEVICE`.
//!
//! Only the runtime says when one is gone for good (DEL, GC): it may make a container's namespace anew and plug it in again. So the
//! router takes addresses from none of them by itself.

/// What an interface of a container in a network is called. The parts are CNI's identifiers, which have no `/`.
pub fn name(network: &str, container: &str, device: &str) -> String {
    format!("{network}/{container}/{device}")
}

/// The network of an interface called so; none for what is no such name.
pub fn network_of(name: &str) -> Option<&str> {
    let mut parts = name.split('/');
    let (network, container, device) = (parts.next()?, parts.next()?, parts.next()?);
    let is_one = ![network, container, device].contains(&"") && parts.next().is_none();
    is_one.then_some(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_told_from_other_names() {
        assert_eq!(network_of(&name("weft", "0a", "eth0")), Some("weft"));
        for other in ["", "weft", "weft/0a", "/0a/eth0", "weft/0a/", "weft/0a/eth0/x", "/run/netns/x", "docker:0a"] {
            assert_eq!(network_of(other), None, "{other}");
        }
    }
}
