use std::sync::Mutex;

use weft::{
    api::allocation::{AddressAnswer, AddressRequest},
    entropy::Entropy,
    id::PeerName,
};
use weft_host::{BridgeConfig, FakeHost};

use super::*;
use crate::control::{self, Ask, Settled};

/// A host, a task, and a control task that notes what it is told.
struct Stage {
    host: Arc<FakeHost>,
    operator: Operator,
    told: Arc<Mutex<Vec<Input>>>,
    asked: Arc<Mutex<Vec<String>>>,
    refusal: Arc<Mutex<Option<AllocationError>>>,
    store: Arc<Store>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _scratch: tempfile::TempDir,
}

impl Stage {
    /// On a host with two namespaces, of which `attached` were plugged in by an earlier run.
    async fn set(ranges: Ranges, noted: &[&str], attached: &[(&str, &str)]) -> Self {
        let host = Arc::new(FakeHost::new());
        host.ensure_bridge(BridgeConfig { peer: PeerName([2; 6]), mtu: None }).await.unwrap();
        host.add_namespace("c1");
        host.add_namespace("c2");
        for (container, address) in attached {
            host.attach(of_host(container, &[address])).await.unwrap();
        }
        let scratch = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(scratch.path(), &Entropy::System).unwrap());
        noted.iter().for_each(|owner| store.note_plugged(owner).unwrap());
        let (asker, asks) = control::channel();
        let (told, asked) = <(Arc<Mutex<Vec<Input>>>, Arc<Mutex<Vec<String>>>)>::default();
        let refusal: Arc<Mutex<Option<AllocationError>>> = Arc::default();
        tokio::spawn(serve(asks, told.clone(), asked.clone(), refusal.clone()));
        let (mut stations, operator) =
            Stations::new(host.clone(), asker, store.clone(), ranges, watch::channel(Vec::new()).1);
        let stop = CancellationToken::new();
        stations.begin().await;
        let task = tokio::spawn(stations.run(stop.clone()));
        Self { host, operator, told, asked, refusal, store, stop, task, _scratch: scratch }
    }

    async fn attach(&self, container: &str, addresses: &[&str]) -> Outcome<Vec<IpNet>> {
        let request = wanted(container, addresses);
        self.operator.ask(|answer| Operation::Attach(request, answer)).await
    }

    async fn detach(&self, container: &str, addresses: &[&str]) -> Outcome<Vec<IpNet>> {
        let request = wanted(container, addresses);
        self.operator.ask(|answer| Operation::Detach(request, answer)).await
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    fn told(&self) -> Vec<Input> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }

    /// Until the next scan and what follows it are over.
    async fn scan(&self) {
        tokio::time::sleep(RESCAN_EVERY + Duration::from_secs(1)).await;
    }
}

/// Gives out 10.32.0.9 and on; nobody has anything before.
async fn serve(
    mut asks: mpsc::Receiver<Ask>,
    told: Arc<Mutex<Vec<Input>>>,
    asked: Arc<Mutex<Vec<String>>>,
    refusal: Arc<Mutex<Option<AllocationError>>>,
) {
    while let Some(ask) = asks.recv().await {
        match ask {
            Ask::Feed(input, done) => {
                told.lock().unwrap().push(input);
                done.send(()).unwrap();
            }
            Ask::Addresses(request, answer) => {
                let settled = match refusal.lock().unwrap().clone() {
                    Some(error) if !matches!(request, AddressRequest::Free { .. } | AddressRequest::Lookup { .. }) => {
                        Err(error)
                    }
                    Some(_) | None => settled(&request),
                };
                asked.lock().unwrap().extend(words(&request));
                answer.send(settled).unwrap();
            }
            Ask::Snapshot(answer) => drop(answer),
            Ask::Explain(_, answer) => drop(answer),
            Ask::ExplainPeer(_, answer) => drop(answer),
            Ask::Names(_, answer) => answer.send(Ok(0)).unwrap(),
        }
    }
}

fn settled(request: &AddressRequest) -> Settled {
    Ok(AddressAnswer::Addresses(match request {
        AddressRequest::Allocate { subnets, .. } => {
            let chosen =
                |(n, net): (usize, &IpNet)| IpNet::new(net.hosts().nth(8 + n).unwrap(), net.prefix_len()).unwrap();
            subnets.iter().enumerate().map(chosen).collect()
        }
        AddressRequest::Claim { addresses, .. } => addresses.clone(),
        AddressRequest::Lookup { owner } if owner == "vanished" => nets(&["10.32.0.7/16"]),
        AddressRequest::Lookup { .. }
        | AddressRequest::Free { .. }
        | AddressRequest::RemovePeers { .. }
        | AddressRequest::Prime { .. }
        | AddressRequest::Leave => Vec::new(),
    }))
}

