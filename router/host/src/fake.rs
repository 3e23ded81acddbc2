//! A host in memory: the double of [`crate::Host`] for tests of what drives it.
//!
//! It keeps the promises of the trait with the same rules for addresses, and can be told to fail. Containers exist once they are
//! added by name.

use std::{
    collections::BTreeMap,
    future::ready,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;
use tokio::sync::watch;
use weft::{
    api::{
        AttachRequest, Attachment, ExposeRequest,
        endpoint::{EndpointRequest, FreeEnd},
    },
    id::Mac,
};

use crate::{
    addressing,
    error::HostError,
    host::{Answer, Bridge, BridgeConfig, EXPOSED, Facts, Host, HostRoute, Port, Underlay},
};

/// A host that exists only here.
#[derive(Debug)]
pub struct FakeHost {
    state: Mutex<State>,
    underlay: watch::Sender<Underlay>,
}

#[derive(Debug, Default)]
struct State {
    bridge: Option<Bridge>,
    devices: Vec<String>,
    /// Addresses on the network of each namespace that exists; none means not plugged in.
    namespaces: BTreeMap<String, Vec<IpNet>>,
    /// What is attached under a name of its own, and in which namespace.
    names: BTreeMap<String, String>,
    /// Free ends and what they will be given.
    endpoints: BTreeMap<String, (Mac, Vec<IpNet>)>,
    exposed: Vec<IpNet>,
    unmasqueraded: Vec<IpNet>,
    routes: Vec<HostRoute>,
    failure: Option<HostError>,
    looks: usize,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeHost {
    /// A host with nothing on it.
    pub fn new() -> Self {
        Self { state: Mutex::default(), underlay: watch::Sender::new(Underlay::default()) }
    }

    /// Lets a container's namespace exist.
    pub fn add_namespace(&self, name: &str) {
        self.state().namespaces.entry(name.to_owned()).or_default();
    }

    /// Lets a container's namespace vanish, with whatever was plugged into it.
    pub fn remove_namespace(&self, name: &str) {
        let mut state = self.state();
        state.namespaces.remove(name);
        state.names.retain(|_, namespace| namespace != name);
    }

    /// Changes the host's addresses; peers are told those that mean something to them.
    pub fn set_underlay(&self, mut addresses: Vec<IpAddr>) {
        addresses.retain(|address| addressing::is_underlay(*address));
        addresses.sort();
        self.underlay.send_modify(|underlay| underlay.addresses = addresses);
    }

    /// Changes where the host's own routes lead.
    pub fn set_routes(&self, routes: Vec<HostRoute>) {
        self.state().routes = routes;
    }

    /// How often it was asked what is plugged in.
    pub fn looks(&self) -> usize {
        self.state().looks
    }

    /// Lets the next call fail that changes something: what is asked in the background must not meet it.
    pub fn fail_next(&self, error: HostError) {
        self.state().failure = Some(error);
    }

    /// The exposed addresses whose traffic keeps its source.
    pub fn unmasqueraded(&self) -> Vec<IpNet> {
        self.state().unmasqueraded.clone()
    }

    /// A panic elsewhere cannot leave the state half changed, so its lock may still be taken.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer<T: Send + 'static>(&self, act: impl FnOnce(&mut State) -> Result<T, HostError>) -> Answer<T> {
        let mut state = self.state();
        let result = match state.failure.take() {
            Some(error) => Err(error),
            None => act(&mut state),
        };
        Box::pin(ready(result))
    }

    fn tell<T: Send + 'static>(&self, look: impl FnOnce(&mut State) -> Result<T, HostError>) -> Answer<T> {
        Box::pin(ready(look(&mut self.state())))
    }
}

impl Host for FakeHost {
    fn ensure_bridge(&self, wanted: BridgeConfig) -> Answer<Bridge> {
        self.answer(|state| {
            wanted.check()?;
            let created = state.bridge.is_none();
            let kept = state.bridge.as_ref().map_or(BridgeConfig::DEFAULT_MTU, |bridge| bridge.mtu);
            let mtu = wanted.mtu.unwrap_or(kept);
            let bridge = Bridge { name: "weft".to_owned(), index: 1, mac: wanted.mac(), mtu, created };
            state.bridge = Some(bridge.clone());
            Ok(bridge)
        })
    }

    fn add_port(&self, device: String) -> Answer<()> {
        self.answer(|state| {
            state.bridge()?;
            if !state.devices.contains(&device) {
                state.devices.push(device);
            }
            Ok(())
        })
    }

    fn ports(&self) -> Answer<Vec<Port>> {
        self.tell(|state| {
            state.bridge()?;
            let taps = state.devices.iter().map(|device| (device.clone(), None));
            let attached = state.namespaces.iter().filter(|(_, has)| !has.is_empty());
            let veths = attached.map(|(name, _)| (format!("vethwe{name}"), Some(name.clone())));
            let ports = (2..).zip(taps.chain(veths));
            Ok(ports
                .map(|(index, (device, container))| Port { device, index, container, ours: true, up: true })
                .collect())
        })
    }

