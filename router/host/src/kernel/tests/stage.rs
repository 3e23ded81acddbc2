//! The stage of the kernel's tests: a host and containers, each a network namespace of a thread that ends with the test, so that
//! nothing is ever left over.

use std::{
    sync::mpsc,
    thread::{self, JoinHandle},
};

use ipnet::IpNet;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{geteuid, gettid},
};
use weft::{
    api::{AttachRequest, Attachment, ExposeRequest},
    id::PeerName,
};

use crate::{Answer, BridgeConfig, Host, HostError, Kernel, netlink::Netlink};

pub(crate) const PEER: PeerName = PeerName([0x7e, 0x52, 0, 0xaa, 0xbb, 1]);

/// Plays a scene on a host of its own: a fresh network namespace, and a mount namespace with an empty /run.
pub(crate) fn on_a_host(scene: impl FnOnce() + Send + 'static) {
    assert!(geteuid().is_root(), "tests of the kernel's edge run as root");
    let host = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        std::fs::create_dir("/run/netns").unwrap();
        scene();
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A router's edge with its bridge.
pub(crate) fn launch() -> Kernel {
    let kernel = Kernel::start("weft").unwrap();
    done(kernel.ensure_bridge(BridgeConfig { peer: PEER, mtu: None })).unwrap();
    kernel
}

/// Waits for an answer.
pub(crate) fn done<T>(answer: Answer<T>) -> Result<T, HostError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(answer)
}

type Act = Box<dyn FnOnce() + Send>;

/// A container: a namespace that lives as long as this.
pub(crate) struct Container {
    pub(crate) path: String,
    acts: Option<mpsc::Sender<Act>>,
    thread: Option<JoinHandle<()>>,
}

impl Container {
    pub(crate) fn new() -> Self {
        let (acts, todo) = mpsc::channel::<Act>();
        let (tell, path) = mpsc::channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())).unwrap();
            todo.into_iter().for_each(|act| act());
        });
        Self { path: path.recv().unwrap(), acts: Some(acts), thread: Some(thread) }
    }

    /// Does something inside.
    pub(crate) fn inside<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, result) = mpsc::channel();
        self.acts.as_ref().unwrap().send(Box::new(move || drop(tell.send(act())))).unwrap();
        result.recv().expect("what is done inside does not panic")
    }

    /// The addresses of a device inside, in order, without the kernel's own.
    pub(crate) fn addresses(&self, device: &'static str) -> Vec<IpNet> {
        self.inside(move || {
            let netlink = Netlink::open().unwrap();
            let Some(link) = netlink.link(device).unwrap() else { return Vec::new() };
            super::super::container::given(&netlink.addresses(None).unwrap(), link.index)
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.acts.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(crate) fn to(container: &str, addresses: &[&str]) -> AttachRequest<IpNet> {
    AttachRequest { container: container.to_owned(), addresses: nets(addresses), no_multicast_route: false }
}

pub(crate) fn host_gets(addresses: &[&str]) -> ExposeRequest<IpNet> {
    ExposeRequest { addresses: nets(addresses), without_masquerade: false }
}

/// What `weft ps` shows, without the Ethernet addresses, which the kernel chooses.
pub(crate) fn ps(kernel: &Kernel) -> Vec<(String, Vec<IpNet>)> {
    let listed: Vec<Attachment> = done(kernel.attachments()).unwrap();
    listed.into_iter().map(|line| (line.container, line.addresses)).collect()
}
