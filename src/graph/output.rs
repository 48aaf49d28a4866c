//! Rows that leave the graph: nothing in it reads them, so it keeps a
//! fingerprint of each and hands the row itself on.

use std::any::Any;
use std::num::NonZeroU64;
use std::ops::ControlFlow;

use super::dump::Shown;
use super::evaluation::Evaluation;
use super::source::Source;
use super::{Diagnostic, Key, Node, Provenance, Stats, Value};

/// What takes the rows that change; `None` is a row that is gone.
pub(super) type Sink<S, V> = Box<dyn FnMut(&S, Option<V>) + Send>;

/// A fingerprint; zero, which one row in 2^64 has, counts as another number so
/// that "no row" needs no room of its own.
type Print = NonZeroU64;

pub(super) struct OutputNode<S, V> {
    evaluation: Evaluation<S, Option<V>, Option<Print>>,
    fingerprint: fn(&V) -> u64,
    sink: Sink<S, V>,
    rows: usize,
    changed: bool,
}

impl<S: Key, V: Value> OutputNode<S, V> {
    pub(super) fn new(
        name: &'static str,
        source: Source<S, Option<V>>,
        fingerprint: fn(&V) -> u64,
        sink: Sink<S, V>,
    ) -> Self {
        Self { evaluation: Evaluation::new(name, source), fingerprint, sink, rows: 0, changed: false }
    }

    /// The source rows that have a row here.
    pub(super) fn keys(&self) -> impl Iterator<Item = &S> {
        self.evaluation.iter().filter(|(_, print)| print.is_some()).map(|(key, _)| key)
    }

    fn hand_on(&mut self, key: &S, old: Option<Print>, new: Option<V>) {
        self.changed = true;
        self.rows = self.rows + usize::from(new.is_some()) - usize::from(old.is_some());
        (self.sink)(key, new);
    }
}

impl<S: Key, V: Value> Node for OutputNode<S, V> {
    fn evaluate(&mut self, upstream: &[Box<dyn Node>]) {
        let dirty = self.evaluation.dirty(upstream);
        for key in &dirty.gone {
            if let Some(Some(old)) = self.evaluation.forget(key) {
                self.hand_on(key, Some(old), None);
            }
        }
        for key in &dirty.changed {
            let Some((slot, new)) = self.evaluation.run(upstream, key) else { continue };
            let print = new.as_ref().map(|row| Print::new((self.fingerprint)(row)).unwrap_or(Print::MAX));
            let Some(kept) = self.evaluation.output(slot) else { continue };
            let old = std::mem::replace(kept, print);
            if old != print {
                self.hand_on(key, old, new);
            }
        }
    }

    fn touched(&self) -> &[u64] {
        &[]
    }

    fn changed(&self) -> bool {
        self.changed
    }

    fn settle(&mut self) {
        self.changed = false;
        self.evaluation.settle();
    }

    fn said(&self) -> bool {
        self.evaluation.said()
    }

    fn table(&self) -> &dyn Any {
        // No handle to a table leads here.
        self
    }

    fn table_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn stats(&self) -> Stats {
        self.evaluation.stats(self.rows)
    }

    fn diagnostics(&self, each: &mut dyn FnMut(&Diagnostic)) {
        self.evaluation.diagnostics(each);
    }

    fn origins(&self, nodes: &[Box<dyn Node>], key: &dyn Any, out: &mut Provenance) {
        if let Some(key) = key.downcast_ref::<S>()
            && self.evaluation.find(key).is_some()
        {
            self.evaluation.origins(nodes, key, out);
        }
    }
    fn show(&self, each: &mut dyn FnMut(Shown<'_>) -> ControlFlow<()>) {
        let _ = self.keys().try_for_each(|key| each(Shown { key, typed: key, row: None }));
    }
}
