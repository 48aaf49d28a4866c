//! The edge of the Gateway controller: watches, a clock, and requests. It
//! works under the Lease that istiod uses for the same. The rights it needs are
//! in [`crate::controller::rights`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::api::ObjectKey;
use crate::controller::election::{Lock, run_while_leader};
use crate::controller::event::{self, Complaint};
use crate::controller::pace::Due;
use crate::controller::resource::{self, Manner, Reference, RequestError, Resource, Write};
use crate::controller::watch::{Seen, Selection, follow};
use crate::model::gateway::kubernetes::CheckedSet;
use crate::model::revision::Revisions;
use crate::status::facts::GatewayTable;

use super::overlay::{DEFAULTS, parameters};
use super::settings::Settings;
use super::status::complaints;
use super::template::GATEWAY_NAME;
use super::{MANAGED, MANAGER, Proxies, World, class, plan};

/// The time between two writes.
const PACE: Duration = Duration::from_millis(20);
/// How old what was looked up may become, as no watch tells when it changes.
const LOOKED_UP: Duration = Duration::from_secs(30);
/// How many ConfigMaps of Gateways' own are watched at most, as each takes a
/// request that stays open. The others are looked up now and then.
const FOLLOWED: usize = 32;
/// How often one Gateway is planned anew before others get their turn.
const STEPS: usize = 4;

/// Proxies by the Gateway they serve.
pub type ProxyTable = Arc<BTreeMap<ObjectKey, Proxies>>;

/// The controller.
#[derive(Clone)]
pub struct GatewayController {
    /// The API server.
    pub client: kube::Client,
    /// What the process is told.
    pub settings: Arc<Settings>,
    /// The name of this replica.
    pub identity: Arc<str>,
    /// Who is connected to it.
    pub proxies: watch::Receiver<ProxyTable>,
    /// What the mesh knows of Gateways.
    pub facts: watch::Receiver<GatewayTable>,
    /// Which of them are this revision's.
    pub revisions: watch::Receiver<Arc<Revisions>>,
    /// Changes when a kind is defined.
    pub definitions: watch::Receiver<()>,
}

/// What is planned in one piece.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Class(String),
    Gateway((String, String)),
}

impl GatewayController {
    /// Works whenever this replica leads, until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let (client, identity) = (self.client.clone(), self.identity.clone());
        let namespace = self.settings.system_namespace.clone();
        let lock = Lock::of_revision("istio-gateway-deployment", self.revisions.clone());
        let work = |client| Box::pin(Leader::new(Self { client, ..self.clone() }).run());
        run_while_leader(client, &namespace, lock, &identity, cancel, work).await;
    }
}

/// What is watched, in the order of [`Part`].
fn selections(settings: &Settings) -> Vec<(Part, Selection)> {
    let all = |resource, query: &str| Selection { resource, namespace: String::new(), query: query.into() };
    let escaped = |label: &str| label.replace('/', "%2F");
    let managed = format!("labelSelector={}", escaped(MANAGED));
    let suffix = match settings.revision.as_str() {
        "" | "default" => String::new(),
        revision => format!("-{revision}"),
    };
    let map = |name: &str| Selection {
        resource: Resource::ConfigMap,
        namespace: settings.system_namespace.clone(),
        query: format!("fieldSelector=metadata.name%3D{name}{suffix}"),
    };
    let defaults = Selection {
        resource: Resource::ConfigMap,
        namespace: settings.system_namespace.clone(),
        query: format!("labelSelector={}", escaped(DEFAULTS)),
    };
    vec![
        (Part::Classes, all(Resource::GatewayClass, "")),
        (Part::Gateways, all(Resource::Gateway, "")),
        (Part::ListenerSets, all(Resource::ListenerSet, "")),
        (Part::Objects(Resource::ServiceAccount), all(Resource::ServiceAccount, &managed)),
        (Part::Objects(Resource::Service), all(Resource::Service, &managed)),
        (Part::Objects(Resource::Deployment), all(Resource::Deployment, &managed)),
        (Part::Objects(Resource::HorizontalPodAutoscaler), all(Resource::HorizontalPodAutoscaler, &managed)),
        (Part::Objects(Resource::PodDisruptionBudget), all(Resource::PodDisruptionBudget, &managed)),
        (Part::Defaults, defaults),
        (Part::Values, map("istio-sidecar-injector")),
        (Part::Mesh, map("istio")),
    ]
}

/// What a watch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Classes,
    Gateways,
    ListenerSets,
    Objects(Resource),
    Defaults,
    Values,
    Mesh,
}

