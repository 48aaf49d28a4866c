//! The incremental engine: typed inputs, collections derived from them, and
//! one `commit` that brings everything up to date. It knows nothing of meshes.
//!
//! - Facts enter through [`Graph::put`], [`Graph::delete`] and
//!   [`Graph::reset`], which only note them; [`Graph::commit`] applies them.
//! - A derived collection is a plain function from one row to rows, reading
//!   whatever else it needs through [`Ctx`]: by key ([`Ctx::get`]), by index
//!   ([`Ctx::fetch`]) or whole ([`Ctx::all`]). Each read is recorded, so a row
//!   is recomputed when, and only when, its source row or something it read
//!   has changed. There are no predicate reads, hence no scans.
//! - A commit visits collections in the order of their creation, each at most
//!   once. A collection can only be derived from handles that exist, so this
//!   order is topological: nothing ever sees a half-applied world.
//! - A row that is recomputed to an equal value changes nothing: the ripple
//!   stops there.
//! - Evaluation is memoryless. The tables after a commit depend on the facts
//!   alone, not on their order or batching. The one exception: a transform
//!   that panics keeps its old rows, is counted, and says so in a diagnostic,
//!   because a control plane that crash-loops is worse.
//!
//! Two source rows may yield the same output key. The row of the smaller
//! source key is the visible one, and the other waits behind it; where a merge
//! is meant, use [`Graph::group`] over an index and decide there.
//!
//! The shape is that of Istio's krt, with Calico's synchronous, memoryless
//! evaluation instead of a queue per collection.

mod ctx;
mod derived;
mod dump;
mod diagnostic;
mod evaluation;
mod index;
mod input;
mod output;
mod readers;
mod slots;
mod source;
mod table;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use ctx::Ctx;
pub use diagnostic::{Diagnostic, Severity, Subject};
pub use dump::{Dump, DumpedRow};
pub use table::RowChange;

use derived::Derived;
use dump::Shown;
use input::Input;
use output::OutputNode;
use source::Source;
use table::Table;

/// What may be a key: small, ordered (order decides ties) and hashable.
pub trait Key: Clone + Eq + Ord + Hash + Debug + Send + Sync + 'static {}
impl<T: Clone + Eq + Ord + Hash + Debug + Send + Sync + 'static> Key for T {}

/// What may be a row: equality decides whether a change goes on. How it is
/// printed is for people who look into tables.
pub trait Value: PartialEq + Debug + Send + Sync + 'static {}
impl<T: PartialEq + Debug + Send + Sync + 'static> Value for T {}

/// A handle to the rows `K → V` of one collection, input or derived.
pub struct Collection<K, V> {
    node: u32,
    types: PhantomData<fn() -> (K, V)>,
}

/// A handle to an index: the rows of a collection by a key `G` of their own.
pub struct Index<G, K, V> {
    node: u32,
    slot: u32,
    types: PhantomData<fn() -> (G, K, V)>,
}

