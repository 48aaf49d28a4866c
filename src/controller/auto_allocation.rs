//! Gives addresses to the hosts of ServiceEntries that have none: one of IPv4
//! and one of IPv6, in `status.addresses`. With them ztunnel and DNS proxies can
//! tell such hosts apart where only addresses are seen.
//! <https://istio.io/latest/docs/ops/configuration/traffic-management/dns-proxy/#address-auto-allocation>
//!
//! Who gets which address is a function of all entries ([`Plan`]). It is written
//! under istiod's Lease for the same, which all revisions have in common: an
//! address is unique in the cluster. Nothing else of a status is touched, and
//! nothing is written to an object that is not what was planned for.

mod plan;
mod range;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::api::ObjectKey;
use crate::api::istio::{AllocatedAddress, ServiceEntry};
use crate::model::auto_allocation::{Entries, Entry, Pools, entry};
use crate::model::revision::Revisions;

use super::election::{Lock, run_while_leader};
use super::pace::Due;
use super::resource::{self, Manner, Reference, RequestError, Resource, Write};

pub use plan::Plan;

/// istiod's lock for this work, as all revisions take from the same addresses.
const LOCK: &str = "istio-ip-autoallocate";
/// The owner of the field.
const MANAGER: &str = "fairway-addresses";
/// The least time between two writes.
const PACE: Duration = Duration::from_millis(10);
/// How many writes are under way at a time.
const WRITES: usize = 4;
/// How long changes are collected.
const TOGETHER: Duration = Duration::from_millis(100);
/// How often what has been calm is forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// The controller.
#[derive(Clone)]
pub struct AutoAllocation {
    /// The API server.
    pub client: kube::Client,
    /// The namespace of the control plane, where the lock is.
    pub system_namespace: Arc<str>,
    /// The name of this replica.
    pub identity: Arc<str>,
    /// Which revision it is.
    pub revisions: watch::Receiver<Arc<Revisions>>,
    /// Where addresses are taken from.
    pub pools: Pools,
    /// The entries that want addresses, and those that have some.
    pub entries: watch::Receiver<Entries>,
}

impl AutoAllocation {
    /// Allocates whenever this replica leads, until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let (client, identity) = (self.client.clone(), self.identity.clone());
        let namespace = self.system_namespace.clone();
        let work = |client| Box::pin(Leader::new(Self { client, ..self.clone() }).run());
        let lock = Lock::config_map(LOCK, self.revisions.clone());
        run_while_leader(client, &namespace, lock, &identity, cancel, work).await;
    }
}

struct Leader {
    controller: AutoAllocation,
    /// What is in the plan.
    known: Entries,
    plan: Plan,
    due: Due<ObjectKey>,
    /// They end with the leadership, as the set does.
    writes: JoinSet<ObjectKey>,
    writing: BTreeSet<ObjectKey>,
    last: Instant,
    /// When changes that have come will be planned for.
    compare_at: Option<Instant>,
    /// How many entries are without an address for want of any.
    unserved: usize,
}

impl Leader {
    fn new(controller: AutoAllocation) -> Self {
        Self {
            plan: Plan::new(&controller.pools),
            controller,
            known: Entries::new(),
            due: Due::new(Duration::from_millis(500), Duration::from_secs(30)),
            writes: JoinSet::new(),
            writing: BTreeSet::new(),
            last: Instant::now(),
            compare_at: None,
            unserved: 0,
        }
    }

