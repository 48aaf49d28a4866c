//! The one writer: a thread that owns the graph, takes facts from the sources,
//! commits them, and publishes what came of it.
//!
//! A commit takes everything that has queued while the last one ran. Under
//! churn a short window keeps the number of commits, hence of messages to each
//! proxy, in bounds; a change after a quiet moment is committed at once.
//! Nothing is published before every kind has synced and the mesh's configuration,
//! if there is one, can be read.

pub mod counts;
mod mesh_map;
mod pace;
mod pods;
mod questions;
mod statuses;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::{oneshot, watch};

use crate::api::Kind;
use crate::ca::access::Access;
use crate::ca::node::NodeAccount;
use crate::credential::{Place, Want};
use crate::graph::{Diagnostic, Stats};
use crate::model::Settings;
use crate::model::auto_allocation::Entries;
use crate::model::key_set::{Fetched, KeySource};
use crate::model::mesh::{self, MeshConfig};
use crate::model::revision::Revisions;
use crate::source::{Event, Receiver};
use crate::spans;
use crate::status::facts::GatewayTable;
use crate::status::{self, Statuses};
use crate::translation::Translation;
use crate::translation::rejections::Object;
pub use crate::translation::rejections::RejectedResource;
use crate::xds::demand::Wanted;
use crate::xds::secret::{Accounts, Vault};
use crate::xds::verdict::Hearing;
use crate::xds::view::{Layer, Views};
use counts::{Counts, Tally};
use mesh_map::MeshMap;
use pace::Cost;
pub use pace::Pace;
pub use pods::PodDirectory;
pub use questions::{InForce, Question, Questions, Registry};
use statuses::Book;

/// What the rest of the process learns from the writer.
#[derive(Clone)]
pub struct Published {
    /// What proxies are told. Empty until everything has synced.
    pub views: watch::Receiver<Arc<Views>>,
    /// Whether everything has synced. Nothing is to be served before.
    pub synced: watch::Receiver<bool>,
    /// The mesh configuration in force.
    pub mesh: watch::Receiver<Arc<MeshConfig>>,
    /// The namespaces that are looked at.
    pub namespaces: watch::Receiver<Arc<BTreeSet<String>>>,
    /// Which objects are this revision's to speak about.
    pub revisions: watch::Receiver<Arc<Revisions>>,
    /// What is to be said of objects.
    pub statuses: watch::Receiver<Statuses>,
    /// Whether that is complete, so that this replica can speak for all.
    pub complete: watch::Receiver<bool>,
    /// What is known of the Gateway API's Gateways.
    pub gateways: watch::Receiver<GatewayTable>,
    /// ServiceEntries that want addresses, and those that have some.
    pub auto_allocation: watch::Receiver<Entries>,
    /// What is to be said of what proxies rejected.
    pub rejections: watch::Receiver<Statuses>,
    /// The keys of token issuers that are to be fetched.
    pub wanted_keys: watch::Receiver<Arc<WantedKeys>>,
    /// Certificates and keys, for whoever may have them.
    pub vault: watch::Receiver<Arc<Vault>>,
    /// The objects that those are to be read from.
    pub wanted_objects: watch::Receiver<Arc<BTreeSet<Place>>>,
    /// The pods, for the node authorizer.
    pub pods: Arc<PodDirectory>,
    /// What the graph has cost so far.
    pub stats: Arc<ArcSwap<Vec<Stats>>>,
    /// Why nothing is published although everything has been read, if so.
    pub blocked: watch::Receiver<Option<Arc<str>>>,
    /// How many changes there were so far.
    pub counts: Arc<Counts>,
}

/// How often the time is told to what depends on it.
const TICK: Duration = Duration::from_secs(60);

/// Where keys are that are needed, and how long fetching them may take.
pub type WantedKeys = BTreeMap<KeySource, Duration>;

/// What the writer hears besides what its sources tell.
pub struct Heard {
    /// Who is connected.
    pub wanted: watch::Receiver<Wanted>,
    /// What they make of what they were sent.
    pub verdicts: Hearing,
    /// The keys of token issuers that have been fetched.
    pub keys: watch::Receiver<Fetched>,
    /// What proxies need to be looked up for them.
    pub asked: watch::Receiver<Wanted<Want>>,
    /// Which of their accounts may list Secrets.
    pub access: watch::Receiver<Access>,
    /// How many of this replica's leaders speak about objects for all.
    pub speaks: watch::Receiver<usize>,
}

