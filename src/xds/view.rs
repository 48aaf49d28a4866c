//! What there is to serve at one moment.
//!
//! A [`Layer`] is an immutable set of resources. Layers share structure: the
//! next one costs what changed, and the difference between two of them is found
//! without visiting what they share. That is why a stream can remember
//! everything it has sent as one handle. [`Views`] is one consistent picture of
//! all layers; whoever computes it publishes it through a `watch` channel, so a
//! slow reader sees the latest and never a queue.
//!
//! A layer keeps the frames of some dozens of resources in one buffer, ordered
//! by the hash of their names. So a resource costs little more than its bytes,
//! and a client that wants everything is handed the buffers themselves.

mod chunk;
mod diff;
mod draft;
mod index;
mod initial;
mod trie;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Instant;

use bytes::Bytes;

use super::resource::{Framing, Relation, Resource, ResourceType, name_hash};
use crate::intern::intern;
use crate::proxy::Scope;
use chunk::{Builder, Chunk, Edit, To};
pub use diff::Difference;
pub use draft::Draft;
use index::{Index, Pair, key_hash, pair};
pub use initial::{InitialVersions, Prints, TOGETHER};
use trie::{Trie, fitting};

/// How many resources are in a chunk at most, on average.
const MOST: usize = 64;

/// The layers of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// Workloads and services.
    Addresses,
    /// L4 authorization policies.
    Authorizations,
    /// Of one scope: clusters.
    Clusters,
    /// Of one scope: the endpoints of clusters.
    Endpoints,
    /// Of one scope: listeners.
    Listeners,
    /// Of one scope: routes.
    Routes,
    /// Of one caller: the names and versions of secrets.
    Secrets,
}

impl LayerKind {
    /// The layers that each scope has of its own.
    pub const SCOPED: [Self; 4] = [Self::Clusters, Self::Endpoints, Self::Listeners, Self::Routes];

    /// Its place among those, if it is one of them.
    pub const fn scoped(self) -> Option<usize> {
        match self {
            Self::Addresses | Self::Authorizations | Self::Secrets => None,
            Self::Clusters => Some(0),
            Self::Endpoints => Some(1),
            Self::Listeners => Some(2),
            Self::Routes => Some(3),
        }
    }
}

/// What the proxies of each scope are told, besides what all are told.
pub type Scopes = imbl::OrdMap<Scope, Arc<Config>>;

/// Names of resources.
pub type Names = BTreeSet<Arc<str>>;

/// What the proxies of one scope are configured with.
#[derive(Debug, Default)]
pub struct Config {
    layers: [Layer; LayerKind::SCOPED.len()],
    /// For each layer, what leads to it from the one most streams are at.
    steps: [OnceLock<Arc<Step>>; LayerKind::SCOPED.len()],
    /// For each layer, the names of all that is in it.
    names: [OnceLock<Arc<Names>>; LayerKind::SCOPED.len()],
    /// What resources are put together from that many objects share.
    parts: Parts,
}

/// Parts of a resource, by names that tell them apart.
pub type Parts = imbl::OrdMap<Arc<str>, Part>;

/// A part of a resource. It is of no interest to clients, who see the whole,
/// but when they reject that.
#[derive(Clone, Debug)]
pub struct Part {
    /// A hash of the content.
    pub print: u64,
    /// The content, for whoever made it.
    pub content: Arc<dyn Any + Send + Sync>,
}

impl Config {
    /// These layers, in the order of [`LayerKind::SCOPED`], published now.
    pub fn new(mut layers: [Layer; LayerKind::SCOPED.len()]) -> Self {
        layers.iter_mut().for_each(|layer| layer.published = true);
        Self { layers, steps: Default::default(), names: Default::default(), parts: Parts::default() }
    }

    /// The same with the parts that some of it was put together from.
    pub fn with_parts(self, parts: Parts) -> Self {
        Self { parts, ..self }
    }

