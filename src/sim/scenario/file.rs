//! A scenario as a TOML file: what it says is laid over the scenario that it begins from, with every name resolved.
//!
//! Whatever is wrong is told with its line: by the TOML parser where a value has the wrong form, here where it makes no sense.

use std::{collections::BTreeMap, fmt, ops::Range, time::Duration};

use serde::{Deserialize, de};
use toml::Spanned;

use super::{
    Between, CHANGES_MAX, Change, Churn, Expect, Happening, LATENCY_MAX, Links, Only, PEERS, SPAN, Scenario,
    ScenarioError, Share, Span, Targets, WayChange,
};
use crate::{id::Nickname, sim::HostId};

/// Shortest time between two deaths in churn: more often than what is looked at shows nothing.
const CHURN_MIN: Duration = Duration::from_millis(100);
/// Least and most UDP payload: what IPv6 guarantees (RFC 8200 §5), and what IP can carry.
const PAYLOAD: std::ops::RangeInclusive<usize> = 1232..=65_507;

/// All peers, in place of a name.
const EVERYBODY: &str = "*";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    peers: Option<Spanned<Peers>>,
    seed: Option<u64>,
    #[serde(rename = "for")]
    span: Option<Spanned<Span>>,
    conn_limit: Option<usize>,
    discovery: Option<bool>,
    targets: Option<Spanned<TargetsText>>,
    #[serde(default)]
    network: NetworkText,
    #[serde(default)]
    nat: Vec<Spanned<NatText>>,
    #[serde(default)]
    link: Vec<Spanned<LinkText>>,
    #[serde(default)]
    event: Vec<Spanned<EventText>>,
    churn: Option<Spanned<ChurnText>>,
    #[serde(default)]
    expect: ExpectText,
}

/// A number, or names.
enum Peers {
    Count(i64),
    Named(Vec<String>),
}

