//! The ConfigMap with the mesh's root certificates, in every namespace. Proxies
//! mount it by name, and their pods do not start without it.
//!
//! It is created, and repaired when somebody changes or deletes it, under the
//! lock that istiod uses for the same, so the two never write in turns.
//! <https://github.com/istio/istio/blob/master/pilot/pkg/serviceregistry/kube/controller/namespacecontroller.go>

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::{Change, Kind, Object};
use crate::model::revision::Revisions;
use crate::source::kube::Server;
use crate::source::kube::reflector::Reflector;
use crate::source::kube::requests::Selection;
use crate::source::{Event, Problems, channel};

use super::FIELD_MANAGER;
use super::election::{Lock, run_while_leader};
use super::pace::Due;

/// istiod's lock for this work, as all revisions have the same root.
pub const LOCK: &str = "istio-namespace-controller-election";
/// Namespaces of Kubernetes itself without pods, which istiod leaves alone too.
const LEFT_ALONE: &[&str] = &["kube-public", "kube-node-lease", "local-path-storage"];
const KEY: &str = "root-cert.pem";
const LABEL: (&str, &str) = ("istio.io/config", "true");
/// The time between two writes.
const PACE: Duration = Duration::from_millis(20);
/// How many writes are under way at a time.
const WRITES: usize = 8;
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// What is published, and where.
#[derive(Clone)]
pub struct RootConfigMap {
    /// The API server.
    pub client: kube::Client,
    /// The namespace of the control plane, where the lock is.
    pub system_namespace: Arc<str>,
    /// The name of the ConfigMap, by default `istio-ca-root-cert`.
    pub name: Arc<str>,
    /// The name of this replica.
    pub identity: Arc<str>,
    /// Which revision it is.
    pub revisions: watch::Receiver<Arc<Revisions>>,
    /// The namespaces of the mesh. One that is being deleted may be among
    /// them, but need not.
    pub namespaces: watch::Receiver<Arc<BTreeSet<String>>>,
    /// The root certificates as PEM. While empty, nothing is written.
    pub root: watch::Receiver<Arc<str>>,
}

impl RootConfigMap {
    /// Publishes whenever this replica leads, until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let (client, identity) = (self.client.clone(), self.identity.clone());
        let work = |client| Box::pin(Self { client, ..self.clone() }.lead());
        let lock = Lock::config_map(LOCK, self.revisions.clone());
        run_while_leader(client, &self.system_namespace, lock, &identity, cancel, work).await;
    }

    /// Publishes as the leader.
    async fn lead(self) {
        let (sender, mut events) = channel();
        let selection =
            Selection { namespace: None, name: Some((*self.name).into()), ..Selection::of(Kind::ConfigMap, "") };
        // They are logged; as a list they would outlive our leadership.
        let problems = Problems::default();
        let reflector = Reflector::new(Server::new(self.client.clone()), selection, sender, problems);
        let repair = async {
            let mut present = BTreeMap::new();
            loop {
                match events.recv().await {
                    Some(Event::Changes(changes)) => changes.into_iter().for_each(|change| {
                        note(&mut present, change);
                    }),
                    Some(Event::Synced(_)) => break,
                    Some(Event::Sought(_)) => {}
                    None => return,
                }
            }
            Repair::new(self, present).run(events).await;
        };
        tokio::select! {
            () = reflector.run() => {}
            () = repair => {}
        }
    }
}

/// What the ConfigMap of a namespace says.
#[derive(PartialEq)]
struct Content {
    root: Arc<str>,
    labelled: bool,
}

/// Notes what is there. Returns the namespace.
fn note(present: &mut BTreeMap<Arc<str>, Content>, change: Change) -> Option<Arc<str>> {
    match change {
        Change::Put(Object::ConfigMap(map)) => {
            let labelled = map.meta.label(LABEL.0) == Some(LABEL.1);
            present.insert(map.meta.namespace.clone(), Content { root: map.data.root_cert.clone(), labelled });
            Some(map.meta.namespace.clone())
        }
        Change::Delete(_, key) => {
            present.remove(&key.namespace);
            Some(key.namespace)
        }
        Change::Put(_) | Change::Reset(..) | Change::Unreadable(..) => None,
    }
}

/// Compares and writes.
struct Repair {
    config: RootConfigMap,
    wanted: Arc<BTreeSet<String>>,
    root: Arc<str>,
    present: BTreeMap<Arc<str>, Content>,
    /// The namespaces that are not as they should be.
    due: Due<Arc<str>>,
    /// They end with the leadership, as the set does.
    writes: JoinSet<Arc<str>>,
    writing: BTreeSet<Arc<str>>,
    last_write: Instant,
}