/// When a commit began and ended, and when the first of its events was heard and
/// how many there were.
type Committed = (SystemTime, SystemTime, Option<(SystemTime, usize)>);

struct Writer {
    translation: Translation,
    settings: Arc<Settings>,
    missing: BTreeSet<Kind>,
    /// Until something is published.
    mesh_map: Option<MeshMap>,
    blocked: watch::Sender<Option<Arc<str>>>,
    views: watch::Sender<Arc<Views>>,
    synced: watch::Sender<bool>,
    mesh: watch::Sender<Arc<MeshConfig>>,
    namespaces: watch::Sender<Arc<BTreeSet<String>>>,
    revisions: watch::Sender<Arc<Revisions>>,
    book: Book,
    /// Whether this replica is to speak for all, and whether it can.
    speaks: bool,
    complete: watch::Sender<bool>,
    auto_allocation: watch::Sender<Entries>,
    wanted_keys: watch::Sender<Arc<WantedKeys>>,
    vault: watch::Sender<Arc<Vault>>,
    wanted_objects: watch::Sender<Arc<BTreeSet<Place>>>,
    pods: Arc<PodDirectory>,
    stats: Arc<ArcSwap<Vec<Stats>>>,
    counts: Arc<Counts>,
    said: Vec<Diagnostic>,
    rejections: watch::Sender<Statuses>,
    rejected: BTreeMap<Object, String>,
    cost: Cost,
    /// When the first event since the last commit was taken, and how many were;
    /// only known while there are traces.
    heard: Option<(SystemTime, usize)>,
}

/// Starts the writer's thread. `node_proxies` are the accounts whose pods the
/// node authorizer asks about by name. It is told who is connected, and what
/// they make of what they were sent. It ends when every sender of events is gone;
/// the returned receiver then tells so.
pub fn start(
    settings: Arc<Settings>,
    pace: Pace,
    node_proxies: Vec<NodeAccount>,
    heard: Heard,
    events: Receiver,
) -> std::io::Result<(Published, Questions, oneshot::Receiver<()>)> {
    let writer = Writer::new(settings, node_proxies);
    let published = writer.published();
    let (questions, asked) = tokio::sync::mpsc::channel(16);
    let (ended, end) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new().name("graph".into()).spawn(move || {
        runtime.block_on(writer.run(pace, events, heard, asked));
        // Nobody may be left to hear it.
        let _ = ended.send(());
    })?;
    Ok((published, questions, end))
}

impl Writer {
    fn new(settings: Arc<Settings>, node_proxies: Vec<NodeAccount>) -> Self {
        let translation = Translation::new(settings.clone());
        Self {
            book: Book::new(&translation.facts),
            speaks: false,
            complete: watch::Sender::new(false),
            vault: watch::Sender::new(translation.empty_vault()),
            revisions: watch::Sender::new(Arc::new(Revisions::new(&settings.revision))),
            translation,
            mesh_map: settings.mesh_file.is_none().then(|| MeshMap::new(mesh::config_map(&settings))),
            settings,
            blocked: watch::Sender::new(None),
            missing: Kind::ALL.iter().copied().collect(),
            auto_allocation: watch::Sender::new(Entries::new()),
            views: watch::Sender::new(Arc::new(Views::new(0, Layer::default(), Layer::default()))),
            synced: watch::Sender::new(false),
            mesh: watch::Sender::new(Arc::default()),
            namespaces: watch::Sender::new(Arc::default()),
            wanted_keys: watch::Sender::new(Arc::default()),
            wanted_objects: watch::Sender::new(Arc::default()),
            pods: Arc::new(PodDirectory::new(node_proxies)),
            stats: Arc::default(),
            counts: Arc::default(),
            said: Vec::new(),
            rejections: watch::Sender::new(Statuses::new()),
            rejected: BTreeMap::new(),
            cost: Cost::new(),
            heard: None,
        }
    }