/// A word, or lists by name.
enum TargetsText {
    Word(String),
    Listed(BTreeMap<String, Vec<String>>),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct NetworkText {
    latency: Option<Spanned<Span>>,
    jitter: Option<Spanned<Span>>,
    loss: Option<Share>,
    spread: Option<Spanned<Span>>,
    matrix_ms: Option<Spanned<Vec<Vec<f64>>>>,
    bad_links: Option<Share>,
    bad_latency: Option<Spanned<Span>>,
    bad_jitter: Option<Spanned<Span>>,
    bad_loss: Option<Share>,
    payload_max: Option<Spanned<usize>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NatText {
    peers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkText {
    between: [String; 2],
    #[serde(default)]
    one_way: bool,
    latency: Option<Span>,
    jitter: Option<Span>,
    loss: Option<Share>,
    cut: Option<OnlyText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventText {
    at: Span,
    cut: Option<[String; 2]>,
    only: Option<OnlyText>,
    heal: Option<[String; 2]>,
    partition: Option<Vec<Vec<String>>>,
    link: Option<[String; 2]>,
    #[serde(default)]
    one_way: bool,
    latency: Option<Span>,
    jitter: Option<Span>,
    loss: Option<Share>,
    crash: Option<Vec<String>>,
    stop: Option<Vec<String>>,
    restart: Option<Vec<String>>,
    nat_forgets: Option<Vec<String>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum OnlyText {
    All,
    Udp,
    Tcp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChurnText {
    every: Span,
    down: Span,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ExpectText {
    settled: Option<Span>,
    settled_after_change: Option<Span>,
    longest_gap: Option<Span>,
    bytes_per_second: Option<u64>,
    connections: Option<usize>,
    flaps: Option<u64>,
    calm_changes: Option<u64>,
    stretch_median: Option<f64>,
    stretch_p99: Option<f64>,
    stretch_max: Option<f64>,
}

impl Scenario {
    /// What the text of a file says, laid over `base`.
    ///
    /// # Errors
    /// If it is no such file: which line, and what to do.
    pub fn parse(text: &str, base: Self) -> Result<Self, ScenarioError> {
        let file: File = toml::from_str(text).map_err(|error| ScenarioError {
            line: error.span().map(|span| line_of(text, span.start)),
            message: error.message().to_owned(),
        })?;
        Reader { text, scenario: base }.read(file)
    }
}

/// A file on its way to a scenario.
struct Reader<'t> {
    text: &'t str,
    scenario: Scenario,
}

impl Reader<'_> {
    fn read(mut self, file: File) -> Result<Scenario, ScenarioError> {
        if let Some(peers) = file.peers {
            self.peers(peers)?;
        }
        let scenario = &mut self.scenario;
        scenario.seed = file.seed.unwrap_or(scenario.seed);
        scenario.conn_limit = file.conn_limit.unwrap_or(scenario.conn_limit);
        scenario.discovery = file.discovery.unwrap_or(scenario.discovery);
        if let Some(span) = file.span {
            let Span(given) = *span.get_ref();
            if !SPAN.contains(&given) {
                return self.wrong(span.span(), "`for` takes 1s to 24h");
            }
            self.scenario.span = given;
        }
        self.scenario.links = self.links(file.network)?;
        if let Some(targets) = file.targets {
            self.scenario.targets = self.targets(targets)?;
        }
        for nat in file.nat {
            let inside = self.hosts(&nat.get_ref().peers, &nat.span())?;
            if let Some(twice) = inside.iter().find(|id| self.scenario.is_behind_nat(**id)) {
                let name = &self.scenario.peers[*twice];
                return self.wrong(nat.span(), format!("`{name}` is behind a NAT already: keep one of them"));
            }
            self.scenario.nats.push(inside);
        }
        for link in file.link {
            let at = link.span();
            self.link(&link.into_inner(), at)?;
        }
        for event in file.event {
            let at = event.span();
            let happening = self.event(&event.into_inner(), at)?;
            self.scenario.happenings.push(happening);
        }
        // Those of one moment stay in the order of the file.
        self.scenario.happenings.sort_by_key(|happening| happening.at);
        if let Some(churn) = file.churn {
            let ChurnText { every: Span(every), down: Span(down) } = *churn.get_ref();
            if every < CHURN_MIN || down < CHURN_MIN {
                return self.wrong(churn.span(), format!("`every` and `down` are at least {CHURN_MIN:?}"));
            }
            self.scenario.churn = Some(Churn { every, down });
        }
        self.scenario.expect = expect(file.expect, self.scenario.expect);
        Ok(self.scenario)
    }

    fn peers(&mut self, peers: Spanned<Peers>) -> Result<(), ScenarioError> {
        let at = peers.span();
        if !self.scenario.peers.is_empty() {
            return self.wrong(at, "the peers are given already, by --peers or --from-report: remove one of the two");
        }
        let (least, most) = (PEERS.start(), PEERS.end());
        let count = match peers.get_ref() {
            Peers::Count(count) => usize::try_from(*count).unwrap_or(0),
            Peers::Named(names) => names.len(),
        };
        if !PEERS.contains(&count) {
            return self.wrong(at, format!("`peers` takes {least} to {most} of them"));
        }
        self.scenario.peers = match peers.into_inner() {
            Peers::Count(_) => Scenario::numbered(count),
            Peers::Named(names) => names
                .iter()
                .map(|name| match name.parse::<Nickname>() {
                    Ok(name) if name.as_str() != EVERYBODY => Ok(name),
                    Ok(_) => self.wrong(at.clone(), "`*` stands for all peers: no single one may be called so"),
                    Err(error) => self.wrong(at.clone(), error.to_string()),
                })
                .collect::<Result<_, _>>()?,
        };
        let mut sorted: Vec<_> = self.scenario.peers.iter().collect();
        sorted.sort_unstable();
        if let Some([twice, _]) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return self.wrong(at, format!("two peers are called `{twice}`: give each a name of its own"));
        }
        Ok(())
    }

    fn links(&self, file: NetworkText) -> Result<Links, ScenarioError> {
        let mut links = self.scenario.links.clone();
        let spans = [
            (file.latency, &mut links.way.latency),
            (file.jitter, &mut links.way.jitter),
            (file.spread, &mut links.spread),
            (file.bad_latency, &mut links.worse.latency),
            (file.bad_jitter, &mut links.worse.jitter),
        ];
        for (given, into) in spans {
            let Some(given) = given else { continue };
            *into = self.latency(given.get_ref().0, given.span())?;
        }
        let shares = [
            (file.loss, &mut links.way.loss),
            (file.bad_links, &mut links.bad),
            (file.bad_loss, &mut links.worse.loss),
        ];
        for (given, into) in shares {
            *into = given.map_or(*into, |Share(share)| share);
        }
        if let Some(payload) = file.payload_max {
            if !PAYLOAD.contains(payload.get_ref()) {
                let (least, most) = (PAYLOAD.start(), PAYLOAD.end());
                return self.wrong(payload.span(), format!("`payload_max` takes {least} to {most} bytes"));
            }
            links.payload_max = payload.into_inner();
        }
        if let Some(matrix) = file.matrix_ms {
            links.matrix = Some(self.matrix(&matrix)?);
        }
        Ok(links)
    }

    fn matrix(&self, matrix: &Spanned<Vec<Vec<f64>>>) -> Result<Vec<Vec<Duration>>, ScenarioError> {
        let count = self.scenario.peers.len();
        let rows = matrix.get_ref();
        if rows.len() != count || rows.iter().any(|row| row.len() != count) {
            let text = format!("`matrix_ms` takes {count} rows of {count} numbers, one for each peer in their order");
            return self.wrong(matrix.span(), text);
        }
        let bounds = 0.0..=LATENCY_MAX.as_secs_f64() * 1000.0;
        if let Some(odd) = rows.iter().flatten().find(|millis| !bounds.contains(millis)) {
            let text = format!("`matrix_ms` has {odd}: it takes milliseconds from 0 to {}", bounds.end());
            return self.wrong(matrix.span(), text);
        }
        let duration = |millis: &f64| Duration::from_micros((millis * 1000.0).round() as u64);
        Ok(rows.iter().map(|row| row.iter().map(duration).collect()).collect())
    }

    fn targets(&self, targets: Spanned<TargetsText>) -> Result<Targets, ScenarioError> {
        let at = targets.span();
        match targets.into_inner() {
            TargetsText::Word(word) => match word.as_str() {
                "earlier" => Ok(Targets::Earlier),
                "first" => Ok(Targets::First),
                "all" => Ok(Targets::All),
                _ => self.wrong(at, "`targets` is \"earlier\", \"first\", \"all\", or a table of lists of peers"),
            },
            TargetsText::Listed(lists) => {
                let mut targets = vec![Vec::new(); self.scenario.peers.len()];
                for (name, list) in &lists {
                    targets[self.host(name, &at)?] = self.hosts(list, &at)?;
                }
                Ok(Targets::Listed(targets))
            }
        }
    }

    fn link(&mut self, link: &LinkText, at: Range<usize>) -> Result<(), ScenarioError> {
        let between = self.between(&link.between, link.one_way, &at)?;
        let way = self.way_change([link.latency, link.jitter], link.loss, &at)?;
        if way == WayChange::default() && link.cut.is_none() {
            return self.wrong(at, "this link says nothing: give `latency`, `jitter`, `loss` or `cut`");
        }
        let changes = link.cut.map(|cut| Change::Cut(between, cut.into())).into_iter();
        self.scenario.changed.extend([Change::Link(between, way)].into_iter().chain(changes));
        self.check_count(at)
    }

    fn event(&self, event: &EventText, at: Range<usize>) -> Result<Happening, ScenarioError> {
        let quality = event.latency.is_some() || event.jitter.is_some() || event.loss.is_some();
        let mut changes = Vec::new();
        let arrow = if event.one_way { "→" } else { "–" };
        if let Some(ends) = &event.cut {
            let only = event.only.map_or(Only::All, Only::from);
            let what = ["", " UDP", " TCP"][only as usize];
            let words = format!("cut{what} {}{arrow}{}", ends[0], ends[1]);
            changes.push((words, Change::Cut(self.between(ends, event.one_way, &at)?, only)));
        }
        if let Some(ends) = &event.heal {
            let words = format!("heal {}{arrow}{}", ends[0], ends[1]);
            changes.push((words, Change::Heal(self.between(ends, event.one_way, &at)?)));
        }
        if let Some(groups) = &event.partition {
            let sizes: Vec<_> = groups.iter().map(|group| group.len().to_string()).collect();
            changes.push((format!("partition {}", sizes.join("/")), Change::Partition(self.groups(groups, &at)?)));
        }
        if let Some(ends) = &event.link {
            if !quality {
                return self.wrong(at, "`link` changes nothing: give `latency`, `jitter` or `loss`");
            }
            let way = self.way_change([event.latency, event.jitter], event.loss, &at)?;
            let words = format!("{}{arrow}{}{}", ends[0], ends[1], words_of(way));
            changes.push((words, Change::Link(self.between(ends, event.one_way, &at)?, way)));
        }
        type Of = fn(Vec<HostId>) -> Change;
        let lists: [(&str, &Option<Vec<String>>, Of); 4] = [
            ("crash", &event.crash, Change::Crash),
            ("stop", &event.stop, Change::Stop),
            ("restart", &event.restart, Change::Restart),
            ("NAT forgets", &event.nat_forgets, Change::Forget),
        ];
        for (verb, names, change) in lists {
            let Some(names) = names else { continue };
            let hosts = self.hosts(names, &at)?;
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let who = if names.len() > 3 { format!("{} peers", names.len()) } else { names.join(" ") };
            changes.push((format!("{verb} {who}"), change(hosts)));
        }
        if let (Some(Change::Forget(hosts)), 1) = (changes.first().map(|(_, change)| change), changes.len())
            && let Some(open) = hosts.iter().find(|id| !self.scenario.is_behind_nat(**id))
        {
            let name = &self.scenario.peers[*open];
            return self.wrong(at, format!("`{name}` is behind no NAT: add one by [[nat]]"));
        }
        let (Some((words, change)), true) = (changes.pop(), changes.is_empty()) else {
            let verbs = "cut, heal, partition, link, crash, stop, restart and nat_forgets";
            return self.wrong(at, format!("an event takes exactly one of {verbs}"));
        };
        let is_stray = (quality && !matches!(change, Change::Link(..)))
            || (event.only.is_some() && !matches!(change, Change::Cut(..)))
            || (event.one_way && !matches!(change, Change::Cut(..) | Change::Heal(_) | Change::Link(..)));
        if is_stray {
            let text =
                "`latency`, `jitter` and `loss` go with `link`, `only` with `cut`, `one_way` with those and `heal`";
            return self.wrong(at, text);
        }
        if self.scenario.happenings.len() >= CHANGES_MAX {
            return self.wrong(at, format!("more than {CHANGES_MAX} events"));
        }
        Ok(Happening { at: event.at.0, words, change })
    }

    fn groups(&self, groups: &[Vec<String>], at: &Range<usize>) -> Result<Vec<Vec<HostId>>, ScenarioError> {
        let groups: Vec<_> = groups.iter().map(|group| self.hosts(group, at)).collect::<Result<_, _>>()?;
        let mut all: Vec<_> = groups.iter().flatten().collect();
        all.sort_unstable();
        match all.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => {
                let name = &self.scenario.peers[*pair[0]];
                self.wrong(at.clone(), format!("`{name}` is in two groups: keep one"))
            }
            None => Ok(groups),
        }
    }

    fn way_change(
        &self,
        spans: [Option<Span>; 2],
        loss: Option<Share>,
        at: &Range<usize>,
    ) -> Result<WayChange, ScenarioError> {
        let bounded = |span: Option<Span>| span.map(|Span(span)| self.latency(span, at.clone())).transpose();
        let [latency, jitter] = spans;
        Ok(WayChange { latency: bounded(latency)?, jitter: bounded(jitter)?, loss: loss.map(|Share(share)| share) })
    }

    fn latency(&self, span: Duration, at: Range<usize>) -> Result<Duration, ScenarioError> {
        if span > LATENCY_MAX {
            return self.wrong(at, format!("{span:?} is too long for a link: at most {LATENCY_MAX:?}"));
        }
        Ok(span)
    }

    fn between(&self, ends: &[String; 2], one_way: bool, at: &Range<usize>) -> Result<Between, ScenarioError> {
        let end = |name: &String| (name != EVERYBODY).then(|| self.host(name, at)).transpose();
        let between = Between { from: end(&ends[0])?, to: end(&ends[1])?, one_way };
        if between.from.is_some() && between.from == between.to {
            return self.wrong(at.clone(), format!("`{}` has no link to itself: name two peers", ends[0]));
        }
        Ok(between)
    }

    fn hosts(&self, names: &[String], at: &Range<usize>) -> Result<Vec<HostId>, ScenarioError> {
        if names.iter().any(|name| name == EVERYBODY) {
            return Ok((0..self.scenario.peers.len()).collect());
        }
        if names.is_empty() {
            return self.wrong(at.clone(), "this list names nobody: give at least one peer");
        }
        names.iter().map(|name| self.host(name, at)).collect()
    }

    fn host(&self, name: &str, at: &Range<usize>) -> Result<HostId, ScenarioError> {
        let Some(id) = self.scenario.host(name) else {
            let known: Vec<_> = self.scenario.peers.iter().take(5).map(Nickname::as_str).collect();
            let more = if self.scenario.peers.len() > known.len() { ", …" } else { "" };
            let text = format!("no peer is called `{name}`: there are {}{more}", known.join(", "));
            return self.wrong(at.clone(), text);
        };
        Ok(id)
    }

    fn check_count(&self, at: Range<usize>) -> Result<(), ScenarioError> {
        if self.scenario.changed.len() > 2 * CHANGES_MAX {
            return self.wrong(at, format!("more than {CHANGES_MAX} links: use `matrix_ms` for many"));
        }
        Ok(())
    }

    fn wrong<T>(&self, at: Range<usize>, message: impl Into<String>) -> Result<T, ScenarioError> {
        Err(ScenarioError { line: Some(line_of(self.text, at.start)), message: message.into() })
    }
}

impl From<OnlyText> for Only {
    fn from(text: OnlyText) -> Self {
        match text {
            OnlyText::All => Self::All,
            OnlyText::Udp => Self::Udp,
            OnlyText::Tcp => Self::Tcp,
        }
    }
}

fn expect(file: ExpectText, base: Expect) -> Expect {
    let span = |given: Option<Span>, base| given.map(|Span(span)| span).or(base);
    Expect {
        settled: span(file.settled, base.settled),
        settled_after_change: span(file.settled_after_change, base.settled_after_change),
        longest_gap: span(file.longest_gap, base.longest_gap),
        bytes_per_second: file.bytes_per_second.or(base.bytes_per_second),
        connections: file.connections.or(base.connections),
        flaps: file.flaps.or(base.flaps),
        calm_changes: file.calm_changes.or(base.calm_changes),
        stretch_median: file.stretch_median.or(base.stretch_median),
        stretch_p99: file.stretch_p99.or(base.stretch_p99),
        stretch_max: file.stretch_max.or(base.stretch_max),
    }
}

fn words_of(way: WayChange) -> String {
    let latency = way.latency.map(|latency| format!(" latency {latency:?}"));
    let jitter = way.jitter.map(|jitter| format!(" jitter {jitter:?}"));
    let loss = way.loss.map(|loss| format!(" loss {}%", (loss * 1e4).round() / 100.0));
    [latency, jitter, loss].into_iter().flatten().collect()
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

impl<'de> Deserialize<'de> for Peers {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Peers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of peers, or a list of their names")
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Peers, E> {
                Ok(Peers::Count(count))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, names: A) -> Result<Peers, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(names)).map(Peers::Named)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for TargetsText {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = TargetsText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"earlier\", \"first\", \"all\", or a table of lists of peers")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<TargetsText, E> {
                Ok(TargetsText::Word(word.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, lists: A) -> Result<TargetsText, A::Error> {
                BTreeMap::deserialize(de::value::MapAccessDeserializer::new(lists)).map(TargetsText::Listed)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
