use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

fn parse(text: &str) -> Result<Scenario, ScenarioError> {
    Scenario::parse(text, Scenario::default())
}

fn entropy() -> Entropy {
    Entropy::seeded([7; 32])
}

#[test]
fn the_example_is_a_scenario_and_says_all_that_it_tells_of() {
    let scenario = parse(EXAMPLE).unwrap();
    scenario.check().unwrap();
    assert_eq!((scenario.peers.len(), scenario.happenings.len(), scenario.nats.len()), (6, 7, 2));
    assert_eq!(scenario.happenings[0].words, "cut berlin–paris");
    assert_eq!(scenario.happenings[1].words, "berlin–tokyo loss 20%");
    let network = scenario.network(&entropy());
    let (berlin, oslo, tokyo) = (0, 2, 5);
    assert_eq!(network.way(tokyo, berlin).latency, 90 * MILLISECOND);
    assert_eq!(network.way(oslo, tokyo).latency, 120 * MILLISECOND);
    assert_eq!([network.way(oslo, 1).loss, network.way(1, oslo).loss], [0.03, 0.001]);
    assert!(!network.passes(oslo, 3) && network.stream_cuts.is_empty());
    // What is commented out is right as well.
    let wanted = ["# matrix_ms", "# [churn]", "# every", "# down"];
    let lines = EXAMPLE
        .lines()
        .filter_map(|line| line.strip_prefix("# ").filter(|_| wanted.iter().any(|w| line.starts_with(w))));
    let (churn, matrix): (Vec<_>, Vec<_>) = lines.partition(|line| !line.starts_with("matrix"));
    let text = format!("peers = 3\n[network]\n{}\n{}", matrix.join("\n"), churn.join("\n"));
    let more = parse(&text).unwrap();
    assert_eq!(more.network(&entropy()).way(1, 2).latency, 15 * MILLISECOND);
    assert_eq!(more.churn, Some(Churn { every: Duration::from_secs(10), down: Duration::from_secs(5) }));
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (text, line, what) in [
        ("peers = 1", 1, "`peers` takes 2 to 5000"),
        ("\npeers = -5", 2, "`peers` takes 2 to 5000"),
        ("peers = \"ten\"", 1, "a number of peers, or a list of their names"),
        ("peers = [\"a\", \"a\"]", 1, "two peers are called `a`"),
        ("peers = [\"a\", \"*\"]", 1, "`*` stands for all peers"),
        ("peers = [\"a\", \"\"]", 1, "cannot be a name"),
        ("peers = 3\nfor = \"0s\"", 2, "`for` takes 1s to 24h"),
        ("peers = 3\nfor = 60", 2, "`60` is no time: write a number and its unit"),
        ("peers = 3\ncolour = 1", 2, "unknown field `colour`"),
        ("peers = 3\ntargets = \"some\"", 2, "`targets` is \"earlier\""),
        ("peers = 3\n\n[targets]\npeer9 = [\"peer1\"]", 3, "no peer is called `peer9`: there are peer1, peer2, peer3"),
        ("peers = 3\n[network]\nlatency = \"1h\"", 3, "too long for a link: at most 10s"),
        ("peers = 3\n[network]\njitter = \"1ms\"\nloss = \"200%\"", 4, "`200%` is no share"),
        ("peers = 3\n[network]\npayload_max = 100", 3, "`payload_max` takes 1232 to 65507"),
        ("peers = 2\n[network]\nmatrix_ms = [[0, 1], [1]]", 3, "2 rows of 2 numbers"),
        ("peers = 2\n[network]\nmatrix_ms = [[0, -1], [1, 0]]", 3, "milliseconds from 0 to 10000"),
        ("peers = 3\n[[link]]\nbetween = [\"peer1\", \"peer1\"]\nloss = \"1%\"", 2, "has no link to itself"),
        ("peers = 3\n[[link]]\nbetween = [\"peer1\", \"peer2\"]", 2, "this link says nothing"),
        ("peers = 3\n[[link]]\nbetween = [\"peer1\"]", 3, "invalid length 1"),
        ("peers = 3\n[[nat]]\npeers = []", 2, "names nobody"),
        ("peers = 3\n[[nat]]\npeers = [\"peer1\"]\n[[nat]]\npeers = [\"*\"]", 4, "`peer1` is behind a NAT already"),
        ("peers = 3\n[[event]]\ncut = [\"peer1\", \"peer2\"]", 2, "missing field `at`"),
        ("peers = 3\n[[event]]\nat = \"1s\"", 2, "exactly one of cut, heal"),
        ("peers = 3\n[[event]]\nat = \"1s\"\ncrash = [\"peer1\"]\nstop = [\"peer1\"]", 2, "exactly one of cut, heal"),
        ("peers = 3\n[[event]]\nat = \"1s\"\ncrash = [\"peer1\"]\nloss = \"1%\"", 2, "go with `link`"),
        ("peers = 3\n[[event]]\nat = \"1s\"\nlink = [\"peer1\", \"*\"]", 2, "`link` changes nothing"),
        ("peers = 3\n[[event]]\nat = \"1s\"\nnat_forgets = [\"peer1\"]", 2, "`peer1` is behind no NAT"),
        ("peers = 3\n[[event]]\nat = \"1s\"\npartition = [[\"peer1\"], [\"peer1\"]]", 2, "in two groups"),
        ("peers = 3\n\n[churn]\nevery = \"0s\"\ndown = \"1s\"", 3, "at least 100ms"),
        ("peers = 3\n[expect]\nflaps = -1", 3, "-1"),
        ("peers = 3\n[[event]\n", 2, ""),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!(error.line, Some(line), "{text}: {error}");
        assert!(error.message.contains(what), "{text}: {error}");
    }
}