fn words(request: &AddressRequest) -> Option<String> {
    match request {
        AddressRequest::Allocate { owner, subnets } => Some(format!("allocate {owner} {subnets:?}")),
        AddressRequest::Claim { owner, addresses } => Some(format!("claim {owner} {addresses:?}")),
        AddressRequest::Free { owner, addresses, keep_ms } => Some(format!("free {owner} {addresses:?} {keep_ms}")),
        AddressRequest::Lookup { .. }
        | AddressRequest::RemovePeers { .. }
        | AddressRequest::Prime { .. }
        | AddressRequest::Leave => None,
    }
}

fn ranges() -> Ranges {
    Ranges { all: nets(&["10.32.0.0/12"]), default_subnets: nets(&["10.32.0.0/16"]) }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn wanted(container: &str, addresses: &[&str]) -> AttachRequest {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    AttachRequest { container: container.to_owned(), addresses, ..AttachRequest::default() }
}

fn of_host(container: &str, addresses: &[&str]) -> AttachRequest<IpNet> {
    AttachRequest { container: container.to_owned(), addresses: nets(addresses), ..AttachRequest::default() }
}

fn station(mac: u8, addresses: &[&str]) -> Input {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Input::Station { mac: Mac([2, 0, 0, 0, 0, mac]), addresses, attached: true }
}

fn gone(mac: u8) -> Input {
    Input::StationGone { mac: Mac([2, 0, 0, 0, 0, mac]) }
}

#[tokio::test(start_paused = true)]
async fn the_node_learns_of_what_is_plugged_in_and_of_what_vanished() {
    let stage = Stage::set(Ranges::default(), &[], &[("c1", "10.2.0.1/24")]).await;
    assert_eq!(stage.told(), [station(1, &["10.2.0.1"])], "attached in an earlier run");
    assert_eq!(stage.attach("c2", &["10.2.0.2/24", "fd00::2/64"]).await.unwrap().len(), 2);
    assert_eq!(stage.told(), [station(2, &["10.2.0.2", "fd00::2"])]);

    stage.host.detach(of_host("c2", &["10.2.0.2/24"])).await.unwrap();
    stage.scan().await;
    assert_eq!(stage.told(), [gone(2), station(2, &["fd00::2"])]);
    stage.host.remove_namespace("c2");
    stage.scan().await;
    assert_eq!(stage.told(), [gone(2)]);

    let missing = HostError::NoNamespace("c3".to_owned());
    assert_eq!(stage.attach("c3", &["10.2.0.3/24"]).await, Err(missing.into()));
    assert_eq!(stage.attach("c1", &[]).await, Err(AllocationError::Off.into()));
    assert!(stage.asked().is_empty(), "a router that gives out nothing asks for nothing");
    stage.stop.cancel();
    stage.task.await.unwrap();
    assert!(stage.operator.ask(Operation::List).await.is_err(), "stopped");
}

#[tokio::test(start_paused = true)]
async fn addresses_are_the_owners_before_they_are_used_and_given_back_after() {
    let stage = Stage::set(ranges(), &[], &[]).await;
    let given =
        stage.attach("c1", &["net:10.33.0.0/24", "10.32.0.9/16", "172.16.0.1/24", "net:default"]).await.unwrap();
    assert_eq!(
        given,
        nets(&["10.33.0.9/24", "10.32.0.9/16", "172.16.0.1/24", "10.32.0.10/16"]),
        "in the order asked for"
    );
    let expected = ["claim c1 [10.32.0.9/16]", "allocate c1 [10.33.0.0/24, 10.32.0.0/16]"];
    assert_eq!(stage.asked(), expected, "what is given comes first; foreign addresses are nobody's business");

    assert_eq!(stage.detach("c1", &["net:10.34.0.0/24"]).await.unwrap(), []);
    assert!(stage.asked().is_empty(), "none of that subnet is not all");
    assert_eq!(stage.detach("c1", &["net:default"]).await.unwrap(), nets(&["10.32.0.9/16", "10.32.0.10/16"]));
    assert_eq!(stage.asked(), ["free c1 [10.32.0.9, 10.32.0.10] 0"]);
    assert_eq!(stage.detach("c1", &[]).await.unwrap(), nets(&["10.33.0.9/24", "172.16.0.1/24"]));
    stage.scan().await;
    assert_eq!(stage.asked()[0], "free c1 [] 0");
    assert!(stage.store.plugged().is_empty());

    let request = ExposeRequest::default();
    let exposed = stage.operator.ask(|answer| Operation::Expose(request.clone(), answer)).await.unwrap();
    assert_eq!(exposed, nets(&["10.32.0.9/16"]));
    stage.operator.ask(|answer| Operation::Hide(request, answer)).await.unwrap();
    assert_eq!(stage.asked()[..2], ["allocate weft:expose [10.32.0.0/16]", "free weft:expose [] 0"]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_leaves_nothing_behind() {
    let stage = Stage::set(ranges(), &[], &[]).await;
    let missing = HostError::NoNamespace("c3".to_owned());
    assert_eq!(stage.attach("c3", &[]).await, Err(missing.clone().into()));
    assert!(stage.asked().is_empty(), "no container, no address");
    let taken = stage.attach("c1", &["10.32.0.9/16", "net:10.32.0.0/16"]).await;
    stage.asked();
    assert!(taken.is_ok());
    // The host says no after the addresses were settled: it is one of another container.
    assert!(matches!(stage.attach("c2", &["net:default", "net:10.32.0.0/16"]).await, Err(OperationError::Host(_))));
    assert_eq!(stage.asked(), ["allocate c2 [10.32.0.0/16, 10.32.0.0/16]", "free c2 [10.32.0.9, 10.32.0.10] 0"]);
    *stage.refusal.lock().unwrap() = Some(AllocationError::NotStarted { waiting: "host-2".to_owned() });
    assert!(matches!(stage.attach("c2", &["10.32.0.20/16"]).await, Err(OperationError::Allocation(_))));
    assert_eq!(stage.asked(), ["claim c2 [10.32.0.20/16]", "free c2 [10.32.0.20] 0"]);
    assert_eq!(stage.detach("c1", &[]).await.unwrap().len(), 1, "though nobody agrees with anybody");
    assert_eq!(stage.detach("c3", &[]).await, Err(missing.into()));
    assert_eq!(stage.detach("vanished", &[]).await.unwrap(), nets(&["10.32.0.7/16"]));
}

#[tokio::test(start_paused = true)]
async fn containers_of_an_earlier_run_keep_their_addresses_and_those_that_are_gone_give_them_back() {
    let stage = Stage::set(ranges(), &["c1", "c9"], &[("c1", "10.32.0.1/16"), ("c2", "172.16.0.1/24")]).await;
    stage.scan().await;
    assert_eq!(stage.asked(), ["claim c1 [10.32.0.1/16]", "free c9 [] 30000"], "the claim before anything else");

    stage.host.remove_namespace("c1");
    stage.scan().await;
    assert_eq!(stage.asked(), ["free c1 [] 30000"], "it may come back");
}

#[tokio::test(start_paused = true)]
async fn what_a_runtime_plugged_in_keeps_its_addresses_until_it_says_otherwise() {
    let stage = Stage::set(ranges(), &["weft/0b/eth0"], &[]).await;
    stage.scan().await;
    assert_eq!(stage.asked(), [""; 0], "plugged in by an earlier run, and not unplugged");
    let owner = "weft/0a/eth0";
    let request = AttachRequest { name: Some(owner.to_owned()), ..wanted("c1", &["10.32.0.9/16"]) };
    let plug = || stage.operator.ask(|answer| Operation::Attach(request.clone(), answer));
    plug().await.unwrap();
    stage.asked();
    stage.host.remove_namespace("c1");
    stage.scan().await;
    assert_eq!(stage.asked(), [""; 0], "the runtime may make the namespace anew");
    stage.host.add_namespace("c1");
    plug().await.unwrap();
    stage.asked();

    stage.host.remove_namespace("c1");
    stage.scan().await;
    let request = AttachRequest { addresses: Vec::new(), ..request.clone() };
    stage.operator.ask(|answer| Operation::Detach(request, answer)).await.unwrap();
    assert_eq!(stage.asked(), [format!("free {owner} [] 0")]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_repeated_until_the_network_has_started() {
    let stage = Stage::set(ranges(), &[], &[]).await;
    *stage.refusal.lock().unwrap() = Some(AllocationError::NotStarted { waiting: "host-2".to_owned() });
    stage.host.attach(of_host("c1", &["10.32.0.1/16"])).await.unwrap();
    let (asker, asks) = control::channel();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    tokio::spawn(serve(asks, Arc::default(), asked.clone(), stage.refusal.clone()));
    let (mut again, _operator) =
        Stations::new(stage.host.clone(), asker, stage.store.clone(), ranges(), watch::channel(Vec::new()).1);
    again.begin().await;
    let task = tokio::spawn(again.run(stage.stop.clone()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    *stage.refusal.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let claims = std::mem::take(&mut *asked.lock().unwrap());
    assert_eq!(claims.len(), 4, "at once, twice in vain, and then no more: {claims:?}");
    stage.stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn those_who_ask_at_a_time_are_answered_by_one_look() {
    let stage = Stage::set(ranges(), &[], &[("c1", "10.32.0.1/16")]).await;
    stage.scan().await;
    let before = stage.host.looks();
    let ask = |_| {
        let operator = stage.operator.clone();
        tokio::spawn(async move { operator.ask(Operation::List).await })
    };
    for asked in (0..12).map(ask).collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap().unwrap().len(), 1);
    }
    assert_eq!(stage.host.looks() - before, 1);
}
