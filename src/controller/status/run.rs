//! The edge of the engine: a clock and requests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::api::{Kind, ObjectKey};
use crate::controller::election::run_while_leader;
use crate::controller::event::{self, Complaint};
use crate::controller::pace::Due;
use crate::controller::replicas::Judgements;
use crate::controller::resource::{self, Reference, RequestError, Resource};
use crate::controller::watch::everything;
use crate::model::revision::Revisions;
use crate::source::kube::backoff::Backoff;
use crate::status::{Condition, Conditions, PROGRAMMED, ROWS, Row, Status, Statuses};

use super::{Part, Plan, of_another_revision, plan};

/// The least time between two writes.
const PACE: Duration = Duration::from_millis(10);
/// How many objects are written at a time.
const WRITES: usize = 4;
/// How long changes are collected: a burst of them, such as a waypoint with all
/// that use it, is one step.
const TOGETHER: Duration = Duration::from_millis(100);
/// How often what only this replica knows is looked at again.
const AGAIN: Duration = Duration::from_secs(60);
/// How many requests one object may need at a time.
const STEPS: usize = 4;

type Object = (Kind, ObjectKey);

/// How long a leader waits until it can speak for all. What it says then is mended
/// when it can.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is said of objects is complete where somebody speaks for all.
#[derive(Clone)]
pub struct Completeness {
    /// How many of its leaders want this replica to.
    pub wanted: watch::Sender<usize>,
    /// Whether it can.
    pub reached: watch::Receiver<bool>,
}

/// This replica speaks for all until this is dropped.
struct Speaker(watch::Sender<usize>);

impl Drop for Speaker {
    fn drop(&mut self) {
        self.0.send_modify(|wanted| *wanted -= 1);
    }
}

impl Completeness {
    /// Begins to speak for all.
    async fn begin(&mut self) -> Speaker {
        let speaker = Speaker(self.wanted.clone());
        self.wanted.send_modify(|wanted| *wanted += 1);
        if tokio::time::timeout(PATIENCE, self.reached.wait_for(|reached| *reached)).await.is_err() {
            tracing::warn!("what is wrong with objects is not known for all proxies yet");
        }
        speaker
    }
}

/// One instance of the engine.
#[derive(Clone)]
pub struct StatusController {
    /// The API server.
    pub client: kube::Client,
    /// What it writes.
    pub part: Part,
    /// The namespace of the control plane, where the Lease is.
    pub system_namespace: Arc<str>,
    /// The name of this replica.
    pub identity: Arc<str>,
    /// Which objects are this revision's to speak about.
    pub revisions: watch::Receiver<Arc<Revisions>>,
    /// What is to be said.
    pub statuses: watch::Receiver<Statuses>,
    /// What makes that complete, if it is the same for all replicas.
    pub completeness: Option<Completeness>,
    /// What proxies of other replicas say.
    pub others: watch::Receiver<Arc<Judgements>>,
}

impl StatusController {
    /// Writes until cancelled; with a lock, whenever this replica leads.
    pub async fn run(self, cancel: CancellationToken) {
        let Some(lock) = self.part.lock else {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = Box::pin(Leader::new(self).run()) => {}
            }
            return;
        };
        let (client, identity) = (self.client.clone(), self.identity.clone());
        let namespace = self.system_namespace.clone();
        let lock = lock(self.revisions.clone());
        let work = |client| Box::pin(Leader::new(Self { client, ..self.clone() }).run());
        run_while_leader(client, &namespace, lock, &identity, cancel, work).await;
    }
}

struct Leader {
    controller: StatusController,
    /// What was to be said when it was last compared.
    known: Statuses,
    due: Due<Object>,
    /// They end with the leadership, as the set does.
    writes: JoinSet<(Object, bool)>,
    writing: BTreeSet<Object>,
    last: Instant,
}

impl Leader {
    fn new(controller: StatusController) -> Self {
        Self {
            controller,
            known: Statuses::new(),
            due: Due::new(Duration::from_millis(500), Duration::from_secs(30)),
            writes: JoinSet::new(),
            writing: BTreeSet::new(),
            last: Instant::now(),
        }
    }

    async fn run(mut self) {
        let _speaker = match &mut self.controller.completeness {
            Some(completeness) => Some(completeness.begin().await),
            None => None,
        };
        self.known = self.controller.statuses.borrow_and_update().clone();
        self.controller.revisions.mark_unchanged();
        self.all_are_due();
        if self.controller.part.lock.is_some() {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
            while let Err(error) = self.look_at_everything().await {
                tracing::warn!(%error, "cannot list what has a status");
                sleep(backoff.delay()).await;
            }
        }
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = match self.writing.len() < WRITES {
                true => self.due.next(self.last + PACE, |object| self.writing.contains(object)),
                false => None,
            };
            let due = async {
                match &next {
                    Some((at, _)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {
                    if let Some((_, object)) = next {
                        self.begin(object);
                    }
                }
                Some(done) = self.writes.join_next() => match done {
                    Ok((object, done)) => {
                        self.writing.remove(&object);
                        if !done {
                            self.due.attempted(object.clone());
                            self.due.insert(object);
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "the write of a status panicked");
                        return;
                    }
                },
                changed = self.controller.statuses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    sleep(TOGETHER).await;
                    self.compare();
                }
                // A tag was moved, or a namespace labelled.
                Ok(()) = self.controller.revisions.changed() => self.all_are_due(),
                _ = again.tick() => {
                    self.due.forget_calm();
                    if self.controller.part.lock.is_none() {
                        self.all_are_due();
                    }
                }
            }
        }
    }