    /// The parts that some of it was put together from.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Its layers, in the order of [`LayerKind::SCOPED`].
    pub fn layers(&self) -> &[Layer; LayerKind::SCOPED.len()] {
        &self.layers
    }
}

/// Everything that is served at one moment, each layer consistent with the
/// others.
#[derive(Debug)]
pub struct Views {
    /// Grows with every publication; orders views, and nothing else.
    pub revision: u64,
    /// When it was published, for the convergence metric only.
    pub published: Instant,
    /// Workloads and services.
    pub addresses: Layer,
    /// L4 authorization policies.
    pub authorizations: Layer,
    /// For each layer, what leads to it from the one most streams are at.
    steps: [OnceLock<Arc<Step>>; 2],
    /// For each type, what lists of those are compared with who come back.
    prints: [OnceLock<Arc<Prints>>; ResourceType::ALL.len()],
    /// What is different from scope to scope.
    pub scopes: Scopes,
    /// What one caller is told of secrets; empty in views that are shared.
    secrets: Layer,
}

/// The difference between two layers, found by the first stream that needs it
/// and shared by all others that are at the same place.
#[derive(Debug)]
pub struct Step {
    from: u64,
    /// What is new or has changed.
    pub upserts: Box<[Resource]>,
    /// What is gone, ordered by name.
    pub removed: Arc<[Arc<str>]>,
    /// The length of all frames of `upserts`.
    len: usize,
    frames: OnceLock<Box<[Bytes]>>,
}

impl Step {
    fn new(from: &Layer, to: &Layer) -> Self {
        let (mut upserts, mut removed) = (Vec::new(), Vec::new());
        for difference in to.diff(from) {
            match difference {
                Difference::Added(new) => upserts.push(new),
                // Subscribers do not see keys.
                Difference::Updated { old, new } if old.version() == new.version() => {}
                Difference::Updated { new, .. } => upserts.push(new),
                Difference::Removed(old) => removed.push(old.name().into()),
            }
        }
        // Layers have an order of their own; people read names.
        removed.sort();
        let len = upserts.iter().map(Resource::frame_len).sum();
        Self { from: from.id, upserts: upserts.into(), removed: removed.into(), len, frames: OnceLock::new() }
    }

    /// The length of all resources that are new or have changed, encoded in a
    /// delta response.
    pub fn encoded_len(&self) -> usize {
        self.len
    }

    /// These resources, encoded for a delta response, in pieces of about `size`
    /// bytes. The first stream to ask copies them together for all others.
    pub fn frames(&self, size: usize) -> &[Bytes] {
        self.frames.get_or_init(|| {
            let (mut pieces, mut piece) = (Vec::new(), Vec::with_capacity(size));
            for frame in self.upserts.iter().flat_map(Resource::frames) {
                // Nothing is gained from another copy of what is large.
                let large = frame.len() >= size / 2;
                if !piece.is_empty() && (large || piece.len() + frame.len() > size) {
                    let full = std::mem::replace(&mut piece, Vec::with_capacity(size));
                    pieces.push(full.into());
                }
                match large {
                    true => pieces.push(frame),
                    false => piece.extend_from_slice(&frame),
                }
            }
            pieces.push(piece.into());
            pieces.into()
        })
    }
}

impl Views {
    /// The view published now.
    pub fn new(revision: u64, mut addresses: Layer, mut authorizations: Layer) -> Self {
        (addresses.published, authorizations.published) = (true, true);
        let (steps, prints, scopes) = Default::default();
        let secrets = Layer::default();
        Self { revision, published: Instant::now(), addresses, authorizations, steps, prints, scopes, secrets }
    }

    /// Names and versions of secrets for one caller, and nothing else.
    pub(super) fn of_secrets(revision: u64, secrets: Layer) -> Self {
        Self { secrets, ..Self::new(revision, Layer::default(), Layer::default()) }
    }

    /// The same with what scopes are told.
    pub fn with_scopes(self, scopes: Scopes) -> Self {
        Self { scopes, ..self }
    }

