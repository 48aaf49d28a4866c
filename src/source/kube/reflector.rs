//! Keeps the graph's idea of one kind equal to the API server's: finds where
//! the kind is served, lists it, and watches from there on.
//!
//! A list becomes the difference to what was said before, so it is the same
//! whether it is the first or follows a gap, and an object that cannot be read
//! is simply not part of the difference.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::api::kinds::DecodeError;
use crate::api::{Change, Kind, Meta, Object, ObjectKey};
use crate::source::{Event, Problem, Problems, Sender};

use super::Server;
use super::backoff::Backoff;
use super::failure::Failure;
use super::known::Known;
use super::requests::{Encoded, Event as Said, Item, List, ListMeta, Page, Place, Selection, Watch};

/// A watch is taken for dead when nothing comes for so long. The API server
/// sends a bookmark every minute; one that sends none is asked for a new watch
/// this often, which costs it little.
const IDLE: Duration = Duration::from_secs(85);
/// A list is given up when nothing comes for so long.
const LIST_IDLE: Duration = Duration::from_secs(30);
/// A watch that ends sooner, without an event, has not worked.
const SHORT: Duration = Duration::from_secs(1);
/// How long an API server must stay in the past until we believe that its
/// versions begin again, because the cluster was restored or rebuilt. A member
/// that lags catches up or is replaced in less.
const PAST: Duration = Duration::from_secs(300);
/// One that was in the past for longer than a member lags may be a cluster that was
/// restored. When its versions have caught up, what they stand for is another history.
const LAG: Duration = Duration::from_secs(5);
/// How long lists must say that nearly all of a kind is gone. An API server
/// whose storage was emptied says so too, and so does one that is not the one
/// it was; what was really deleted comes as events, or stays so long.
const LOST: Duration = Duration::from_secs(300);
/// How long discovery must say that a kind is gone until its objects go. An
/// API server that starts may not have seen all definitions yet.
const GONE: Duration = Duration::from_secs(10);

/// Watches one selection of objects.
pub struct Reflector {
    server: Server,
    selection: Selection,
    sender: Sender,
    problems: Problems,
    /// The key of problems of the kind; those of objects follow a slash.
    name: String,
    definitions: watch::Receiver<()>,

    /// Where the kind is served, once found.
    place: Option<Place>,
    known: Known,
    /// Whether `known` is complete up to its newest version.
    listed: bool,
    /// Whether that version must be compared with the API server's.
    doubtful: bool,
    /// Since when the API server is in the past.
    past: Option<Instant>,
    /// Since when lists lack nearly everything.
    lost: Option<Instant>,
    /// Since when discovery says that the kind is not served.
    gone: Option<Instant>,
    synced: bool,
    /// What is to be sent next.
    changes: Vec<Change>,
    /// The objects that cannot be read, and whether the list has confirmed it.
    broken: BTreeMap<ObjectKey, bool>,
    /// Whether the list has objects of which not even the name can be read.
    nameless: bool,
    backoff: Backoff,
    absence: Backoff,
}

impl Reflector {
    /// A reflector that has not begun.
    pub fn new(server: Server, selection: Selection, sender: Sender, problems: Problems) -> Self {
        Self {
            definitions: server.definitions.subscribe(),
            known: Known::new(selection.kind),
            server,
            name: Self::problem(&selection),
            selection,
            sender,
            problems,
            place: None,
            listed: false,
            doubtful: false,
            past: None,
            lost: None,
            gone: None,
            synced: false,
            changes: Vec::new(),
            broken: BTreeMap::new(),
            nameless: false,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            absence: Backoff::new(Duration::from_millis(250), Duration::from_secs(30)),
        }
    }

    /// The key of the problem that a selection cannot be watched.
    pub fn problem(selection: &Selection) -> String {
        let plural = selection.kind.info().plural;
        match &selection.name {
            Some(name) => format!("kube:{plural}:{name}"),
            None => format!("kube:{plural}"),
        }
    }

