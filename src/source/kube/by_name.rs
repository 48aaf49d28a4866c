//! Objects that are read only if something refers to them: Secrets, and the
//! ConfigMaps that certificates of authorities are in.
//!
//! Of a kind of which anything is wanted, the *metadata* of all objects is
//! watched, and what is in an object is fetched when that one is wanted and has
//! changed. So what is in a Secret that nothing refers to is not asked for; a
//! mesh that refers to none has no Secret looked at in any way; and thousands of
//! credentials cost one connection. Of the metadata, annotations of others are
//! dropped while they are read: `kubectl apply` leaves a copy of the whole object
//! in one. To watch each by its name, as kubelets do, would cost a connection for
//! each: the client speaks HTTP/1.1. To watch all of them as istiod does would
//! have every key of the cluster in memory.
//!
//! Whoever may not watch is told of changes by looking again, now and then.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::backoff::Backoff;
use super::failure::Failure;
use super::reflector::Reflector;
use super::requests::{NOT_READ, Place as Served, Selection};
use super::{Options, Server};
use crate::api::{Change, Kind, Object, ObjectKey};
use crate::credential::{Place, Store};
use crate::source::{Event, Problem, Problems, Receiver, Sender, channel};

/// What is wanted.
pub type Wanted = BTreeSet<Place>;

/// How many objects are fetched at a time.
const AT_ONCE: usize = 16;
/// How often objects are fetched again of whose changes we are not told.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// One object that is wanted.
struct Sought {
    /// When it is to be fetched; `None` while there is no reason to.
    due: Option<Instant>,
    /// Whether it is being fetched.
    fetching: bool,
    /// Whether it has changed since.
    again: bool,
    /// Whether it has been said what is there.
    said: bool,
    /// The newest version that was said.
    version: u64,
    backoff: Backoff,
}

impl Sought {
    fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(60));
        Self { due: Some(Instant::now()), fetching: false, again: false, said: false, version: 0, backoff }
    }

    fn changed(&mut self) {
        match self.fetching {
            true => self.again = true,
            false => self.due = Some(Instant::now()),
        }
    }
}

/// What tells of changes of a kind.
struct Watching {
    /// Whether all objects have been told of once.
    listed: bool,
    _reflector: AbortOnDropHandle<()>,
}

/// Follows what is wanted until the receiver is gone.
pub async fn run(
    server: Server,
    options: Options,
    mut wanted: watch::Receiver<Arc<Wanted>>,
    sender: Sender,
    problems: Problems,
) {
    // The kind is synced as far as anybody who waits for all kinds is
    // concerned: nothing is wanted yet.
    let kinds = Kind::ALL.iter().copied().filter(|kind| kind.info().by_name).collect();
    if sender.send(Event::Synced(kinds)).await.is_err() {
        return;
    }
    let (changes, changed) = channel();
    let mut seeker = Seeker {
        server,
        options,
        sender,
        problems,
        sought: BTreeMap::new(),
        watching: BTreeMap::new(),
        fetches: JoinSet::new(),
        changes,
    };
    let sender = seeker.sender.clone();
    tokio::select! {
        () = sender.closed() => {}
        () = seeker.follow(&mut wanted, changed) => {}
    }
}

struct Seeker {
    server: Server,
    options: Options,
    sender: Sender,
    problems: Problems,
    sought: BTreeMap<Place, Sought>,
    watching: BTreeMap<Store, Watching>,
    fetches: JoinSet<(Place, Result<Option<Object>, Failure>)>,
    /// Where reflectors tell of changes.
    changes: Sender,
}

