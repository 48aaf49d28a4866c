//! What a waypoint was told of a service and rejected is held back, as all of
//! its services are in one listener: the others go on. Which parts are held
//! back is an input like any other, by a hash of their content, so a part is
//! told again as soon as it is another one.
//!
//! In its place there is what the waypoint accepted of the service before. If
//! nothing was, connections to the service end: nothing of it can be enforced.

use std::sync::Arc;

use crate::graph::{Collection, Graph, Provenance};
use crate::model::service::ServiceKey;
use crate::proxy::Scope;
use crate::xds::view::Part;

use super::Served;
use super::chain::Chains;

/// The parts of listeners, and which of them are held back.
pub struct Quarantine {
    held: Collection<Served, Held>,
    chains: Collection<Served, Arc<Chains>>,
    parts: Collection<Served, Arc<Chains>>,
}

/// What is held back of a service.
#[derive(PartialEq)]
struct Held {
    /// The hash of what is.
    print: u64,
    /// What is told instead.
    instead: Option<Arc<Chains>>,
}

/// A part that is held back.
#[derive(Clone, Debug)]
pub struct HeldBack {
    /// The hash of what is.
    pub print: u64,
    /// What is told instead, if anything was accepted before.
    pub instead: Option<Part>,
}

impl Quarantine {
    /// Declares the parts that are told, given those there should be.
    pub(super) fn new(graph: &mut Graph, chains: Collection<Served, Arc<Chains>>) -> Self {
        let held = graph.input("quarantine");
        let parts = graph.derive("waypoint_parts", chains, move |cx, key: &Served, chains: &Arc<Chains>| {
            let held: Option<&Held> = cx.get(held, key);
            let part = match held.filter(|held| held.print == chains.print) {
                None => chains.clone(),
                Some(Held { instead: Some(instead), .. }) => instead.clone(),
                Some(Held { instead: None, .. }) => Arc::new(chains.closed(key)),
            };
            [(key.clone(), part)]
        });
        Self { held, chains, parts }
    }

    /// The parts that are told.
    pub(super) fn parts(&self) -> Collection<Served, Arc<Chains>> {
        self.parts
    }

    /// The parts that the last commit changed, by scope and name.
    pub(in crate::envoy) fn changes(&self, graph: &Graph) -> Vec<(Scope, Arc<str>, Option<Part>)> {
        let changes = graph.changes(self.parts).iter();
        let part = |chains: &Arc<Chains>| Part { print: chains.print, content: chains.clone() };
        changes
            .map(|change| {
                let Served { scope, service } = &change.key;
                (scope.clone(), service.to_string().into(), change.new.as_ref().map(|new| part(new)))
            })
            .collect()
    }

    /// Has a part held back, or told, from the next commit on.
    pub fn hold(&self, graph: &mut Graph, scope: &Scope, name: &str, held: Option<HeldBack>) {
        let Some(key) = key(scope, name) else { return };
        match held {
            Some(HeldBack { print, instead }) => {
                let instead = instead.and_then(|part| part.content.downcast().ok());
                graph.put(self.held, key, Held { print, instead });
            }
            None => graph.delete(self.held, key),
        }
    }

    /// The hash of what there should be of a part.
    pub fn wanted(&self, graph: &Graph, scope: &Scope, name: &str) -> Option<u64> {
        graph.get(self.chains, &key(scope, name)?).map(|chains| chains.print)
    }

    /// Where a part comes from.
    pub fn provenance(&self, graph: &Graph, scope: &Scope, name: &str) -> Provenance {
        key(scope, name).map(|key| graph.provenance(self.chains, &key)).unwrap_or_default()
    }

    /// Whether a text is in a part.
    pub fn contains(part: &Part, text: &str) -> bool {
        part.content.downcast_ref::<Chains>().is_some_and(|chains| chains.contains(text.as_bytes()))
    }
}

fn key(scope: &Scope, name: &str) -> Option<Served> {
    let (namespace, hostname) = name.split_once('/')?;
    let service = ServiceKey { namespace: namespace.into(), hostname: hostname.into() };
    Some(Served { scope: scope.clone(), service })
}
