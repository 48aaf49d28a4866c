//! The pods, for those who ask which of them a caller may be.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rapidhash::RapidHashMap;

use crate::api::core::Pod;
use crate::api::{Inputs, ObjectKey};
use crate::ca::node::{NodeAccount, PodFacts, Pods};
use crate::graph::Graph;

/// The pods as the node authorizer needs them. Readers see one commit or the
/// next, never half of one.
pub struct PodDirectory {
    /// The accounts of node proxies, which are asked about by name.
    trusted: Vec<NodeAccount>,
    current: ArcSwap<PodTable>,
}

#[derive(Clone, Default)]
struct PodTable {
    /// The pods of node proxies.
    proxies: imbl::HashMap<ObjectKey, Arc<Pod>>,
    /// What runs, by node: namespaces and service accounts with the number of
    /// their pods, sorted.
    nodes: imbl::HashMap<Arc<str>, Arc<[(Account, u32)]>>,
}

/// A namespace and a service account.
type Account = (Arc<str>, Arc<str>);

impl PodDirectory {
    pub(super) fn new(trusted: Vec<NodeAccount>) -> Self {
        Self { trusted, current: ArcSwap::default() }
    }

    pub(super) fn update(&self, graph: &Graph, inputs: Inputs) {
        let changes = graph.changes(inputs.pods);
        if changes.is_empty() {
            return;
        }
        let mut table = (**self.current.load()).clone();
        let mut counts: RapidHashMap<Arc<str>, BTreeMap<Account, i64>> = RapidHashMap::default();
        let mut count = |pod: &Pod, by: i64| {
            if !pod.status.ended {
                let account = (pod.meta.namespace.clone(), pod.spec.template.service_account_name.clone());
                *counts.entry(pod.spec.node_name.clone()).or_default().entry(account).or_default() += by;
            }
        };
        for change in changes {
            if let Some(old) = &change.old {
                count(old, -1);
            }
            if let Some(new) = &change.new {
                count(new, 1);
            }
            match change.new.as_ref().filter(|pod| self.is_proxy(pod)) {
                Some(new) => _ = table.proxies.insert(change.key.clone(), new.clone()),
                None => _ = table.proxies.remove(&change.key),
            }
        }
        for (node, mut counts) in counts {
            for (account, known) in table.nodes.get(&node).into_iter().flat_map(|accounts| accounts.iter()) {
                *counts.entry(account.clone()).or_default() += i64::from(*known);
            }
            let running = counts.into_iter().filter_map(|(account, pods)| Some((account, u32::try_from(pods).ok()?)));
            let running: Arc<[_]> = running.filter(|(_, pods)| *pods > 0).collect();
            match running.is_empty() {
                true => _ = table.nodes.remove(&node),
                false => _ = table.nodes.insert(node, running),
            }
        }
        self.current.store(Arc::new(table));
    }

    fn is_proxy(&self, pod: &Pod) -> bool {
        let own = |account: &NodeAccount| {
            account.namespace == *pod.meta.namespace && account.name == *pod.spec.template.service_account_name
        };
        self.trusted.iter().any(own)
    }
}

impl Pods for PodDirectory {
    fn pod(&self, namespace: &str, name: &str) -> Option<PodFacts> {
        let table = self.current.load();
        let pod = table.proxies.get(&ObjectKey::new(namespace, name))?;
        Some(PodFacts {
            uid: pod.meta.uid.to_string().into(),
            service_account: pod.spec.template.service_account_name.clone(),
            node: pod.spec.node_name.clone(),
            terminal: pod.status.ended,
        })
    }

    fn runs_on(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        let table = self.current.load();
        let order = |(account, _): &(Account, u32)| (&*account.0, &*account.1).cmp(&(namespace, service_account));
        table.nodes.get(node).is_some_and(|running| running.binary_search_by(order).is_ok())
    }
}
