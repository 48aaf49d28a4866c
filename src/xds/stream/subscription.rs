//! What one type of one stream is owed.
//!
//! The whole memory of a subscription is `held`: the layer the client has. A
//! wildcard subscription shares it with the published views; a subscription by
//! name has a small one of its own. Whatever a client is sent is a difference
//! between `held` and what it should have, so nothing is ever sent twice
//! unasked, a rejected resource is not repeated before it changes, and views
//! that were skipped coalesce.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tonic::Status;

use super::{Contents, Floor, Nonce, Progress, Reply, Variant};
use crate::proxy::Scope;
use crate::xds::codec::request::Rejection;
use crate::xds::resource::{Family, Resource, ResourceType, Version};
use crate::xds::view::{Difference, Edits, InitialVersions, Layer, Names, Step, Views};

/// How many names one type of one stream may subscribe to. A client that holds
/// more should use the wildcard.
pub const MAX_NAMES: usize = 250_000;

/// The state of one type on one stream.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) ty: ResourceType,
    wildcard: bool,
    /// Whether the client has ever named anything, `*` included.
    explicit: bool,
    /// Names and other keys subscribed to, without `*`.
    names: Arc<Names>,
    /// The Kubernetes node whose resources belong to the subscription unasked.
    local: Option<Arc<str>>,
    /// What the client has, as far as it was told.
    held: Layer,
    /// The part of a view that the names select, kept while it cannot change. In
    /// a box, as those who want everything have none.
    selection: Option<Box<Selection>>,
    /// Keys to answer in the next response even if nothing changed.
    owed: BTreeSet<Arc<str>>,
    /// Keys that the outstanding response answers.
    answering: Vec<Arc<str>>,
    /// Whether to answer even if there is nothing to say.
    answer_due: bool,
    /// Whether to send everything again.
    resend: bool,
    /// Whether the client has listed what it holds, and was not answered yet.
    resumed: bool,
    /// Whether the client came with nothing.
    blank: bool,
    /// The view of which all additions and changes have been sent.
    reached: Option<Arc<Views>>,
    /// The view of which the removals have been sent as well.
    completed: Option<Arc<Views>>,
    /// The view the client has accepted, as far as this type is concerned.
    applied: Option<Arc<Views>>,
    /// A view for which everything was asked for that others need of this type.
    covered: Option<Arc<Views>>,
    /// The latest response.
    pub(super) nonce: Option<Nonce>,
    /// Whether the latest response was not answered yet.
    outstanding: bool,
    acked: Option<Nonce>,
    error: Option<Arc<str>>,
    /// What the client rejected and should still have. In a box, as most have
    /// rejected nothing.
    refused: Option<Box<Refused>>,
}

/// What a client rejected, for as long as it is not sent anything else in its
/// place: that it accepts other resources does not mean that it has these.
#[derive(Debug)]
struct Refused {
    /// Why.
    error: Arc<str>,
    /// The resources that the reason names.
    resources: Vec<(Arc<str>, Version)>,
    /// The view it had accepted before that.
    before: Option<Arc<Views>>,
}

/// The part of a layer that a subscription by name selects.
#[derive(Debug)]
struct Selection {
    base: Layer,
    chosen: Layer,
}

impl Selection {
    /// Whether it is all of a layer, found without looking inside.
    fn is_all_of(&self, layer: &Layer) -> bool {
        self.base.same_as(layer) && self.chosen.same_as(layer)
    }
}

/// What [`Subscription::step`] did.
pub(super) enum Outcome {
    /// Nothing: the subscription is where it may be.
    Idle,
    /// It reached a newer view without having to send anything.
    Advanced,
    /// It has something to send and may not; this is the view that those who
    /// refer to it may see, if any.
    Blocked(Option<Arc<Views>>),
    /// This is to be sent.
    Send(Answer),
}

/// A response without its envelope.
pub(super) struct Answer {
    pub(super) views: Arc<Views>,
    pub(super) contents: Contents,
    pub(super) removed: Arc<[Arc<str>]>,
}

