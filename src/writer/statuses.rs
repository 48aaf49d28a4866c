//! What is to be said of objects, as it changes from commit to commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use crate::api::{Kind, ObjectKey};
use crate::graph::{Collection, Diagnostic, Graph};
use crate::status::facts::{Collections, GatewayFacts, GatewayTable};
use crate::status::{self, Facts, Statuses};

/// Keeps statuses up to date.
pub(super) struct Book {
    facts: BTreeMap<Kind, Collection<ObjectKey, Facts>>,
    statuses: watch::Sender<Statuses>,
    of_gateways: Collection<ObjectKey, GatewayFacts>,
    gateways: watch::Sender<GatewayTable>,
}

impl Book {
    pub(super) fn new(facts: &Collections) -> Self {
        Self {
            facts: facts.objects.iter().copied().collect(),
            statuses: watch::Sender::new(Statuses::new()),
            of_gateways: facts.gateways,
            gateways: watch::Sender::new(GatewayTable::new()),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Statuses> {
        self.statuses.subscribe()
    }

    pub(super) fn gateways(&self) -> watch::Receiver<GatewayTable> {
        self.gateways.subscribe()
    }

    /// What is known of an object.
    pub(super) fn facts<'g>(&self, graph: &'g Graph, (kind, key): &(Kind, ObjectKey)) -> Option<&'g Facts> {
        graph.get(*self.facts.get(kind)?, key).map(|facts| &**facts)
    }

    /// Takes what the last commit changed. `before` and `now` are diagnostics,
    /// sorted.
    pub(super) fn update(&self, graph: &Graph, before: &[Diagnostic], now: &[Diagnostic]) {
        let changes = graph.changes(self.of_gateways);
        if !changes.is_empty() {
            self.gateways.send_modify(|gateways| {
                for change in changes {
                    match &change.new {
                        Some(facts) => _ = gateways.insert(change.key.clone(), facts.clone()),
                        None => _ = gateways.remove(&change.key),
                    }
                }
            });
        }
        let mut touched: BTreeSet<(Kind, ObjectKey)> = BTreeSet::new();
        for (kind, facts) in &self.facts {
            touched.extend(graph.changes(*facts).iter().map(|change| (*kind, change.key.clone())));
        }
        let new = now.iter().filter(|one| before.binary_search(one).is_err());
        let gone = before.iter().filter(|one| now.binary_search(one).is_err());
        touched.extend(new.chain(gone).filter_map(|one| status::object(&one.subject)));
        if touched.is_empty() {
            return;
        }
        self.statuses.send_if_modified(|statuses| {
            let mut modified = false;
            for object in touched {
                let facts = self.facts(graph, &object);
                match status::status(object.0, facts, status::about(now, &object)) {
                    Some(new) if statuses.get(&object).is_some_and(|old| **old == new) => {}
                    Some(new) => {
                        statuses.insert(object, Arc::new(new));
                        modified = true;
                    }
                    None => modified |= statuses.remove(&object).is_some(),
                }
            }
            modified
        });
    }
}
