//! The names of credentials: what users write into `credentialName`, and what
//! Envoys ask for by secret discovery. Both are Istio's, and both sides of the
//! process need them, so they are read here and nowhere else.
//!
//! | name | what |
//! |---|---|
//! | `kubernetes://NAME` | the Secret `NAME` of the proxy's own namespace |
//! | `kubernetes://NAMESPACE/NAME` | a Secret by its full name |
//! | `kubernetes-gateway://NAMESPACE/NAME` | the same, referred to by a Gateway of the Gateway API |
//! | `configmap://NAMESPACE/NAME` | the certificates of authorities in a ConfigMap |
//!
//! `-cacert` at the end of a name asks for whom the holder trusts, anything else
//! for the holder's own certificate and key.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

/// Ends the name of what is trusted, rather than presented.
pub const CA_SUFFIX: &str = "-cacert";

const SECRET: &str = "kubernetes://";
const GATEWAY_SECRET: &str = "kubernetes-gateway://";
const CONFIG_MAP: &str = "configmap://";

/// Where something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Store {
    /// In a Secret.
    Secret,
    /// In a ConfigMap, which has nothing that is secret.
    ConfigMap,
}

/// An object that holds a credential.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Its kind.
    pub store: Store,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Place {
    /// A Secret.
    pub fn secret(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { store: Store::Secret, namespace: namespace.into(), name: name.into() }
    }

    /// A ConfigMap.
    pub fn config_map(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { store: Store::ConfigMap, namespace: namespace.into(), name: name.into() }
    }

    /// Every name by which a proxy of its namespace, or any other, may ask for
    /// what it holds.
    pub fn names(&self) -> Vec<String> {
        let Self { store, namespace, name } = self;
        let plain = match store {
            Store::Secret => vec![
                format!("{SECRET}{name}"),
                format!("{SECRET}{namespace}/{name}"),
                format!("{GATEWAY_SECRET}{namespace}/{name}"),
            ],
            Store::ConfigMap => vec![format!("{CONFIG_MAP}{namespace}/{name}")],
        };
        let authority = plain.iter().map(|name| format!("{name}{CA_SUFFIX}"));
        authority.chain(plain.clone()).collect()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.store {
            Store::Secret => "Secret",
            Store::ConfigMap => "ConfigMap",
        };
        write!(f, "{kind} {}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What of a credential is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// A certificate with its key, to be presented.
    Certificate,
    /// The certificates of authorities, to be trusted.
    Authority,
}

/// By what right a credential is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// As a Secret that the proxy's service account may read by itself.
    Kubernetes,
    /// As one that a Gateway of the Gateway API refers to.
    Gateway,
    /// As a ConfigMap.
    ConfigMap,
}

/// Who may have a credential because something that they serve refers to it.
/// Whether the reference is allowed was asked before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// The namespace of the proxy.
    pub namespace: Arc<str>,
    /// Its service account; any of the namespace, if there is none.
    pub account: Option<Arc<str>>,
    /// What it may have.
    pub part: Part,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// Something that somebody has to look at for a proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    /// What is in an object.
    Place(Place),
    /// Whether an account may read the Secrets of its namespace.
    Account(Account),
}

/// What a proxy asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// By what right.
    pub scheme: Scheme,
    /// The part.
    pub part: Part,
    /// Where it may be. The first object that is there counts.
    pub places: Vec<Place>,
}

impl Asked {
    /// What a proxy of a namespace asks for by a name; none if the name has no
    /// meaning here.
    pub fn parse(name: &str, namespace: &str) -> Option<Self> {
        let (scheme, path) = if let Some(path) = name.strip_prefix(SECRET) {
            (Scheme::Kubernetes, path)
        } else if let Some(path) = name.strip_prefix(GATEWAY_SECRET) {
            (Scheme::Gateway, path)
        } else {
            (Scheme::ConfigMap, name.strip_prefix(CONFIG_MAP)?)
        };
        let (namespace, name) = match (path.split_once('/'), scheme) {
            (Some(parts), _) => parts,
            // Only the proxy's own Secrets are known by their names alone.
            (None, Scheme::Kubernetes) => (namespace, path),
            (None, Scheme::Gateway | Scheme::ConfigMap) => return None,
        };
        if !is_name(namespace) || !is_name(name) {
            return None;
        }
        let bare = name.strip_suffix(CA_SUFFIX).filter(|bare| !bare.is_empty());
        let (part, places) = match (scheme, bare) {
            (Scheme::ConfigMap, bare) => (Part::Authority, vec![Place::config_map(namespace, bare.unwrap_or(name))]),
            // Istio looks for a Secret of the whole name first, which keeps
            // keys away from whoever writes down whom to trust.
            (_, Some(bare)) => (Part::Authority, vec![Place::secret(namespace, name), Place::secret(namespace, bare)]),
            (_, None) => (Part::Certificate, vec![Place::secret(namespace, name)]),
        };
        Some(Self { scheme, part, places })
    }
}

/// Whether a text can be the name of an object: a DNS subdomain. What is not
/// never becomes part of a path that the API server is asked for.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>
pub fn is_name(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    let end = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 253 && end(bytes.first()) && end(bytes.last()) && bytes.iter().all(|c| inner(*c))
}

/// Who provides what a user names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The control plane, over the stream that all else comes over.
    ControlPlane,
    /// The agent beside the proxy: the certificate of the workload itself.
    Workload,
    /// Nobody: a name that is known to be wrong, or a provider that is not
    /// known.
    Nobody,
}

/// The name that a proxy asks for, and who answers, for what a user names.
pub fn sds_name(user: &str) -> (String, Provider) {
    if user.starts_with("builtin://") {
        return ("default".into(), Provider::Workload);
    }
    if [SECRET, GATEWAY_SECRET, CONFIG_MAP].iter().any(|scheme| user.starts_with(scheme)) {
        return (user.into(), Provider::ControlPlane);
    }
    // An external provider, which Istio has too, falls back to Secrets there
    // if it is not configured.
    let bare = user.strip_prefix("sds://").unwrap_or(user);
    match bare.contains("://") || bare.is_empty() {
        true => ("invalid://".into(), Provider::Nobody),
        false => (format!("{SECRET}{bare}"), Provider::ControlPlane),
    }
}