    fn name_of(&self, container: String) -> Answer<String> {
        self.tell(|state| state.namespace(&container).map(|_| ()).map(|()| container))
    }

    fn attach(&self, request: AttachRequest<IpNet>) -> Answer<Vec<IpNet>> {
        self.answer(|state| {
            let asked = addressing::checked(&request.addresses)?;
            let has = state.namespace(&request.container)?.clone();
            state.bridge()?;
            let missing = addressing::missing(&asked, &has, &state.taken(&request.container))?;
            let has = state.namespace(&request.container)?;
            has.extend(missing);
            has.sort();
            state.names.extend(request.name.map(|name| (name, request.container)));
            Ok(asked)
        })
    }

    fn detach(&self, request: AttachRequest<IpNet>) -> Answer<Vec<IpNet>> {
        self.answer(|state| {
            let container = match &request.name {
                None => request.container,
                Some(name) => match state.names.get(name) {
                    None => return Ok(Vec::new()),
                    Some(namespace) => namespace.clone(),
                },
            };
            let has = state.namespace(&container)?;
            let leaving = addressing::leaving(&request.addresses, has);
            has.retain(|address| !leaving.contains(address));
            Ok(leaving)
        })
    }

    fn endpoint(&self, request: EndpointRequest) -> Answer<FreeEnd> {
        self.answer(|state| {
            let asked = addressing::optional(&request.addresses)?;
            let mtu = state.bridge()?.mtu;
            let has = state.endpoints.get(&request.name).map(|(_, has)| has.clone()).unwrap_or_default();
            addressing::missing(&asked, &has, &state.taken(&request.name))?;
            let number = u8::try_from(state.endpoints.len()).unwrap_or(u8::MAX);
            let mac = request.mac.unwrap_or(Mac([2, 0, 0, 0, 1, number]));
            let device = format!("free{number}");
            state.endpoints.insert(request.name, (mac, asked));
            Ok(FreeEnd { device, mac, mtu: request.mtu.unwrap_or(mtu).min(mtu) })
        })
    }

    fn remove_endpoint(&self, name: String) -> Answer<()> {
        self.answer(|state| {
            state.endpoints.remove(&name);
            Ok(())
        })
    }

    fn attachments(&self) -> Answer<Vec<Attachment>> {
        self.tell(|state| {
            state.looks += 1;
            let Some(bridge) = &state.bridge else { return Ok(Vec::new()) };
            let exposed = (EXPOSED.to_owned(), bridge.mac, &state.exposed);
            let containers =
                (1..).zip(&state.namespaces).map(|(n, (name, has))| (state.called(name), Mac([2, 0, 0, 0, 0, n]), has));
            let endpoints = state.endpoints.iter().map(|(name, (mac, has))| (name.clone(), *mac, has));
            let plugged = containers.filter(|(_, _, addresses)| !addresses.is_empty()).chain(endpoints);
            let all = std::iter::once(exposed).filter(|(_, _, addresses)| !addresses.is_empty()).chain(plugged);
            Ok(all.map(|(container, mac, has)| Attachment { container, mac, addresses: has.clone() }).collect())
        })
    }

    fn keep_passing(&self) -> Answer<()> {
        Box::pin(ready(Ok(())))
    }

    fn expose(&self, request: ExposeRequest<IpNet>) -> Answer<Vec<IpNet>> {
        self.answer(|state| {
            let asked = addressing::checked(&request.addresses)?;
            state.bridge()?;
            let missing = addressing::missing(&asked, &state.exposed, &state.taken(EXPOSED))?;
            state.exposed.extend(missing);
            state.exposed.sort();
            state.unmasqueraded.retain(|address| !asked.contains(address));
            if request.without_masquerade {
                state.unmasqueraded.extend(&asked);
            }
            Ok(asked)
        })
    }

    fn hide(&self, request: ExposeRequest<IpNet>) -> Answer<Vec<IpNet>> {
        self.answer(|state| {
            let leaving = addressing::leaving(&request.addresses, &state.exposed);
            state.exposed.retain(|address| !leaving.contains(address));
            state.unmasqueraded.retain(|address| !leaving.contains(address));
            Ok(leaving)
        })
    }

    fn routes(&self) -> Answer<Vec<HostRoute>> {
        self.tell(|state| Ok(state.routes.clone()))
    }

    fn underlay_mtu(&self, _towards: IpAddr) -> Answer<u32> {
        self.tell(|_| Ok(1500))
    }

    fn underlay(&self) -> watch::Receiver<Underlay> {
        self.underlay.subscribe()
    }

    fn facts(&self) -> Facts {
        Facts { hostname: "fake".to_owned(), aes: true }
    }