#[test]
fn an_event_after_the_end_and_too_few_peers_are_told() {
    let late = parse("peers = 3\n[[event]]\nat = \"2m\"\ncrash = [\"*\"]").unwrap();
    assert!(late.check().unwrap_err().message.contains("an event at 120s, but it ends after 60s"));
    let none = parse("for = \"5s\"").unwrap();
    assert!(none.check().unwrap_err().message.contains("0 peers: it takes 2 to 5000"));
}

#[test]
fn a_file_on_top_of_something_says_only_what_differs() {
    let base = Scenario { peers: Scenario::numbered(4), conn_limit: 9, ..Scenario::default() };
    let over = Scenario::parse("seed = 3\n[[event]]\nat = \"1s\"\ncut = [\"peer4\", \"*\"]", base.clone()).unwrap();
    assert_eq!((over.peers.len(), over.conn_limit, over.seed, over.happenings.len()), (4, 9, 3, 1));
    let twice = Scenario::parse("seed = 3\npeers = 5", base).unwrap_err();
    assert_eq!(twice.line, Some(2));
    assert!(twice.message.contains("given already"), "{twice}");
}

#[test]
fn the_far_are_slow_and_a_share_of_links_is_bad() {
    let text = "peers = 40\n[network]\nlatency = \"5ms\"\nspread = \"50ms\"\nbad_links = \"5%\"\nbad_loss = \"20%\"";
    let network = parse(text).unwrap().network(&entropy());
    let ways: Vec<_> = network.ways.values().collect();
    assert_eq!(ways.len(), 40 * 39);
    let bad = ways.iter().filter(|way| way.loss > 0.0).count();
    assert!((40..=120).contains(&bad), "{bad} of 1560");
    let good = || ways.iter().filter(|way| way.loss == 0.0).map(|way| way.latency);
    assert!(good().all(|latency| (5 * MILLISECOND..=55 * MILLISECOND).contains(&latency)));
    assert!(good().min() < Some(10 * MILLISECOND) && good().max() > Some(40 * MILLISECOND));
    assert!(network.ways.iter().all(|((a, b), way)| network.way(*b, *a) == *way), "both ways alike");
}

#[test]
fn peers_are_told_of_others_that_can_be_reached() {
    let text = "peers = [\"a\", \"b\", \"c\", \"d\", \"e\"]\n[[nat]]\npeers = [\"a\", \"b\"]\n[[nat]]\npeers = [\"d\"]";
    let lists = parse(text).unwrap().target_lists(&entropy());
    assert_eq!(lists[..3], [vec![2], vec![2], vec![]]);
    assert_eq!(lists[3..], [vec![2], vec![2]]);
    let lists = parse("peers = 30").unwrap().target_lists(&entropy());
    assert!(lists[0].is_empty() && lists[1] == [0]);
    assert!(lists.iter().enumerate().skip(2).all(|(id, list)| list.len() == 2 && list.iter().all(|other| *other < id)));
    let listed = parse("peers = 3\n[targets]\npeer2 = [\"peer3\"]").unwrap();
    assert_eq!(listed.target_lists(&entropy()), [vec![], vec![2], vec![]]);
}

#[test]
fn any_text_is_a_scenario_or_an_error() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let _ = parse(&String::from_utf8_lossy(bytes));
    });
}

/// Files that are nearly right come closer to what is checked here, than just any text.
#[test]
fn the_example_with_anything_in_it_is_a_scenario_that_can_be_laid_out_or_an_error() {
    bolero::check!().with_type::<(u16, u8, Vec<u8>)>().for_each(|(at, cut, with)| {
        let mut text = EXAMPLE.as_bytes().to_vec();
        let at = usize::from(*at) % text.len();
        let end = (at + usize::from(*cut)).min(text.len());
        text.splice(at..end, with.iter().copied());
        if let Ok(scenario) = parse(&String::from_utf8_lossy(&text))
            && scenario.peers.len() < 100
            && scenario.check().is_ok()
        {
            let mut network = scenario.network(&entropy());
            assert_eq!(scenario.target_lists(&entropy()).len(), scenario.peers.len());
            for happening in &scenario.happenings {
                happening.change.alter(&mut network, scenario.peers.len());
            }
        }
    });
}
