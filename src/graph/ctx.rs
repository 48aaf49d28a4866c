//! A transform's only window: it reads other collections, and writes down that
//! it did.

use std::any::Any;
use std::cell::RefCell;

use super::table::{self, read_all_hash, read_hash};
use super::{Collection, Diagnostic, Index, Key, Node, Value};

/// What a transform may read, and where it leaves its diagnostics.
pub struct Ctx<'g> {
    nodes: &'g [Box<dyn Node>],
    record: RefCell<Record>,
}

#[derive(Default)]
pub(super) struct Record {
    pub(super) reads: Vec<u64>,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Rows that were found, by node and key; only kept on request.
    pub(super) found: Option<Vec<(u32, Box<dyn Any>)>>,
}

impl<'g> Ctx<'g> {
    pub(super) fn new(nodes: &'g [Box<dyn Node>], trace: bool) -> Self {
        let record = Record { found: trace.then(Vec::new), ..Record::default() };
        Self { nodes, record: RefCell::new(record) }
    }

    pub(super) fn finish(self) -> Record {
        let mut record = self.record.into_inner();
        record.reads.sort_unstable();
        record.reads.dedup();
        record
    }

    /// The row with this key.
    pub fn get<K: Key, V: Value>(&self, collection: Collection<K, V>, key: &K) -> Option<&'g V> {
        self.read(read_hash(collection.node, 0, key));
        let value: Option<&'g V> = table::of(self.nodes, collection.node).get(key).map(|value| &**value);
        if value.is_some() {
            self.found(collection.node, key);
        }
        value
    }

    /// The rows with this index key, in the order of their own keys.
    pub fn fetch<G: Key, K: Key, V: Value>(
        &self,
        index: Index<G, K, V>,
        key: &G,
    ) -> impl Iterator<Item = (&'g K, &'g V)> {
        self.read(read_hash(index.node, index.slot, key));
        let rows = table::of::<K, V>(self.nodes, index.node).fetch(index.slot, key);
        rows.inspect(move |(key, _)| self.found(index.node, *key))
    }

    /// The source row of the transform: its changes arrive by themselves.
    pub(super) fn source<K: Key, V: Value>(&self, collection: Collection<K, V>, key: &K) -> Option<&'g V> {
        table::of(self.nodes, collection.node).get(key).map(|value| &**value)
    }

    /// Every row, in the order of their keys. The reader is recomputed on any
    /// change of the collection, so this is for small ones.
    pub fn all<K: Key, V: Value>(&self, collection: Collection<K, V>) -> Vec<(&'g K, &'g V)> {
        self.read(read_all_hash(collection.node));
        let table = table::of::<K, V>(self.nodes, collection.node);
        let mut rows: Vec<_> = table.iter().map(|(key, value)| (key, &**value)).collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        for (key, _) in &rows {
            self.found(collection.node, *key);
        }
        rows
    }

    /// Says something about an object, for as long as this row stays as it is.
    pub fn diagnose(&self, diagnostic: Diagnostic) {
        self.record.borrow_mut().diagnostics.push(diagnostic);
    }

    fn read(&self, hash: u64) {
        self.record.borrow_mut().reads.push(hash);
    }

    fn found(&self, node: u32, key: &impl Key) {
        if let Some(found) = &mut self.record.borrow_mut().found {
            found.push((node, Box::new(key.clone())));
        }
    }
}
