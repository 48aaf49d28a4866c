//! What derived collections are computed from, row by row.

use rapidhash::RapidHashSet;

use super::ctx::Ctx;
use super::{Collection, Index, Key, Node, Provenance, Value, table};

/// What a derived collection is computed from: the rows of a collection, or
/// the keys of an index. `S` is the key of one such source row, `T` what its
/// transform returns.
pub(super) struct Source<S, T> {
    /// Source rows that this commit changed, and whether they (still) exist.
    pub(super) changed: Box<dyn Fn(&[Box<dyn Node>], &mut dyn FnMut(&S, bool)) + Send>,
    pub(super) transform: Box<dyn Fn(&Ctx<'_>, &S) -> T + Send>,
    /// The keys, in the source's node, that a source row stands for.
    pub(super) origins: Box<dyn Fn(&[Box<dyn Node>], &S, &mut Provenance) + Send>,
}

impl<S: Key, T: Default> Source<S, T> {
    /// The rows of a collection.
    pub(super) fn rows<SV: Value>(
        source: Collection<S, SV>,
        transform: impl Fn(&Ctx<'_>, &S, &SV) -> T + Send + 'static,
    ) -> Self {
        let node = source.node;
        Self {
            changed: Box::new(move |nodes, each| {
                for change in table::of::<S, SV>(nodes, node).changes() {
                    each(&change.key, change.new.is_some());
                }
            }),
            transform: Box::new(move |cx, key| match cx.source(source, key) {
                Some(value) => transform(cx, key, value),
                None => T::default(),
            }),
            origins: Box::new(move |nodes, key, out| nodes[node as usize].origins(nodes, key, out)),
        }
    }
}

impl<K: Key, V: Value + Clone> Source<K, Vec<(K, V)>> {
    /// The rows of several collections; the first that has a row counts.
    pub(super) fn union(collections: Box<[Collection<K, V>]>) -> Self {
        let find = |nodes: &[Box<dyn Node>], key: &K, collections: &[Collection<K, V>]| {
            collections.iter().find(|from| table::of::<K, V>(nodes, from.node).get(key).is_some()).copied()
        };
        let (all, sources, from) = (collections.clone(), collections.clone(), collections);
        Self {
            changed: Box::new(move |nodes, each| {
                let mut keys = RapidHashSet::default();
                for collection in &all {
                    keys.extend(table::of::<K, V>(nodes, collection.node).changes().iter().map(|change| &change.key));
                }
                for key in keys {
                    each(key, find(nodes, key, &all).is_some());
                }
            }),
            transform: Box::new(move |cx, key| {
                let found = sources.iter().find_map(|from| cx.source(*from, key));
                found.map(|value| (key.clone(), value.clone())).into_iter().collect()
            }),
            origins: Box::new(move |nodes, key, out| {
                if let Some(from) = find(nodes, key, &from) {
                    nodes[from.node as usize].origins(nodes, key, out);
                }
            }),
        }
    }
}

impl<G: Key, V: Value> Source<G, Vec<(G, V)>> {
    /// The keys of an index.
    pub(super) fn groups<SK: Key, SV: Value>(
        index: Index<G, SK, SV>,
        merge: impl Fn(&Ctx<'_>, &G) -> Option<V> + Send + 'static,
    ) -> Self {
        let Index { node, slot, .. } = index;
        Self {
            changed: Box::new(move |nodes, each| {
                let index = table::of::<SK, SV>(nodes, node).index::<G>(slot);
                for key in index.changed() {
                    each(key, index.contains(key));
                }
            }),
            transform: Box::new(move |cx, key| merge(cx, key).map(|value| (key.clone(), value)).into_iter().collect()),
            origins: Box::new(move |nodes, key, out| {
                for (member, _) in table::of::<SK, SV>(nodes, node).fetch(slot, key) {
                    nodes[node as usize].origins(nodes, member, out);
                }
            }),
        }
    }

    /// The different keys that rows have, in slot `slot` of node `node`.
    pub(super) fn distinct<SK: Key, SV: Value>(
        node: u32,
        slot: u32,
        make: impl Fn(&Ctx<'_>, &G) -> Option<V> + Send + 'static,
    ) -> Self {
        Self {
            changed: Box::new(move |nodes, each| {
                let counts = table::of::<SK, SV>(nodes, node).counts::<G>(slot);
                for key in counts.changed() {
                    each(key, counts.contains(key));
                }
            }),
            transform: Box::new(move |cx, key| make(cx, key).map(|value| (key.clone(), value)).into_iter().collect()),
            // Any of the rows that have the key; whoever asks has one of them.
            origins: Box::new(|_, _, _| {}),
        }
    }
}
