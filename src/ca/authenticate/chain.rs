//! Asks each way of proving an identity in turn; the first that is convinced
//! answers.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::{Authenticate, Caller, Denial, Peer, Proof};
use crate::ca::identity::TrustDomains;

/// No real token is larger, and none is parsed that is.
pub(super) const MAX_TOKEN: usize = 8 << 10;

/// The token of a request.
#[derive(Clone, Copy)]
pub struct Bearer<'a> {
    /// What the `authorization` header carries.
    pub token: &'a str,
    /// The `clusterid` header; empty if there is none.
    pub cluster: &'a str,
}

/// Finds out who a token was issued to.
pub trait TokenAuthenticator: Send + Sync {
    /// How the log calls it.
    fn name(&self) -> &str;

    /// The caller the token was issued to.
    fn caller<'a>(&'a self, bearer: Bearer<'a>) -> BoxFuture<'a, Result<Caller, Denial>>;
}

/// The client certificate first, then the tokens' authenticators in order.
pub struct AuthenticatorChain {
    trust_domains: Arc<TrustDomains>,
    tokens: Vec<Arc<dyn TokenAuthenticator>>,
}

impl AuthenticatorChain {
    /// A chain; client certificates are always tried first.
    pub fn new(trust_domains: Arc<TrustDomains>, tokens: Vec<Arc<dyn TokenAuthenticator>>) -> Self {
        Self { trust_domains, tokens }
    }

    fn by_certificate(&self, peer: &Peer) -> Result<Caller, Denial> {
        if peer.certificate.is_empty() {
            return Err(Denial("no client certificate with a SPIFFE ID".into()));
        }
        // A federated root is in the bundle so that workloads can talk, not so
        // that another mesh's workloads can read this mesh's configuration.
        match peer.certificate.iter().find(|identity| !self.trust_domains.contains(&identity.trust_domain)) {
            Some(foreign) => Err(Denial(format!("{foreign} is not of this mesh's trust domain"))),
            None => Ok(Caller { identities: peer.certificate.to_vec(), proof: Proof::Certificate, pod: None }),
        }
    }
}

impl Authenticate for AuthenticatorChain {
    fn authenticate<'a>(&'a self, peer: &'a Peer, headers: &'a HeaderMap) -> BoxFuture<'a, Result<Caller, Denial>> {
        async move {
            let mut reasons = match self.by_certificate(peer) {
                Ok(caller) => return Ok(caller),
                Err(denial) => format!("client certificate: {denial}"),
            };
            let bearer = match bearer(headers) {
                Ok(bearer) => bearer,
                Err(reason) => return Err(Denial(format!("{reasons}; token: {reason}"))),
            };
            for authenticator in &self.tokens {
                match authenticator.caller(bearer).await {
                    Ok(caller) => return Ok(caller),
                    Err(denial) => reasons.push_str(&format!("; {}: {denial}", authenticator.name())),
                }
            }
            Err(Denial(reasons))
        }
        .boxed()
    }
}

fn bearer(headers: &HeaderMap) -> Result<Bearer<'_>, &'static str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or("no authorization header")?;
    if values.next().is_some() {
        return Err("more than one authorization header");
    }
    if value.len() > MAX_TOKEN + "Bearer ".len() {
        return Err("larger than 8 KiB");
    }
    let value = value.to_str().map_err(|_| "authorization header is not ASCII")?;
    let (scheme, token) = value.split_once(' ').ok_or("authorization header is not a bearer token")?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err("authorization header is not a bearer token");
    }
    let cluster = match headers.get("clusterid") {
        Some(value) => value.to_str().map_err(|_| "clusterid header is not ASCII")?,
        None => "",
    };
    Ok(Bearer { token: token.trim(), cluster })
}
