//! What a waypoint was told of a service and rejected is held back, as all of
//! its services are in one listener: the others go on. Which parts are held
//! back is an input like any other, by a hash of their content, so a part is
//! told again as soon as it is another one.
//!
//! In its place there is what the waypoint accepted of the service before. If
//! nothing was, connections to the service end: nothing of it can be enforced.
//!
//! Where it is not known which part is to blame, a waypoint can be asked about
//! some of them: they are in one more listener then, to which nothing leads.

use std::sync::Arc;

use rapidhash::v3::rapidhash_v3;

use crate::envoy::{Configs, Scoped};
use crate::graph::{Collection, Graph, Provenance};
use crate::model::service::ServiceKey;
use crate::proxy::Scope;
use crate::xds::resource::ResourceType;
use crate::xds::view::Part;

use super::Served;
use super::chain::{self, Chains};

/// The parts of listeners, and which of them are held back.
pub struct Quarantine {
    held: Collection<Served, Held>,
    chains: Collection<Served, Arc<Chains>>,
    parts: Collection<Served, Arc<Chains>>,
    /// What waypoints are asked about.
    asked: Collection<Scope, Asked>,
}

/// Parts that a waypoint is asked about.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    listener: Arc<str>,
    services: Vec<ServiceKey>,
}

/// The listener that they are in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Trial {
    scope: Scope,
    listener: Arc<str>,
}

impl Scoped for Trial {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn name(&self) -> String {
        self.listener.to_string()
    }
}

/// What the names of such listeners begin with.
const TRIAL: &str = "trial_";

/// Whether a listener is one of those.
pub fn is_trial(listener: &str) -> bool {
    listener.starts_with(TRIAL)
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
        Self { held, chains, parts, asked: graph.input("asked_parts") }
    }

    /// Adds the listeners of parts that waypoints are asked about.
    pub(super) fn add_trials(&self, graph: &mut Graph, to: &mut Configs) {
        let Self { asked, chains, .. } = *self;
        let trials = graph.derive("waypoint_trials", to.waypoints, move |cx, scope: &Scope, ()| {
            let Asked { listener, services } = cx.get(asked, scope)?;
            let trial = Trial { scope: scope.clone(), listener: listener.clone() };
            Some((trial, services.clone()))
        });
        to.add(graph, "waypoint_trial_listeners", ResourceType::Listener, trials, move |cx, key, services| {
            let served = |service: &ServiceKey| Served { scope: key.scope.clone(), service: service.clone() };
            let parts: Vec<&Chains> =
                services.iter().filter_map(|service| Some(&**cx.get(chains, &served(service))?)).collect();
            Some(chain::trial(&key.listener, &parts))
        });
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

    /// Has a waypoint asked about parts with these names and contents, from the
    /// next commit on; about none if there are none. Returns the name of the
    /// listener that they are in.
    pub fn ask(&self, graph: &mut Graph, scope: &Scope, parts: &[(Arc<str>, u64)]) -> Arc<str> {
        let texts: Vec<_> = parts.iter().map(|(name, print)| format!("{name} {print};")).collect();
        let listener: Arc<str> = format!("{TRIAL}{:016x}", rapidhash_v3(texts.concat().as_bytes())).into();
        match parts {
            [] => graph.delete(self.asked, scope.clone()),
            parts => {
                let services = parts.iter().filter_map(|(name, _)| Some(key(scope, name)?.service)).collect();
                graph.put(self.asked, scope.clone(), Asked { listener: listener.clone(), services });
            }
        }
        listener
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
