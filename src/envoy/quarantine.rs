//! What a proxy was told and rejected is held back where many objects share a
//! resource: the services of a waypoint are in one listener, and the hosts of a
//! gateway's port in one route configuration. The others go on. Which parts are
//! held back is an input like any other, by a hash of their content, so a part is
//! told again as soon as it is another one.
//!
//! In its place there is what the proxy accepted of the part before. If nothing
//! was, there is nothing that could be enforced: connections to the service end,
//! and requests for the host are answered with a 404.
//!
//! Where it is not known which part is to blame, a proxy can be asked about some
//! of them: they are in one more listener then, to which nothing leads.

use std::sync::Arc;

use rapidhash::v3::rapidhash_v3;

use crate::graph::{Collection, Graph, Key, Provenance};
use crate::proxy::Scope;
use crate::xds::resource::{Piece, ResourceType};
use crate::xds::view::Part;

use super::gateway::routes::Hosted;
use super::waypoint::chain::Chains;
use super::{Configs, Scoped};

/// A part of a resource.
pub(super) trait Content: PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// The key of the part.
    type Key: Scoped;
    /// A hash of all that an Envoy might reject.
    fn print(&self) -> u64;
    /// Whether a text is in what an Envoy is told.
    fn contains(&self, text: &[u8]) -> bool;
    /// What there is instead of a part that can be told to no Envoy.
    fn closed(&self, key: &Self::Key) -> Self;
    /// The key of the part of a name.
    fn key(scope: &Scope, name: &str) -> Option<Self::Key>;
    /// A listener to which nothing leads, with all of some parts that an Envoy
    /// might reject.
    fn trial(listener: &str, parts: &[(Self::Key, &Self)]) -> Vec<Piece>;
}

/// Parts of one kind, and which of them are held back.
pub(super) struct Ward<C: Content> {
    held: Collection<C::Key, Held<C>>,
    wanted: Collection<C::Key, Arc<C>>,
    parts: Collection<C::Key, Arc<C>>,
    /// What proxies are asked about.
    asked: Collection<Scope, Asked>,
}

/// Parts that a proxy is asked about.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    listener: Arc<str>,
    names: Vec<Arc<str>>,
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

/// What is held back of a part.
#[derive(Debug)]
struct Held<C> {
    /// The hash of what is.
    print: u64,
    /// What is told instead.
    instead: Option<Arc<C>>,
}

impl<C: PartialEq> PartialEq for Held<C> {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print && self.instead == other.instead
    }
}

/// A part that is held back.
#[derive(Clone, Debug)]
pub struct HeldBack {
    /// The hash of what is.
    pub print: u64,
    /// What is told instead, if anything was accepted before.
    pub instead: Option<Part>,
}