    /// How clients list what is there of a type. What is different from scope
    /// to scope is never much, and compared when it is needed.
    fn prints(&self, ty: ResourceType) -> &Arc<Prints> {
        self.prints[ty as usize].get_or_init(|| Arc::new(Prints::of(ty, self.layer(ty, None))))
    }

    /// What leads from `held` to the layer of a type, if that is shared. It is
    /// for types that are sent as they are stored.
    pub fn step(&self, ty: ResourceType, scope: Option<&Scope>, held: &Layer) -> Option<&Arc<Step>> {
        // What a client came with is its own affair.
        if !ty.is_whole() || !held.published {
            return None;
        }
        let step = match ty.layer() {
            LayerKind::Addresses => &self.steps[0],
            LayerKind::Authorizations => &self.steps[1],
            kind => &self.scopes.get(scope?)?.steps[kind.scoped()?],
        };
        let step = step.get_or_init(|| Arc::new(Step::new(held, self.layer(ty, scope))));
        (step.from == held.id).then_some(step)
    }

    /// The names of all resources of a type, which all share who ask for each of
    /// them. None is for types that everybody is told of.
    pub fn names(&self, ty: ResourceType, scope: Option<&Scope>) -> Option<&Arc<Names>> {
        let (config, at) = (self.scopes.get(scope?)?, ty.layer().scoped()?);
        let names = || config.layers[at].iter().map(|resource| intern(resource.name()));
        Some(config.names[at].get_or_init(|| Arc::new(names().collect())))
    }

    /// Whether what a proxy is told is known: its scope, if it has one, has
    /// been worked out.
    pub fn knows(&self, scope: Option<&Scope>) -> bool {
        scope.is_none_or(|scope| self.scopes.contains_key(scope))
    }

    /// The layer a type is served from.
    pub fn layer(&self, ty: ResourceType, scope: Option<&Scope>) -> &Layer {
        static EMPTY: LazyLock<Layer> = LazyLock::new(Layer::default);
        match ty.layer() {
            LayerKind::Addresses => &self.addresses,
            LayerKind::Authorizations => &self.authorizations,
            LayerKind::Secrets => &self.secrets,
            kind => {
                let config = scope.and_then(|scope| self.scopes.get(scope));
                config.zip(kind.scoped()).map_or(&EMPTY, |(config, at)| &config.layers[at])
            }
        }
    }
}

/// A set of resources that is cheap to clone, change and compare.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    chunks: Trie<Chunk>,
    /// The keys of resources besides their names.
    index: Index,
    /// Tells the content from that of any other layer, before and after.
    id: u64,
    /// Whether it was part of a view as it is.
    published: bool,
    len: usize,
    sizes: [Size; 2],
}

/// The encoded size of a layer as one type, known without visiting it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    count: usize,
    delta: usize,
    sotw: usize,
}

/// Changes of a layer that are made together; the last one of a name counts.
#[derive(Debug, Default)]
pub struct Edits(Vec<Edit>);

impl Edits {
    /// Has a resource added or replaced.
    pub fn upsert(&mut self, resource: Resource) {
        self.0.push(Edit { hash: name_hash(resource.name()), to: To::Resource(resource) });
    }

    /// Has the resource of a name removed.
    pub fn remove(&mut self, name: &str) {
        self.0.push(Edit { hash: name_hash(name), to: To::Nothing(name.into()) });
    }

