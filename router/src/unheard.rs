//! What plugins unplugged while no router ran: made up for at start, before any call is answered.

use tracing::{info, warn};
use weft::api::AttachRequest;
use weft_host::spool::Spool;

use crate::stations::{Operation, OperationError, Operator};

/// Does what the notes say. One that fails stays for the next start, or for a plugin's next call.
pub(crate) async fn make_up(spool: &Spool, operator: &Operator) {
    let names = match spool.list() {
        Ok(names) => names,
        Err(error) => return warn!(%error, "what was unplugged while no router ran cannot be read"),
    };
    for name in names {
        let request = AttachRequest { container: name.clone(), name: Some(name.clone()), ..AttachRequest::default() };
        match operator.ask(|answer| Operation::Detach(request, answer)).await {
            Ok(_) => info!(container = name, "it was unplugged while no router ran"),
            Err(OperationError::Gone(_)) => return,
            Err(error) => {
                warn!(container = name, %error, "it was unplugged while no router ran, and is still to be cleared away");
                continue;
            }
        }
        if let Err(error) = spool.remove(&name) {
            warn!(container = name, %error, "the note that it was unplugged stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;
    use weft::entropy::Entropy;
    use weft_host::{BridgeConfig, FakeHost, Host, HostError};

    use super::*;
    use crate::{
        control::{self, Ask},
        stations::{Ranges, Stations},
        store::Store,
    };

    #[tokio::test]
    async fn what_was_unplugged_unheard_is_made_up_for_once() {
        let scratch = tempfile::tempdir().unwrap();
        let spool = Spool::of(scratch.path());
        let host = Arc::new(FakeHost::new());
        host.ensure_bridge(BridgeConfig { peer: weft::id::PeerName([2; 6]), mtu: None }).await.unwrap();
        host.add_namespace("c1");
        let request = AttachRequest {
            container: "c1".to_owned(),
            name: Some("weft/0a/eth0".to_owned()),
            addresses: vec!["10.2.0.1/24".parse().unwrap()],
            ..AttachRequest::default()
        };
        host.attach(request).await.unwrap();
        let (asker, mut asks) = control::channel();
        let store = Arc::new(Store::open(scratch.path(), &Entropy::System).unwrap());
        let names = watch::channel(Vec::new()).1;
        let (stations, operator) = Stations::new(host.clone(), asker, store, Ranges::default(), names);
        let stop = CancellationToken::new();
        let task = tokio::spawn(stations.run(stop.clone()));
        tokio::spawn(async move {
            while let Some(ask) = asks.recv().await {
                if let Ask::Feed(_, done) = ask {
                    done.send(()).unwrap();
                }
            }
        });
        for name in ["weft/0a/eth0", "weft/gone/eth0"] {
            spool.add(name).unwrap();
        }
        make_up(&spool, &operator).await;
        assert_eq!(host.attachments().await.unwrap(), []);
        assert!(spool.list().unwrap().is_empty());

        spool.add("weft/0b/eth0").unwrap();
        operator.ask(Operation::List).await.unwrap();
        host.fail_next(HostError::NftMissing);
        make_up(&spool, &operator).await;
        assert_eq!(spool.list().unwrap(), ["weft/0b/eth0"], "it could not be done");
        stop.cancel();
        task.await.unwrap();
        make_up(&spool, &operator).await;
        assert_eq!(spool.list().unwrap(), ["weft/0b/eth0"], "nobody did it");
    }
}