impl Subscription {
    pub(super) fn new(ty: ResourceType, local: Option<Arc<str>>) -> Self {
        Self {
            ty,
            wildcard: false,
            explicit: false,
            names: Arc::default(),
            local,
            held: Layer::default(),
            selection: None,
            owed: BTreeSet::new(),
            answering: Vec::new(),
            answer_due: false,
            resend: false,
            resumed: false,
            blank: true,
            reached: None,
            completed: None,
            applied: None,
            covered: None,
            nonce: None,
            outstanding: false,
            acked: None,
            error: None,
            refused: None,
        }
    }

    pub(super) fn wildcard(&self) -> bool {
        self.wildcard
    }

    /// Why the client rejected the latest response, if it did.
    pub(super) fn error(&self) -> Option<&Arc<str>> {
        self.error.as_ref()
    }

    /// The last view of which the client accepted all, what it was sent last,
    /// and whether it came with nothing.
    pub(super) fn exchange(&self) -> Option<(Option<Arc<Views>>, Arc<Views>, bool)> {
        let accepted = self.refused.as_ref().map_or(&self.applied, |refused| &refused.before);
        Some((accepted.clone(), self.reached.clone()?, self.blank))
    }

    /// Whether those who refer to resources of this type wait until they have
    /// been accepted.
    fn strict(&self) -> bool {
        self.ty.family() == Family::Envoy
    }

    /// The views whose resources the client may hold.
    pub(super) fn at(&self) -> impl Iterator<Item = &Option<Arc<Views>>> {
        let applied = self.strict().then_some(&self.applied);
        let before = self.refused.as_ref().map(|refused| &refused.before);
        [&self.completed, &self.reached].into_iter().chain(applied).chain(before)
    }

    /// The newest view, `ceiling` at most, all of whose resources the client
    /// has asked for and accepted.
    pub(super) fn covered(&mut self, scope: Option<&Scope>, ceiling: &Arc<Views>) -> Option<Arc<Views>> {
        let views = if self.outstanding { self.applied.as_ref()? } else { ceiling };
        let layer = views.layer(self.ty, scope);
        let unsure = || self.owed.iter().chain(&self.answering).any(|name| layer.contains(name));
        let named = || {
            let selected = self.selection.as_ref().is_some_and(|selection| selection.is_all_of(layer));
            selected || layer.iter().all(|resource| self.names.contains(resource.name()))
        };
        let known = self.covered.as_ref().is_some_and(|covered| covered.layer(self.ty, scope).same_as(layer));
        if known || self.wildcard || (!unsure() && named()) {
            self.covered = Some(views.clone());
        }
        self.covered.clone()
    }

    /// Has those resources sent once more whose namesakes are being sent.
    pub(super) fn repeat(&mut self, sent: &Contents) {
        let mut repeat = |resource: &Resource| {
            if let Some(name) = self.names.get(resource.name()) {
                self.owed.insert(name.clone());
            }
        };
        match sent {
            Contents::Whole(layer) => layer.iter().for_each(|resource| repeat(&resource)),
            Contents::Step(_) | Contents::Some(_) => sent.listed().iter().for_each(repeat),
        }
    }

    /// Notes whether a request names anything; returns whether one ever did.
    pub(super) fn explicit(&mut self, named: bool) -> bool {
        self.explicit |= named;
        self.explicit
    }

    /// The version of a resource that the client has, as far as it was told or
    /// has listed.
    pub(super) fn held(&self, name: &str) -> Option<Version> {
        self.held.get(name).map(|held| held.version())
    }

    pub(super) fn names(&self) -> &BTreeSet<Arc<str>> {
        &self.names
    }

