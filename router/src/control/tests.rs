use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Mutex, MutexGuard},
};

use weft::{
    crypto::{identity::Identity, session::Cipher},
    entropy::Entropy,
    id::{ConnId, NetworkName, Uid},
    node::NodeConfig,
    secret::NetworkSecret,
};

use super::*;
use crate::{keep, record, transport::tcp};

/// A data plane that notes what it is asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeSleeve(Arc<Mutex<Vec<String>>>);

impl FakeSleeve {
    fn noted(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap()
    }
}

impl Sleeve for FakeSleeve {
    fn publish(&self, forwarding: Arc<Forwarding>) {
        self.noted().push(format!("publish {}", forwarding.peers.len()));
    }

    fn send(&mut self, to: SocketAddr, packet: &[u8]) {
        self.noted().push(format!("send {to} {packet:?}"));
    }

    fn relay(&mut self, to: PeerName, relays: &[PeerName], packet: &[u8]) {
        self.noted().push(format!("relay {to} {relays:?} {packet:?}"));
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }

    fn worked(&self) -> Duration {
        Duration::ZERO
    }
}

/// The other ends of [`Sources`].
pub(crate) struct Ends {
    pub(crate) asker: Asker,
    pub(crate) punts: mpsc::Sender<Input>,
    pub(crate) fast: mpsc::Sender<Input>,
    pub(crate) writer: Option<keep::Writer>,
    pub(crate) mtu: watch::Sender<u16>,
    pub(crate) underlay: watch::Sender<Underlay>,
    pub(crate) failure: watch::Sender<Option<String>>,
    pub(crate) stop: CancellationToken,
    pub(crate) targets: watch::Receiver<Vec<Target>>,
    pub(crate) own_names: watch::Receiver<Vec<Held>>,
    pub(crate) names: Arc<ArcSwap<Table>>,
}

pub(crate) fn node_config() -> NodeConfig {
    NodeConfig {
        version: "0.0.0-test".to_owned(),
        identity: Identity::generate(&Entropy::System),
        secret: NetworkSecret::open(&NetworkName::default()),
        network: NetworkName::default(),
        nickname: "host-1".parse().unwrap(),
        uid: Uid(42),
        port: 6783,
        conn_limit: 0,
        discovery: true,
        relay: true,
        trusted_subnets: Vec::new(),
        rekey_after: weft::link::keys::REKEY_AFTER,
        targets: Vec::new(),
        cipher: Cipher::Aes256Gcm,
        started: 1_700_000_000,
        allocation: None,
    }
}

