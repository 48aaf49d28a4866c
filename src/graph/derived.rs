//! Collections computed from others, row by row.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rapidhash::{RapidHashMap, RapidHashSet};
use smallvec::SmallVec;

use super::ctx::{Ctx, Record};
use super::readers::Readers;
use super::table::{self, Table};
use super::{Collection, Diagnostic, Index, Key, Node, Provenance, Severity, Stats, Subject, Value};

/// What a derived collection is computed from: the rows of a collection, or
/// the keys of an index. `S` is the key of one such source row.
pub(super) struct Source<S, K, V> {
    /// Source rows that this commit changed, and whether they (still) exist.
    changed: Box<dyn Fn(&[Box<dyn Node>], &mut dyn FnMut(&S, bool)) + Send>,
    transform: Box<dyn Fn(&Ctx<'_>, &S) -> Vec<(K, V)> + Send>,
    /// The keys, in the source's node, that a source row stands for.
    origins: Box<dyn Fn(&[Box<dyn Node>], &S, &mut Provenance) + Send>,
}

impl<S: Key, K: Key, V: Value> Source<S, K, V> {
    pub(super) fn rows<SV: Value, O: IntoIterator<Item = (K, V)>>(
        source: Collection<S, SV>,
        transform: impl Fn(&Ctx<'_>, &S, &SV) -> O + Send + 'static,
    ) -> Self {
        let node = source.node;
        Self {
            changed: Box::new(move |nodes, each| {
                for change in table::of::<S, SV>(nodes, node).changes() {
                    each(&change.key, change.new.is_some());
                }
            }),
            transform: Box::new(move |cx, key| match cx.source(source, key) {
                Some(value) => transform(cx, key, value).into_iter().collect(),
                None => Vec::new(),
            }),
            origins: Box::new(move |nodes, key, out| nodes[node as usize].origins(nodes, key, out)),
        }
    }
}

impl<K: Key, V: Value + Clone> Source<K, K, V> {
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

impl<G: Key, V: Value> Source<G, G, V> {
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
                for member in table::of::<SK, SV>(nodes, node).index::<G>(slot).get(key) {
                    nodes[node as usize].origins(nodes, member, out);
                }
            }),
        }
    }
}

/// What is remembered of one source row.
struct State<S, K> {
    source: S,
    outputs: SmallVec<[K; 1]>,
    reads: Box<[u64]>,
    diagnostics: Box<[Diagnostic]>,
}

pub(super) struct Derived<S, K, V> {
    name: &'static str,
    source: Source<S, K, V>,
    table: Table<K, V>,
    states: Vec<Option<State<S, K>>>,
    free: Vec<u32>,
    slots: RapidHashMap<S, u32>,
    readers: Readers,
    /// Rows that several source rows claim: all claims, the smallest wins.
    contested: RapidHashMap<K, BTreeMap<S, Arc<V>>>,
    recomputed: u64,
    panics: u64,
    /// Whether this commit changed what is said about objects.
    said: bool,
}

impl<S: Key, K: Key, V: Value> Derived<S, K, V> {
    pub(super) fn new(name: &'static str, source: Source<S, K, V>) -> Self {
        Self {
            name,
            source,
            table: Table::new(),
            states: Vec::new(),
            free: Vec::new(),
            slots: RapidHashMap::default(),
            readers: Readers::default(),
            contested: RapidHashMap::default(),
            recomputed: 0,
            panics: 0,
            said: false,
        }
    }

    /// The source rows to recompute, and those that are gone.
    fn dirty(&self, upstream: &[Box<dyn Node>]) -> (Vec<S>, Vec<S>) {
        let (mut dirty, mut gone) = (Vec::new(), Vec::new());
        (self.source.changed)(upstream, &mut |key, exists| match exists {
            true => dirty.push(key.clone()),
            false => gone.push(key.clone()),
        });
        if !self.readers.is_empty() {
            let mut seen: RapidHashSet<u32> = RapidHashSet::default();
            for &read in upstream.iter().flat_map(|node| node.touched()) {
                seen.extend(self.readers.of(read));
            }
            let sourced: RapidHashSet<u32> =
                dirty.iter().chain(&gone).filter_map(|key| self.slots.get(key).copied()).collect();
            let states = seen.difference(&sourced).filter_map(|&slot| self.states[slot as usize].as_ref());
            dirty.extend(states.map(|state| state.source.clone()));
        }
        (dirty, gone)
    }

    fn compute(&mut self, upstream: &[Box<dyn Node>], key: S) {
        self.recomputed += 1;
        let cx = Ctx::new(upstream, false);
        // Transforms are pure: one that panics has changed nothing.
        let result = catch_unwind(AssertUnwindSafe(|| (self.source.transform)(&cx, &key)));
        let Record { reads, diagnostics, .. } = cx.finish();
        let slot = self.slot(&key);
        match result {
            Ok(outputs) => {
                self.claim(slot, &key, outputs);
                self.remember(slot, reads, diagnostics);
            }
            Err(panic) => {
                self.panics += 1;
                tracing::error!(collection = self.name, ?key, panic = text(&*panic), "transform panicked; row kept");
                let diagnostic = Diagnostic {
                    subject: Subject { kind: self.name, namespace: "".into(), name: format!("{key:?}").into() },
                    field: String::new(),
                    severity: Severity::Error,
                    reason: "InternalError",
                    message: format!("evaluation panicked, the previous result is kept: {}", text(&*panic)),
                };
                // What it read before and what it read now may both mend it.
                let old = self.states[slot as usize].as_ref().map(|state| &*state.reads).unwrap_or_default();
                let mut both = [old, &*reads].concat();
                both.sort_unstable();
                both.dedup();
                self.remember(slot, both, vec![diagnostic]);
            }
        }
    }

