//! The containers' MTU: as asked for, or as much as the underlay carries, followed as that changes.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weft::{
    id::PeerName,
    wire::overhead::{Carriage, container_mtu},
};
use weft_host::{BridgeConfig, Host, Underlay};

/// Ethernet's, while the host has no device.
const UNDERLAY_MTU: u32 = 1500;

/// The task's state.
pub(crate) struct Mtu {
    pub(crate) host: Arc<dyn Host>,
    /// What was asked for; None follows the underlay.
    pub(crate) fixed: Option<u16>,
    /// What is in force.
    pub(crate) now: watch::Sender<u16>,
    /// Whose bridge it is.
    pub(crate) peer: PeerName,
}

/// The MTU for containers on this underlay.
pub(crate) fn of(underlay: &Underlay) -> u16 {
    container_mtu(usize::try_from(underlay.mtu.unwrap_or(UNDERLAY_MTU)).unwrap_or(usize::MAX))
}

impl Mtu {
    /// Follows the underlay until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut underlay = self.host.underlay();
        loop {
            let seen = underlay.borrow_and_update().clone();
            match self.fixed {
                Some(fixed) => warn_if_too_large(fixed, &seen),
                None => self.set(of(&seen)).await,
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = underlay.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn set(&self, mtu: u16) {
        if *self.now.borrow() == mtu {
            return;
        }
        let wanted = BridgeConfig { peer: self.peer, mtu: Some(mtu.into()) };
        match self.host.ensure_bridge(wanted).await {
            Ok(_) => {
                info!(mtu, "the underlay's MTU changed, and with it the containers'");
                self.now.send_replace(mtu);
            }
            Err(error) => warn!(%error, mtu, "cannot give the containers another MTU"),
        }
    }
}

/// Works all the same: what does not fit goes by the sleeve, and its senders are told.
fn warn_if_too_large(mtu: u16, underlay: &Underlay) {
    let Some(below) = underlay.mtu.and_then(|below| usize::try_from(below).ok()) else { return };
    let most = Carriage::Esp { in_udp: false }.inner_max(false, below);
    if usize::from(mtu) > most {
        let fits = container_mtu(below);
        warn!(
            mtu,
            underlay = below,
            fits,
            "--mtu is more than the underlay carries: large packets go by the sleeve, cut or refused"
        );
    }
}