impl Repair {
    fn new(mut config: RootConfigMap, present: BTreeMap<Arc<str>, Content>) -> Self {
        let wanted = config.namespaces.borrow_and_update().clone();
        let root = config.root.borrow_and_update().clone();
        Self {
            wanted,
            root,
            config,
            present,
            due: Due::new(Duration::from_secs(1), Duration::from_secs(30)),
            writes: JoinSet::new(),
            writing: BTreeSet::new(),
            last_write: Instant::now(),
        }
    }

    async fn run(mut self, mut events: crate::source::Receiver) {
        self.compare_all();
        loop {
            let next = self.next();
            let due = async {
                match &next {
                    Some((at, _)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Changes(changes)) => {
                        for change in changes {
                            if let Some(namespace) = note(&mut self.present, change) {
                                self.compare(namespace);
                            }
                        }
                    }
                    Some(Event::Synced(_) | Event::Sought(_)) => {}
                    None => return,
                },
                Ok(()) = self.config.namespaces.changed() => {
                    self.wanted = self.config.namespaces.borrow_and_update().clone();
                    self.compare_all();
                }
                Ok(()) = self.config.root.changed() => {
                    self.root = self.config.root.borrow_and_update().clone();
                    self.compare_all();
                }
                Some(done) = self.writes.join_next() => match done {
                    Ok(namespace) => drop(self.writing.remove(&namespace)),
                    Err(error) => {
                        tracing::error!(%error, "a write of root certificates panicked");
                        return;
                    }
                },
                () = due => {
                    if let Some((_, namespace)) = next {
                        self.write(namespace);
                    }
                }
            }
        }
    }

    fn compare_all(&mut self) {
        self.due.clear();
        for namespace in self.wanted.clone().iter() {
            self.compare(namespace.as_str().into());
        }
        self.due.forget_calm();
    }

    fn compare(&mut self, namespace: Arc<str>) {
        let ours = self.wanted.contains(&*namespace) && !LEFT_ALONE.contains(&&*namespace);
        let good = self.present.get(&namespace).is_some_and(|content| content.labelled && content.root == self.root);
        if ours && !good && !self.root.is_empty() {
            self.due.insert(namespace);
        } else {
            self.due.remove(&namespace);
        }
    }

    /// The next namespace to write in, and when.
    fn next(&self) -> Option<(Instant, Arc<str>)> {
        if self.writing.len() >= WRITES {
            return None;
        }
        self.due.next(self.last_write + PACE, |namespace| self.writing.contains(namespace))
    }

    /// Writes in a namespace. Whatever comes of it, the next attempt there
    /// waits, and longer each time: for the watch to show the result, for an
    /// error to go away (such as that the namespace is being deleted), or for
    /// somebody else to give up undoing it.
    fn write(&mut self, namespace: Arc<str>) {
        self.due.attempted(namespace.clone());
        self.last_write = Instant::now();
        self.writing.insert(namespace.clone());
        let write = apply(self.config.client.clone(), namespace, self.config.name.clone(), self.root.clone());
        self.writes.spawn(write);
    }
}

/// Writes the ConfigMap of a namespace. Returns the namespace.
async fn apply(client: kube::Client, namespace: Arc<str>, name: Arc<str>, root: Arc<str>) -> Arc<str> {
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            labels: Some([(LABEL.0.to_owned(), LABEL.1.to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some([(KEY.to_owned(), root.to_string())].into()),
        ..ConfigMap::default()
    };
    // The fields are istiod's or somebody's mistake; we are the leader.
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match timeout(WRITE_TIMEOUT, api.patch(&name, &parameters, &Patch::Apply(&map))).await {
        Ok(Ok(_)) => tracing::debug!(%namespace, "root certificates are published"),
        Ok(Err(error)) if gone(&error) => tracing::debug!(%namespace, "namespace is being deleted"),
        Ok(Err(error)) => tracing::warn!(%namespace, %error, "cannot publish root certificates"),
        Err(_) => tracing::warn!(%namespace, "cannot publish root certificates in time"),
    }
    namespace
}

/// Whether the error means that the namespace is gone, or soon will be.
fn gone(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let terminating = |details: &kube::core::response::StatusDetails| {
        details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
    };
    status.code == 404 || status.details.as_ref().is_some_and(terminating)
}
