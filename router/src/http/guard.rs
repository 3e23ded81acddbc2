//! What is checked around every call: how long it takes, and on TCP whom it was meant for.

use std::{net::IpAddr, time::Duration};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::answer::Failure;

/// Ends a call, reading its body included, at its deadline.
pub(super) async fn deadline(State(deadline): State<Duration>, request: Request, next: Next) -> Response {
    timeout(deadline, next.run(request)).await.unwrap_or_else(|_| {
        let error =
            format!("no answer within {} s: the router is busy or stuck; its log may say why", deadline.as_secs());
        Failure::new(StatusCode::GATEWAY_TIMEOUT, error).into_response()
    })
}

/// Refuses calls for another host's name: a web page whose name was made to resolve to this address (DNS rebinding) must
/// not read the status. An address cannot be rebound, and what is not a browser may leave the header out.
pub(super) async fn only_local(request: Request, next: Next) -> Response {
    let is_local = match request.headers().get(header::HOST) {
        Some(host) => host.to_str().is_ok_and(is_local),
        None => true,
    };
    if is_local {
        return next.run(request).await;
    }
    let error = "this API answers by the name localhost or by an address only: use one of them in the URL";
    Failure::new(StatusCode::FORBIDDEN, error).into_response()
}

fn is_local(host: &str) -> bool {
    host.parse::<Authority>().is_ok_and(|authority| {
        let name = authority.host();
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_name_with_a_dot_and_a_letter_is_local(name in "[a-z0-9.-]{0,20}[.][a-z-]{1,20}", port in any::<u16>()) {
            let with_port = format!("{name}:{port}");
            prop_assert!(!is_local(&name) && !is_local(&with_port));
        }

        #[test]
        fn any_header_can_be_judged(host in any::<String>()) {
            is_local(&host);
        }
    }

    #[test]
    fn names_other_than_localhost_are_not_local() {
        for host in ["localhost", "LOCALHOST:6784", "127.0.0.1:6784", "[::1]:6784", "10.0.0.1"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:6784", "127.0.0.1.evil.example", "", "a b", "evil@host:1"]
        {
            assert!(!is_local(host), "{host}");
        }
    }
}
