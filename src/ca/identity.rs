//! SPIFFE identities of Kubernetes workloads.
//!
//! The form is Istio's: `spiffe://<trust domain>/ns/<namespace>/sa/<service
//! account>` (<https://istio.io/latest/docs/concepts/security/>), and the
//! character set is that of the SPIFFE ID standard
//! (<https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>).
//! An identity is parsed once, at the edge; code past it never sees a string.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// The trust domain of a mesh: lower-case letters, digits, `.`, `-` and `_`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// The identity of a workload: `spiffe://td/ns/namespace/sa/service-account`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// The mesh that vouches for the identity.
    pub trust_domain: TrustDomain,
    /// The Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The Kubernetes service account in that namespace.
    pub service_account: Arc<str>,
}

/// The trust domain of this mesh and its aliases
/// (`meshConfig.trustDomainAliases`), which can change at run time.
#[derive(Debug)]
pub struct TrustDomains(ArcSwap<(TrustDomain, Vec<TrustDomain>)>);

impl TrustDomains {
    /// Starts with one name and its aliases.
    pub fn new(own: TrustDomain, aliases: Vec<TrustDomain>) -> Self {
        Self(ArcSwap::from_pointee((own, aliases)))
    }

    /// Uses other names from now on.
    pub fn set(&self, own: TrustDomain, aliases: Vec<TrustDomain>) {
        self.0.store(Arc::new((own, aliases)));
    }

    /// The name that new identities get.
    pub fn own(&self) -> TrustDomain {
        self.0.load().0.clone()
    }

    /// Whether identities of a trust domain are this mesh's.
    pub fn contains(&self, trust_domain: &TrustDomain) -> bool {
        let names = self.0.load();
        names.0 == *trust_domain || names.1.contains(trust_domain)
    }
}

/// Why a string is not an identity of this mesh.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// The trust domain is empty, too long or has a character SPIFFE forbids.
    #[error("trust domain {0:?} is not 1 to 255 of a-z, 0-9, '.', '-', '_'")]
    TrustDomain(String),
    /// The URI has not the form Istio gives workload identities.
    #[error("{0:?} is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Form(String),
    /// A path segment is empty or has a character SPIFFE forbids.
    #[error("path segment {0:?} is not made of letters, digits, '.', '-', '_'")]
    Segment(String),
}

impl TrustDomain {
    /// The trust domain as written in a SPIFFE ID.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(allowed) {
            return Err(IdentityError::TrustDomain(clip(text)));
        }
        Ok(Self(text.into()))
    }
}

impl SpiffeId {
    /// The identity of a service account. Errors if a part has a character
    /// that SPIFFE does not allow in a path segment.
    pub fn new(trust_domain: TrustDomain, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        Ok(Self { trust_domain, namespace: segment(namespace)?, service_account: segment(service_account)? })
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || IdentityError::Form(clip(text));
        if text.len() > 2048 {
            return Err(form());
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let mut parts = rest.split('/');
        let (td, ns, namespace, sa, account) = (parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
        match (td, ns, namespace, sa, account, parts.next()) {
            (Some(td), Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(td.parse()?, namespace, account)
            }
            _ => Err(form()),
        }
    }
}

fn segment(text: &str) -> Result<Arc<str>, IdentityError> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    let dots = matches!(text, "." | "..");
    if text.is_empty() || text.len() > 255 || dots || !text.bytes().all(allowed) {
        return Err(IdentityError::Segment(clip(text)));
    }
    Ok(text.into())
}

/// The start of a hostile string: enough to recognise it in a log.
fn clip(text: &str) -> String {
    text.chars().take(128).collect()
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
