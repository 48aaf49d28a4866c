//! Collections whose rows are facts from outside.

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::Arc;

use rapidhash::RapidHashMap;

use super::dump::Shown;
use super::table::Table;
use super::{Diagnostic, Key, Node, Provenance, Stats, Value};

pub(super) struct Input<K, V> {
    name: &'static str,
    table: Table<K, V>,
    /// Facts since the last commit; the last one about a key counts.
    pending: RapidHashMap<K, Option<Arc<V>>>,
    recomputed: u64,
}

impl<K: Key, V: Value> Input<K, V> {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, table: Table::new(), pending: RapidHashMap::default(), recomputed: 0 }
    }

    pub(super) fn put(&mut self, key: K, value: Arc<V>) {
        self.pending.insert(key, Some(value));
    }

    pub(super) fn delete(&mut self, key: K) {
        self.pending.insert(key, None);
    }

    pub(super) fn reset(&mut self, rows: impl IntoIterator<Item = (K, Arc<V>)>) {
        self.pending.clear();
        self.pending.extend(self.table.keys().map(|key| (key.clone(), None)));
        self.pending.extend(rows.into_iter().map(|(key, value)| (key, Some(value))));
    }
}

impl<K: Key, V: Value> Node for Input<K, V> {
    fn evaluate(&mut self, upstream: &[Box<dyn Node>]) {
        self.recomputed += self.pending.len() as u64;
        for (key, value) in self.pending.drain() {
            match value {
                Some(value) => _ = self.table.set(key, value),
                None => self.table.remove(&key),
            }
        }
        self.pending.shrink_to(4096);
        self.table.finish(upstream.len() as u32);
    }

    fn touched(&self) -> &[u64] {
        self.table.touched()
    }

    fn settle(&mut self) {
        self.table.settle();
    }

    fn said(&self) -> bool {
        false
    }

    fn table(&self) -> &dyn Any {
        &self.table
    }

    fn table_mut(&mut self) -> &mut dyn Any {
        &mut self.table
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn stats(&self) -> Stats {
        Stats { name: self.name, rows: self.table.len(), recomputed: self.recomputed, ..Stats::default() }
    }

    fn diagnostics(&self, _: &mut dyn FnMut(&Diagnostic)) {}

    fn origins(&self, _: &[Box<dyn Node>], key: &dyn Any, out: &mut Provenance) {
        if let Some(key) = key.downcast_ref::<K>()
            && self.table.get(key).is_some()
        {
            out.origins.push((self.name, format!("{key:?}")));
        }
    }
    fn show(&self, each: &mut dyn FnMut(Shown<'_>) -> ControlFlow<()>) {
        self.table.show(each);
    }
}