    /// Whether nothing is subscribed to.
    pub(super) fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            ty: self.ty,
            sent: self.nonce.map(|nonce| nonce.number),
            acked: self.acked.map(|nonce| nonce.number),
            error: self.error.as_ref().or(self.refused.as_ref().map(|refused| &refused.error)).cloned(),
            revision: self.reached.as_ref().map(|views| views.revision),
        }
    }

    /// Whether there is nothing to do: everything of these views was sent, and
    /// nothing is asked for.
    pub(super) fn is_at(&self, views: &Views) -> bool {
        let at = |reached: &Option<Arc<Views>>| reached.as_ref().is_some_and(|at| at.revision == views.revision);
        !self.asked() && at(&self.reached) && at(&self.completed)
    }

    /// Whether the latest response was not answered yet.
    pub(super) fn is_outstanding(&self) -> bool {
        self.outstanding
    }

    /// Whether a response is due whatever has changed.
    fn asked(&self) -> bool {
        self.answer_due || self.resend || !self.owed.is_empty()
    }

    /// Applies the part of a request that answers a response.
    pub(super) fn reply(&mut self, nonce: &str, rejection: Option<Rejection>) -> Reply {
        match self.nonce {
            _ if nonce.is_empty() => Reply::Nothing,
            // A client may echo the last nonce of its previous stream.
            None => Reply::Nothing,
            Some(latest) if Nonce::parse(nonce) != Some(latest) => Reply::Stale,
            Some(_) if !std::mem::take(&mut self.outstanding) => Reply::Nothing,
            Some(latest) => {
                self.answering = Vec::new();
                self.error = rejection.map(|rejection| rejection.message.into());
                self.note_refused();
                match &self.error {
                    Some(error) => Reply::Nack(error.clone()),
                    None => {
                        self.acked = Some(latest);
                        self.applied = self.reached.clone();
                        Reply::Ack
                    }
                }
            }
        }
    }

    /// Notes what of the latest response was rejected, and forgets what was
    /// rejected before and has been replaced since. An Envoy takes the rest of a
    /// response, and says which resources it did not take.
    fn note_refused(&mut self) {
        if !self.strict() || (self.error.is_none() && self.refused.is_none()) {
            return;
        }
        let (held, applied) = (&self.held, &self.applied);
        let known = self.refused.take().map(|refused| *refused);
        let mut refused = match (known, &self.error) {
            (Some(known), None) => known,
            (Some(known), Some(error)) => Refused { error: error.clone(), ..known },
            (None, Some(error)) => Refused { error: error.clone(), resources: Vec::new(), before: applied.clone() },
            (None, None) => return,
        };
        refused.resources.retain(|(name, version)| held.get(name).is_some_and(|now| now.version() == *version));
        if let Some(error) = &self.error {
            let named = held.iter().filter(|resource| error.contains(resource.name()));
            refused.resources.extend(named.map(|resource| (resource.name().into(), resource.version())));
        }
        self.refused = (!refused.resources.is_empty()).then(|| Box::new(refused));
    }

    /// Adds a name, to be answered even if it was there already: the client
    /// may have forgotten the resource.
    pub(super) fn subscribe(&mut self, name: Arc<str>) -> Result<(), Status> {
        self.owed.insert(name.clone());
        self.follow(name)
    }

    /// Adds a name without answering it.
    pub(super) fn follow(&mut self, name: Arc<str>) -> Result<(), Status> {
        if !self.names.contains(&name) {
            Arc::make_mut(&mut self.names).insert(name);
            self.selection = None;
        }
        if self.names.len() > MAX_NAMES {
            return Err(Status::resource_exhausted("too many resource names on one stream"));
        }
        Ok(())
    }

    /// Subscribes to everything; answered even if there is nothing.
    pub(super) fn subscribe_wildcard(&mut self) {
        self.answer_due = true;
        self.resend |= std::mem::replace(&mut self.wildcard, true);
        self.selection = None;
    }

    /// Ends subscriptions. The client forgets by itself what no other part of
    /// its subscription covers, so that is never reported as removed.
    pub(super) fn unsubscribe(&mut self, names: &[Arc<str>], wildcard: bool) {
        let mut changed = wildcard && std::mem::take(&mut self.wildcard);
        for name in names {
            if !self.names.contains(name) {
                continue;
            }
            Arc::make_mut(&mut self.names).remove(name);
            changed = true;
            // A client that gives up a name but keeps the wildcard must be
            // told what the wildcard says about that name.
            self.owed.insert(name.clone());
        }
        if changed {
            self.resend &= self.wildcard;
            self.answer_due &= !self.is_empty();
            self.selection = None;
            if !self.wildcard {
                self.owed.retain(|name| self.names.contains(name));
                self.held = self.narrowed();
            }
        }
    }

    /// Makes the next response due whatever it contains.
    pub(super) fn answer(&mut self) {
        self.answer_due = true;
    }

    /// Notes that the client came with something, which it does not list.
    pub(super) fn goes_on(&mut self) {
        self.blank = false;
    }

    /// Starts from what the client says it holds. What it was sent in the same
    /// version is not repeated; what no longer exists will be removed.
    pub(super) fn resume(&mut self, versions: InitialVersions) -> Result<(), Status> {
        self.held = versions.into_layer(self.wildcard);
        if !self.wildcard {
            // A client that lists a resource and does not name it still has to
            // hear about it: ztunnel in on-demand mode comes back like this.
            for listed in self.held.clone().iter() {
                self.follow(listed.name().into())?;
            }
        }
        self.resumed = true;
        self.blank = self.held.is_empty();
        Ok(())
    }

    /// Moves towards `ceiling`, the newest view this type may see now.
    /// Removals are held back as long as `floor` does not confirm them.
    pub(super) fn step(
        &mut self,
        variant: Variant,
        scope: Option<&Scope>,
        ceiling: &Arc<Views>,
        floor: &Floor,
    ) -> Outcome {
        if self.outstanding && self.strict() {
            return Outcome::Blocked(self.applied.clone());
        }
        let views = match &self.reached {
            Some(reached) if reached.revision > ceiling.revision => reached.clone(),
            _ => ceiling.clone(),
        };
        let complete = floor.complete(&views);
        let asked = self.asked();
        if !asked && same(&self.reached, &Some(views.clone())) && same(&self.completed, &complete) {
            return Outcome::Idle;
        }

        let renamed = self.selection.is_none();
        let layer = self.select(views.layer(self.ty, scope));
        if renamed {
            self.share_names(&views, scope);
        }
        if self.outstanding {
            return self.wait(layer, views, complete, floor, asked);
        }
        let all = match variant {
            Variant::Delta => self.wildcard && (self.resend || self.held.is_empty()),
            Variant::Sotw => true,
        };
        // To a client that has nothing everything is new: no need to list it.
        let fresh = all && self.held.is_empty();
        let mut change = if fresh { Change::default() } else { self.change(&views, scope, &layer, floor) };
        if std::mem::take(&mut self.resumed) {
            // What the client named and lists in the right version it has.
            let (held, layer) = (&self.held, views.layer(self.ty, scope));
            let version = |layer: &Layer, name: &str| layer.get(name).map(|resource| resource.version());
            self.owed.retain(|name| version(layer, name).is_none_or(|new| version(held, name) != Some(new)));
        }
        if self.strict() {
            self.answering = self.owed.iter().cloned().collect();
        }
        self.answer_owed(views.layer(self.ty, scope), all, &mut change);
        let news = !change.contents.listed().is_empty() || !change.removed.is_empty();
        let due = asked || news || (fresh && layer.count(self.ty) > 0);

        let mut kept = Edits::default();
        change.kept.into_iter().for_each(|resource| kept.upsert(resource));
        self.held = layer.clone();
        self.held.apply(kept);
        let advanced = !same(&self.reached, &Some(views.clone())) || !same(&self.completed, &complete);
        self.reached = Some(views.clone());
        self.completed = complete;
        if !due {
            if self.error.is_none() {
                self.applied = self.reached.clone();
            }
            return if advanced { Outcome::Advanced } else { Outcome::Idle };
        }
        (self.answer_due, self.resend, self.outstanding) = (false, false, true);
        let contents = match variant {
            // The state of the world includes what may not be removed yet.
            Variant::Sotw => Contents::Whole(self.held.clone()),
            Variant::Delta if all => Contents::Whole(layer),
            Variant::Delta => change.contents,
        };
        let removed = match variant {
            Variant::Sotw => Arc::default(),
            Variant::Delta => change.removed,
        };
        Outcome::Send(Answer { views, contents, removed })
    }

    /// What is left to do while a response is outstanding: find out whether
    /// other types have to wait too.
    fn wait(
        &mut self,
        layer: Layer,
        views: Arc<Views>,
        complete: Option<Arc<Views>>,
        floor: &Floor,
        asked: bool,
    ) -> Outcome {
        let (mut added, mut removed) = (false, false);
        if let Some(step) = self.shared_step(&views, None, &layer) {
            added = !step.upserts.is_empty();
            removed = step.removed.iter().any(|name| floor.confirms(self.ty, name));
        } else {
            for difference in layer.diff(&self.held) {
                match self.classify(difference, floor) {
                    Some(Due::Upsert(_)) => {
                        added = true;
                        break;
                    }
                    Some(Due::Remove(_)) => removed = true,
                    Some(Due::Keep(_)) | None => {}
                }
            }
        }
        if added && self.reached.is_some() {
            return Outcome::Blocked(self.reached.clone());
        }
        let mut advanced = !same(&self.reached, &Some(views.clone()));
        self.reached = Some(views);
        if !removed && !asked {
            advanced |= !same(&self.completed, &complete);
            self.completed = complete;
        }
        if advanced { Outcome::Advanced } else { Outcome::Idle }
    }

    /// Sorts the differences between what the client has and `layer`.
    fn change(&self, views: &Views, scope: Option<&Scope>, layer: &Layer, floor: &Floor) -> Change {
        let mut change = Change::default();
        if let Some(step) = self.shared_step(views, scope, layer) {
            change.contents = Contents::Step(step.clone());
            change.removed = step.removed.clone();
            let kept = |name: &&Arc<str>| !floor.confirms(self.ty, name);
            change.kept = step.removed.iter().filter(kept).filter_map(|name| self.held.get(name)).collect();
            if !change.kept.is_empty() {
                let confirmed = step.removed.iter().filter(|name| floor.confirms(self.ty, name));
                change.removed = confirmed.cloned().collect();
            }
            return change;
        }
        let (mut upserts, mut removed) = (Vec::new(), Vec::new());
        for difference in layer.diff(&self.held) {
            match self.classify(difference, floor) {
                Some(Due::Upsert(resource)) => upserts.push(resource),
                Some(Due::Remove(resource)) => removed.push(resource.name().into()),
                Some(Due::Keep(resource)) => change.kept.push(resource),
                None => {}
            }
        }
        // Layers have an order of their own; people read names.
        removed.sort();
        (change.contents, change.removed) = (Contents::Some(upserts.into()), removed.into());
        change
    }

    /// The way from what the client has to what it is to have of these views, if
    /// others take it too.
    fn shared_step<'a>(&self, views: &'a Views, scope: Option<&Scope>, layer: &Layer) -> Option<&'a Arc<Step>> {
        // Aliases are told to those who ask by name, and Envoys know none.
        let shared = self.wildcard || (self.strict() && layer.same_as(views.layer(self.ty, scope)));
        if shared { views.step(self.ty, scope, &self.held) } else { None }
    }

    fn classify(&self, difference: Difference, floor: &Floor) -> Option<Due> {
        match difference {
            Difference::Added(new) => self.ty.carries(&new).then_some(Due::Upsert(new)),
            Difference::Updated { old, new } => {
                let same = old.version() == new.version();
                match (self.ty.carries(&old), self.ty.carries(&new)) {
                    (true, true) if same => None,
                    (_, true) => Some(Due::Upsert(new)),
                    (true, false) => Some(Due::Remove(old)),
                    (false, false) => None,
                }
            }
            Difference::Removed(old) if !self.ty.carries(&old) => None,
            Difference::Removed(old) if floor.confirms(self.ty, old.name()) => Some(Due::Remove(old)),
            Difference::Removed(old) => Some(Due::Keep(old)),
        }
    }

    /// Adds to a change what the client asked for by name.
    fn answer_owed(&mut self, layer: &Layer, all: bool, change: &mut Change) {
        let owed = std::mem::take(&mut self.owed);
        if owed.is_empty() {
            return;
        }
        let known = change.contents.listed().iter();
        let mut upserts: BTreeMap<String, _> = known.map(|one| (one.name().into(), one.clone())).collect();
        let mut removed = change.removed.to_vec();
        for key in owed {
            // A key that is not itself the name of a resource is reported as
            // removed even if it is an alias: ztunnel waits until the very
            // string it asked for appears in the response.
            if layer.get(&key).is_none_or(|resource| !self.ty.carries(&resource)) {
                change.kept.retain(|kept| *kept.name() != *key);
                if !removed.contains(&key) {
                    removed.push(key.clone());
                }
            }
            if !all {
                let found = layer.lookup(&key).into_iter().filter(|resource| self.ty.carries(resource));
                upserts.extend(found.map(|resource| (resource.name().into(), resource)));
            }
        }
        (change.contents, change.removed) = (Contents::Some(upserts.into_values().collect()), removed.into());
    }

    /// The part of a view that belongs to the subscription.
    fn select(&mut self, layer: &Layer) -> Layer {
        if self.wildcard {
            return layer.clone();
        }
        if let Some(mut selection) = self.selection.take() {
            // Whoever has asked for everything shares the layer with all others.
            let everything = selection.is_all_of(&selection.base)
                && layer.count(self.ty) == layer.len()
                && layer.diff(&selection.base).all(|difference| match difference {
                    Difference::Added(new) | Difference::Updated { new, .. } => self.names.contains(new.name()),
                    Difference::Removed(_) => true,
                });
            if everything {
                selection.chosen = layer.clone();
            }
            if everything || !layer.diff(&selection.base).any(|difference| self.concerns(&selection, difference)) {
                selection.base = layer.clone();
                return self.selection.insert(selection).chosen.clone();
            }
        }
        let chosen = self.chosen(layer);
        self.selection = Some(Box::new(Selection { base: layer.clone(), chosen: chosen.clone() }));
        chosen
    }

    /// Keeps one set of names with all others who ask for everything.
    fn share_names(&mut self, views: &Views, scope: Option<&Scope>) {
        let layer = views.layer(self.ty, scope);
        let all = self.selection.as_ref().is_some_and(|selection| selection.is_all_of(layer));
        if all
            && self.names.len() == layer.len()
            && let Some(names) = views.names(self.ty, scope)
        {
            self.names = names.clone();
        }
    }

    /// Whether a change may alter what the names select.
    fn concerns(&self, selection: &Selection, difference: Difference) -> bool {
        let concerns = |resource: &Resource| {
            self.names.contains(resource.name())
                || selection.chosen.contains(resource.name())
                || resource.aliases().any(|alias| self.names.contains(alias))
                || resource.related().any(|key| selection.chosen.contains(key))
                || (self.local.is_some() && resource.node() == self.local.as_deref())
        };
        match difference {
            Difference::Added(resource) | Difference::Removed(resource) => concerns(&resource),
            Difference::Updated { old, new } => concerns(&old) || concerns(&new),
        }
    }

    /// What the client still holds after it gave up names.
    fn narrowed(&self) -> Layer {
        let mut narrowed = self.chosen(&self.held);
        // A client that lists what it holds, and gives names up before it was
        // answered, may hold things whose keys we never knew. Which of the rest
        // it kept cannot be told then; to remove too much is safe.
        if self.held.iter().any(|held| held.is_stub()) {
            let mut unsure = Edits::default();
            for held in self.held.iter() {
                if narrowed.get(held.name()).is_none_or(|known| known.is_stub()) {
                    unsure.upsert(Resource::stub(self.ty, held.name(), b""));
                }
            }
            narrowed.apply(unsure);
        }
        narrowed
    }

    fn chosen(&self, layer: &Layer) -> Layer {
        let all_named = || layer.iter().all(|resource| self.names.contains(resource.name()));
        if self.names.len() >= layer.len() && layer.count(self.ty) == layer.len() && all_named() {
            return layer.clone();
        }
        let local = self.local.iter().flat_map(|node| layer.on_node(node));
        let named = self.names.iter().flat_map(|name| layer.lookup(name));
        named.chain(local).filter(|resource| self.ty.carries(resource)).collect()
    }
}

/// What lies between what a client has and what it should have.
struct Change {
    /// What is new or has changed; never a whole layer.
    contents: Contents,
    removed: Arc<[Arc<str>]>,
    /// Gone from the view, but something may still refer to it.
    kept: Vec<Resource>,
}

impl Default for Change {
    fn default() -> Self {
        Self { contents: Contents::Some(Box::default()), removed: Arc::default(), kept: Vec::new() }
    }
}

enum Due {
    Upsert(Resource),
    Remove(Resource),
    Keep(Resource),
}

fn same(a: &Option<Arc<Views>>, b: &Option<Arc<Views>>) -> bool {
    a.as_ref().map(|views| views.revision) == b.as_ref().map(|views| views.revision)
}
