//! The real host: [`Host`] by the Linux kernel.
//!
//! Two threads, both in the network namespace of the thread that started them. One does what is asked, one request after the other and
//! each to its end, and blocks as it needs; the other follows the addresses of the underlay. All that is kept between requests is in
//! the kernel itself: devices are known by their marks, so that a killed router's successor finds everything.

mod bridge;
mod bridged;
mod container;
mod device;
mod endpoint;
mod expose;
mod reset;
mod routes;

use std::{net::IpAddr, thread::JoinHandle};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use weft::api::{
    AttachRequest, Attachment, ExposeRequest,
    endpoint::{EndpointRequest, FreeEnd},
};

pub(crate) use self::{
    bridge::bridge_mark,
    container::{container_of, given},
};
use crate::{
    error::HostError,
    host::{Answer, Bridge, BridgeConfig, Facts, Host, HostRoute, Port, Underlay},
    netlink::Netlink,
    underlay,
};

/// Requests that may wait; more are refused with [`HostError::Busy`]. People ask one by one, so more means that the kernel is stuck.
const WAITING_MAX: usize = 64;
/// Longest name of a device (IFNAMSIZ less the closing nought).
const DEVICE_NAME_MAX: usize = 15;

type Job = Box<dyn FnOnce(&Edge) + Send>;

/// The Linux kernel under one router.
#[derive(Debug)]
pub struct Kernel {
    jobs: Option<mpsc::Sender<Job>>,
    underlay: watch::Receiver<Underlay>,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the working thread has: the bridge's name, and a socket in the router's namespace. All that counts is in the kernel.
struct Edge {
    bridge: String,
    netlink: Netlink,
    /// What was seen of containers a moment ago.
    seen: container::Seen,
    /// When we looked at the host's packet filter.
    looked: bridged::Looked,
}

impl Kernel {
    /// Starts in the calling thread's network namespace, for a bridge of this name (and a packet filter table of the same).
    ///
    /// # Errors
    /// A name that a device or a table cannot have, or what the kernel says.
    pub fn start(bridge: &str) -> Result<Self, HostError> {
        let letters = bridge.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !letters || !bridge.starts_with(|c: char| c.is_ascii_alphabetic()) || bridge.len() > DEVICE_NAME_MAX {
            return Err(HostError::BadBridgeName(bridge.chars().take(DEVICE_NAME_MAX).collect()));
        }
        // In a thread of its own, in the same namespace, because the caller may be a worker of tokio's, which must not block.
        let opened = std::thread::scope(|scope| scope.spawn(|| Self::open(bridge)).join());
        opened.unwrap_or(Err(HostError::Stopped))
    }

    fn open(bridge: &str) -> Result<Self, HostError> {
        let (seen, looked) = (container::Seen::default(), bridged::Looked::default());
        let edge = Edge { bridge: bridge.to_owned(), netlink: Netlink::open()?, seen, looked };
        let (jobs, queue) = mpsc::channel(WAITING_MAX);
        let worker = spawn("weft-host", move || work(&edge, queue))?;
        let (stop, stopped) = oneshot::channel();
        let (underlay, follower) = underlay::follow(stopped)?;
        Ok(Self { jobs: Some(jobs), underlay, stop: Some(stop), threads: vec![worker, follower] })
    }

    /// Hands a job to the working thread, which does it whether or not the answer is waited for.
    fn ask<T: Send + 'static>(&self, act: impl FnOnce(&Edge) -> Result<T, HostError> + Send + 'static) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |edge| {
            // Nobody may wait any more.
            let _ = reply.send(act(edge));
        });
        let sent = match self.jobs.as_ref().map(|jobs| jobs.try_send(job)) {
            Some(Ok(())) => Ok(()),
            Some(Err(mpsc::error::TrySendError::Full(_))) => Err(HostError::Busy),
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => Err(HostError::Stopped),
        };
        Box::pin(async move {
            sent?;
            answer.await.unwrap_or(Err(HostError::Stopped))
        })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        drop(self.jobs.take());
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            // A panic there has been reported already.
            let _ = thread.join();
        }
    }
}

impl Host for Kernel {
    fn ensure_bridge(&self, wanted: BridgeConfig) -> Answer<Bridge> {
        self.ask(move |edge| edge.ensure_bridge(&wanted))
    }

    fn add_port(&self, device: String) -> Answer<()> {
        self.ask(move |edge| edge.add_port(&device))
    }

    fn ports(&self) -> Answer<Vec<Port>> {
        self.ask(Edge::ports)
    }

    fn name_of(&self, container: String) -> Answer<String> {
        self.ask(move |edge| edge.name_of(&container))
    }

    fn attach(&self, request: AttachRequest<IpNet>) -> Answer<Vec<IpNet>> {
        self.ask(move |edge| edge.attach(&request))
    }

    fn detach(&self, request: AttachRequest<IpNet>) -> Answer<Vec<IpNet>> {
        self.ask(move |edge| edge.detach(&request))
    }

    fn endpoint(&self, request: EndpointRequest) -> Answer<FreeEnd> {
        self.ask(move |edge| edge.endpoint(&request))
    }

    fn remove_endpoint(&self, name: String) -> Answer<()> {
        self.ask(move |edge| edge.remove_endpoint(&name))
    }

    fn attachments(&self) -> Answer<Vec<Attachment>> {
        self.ask(Edge::attachments)
    }

    fn keep_passing(&self) -> Answer<()> {
        self.ask(|edge| {
            edge.keep_bridged_passing();
            Ok(())
        })
    }

    fn expose(&self, request: ExposeRequest<IpNet>) -> Answer<Vec<IpNet>> {
        self.ask(move |edge| edge.expose(&request))
    }

    fn hide(&self, request: ExposeRequest<IpNet>) -> Answer<Vec<IpNet>> {
        self.ask(move |edge| edge.hide(&request))
    }

    fn routes(&self) -> Answer<Vec<HostRoute>> {
        self.ask(Edge::routes)
    }

    fn underlay_mtu(&self, towards: IpAddr) -> Answer<u32> {
        self.ask(move |edge| edge.netlink.route_mtu(towards))
    }

    fn underlay(&self) -> watch::Receiver<Underlay> {
        self.underlay.clone()
    }

    fn facts(&self) -> Facts {
        underlay::facts()
    }

    fn reset(&self) -> Answer<()> {
        self.ask(Edge::reset)
    }
}

/// Starts a thread in the caller's network namespace.
pub(crate) fn spawn(name: &str, act: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, HostError> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(act).map_err(|error| HostError::io("start a thread", &error))
}

fn work(edge: &Edge, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.blocking_recv() {
        job(edge);
    }
}

#[cfg(test)]
pub(crate) mod tests;
