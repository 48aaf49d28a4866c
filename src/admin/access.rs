//! Who may see the debug pages, and how much of them.
//!
//! They show every address and policy of a mesh (ISTIO-SECURITY-2026-001), so
//! there is no page for somebody who is not known. Callers on this machine are
//! those who may already do anything to the process: `kubectl port-forward` ends
//! here, for which the API server asked for the right to it. All others prove who
//! they are as they would for xDS. Accounts of the control plane's namespace see
//! everything, others what is said of proxies in their own namespace.
//! That is istiod's rule: `pilot/pkg/xds/debug.go`.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Admin;
use crate::ca::authenticate::{Caller, Peer};

/// Carries a caller's token through the API server's proxy, which takes away the
/// header that tokens are usually in.
pub const TOKEN_HEADER: &str = "fairway-token";
/// The audience of tokens that are good for debug pages and for nothing else.
pub const AUDIENCE: &str = "fairway-debug";

/// How much somebody may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// All there is.
    Everything,
    /// What is said of the proxies of a namespace.
    Namespace(Arc<str>),
}

impl Viewer {
    /// Whether what is said of a namespace may be seen.
    pub fn sees(&self, namespace: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Namespace(own) => **own == *namespace,
        }
    }

    /// How much a caller may see who has proved who it is. None of its
    /// identities gives more than the others.
    pub fn of(caller: &Caller, system: &BTreeSet<Arc<str>>) -> Option<Self> {
        let mut namespaces = caller.identities.iter().map(|identity| &identity.namespace);
        let own = namespaces.next()?;
        match namespaces.all(|other| other == own) {
            true if system.contains(own) => Some(Self::Everything),
            true => Some(Self::Namespace(own.clone())),
            false => None,
        }
    }
}

/// Lets a request to a debug page pass, with how much it may see.
pub(super) async fn identified(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let viewer = if is_local(peer) {
        // A page in a browser on this machine could name us otherwise, and read
        // what it is shown (DNS rebinding).
        if !is_named_by_address(request.headers(), request.uri().authority()) {
            return (StatusCode::FORBIDDEN, "ask for localhost or an IP address\n").into_response();
        }
        Some(Viewer::Everything)
    } else {
        let headers = with_token(request.headers());
        let peer = Peer { address: Some(peer), ..Peer::default() };
        match admin.authenticate.authenticate(&peer, &headers).await {
            Ok(caller) => {
                let viewer = Viewer::of(&caller, &admin.system_namespaces());
                tracing::debug!(caller = ?caller.identities, ?viewer, path = request.uri().path(), "debug page");
                viewer
            }
            Err(denial) => {
                tracing::info!(address = ?peer.address, %denial, path = request.uri().path(), "debug page refused");
                None
            }
        }
    };
    match viewer {
        Some(viewer) => {
            request.extensions_mut().insert(viewer);
            next.run(request).await
        }
        None => (StatusCode::UNAUTHORIZED, "authentication failure\n").into_response(),
    }
}

/// Lets a request pass that comes from this machine.
pub(super) async fn local_only(ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    match is_local(peer) {
        true => next.run(request).await,
        false => {
            (StatusCode::FORBIDDEN, "only for callers on this machine; use kubectl port-forward\n").into_response()
        }
    }
}

fn is_local(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

/// Whether a request names us as nobody's DNS can: `localhost` or an address.
fn is_named_by_address(headers: &HeaderMap, authority: Option<&Authority>) -> bool {
    let named = match headers.get(header::HOST) {
        Some(host) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        // Of HTTP/1.0, which no browser speaks.
        None => match authority {
            Some(authority) => Some(authority.clone()),
            None => return true,
        },
    };
    named.is_some_and(|named| {
        let host = named.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok()
    })
}

/// The headers, with the token of the one that proxies pass on in its place.
fn with_token(headers: &HeaderMap) -> HeaderMap {
    let mut with = headers.clone();
    if let Some(token) = headers.get(TOKEN_HEADER) {
        let bearer = [b"Bearer ", token.as_bytes()].concat();
        if let Ok(bearer) = HeaderValue::from_bytes(&bearer) {
            with.insert(header::AUTHORIZATION, bearer);
        }
    }
    with
}