struct Leader {
    controller: GatewayController,
    world: World,
    parts: Vec<Part>,
    /// The watches that have not said anything yet. Nothing is done before.
    unheard: BTreeSet<usize>,
    /// Whether there are classes: none can be made where nobody knows what one
    /// is.
    classes: bool,
    due: Due<Subject>,
    looked_up: BTreeMap<Reference, Instant>,
    /// The ConfigMaps of Gateways' own that are watched, by the number of the
    /// watch.
    followed: BTreeMap<usize, (Reference, AbortHandle)>,
    /// Whether Gateways or classes have changed since it was looked at which are
    /// to be.
    parameters_changed: bool,
    /// The number of the next watch.
    next: usize,
}

impl Leader {
    fn new(controller: GatewayController) -> Self {
        Self {
            controller,
            world: World::default(),
            parts: Vec::new(),
            unheard: BTreeSet::new(),
            classes: false,
            due: Due::new(Duration::from_millis(500), Duration::from_secs(30)),
            looked_up: BTreeMap::new(),
            followed: BTreeMap::new(),
            parameters_changed: false,
            next: 0,
        }
    }

    async fn run(mut self) {
        let (sender, mut seen) = mpsc::channel(256);
        // They end with the leadership, as the set does.
        let mut watches = JoinSet::new();
        for (number, (part, selection)) in selections(&self.controller.settings).into_iter().enumerate() {
            self.parts.push(part);
            self.unheard.insert(number);
            self.next = number + 1;
            let definitions = self.controller.definitions.clone();
            watches.spawn(follow(self.controller.client.clone(), number, selection, sender.clone(), definitions));
        }
        self.world.proxies = self.controller.proxies.borrow_and_update().clone();
        self.world.facts = self.controller.facts.borrow_and_update().clone();
        self.world.revisions = self.controller.revisions.borrow_and_update().clone();
        let mut age = interval(LOOKED_UP);
        loop {
            self.follow_parameters(&mut watches, &sender);
            let next = self.next();
            let due = async {
                match &next {
                    Some((at, _)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                one = seen.recv() => match one {
                    Some(one) => self.note(one),
                    None => return,
                },
                Ok(()) = self.controller.proxies.changed() => {
                    let old = std::mem::replace(&mut self.world.proxies, self.controller.proxies.borrow_and_update().clone());
                    self.compare_proxies(&old);
                }
                Ok(()) = self.controller.facts.changed() => {
                    let old = std::mem::replace(&mut self.world.facts, self.controller.facts.borrow_and_update().clone());
                    self.compare_facts(&old);
                }
                Ok(()) = self.controller.revisions.changed() => {
                    self.world.revisions = self.controller.revisions.borrow_and_update().clone();
                    self.everything_is_due();
                }
                _ = age.tick() => self.forget_old(),
                Some(ended) = watches.join_next() => {
                    if ended.as_ref().is_err_and(tokio::task::JoinError::is_cancelled) {
                        continue;
                    }
                    tracing::error!(?ended, "a watch of the Gateway controller ended");
                    return;
                }
                () = due => {
                    if let Some((_, subject)) = next {
                        self.turn(subject).await;
                    }
                }
            }
        }
    }

    /// Watches the ConfigMaps that Gateways name, and no others.
    fn follow_parameters(&mut self, watches: &mut JoinSet<()>, sender: &mpsc::Sender<Seen>) {
        if !std::mem::take(&mut self.parameters_changed) {
            return;
        }
        let ours = self.world.gateways.values().filter(|gateway| {
            let class = gateway["spec"]["gatewayClassName"].as_str().unwrap_or_default();
            class::controller(&self.world, class).is_some()
        });
        let mut wanted: BTreeSet<Reference> = ours.filter_map(parameters).collect();
        self.followed.retain(|_, (reference, watch)| {
            let keep = wanted.remove(reference);
            if !keep {
                watch.abort();
                self.world.objects.remove(reference);
            }
            keep
        });
        for reference in wanted {
            if self.followed.len() >= FOLLOWED {
                return;
            }
            // A name that is none would be no query either.
            if !reference.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)) {
                continue;
            }
            let selection = Selection {
                resource: reference.resource,
                namespace: reference.namespace.clone(),
                query: format!("fieldSelector=metadata.name%3D{}", reference.name),
            };
            let definitions = self.controller.definitions.clone();
            let watch = follow(self.controller.client.clone(), self.next, selection, sender.clone(), definitions);
            self.followed.insert(self.next, (reference, watches.spawn(watch)));
            self.next += 1;
        }
    }

