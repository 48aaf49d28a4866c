//! Node proxies ask for the certificates of the workloads on their node. This
//! decides which ones they get: a ztunnel that is broken into yields the
//! identities of its node and no others.

use std::str::FromStr;
use std::sync::Arc;

use super::authenticate::{Caller, Denial};
use super::identity::{SpiffeId, TrustDomains};

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Tells it from an earlier pod of the same name.
    pub uid: Arc<str>,
    /// The account it runs as.
    pub service_account: Arc<str>,
    /// The node it was scheduled to; empty before that.
    pub node: Arc<str>,
    /// Whether it has ended (succeeded or failed).
    pub terminal: bool,
}

/// The pods of the cluster, as the watches see them.
pub trait Pods: Send + Sync {
    /// A pod by name.
    fn pod(&self, namespace: &str, name: &str) -> Option<PodFacts>;

    /// Whether a pod that has not ended runs on the node with this account.
    fn runs_on(&self, node: &str, namespace: &str, service_account: &str) -> bool;
}

/// A service account written `namespace/name`, as in
/// `CA_TRUSTED_NODE_ACCOUNTS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAccount {
    /// The namespace.
    pub namespace: String,
    /// The service account.
    pub name: String,
}

impl FromStr for NodeAccount {
    type Err = Denial;

    fn from_str(text: &str) -> Result<Self, Denial> {
        match text.trim().split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(Denial(format!("{text:?} is not namespace/name"))),
        }
    }
}

/// Says which identities a node proxy may have.
pub struct NodeAuthorizer {
    trusted: Vec<NodeAccount>,
    trust_domains: Arc<TrustDomains>,
    pods: Arc<dyn Pods>,
}

impl NodeAuthorizer {
    /// An authorizer that trusts these accounts to be node proxies.
    pub fn new(trusted: Vec<NodeAccount>, trust_domains: Arc<TrustDomains>, pods: Arc<dyn Pods>) -> Self {
        Self { trusted, trust_domains, pods }
    }

    /// Whether the caller may have a certificate for another identity.
    pub fn authorize(&self, caller: &Caller, requested: &SpiffeId) -> Result<(), Denial> {
        let deny = |reason: String| Err(Denial(reason));
        let [own] = caller.identities.as_slice() else {
            return deny(format!("caller has {} identities, not one", caller.identities.len()));
        };
        let SpiffeId { namespace, service_account, .. } = own;
        let is_own = |account: &NodeAccount| account.namespace == **namespace && account.name == **service_account;
        if !self.trusted.iter().any(is_own) {
            return deny(format!("caller ({namespace}/{service_account}) is not allowed to impersonate"));
        }
        if !self.trust_domains.contains(&requested.trust_domain) {
            return deny(format!("trust domain of {requested} is not this mesh's"));
        }
        // A token that is not bound to a pod could be used on any node.
        let Some(binding) = &caller.pod else {
            return deny("token is not bound to a pod".into());
        };
        let Some(pod) = self.pods.pod(namespace, &binding.name) else {
            return deny(format!("pod {namespace}/{} not found", binding.name));
        };
        if pod.uid != binding.uid {
            return deny(format!("pod {namespace}/{} has UID {}, token has {}", binding.name, pod.uid, binding.uid));
        }
        if pod.service_account != *service_account {
            return deny(format!(
                "pod {namespace}/{} has service account {}, token has {service_account}",
                binding.name, pod.service_account
            ));
        }
        if pod.terminal {
            return deny(format!("pod {namespace}/{} has ended", binding.name));
        }
        if pod.node.is_empty() {
            return deny(format!("pod {namespace}/{} is not on a node", binding.name));
        }
        if !self.pods.runs_on(&pod.node, &requested.namespace, &requested.service_account) {
            let SpiffeId { namespace, service_account, .. } = requested;
            return deny(format!("no instances of \"{namespace}/{service_account}\" found on node {:?}", pod.node));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
