//! The seam between the gRPC servers and the ways a caller can prove who it
//! is. Both the xDS server and the certificate service ask an [`Authenticate`];
//! neither knows how the answer was found.
//!
//! The order is istiod's: client certificate, then a JWT of a configured
//! issuer, then a Kubernetes token. Nothing a request says about itself
//! (`x-forwarded-client-cert`, a loopback address) is ever proof.

mod chain;
mod dev;
mod jwks;
mod jwt;
mod kubernetes;
mod remembered;

pub use chain::{AuthenticatorChain, Bearer, TokenAuthenticator};
pub use dev::DevIssuer;
pub use jwks::{Jwks, RemoteJwks};
pub use jwt::{JwtAuthenticator, JwtRule};
pub use kubernetes::{KubeReviewer, KubernetesTokens, TokenReviewer};

use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::HeaderMap;

use super::identity::SpiffeId;

/// A caller as far as the transport knows it.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Where the connection comes from.
    pub address: Option<SocketAddr>,
    /// Whether the connection is TLS.
    pub encrypted: bool,
    /// The SPIFFE identities of the client certificate, if one was presented
    /// and verified against the roots of the mesh.
    pub certificate: Arc<[SpiffeId]>,
}

/// A caller that proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What it may act as; never empty.
    pub identities: Vec<SpiffeId>,
    /// How it proved that.
    pub proof: Proof,
    /// The pod its token is bound to, when the API server said so.
    pub pod: Option<PodBinding>,
}

/// How a caller was authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A client certificate of the mesh.
    Certificate,
    /// A JWT verified with the issuer's published keys.
    Jwt,
    /// A service account token the API server vouched for.
    KubernetesToken,
}

/// The pod a service account token was issued for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodBinding {
    /// The pod's name; its namespace is that of the identity.
    pub name: Arc<str>,
    /// The pod's UID, which tells it from an earlier pod of the same name.
    pub uid: Arc<str>,
}

/// Why a caller was refused. The text is for the log and the metric only; what
/// the caller sees is always the same opaque error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denial(pub String);

/// Finds out who a caller is.
pub trait Authenticate: Send + Sync {
    /// The caller behind a request, from the connection's certificate and the
    /// request's headers (`authorization`, `clusterid`).
    fn authenticate<'a>(&'a self, peer: &'a Peer, headers: &'a HeaderMap) -> BoxFuture<'a, Result<Caller, Denial>>;
}

/// The service account in a Kubernetes user name
/// (`system:serviceaccount:namespace:name`).
fn service_account(subject: &str) -> Option<(&str, &str)> {
    let (namespace, name) = subject.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests;
