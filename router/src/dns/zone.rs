//! From a query to its answer, without I/O: what is ours is answered, what is not is to be forwarded.
//!
//! Ours are all names within the domain, names of a single label (which are looked up as within the domain, for
//! resolvers without a search list), and the addresses that our names lead to.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use domain::{
    base::{
        Message, MessageBuilder, Name, ParsedName, Rtype, Serial, StaticCompressor, Ttl,
        iana::{Class, Opcode, OptRcode, Rcode},
        message_builder::{AdditionalBuilder, AnswerBuilder, PushError},
        name::{Label, ToLabelIter},
    },
    rdata::{A, Aaaa, Ptr, Soa},
};
use weft::names::{DnsName, Table};

use super::Dice;

/// The least that a client takes by UDP (RFC 1035 §4.2.1).
const UDP_LEAST: u16 = 512;
/// The most that is answered by UDP, and that we take: it fits the containers' MTU, as resolvers agreed upon in 2020.
const UDP_MOST: u16 = 1232;
/// A message by TCP has a length of 16 bits (RFC 1035 §4.2.2).
const TCP_MOST: usize = u16::MAX as usize;
/// An OPT record without options: root, type, class, TTL, length (RFC 6891 §6.1.2).
const OPT_LEN: usize = 11;
/// Seconds in the SOA record that nobody uses, as nobody transfers this zone.
const UNUSED: u32 = 3600;

type Target = StaticCompressor<Vec<u8>>;
type QueryName<'a> = ParsedName<&'a [u8]>;

/// How a query came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What to do with a query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answer with these bytes.
    Answer(Vec<u8>),
    /// It is not ours: ask others, and pass on at most so many bytes.
    Forward(usize),
    /// It is no query: say nothing.
    Ignore,
}

/// The names, and under which domain they are.
#[derive(Debug)]
pub(crate) struct Zone {
    domain: DnsName,
    apex: Name<Vec<u8>>,
    ttl: u32,
    table: Arc<ArcSwap<Table>>,
}

/// What is asked about.
#[derive(Debug)]
enum Subject {
    /// A name of ours that leads to these addresses.
    Addresses(Vec<IpAddr>),
    /// An address that these names lead to.
    Names(Vec<DnsName>),
    /// The domain itself.
    Apex,
    /// It would be ours, but is not there.
    Nothing,
    /// Somebody else's.
    Foreign,
}

/// A query that can be answered.
struct Query<'a> {
    message: &'a Message<[u8]>,
    /// Largest answer.
    limit: usize,
    has_opt: bool,
}

impl Zone {
    pub(crate) fn new(domain: DnsName, ttl: u32, table: Arc<ArcSwap<Table>>) -> Self {
        let apex = wire(&domain);
        Self { domain, apex, ttl, table }
    }

    pub(crate) fn domain(&self) -> &DnsName {
        &self.domain
    }

    pub(crate) fn ttl(&self) -> u32 {
        self.ttl
    }

    /// The names as they are now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// What to do with the bytes of a query.
    pub(crate) fn answer(&self, bytes: &[u8], transport: Transport, dice: &Dice) -> Outcome {
        let Ok(message) = Message::from_slice(bytes) else { return Outcome::Ignore };
        if message.header().qr() {
            return Outcome::Ignore;
        }
        let opt = message.opt();
        let size = opt.as_ref().map_or(UDP_LEAST, |opt| opt.udp_payload_size().max(UDP_LEAST));
        let (limit, forward_limit) = match transport {
            Transport::Udp => (size.min(UDP_MOST).into(), size.into()),
            Transport::Tcp => (TCP_MOST, TCP_MOST),
        };
        let query = Query { message, limit, has_opt: opt.is_some() };
        if opt.is_some_and(|opt| opt.version() != 0) {
            return query.refuse(OptRcode::BADVERS);
        }
        if message.header().opcode() != Opcode::QUERY {
            return query.refuse(OptRcode::NOTIMP);
        }
        let question = match message.sole_question() {
            Ok(question) => question,
            Err(_) => return query.refuse(OptRcode::FORMERR),
        };
        let (name, kind, class) = (question.qname(), question.qtype(), question.qclass());
        if class != Class::IN || kind == Rtype::AXFR || kind == Rtype::IXFR {
            return query.refuse(OptRcode::REFUSED);
        }
        match self.subject(name, kind) {
            Subject::Foreign => Outcome::Forward(forward_limit),
            Subject::Nothing => self.reply(&query, Rcode::NXDOMAIN, name, |_| Ok(())),
            Subject::Apex => self.reply(&query, Rcode::NOERROR, name, |answer| match kind {
                Rtype::SOA | Rtype::ANY => answer.push((name, self.ttl(), self.soa())),
                _ => Ok(()),
            }),
            Subject::Names(names) => self.reply(&query, Rcode::NOERROR, name, |answer| match kind {
                Rtype::PTR | Rtype::ANY => {
                    names.iter().try_for_each(|to| answer.push((name, self.ttl(), Ptr::new(wire(to)))))
                }
                _ => Ok(()),
            }),
            Subject::Addresses(mut addresses) => self.reply(&query, Rcode::NOERROR, name, |answer| {
                dice.shuffle(&mut addresses);
                addresses.iter().try_for_each(|address| self.push_address(answer, name, kind, *address))
            }),
        }
    }