    /// Watches until the receiver is gone.
    pub async fn run(mut self) {
        let sender = self.sender.clone();
        let work = async {
            loop {
                let turn = AssertUnwindSafe(Box::pin(self.turn())).catch_unwind().await;
                match turn {
                    Ok(Ok(())) => continue,
                    Ok(Err(failure)) => self.learn(&failure).await,
                    Err(_) => {
                        // What was known is still true; what was lost of the
                        // watch, a list finds.
                        self.listed = false;
                        self.report("the watch of this kind panicked; it begins again".into());
                        sleep(self.backoff.delay()).await;
                    }
                }
            }
        };
        tokio::select! {
            () = sender.closed() => {}
            () = work => {}
        }
    }

    /// From finding the kind to the end of one watch.
    async fn turn(&mut self) -> Result<(), Failure> {
        let Some(place) = self.find().await? else { return self.absent().await };
        if self.known.newest > 0 && (self.doubtful || !self.listed) {
            let newest = place.newest(&self.server.client, &self.selection).await?;
            self.doubt(newest)?;
        }
        if !self.listed {
            self.list(&place).await?;
        }
        let watch = place.watch(&self.server.client, &self.selection, self.known.newest).await?;
        self.problems.close(&self.name);
        self.follow(watch).await
    }

    /// Draws the conclusions of a failure, and waits.
    async fn learn(&mut self, failure: &Failure) {
        match failure {
            // Not worth a word, unless it is the list itself that expires.
            // The server answers, so what an outage made of the delay is moot.
            Failure::Expired(_) if self.listed => {
                self.listed = false;
                self.backoff.reset();
            }
            // Nor is this, unless a new connection is silent too.
            Failure::Silent(_) if self.listed && !self.doubtful => {
                self.doubtful = true;
                self.backoff.reset();
            }
            _ => {
                // A version that the API server does not know yet looks like
                // any error; what it read may be worth reading again.
                self.doubtful = true;
                self.listed &= !matches!(failure, Failure::Garbled(_));
                if matches!(failure, Failure::Refused { code: 404, .. }) {
                    self.place = None;
                }
                self.report(self.explain(failure));
            }
        }
        tracing::debug!(kind = self.selection.kind.info().plural, %failure, "watch begins again");
        sleep(self.backoff.delay().max(failure.retry_after())).await;
    }

    fn explain(&self, failure: &Failure) -> String {
        let info = self.selection.kind.info();
        let resource = [info.plural, info.group].join(".");
        let resource = resource.trim_end_matches('.');
        match failure {
            Failure::Refused { code: 403, message, .. } => {
                format!("not permitted; grant us the verbs list and watch on {resource}: {message}")
            }
            Failure::Refused { code: 401, message, .. } => {
                format!("the API server does not accept our credentials: {message}")
            }
            _ => failure.to_string(),
        }
    }

    fn report(&self, reason: String) {
        let place = self.selection.kind.info().kind.to_owned();
        self.problems.open(self.name.clone(), Problem { place, field: String::new(), reason });
    }

    /// Finds where the kind is served, unless that is known.
    async fn find(&mut self) -> Result<Option<Place>, Failure> {
        if self.place.is_none() {
            self.definitions.mark_unchanged();
            self.place = Place::find(&self.server.client, &self.selection).await?;
            self.listed &= self.place.is_none();
        }
        Ok(self.place.clone())
    }

    /// The kind is not served, which is the same as that it has no objects.
    /// Waits for a reason to look again.
    async fn absent(&mut self) -> Result<(), Failure> {
        if !self.known.is_empty() && self.gone.get_or_insert_with(Instant::now).elapsed() < GONE {
            sleep(self.backoff.delay()).await;
            return Ok(());
        }
        self.begin_list();
        self.finish_list(Vec::new(), self.known.newest).await;
        self.problems.close(&self.name);
        // Discovery follows a definition with a delay, so the first looks are
        // close to each other.
        let delay = self.absence.delay();
        let look = async {
            if self.definitions.changed().await.is_ok() {
                self.absence.reset();
                sleep(self.absence.delay()).await;
            }
        };
        let _ = timeout(delay, look).await;
        Ok(())
    }

