//! What replicas know of each other. How many streams each has, so that one with
//! more than its share can send some elsewhere: whoever stays connected for months
//! would else never find a replica that was added later. And what their proxies say
//! of what they were sent, so that a status does not depend on which replica writes
//! it.
//!
//! Each replica says so in a Lease of its own, as API servers do that tell each
//! other of themselves
//! (<https://kubernetes.io/docs/concepts/architecture/leases/#api-server-identity>).
//! Clocks are not compared: a replica is there while its record changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::{Kind, ObjectKey};
use crate::controller::gateway::Proxies;
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
const JUDGEMENTS: &str = "fairway.istio.io/proxies";
/// How many bytes judgements may have: an API server takes 256 KiB of annotations.
const MOST: usize = 128 * 1024;
/// How much of a proxy's reason others are told.
const REASON: usize = 500;

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

/// What proxies say of what they were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgements {
    /// How it is with the proxies of each Gateway.
    pub gateways: BTreeMap<ObjectKey, Proxies>,
    /// Objects of which they reject something.
    pub rejected: BTreeSet<(Kind, ObjectKey)>,
}

/// The same as it is written: a Gateway's name with how many are connected, how many
/// have all, and why one has not.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Written {
    gateways: BTreeMap<String, (u32, u32, Option<String>)>,
    rejected: BTreeSet<String>,
}

impl Judgements {
    /// With those of another replica.
    fn add(&mut self, other: Self) {
        for (key, proxies) in other.gateways {
            self.gateways.entry(key).or_default().add(proxies);
        }
        self.rejected.extend(other.rejected);
    }

    /// As a text that an annotation can hold. If it cannot hold all, it is about
    /// those that reject something; readiness speaks for the others.
    fn written(&self) -> String {
        let rejected = self.rejected.iter().map(|(kind, key)| format!("{}/{key}", kind.info().subject)).collect();
        let short = |reason: &Arc<str>| reason.chars().take(REASON).collect::<String>();
        let row = |(key, one): (&ObjectKey, &Proxies)| {
            (key.to_string(), (one.connected, one.current, one.rejected.as_ref().map(short)))
        };
        let mut all = Written { gateways: self.gateways.iter().map(row).collect(), rejected };
        loop {
            let text = serde_json::to_string(&all).unwrap_or_default();
            if text.len() <= MOST {
                return text;
            }
            let before = all.gateways.len();
            all.gateways.retain(|_, (.., reason)| reason.is_some());
            if all.gateways.len() == before {
                return String::new();
            }
        }
    }

    /// What another replica has written; nothing of what makes no sense.
    fn read(text: &str) -> Self {
        let written: Written = serde_json::from_str(text).unwrap_or_default();
        let key = |name: &str| {
            let (namespace, name) = name.split_once('/')?;
            Some(ObjectKey::new(namespace, name))
        };
        let gateways = written.gateways.iter().filter_map(|(name, (connected, current, reason))| {
            let rejected = reason.as_deref().map(Into::into);
            Some((key(name)?, Proxies { connected: *connected, current: *current, rejected }))
        });
        let rejected = written.rejected.iter().filter_map(|object| {
            let (subject, name) = object.split_once('/')?;
            Some((Kind::ALL.iter().copied().find(|kind| kind.info().subject == subject)?, key(name)?))
        });
        Self { gateways: gateways.collect(), rejected: rejected.collect() }
    }
}

/// What a replica says of itself.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// How many streams it has.
    pub streams: usize,
    /// What its proxies say.
    pub judgements: Judgements,
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
    /// Says what is to be said and tells what others say, until cancelled.
    pub async fn run(
        self,
        say: impl Fn() -> Own,
        streams: watch::Sender<Streams>,
        judgements: watch::Sender<Arc<Judgements>>,
        stop: CancellationToken,
    ) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.system_namespace);
        let (mut seen, mut version, mut told) = (Seen::default(), None, false);
        while stop.run_until_cancelled(sleep(jittered(PERIOD))).await.is_some() {
            let own = say();
            let round = async {
                self.say(&api, &own, &mut version).await?;
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
            // While it is not known of all, what was known stays.
            if others.is_some() {
                let of_others = std::mem::take(&mut seen.judgements);
                judgements.send_if_modified(|known| {
                    let modified = **known != of_others;
                    if modified {
                        *known = Arc::new(of_others);
                    }
                    modified
                });
            }
            for gone in std::mem::take(&mut seen.gone) {
                // Somebody else may be quicker.
                let _ = timeout(ATTEMPT, api.delete(&gone, &DeleteParams::default())).await;
            }
            streams.send_modify(|streams| {
                *streams = Streams { own: own.streams, others, round: streams.round.wrapping_add(1) }
            });
        }
        let _ = timeout(ATTEMPT, api.delete(&self.name(), &DeleteParams::default())).await;
    }

    fn name(&self) -> String {
        format!("fairway-replica-{}", self.identity)
    }

    /// Writes the Lease. `version` is that of the last time, if it is known.
    async fn say(&self, api: &Api<Lease>, own: &Own, version: &mut Option<String>) -> Result<(), kube::Error> {
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
                annotations: Some(
                    [(STREAMS.to_owned(), own.streams.to_string()), (JUDGEMENTS.to_owned(), own.judgements.written())]
                        .into(),
                ),
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
    /// What their proxies say, if it is known of all of them.
    judgements: Judgements,
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
        self.judgements = Judgements::default();
        for lease in leases {
            let Some(name) = lease.metadata.name.filter(|name| name != own) else { continue };
            let renewed = lease.spec.and_then(|spec| spec.renew_time);
            let record = match self.records.remove(&name) {
                Some(known) if known.renewed == renewed => known,
                known => Record { renewed, at: now, alive: known.is_some() },
            };
            let age = now.duration_since(record.at);
            let mut annotations = lease.metadata.annotations.unwrap_or_default();
            let said = annotations.remove(STREAMS);
            if record.alive && age < DOUBTFUL {
                self.judgements.add(Judgements::read(&annotations.remove(JUDGEMENTS).unwrap_or_default()));
            }
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
