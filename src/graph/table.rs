//! The rows of one collection, their indexes, and what the last commit changed.

use std::any::Any;
use std::hash::{BuildHasher, Hash};
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use rapidhash::RapidHashMap;
use rapidhash::fast::SeedableState;

use super::dump::Shown;
use super::index::{AnyIndex, Changed, Counts, IndexTable};
use super::slots::Slots;
use super::{Key, Node, Value};

/// A row that a commit changed. Never equal on both sides.
pub struct RowChange<K, V> {
    /// The row's key.
    pub key: K,
    /// Before; `None` if the row is new.
    pub old: Option<Arc<V>>,
    /// After; `None` if the row is gone.
    pub new: Option<Arc<V>>,
    /// The numbers of the row before and after.
    pub(super) numbers: (Option<u32>, Option<u32>),
}

pub(super) struct Table<K, V> {
    rows: Slots<K, Arc<V>>,
    indexes: Vec<Box<dyn AnyIndex<K, V>>>,
    /// What rows were before this commit first touched them, and their numbers.
    before: RapidHashMap<K, Option<(u32, Arc<V>)>>,
    changes: Vec<RowChange<K, V>>,
    touched: Vec<u64>,
}

/// The table behind node `node`.
pub(super) fn of<K: Key, V: Value>(nodes: &[Box<dyn Node>], node: u32) -> &Table<K, V> {
    nodes[node as usize].table().downcast_ref().expect("a handle has its table's types")
}

/// What stands for a read of `key` in `slot` of node `node`. Slot 0 is the
/// table itself, slot n its n-th index. A collision costs a recomputation that
/// was not needed, and never misses one that was.
pub(super) fn read_hash(node: u32, slot: u32, key: &impl Hash) -> u64 {
    HASHER.hash_one((node, slot, key))
}

/// What stands for a read of all rows of node `node`.
pub(super) fn read_all_hash(node: u32) -> u64 {
    HASHER.hash_one((node, u32::MAX))
}

/// A fixed seed: hashes are made in one place and looked up in another.
static HASHER: LazyLock<SeedableState<'static>> = LazyLock::new(SeedableState::fixed);

impl<K: Key, V: Value> Table<K, V> {
    pub(super) fn new() -> Self {
        Self {
            rows: Slots::new(),
            indexes: Vec::new(),
            before: RapidHashMap::default(),
            changes: Vec::new(),
            touched: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn get(&self, key: &K) -> Option<&Arc<V>> {
        self.rows.get(key)
    }

    /// The number of a row, which it has for as long as it is there.
    pub(super) fn number(&self, key: &K) -> Option<u32> {
        self.rows.find(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Arc<V>)> {
        self.rows.iter()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.rows.iter().map(|(key, _)| key)
    }

    pub(super) fn show(&self, each: &mut dyn FnMut(Shown<'_>) -> ControlFlow<()>) {
        let _ = self.iter().try_for_each(|(key, row)| each(Shown { key, typed: key, row: Some(row) }));
    }

    pub(super) fn changes(&self) -> &[RowChange<K, V>] {
        &self.changes
    }

    pub(super) fn touched(&self) -> &[u64] {
        &self.touched
    }

    /// Makes a row visible and returns its number. An equal value is not a
    /// change.
    pub(super) fn set(&mut self, key: K, value: Arc<V>) -> u32 {
        let Some(number) = self.rows.find(&key) else {
            self.before.entry(key.clone()).or_insert(None);
            return self.rows.insert(key, value);
        };
        if let Some(row) = self.rows.at_mut(number)
            && *row != value
        {
            let old = std::mem::replace(row, value);
            self.before.entry(key).or_insert(Some((number, old)));
        }
        number
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(row) = self.rows.remove(key) {
            self.before.entry(key.clone()).or_insert(Some(row));
        }
    }

    /// Turns what happened since the last commit into changes, and brings the
    /// indexes up to date. A row that ends as it began has not changed.
    pub(super) fn finish(&mut self, node: u32) {
        let mut moved = Vec::new();
        for (key, old) in self.before.drain() {
            let to = self.rows.find(&key);
            let new = to.and_then(|number| self.rows.at(number)).cloned();
            let (from, old) = old.unzip();
            let change = RowChange { key, old, new, numbers: (from, to) };
            if change.old != change.new {
                self.changes.push(change);
            } else if from != to {
                moved.push(change);
            }
        }
        if self.changes.is_empty() && moved.is_empty() {
            return;
        }
        for change in &self.changes {
            self.touched.push(read_hash(node, 0, &change.key));
        }
        if !self.changes.is_empty() {
            self.touched.push(read_all_hash(node));
        }
        let changed = Changed { rows: &self.rows, changes: &self.changes, moved: &moved };
        for (at, index) in self.indexes.iter_mut().enumerate() {
            index.apply(node, at as u32 + 1, &changed, &mut self.touched);
        }
    }

    pub(super) fn settle(&mut self) {
        self.changes.clear();
        self.touched.clear();
        for index in &mut self.indexes {
            index.settle();
        }
        // A cold start leaves buffers of the size of the world behind.
        const KEEP: usize = 4096;
        self.changes.shrink_to(KEEP);
        self.touched.shrink_to(KEEP);
        self.before.shrink_to(KEEP);
        self.rows.settle();
    }

    pub(super) fn add_index<G: Key>(&mut self, keys: impl Fn(&K, &V, &mut Vec<G>) + Send + 'static) -> u32 {
        assert!(self.rows.is_empty(), "indexes are declared before the first commit");
        self.indexes.push(Box::new(IndexTable::new(keys)));
        self.indexes.len() as u32
    }

    pub(super) fn add_counts<G: Key>(&mut self, key: impl Fn(&K, &V) -> Option<G> + Send + 'static) -> u32 {
        assert!(self.rows.is_empty(), "indexes are declared before the first commit");
        self.indexes.push(Box::new(Counts::new(key)));
        self.indexes.len() as u32
    }

    pub(super) fn counts<G: Key>(&self, slot: u32) -> &Counts<G, K, V> {
        let index: &dyn Any = self.indexes[slot as usize - 1].as_any();
        index.downcast_ref().expect("a handle has its index's types")
    }

    pub(super) fn index<G: Key>(&self, slot: u32) -> &IndexTable<G, K, V> {
        let index: &dyn Any = self.indexes[slot as usize - 1].as_any();
        index.downcast_ref().expect("a handle has its index's types")
    }

    /// The rows with index key `key`, in the order of their own keys.
    pub(super) fn fetch<'a, G: Key>(
        &'a self,
        slot: u32,
        key: &G,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, G, K, V> {
        let numbers = self.index::<G>(slot).get(key).iter();
        numbers.filter_map(|number| self.rows.row(*number)).map(|(key, value)| (key, &**value))
    }
}