    /// Compares the version of the API server with what we have seen of it.
    fn doubt(&mut self, newest: u64) -> Result<(), Failure> {
        let seen = self.known.newest;
        self.doubtful = newest < seen;
        if !self.doubtful {
            self.listed &= self.past.take().is_none_or(|since| since.elapsed() < LAG);
            return Ok(());
        }
        if self.past.get_or_insert_with(Instant::now).elapsed() < PAST {
            return Err(Failure::Past { newest, seen });
        }
        let kind = self.selection.kind.info().plural;
        tracing::warn!(kind, newest, seen, "the API server stays at an older version; it is believed now");
        self.known.forget_versions();
        (self.listed, self.doubtful, self.past) = (false, false, None);
        Ok(())
    }

    /// Lists all objects.
    async fn list(&mut self, place: &Place) -> Result<(), Failure> {
        self.gone = None;
        self.absence.reset();
        self.begin_list();
        let (mut news, mut token) = (Vec::new(), String::new());
        loop {
            let part = place.list(&self.server.client, &self.selection, &token).await?;
            let meta = self.read_list(part, &mut news).await?;
            token = meta.token.unwrap_or_default();
            if token.is_empty() {
                let version = meta.resource_version.0;
                self.check(version)?;
                self.doubt_losses(&news)?;
                self.finish_list(news, version).await;
                return Ok(());
            }
        }
    }

    /// Reads a list, or a part of one; adds what is new to `news`.
    async fn read_list(&mut self, part: List, news: &mut Vec<Change>) -> Result<ListMeta, Failure> {
        match part {
            List::Json(text) => {
                let page = Page::read(&text)?;
                let items = page.items.into_iter().flatten();
                news.extend(items.filter_map(|item| self.listed(Encoded::Json(item.get()))));
                Ok(page.metadata)
            }
            List::Protobuf(mut frames) => {
                let mut meta = None;
                while frames.wait(LIST_IDLE).await? {
                    while let Some(field) = frames.next_frame()? {
                        match Item::read(field)? {
                            Item::Meta(found) => meta = Some(found),
                            Item::Object(object) => news.extend(self.listed(object)),
                            Item::Other => {}
                        }
                    }
                }
                meta.ok_or_else(|| Failure::Garbled("a list without metadata".into()))
            }
        }
    }

    fn listed(&mut self, object: Encoded<'_>) -> Option<Change> {
        let object = self.decode(object)?;
        self.known.listed(object)
    }

    /// Refuses what comes from the past: another member may have answered than
    /// the one that was asked for its version.
    fn check(&self, newest: u64) -> Result<(), Failure> {
        let seen = self.known.newest;
        if newest < seen { Err(Failure::Past { newest, seen }) } else { Ok(()) }
    }

    /// Refuses a list that lacks nearly everything, for a while.
    fn doubt_losses(&mut self, news: &[Change]) -> Result<(), Failure> {
        // What cannot even be named may be any of those.
        let Some(missing) = self.known.lost(news).filter(|_| !self.nameless) else {
            self.lost = None;
            return Ok(());
        };
        let known = self.known.len();
        if self.lost.get_or_insert_with(Instant::now).elapsed() < LOST {
            return Err(Failure::Lost { missing, known, wait: LOST });
        }
        let kind = self.selection.kind.info().plural;
        tracing::warn!(kind, missing, known, "nearly all objects stay away; that is believed now");
        self.lost = None;
        Ok(())
    }

    fn begin_list(&mut self) {
        self.known.begin();
        self.nameless = false;
        self.broken.values_mut().for_each(|confirmed| *confirmed = false);
    }

    async fn finish_list(&mut self, news: Vec<Change>, version: u64) {
        let keep_all = self.nameless;
        let difference = self.known.finish(news, version, keep_all);
        self.changes.extend(difference);
        if !keep_all {
            self.problems.close(&format!("{}/", self.name));
            let gone = self.broken.iter().filter(|(_, confirmed)| !**confirmed).map(|(key, _)| key.clone());
            for key in gone.collect::<Vec<_>>() {
                self.mend(&key);
            }
        }
        self.listed = true;
        self.flush().await;
        if !self.synced {
            self.synced = true;
            let _ = self.sender.send(Event::Synced(vec![self.selection.kind])).await;
        }
    }