    /// Notes what a watch says of a ConfigMap that Gateways name. Returns what
    /// it says if it is about something else.
    fn note_parameters(&mut self, seen: Seen) -> Option<Seen> {
        let (Seen::All(number, _) | Seen::Absent(number) | Seen::Put(number, _) | Seen::Gone(number, _)) = &seen;
        let number = *number;
        let Some((reference, _)) = self.followed.get(&number) else {
            // One that has been given up may have had something to say still.
            return Some(seen).filter(|_| number < self.parts.len());
        };
        let reference = reference.clone();
        let found = match seen {
            Seen::All(_, objects) => objects.into_iter().next(),
            Seen::Put(_, object) => Some(object),
            Seen::Absent(_) | Seen::Gone(..) => None,
        };
        match found {
            Some(object) => self.put(reference.clone(), object),
            None => {
                self.looked_up.remove(&reference);
                self.world.objects.insert(reference.clone(), None);
            }
        }
        self.namespace_is_due(&reference.namespace);
        None
    }

    /// Notes what a watch says, and whom it concerns.
    fn note(&mut self, seen: Seen) {
        let Some(seen) = self.note_parameters(seen) else { return };
        match seen {
            Seen::All(number, objects) => self.note_all(number, objects, true),
            Seen::Absent(number) => self.note_all(number, Vec::new(), false),
            Seen::Put(number, object) => {
                if let Some(part) = self.parts.get(number).copied() {
                    self.change(part, object, true);
                }
            }
            Seen::Gone(number, object) => {
                if let Some(part) = self.parts.get(number).copied() {
                    self.change(part, object, false);
                }
            }
        }
    }

    /// Notes all objects of a part, and whether their kind is installed.
    fn note_all(&mut self, number: usize, objects: Vec<Value>, installed: bool) {
        let first = self.unheard.remove(&number);
        let Some(part) = self.parts.get(number).copied() else { return };
        if part == Part::Classes {
            self.classes = installed;
        }
        self.replace(part, objects);
        // That a kind is still not there is no news.
        if installed || first {
            self.everything_is_due();
        }
    }

    fn replace(&mut self, part: Part, objects: Vec<Value>) {
        self.parameters_changed |= matches!(part, Part::Classes | Part::Gateways);
        let by_name = |objects: Vec<Value>| objects.into_iter().map(|one| (name_of(&one).1, one)).collect();
        match part {
            Part::Classes => self.world.classes = by_name(objects),
            Part::Gateways => self.world.gateways = objects.into_iter().map(|one| (name_of(&one), one)).collect(),
            Part::ListenerSets => {
                self.world.listener_sets = objects.into_iter().map(|one| (name_of(&one), one)).collect();
            }
            Part::Objects(resource) => {
                let looked_up = &self.looked_up;
                self.world.objects.retain(|one, _| one.resource != resource || looked_up.contains_key(one));
                for object in objects {
                    self.put(Reference::of(resource, &object), object);
                }
            }
            Part::Defaults => self.world.class_defaults = by_name(objects),
            Part::Values => self.world.installation.read_values(objects.first()),
            Part::Mesh => self.world.installation.read_mesh(objects.first()),
        }
    }

    fn change(&mut self, part: Part, object: Value, there: bool) {
        let (namespace, name) = name_of(&object);
        self.parameters_changed |= matches!(part, Part::Classes | Part::Gateways);
        match part {
            Part::Classes => {
                set(&mut self.world.classes, name, object, there);
                self.everything_is_due();
            }
            Part::Gateways => {
                let key = (namespace, name);
                let subject = Subject::Gateway(key.clone());
                // What its owner changes again and again is no quarrel.
                if is_asked_anew(self.world.gateways.get(&key), &object) {
                    self.due.renew(&subject);
                }
                set(&mut self.world.gateways, key, object, there);
                self.due.insert(subject);
            }
            Part::ListenerSets => {
                let parent = &object["spec"]["parentRef"];
                let text = |field: &str| parent[field].as_str().unwrap_or_default();
                let of = if text("namespace").is_empty() { &namespace } else { text("namespace") };
                let (key, subject) =
                    ((namespace.clone(), name), Subject::Gateway((of.to_owned(), text("name").to_owned())));
                if is_asked_anew(self.world.listener_sets.get(&key), &object) {
                    self.due.renew(&subject);
                }
                self.due.insert(subject);
                set(&mut self.world.listener_sets, key, object, there);
            }
            Part::Objects(resource) => {
                let gateway = object["metadata"]["labels"][GATEWAY_NAME].as_str().map(ToOwned::to_owned);
                let reference = Reference::of(resource, &object);
                match there {
                    true => self.put(reference, object),
                    // Its label may be gone and not the object.
                    false => drop(self.world.objects.remove(&reference)),
                }
                match gateway {
                    Some(gateway) => self.due.insert(Subject::Gateway((namespace, gateway))),
                    None => self.namespace_is_due(&namespace),
                }
            }
            Part::Defaults => {
                set(&mut self.world.class_defaults, name, object, there);
                self.everything_is_due();
            }
            Part::Values => {
                self.world.installation.read_values(Some(&object).filter(|_| there));
                self.everything_is_due();
            }
            Part::Mesh => {
                self.world.installation.read_mesh(Some(&object).filter(|_| there));
                self.everything_is_due();
            }
        }
    }