    fn subject(&self, name: &QueryName<'_>, kind: Rtype) -> Subject {
        let table = self.table.load();
        if name.ends_with(&self.apex) {
            if name.label_count() == self.apex.label_count() {
                return Subject::Apex;
            }
            let addresses = name_of(name).and_then(|name| table.addresses(&name));
            return addresses.map_or(Subject::Nothing, Subject::Addresses);
        }
        // The label, and the root's.
        if name.label_count() == 2 {
            let addresses = name_of(name).and_then(|name| table.addresses(&name.below(&self.domain)?));
            return match addresses {
                Some(addresses) => Subject::Addresses(addresses),
                // Of the world's top-level domains, what validating resolvers ask about.
                None if [Rtype::DS, Rtype::DNSKEY, Rtype::NS, Rtype::SOA].contains(&kind) => Subject::Foreign,
                None => Subject::Nothing,
            };
        }
        let Some(address) = address_of(name) else { return Subject::Foreign };
        let names: Vec<_> = table.names(address).filter(|name| name.is_within(&self.domain)).cloned().collect();
        if names.is_empty() { Subject::Foreign } else { Subject::Names(names) }
    }

    fn push_address(
        &self,
        answer: &mut AnswerBuilder<Target>,
        name: &QueryName<'_>,
        kind: Rtype,
        address: IpAddr,
    ) -> Result<(), PushError> {
        match (address, kind) {
            (IpAddr::V4(v4), Rtype::A | Rtype::ANY) => answer.push((name, self.ttl(), A::new(v4))),
            (IpAddr::V6(v6), Rtype::AAAA | Rtype::ANY) => answer.push((name, self.ttl(), Aaaa::new(v6))),
            (IpAddr::V4(_) | IpAddr::V6(_), _) => Ok(()),
        }
    }

    /// An answer with what `fill` puts into it, as far as there is room; an empty one says for how long that may be kept.
    fn reply(
        &self,
        query: &Query<'_>,
        rcode: Rcode,
        name: &QueryName<'_>,
        fill: impl FnOnce(&mut AnswerBuilder<Target>) -> Result<(), PushError>,
    ) -> Outcome {
        let mut answer = query.begin(rcode);
        answer.header_mut().set_aa(true);
        if fill(&mut answer).is_err() {
            answer.header_mut().set_tc(true);
        }
        let is_empty = answer.counts().ancount() == 0;
        let mut authority = answer.authority();
        // Kept by whose zone it is (RFC 2308 §3); a single label is in no zone of ours.
        if is_empty && name.ends_with(&self.apex) {
            // Without it the answer is not kept, which is as good.
            let _ = authority.push((&self.apex, self.ttl(), self.soa()));
        }
        query.finish(authority.additional())
    }

    fn soa(&self) -> Soa<&Name<Vec<u8>>> {
        let unused = Ttl::from_secs(UNUSED);
        Soa::new(&self.apex, &self.apex, Serial(1), unused, unused, unused, Ttl::from_secs(self.ttl))
    }
}