    fn all_are_due(&mut self) {
        let part = self.controller.part;
        self.due.extend(self.known.keys().filter(|(kind, _)| part.writes(*kind)).cloned());
    }

    /// Finds what has changed.
    fn compare(&mut self) {
        let new = self.controller.statuses.borrow_and_update().clone();
        for change in self.known.diff(&new) {
            let object = match change {
                DiffItem::Add(object, _) | DiffItem::Remove(object, _) => object,
                DiffItem::Update { new: (object, _), .. } => object,
            };
            if self.controller.part.writes(object.0) {
                self.due.insert(object.clone());
            }
        }
        self.known = new;
    }

    /// Finds, among all objects, those that are not as they should be.
    async fn look_at_everything(&mut self) -> Result<(), RequestError> {
        for row in ROWS.iter().filter(|row| self.controller.part.forms.contains(&row.form)) {
            let Some(resource) = Resource::of(row.kind) else { continue };
            let objects = match everything(&self.controller.client, &resource.path(""), "").await {
                Ok((objects, _)) => objects,
                // Not installed, so there are none.
                Err(error) if error.code() == Some(404) => continue,
                Err(error) => return Err(error),
            };
            for live in objects {
                let Reference { namespace, name, .. } = Reference::of(resource, &live);
                let object = (row.kind, ObjectKey::new(&namespace, &name));
                if of_another_revision(&self.controller.part, &live, &self.controller.revisions.borrow()) {
                    self.due.remove(&object);
                    continue;
                }
                let status = self.known.get(&object).map(|status| &**status);
                match plan(&self.controller.part, row, &live, status, "") {
                    Plan::Nothing => self.due.remove(&object),
                    Plan::Later | Plan::Write(_) => self.due.insert(object),
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, object: Object) {
        self.due.remove(&object);
        self.last = Instant::now();
        self.writing.insert(object.clone());
        let status = self.known.get(&object).cloned();
        let controller = self.controller.clone();
        self.writes.spawn(async move {
            let done = write(&controller, &object, status.as_deref()).await;
            (object, done)
        });
    }
}

/// Brings one object up to date. Returns whether it is, or is gone.
async fn write(controller: &StatusController, (kind, key): &Object, status: Option<&Status>) -> bool {
    let (Some(row), Some(resource)) = (Row::of(*kind), Resource::of(*kind)) else { return true };
    let object = Reference::new(resource, &*key.namespace, &*key.name);
    let StatusController { client, part, others, .. } = controller;
    // Another replica's proxies say it, too, as far as is known. Each would name its
    // own: what one of them has written stays, and the last one takes it away.
    let shared = part.lock.is_none() && others.borrow().rejected.contains(&(*kind, key.clone()));
    if shared && status.is_none() {
        return false;
    }
    let part = &Part { any_words: shared, ..*part };
    let now = format!("{:.0}", Timestamp::now());
    let steps = async {
        let Some(mut live) = resource::get(client, &object).await? else { return Ok(true) };
        if of_another_revision(part, &live, &controller.revisions.borrow()) {
            return Ok(true);
        }
        for _ in 0..STEPS {
            match plan(part, row, &live, status, &now) {
                Plan::Nothing => return Ok(true),
                Plan::Later => return Ok(false),
                Plan::Write(write) => {
                    live = resource::write(client, &write, part.manager).await?;
                    complain(controller, &object, &live, status).await;
                }
            }
        }
        Ok(false)
    };
    let result: Result<bool, RequestError> = steps.await;
    match result {
        Ok(done) => done,
        Err(error) if error.code() == Some(404) => true,
        // Somebody else wrote in between.
        Err(error) if matches!(error.code(), Some(409 | 422)) => {
            tracing::debug!(%object, %error, "its status has changed meanwhile");
            false
        }
        Err(error) => {
            let error = error.to_string();
            tracing::warn!(%object, error, "its status cannot be written");
            false
        }
    }
}

/// Has an Event say what a proxy rejected, or what is wrong with a gateway at the
/// edge, when its condition has been written: a certificate that has expired or
/// is not its key's is found out by clients, and whoever owns it looks at the
/// Gateway.
async fn complain(
    controller: &StatusController,
    object: &Reference,
    live: &serde_json::Value,
    status: Option<&Status>,
) {
    let conditions = match status.map(|status| &status.conditions) {
        Some(Conditions::OfObject(conditions)) => conditions.iter().collect::<Vec<_>>(),
        Some(Conditions::OfParents(parents)) => parents.iter().flat_map(|(_, conditions)| conditions).collect(),
        Some(Conditions::OfAncestors(ancestors)) => ancestors.iter().flat_map(|one| &one.conditions).collect(),
        Some(Conditions::Addresses(_)) | None => Vec::new(),
    };
    let of_gateway = |one: &Condition| {
        object.resource == Resource::IstioGateway && one.kind == "Accepted" && one.reason != "Accepted"
    };
    let told = conditions.into_iter().find(|one| one.kind == PROGRAMMED || of_gateway(one));
    let Some(told) = told else { return };
    let complaint = Complaint { object, live, reason: told.reason, message: &told.message };
    event::write(&controller.client, &complaint, &controller.identity).await;
}