    /// Notes an object, unless something newer is known of it: what we write
    /// is noted before the watch tells of it.
    fn put(&mut self, reference: Reference, object: Value) {
        self.looked_up.remove(&reference);
        let known = self.world.objects.get(&reference).and_then(Option::as_ref);
        if known.is_none_or(|known| version_of(known) <= version_of(&object)) {
            self.world.objects.insert(reference, Some(object));
        }
    }

    fn everything_is_due(&mut self) {
        if self.classes {
            let ours = class::CLASSES.iter().map(|one| one.name.to_owned());
            self.due.extend(ours.chain(self.world.classes.keys().cloned()).map(Subject::Class));
        }
        self.due.extend(self.world.gateways.keys().cloned().map(Subject::Gateway));
        self.due.forget_calm();
    }

    fn namespace_is_due(&mut self, namespace: &str) {
        let keys = self.world.gateways.keys().filter(|key| key.0 == *namespace);
        self.due.extend(keys.cloned().map(Subject::Gateway));
    }

    fn compare_proxies(&mut self, old: &ProxyTable) {
        let new = &self.world.proxies;
        let changed = old.keys().chain(new.keys()).filter(|key| old.get(*key) != new.get(*key));
        let subjects = changed.map(|key| Subject::Gateway((key.namespace.to_string(), key.name.to_string())));
        self.due.extend(subjects.collect::<Vec<_>>());
    }

    fn compare_facts(&mut self, old: &GatewayTable) {
        let changed = old.diff(&self.world.facts).map(|change| match change {
            DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key,
            DiffItem::Update { new: (key, _), .. } => key,
        });
        let subjects = changed.map(|key| Subject::Gateway((key.namespace.to_string(), key.name.to_string())));
        self.due.extend(subjects.collect::<Vec<_>>());
    }

    fn forget_old(&mut self) {
        let old = self.looked_up.extract_if(.., |_, at| at.elapsed() >= LOOKED_UP).map(|(one, _)| one);
        for reference in old.collect::<Vec<_>>() {
            self.world.objects.remove(&reference);
            self.namespace_is_due(&reference.namespace);
        }
    }

    /// What is to be looked at next, and when.
    fn next(&self) -> Option<(Instant, Subject)> {
        if !self.unheard.is_empty() {
            return None;
        }
        self.due.next(Instant::now(), |_| false)
    }

    /// Does what there is to do for a subject. If anything was written or
    /// failed, the next look waits, and longer each time: for somebody else to
    /// give up undoing it, or for an error to go away.
    async fn turn(&mut self, subject: Subject) {
        self.due.remove(&subject);
        let busy = match &subject {
            Subject::Class(name) => self.turn_class(name).await,
            Subject::Gateway(key) => self.turn_gateway(key).await,
        };
        if !busy {
            return;
        }
        self.due.attempted(subject.clone());
        self.due.insert(subject);
    }

    async fn turn_class(&mut self, name: &str) -> bool {
        let Some(write) = class::plan(&self.world, name, &now()) else { return false };
        let live = self.world.classes.get(name);
        let same = live.is_some_and(|live| {
            use crate::controller::covers::{applied_more, covers};
            covers(live, &write.body) && !applied_more(live, &write.body, MANAGER, "status")
        });
        if same {
            return false;
        }
        if let Some(object) = self.write(&write).await {
            self.world.classes.insert(name.to_owned(), object);
        }
        true
    }