impl Query<'_> {
    fn begin(&self, rcode: Rcode) -> AnswerBuilder<Target> {
        let target = StaticCompressor::new(Vec::with_capacity(usize::from(UDP_LEAST)));
        let Ok(mut builder) = MessageBuilder::from_target(target);
        builder.set_push_limit(self.limit - if self.has_opt { OPT_LEN } else { 0 });
        builder.header_mut().set_ra(true);
        builder.start_error(self.message, rcode)
    }

    /// Ends the answer; whoever spoke of sizes is told ours.
    fn finish(&self, additional: AdditionalBuilder<Target>) -> Outcome {
        self.finish_with(additional, OptRcode::NOERROR)
    }

    fn finish_with(&self, mut additional: AdditionalBuilder<Target>, rcode: OptRcode) -> Outcome {
        additional.set_push_limit(self.limit);
        if self.has_opt {
            let basic = additional.header().rcode();
            // Room was left for it.
            let _ = additional.opt(|opt| {
                opt.set_udp_payload_size(UDP_MOST);
                opt.set_rcode(if rcode == OptRcode::NOERROR { basic.into() } else { rcode });
                Ok(())
            });
        }
        Outcome::Answer(additional.finish().into_target())
    }

    /// An answer without anything in it.
    fn refuse(&self, rcode: OptRcode) -> Outcome {
        let answer = self.begin(rcode.rcode());
        self.finish_with(answer.additional(), rcode)
    }
}

/// What to tell who asked when nobody could be asked: the server's failure.
pub(crate) fn servfail(bytes: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_slice(bytes).ok()?;
    let query = Query { message, limit: usize::from(UDP_LEAST), has_opt: message.opt().is_some() };
    match query.refuse(OptRcode::SERVFAIL) {
        Outcome::Answer(bytes) => Some(bytes),
        Outcome::Forward(_) | Outcome::Ignore => None,
    }
}

/// As much of somebody's answer as says that it is too long: header and question.
pub(crate) fn truncated(answer: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_slice(answer).ok()?;
    let Ok(mut builder) = MessageBuilder::from_target(StaticCompressor::new(Vec::new()));
    *builder.header_mut() = message.header();
    builder.header_mut().set_tc(true);
    let mut question = builder.question();
    for item in message.question().flatten() {
        question.push(item).ok()?;
    }
    Some(question.finish().into_target())
}

/// The name in the form of DNS messages. Every [`DnsName`] has one.
fn wire(name: &DnsName) -> Name<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.as_str().len() + 2);
    for label in name.labels() {
        bytes.extend(u8::try_from(label.len()));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    Name::from_octets(bytes).unwrap_or_else(|_| Name::root_vec())
}

/// The queried name as one of ours could be; None if it has bytes that ours never have.
fn name_of(name: &QueryName<'_>) -> Option<DnsName> {
    let mut text = String::with_capacity(usize::from(name.compose_len()));
    for label in name.iter_labels().filter(|label| !label.is_root()) {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(std::str::from_utf8(label.as_slice()).ok()?);
    }
    // A dot within a label would not come back as it went.
    let dots = text.bytes().filter(|byte| *byte == b'.').count();
    (dots + 2 == name.label_count()).then(|| text.parse().ok()).flatten()
}

/// The address whose name is asked for (RFC 1035 §3.5, RFC 3596 §2.5).
fn address_of(name: &QueryName<'_>) -> Option<IpAddr> {
    let labels: Vec<&Label> = name.iter_labels().collect();
    let ends_with = |first: &str, second: &str| {
        let is = |at: usize, text: &str| {
            labels.len().checked_sub(at).is_some_and(|at| labels[at].as_slice().eq_ignore_ascii_case(text.as_bytes()))
        };
        is(3, first) && is(2, second)
    };
    // The parts of the address come last first, and behind them two labels and the root.
    let parts = || labels[..labels.len() - 3].iter().rev().map(|label| std::str::from_utf8(label.as_slice()).ok());
    if labels.len() == 4 + 3 && ends_with("in-addr", "arpa") {
        let is_plain =
            |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit()) && (*part == "0" || !part.starts_with('0'));
        let octets = parts().map(|part| part.filter(is_plain)?.parse().ok()).collect::<Option<Vec<u8>>>()?;
        return <[u8; 4]>::try_from(octets).ok().map(|octets| Ipv4Addr::from(octets).into());
    }
    if labels.len() == 32 + 3 && ends_with("ip6", "arpa") {
        let nibble = |part: &str| (part.len() == 1).then(|| u128::from_str_radix(part, 16).ok()).flatten();
        let bits = parts().try_fold(0, |bits, part| Some(bits << 4 | nibble(part?)?))?;
        return Some(Ipv6Addr::from(bits).into());
    }
    None
}

#[cfg(test)]
mod tests;