/// A control task with nothing around it.
pub(crate) fn control(node: Node, recorder: Option<Recorder>) -> (Control<FakeSleeve>, Sources, Ends) {
    let listeners = tcp::listen(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
    let (transport, arrivals) = Transport::new(listeners, None, 6783);
    let (asker, asks) = channel();
    let (punts, punted) = mpsc::channel(4);
    let (fast, fast_inputs) = mpsc::channel(4);
    let (newest, writer, kept) = keep::channel();
    let (mtu, mtu_seen) = watch::channel(1340);
    let (underlay, underlay_seen) = watch::channel(Underlay::default());
    let (failure, failure_seen) = watch::channel(None);
    let (targets, targets_seen) = watch::channel(Vec::new());
    let stop = CancellationToken::new();
    let sources = Sources {
        asks,
        punts: punted,
        arrivals,
        fast: fast_inputs,
        kept,
        mtu: mtu_seen,
        underlay: underlay_seen,
        failure: failure_seen,
        stop: stop.clone(),
    };
    let sleeve = FakeSleeve::default();
    let (started, events) = (Instant::now(), EventCounts::default());
    let ability = Ability::Off(String::new());
    let (own, own_names) = watch::channel(Vec::new());
    let table = Arc::new(ArcSwap::default());
    let names = NamesOut { kept: Vec::new(), table: table.clone(), own, answer: None };
    let control = Control {
        node,
        sleeve,
        transport,
        fast: None,
        ability,
        recorder,
        newest,
        askers: Askers::default(),
        targets,
        names,
        started,
        events,
        lookout: Lookout::default(),
        load: LoadMeter::default(),
    };
    let targets = targets_seen;
    let writer = Some(writer);
    let ends = Ends { asker, punts, fast, writer, mtu, underlay, failure, stop, targets, own_names, names: table };
    (control, sources, ends)
}

/// A node that nobody has told anything.
pub(crate) fn node() -> Node {
    Node::new(node_config(), Entropy::System)
}

#[tokio::test]
async fn what_the_node_wants_goes_where_it_belongs() {
    let (mut control, _sources, ends) = control(node(), None);
    let peer = PeerName([1; 6]);
    let to: SocketAddr = "192.0.2.1:6783".parse().unwrap();
    let target: Target = "host-2".parse().unwrap();
    for output in [
        Output::Forwarding(Arc::default()),
        Output::Datagram { to: peer, route: Route::Direct(to), bytes: vec![1] },
        Output::Datagram { to: peer, route: Route::Relayed(vec![PeerName([2; 6])]), bytes: vec![2] },
        Output::Event(Event::Rekeyed { peer }),
        Output::Event(Event::TargetsChanged { targets: vec![target.clone()] }),
        Output::Close { conn: ConnId(2) },
    ] {
        assert_eq!(control.apply(output), None);
    }
    let expected = ["publish 0", "send 192.0.2.1:6783 [1]", "relay 01:01:01:01:01:01 [02:02:02:02:02:02] [2]"];
    assert_eq!(*control.sleeve.noted(), expected);
    assert_eq!(control.events.peers[&peer].rekeys, 1);
    assert_eq!(*ends.targets.borrow(), [target]);
}

#[tokio::test]
async fn it_answers_until_it_is_stopped_and_every_input_is_written_down() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("run");
    let config = node_config();
    let seed = [1; 32];
    let recorder = Recorder::begin(&path, &config, &seed).unwrap();
    let (control, sources, ends) = control(Node::new(config.clone(), Entropy::seeded(seed)), Some(recorder));
    let task = tokio::spawn(control.run(sources));
    assert_eq!(ends.asker.snapshot().await.unwrap().report.router.name, config.identity.name());
    ends.underlay.send_modify(|underlay| underlay.addresses = vec!["192.0.2.9".parse().unwrap()]);
    ends.mtu.send_replace(1280);
    ends.fast.send(Input::PacketsRefused("5 packets".to_owned())).await.unwrap();
    ends.punts.send(Input::SessionWanted { peer: PeerName([3; 6]) }).await.unwrap();
    let connect = Input::Connect { targets: vec!["127.0.0.1:9".parse().unwrap()], replace: false };
    ends.asker.feed(connect).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    ends.stop.cancel();
    let (_, ended) = timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    ended.unwrap();
    assert!(ends.asker.snapshot().await.is_err(), "it is gone, and says so");

    let lines = std::fs::read_to_string(&path).unwrap();
    for input in [
        "LocalAddresses\":[\"192.0.2.9",
        "SessionWanted",
        "127.0.0.1:9",
        "ContainerMtu\":1280",
        "5 packets",
        "Leave",
        "report",
    ] {
        assert!(lines.contains(input), "{input} is missing");
    }
    let replayed = record::replay(&path).unwrap();
    assert_eq!(replayed.recorded, Some(replayed.node.report(replayed.now)));
}

#[tokio::test]
async fn names_of_the_last_run_are_there_and_changes_are_answered_and_kept() {
    let (mut control, sources, ends) = control(node(), None);
    let (owner, name): (weft::names::Owner, weft::names::DnsName) = ("c1".parse().unwrap(), "web".parse().unwrap());
    let addresses = vec!["10.0.0.1".parse().unwrap()];
    control.names.kept = vec![Held { owner: owner.clone(), name: name.clone(), addresses: addresses.clone() }];
    let task = tokio::spawn(control.run(sources));
    let more: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
    let add = NameRequest::Add { owner: owner.clone(), name: name.clone(), addresses: more.clone() };
    assert_eq!(ends.asker.names(add).await.unwrap(), Ok(1));
    let none = NameRequest::Add { owner: owner.clone(), name: name.clone(), addresses: Vec::new() };
    assert_eq!(ends.asker.names(none).await.unwrap(), Err(RequestError::NoAddress(name.clone())));
    let mut own = ends.own_names.clone();
    own.wait_for(|own| *own == [Held { owner: owner.clone(), name: name.clone(), addresses: more.clone() }])
        .await
        .unwrap();
    assert_eq!(ends.names.load().addresses(&name), Some(more));
    let all = NameRequest::Remove { owner: None, name: None, addresses };
    assert_eq!(ends.asker.names(all).await.unwrap(), Ok(1));
    ends.stop.cancel();
    task.await.unwrap().1.unwrap();
    assert_eq!(ends.own_names.borrow()[0].addresses.len(), 1, "the last change is kept, too");
}

#[tokio::test]
async fn a_dead_worker_ends_it_with_the_reason() {
    let (control, sources, ends) = control(node(), None);
    let task = tokio::spawn(control.run(sources));
    ends.failure.send_replace(Some("the data plane's thread sleeve-0 panicked".to_owned()));
    let (_, ended) = timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().to_string(), "the data plane's thread sleeve-0 panicked");
}