    async fn run(mut self) {
        self.compare();
        let mut forget = interval(FORGET);
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = match self.writing.len() < WRITES {
                true => self.due.next(self.last + PACE, |key| self.writing.contains(key)),
                false => None,
            };
            let due = async {
                match &next {
                    Some((at, _)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            let collected = async {
                match self.compare_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {
                    if let Some((_, key)) = next {
                        self.begin(key);
                    }
                }
                Some(done) = self.writes.join_next() => match done {
                    Ok(key) => {
                        self.writing.remove(&key);
                        // Until it is seen to be as planned: it may have been
                        // undone already, which is no change of what is known.
                        if self.plan.due(&key).is_some() {
                            self.due.insert(key);
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "the write of addresses panicked");
                        return;
                    }
                },
                // Each write is a change too, so nothing waits for this.
                changed = self.controller.entries.changed(), if self.compare_at.is_none() => {
                    if changed.is_err() {
                        return;
                    }
                    self.compare_at = Some(Instant::now() + TOGETHER);
                }
                () = collected => {
                    self.compare_at = None;
                    self.compare();
                }
                _ = forget.tick() => self.due.forget_calm(),
            }
        }
    }

    /// Plans for what has changed.
    fn compare(&mut self) {
        let new = self.controller.entries.borrow_and_update().clone();
        let changes = self.known.diff(&new).map(|change| match change {
            DiffItem::Add(key, entry) | DiffItem::Update { new: (key, entry), .. } => {
                (key.clone(), Some(entry.clone()))
            }
            DiffItem::Remove(key, _) => (key.clone(), None),
        });
        for key in self.plan.update(changes) {
            match self.plan.due(&key) {
                Some(_) => self.due.insert(key),
                None => self.due.remove(&key),
            }
        }
        self.known = new;
        let unserved = self.plan.unserved();
        if let Some(first) = unserved.first().filter(|_| unserved.len() > self.unserved) {
            let Pools { v4, v6 } = self.controller.pools;
            tracing::warn!(
                entries = unserved.len(),
                %first,
                "some ServiceEntries get no address: all of {v4} or of {v6} are in use"
            );
        }
        self.unserved = unserved.len();
    }

    /// Begins to write what is planned for an entry. Whatever comes of it, the
    /// next attempt there waits: for the watch to show the result, for an error
    /// to go away, or for somebody else to give up undoing it.
    fn begin(&mut self, key: ObjectKey) {
        self.due.remove(&key);
        let Some((entry, wanted)) = self.plan.due(&key) else { return };
        self.due.attempted(key.clone());
        self.last = Instant::now();
        self.writing.insert(key.clone());
        let AutoAllocation { client, pools, .. } = self.controller.clone();
        self.writes.spawn(async move {
            write(&client, &pools, &key, &entry, &wanted).await;
            key
        });
    }
}

/// Writes what is wanted, if that is still what the object needs.
async fn write(client: &kube::Client, pools: &Pools, key: &ObjectKey, planned: &Entry, wanted: &[AllocatedAddress]) {
    let object = Reference::new(Resource::ServiceEntry, &*key.namespace, &*key.name);
    let steps = async {
        let Some(live) = resource::get(client, &object).await? else { return Ok(()) };
        match step(&live, pools, planned, wanted) {
            Step::Nothing | Step::Later => Ok(()),
            Step::Patch(body) => {
                let write = Write { object: object.clone(), manner: Manner::PatchStatus, body };
                resource::write(client, &write, MANAGER).await.map(drop)
            }
        }
    };
    let result: Result<(), RequestError> = steps.await;
    match result {
        Ok(()) => {}
        // Somebody else wrote in between, or it is gone.
        Err(error) if matches!(error.code(), Some(404 | 409 | 422)) => {
            tracing::debug!(%object, %error, "it has changed meanwhile");
        }
        Err(error) => tracing::warn!(%object, %error, "its addresses cannot be written"),
    }
}

/// What is to be done to an object.
#[derive(Debug, PartialEq)]
enum Step {
    /// Its status says what is wanted.
    Nothing,
    /// It is not what was planned for. What it is will be known soon.
    Later,
    /// This JSON patch of the status.
    Patch(Value),
}

/// What is to be done to an object as the API server has it, of which something
/// was known when it was planned what its status should say.
fn step(live: &Value, pools: &Pools, planned: &Entry, wanted: &[AllocatedAddress]) -> Step {
    let Ok(now) = <ServiceEntry as Deserialize>::deserialize(live) else { return Step::Later };
    if plan::same(&now.status.addresses, wanted) {
        return Step::Nothing;
    }
    let version = &live["metadata"]["resourceVersion"];
    if entry(&now, pools).as_ref() != Some(planned) || !version.is_string() {
        return Step::Later;
    }
    let addresses: Vec<_> = wanted.iter().map(|one| json!({ "value": *one.value, "host": *one.host })).collect();
    let change = match (addresses.is_empty(), live["status"].is_object()) {
        (true, _) => json!({ "op": "remove", "path": "/status/addresses" }),
        (false, true) => json!({ "op": "add", "path": "/status/addresses", "value": addresses }),
        (false, false) => json!({ "op": "add", "path": "/status", "value": { "addresses": addresses } }),
    };
    Step::Patch(json!([{ "op": "test", "path": "/metadata/resourceVersion", "value": version }, change]))
}
