//! Names live as long as their owner is plugged in: what is to be removed when the host says what is.
//!
//! Names given to addresses by hand ([`weft::names::owner::EXTERN`]) have no such owner and stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use weft::{
    api::Attachment,
    names::{Held, NameRequest, Owner},
};

/// What was plugged in when last looked, and whose names have no owner there.
#[derive(Debug, Default)]
pub(crate) struct Lifetimes {
    attached: BTreeMap<String, BTreeSet<IpAddr>>,
    absent: BTreeSet<Owner>,
}

impl Lifetimes {
    /// The removals that follow from what is plugged in now: all names of who is gone, and of who has lost addresses the
    /// names that led to these.
    pub(crate) fn compare(&mut self, listed: &[Attachment]) -> Vec<NameRequest> {
        let addresses = |line: &Attachment| line.addresses.iter().map(IpNet::addr).collect();
        let now: BTreeMap<String, BTreeSet<IpAddr>> =
            listed.iter().map(|line| (line.container.clone(), addresses(line))).collect();
        let before = std::mem::replace(&mut self.attached, now);
        let removal = |(name, had): (String, BTreeSet<IpAddr>)| {
            // What is plugged in under a name that can own none has none.
            let owner: Owner = name.parse().ok()?;
            let lost = match self.attached.get(&name) {
                None => Vec::new(),
                Some(has) if has.is_superset(&had) => return None,
                Some(has) => had.difference(has).copied().collect(),
            };
            Some(NameRequest::Remove { owner: Some(owner), name: None, addresses: lost })
        };
        before.into_iter().filter_map(removal).collect()
    }

    /// The removals of names whose owner was not plugged in the last time either: it went while no router ran, or never
    /// came. Who registers a name just before plugging in has that long.
    pub(crate) fn sweep(&mut self, own: &[Held]) -> Vec<NameRequest> {
        let is_absent = |owner: &&Owner| !owner.is_external() && !self.attached.contains_key(owner.as_str());
        let absent: BTreeSet<Owner> = own.iter().map(|held| &held.owner).filter(is_absent).cloned().collect();
        let before = std::mem::take(&mut self.absent);
        let (gone, new): (BTreeSet<_>, BTreeSet<_>) = absent.into_iter().partition(|owner| before.contains(owner));
        self.absent = new;
        let removal = |owner| NameRequest::Remove { owner: Some(owner), name: None, addresses: Vec::new() };
        gone.into_iter().map(removal).collect()
    }
}

#[cfg(test)]
mod tests {
    use weft::id::Mac;

    use super::*;

    fn attached(name: &str, addresses: &[&str]) -> Attachment {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Attachment { container: name.to_owned(), mac: Mac([2; 6]), addresses }
    }

    fn removal(owner: &str, addresses: &[&str]) -> NameRequest {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        NameRequest::Remove { owner: Some(owner.parse().unwrap()), name: None, addresses }
    }

    fn held(owner: &str) -> Held {
        let addresses = vec!["10.0.0.1".parse().unwrap()];
        Held { owner: owner.parse().unwrap(), name: "n".parse().unwrap(), addresses }
    }

    #[test]
    fn names_go_with_their_owner_and_with_their_addresses() {
        let mut lifetimes = Lifetimes::default();
        let both = [attached("c1", &["10.0.0.1/24", "fd00::1/64"]), attached("c2", &["10.0.0.2/24"])];
        assert_eq!(lifetimes.compare(&both), []);
        let fewer = [attached("c1", &["10.0.0.1/24"])];
        assert_eq!(lifetimes.compare(&fewer), [removal("c1", &["fd00::1"]), removal("c2", &[])]);
        let more = [attached("c1", &["10.0.0.1/24", "10.0.0.9/24"])];
        assert_eq!(lifetimes.compare(&more), []);
    }

    #[test]
    fn an_owner_that_is_absent_twice_is_gone_and_one_without_a_place_stays() {
        let mut lifetimes = Lifetimes::default();
        lifetimes.compare(&[attached("c1", &[])]);
        let own = [held("c1"), held("c2"), held("weft:extern"), held("weft:expose")];
        assert_eq!(lifetimes.sweep(&own), []);
        lifetimes.compare(&[attached("c1", &[]), attached("weft:expose", &["10.0.0.1/24"])]);
        assert_eq!(lifetimes.sweep(&own), [removal("c2", &[])]);
        assert_eq!(lifetimes.sweep(&[held("c1"), held("weft:extern")]), []);
    }
}
