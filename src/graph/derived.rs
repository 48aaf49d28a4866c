//! Collections computed from others, row by row.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use rapidhash::RapidHashMap;
use smallvec::SmallVec;

use super::dump::Shown;
use super::evaluation::Evaluation;
use super::source::Source;
use super::table::Table;
use super::{Diagnostic, Key, Node, Provenance, Stats, Value};

pub(super) struct Derived<S, K, V> {
    /// Of each source row, the keys of its rows here.
    evaluation: Evaluation<S, Vec<(K, V)>, SmallVec<[K; 1]>>,
    table: Table<K, V>,
    /// Of each row here, by its number, the number of its source row.
    owners: Vec<u32>,
    /// Rows that several source rows claim: all claims, the smallest wins.
    contested: RapidHashMap<K, BTreeMap<S, Arc<V>>>,
}

impl<S: Key, K: Key, V: Value> Derived<S, K, V> {
    pub(super) fn new(name: &'static str, source: Source<S, Vec<(K, V)>>) -> Self {
        Self {
            evaluation: Evaluation::new(name, source),
            table: Table::new(),
            owners: Vec::new(),
            contested: RapidHashMap::default(),
        }
    }

    /// The source row of a row.
    fn owner(&self, key: &K) -> Option<u32> {
        self.table.number(key).map(|number| self.owners[number as usize])
    }

    /// Makes a row of a source row visible.
    fn show(&mut self, key: K, value: Arc<V>, owner: u32) {
        let number = self.table.set(key, value) as usize;
        // Numbers have no gaps, so this is the row's place or a new one.
        match self.owners.get_mut(number) {
            Some(known) => *known = owner,
            None => self.owners.push(owner),
        }
    }

    /// Replaces the outputs of a source row.
    fn claim(&mut self, slot: u32, source: &S, outputs: Vec<(K, V)>) {
        let mut keys: SmallVec<[K; 1]> = SmallVec::new();
        for (key, value) in outputs {
            if keys.contains(&key) {
                // The first of two outputs with one key counts, as in a merge.
                continue;
            }
            keys.push(key.clone());
            self.claim_one(slot, source, key, Arc::new(value));
        }
        let old = match self.evaluation.output(slot) {
            Some(kept) => std::mem::replace(kept, keys.clone()),
            None => return,
        };
        for key in old.iter().filter(|key| !keys.contains(key)) {
            self.release(slot, source, key);
        }
    }

    fn claim_one(&mut self, slot: u32, source: &S, key: K, value: Arc<V>) {
        let owner = self.owner(&key).filter(|&owner| owner != slot);
        if !self.contested.contains_key(&key) {
            let Some(other) = owner else {
                self.show(key, value, slot);
                return;
            };
            let (Some(source), Some(old)) = (self.evaluation.key(other), self.table.get(&key)) else { return };
            let claims = BTreeMap::from([(source.clone(), old.clone())]);
            self.contested.insert(key.clone(), claims);
        }
        if let Some(claims) = self.contested.get_mut(&key) {
            claims.insert(source.clone(), value);
        }
        self.settle_claims(&key);
    }

    fn release(&mut self, slot: u32, source: &S, key: &K) {
        if let Some(claims) = self.contested.get_mut(key) {
            claims.remove(source);
            self.settle_claims(key);
        } else if self.owner(key) == Some(slot) {
            self.table.remove(key);
        }
    }

    /// Shows the claim of the smallest source row.
    fn settle_claims(&mut self, key: &K) {
        let Some(claims) = self.contested.get(key) else { return };
        let alone = claims.len() <= 1;
        if let Some((winner, value)) = claims.first_key_value()
            && let Some(slot) = self.evaluation.find(winner)
        {
            let value = value.clone();
            self.show(key.clone(), value, slot);
        }
        if alone {
            self.contested.remove(key);
        }
    }

    fn forget(&mut self, key: &S) {
        let Some(slot) = self.evaluation.find(key) else { return };
        self.claim(slot, key, Vec::new());
        self.evaluation.forget(key);
    }
}

impl<S: Key, K: Key, V: Value> Node for Derived<S, K, V> {
    fn evaluate(&mut self, upstream: &[Box<dyn Node>]) {
        let dirty = self.evaluation.dirty(upstream);
        for key in &dirty.gone {
            self.forget(key);
        }
        for key in &dirty.changed {
            if let Some((slot, rows)) = self.evaluation.run(upstream, key) {
                self.claim(slot, key, rows);
            }
        }
        self.table.finish(upstream.len() as u32);
    }

    fn touched(&self) -> &[u64] {
        self.table.touched()
    }

    fn settle(&mut self) {
        self.table.settle();
        self.evaluation.settle();
    }

    fn said(&self) -> bool {
        self.evaluation.said()
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
        self.evaluation.stats(self.table.len())
    }

    fn diagnostics(&self, each: &mut dyn FnMut(&Diagnostic)) {
        self.evaluation.diagnostics(each);
    }

    fn origins(&self, nodes: &[Box<dyn Node>], key: &dyn Any, out: &mut Provenance) {
        let owner = key.downcast_ref::<K>().and_then(|key| self.owner(key));
        if let Some(source) = owner.and_then(|owner| self.evaluation.key(owner)) {
            self.evaluation.origins(nodes, source, out);
        }
    }
    fn show(&self, each: &mut dyn FnMut(Shown<'_>) -> ControlFlow<()>) {
        self.table.show(each);
    }
}
