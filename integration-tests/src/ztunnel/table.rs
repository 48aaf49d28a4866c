//! What a ztunnel knows, how it came to know it, and which rules were broken
//! on the way.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use fairway_proto::security::Authorization;
use fairway_proto::workload::{Service, Workload, address::Type};

use super::wire::DeltaDiscoveryResponse;
use super::{ADDRESS, AUTHORIZATION, refusal};

/// One response, as it was taken.
#[derive(Clone, Debug)]
pub struct Delta {
    /// When.
    pub at: Instant,
    /// The connection it came over, counted from 1.
    pub connection: usize,
    /// Its type.
    pub type_url: &'static str,
    /// Names in it, with versions.
    pub updated: BTreeMap<String, String>,
    /// Names it takes away.
    pub removed: BTreeSet<String>,
}

/// The state of a client.
#[derive(Default)]
pub struct Table {
    /// By uid.
    pub workloads: BTreeMap<String, Workload>,
    /// By namespace and hostname.
    pub services: BTreeMap<String, Service>,
    /// By namespace and name.
    pub policies: BTreeMap<String, Authorization>,
    /// What was accepted, by type: name to version.
    pub versions: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// Every response, in order.
    pub history: Vec<Delta>,
    /// Broken rules, and resources ztunnel refuses.
    pub breaches: Vec<String>,
    /// Types of which a response was acknowledged.
    pub acknowledged: BTreeSet<&'static str>,
    /// How many connections there were.
    pub connections: usize,
    /// Whether there is one now.
    pub connected: bool,
    /// The longest time between two of them that is over.
    longest_absence: Duration,
    /// Since when there is none, after there was one.
    absent_since: Option<Instant>,
    /// Why the last connection ended.
    pub last_error: Option<tonic::Status>,
    /// Whether acknowledgements are kept back.
    pub holding: bool,
    /// On demand: readiness does not need addresses.
    pub on_demand: bool,

    contents: BTreeMap<String, Vec<u8>>,
    nonces: HashSet<String>,
    answered: BTreeSet<&'static str>,
    demanded: BTreeSet<String>,
}

impl Table {
    /// Whether ztunnel would take traffic.
    pub fn ready(&self) -> bool {
        let address = self.on_demand || self.acknowledged.contains(ADDRESS);
        address && self.acknowledged.contains(AUTHORIZATION)
    }

    /// A point in the history.
    pub fn now(&self) -> usize {
        self.history.len()
    }

    /// Names that were updated or removed since a point in the history.
    pub fn touched_since(&self, point: usize) -> BTreeSet<String> {
        let deltas = self.history[point..].iter();
        deltas.flat_map(|delta| delta.updated.keys().chain(&delta.removed)).cloned().collect()
    }

    /// Names that were removed since a point in the history.
    pub fn removed_since(&self, point: usize) -> BTreeSet<String> {
        self.history[point..].iter().flat_map(|delta| &delta.removed).cloned().collect()
    }

    /// Where in the history a name was last updated.
    pub fn updated_at(&self, name: &str) -> Option<usize> {
        self.history.iter().rposition(|delta| delta.updated.contains_key(name))
    }

    /// Where in the history a name was last removed.
    pub fn removed_at(&self, name: &str) -> Option<usize> {
        self.history.iter().rposition(|delta| delta.removed.contains(name))
    }

    pub(super) fn demand(&mut self, names: &[String]) {
        self.demanded.extend(names.iter().cloned());
    }

    /// A new connection: nonces and first answers start over.
    pub(super) fn connect(&mut self) {
        self.connections += 1;
        self.connected = true;
        self.longest_absence = self.absence();
        self.absent_since = None;
        self.nonces.clear();
        self.answered.clear();
    }

    /// There is none.
    pub(super) fn disconnect(&mut self) {
        if self.connected {
            self.absent_since = Some(Instant::now());
        }
        self.connected = false;
        self.holding = false;
    }

    /// The longest time between two connections, the one that has not ended
    /// included.
    pub fn absence(&self) -> Duration {
        let now = self.absent_since.map_or(Duration::ZERO, |since| since.elapsed());
        self.longest_absence.max(now)
    }

    pub(super) fn breach(&mut self, what: impl Into<String>) {
        self.breaches.push(format!(
            "connection {}, response {}: {}",
            self.connections,
            self.history.len(),
            what.into()
        ));
    }

