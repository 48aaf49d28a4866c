//! Transforms run over source rows, and what is remembered of each: what it
//! read, what it said, and what became of it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rapidhash::{RapidHashMap, RapidHashSet};
use smallvec::SmallVec;

use super::ctx::{Ctx, Record};
use super::readers::Readers;
use super::slots::Slots;
use super::source::Source;
use super::{Diagnostic, Key, Node, Provenance, Severity, Stats, Subject};

/// What is remembered of one source row. There is one for each row of the
/// world, so every byte counts.
struct State<P> {
    output: P,
    reads: SmallVec<[u64; 2]>,
}

/// The source rows of a derived collection. `T` is what a transform returns,
/// `P` what is kept of it.
pub(super) struct Evaluation<S, T, P> {
    name: &'static str,
    source: Source<S, T>,
    states: Slots<S, State<P>>,
    readers: Readers,
    /// What rows say, by number. Few say anything.
    diagnostics: RapidHashMap<u32, Box<[Diagnostic]>>,
    recomputed: u64,
    panics: u64,
    /// Whether this commit changed what is said about objects.
    said: bool,
}

/// The source rows that a commit changed.
pub(super) struct Dirty<S> {
    /// Those to recompute.
    pub(super) changed: Vec<S>,
    /// Those that are gone.
    pub(super) gone: Vec<S>,
}

impl<S: Key, T, P: Default> Evaluation<S, T, P> {
    pub(super) fn new(name: &'static str, source: Source<S, T>) -> Self {
        Self {
            name,
            source,
            states: Slots::new(),
            readers: Readers::default(),
            diagnostics: RapidHashMap::default(),
            recomputed: 0,
            panics: 0,
            said: false,
        }
    }

    /// The source rows that changed, or that read something that did.
    pub(super) fn dirty(&self, upstream: &[Box<dyn Node>]) -> Dirty<S> {
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        (self.source.changed)(upstream, &mut |key, exists| match exists {
            true => changed.push(key.clone()),
            false => gone.push(key.clone()),
        });
        if !self.readers.is_empty() {
            let mut seen: RapidHashSet<u32> = RapidHashSet::default();
            for &read in upstream.iter().flat_map(|node| node.touched()) {
                seen.extend(self.readers.of(read));
            }
            if !seen.is_empty() {
                let sourced: RapidHashSet<u32> = changed.iter().chain(&gone).filter_map(|key| self.find(key)).collect();
                changed.extend(seen.difference(&sourced).filter_map(|&slot| self.key(slot).cloned()));
            }
        }
        Dirty { changed, gone }
    }

    /// Runs the transform of a source row. Returns the row's number and the
    /// result; nothing if it panicked, and the old result is to be kept.
    pub(super) fn run(&mut self, upstream: &[Box<dyn Node>], key: &S) -> Option<(u32, T)> {
        self.recomputed += 1;
        let cx = Ctx::new(upstream, false);
        // Transforms are pure: one that panics has changed nothing.
        let result = catch_unwind(AssertUnwindSafe(|| (self.source.transform)(&cx, key)));
        let Record { reads, diagnostics, .. } = cx.finish();
        let slot = self.slot(key);
        match result {
            Ok(output) => {
                self.remember(slot, &reads, diagnostics);
                Some((slot, output))
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
                let old = self.states.at(slot).map(|state| &*state.reads).unwrap_or_default();
                let mut both = [old, &*reads].concat();
                both.sort_unstable();
                both.dedup();
                self.remember(slot, &both, vec![diagnostic]);
                None
            }
        }
    }

    /// What is kept of the row's result.
    pub(super) fn output(&mut self, slot: u32) -> Option<&mut P> {
        self.states.at_mut(slot).map(|state| &mut state.output)
    }

    /// The source row of a number.
    pub(super) fn key(&self, slot: u32) -> Option<&S> {
        self.states.key(slot)
    }

    /// All source rows with what is kept of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&S, &P)> {
        self.states.iter().map(|(source, state)| (source, &state.output))
    }

    /// The number of a source row.
    pub(super) fn find(&self, key: &S) -> Option<u32> {
        self.states.find(key)
    }

    /// Forgets a source row, and returns what was kept of it.
    pub(super) fn forget(&mut self, key: &S) -> Option<P> {
        let slot = self.find(key)?;
        self.remember(slot, &[], Vec::new());
        self.states.remove(key).map(|(_, state)| state.output)
    }

    fn slot(&mut self, key: &S) -> u32 {
        let new = || State { output: P::default(), reads: SmallVec::new() };
        self.find(key).unwrap_or_else(|| self.states.insert(key.clone(), new()))
    }

    fn remember(&mut self, slot: u32, reads: &[u64], diagnostics: Vec<Diagnostic>) {
        let Some(state) = self.states.at_mut(slot) else { return };
        self.readers.replace(slot, &state.reads, reads);
        if *state.reads != *reads {
            state.reads = SmallVec::from_slice(reads);
            state.reads.shrink_to_fit();
        }
        if self.diagnostics.get(&slot).map(|said| &**said).unwrap_or_default() != diagnostics {
            match diagnostics.is_empty() {
                true => _ = self.diagnostics.remove(&slot),
                false => _ = self.diagnostics.insert(slot, diagnostics.into()),
            }
            self.said = true;
        }
    }

    pub(super) fn settle(&mut self) {
        self.said = false;
        self.states.settle();
    }

    pub(super) fn said(&self) -> bool {
        self.said
    }

    pub(super) fn stats(&self, rows: usize) -> Stats {
        Stats { name: self.name, rows, recomputed: self.recomputed, panics: self.panics, ..Stats::default() }
    }

    pub(super) fn diagnostics(&self, each: &mut dyn FnMut(&Diagnostic)) {
        self.diagnostics.values().flat_map(|said| &**said).for_each(each);
    }

    /// Adds the input rows behind a source row, and those its transform looks
    /// at: it is run once more, with its reads written down.
    pub(super) fn origins(&self, nodes: &[Box<dyn Node>], source: &S, out: &mut Provenance) {
        (self.source.origins)(nodes, source, out);
        let cx = Ctx::new(nodes, true);
        if catch_unwind(AssertUnwindSafe(|| (self.source.transform)(&cx, source))).is_ok() {
            for (node, key) in cx.finish().found.unwrap_or_default() {
                // What was read may itself be derived.
                let mut behind = Provenance::default();
                nodes[node as usize].origins(nodes, &*key, &mut behind);
                out.reads.extend(behind.origins);
                out.reads.extend(behind.reads);
            }
        }
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(|text| &**text)).unwrap_or("no message")
}
