//! How many streams each replica has, so that one with more than its share can
//! send some elsewhere: whoever stays connected for months would else never
//! find a replica that was added later.
//!
//! Each replica says so in a Lease of its own, as API servers do that tell each
//! other of themselves
//! (<https://kubernetes.io/docs/concepts/architecture/leases/#api-server-identity>).
//! Clocks are not compared: a replica is there while its record changes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::source::kube::backoff::jittered;

/// How often a replica says how many streams it has, and reads of others.
pub const PERIOD: Duration = Duration::from_secs(5);
/// A record that has not changed for so long, one look and a half, is of a replica
/// that may be gone: nobody is sent there.
const DOUBTFUL: Duration = Duration::from_millis(7_500);
/// And after so long it is gone.
const GONE: Duration = Duration::from_secs(40);
const ATTEMPT: Duration = Duration::from_secs(4);
/// Says whose clients could be its: those of one revision have one Service.
const LABEL: &str = "fairway.istio.io/replica-of";
const STREAMS: &str = "fairway.istio.io/streams";

/// What the replicas of a revision say, all from about the same moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// What this replica said last.
    pub own: usize,
    /// What the others said. Nothing where it is not known of all of them.
    pub others: Option<Vec<usize>>,
    /// Tells this from what was known before.
    pub round: u64,
}

impl Streams {
    /// How many streams should go elsewhere. A tenth more than the share is
    /// nothing that anybody would notice.
    pub fn surplus(&self) -> usize {
        let Some(others) = self.others.as_ref().filter(|others| !others.is_empty()) else { return 0 };
        let share = (self.own + others.iter().sum::<usize>()).div_ceil(others.len() + 1);
        if self.own > share + (share / 10).max(2) { self.own - share } else { 0 }
    }
}

/// Whether another replica, of whatever revision, seems to be there now. Unlike for
/// streams, clocks are compared: nothing is known of the time before.
pub async fn others(client: &kube::Client, namespace: &str, identity: &str) -> bool {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let Ok(Ok(leases)) = timeout(ATTEMPT, api.list(&ListParams::default().labels(LABEL))).await else { return false };
    let is_there = |lease: Lease| {
        let spec = lease.spec.unwrap_or_default();
        let renewed = spec.renew_time.map(|time| Timestamp::now().duration_since(time.0));
        let recent = renewed.is_some_and(|ago| ago.as_secs() < GONE.as_secs() as i64);
        recent && spec.holder_identity.is_some_and(|other| other != identity)
    };
    leases.items.into_iter().any(is_there)
}

/// One replica among others.
pub struct Replica {
    /// The API server.
    pub client: kube::Client,
    /// The namespace of the control plane, where the Leases are.
    pub system_namespace: String,
    /// The name of this replica.
    pub identity: String,
    /// Whose replica it is.
    pub revision: String,
}

impl Replica {
    /// Says how many streams there are and tells what others say, until
    /// cancelled.
    pub async fn run(self, count: impl Fn() -> usize, streams: watch::Sender<Streams>, stop: CancellationToken) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.system_namespace);
        let (mut seen, mut version, mut told) = (Seen::default(), None, false);
        while stop.run_until_cancelled(sleep(jittered(PERIOD))).await.is_some() {
            let own = count();
            let round = async {
                self.say(&api, own, &mut version).await?;
                let list = ListParams::default().labels(&format!("{LABEL}={}", self.revision));
                Ok::<_, kube::Error>(api.list(&list).await?.items)
            };
            let others = match timeout(ATTEMPT, round).await {
                Ok(Ok(leases)) => seen.others(leases, &self.name(), Instant::now()),
                Ok(Err(error)) => {
                    // Once for each time that it begins.
                    if streams.borrow().others.is_some() || !told {
                        tracing::warn!(%error, "what other replicas say is not known; streams stay where they are");
                        told = true;
                    }
                    None
                }
                Err(_) => None,
            };
            for gone in std::mem::take(&mut seen.gone) {
                // Somebody else may be quicker.
                let _ = timeout(ATTEMPT, api.delete(&gone, &DeleteParams::default())).await;
            }
            streams.send_modify(|streams| *streams = Streams { own, others, round: streams.round.wrapping_add(1) });
        }
        let _ = timeout(ATTEMPT, api.delete(&self.name(), &DeleteParams::default())).await;
    }

    fn name(&self) -> String {
        format!("fairway-replica-{}", self.identity)
    }

    /// Writes the Lease. `version` is that of the last time, if it is known.
    async fn say(&self, api: &Api<Lease>, streams: usize, version: &mut Option<String>) -> Result<(), kube::Error> {
        // The API server takes no Lease without the version it is to replace.
        let known = match version.take() {
            Some(version) => Some(version),
            None => api.get_opt(&self.name()).await?.and_then(|lease| lease.metadata.resource_version),
        };
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name()),
                resource_version: known.clone(),
                labels: Some([(LABEL.to_owned(), self.revision.clone())].into()),
                annotations: Some([(STREAMS.to_owned(), streams.to_string())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(GONE.as_secs() as i32),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        let written = match known {
            Some(_) => api.replace(&self.name(), &PostParams::default(), &lease).await?,
            None => api.create(&PostParams::default(), &lease).await?,
        };
        *version = written.metadata.resource_version;
        Ok(())
    }
}

/// The records of other replicas, and when they were seen to change.
#[derive(Default)]
struct Seen {
    records: BTreeMap<String, Record>,
    /// Those that are to be deleted.
    gone: Vec<String>,
}

/// A record of another replica.
#[derive(Clone)]
struct Record {
    renewed: Option<MicroTime>,
    /// When it was first seen, or seen to change.
    at: Instant,
    /// Whether it was seen to change. Else it may be what a replica has left that
    /// ended before this one began.
    alive: bool,
}

impl Seen {
    /// What others say, if it is known of all of them.
    fn others(&mut self, leases: Vec<Lease>, own: &str, now: Instant) -> Option<Vec<usize>> {
        let mut records = BTreeMap::new();
        let mut others = Some(Vec::new());
        for lease in leases {
            let Some(name) = lease.metadata.name.filter(|name| name != own) else { continue };
            let renewed = lease.spec.and_then(|spec| spec.renew_time);
            let record = match self.records.remove(&name) {
                Some(known) if known.renewed == renewed => known,
                known => Record { renewed, at: now, alive: known.is_some() },
            };
            let age = now.duration_since(record.at);
            let said = lease.metadata.annotations.unwrap_or_default().remove(STREAMS);
            match said.and_then(|said| said.parse().ok()) {
                _ if age >= GONE => self.gone.push(name.clone()),
                Some(count) if record.alive && age < DOUBTFUL => {
                    others.iter_mut().for_each(|others| others.push(count))
                }
                _ => others = None,
            }
            records.insert(name, record);
        }
        self.records = records;
        others
    }
}

#[cfg(test)]
mod tests;
