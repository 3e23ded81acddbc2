//! One netlink socket, and what we say through it: questions with one answer, changes, and lists.
//!
//! A socket belongs to the network namespace of the thread that opened it, for ever. Calls block, each for a bounded time. Errors of
//! the kernel become their number and what we wanted; the failed request, which the kernel sends along, is never kept nor shown.

mod address;
mod link;
mod port;
mod route;
mod routes;
mod vxlan;

use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use rtnetlink::{Handle, MulticastGroup, new_connection_with_strict_check, new_multicast_connection};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};

pub(crate) use address::Address;
pub(crate) use link::{Link, Veth};
pub(crate) use port::PortRules;
pub(crate) use vxlan::{Family, VxlanConfig, vxlan_port};

use crate::error::HostError;

/// How long the kernel may think about one request: its lock for devices is held for long while namespaces die.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a list is asked for again that changed while it was made.
const TRIES: usize = 16;

/// A socket to the kernel.
pub(crate) struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread, which may not be one of tokio's workers.
    pub(crate) fn open() -> Result<Self, HostError> {
        let runtime = runtime()?;
        let guard = runtime.enter();
        let (mut connection, handle, _) =
            new_connection_with_strict_check().map_err(|error| HostError::io("open a netlink socket", &error))?;
        // The end of a list, too, says whether it was interrupted.
        connection.set_forward_done(true);
        drop(guard);
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// Asks for a change.
    fn change(&self, doing: &str, message: RouteNetlinkMessage, flags: u16) -> Result<(), HostError> {
        self.ask(doing, &message, NLM_F_REQUEST | NLM_F_ACK | flags).map(drop)
    }

    /// Asks for one thing.
    fn get(&self, doing: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, HostError> {
        self.ask(doing, &message, NLM_F_REQUEST | NLM_F_ACK)
    }

    /// Asks for a whole list.
    fn list(&self, doing: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, HostError> {
        self.ask(doing, &message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    fn ask(
        &self,
        doing: &str,
        message: &RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, HostError> {
        for _ in 0..TRIES {
            // A timer belongs to the runtime that it is made in.
            let exchange = async { tokio::time::timeout(PATIENCE, self.exchange(doing, message.clone(), flags)).await };
            let Ok(answers) = self.runtime.block_on(exchange) else {
                return Err(HostError::Timeout { doing: doing.to_owned(), seconds: PATIENCE.as_secs() });
            };
            if let Some(answers) = answers? {
                return Ok(answers);
            }
        }
        Err(HostError::kernel(doing, Errno::EINTR))
    }

    /// Sends one request and collects its answers; none if the list changed meanwhile.
    async fn exchange(
        &self,
        doing: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, HostError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let unexpected = || HostError::Unexpected { doing: doing.to_owned() };
        let mut stream = self.handle.clone().request(request).map_err(|_| unexpected())?;
        let mut answers = Vec::new();
        let mut consistent = true;
        while let Some(answer) = stream.next().await {
            consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
            if let NetlinkPayload::InnerMessage(inner) = answer.payload {
                answers.push(inner);
            } else if let NetlinkPayload::Error(error) = answer.payload {
                check(doing, error.raw_code())?;
            } else if let NetlinkPayload::Done(done) = answer.payload {
                check(doing, done.code)?;
            } else if let NetlinkPayload::Overrun(_) = answer.payload {
                consistent = false;
            }
        }
        Ok(consistent.then_some(answers))
    }
}

/// The kernel's numbers are negative errnos; nought is success, and more than that the count of a list.
fn check(doing: &str, code: i32) -> Result<(), HostError> {
    if code >= 0 { Ok(()) } else { Err(HostError::kernel(doing, Errno::from_raw(code.saturating_neg()))) }
}

fn runtime() -> Result<Runtime, HostError> {
    Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| HostError::io("start an event loop", &error))
}

/// Tells when devices or addresses of a namespace change.
pub(crate) struct Changes {
    runtime: Runtime,
    messages: Option<futures_util::stream::BoxStream<'static, ()>>,
}

/// Why [`Changes::wait`] returned.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Something changed, or may have.
    Changed,
    /// The other end of the channel was dropped.
    Stopped,
}

impl Changes {
    /// Changes come in flocks: how long to wait for the rest of one.
    const FLOCK: Duration = Duration::from_millis(50);
    /// The kernel may drop what it cannot queue: how long we go without looking.
    const LOOK: Duration = Duration::from_secs(30);

    /// Subscribes in the namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, HostError> {
        let runtime = runtime()?;
        let guard = runtime.enter();
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, _, messages) = new_multicast_connection(&groups)
            .map_err(|error| HostError::io("watch the devices of this host", &error))?;
        drop(guard);
        runtime.spawn(connection);
        Ok(Self { runtime, messages: Some(messages.map(drop).boxed()) })
    }

    /// Waits for a change, or until it is time to look anyway.
    pub(crate) fn wait(&mut self, stop: &mut oneshot::Receiver<()>) -> Woken {
        let Self { runtime, messages } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = stop => return Woken::Stopped,
                () = next(messages) => {}
                () = tokio::time::sleep(Self::LOOK) => {}
            }
            // Ends by time: with the flock gathered, all is looked at once.
            let gather = async {
                loop {
                    next(messages).await;
                }
            };
            let gathered: Result<(), _> = tokio::time::timeout(Self::FLOCK, gather).await;
            drop(gathered);
            Woken::Changed
        })
    }
}

/// The next message; never, once the kernel has closed the stream.
async fn next(messages: &mut Option<futures_util::stream::BoxStream<'static, ()>>) {
    if let Some(stream) = messages
        && stream.next().await.is_some()
    {
        return;
    }
    *messages = None;
    std::future::pending().await
}