    /// Returns whether something was written, or should have been.
    async fn turn_gateway(&mut self, key: &(String, String)) -> bool {
        let mut busy = false;
        for _ in 0..STEPS {
            let plan = plan(&self.controller.settings, &self.world, key, &now());
            for reference in &plan.look_up {
                match resource::get(&self.controller.client, reference).await {
                    Ok(found) => {
                        self.looked_up.insert(reference.clone(), Instant::now());
                        self.world.objects.insert(reference.clone(), found);
                    }
                    Err(error) => {
                        tracing::warn!(object = %reference, %error, "cannot be looked up");
                        return true;
                    }
                }
            }
            if !plan.look_up.is_empty() {
                continue;
            }
            // The status is worked out again from what was written.
            let (status, objects): (Vec<_>, Vec<_>) =
                plan.writes.into_iter().partition(|write| write.manner == Manner::ApplyStatus);
            let last = objects.is_empty();
            for write in if last { status } else { objects } {
                busy = true;
                let Some(object) = self.write(&write).await else { return true };
                self.complain(key, &write, &object).await;
                match write.object.resource {
                    _ if write.manner == Manner::Delete => _ = self.world.objects.remove(&write.object),
                    Resource::Gateway => _ = self.world.gateways.insert(key.clone(), object),
                    Resource::ListenerSet => _ = self.world.listener_sets.insert(name_of(&object), object),
                    _ => self.put(write.object, object),
                }
            }
            if last {
                break;
            }
        }
        busy
    }

    /// Writes, and tells how that went.
    async fn write(&mut self, write: &Write) -> Option<Value> {
        sleep(PACE).await;
        match resource::write(&self.controller.client, write, MANAGER).await {
            Ok(object) => {
                tracing::info!(object = %write.object, manner = ?write.manner, "written");
                Some(object)
            }
            Err(error) => {
                self.failed(write, &error);
                None
            }
        }
    }

    /// Has Events say what is the matter with listeners, when their status has
    /// been written and says so for the first time.
    async fn complain(&self, key: &(String, String), write: &Write, live: &Value) {
        if write.manner != Manner::ApplyStatus {
            return;
        }
        let Reference { resource, namespace, name } = &write.object;
        let named = (namespace.clone(), name.clone());
        let Some(facts) = self.world.facts.get(&ObjectKey::new(&key.0, &key.1)) else { return };
        let (before, listeners) = match resource {
            Resource::Gateway => (self.world.gateways.get(&named), Some(&*facts.checked.listeners)),
            Resource::ListenerSet => {
                let is = |set: &&CheckedSet| *set.meta.namespace == *named.0 && *set.meta.name == *named.1;
                (self.world.listener_sets.get(&named), facts.checked.sets.iter().find(is).map(|set| &*set.listeners))
            }
            _ => return,
        };
        let before = before.map_or(&Value::Null, |object| &object["status"]);
        for (reason, message) in complaints(before, listeners.unwrap_or_default()) {
            let complaint = Complaint { object: &write.object, live, reason, message: &message };
            event::write(&self.controller.client, &complaint, &self.controller.identity).await;
        }
    }

    fn failed(&mut self, write: &Write, error: &RequestError) {
        // It is not what we took it for: to be looked up again.
        self.world.objects.remove(&write.object);
        let text = error.to_string();
        match error.code() {
            Some(404 | 409) => tracing::debug!(object = %write.object, error = text, "not written: it has changed"),
            Some(403) if text.contains("being terminated") => {
                tracing::debug!(object = %write.object, "not written: its namespace is being deleted");
            }
            _ => tracing::warn!(object = %write.object, manner = ?write.manner, error = text, "cannot be written"),
        }
    }
}

fn set<K: Ord>(table: &mut BTreeMap<K, Value>, key: K, object: Value, there: bool) {
    match there {
        true => {
            let known = table.get(&key);
            if known.is_none_or(|known| version_of(known) <= version_of(&object)) {
                table.insert(key, object);
            }
        }
        false => _ = table.remove(&key),
    }
}

/// Whether the owner of an object wants something else than before, which status
/// and metadata are no part of.
fn is_asked_anew(known: Option<&Value>, object: &Value) -> bool {
    known.is_none_or(|known| known["metadata"]["generation"] != object["metadata"]["generation"])
}

fn name_of(object: &Value) -> (String, String) {
    let Reference { namespace, name, .. } = Reference::of(Resource::Gateway, object);
    (namespace, name)
}

/// API servers since Kubernetes 1.35 promise that versions can be compared, and
/// all others did it without a promise.
fn version_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn now() -> String {
    format!("{:.0}", Timestamp::now())
}