/// A handle to rows that leave the graph, one for each source row `K` at most.
pub struct Output<K, V> {
    node: u32,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Output<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V> Copy for Output<K, V> {}
impl<K, V> Clone for Collection<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V> Copy for Collection<K, V> {}
impl<G, K, V> Clone for Index<G, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<G, K, V> Copy for Index<G, K, V> {}

/// One collection as the graph sees it, its row types erased.
trait Node: Any + Send {
    /// Brings the table up to date; `upstream` are the nodes created earlier.
    fn evaluate(&mut self, upstream: &[Box<dyn Node>]);
    /// Hashes of the keys and index keys that this commit touched.
    fn touched(&self) -> &[u64];
    /// Whether this commit changed any row.
    fn changed(&self) -> bool {
        !self.touched().is_empty()
    }
    /// Whether the last commit changed the diagnostics.
    fn said(&self) -> bool;
    /// Forgets the changes of the last commit.
    fn settle(&mut self);
    /// The typed table, as `Table<K, V>`.
    fn table(&self) -> &dyn Any;
    /// The typed table, as `Table<K, V>`.
    fn table_mut(&mut self) -> &mut dyn Any;
    /// The typed node, to queue facts.
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// What the collection has cost so far.
    fn stats(&self) -> Stats;
    /// What the rows have to say about the objects they came from.
    fn diagnostics(&self, each: &mut dyn FnMut(&Diagnostic));
    /// Adds the input rows behind the row with this key (a `&K`).
    fn origins(&self, nodes: &[Box<dyn Node>], key: &dyn Any, out: &mut Provenance);
    /// Shows rows, in no particular order, until `each` has seen enough.
    fn show(&self, each: &mut dyn FnMut(Shown<'_>) -> ControlFlow<()>);
}

/// What a collection holds and what keeping it has cost since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// The collection's name.
    pub name: &'static str,
    /// Rows it has now.
    pub rows: usize,
    /// Transforms run, or facts applied for an input.
    pub recomputed: u64,
    /// Transforms that panicked.
    pub panics: u64,
    /// Time spent in commits.
    pub commit: Duration,
}

/// Where a row comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The input rows it was derived from, as (collection, key).
    pub origins: Vec<(&'static str, String)>,
    /// The rows its transform looked at besides, as (collection, key).
    pub reads: Vec<(&'static str, String)>,
}

/// The tables, and the only way to change them. One thread owns it.
#[derive(Default)]
pub struct Graph {
    nodes: Vec<Box<dyn Node>>,
    spent: Vec<Duration>,
    revision: u64,
}

impl Graph {
    /// A graph without collections.
    pub fn new() -> Self {
        Self::default()
    }

    /// A collection whose rows are facts from outside.
    pub fn input<K: Key, V: Value>(&mut self, name: &'static str) -> Collection<K, V> {
        self.add(Input::<K, V>::new(name))
    }

    /// A collection of what `transform` makes of each row of `source`: none,
    /// one or several rows.
    pub fn derive<SK: Key, SV: Value, K: Key, V: Value, O: IntoIterator<Item = (K, V)>>(
        &mut self,
        name: &'static str,
        source: Collection<SK, SV>,
        transform: impl Fn(&Ctx<'_>, &SK, &SV) -> O + Send + 'static,
    ) -> Collection<K, V> {
        let source = Source::rows(source, move |cx, key: &SK, row: &SV| transform(cx, key, row).into_iter().collect());
        self.add(Derived::new(name, source))
    }

    /// What `transform` makes of each row of `source`, for use outside of the
    /// graph: at most one row each, which is handed to `sink` whenever it
    /// changes, with the key of the source row; `None` when it is gone. The
    /// graph keeps nothing but a fingerprint, which must differ between rows
    /// that are not equal.
    pub fn output<SK: Key, SV: Value, V: Value>(
        &mut self,
        name: &'static str,
        source: Collection<SK, SV>,
        transform: impl Fn(&Ctx<'_>, &SK, &SV) -> Option<V> + Send + 'static,
        fingerprint: fn(&V) -> u64,
        sink: impl FnMut(&SK, Option<V>) + Send + 'static,
    ) -> Output<SK, V> {
        let source = Source::rows(source, transform);
        let Collection { node, .. } = self.add::<SK, V>(OutputNode::new(name, source, fingerprint, Box::new(sink)));
        Output { node, types: PhantomData }
    }

    /// A collection with at most one row for each key of `index`, made by
    /// `merge` from the rows that share it, in the order of their keys.
    pub fn group<G: Key, SK: Key, SV: Value, V: Value>(
        &mut self,
        name: &'static str,
        index: Index<G, SK, SV>,
        merge: impl Fn(&Ctx<'_>, &G) -> Option<V> + Send + 'static,
    ) -> Collection<G, V> {
        let source = Source::groups(index, merge);
        self.add(Derived::new(name, source))
    }

    /// A collection with at most one row for each different `key` among the
    /// rows of `source`, made from the key alone. Cheaper than [`group`] where
    /// very many rows share a key.
    ///
    /// [`group`]: Graph::group
    pub fn distinct<G: Key, SK: Key, SV: Value, V: Value>(
        &mut self,
        name: &'static str,
        source: Collection<SK, SV>,
        key: impl Fn(&SK, &SV) -> Option<G> + Send + 'static,
        make: impl Fn(&Ctx<'_>, &G) -> Option<V> + Send + 'static,
    ) -> Collection<G, V> {
        let slot = self.table_mut(source).add_counts(key);
        self.add(Derived::new(name, Source::distinct::<SK, SV>(source.node, slot, make)))
    }

    /// The rows of several collections as one. Where two have a row of the same
    /// key, the collection named first counts.
    pub fn union<K: Key, V: Value + Clone>(
        &mut self,
        name: &'static str,
        collections: impl Into<Box<[Collection<K, V>]>>,
    ) -> Collection<K, V> {
        self.add(Derived::new(name, Source::union(collections.into())))
    }

    /// An index of `collection`: `keys` pushes the keys a row is found by.
    pub fn index<G: Key, K: Key, V: Value>(
        &mut self,
        collection: Collection<K, V>,
        keys: impl Fn(&K, &V, &mut Vec<G>) + Send + 'static,
    ) -> Index<G, K, V> {
        let slot = self.table_mut(collection).add_index(keys);
        Index { node: collection.node, slot, types: PhantomData }
    }

    fn add<K, V>(&mut self, node: impl Node) -> Collection<K, V> {
        self.nodes.push(Box::new(node));
        self.spent.push(Duration::ZERO);
        let node = u32::try_from(self.nodes.len() - 1).expect("fewer collections than 2^32");
        Collection { node, types: PhantomData }
    }

    /// Notes that an input row is `value` from the next commit on.
    pub fn put<K: Key, V: Value>(&mut self, input: Collection<K, V>, key: K, value: impl Into<Arc<V>>) {
        self.input_mut(input).put(key, value.into());
    }

    /// Notes that an input row is gone from the next commit on.
    pub fn delete<K: Key, V: Value>(&mut self, input: Collection<K, V>, key: K) {
        self.input_mut(input).delete(key);
    }

    /// Notes that from the next commit on the input has these rows and no
    /// others. Rows that are equal do not change.
    pub fn reset<K: Key, V: Value>(
        &mut self,
        input: Collection<K, V>,
        rows: impl IntoIterator<Item = (K, impl Into<Arc<V>>)>,
    ) {
        self.input_mut(input).reset(rows.into_iter().map(|(key, value)| (key, value.into())));
    }

    /// Applies everything noted, and brings every collection up to date.
    /// Returns whether anything changed.
    pub fn commit(&mut self) -> bool {
        let mut changed = false;
        self.settle();
        for at in 0..self.nodes.len() {
            let started = Instant::now();
            let (upstream, rest) = self.nodes.split_at_mut(at);
            rest[0].evaluate(upstream);
            changed |= rest[0].changed();
            self.spent[at] += started.elapsed();
        }
        self.revision += u64::from(changed);
        changed
    }

    /// Forgets what the last commit changed. The next commit does so too; after
    /// a large one, doing it at once gives the memory back.
    pub fn settle(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.settle());
    }

    /// How many commits have changed something.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The rows of a collection that the last commit changed.
    pub fn changes<K: Key, V: Value>(&self, collection: Collection<K, V>) -> &[RowChange<K, V>] {
        self.table(collection).changes()
    }

    /// A row, as of the last commit.
    pub fn get<K: Key, V: Value>(&self, collection: Collection<K, V>, key: &K) -> Option<&Arc<V>> {
        self.table(collection).get(key)
    }

    /// All rows as of the last commit, in no particular order.
    pub fn rows<K: Key, V: Value>(&self, collection: Collection<K, V>) -> impl Iterator<Item = (&K, &Arc<V>)> {
        self.table(collection).iter()
    }

    /// Rows by index as of the last commit, in the order of their keys.
    pub fn fetch<G: Key, K: Key, V: Value>(&self, index: Index<G, K, V>, key: &G) -> impl Iterator<Item = (&K, &V)> {
        table::of::<K, V>(&self.nodes, index.node).fetch(index.slot, key)
    }

    /// Whether the last commit changed what [`Graph::diagnostics`] returns.
    pub fn diagnostics_changed(&self) -> bool {
        self.nodes.iter().any(|node| node.said())
    }

    /// What the current rows have to say about objects, sorted.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all = Vec::new();
        for node in &self.nodes {
            node.diagnostics(&mut |diagnostic| all.push(diagnostic.clone()));
        }
        all.sort();
        all.dedup();
        all
    }

    /// Where a row comes from. Nothing is stored for this: the row's transform
    /// is run once more, with its reads written down.
    pub fn provenance<K: Key, V: Value>(&self, collection: Collection<K, V>, key: &K) -> Provenance {
        self.provenance_of(collection.node, key)
    }

    /// Where the row of an output comes from that the first source row with
    /// the given property has.
    pub fn output_provenance<K: Key, V: Value>(
        &self,
        output: Output<K, V>,
        is: impl Fn(&K) -> bool,
    ) -> Option<Provenance> {
        let node: &dyn Any = self.nodes[output.node as usize].table();
        let node: &OutputNode<K, V> = node.downcast_ref().expect("a handle has its node's types");
        let key = node.keys().find(|key| is(key))?;
        Some(self.provenance_of(output.node, key))
    }

    fn provenance_of(&self, node: u32, key: &dyn Any) -> Provenance {
        self.provenance_in(self.nodes[node as usize].as_ref(), key)
    }

    fn provenance_in(&self, node: &dyn Node, key: &dyn Any) -> Provenance {
        let mut provenance = Provenance::default();
        node.origins(&self.nodes, key, &mut provenance);
        provenance.origins.sort();
        provenance.origins.dedup();
        let Provenance { origins, reads } = &mut provenance;
        reads.sort();
        reads.dedup();
        reads.retain(|row| !origins.contains(row));
        provenance
    }

    /// What each collection holds and has cost, in order of creation.
    pub fn stats(&self) -> Vec<Stats> {
        self.nodes.iter().zip(&self.spent).map(|(node, &commit)| Stats { commit, ..node.stats() }).collect()
    }

    fn table<K: Key, V: Value>(&self, collection: Collection<K, V>) -> &Table<K, V> {
        table::of(&self.nodes, collection.node)
    }

    fn table_mut<K: Key, V: Value>(&mut self, collection: Collection<K, V>) -> &mut Table<K, V> {
        self.nodes[collection.node as usize].table_mut().downcast_mut().expect("a handle has its table's types")
    }

    fn input_mut<K: Key, V: Value>(&mut self, input: Collection<K, V>) -> &mut Input<K, V> {
        self.nodes[input.node as usize].as_any_mut().downcast_mut().expect("facts are put into inputs")
    }
}