    fn slot(&mut self, key: &S) -> u32 {
        if let Some(&slot) = self.slots.get(key) {
            return slot;
        }
        let state = State { source: key.clone(), outputs: SmallVec::new(), reads: [].into(), diagnostics: [].into() };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.states.push(None);
            (self.states.len() - 1) as u32
        });
        self.states[slot as usize] = Some(state);
        self.slots.insert(key.clone(), slot);
        slot
    }

    fn remember(&mut self, slot: u32, reads: Vec<u64>, diagnostics: Vec<Diagnostic>) {
        let Some(state) = &mut self.states[slot as usize] else { return };
        self.readers.replace(slot, &state.reads, &reads);
        if *state.reads != *reads {
            state.reads = reads.into();
        }
        if *state.diagnostics != *diagnostics {
            state.diagnostics = diagnostics.into();
            self.said = true;
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
        let old = match &mut self.states[slot as usize] {
            Some(state) => std::mem::replace(&mut state.outputs, keys.clone()),
            None => return,
        };
        for key in old.iter().filter(|key| !keys.contains(key)) {
            self.release(slot, source, key);
        }
    }

    fn claim_one(&mut self, slot: u32, source: &S, key: K, value: Arc<V>) {
        let owner = self.table.owner(&key).filter(|&owner| owner != slot);
        if !self.contested.contains_key(&key) {
            let Some(other) = owner else {
                self.table.set(key, value, slot);
                return;
            };
            let (Some(state), Some(old)) = (&self.states[other as usize], self.table.get(&key)) else { return };
            let claims = BTreeMap::from([(state.source.clone(), old.clone())]);
            self.contested.insert(key.clone(), claims);
        }
        if let Some(claims) = self.contested.get_mut(&key) {
            claims.insert(source.clone(), value);
        }
        self.settle_claims(&key);
    }

    fn release(&mut self, slot: u32, source: &S, key: &K) {
        match self.contested.get_mut(key) {
            Some(claims) => {
                claims.remove(source);
                self.settle_claims(key);
            }
            None if self.table.owner(key) == Some(slot) => self.table.remove(key),
            None => {}
        }
    }

    /// Shows the claim of the smallest source row.
    fn settle_claims(&mut self, key: &K) {
        let Some(claims) = self.contested.get(key) else { return };
        if let Some((winner, value)) = claims.first_key_value()
            && let Some(&slot) = self.slots.get(winner)
        {
            self.table.set(key.clone(), value.clone(), slot);
        }
        if claims.len() <= 1 {
            self.contested.remove(key);
        }
    }

    fn forget(&mut self, key: &S) {
        let Some(&slot) = self.slots.get(key) else { return };
        self.claim(slot, key, Vec::new());
        self.remember(slot, Vec::new(), Vec::new());
        self.slots.remove(key);
        self.states[slot as usize] = None;
        self.free.push(slot);
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(|text| &**text)).unwrap_or("no message")
}

impl<S: Key, K: Key, V: Value> Node for Derived<S, K, V> {
    fn evaluate(&mut self, upstream: &[Box<dyn Node>]) {
        let (dirty, gone) = self.dirty(upstream);
        for key in &gone {
            self.forget(key);
        }
        for key in dirty {
            self.compute(upstream, key);
        }
        self.table.finish(upstream.len() as u32);
    }

    fn touched(&self) -> &[u64] {
        self.table.touched()
    }

    fn settle(&mut self) {
        self.table.settle();
        self.said = false;
        // Growing doubles; a cold start may leave nearly half of it unused.
        if self.states.capacity() > self.states.len() + self.states.len() / 4 + 1024 {
            self.states.shrink_to(self.states.len() + self.states.len() / 16);
        }
    }

    fn said(&self) -> bool {
        self.said
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
        Stats {
            name: self.name,
            rows: self.table.len(),
            recomputed: self.recomputed,
            panics: self.panics,
            ..Stats::default()
        }
    }

    fn diagnostics(&self, each: &mut dyn FnMut(&Diagnostic)) {
        self.states.iter().flatten().flat_map(|state| &*state.diagnostics).for_each(each);
    }

    fn origins(&self, nodes: &[Box<dyn Node>], key: &dyn Any, out: &mut Provenance) {
        let Some(key) = key.downcast_ref::<K>() else { return };
        let Some(owner) = self.table.owner(key) else { return };
        let Some(state) = &self.states[owner as usize] else { return };
        (self.source.origins)(nodes, &state.source, out);
        let cx = Ctx::new(nodes, true);
        if catch_unwind(AssertUnwindSafe(|| (self.source.transform)(&cx, &state.source))).is_ok() {
            out.reads.extend(cx.finish().found.unwrap_or_default());
        }
    }
}