    /// Has others made after these.
    pub fn append(&mut self, Edits(mut others): Edits) {
        self.0.append(&mut others);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Layer {
    /// Adds or replaces a resource. Returns whether subscribers could notice.
    pub fn upsert(&mut self, resource: Resource) -> bool {
        let mut edits = Edits::default();
        edits.upsert(resource);
        self.apply(edits)
    }

    /// Removes a resource. Returns whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let mut edits = Edits::default();
        edits.remove(name);
        self.apply(edits)
    }

    /// Makes all of the edits. Returns whether subscribers could notice.
    pub fn apply(&mut self, Edits(mut edits): Edits) -> bool {
        // Stable, and reversed before duplicates go: the last one stays.
        edits.sort_by(|a, b| a.hash.cmp(&b.hash).then_with(|| a.name().cmp(b.name())));
        edits.reverse();
        edits.dedup_by(|earlier, later| earlier.hash == later.hash && earlier.name() == later.name());
        edits.reverse();
        self.make_room(&edits);

        let (mut gone, mut new) = (Vec::new(), Vec::new());
        let (mut leaves, mut rest) = (Vec::new(), &edits[..]);
        while let Some(first) = rest.first() {
            let number = self.place(first.hash);
            let (here, tail) = rest.split_at(rest.partition_point(|edit| self.place(edit.hash) <= number));
            rest = tail;
            let Some(chunk) = self.chunks.at(number) else { break };
            let (sizes, len) = (&mut self.sizes, &mut self.len);
            let edited = chunk.edited(here, |replaced| {
                if let Some(old) = &replaced.old {
                    gone.extend(pairs(old));
                    resize(sizes, old, |total, part| *total -= part);
                    *len -= 1;
                }
                if let Some(resource) = &replaced.new {
                    new.extend(pairs(resource));
                    resize(sizes, resource, |total, part| *total += part);
                    *len += 1;
                }
            });
            leaves.extend(edited.map(|edited| (number, edited)));
        }
        let changed = !leaves.is_empty();
        if changed {
            static IDS: AtomicU64 = AtomicU64::new(1);
            (self.id, self.published) = (IDS.fetch_add(1, Ordering::Relaxed), false);
        }
        self.chunks.replace(leaves);
        self.index.apply(gone, new);
        changed
    }

    /// Divides the chunks anew if the edits make them too large or too small.
    fn make_room(&mut self, edits: &[Edit]) {
        let (mut more, mut less) = (0, 0);
        for edit in edits {
            let known = self.find(edit.hash, edit.name()).is_some();
            more += usize::from(!known && matches!(edit.to, To::Resource(_)));
            less += usize::from(known && matches!(edit.to, To::Nothing(_)));
        }
        let bits = fitting(self.chunks.bits(), self.len + more - less, MOST);
        if bits == self.chunks.bits() && (self.chunks.len() > 0 || more == 0) {
            return;
        }
        let mut chunks: Vec<_> = (0..1usize << bits).map(|_| Builder::default()).collect();
        for chunk in self.chunks.leaves() {
            let mut from = 0;
            while from < chunk.len() {
                let place = Trie::<Chunk>::place(bits, chunk.hash(from));
                let same = (from..chunk.len()).take_while(|at| Trie::<Chunk>::place(bits, chunk.hash(*at)) == place);
                let to = from + same.count();
                chunks[place].copy(chunk, from..to);
                from = to;
            }
        }
        self.chunks = Trie::new(bits, chunks.into_iter().map(|chunk| Arc::new(chunk.build())).collect());
    }

    fn place(&self, hash: u64) -> usize {
        Trie::<Chunk>::place(self.chunks.bits(), hash)
    }

    fn find(&self, hash: u64, name: &str) -> Option<(&Chunk, usize)> {
        let chunk = self.chunks.leaf(hash)?;
        Some((chunk, chunk.find(self.chunks.bits(), hash, name)?))
    }

    /// The resource of exactly this name.
    pub fn get(&self, name: &str) -> Option<Resource> {
        let (chunk, at) = self.find(name_hash(name), name)?;
        Some(chunk.resource(at))
    }

    /// Whether there is a resource of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name_hash(name), name).is_some()
    }

    /// The number of resources.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no resources.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All resources, in an order that is the same on every replica.
    pub fn iter(&self) -> impl Iterator<Item = Resource> {
        self.chunks.leaves().flat_map(|chunk| (0..chunk.len()).map(|at| chunk.resource(at)))
    }

    /// The resources from that chunk on, chunk by chunk; `None` after the last.
    pub fn chunk(&self, number: usize) -> Option<Vec<Resource>> {
        let chunk = self.chunks.at(number)?;
        Some((0..chunk.len()).map(|at| chunk.resource(at)).collect())
    }