    /// Reads a watch until it ends.
    async fn follow(&mut self, mut watch: Watch) -> Result<(), Failure> {
        let opened = Instant::now();
        let mut heard = false;
        while watch.wait(IDLE).await? {
            let outcome = self.read(&mut watch);
            self.flush().await;
            if outcome? {
                heard = true;
                self.backoff.reset();
            }
        }
        if heard || opened.elapsed() >= SHORT {
            self.backoff.reset();
            return Ok(());
        }
        Err(Failure::Ended)
    }

    /// Reads the events that are there. Returns whether there were any.
    fn read(&mut self, watch: &mut Watch) -> Result<bool, Failure> {
        let mut any = false;
        while let Some(event) = watch.next_event(self.known.newest)? {
            any = true;
            let change = match event {
                Said::Put(object) => self.decode(object).and_then(|object| self.known.put(object)),
                Said::Delete(meta) => {
                    self.mend(&meta.key());
                    self.known.delete(&meta)
                }
                Said::Bookmark(version) => {
                    // A watch from the future is silent until the API server
                    // gets there; a bookmark may tell where it is.
                    self.check(version)?;
                    self.known.newest = version;
                    None
                }
                Said::Other => None,
            };
            self.changes.extend(change);
        }
        Ok(any)
    }

    /// Decodes an object. One that cannot be read keeps its last good version.
    fn decode(&mut self, object: Encoded<'_>) -> Option<Object> {
        match object.decode(self.selection.kind) {
            Ok(object) => {
                if !self.broken.is_empty() {
                    self.mend(&object.meta().key());
                }
                Some(object)
            }
            Err(error) => {
                self.break_off(object.meta(), error);
                None
            }
        }
    }

    fn break_off(&mut self, meta: Option<Meta>, DecodeError { field, reason }: DecodeError) {
        let kind = self.selection.kind.info().kind;
        let Some(meta) = meta else {
            self.nameless = true;
            self.problems.open(format!("{}/", self.name), Problem { place: kind.into(), field, reason });
            return;
        };
        let key = meta.key();
        self.known.newest = self.known.newest.max(if self.listed { meta.resource_version.0 } else { 0 });
        self.known.keep(&key);
        let error = DecodeError { field: field.clone(), reason: reason.clone() };
        self.changes.push(Change::Unreadable(self.selection.kind, key.clone(), Some(error)));
        self.problems.open(format!("{}/{key}", self.name), Problem { place: format!("{kind} {key}"), field, reason });
        self.broken.insert(key, true);
    }

    /// An object can be read, or is gone.
    fn mend(&mut self, key: &ObjectKey) {
        if self.broken.remove(key).is_some() {
            self.changes.push(Change::Unreadable(self.selection.kind, key.clone(), None));
            self.problems.close(&format!("{}/{key}", self.name));
        }
    }

    /// Sends what there is to say.
    async fn flush(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.changes);
        let define = self.selection.kind == Kind::CustomResourceDefinition && changes.iter().any(defines);
        // Without a receiver, `run` ends.
        let _ = self.sender.send(Event::Changes(changes)).await;
        if define {
            self.server.definitions.send_replace(());
        }
    }
}

/// Whether a change is of the definition of a kind in our table.
fn defines(change: &Change) -> bool {
    let key = match change {
        Change::Put(object) => object.meta().key(),
        Change::Delete(_, key) => key.clone(),
        Change::Reset(..) => return true,
        Change::Unreadable(..) => return false,
    };
    Kind::ALL.iter().map(|kind| kind.info()).any(|info| {
        let group = key.name.strip_prefix(info.plural).and_then(|rest| rest.strip_prefix('.'));
        group == Some(info.group)
    })
}
