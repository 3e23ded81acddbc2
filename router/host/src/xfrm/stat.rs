//! The kernel's counters of packets that IPsec refused, with what each of them means for us (Documentation/networking/xfrm_proc.rst).
//!
//! They count for the whole network namespace: a VPN of the host adds to them as well.

use std::{collections::BTreeMap, fs};

/// Of the thread's namespace; /proc/net would be that of the process's first thread.
const PATH: &str = "/proc/thread-self/net/xfrm_stat";

/// What the counters that can rise by a fault of ours, a peer's or an attacker's tell.
const MEANINGS: &[(&str, &str)] = &[
    ("XfrmInNoStates", "packets under keys that are not, or no longer, in use here"),
    ("XfrmInStateProtoError", "packets that do not open: keys differ, or somebody meddles with them"),
    ("XfrmInStateSeqError", "packets that came twice or too late: replayed, or reordered beyond the window"),
    ("XfrmInStateExpired", "packets under keys that have sealed all they may"),
    ("XfrmInStateMismatch", "packets that opened, but came from another address than the keys are for"),
    ("XfrmInStateInvalid", "packets under keys that are being removed"),
    ("XfrmInTmplMismatch", "packets that came in clear where sealed ones are required"),
    ("XfrmInNoPols", "packets that came sealed where nothing says so"),
    ("XfrmInPolBlock", "packets from hosts that are no peers, or not yet"),
    ("XfrmInHdrError", "packets that make no sense as ESP"),
    ("XfrmInBufferError", "packets for which there was no memory"),
    ("XfrmInError", "packets that came and were dropped for other reasons"),
    ("XfrmOutNoStates", "packets held back because their keys are gone"),
    ("XfrmOutStateProtoError", "packets that could not be sealed"),
    ("XfrmOutStateSeqError", "packets held back because the numbers under a key are used up"),
    ("XfrmOutStateExpired", "packets held back because their keys have sealed all they may"),
    ("XfrmOutStateInvalid", "packets held back because their keys are being removed"),
    ("XfrmOutPolBlock", "packets held back because the peer has told of no keys"),
    ("XfrmOutBundleGenError", "packets held back because no way to seal them was found"),
    ("XfrmOutError", "packets to send that were dropped for other reasons"),
];

/// Packets that were refused since the last look, by cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XfrmCounters(pub Vec<XfrmCounter>);

/// One cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XfrmCounter {
    /// The kernel's name of the counter.
    pub name: &'static str,
    /// What that means, in words for people.
    pub meaning: &'static str,
    /// Packets since the last look.
    pub packets: u64,
}

/// The counters as they were at the last look.
pub(super) struct Stat(BTreeMap<String, u64>);

impl Stat {
    /// Begins to count from now.
    pub(super) fn open() -> Self {
        Self(read())
    }

    /// What was refused since the last look; nothing on a kernel that does not count.
    pub(super) fn since(&mut self) -> XfrmCounters {
        let now = read();
        let counters = risen(&self.0, &now);
        self.0 = now;
        counters
    }
}

fn read() -> BTreeMap<String, u64> {
    parse(&fs::read_to_string(PATH).unwrap_or_default())
}

fn parse(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    lines.filter_map(|(name, count)| Some((name.to_owned(), count.trim().parse().ok()?))).collect()
}

fn risen(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> XfrmCounters {
    let of = |counters: &BTreeMap<String, u64>, name: &str| counters.get(name).copied().unwrap_or(0);
    let all = MEANINGS.iter().map(|&(name, meaning)| {
        let packets = of(now, name).saturating_sub(of(before, name));
        XfrmCounter { name, meaning, packets }
    });
    XfrmCounters(all.filter(|counter| counter.packets > 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_rose_is_told() {
        let before = parse("XfrmInNoStates          \t3\nXfrmInTmplMismatch      \t5\nnonsense\n");
        let now = parse("XfrmInNoStates          \t3\nXfrmInTmplMismatch      \t9\nXfrmNew 1\n");
        let XfrmCounters(risen) = risen(&before, &now);
        assert_eq!(risen.iter().map(|c| (c.name, c.packets)).collect::<Vec<_>>(), [("XfrmInTmplMismatch", 4)]);
        assert!(risen[0].meaning.contains("in clear"));
    }
}
