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
use crate::credential::{Place, Store, is_name};
use crate::source::{Event, Problem, Problems, Receiver, Sender, channel};

/// What is wanted.
pub type Wanted = BTreeSet<Place>;

/// How many objects are fetched at a time.
const AT_ONCE: usize = 16;
/// How often objects are fetched again of whose changes we are not told.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// One object that is wanted.
struct Sought {
    /// Tells it from what was wanted by the same name before: an answer to that
    /// may come late.
    number: u64,
    /// When it is to be fetched; `None` while there is no reason to.
    due: Option<Instant>,
    /// Whether it is being fetched.
    fetching: bool,
    /// Whether it has changed since.
    again: bool,
    /// The newest version that was told of since.
    told: u64,
    /// Whether it was told of at all, so that its end will be.
    known: bool,
    /// Whether it is being fetched although it was not there when all were
    /// listed.
    unlisted: bool,
    /// Whether it has been said what is there.
    said: bool,
    /// The newest version that was said.
    version: u64,
    backoff: Backoff,
}

impl Sought {
    fn new(number: u64) -> Self {
        Self {
            number,
            due: Some(Instant::now()),
            fetching: false,
            again: false,
            told: 0,
            known: false,
            unlisted: false,
            said: false,
            version: 0,
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(60)),
        }
    }

    /// It is there in a version, or in one that is not known.
    fn put(&mut self, version: u64) {
        self.known = true;
        match self.fetching {
            _ if version == 0 => self.changed(),
            true => self.told = self.told.max(version),
            false if version > self.version => self.changed(),
            false => {}
        }
    }

    /// All that is there has been told of. What was fetched before and is gone
    /// since is not: nobody tells of its end.
    fn listed(&mut self) {
        match self.fetching {
            _ if self.known => {}
            true => self.unlisted = true,
            false if self.version != 0 => self.changed(),
            false => {}
        }
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
        wanted_so_far: 0,
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
    fetches: JoinSet<(Place, u64, Result<Option<Object>, Failure>)>,
    /// How many places have been wanted, for their numbers.
    wanted_so_far: u64,
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
                Some(Ok((place, number, result))) = self.fetches.join_next() => {
                    self.fetched(place, number, result).await;
                }
                _ = look_again.tick() => {
                    let blind: BTreeSet<_> = self.watching.keys().copied().filter(|store| self.is_blind(*store)).collect();
                    let here = |place: &Place| blind.contains(&place.store) && is_looked_at(&self.options, place);
                    let unseen = self.sought.iter_mut().filter(|(place, one)| one.said && here(place));
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
            self.wanted_so_far += 1;
            let number = self.wanted_so_far;
            // The namespace of the control plane is read as a whole.
            if !self.fetches_of(place) {
                self.sought.insert(place.clone(), Sought { due: None, said: true, ..Sought::new(number) });
                self.say(Vec::new(), place.clone(), true).await;
                continue;
            }
            self.sought.insert(place.clone(), Sought::new(number));
            self.watch(place.store);
        }
        let needed: BTreeSet<_> =
            self.sought.keys().filter(|place| self.fetches_of(place)).map(|place| place.store).collect();
        self.watching.retain(|store, _| needed.contains(store));
    }

    /// Whether a place is looked at here.
    fn fetches_of(&self, place: &Place) -> bool {
        is_looked_at(&self.options, place)
    }

    /// Whether nobody tells of changes of a kind now.
    fn is_blind(&self, store: Store) -> bool {
        let listed = self.watching.get(&store).is_some_and(|watching| watching.listed);
        !listed || self.problems.has(&Reflector::problem(&Selection::metadata_of(kind(store))))
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
                            one.into_iter().for_each(|one| one.put(newest));
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
                let here = |place: &Place| kinds.contains(&kind(place.store)) && is_looked_at(&self.options, place);
                self.sought.iter_mut().filter(|(place, _)| here(place)).for_each(|(_, one)| one.listed());
            }
            Event::Sought(_) => {}
        }
    }

    /// Fetches what is due, what has been for the longest time first: whoever
    /// wants much has everybody else's wait no longer than it takes.
    fn fetch(&mut self) {
        let now = Instant::now();
        let room = AT_ONCE.saturating_sub(self.fetches.len());
        if room == 0 {
            return;
        }
        let due = self.sought.iter().filter(|(_, one)| !one.fetching);
        let mut due: Vec<_> =
            due.filter_map(|(place, one)| Some((one.due.filter(|due| *due <= now)?, one.number, place))).collect();
        if due.len() > room {
            due.select_nth_unstable(room - 1);
            due.truncate(room);
        }
        due.sort_unstable();
        let due: Vec<_> = due.into_iter().map(|(_, _, place)| place.clone()).collect();
        for place in due {
            let Some(one) = self.sought.get_mut(&place) else { continue };
            (one.due, one.fetching, one.again, one.told, one.unlisted) = (None, true, false, 0, false);
            let (client, number) = (self.server.client.clone(), one.number);
            self.fetches.spawn(async move {
                let selection = Selection::named(kind(place.store), &place.namespace, &place.name);
                let fetched = Served::object(&client, &selection).await;
                (place, number, fetched)
            });
        }
    }

    async fn fetched(&mut self, place: Place, number: u64, result: Result<Option<Object>, Failure>) {
        // It may not be wanted any more, or be wanted again and asked for anew.
        let Some(one) = self.sought.get_mut(&place).filter(|one| one.number == number) else { return };
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
        let news = one.told > one.version || (one.unlisted && one.version != 0);
        if std::mem::take(&mut one.again) || news {
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

/// Whether a place is looked at here, and not by whoever reads its kind. What is
/// no name is that of nothing, and never becomes part of a path.
fn is_looked_at(options: &Options, place: &Place) -> bool {
    let elsewhere = kind(place.store).info().system_only && *place.namespace == *options.system_namespace;
    !elsewhere && is_name(&place.namespace) && is_name(&place.name)
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