    /// The frames of a chunk as they are kept.
    pub fn frames(&self, number: usize) -> Option<impl Iterator<Item = Bytes>> {
        self.chunks.at(number).map(|chunk| chunk.frames())
    }

    /// How many resources subscribers of a type that is served from this layer
    /// are sent.
    pub fn count(&self, ty: ResourceType) -> usize {
        self.sizes[ty.projected()].count
    }

    /// The length of all resources that `ty`, which is served from this layer,
    /// carries, encoded in a response.
    pub fn encoded_len(&self, ty: ResourceType, framing: Framing) -> usize {
        match framing {
            Framing::Delta => self.sizes[ty.projected()].delta,
            Framing::Sotw => self.sizes[ty.projected()].sotw,
            Framing::DeltaWithAliases => {
                let carried = self.iter().filter(|resource| ty.carries(resource));
                carried.map(|resource| resource.encoded_len(ty, framing)).sum()
            }
        }
    }

    /// What changed since `old`. Costs what changed if the two layers are
    /// versions of one another.
    pub fn diff<'a>(&'a self, old: &'a Layer) -> impl Iterator<Item = Difference> + use<'a> {
        diff::differences(&self.chunks, &old.chunks)
    }

    /// What a subscription to `key` is answered with: the resources of that
    /// name or alias, followed by those that they are of no use without.
    pub fn lookup(&self, key: &str) -> Vec<Resource> {
        let mut found: Vec<_> = self.get(key).into_iter().chain(self.indexed(Relation::Alias, key)).collect();
        for direct in 0..found.len() {
            let related = self.indexed(Relation::Related, found[direct].name());
            found.extend(related);
        }
        found
    }

    /// The resources that run on a node, ordered by name.
    pub fn on_node(&self, node: &str) -> Vec<Resource> {
        self.indexed(Relation::Node, node)
    }

    /// Whether both are the same layer, found without looking inside.
    pub fn same_as(&self, other: &Self) -> bool {
        self.chunks.same_as(&other.chunks)
    }

    fn indexed(&self, relation: Relation, key: &str) -> Vec<Resource> {
        let mut found = BTreeMap::new();
        for hashes in self.index.names(key_hash(relation, key)) {
            let Some(chunk) = self.chunks.leaf(*hashes.start()) else { continue };
            for at in chunk.with_hashes(self.chunks.bits(), hashes) {
                let resource = chunk.resource(at);
                if resource.keys(relation).any(|known| known == key) {
                    found.insert(resource.name().to_owned(), resource);
                }
            }
        }
        found.into_values().collect()
    }
}

impl FromIterator<Resource> for Layer {
    fn from_iter<I: IntoIterator<Item = Resource>>(resources: I) -> Self {
        let mut edits = Edits::default();
        resources.into_iter().for_each(|resource| edits.upsert(resource));
        let mut layer = Self::default();
        layer.apply(edits);
        layer
    }
}

fn resize(sizes: &mut [Size], resource: &Resource, change: impl Fn(&mut usize, usize)) {
    if resource.is_stub() {
        return;
    }
    for ty in ResourceType::ALL.into_iter().filter(|ty| ty.carries(resource)) {
        let size = &mut sizes[ty.projected()];
        change(&mut size.count, 1);
        change(&mut size.delta, resource.encoded_len(ty, Framing::Delta));
        change(&mut size.sotw, resource.encoded_len(ty, Framing::Sotw));
    }
}

/// The index pairs of one resource.
fn pairs(resource: &Resource) -> impl Iterator<Item = Pair> {
    let hash = name_hash(resource.name());
    let relations = [Relation::Alias, Relation::Related, Relation::Node];
    relations
        .into_iter()
        .flat_map(move |relation| resource.keys(relation).map(move |key| pair(key_hash(relation, key), hash)))
}

#[cfg(test)]
mod tests;
