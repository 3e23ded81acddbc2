//! Marks: the texts (ifalias) by which devices are known as ours, after a crash too, and by which the bridge remembers what the
//! kernel has no other place for. There is no other store.
//!
//! ```text
//! weft:bridge [forwarding=4,6] [plain=10.2.0.1/24,fd00::1/64]
//! weft:port
//! weft:container=NAME
//! ```
//! `forwarding` lists the IP versions whose forwarding we switched on, so that we switch off no other's; `plain` the exposed
//! addresses without masquerade.

use std::fmt;

use ipnet::IpNet;

use crate::sysctl::Forwarding;

/// Most bytes of an ifalias (IFALIASZ less the closing nought).
const MARK_MAX: usize = 255;
const BRIDGE: &str = "weft:bridge";
const PORT: &str = "weft:port";
const CONTAINER: &str = "weft:container=";
const FORWARDING: &str = "forwarding=";
const PLAIN: &str = "plain=";

/// Most bytes of a container's name.
pub(crate) const CONTAINER_NAME_MAX: usize = MARK_MAX - CONTAINER.len();

/// What a device of ours is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The bridge.
    Bridge(BridgeMark),
    /// The router's own port.
    Port,
    /// The host's side of the veth of a container, by its name.
    Container(String),
}

/// What the bridge remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BridgeMark {
    /// Whether we switched IPv4 forwarding on.
    pub(crate) switched4: bool,
    /// Whether we switched IPv6 forwarding on.
    pub(crate) switched6: bool,
    /// Exposed addresses without masquerade.
    pub(crate) plain: Vec<IpNet>,
}

impl Mark {
    /// Reads a device's text; none if it is not ours.
    pub(crate) fn parse(alias: &str) -> Option<Self> {
        if alias == PORT {
            return Some(Self::Port);
        }
        if let Some(name) = alias.strip_prefix(CONTAINER) {
            return is_container_name(name).then(|| Self::Container(name.to_owned()));
        }
        let mut words = alias.split(' ');
        if words.next() != Some(BRIDGE) {
            return None;
        }
        let mut mark = BridgeMark::default();
        for word in words {
            if let Some(versions) = word.strip_prefix(FORWARDING) {
                mark.switched4 = versions.split(',').any(|version| version == "4");
                mark.switched6 = versions.split(',').any(|version| version == "6");
            } else if let Some(nets) = word.strip_prefix(PLAIN) {
                // What cannot be read was not written by us; the rest still counts.
                mark.plain = nets.split(',').filter_map(|net| net.parse().ok()).collect();
            }
        }
        Some(Self::Bridge(mark))
    }

    /// Whether the kernel takes it.
    pub(crate) fn fits(&self) -> bool {
        self.to_string().len() <= MARK_MAX
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port => f.write_str(PORT),
            Self::Container(name) => write!(f, "{CONTAINER}{name}"),
            Self::Bridge(mark) => {
                f.write_str(BRIDGE)?;
                let versions = [mark.switched4.then_some("4"), mark.switched6.then_some("6")];
                write_list(f, FORWARDING, versions.into_iter().flatten())?;
                write_list(f, PLAIN, mark.plain.iter())
            }
        }
    }
}

impl BridgeMark {
    /// Whether we switched this forwarding on.
    pub(crate) fn switched(&self, forwarding: Forwarding) -> bool {
        match forwarding {
            Forwarding::V4 => self.switched4,
            Forwarding::V6 => self.switched6,
        }
    }

    /// The same, to change.
    pub(crate) fn switched_mut(&mut self, forwarding: Forwarding) -> &mut bool {
        match forwarding {
            Forwarding::V4 => &mut self.switched4,
            Forwarding::V6 => &mut self.switched6,
        }
    }
}

/// Whether a container's name can be kept.
pub(crate) fn is_container_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= CONTAINER_NAME_MAX && !name.chars().any(char::is_control)
}

fn write_list(f: &mut fmt::Formatter<'_>, key: &str, items: impl Iterator<Item = impl fmt::Display>) -> fmt::Result {
    for (n, item) in items.enumerate() {
        if n == 0 {
            write!(f, " {key}{item}")?;
        } else {
            write!(f, ",{item}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_read_as_they_were_written() {
        let plain = vec!["10.2.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()];
        let marks = [
            (Mark::Port, "weft:port"),
            (Mark::Container("/run/netns/a b".to_owned()), "weft:container=/run/netns/a b"),
            (Mark::Bridge(BridgeMark::default()), "weft:bridge"),
            (
                Mark::Bridge(BridgeMark { switched4: true, switched6: true, plain }),
                "weft:bridge forwarding=4,6 plain=10.2.0.1/24,fd00::1/64",
            ),
            (Mark::Bridge(BridgeMark { switched6: true, ..BridgeMark::default() }), "weft:bridge forwarding=6"),
        ];
        for (mark, text) in marks {
            assert_eq!(mark.to_string(), text);
            assert_eq!(Mark::parse(text), Some(mark));
        }
    }

    #[test]
    fn the_devices_of_others_are_not_ours() {
        for text in ["", "uplink", "weft", "weft:bridge2", "weft:container=", "weft:ports", "my weft:bridge"] {
            assert_eq!(Mark::parse(text), None, "{text}");
        }
    }

    #[test]
    fn any_text_is_survived_and_what_is_ours_reads_back() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            for text in [text.to_string(), format!("{BRIDGE} {PLAIN}{text}"), format!("{CONTAINER}{text}")] {
                if let Some(mark) = Mark::parse(&text) {
                    assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
                }
            }
        });
    }
}