impl Seeker {
    async fn follow(&mut self, wanted: &mut watch::Receiver<Arc<Wanted>>, mut changed: Receiver) {
        let mut look_again = tokio::time::interval(LOOK_AGAIN);
        let first = wanted.borrow_and_update().clone();
        self.want(&first).await;
        loop {
            self.fetch();
            let busy = self.fetches.len() >= AT_ONCE;
            let due = self.sought.values().filter_map(|one| one.due).min().filter(|_| !busy);
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = wanted.borrow_and_update().clone();
                    self.want(&wanted).await;
                }
                Some(event) = changed.recv() => self.heard(event).await,
                Some(Ok((place, result))) = self.fetches.join_next() => self.fetched(place, result).await,
                _ = look_again.tick() => {
                    let blind = |place: &Place, watching: &BTreeMap<Store, Watching>| {
                        watching.get(&place.store).is_some_and(|watching| !watching.listed)
                    };
                    let unseen = self.sought.iter_mut().filter(|(place, one)| one.said && blind(place, &self.watching));
                    unseen.for_each(|(_, one)| one.changed());
                }
                () = at(due) => {}
            }
        }
    }

    /// Takes notice of what is wanted now.
    async fn want(&mut self, wanted: &Wanted) {
        let gone: Vec<_> = self.sought.keys().filter(|place| !wanted.contains(*place)).cloned().collect();
        for place in gone {
            self.sought.remove(&place);
            self.problems.close(&problem_key(&place));
            if self.fetches_of(&place) {
                self.say(vec![Change::Delete(kind(place.store), key(&place))], place, false).await;
            }
        }
        for place in wanted {
            if self.sought.contains_key(place) {
                continue;
            }
            if !self.fetches_of(place) {
                // The namespace of the control plane is read as a whole.
                self.sought.insert(place.clone(), Sought { due: None, said: true, ..Sought::new() });
                self.say(Vec::new(), place.clone(), true).await;
                continue;
            }
            self.sought.insert(place.clone(), Sought::new());
            self.watch(place.store);
        }
        let needed: BTreeSet<_> =
            self.sought.keys().filter(|place| self.fetches_of(place)).map(|place| place.store).collect();
        self.watching.retain(|store, _| needed.contains(store));
    }

    /// Whether a place is looked at here, and not by whoever reads its kind.
    fn fetches_of(&self, place: &Place) -> bool {
        !(kind(place.store).info().system_only && *place.namespace == *self.options.system_namespace)
    }

    /// What is known of an object, if it is wanted and looked at here.
    fn fetched_of(&mut self, kind: Kind, key: &ObjectKey) -> Option<&mut Sought> {
        let place = place(kind, key).filter(|place| self.fetches_of(place))?;
        self.sought.get_mut(&place)
    }

    /// Has changes of a kind told, unless they are.
    fn watch(&mut self, store: Store) {
        let (server, changes, problems) = (&self.server, &self.changes, &self.problems);
        self.watching.entry(store).or_insert_with(|| {
            let selection = Selection::metadata_of(kind(store));
            let reflector = Reflector::new(server.clone(), selection, changes.clone(), problems.clone());
            Watching { listed: false, _reflector: AbortOnDropHandle::new(tokio::spawn(reflector.run())) }
        });
    }

    /// Somebody has changed something.
    async fn heard(&mut self, event: Event) {
        match event {
            Event::Changes(changes) => {
                for change in changes {
                    match change {
                        Change::Put(object) => {
                            let newest = object.meta().resource_version.0;
                            let one = self.fetched_of(object.kind(), &object.meta().key());
                            let news = one.filter(|one| newest == 0 || newest > one.version);
                            news.into_iter().for_each(Sought::changed);
                        }
                        Change::Delete(kind, key) => {
                            self.fetched_of(kind, &key).into_iter().for_each(Sought::changed);
                        }
                        Change::Reset(..) | Change::Unreadable(..) => {}
                    }
                }
            }
            Event::Synced(kinds) => {
                for (store, watching) in &mut self.watching {
                    watching.listed |= kinds.contains(&kind(*store));
                }
            }
            Event::Sought(_) => {}
        }
    }

    /// Fetches what is due.
    fn fetch(&mut self) {
        let now = Instant::now();
        let room = AT_ONCE.saturating_sub(self.fetches.len());
        let due = self.sought.iter_mut().filter(|(_, one)| !one.fetching && one.due.is_some_and(|due| due <= now));
        for (place, one) in due.take(room) {
            (one.due, one.fetching, one.again) = (None, true, false);
            let (client, place) = (self.server.client.clone(), place.clone());
            self.fetches.spawn(async move {
                let selection = Selection::named(kind(place.store), &place.namespace, &place.name);
                let fetched = Served::object(&client, &selection).await;
                (place, fetched)
            });
        }
    }

    async fn fetched(&mut self, place: Place, result: Result<Option<Object>, Failure>) {
        // It may not be wanted any more.
        let Some(one) = self.sought.get_mut(&place) else { return };
        one.fetching = false;
        let object = match result {
            // Those are as good as not there: nothing tells of their changes.
            Ok(Some(Object::Secret(secret))) if NOT_READ.contains(&&*secret.kind) => None,
            Ok(object) => object,
            Err(failure) => {
                // What was there before stays.
                let delay = one.backoff.delay().max(failure.retry_after());
                one.due = Some(Instant::now() + delay);
                let problem = Problem { place: place.to_string(), field: String::new(), reason: explain(&failure) };
                self.problems.open(problem_key(&place), problem);
                return;
            }
        };
        one.backoff.reset();
        one.said = true;
        one.version = object.as_ref().map_or(0, |object| object.meta().resource_version.0);
        if std::mem::take(&mut one.again) {
            one.due = Some(Instant::now());
        }
        self.problems.close(&problem_key(&place));
        let change = match object {
            Some(object) => Change::Put(object),
            None => Change::Delete(kind(place.store), key(&place)),
        };
        self.say(vec![change], place, true).await;
    }

    /// Says what there is, and that it has been looked for or is no longer.
    async fn say(&self, changes: Vec<Change>, place: Place, sought: bool) {
        // Without a receiver, `run` ends.
        if !changes.is_empty() {
            let _ = self.sender.send(Event::Changes(changes)).await;
        }
        let _ = self.sender.send(Event::Sought(vec![(place, sought)])).await;
    }
}

fn kind(store: Store) -> Kind {
    match store {
        Store::Secret => Kind::Secret,
        Store::ConfigMap => Kind::ConfigMap,
    }
}

fn key(place: &Place) -> ObjectKey {
    ObjectKey { namespace: place.namespace.clone(), name: place.name.clone() }
}

fn place(kind: Kind, key: &ObjectKey) -> Option<Place> {
    let ObjectKey { namespace, name } = key.clone();
    match kind {
        Kind::Secret => Some(Place::secret(namespace, name)),
        Kind::ConfigMap => Some(Place::config_map(namespace, name)),
        _ => None,
    }
}

fn problem_key(place: &Place) -> String {
    format!("kube:named:{place}")
}

fn explain(failure: &Failure) -> String {
    match failure {
        Failure::Refused { code: 403, message, .. } => format!("not permitted; grant us the verb get on it: {message}"),
        _ => failure.to_string(),
    }
}

/// Until a time; for ever if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