impl<C: Content> Ward<C> {
    /// Declares the parts that are told, given those there should be.
    pub(super) fn new(
        graph: &mut Graph,
        [input, table, asked]: [&'static str; 3],
        wanted: Collection<C::Key, Arc<C>>,
    ) -> Self {
        let held = graph.input(input);
        let parts = graph.derive(table, wanted, move |cx, key: &C::Key, wanted: &Arc<C>| {
            let held: Option<&Held<C>> = cx.get(held, key);
            let part = match held.filter(|held| held.print == wanted.print()) {
                None => wanted.clone(),
                Some(Held { instead: Some(instead), .. }) => instead.clone(),
                Some(Held { instead: None, .. }) => Arc::new(wanted.closed(key)),
            };
            [(key.clone(), part)]
        });
        Self { held, wanted, parts, asked: graph.input(asked) }
    }

    /// Adds the listeners of parts that the proxies of scopes are asked about.
    pub(super) fn add_trials(
        &self,
        graph: &mut Graph,
        scopes: Collection<Scope, ()>,
        [table, listeners]: [&'static str; 2],
        to: &mut Configs,
    ) {
        let Self { asked, wanted, .. } = *self;
        let trials = graph.derive(table, scopes, move |cx, scope: &Scope, ()| {
            let Asked { listener, names } = cx.get(asked, scope)?;
            Some((Trial { scope: scope.clone(), listener: listener.clone() }, names.clone()))
        });
        to.add(graph, listeners, ResourceType::Listener, trials, move |cx, key, names| {
            let keys = names.iter().filter_map(|name| C::key(&key.scope, name));
            let parts: Vec<_> = keys.filter_map(|key| Some((key.clone(), &**cx.get(wanted, &key)?))).collect();
            Some(C::trial(&key.listener, &parts))
        });
    }

    fn ask(&self, graph: &mut Graph, scope: &Scope, asked: Option<Asked>) {
        match asked {
            Some(asked) => graph.put(self.asked, scope.clone(), asked),
            None => graph.delete(self.asked, scope.clone()),
        }
    }

    /// The parts that are told.
    pub(super) fn parts(&self) -> Collection<C::Key, Arc<C>> {
        self.parts
    }

    fn changes(&self, graph: &Graph) -> Vec<(Scope, Arc<str>, Option<Part>)>
    where
        C::Key: Key,
    {
        let part = |content: &Arc<C>| Part { print: content.print(), content: content.clone() };
        let changes = graph.changes(self.parts).iter();
        changes
            .map(|change| {
                let new = change.new.as_ref().map(|new| part(new));
                (change.key.scope().clone(), change.key.name().into(), new)
            })
            .collect()
    }

    fn hold(&self, graph: &mut Graph, scope: &Scope, name: &str, held: Option<HeldBack>) {
        let Some(key) = C::key(scope, name) else { return };
        match held {
            Some(HeldBack { print, instead }) => {
                let instead = instead.and_then(|part| part.content.downcast().ok());
                graph.put(self.held, key, Held { print, instead });
            }
            None => graph.delete(self.held, key),
        }
    }

    fn wanted(&self, graph: &Graph, scope: &Scope, name: &str) -> Option<u64> {
        graph.get(self.wanted, &C::key(scope, name)?).map(|wanted| wanted.print())
    }

    fn provenance(&self, graph: &Graph, scope: &Scope, name: &str) -> Provenance {
        C::key(scope, name).map(|key| graph.provenance(self.wanted, &key)).unwrap_or_default()
    }
}

/// The parts of resources, and which of them are held back.
pub struct Quarantine {
    /// Those of waypoints' listeners.
    pub(super) services: Ward<Chains>,
    /// Those of gateways' route configurations.
    pub(super) hosts: Ward<Hosted>,
}

impl Quarantine {
    /// The type of the resources of a scope that have parts.
    pub const fn resource_type(scope: &Scope) -> ResourceType {
        match scope {
            Scope::Waypoint(_) => ResourceType::Listener,
            Scope::Gateway(_) => ResourceType::Routes,
        }
    }

    /// What a message about a part of a scope has in it: for a service, the name
    /// of a filter chain; for a host, the host.
    pub fn mark(scope: &Scope, name: &str) -> String {
        match (scope, name.split_once('/')) {
            (_, None) => name.to_owned(),
            (Scope::Waypoint(_), Some((_, hostname))) => format!("|{hostname}"),
            (Scope::Gateway(_), Some((_, host))) => host.to_owned(),
        }
    }

    /// What a part of a scope is, and what becomes of it without anything that
    /// was accepted before.
    pub const fn words(scope: &Scope) -> (&'static str, &'static str) {
        match scope {
            Scope::Waypoint(_) => ("service", "connections to the service end"),
            Scope::Gateway(_) => ("host", "requests for it are answered with 404"),
        }
    }

    /// The parts that the last commit changed, by scope and name.
    pub(super) fn changes(&self, graph: &Graph) -> Vec<(Scope, Arc<str>, Option<Part>)> {
        let mut all = self.services.changes(graph);
        all.extend(self.hosts.changes(graph));
        all
    }

    /// Has a part held back, or told, from the next commit on.
    pub fn hold(&self, graph: &mut Graph, scope: &Scope, name: &str, held: Option<HeldBack>) {
        match scope {
            Scope::Waypoint(_) => self.services.hold(graph, scope, name, held),
            Scope::Gateway(_) => self.hosts.hold(graph, scope, name, held),
        }
    }

    /// Has the proxies of a scope asked about parts with these names and contents,
    /// from the next commit on; about none if there are none. Returns the name of
    /// the listener that they are in, which is another one whenever it is asked:
    /// a proxy says nothing of what it has already.
    pub fn ask(&self, graph: &mut Graph, scope: &Scope, parts: &[(Arc<str>, u64)]) -> Arc<str> {
        let texts: Vec<_> = parts.iter().map(|(name, print)| format!("{name} {print};")).collect();
        let question = format!("{} {}", graph.revision(), texts.concat());
        let listener: Arc<str> = format!("{TRIAL}{:016x}", rapidhash_v3(question.as_bytes())).into();
        let names: Vec<_> = parts.iter().map(|(name, _)| name.clone()).collect();
        let asked = (!names.is_empty()).then(|| Asked { listener: listener.clone(), names });
        match scope {
            Scope::Waypoint(_) => self.services.ask(graph, scope, asked),
            Scope::Gateway(_) => self.hosts.ask(graph, scope, asked),
        }
        listener
    }

    /// The hash of what there should be of a part.
    pub fn wanted(&self, graph: &Graph, scope: &Scope, name: &str) -> Option<u64> {
        match scope {
            Scope::Waypoint(_) => self.services.wanted(graph, scope, name),
            Scope::Gateway(_) => self.hosts.wanted(graph, scope, name),
        }
    }

    /// Where a part comes from.
    pub fn provenance(&self, graph: &Graph, scope: &Scope, name: &str) -> Provenance {
        match scope {
            Scope::Waypoint(_) => self.services.provenance(graph, scope, name),
            Scope::Gateway(_) => self.hosts.provenance(graph, scope, name),
        }
    }

    /// Whether a text is in a part.
    pub fn contains(part: &Part, text: &str) -> bool {
        let text = text.as_bytes();
        let services = part.content.downcast_ref::<Chains>().is_some_and(|chains| chains.contains(text));
        services || part.content.downcast_ref::<Hosted>().is_some_and(|hosted| hosted.contains(text))
    }
}