    /// Takes a response. The error is what ztunnel would refuse it with; what
    /// is good of it is taken all the same.
    pub(super) fn take(&mut self, response: DeltaDiscoveryResponse) -> Result<(), String> {
        let Some(type_url) = [ADDRESS, AUTHORIZATION].into_iter().find(|known| *known == response.type_url) else {
            self.breach(format!("type {:?} was never asked for", response.type_url));
            return Ok(());
        };
        if response.nonce.is_empty() || !self.nonces.insert(response.nonce.clone()) {
            self.breach(format!("nonce {:?} is empty or was used before", response.nonce));
        }
        let first = self.answered.insert(type_url);
        if !first && response.resources.is_empty() && response.removed_resources.is_empty() {
            self.breach(format!("an empty {type_url} that is not the first"));
        }
        let mut delta = Delta {
            at: Instant::now(),
            connection: self.connections,
            type_url,
            updated: BTreeMap::new(),
            removed: BTreeSet::new(),
        };
        let mut refusals = vec![];
        for resource in response.resources {
            let name = resource.name;
            if delta.updated.insert(name.clone(), resource.version.clone()).is_some() {
                self.breach(format!("{name} twice in one response"));
            }
            let Some(any) = resource.resource else {
                self.breach(format!("{name} has no content"));
                continue;
            };
            if any.type_url != type_url {
                self.breach(format!("{name} in a response of {type_url} is a {}", any.type_url));
            }
            self.check_version(type_url, &name, &resource.version, &any.value, first);
            match self.insert(type_url, &name, &any.value) {
                Ok(()) => {
                    self.contents.insert(name.clone(), any.value);
                    self.versions.entry(type_url).or_default().insert(name, resource.version);
                }
                Err(reason) => refusals.push(format!("{name}: {reason}")),
            }
        }
        for name in response.removed_resources {
            let known = self.versions.entry(type_url).or_default().remove(&name).is_some();
            if !delta.removed.insert(name.clone()) {
                self.breach(format!("{name} is removed twice in one response"));
            }
            if delta.updated.contains_key(&name) {
                self.breach(format!("{name} is sent and removed in one response"));
            }
            if !known && !self.demanded.contains(&name) {
                self.breach(format!("{name} is removed, which this client never had"));
            }
            self.remove(type_url, &name);
        }
        self.history.push(delta);
        self.check_references();
        if refusals.is_empty() {
            self.acknowledged.insert(type_url);
            return Ok(());
        }
        let refusal = refusals.join("; ");
        self.breach(format!("ztunnel refuses {type_url}: {refusal}"));
        Err(refusal)
    }

    /// Versions stand for contents: equal ones for equal bytes, different ones
    /// for different bytes, and what a client has is not sent again.
    fn check_version(&mut self, type_url: &str, name: &str, version: &str, content: &[u8], first: bool) {
        if version.is_empty() {
            self.breach(format!("{name} has no version"));
        }
        let held = self.versions.get(type_url).and_then(|held| held.get(name)).cloned();
        let (Some(held), Some(before)) = (held, self.contents.get(name)) else { return };
        if (held == version) != (before == content) {
            let which = if held == version { "the same version with another" } else { "a new version with the same" };
            self.breach(format!("{name}: {which} content ({held} → {version})"));
        } else if held == version {
            let first = if first { "named in initial_resource_versions" } else { "held" };
            // A demand is always answered.
            if !self.demanded.contains(name) && !self.on_demand {
                self.breach(format!("{name} is sent though its version {version} is {first}"));
            }
        }
    }

    fn insert(&mut self, type_url: &str, name: &str, content: &[u8]) -> Result<(), String> {
        let key = if type_url == AUTHORIZATION {
            let policy = refusal::authorization(content)?;
            let key = format!("{}/{}", policy.namespace, policy.name);
            self.policies.insert(key.clone(), policy);
            key
        } else {
            match refusal::address(content)? {
                Type::Workload(workload) => {
                    let key = workload.uid.clone();
                    self.workloads.insert(key.clone(), workload);
                    key
                }
                Type::Service(service) => {
                    let key = format!("{}/{}", service.namespace, service.hostname);
                    self.services.insert(key.clone(), service);
                    key
                }
            }
        };
        // A demanded name may stand for what it was resolved to.
        if key != name && !self.demanded.contains(name) {
            // ztunnel files it under the one and removes it under the other.
            self.breach(format!("resource {name} holds {key}"));
        }
        Ok(())
    }

    fn remove(&mut self, type_url: &str, name: &str) {
        self.contents.remove(name);
        if type_url == AUTHORIZATION {
            self.policies.remove(name);
        } else if self.workloads.remove(name).is_none() {
            self.services.remove(name);
        }
    }

    /// A workload that names a policy which is not there is not protected by
    /// it. ztunnel takes no traffic before it has both types, so the rule
    /// starts then.
    fn check_references(&mut self) {
        if self.answered.len() < 2 || !self.ready() || self.on_demand {
            return;
        }
        let dangling: Vec<_> = self
            .workloads
            .values()
            .flat_map(|workload| workload.authorization_policies.iter().map(|policy| (&workload.uid, policy)))
            .filter(|(_, policy)| !self.policies.contains_key(*policy))
            .map(|(uid, policy)| format!("{uid} names {policy}, which is not there: fails open"))
            .collect();
        dangling.into_iter().for_each(|dangling| self.breach(dangling));
    }
}

#[cfg(test)]
mod tests;