    fn published(&self) -> Published {
        Published {
            views: self.views.subscribe(),
            synced: self.synced.subscribe(),
            mesh: self.mesh.subscribe(),
            namespaces: self.namespaces.subscribe(),
            revisions: self.revisions.subscribe(),
            statuses: self.book.subscribe(),
            complete: self.complete.subscribe(),
            gateways: self.book.gateways(),
            auto_allocation: self.auto_allocation.subscribe(),
            rejections: self.rejections.subscribe(),
            wanted_keys: self.wanted_keys.subscribe(),
            vault: self.vault.subscribe(),
            wanted_objects: self.wanted_objects.subscribe(),
            pods: self.pods.clone(),
            stats: self.stats.clone(),
            counts: self.counts.clone(),
            blocked: self.blocked.subscribe(),
        }
    }

    async fn run(
        mut self,
        pace: Pace,
        mut events: Receiver,
        Heard { mut wanted, verdicts: mut hearing, mut keys, asked: mut needs, mut access, mut speaks }: Heard,
        mut asked: tokio::sync::mpsc::Receiver<Question>,
    ) {
        let mut committed: Option<Instant> = None;
        let mut clock = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                // A proxy that has come waits for its configuration.
                Ok(()) = wanted.changed() => {
                    let scopes = wanted.borrow_and_update().clone();
                    self.translation.want(scopes.into_iter().map(|(scope, _)| scope));
                    if self.is_complete() {
                        self.commit();
                    }
                }
                Ok(()) = keys.changed() => {
                    let fetched = keys.borrow_and_update().clone();
                    self.translation.know(fetched);
                    if self.is_complete() {
                        self.commit();
                    }
                }
                Ok(()) = needs.changed() => {
                    let places = needs.borrow_and_update().clone().into_iter();
                    self.translation.ask(places.filter_map(|(want, _)| match want {
                        Want::Place(place) => Some(place),
                        Want::Account(_) => None,
                    }));
                    if self.is_complete() {
                        self.commit();
                    }
                }
                Ok(()) = access.changed() => {
                    let access = access.borrow_and_update().clone();
                    self.publish_vault(Some(Accounts::Asked(access)));
                }
                Ok(()) = speaks.changed() => {
                    self.speaks = *speaks.borrow_and_update() > 0;
                    self.translation.speak_for_all(self.speaks);
                    if self.is_complete() {
                        self.commit();
                    }
                }
                _ = clock.tick() => {
                    if self.is_complete() && self.translation.tick(Timestamp::now()) {
                        self.commit();
                    }
                }
                event = events.recv() => {
                    let Some(event) = event else { return };
                    self.take(event);
                    self.gather(pace, committed, &mut events).await;
                    if self.is_complete() {
                        self.commit();
                        committed = Some(Instant::now());
                    }
                }
                verdict = hearing.next() => {
                    if self.translation.judge(&verdict) {
                        self.commit();
                    }
                    self.publish_rejections();
                    hearing.set_open(self.translation.rejections().open());
                }
                Some(question) = asked.recv() => self.answer(question),
            }
        }
    }

    /// Takes what else has come, and what still comes within the window.
    async fn gather(&mut self, pace: Pace, committed: Option<Instant>, events: &mut Receiver) {
        let started = Instant::now();
        loop {
            while let Ok(event) = events.try_recv() {
                self.take(event);
            }
            let wait = match pace {
                // The first commit is for whoever waits to become ready.
                _ if committed.is_none() => return,
                Pace::Window(window) => {
                    committed.map_or(Duration::ZERO, |at| self.cost.apart(window).saturating_sub(at.elapsed()))
                }
                Pace::Debounce { quiet, most } => quiet.min(most.saturating_sub(started.elapsed())),
            };
            if wait.is_zero() {
                return;
            }
            match tokio::time::timeout(wait, events.recv()).await {
                Ok(Some(event)) => self.take(event),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn take(&mut self, event: Event) {
        if spans::on() {
            self.heard.get_or_insert_with(|| (SystemTime::now(), 0)).1 += match &event {
                Event::Changes(changes) => changes.len(),
                Event::Synced(_) => 0,
                Event::Sought(places) => places.len(),
            };
        }
        match event {
            Event::Changes(changes) => {
                for change in changes {
                    if let Some(mesh_map) = &mut self.mesh_map {
                        mesh_map.note(&change);
                    }
                    self.translation.apply(change);
                }
            }
            Event::Synced(kinds) => {
                for kind in kinds {
                    self.missing.remove(&kind);
                }
            }
            Event::Sought(places) => {
                places.into_iter().for_each(|(place, sought)| self.translation.seek(place, sought));
            }
        }
    }

    /// Whether there is enough to publish something: every kind has synced, and
    /// the mesh's configuration can be read, or there is none. Who goes on without
    /// it tells proxies another trust domain than their certificates have.
    fn is_complete(&self) -> bool {
        if !self.missing.is_empty() {
            return false;
        }
        let reason = self.mesh_map.as_ref().and_then(MeshMap::unreadable);
        self.blocked.send_if_modified(|known| {
            let modified = known.as_deref() != reason.as_deref();
            if modified {
                if let Some(reason) = &reason {
                    tracing::error!(reason, "nothing is served before the mesh's configuration can be read");
                }
                *known = reason.as_deref().map(Into::into);
            }
            modified
        });
        reason.is_none()
    }

    fn commit(&mut self) {
        self.cost.begin();
        let begun = spans::on().then(SystemTime::now);
        let changed = self.translation.commit();
        let committed = begun.map(|begun| (begun, SystemTime::now(), self.heard.take()));
        let before = self.stats.swap(Arc::new(self.translation.graph.stats()));
        let first = !*self.synced.borrow();
        if changed || first {
            self.publish(committed, &before, first);
        }
        // Whoever waits for this finds what was said before.
        self.complete.send_if_modified(|complete| std::mem::replace(complete, self.speaks) != self.speaks);
    }

    /// Publishes what came of a commit.
    fn publish(&mut self, committed: Option<Committed>, before: &[Stats], first: bool) {
        let tally = self.count();
        self.publish_facts();
        // Before what refers to it.
        let secrets = self.publish_vault(None);
        self.report();
        let views = self.translation.published();
        if let Some((begun, committed, heard)) = committed {
            // Before anybody can be told of it.
            let (heard, events) = heard.unwrap_or((begun, 0));
            let (revision, rows) = (views.as_ref().map(|views| views.revision), self.recomputed(before));
            spans::changed(spans::Change { heard, events, begun, committed, revision, rows });
        }
        if secrets || views.is_some() {
            tally.pushed(&self.counts);
        }
        if let Some(views) = views {
            self.views.send_replace(views);
        }
        self.mesh_map = None;
        if first {
            self.synced.send_replace(true);
        }
        self.publish_rejections();
        self.translation.graph.settle();
    }

    /// Counts what the commit changed.
    fn count(&self) -> Tally {
        let Translation { graph, inputs, .. } = &self.translation;
        let mut tally = Tally::default();
        inputs.changed(graph, |kind, events| tally.add(&self.counts, kind, events));
        tally.proxies(self.translation.scopes_changed() as u64);
        tally
    }

    /// The collections of which rows have been worked out, and how many.
    fn recomputed(&self, before: &[Stats]) -> Vec<(&'static str, u64)> {
        // Collections are never removed, and stay in their order.
        let before = before.iter().map(|one| one.recomputed).chain(std::iter::repeat(0));
        let since = self
            .stats
            .load()
            .iter()
            .zip(before)
            .map(|(one, before)| (one.name, one.recomputed - before))
            .collect::<Vec<_>>();
        since.into_iter().filter(|(_, rows)| *rows > 0).collect()
    }

    /// Publishes what is not for proxies.
    fn publish_facts(&self) {
        self.pods.update(&self.translation.graph, self.translation.inputs);
        let map = self.translation.graph.get(self.translation.inputs.config_maps, &mesh::config_map(&self.settings));
        self.publish_wanted_keys();
        self.publish_revisions();
        self.publish_auto_allocation();
        let given = self.settings.mesh_file.clone();
        let mesh = given.or_else(|| map?.data.mesh.clone()).unwrap_or_default();
        self.mesh.send_if_modified(|current| {
            let modified = **current != *mesh;
            *current = mesh.clone();
            modified
        });
        if !self.translation.graph.changes(self.translation.inputs.namespaces).is_empty()
            || !mesh.discovery_selectors.is_empty()
        {
            let selectors = &mesh.discovery_selectors;
            let rows = self.translation.graph.rows(self.translation.inputs.namespaces).filter(|(_, namespace)| {
                selectors.is_empty() || selectors.iter().any(|selector| selector.matches(&namespace.meta.labels))
            });
            // A namespace that is going away does not take new objects.
            let live = rows.filter(|(_, namespace)| !namespace.meta.deleting);
            let names: BTreeSet<String> = live.map(|(key, _)| key.name.to_string()).collect();
            self.namespaces.send_if_modified(|current| {
                let modified = **current != names;
                *current = Arc::new(names);
                modified
            });
        }
    }

    /// Publishes which objects are this revision's.
    fn publish_revisions(&self) {
        let Translation { graph, inputs, tags, .. } = &self.translation;
        if Revisions::changed(graph, *inputs, *tags) {
            self.revisions.send_if_modified(|known| {
                let new = known.with(graph, *inputs, *tags);
                let modified = **known != new;
                *known = Arc::new(new);
                modified
            });
        }
    }

    /// Publishes which ServiceEntries want addresses, and have some.
    fn publish_auto_allocation(&self) {
        let Translation { graph, auto_allocation, .. } = &self.translation;
        let changes = graph.changes(*auto_allocation);
        if !changes.is_empty() {
            self.auto_allocation.send_modify(|entries| {
                for change in changes {
                    match &change.new {
                        Some(entry) => _ = entries.insert(change.key.clone(), entry.clone()),
                        None => _ = entries.remove(&change.key),
                    }
                }
            });
        }
    }

    /// Publishes certificates and keys, and where more are to be looked for.
    /// Returns whether they are others than before.
    fn publish_vault(&mut self, accounts: Option<Accounts>) -> bool {
        let vault = self.translation.vault(accounts);
        let changed = vault.is_some();
        if let Some(vault) = vault {
            self.vault.send_replace(vault);
        }
        let Translation { graph, credentials, .. } = &self.translation;
        if !graph.changes(credentials.needed).is_empty() {
            let wanted: BTreeSet<Place> = graph.rows(credentials.needed).map(|(place, _)| place.clone()).collect();
            self.wanted_objects.send_if_modified(|current| {
                let modified = **current != wanted;
                *current = Arc::new(wanted);
                modified
            });
        }
        changed
    }

    fn publish_wanted_keys(&self) {
        let Translation { graph, key_sets, .. } = &self.translation;
        if graph.changes(key_sets.wanted).is_empty() {
            return;
        }
        let mut wanted = WantedKeys::new();
        for one in graph.rows(key_sets.wanted).flat_map(|(_, wanted)| wanted.iter()) {
            let timeout = wanted.entry(one.source.clone()).or_default();
            *timeout = one.timeout.max(*timeout);
        }
        self.wanted_keys.send_if_modified(|current| {
            let modified = **current != wanted;
            *current = Arc::new(wanted);
            modified
        });
    }

    /// Logs what is newly said about objects, and has it told to them.
    fn report(&mut self) {
        let graph = &self.translation.graph;
        let before = match graph.diagnostics_changed() {
            true => Some(std::mem::replace(&mut self.said, graph.diagnostics())),
            false => None,
        };
        let before = before.as_ref().unwrap_or(&self.said);
        for one in self.said.iter().filter(|one| before.binary_search(one).is_err()) {
            tracing::warn!(
                object = %one.subject, field = one.field, reason = one.reason, message = one.message, "object has a problem"
            );
        }
        self.book.update(graph, before, &self.said);
    }

    /// Has what proxies rejected told to the objects it came from.
    fn publish_rejections(&mut self) {
        match self.translation.rejections().news() {
            Some(news) => self.rejected = news,
            None if self.rejected.is_empty() => return,
            // An object may have changed without a change of what is made of it.
            None => {}
        }
        let graph = &self.translation.graph;
        let status = |(object, message): (&Object, &String)| {
            let status = status::rejected(object.0, self.book.facts(graph, object), message)?;
            Some((object.clone(), Arc::new(status)))
        };
        let statuses: Statuses = self.rejected.iter().filter_map(status).collect();
        self.rejections.send_if_modified(|known| {
            let modified = *known != statuses;
            *known = statuses;
            modified
        });
    }
}

#[cfg(test)]
mod tests;