    fn reset(&self) -> Answer<()> {
        self.answer(|state| {
            let namespaces = state.namespaces.keys().map(|name| (name.clone(), Vec::new())).collect();
            *state = State { namespaces, ..State::default() };
            Ok(())
        })
    }
}

impl State {
    fn bridge(&self) -> Result<&Bridge, HostError> {
        self.bridge.as_ref().ok_or_else(|| HostError::NoBridge("weft".to_owned()))
    }

    fn namespace(&mut self, name: &str) -> Result<&mut Vec<IpNet>, HostError> {
        self.namespaces.get_mut(name).ok_or_else(|| HostError::NoNamespace(name.to_owned()))
    }

    /// What the container in a namespace is called.
    fn called(&self, namespace: &str) -> String {
        let given = self.names.iter().find(|(_, its)| *its == namespace).map(|(name, _)| name.as_str());
        given.unwrap_or(namespace).to_owned()
    }

    /// The addresses of all but one, with who has them.
    fn taken(&self, except: &str) -> Vec<(IpNet, String)> {
        let containers = self.namespaces.iter().filter(|(name, _)| *name != except);
        let endpoints = self.endpoints.iter().filter(|(name, _)| *name != except).map(|(name, (_, has))| (name, has));
        let mut taken: Vec<(IpNet, String)> = containers
            .chain(endpoints)
            .flat_map(|(name, has)| has.iter().map(move |net| (*net, format!("container \"{name}\""))))
            .collect();
        if except != EXPOSED {
            taken.extend(self.exposed.iter().map(|net| (*net, EXPOSED.to_owned())));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use weft::id::PeerName;

    use super::*;

    const CONFIG: BridgeConfig = BridgeConfig { peer: PeerName([0x7e, 1, 2, 3, 4, 5]), mtu: None };

    fn attach(container: &str, addresses: &[&str]) -> AttachRequest<IpNet> {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        AttachRequest { container: container.to_owned(), addresses, ..AttachRequest::default() }
    }

    fn expose(address: &str, without_masquerade: bool) -> ExposeRequest<IpNet> {
        ExposeRequest { addresses: vec![address.parse().unwrap()], without_masquerade }
    }

    #[tokio::test]
    async fn what_is_attached_is_listed_until_its_namespace_vanishes() {
        let host = FakeHost::new();
        host.ensure_bridge(CONFIG).await.unwrap();
        host.add_namespace("c1");
        host.attach(attach("c1", &["10.2.0.1/24"])).await.unwrap();
        host.attach(attach("c1", &["10.2.0.1/24", "fd00::1/64"])).await.unwrap();
        host.expose(expose("10.2.0.254/24", true)).await.unwrap();

        let listed = host.attachments().await.unwrap();
        assert_eq!(listed.iter().map(|line| line.container.as_str()).collect::<Vec<_>>(), [EXPOSED, "c1"]);
        assert_eq!(listed[1].addresses, attach("", &["10.2.0.1/24", "fd00::1/64"]).addresses);
        assert_eq!(host.unmasqueraded().len(), 1);

        host.remove_namespace("c1");
        assert_eq!(host.attachments().await.unwrap().len(), 1);
        host.reset().await.unwrap();
        assert_eq!(host.attachments().await.unwrap(), []);
    }

    #[tokio::test]
    async fn errors_are_those_of_the_kernel() {
        let host = FakeHost::new();
        host.add_namespace("c1");
        host.add_namespace("c2");
        let error = host.attach(attach("c1", &["10.2.0.1/24"])).await.unwrap_err();
        assert_eq!(error, HostError::NoBridge("weft".to_owned()));
        host.ensure_bridge(CONFIG).await.unwrap();
        host.attach(attach("c1", &["10.2.0.1/24"])).await.unwrap();
        let error = host.attach(attach("c2", &["10.2.0.1/16"])).await.unwrap_err();
        assert!(matches!(error, HostError::AddressTaken { .. }) && error.is_request_error());
        assert_eq!(host.detach(attach("c3", &[])).await.unwrap_err(), HostError::NoNamespace("c3".to_owned()));
        host.fail_next(HostError::NftMissing);
        assert_eq!(host.expose(expose("10.2.0.254/24", false)).await.unwrap_err(), HostError::NftMissing);
        assert!(host.expose(expose("10.2.0.254/24", false)).await.is_ok());
    }

    #[tokio::test]
    async fn the_mtu_is_kept_unless_given() {
        let host = FakeHost::new();
        let bridge = host.ensure_bridge(BridgeConfig { mtu: Some(1400), ..CONFIG }).await.unwrap();
        assert!(bridge.created && bridge.mtu == 1400);
        let bridge = host.ensure_bridge(CONFIG).await.unwrap();
        assert!(!bridge.created && bridge.mtu == 1400);
        assert!(host.ensure_bridge(BridgeConfig { mtu: Some(100), ..CONFIG }).await.is_err());
    }
}
