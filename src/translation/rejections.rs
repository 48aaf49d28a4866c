//! What proxies rejected, and what follows from it.
//!
//! A resource of its own costs itself: Envoy takes the others of a response.
//! The services of a waypoint are in one listener, and the hosts of a gateway's
//! port in one route configuration, so there the part that is to blame is looked
//! for, and held back while the others go on: the one that Envoy's message is
//! about, else the one that is new since the proxy last accepted something. If
//! there are several, all of them are held back and tried again, half by half.
//!
//! This is the one place that remembers something about proxies; what is held
//! back enters the graph as a fact.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::api::{Kind, ObjectKey};
use crate::envoy::cluster::MAIN_INTERNAL;
use crate::envoy::listener::INSPECTED;
use crate::envoy::{Configs, HeldBack, Quarantine};
use crate::graph::{Graph, Provenance};
use crate::proxy::Scope;
use crate::status::{ROWS, Row, Says};
use crate::xds::resource::ResourceType;
use crate::xds::verdict::Verdict;
use crate::xds::view::{Config, Parts, Views};

/// How many commits are remembered with the objects they changed.
const REMEMBERED: usize = 256;
/// The shortest quotation in a message that says what the message is about.
const TELLING: usize = 4;

/// An object.
pub type Object = (Kind, ObjectKey);

/// What proxies rejected.
#[derive(Default)]
pub struct Rejections {
    cases: BTreeMap<Option<Scope>, Case>,
    /// The objects that commits changed, by revision.
    recent: VecDeque<(u64, Vec<Object>)>,
    changed: bool,
}

/// What was rejected in one scope.
#[derive(Default)]
struct Case {
    /// Parts that are held back, with the hashes of their contents.
    held: BTreeMap<Arc<str>, u64>,
    /// Parts to be tried again, the next one last.
    trials: Vec<Vec<Arc<str>>>,
    /// What is known to be rejected.
    rejected: BTreeMap<(ResourceType, Arc<str>), Rejected>,
}

/// Something that is known to be rejected.
struct Rejected {
    message: String,
    objects: BTreeSet<Object>,
    /// The version that was, to tell it from the next one.
    version: Option<u64>,
}

impl Rejections {
    /// Whether anything is to be heard of acceptances.
    pub fn open(&self) -> bool {
        !self.cases.is_empty()
    }

    /// What is to be said of objects, if that has changed since it was asked
    /// for.
    pub fn news(&mut self) -> Option<BTreeMap<Object, String>> {
        std::mem::take(&mut self.changed).then(|| {
            let mut all: BTreeMap<Object, String> = BTreeMap::new();
            for rejected in self.cases.values().flat_map(|case| case.rejected.values()) {
                for object in &rejected.objects {
                    // The first of several, so that the order of proxies does not show.
                    let known = all.entry(object.clone()).or_insert_with(|| rejected.message.clone());
                    if rejected.message < *known {
                        known.clone_from(&rejected.message);
                    }
                }
            }
            all
        })
    }

    /// Notes the objects that a commit changed, and forgets what is over.
    pub fn committed(&mut self, graph: &mut Graph, configs: &Configs, changed: Vec<Object>) {
        if !changed.is_empty() {
            self.recent.push_back((graph.revision(), changed));
            let surplus = self.recent.len().saturating_sub(REMEMBERED);
            self.recent.drain(..surplus);
        }
        if self.cases.is_empty() {
            return;
        }
        let works_out = |scope: &Option<Scope>| scope.as_ref().is_none_or(|scope| configs.works_out(graph, scope));
        let gone = self.cases.extract_if(.., |scope, _| !works_out(scope)).count();
        self.changed |= gone > 0;
        let Some(quarantine) = configs.quarantine() else { return };
        for (scope, case) in &mut self.cases {
            let Some(scope) = scope else { continue };
            // What has changed is told again by itself.
            let stale = case.held.extract_if(.., |name, print| quarantine.wanted(graph, scope, name) != Some(*print));
            for (name, _) in stale.collect::<Vec<_>>() {
                quarantine.hold(graph, scope, &name, None);
            }
        }
    }

    /// Takes what a proxy says. Returns whether the graph was told something.
    pub fn judge(&mut self, graph: &mut Graph, configs: &Configs, verdict: &Verdict) -> bool {
        // Proxies of several scopes may be told the same.
        let scope = match &verdict.scope {
            None => None,
            Some(connected) => match configs.shared(graph, connected) {
                Some(shared) => Some(shared),
                // It has gone.
                None => return false,
            },
        };
        match &verdict.error {
            Some(error) => self.rejected(graph, configs, (verdict, &scope), error),
            None => self.accepted(graph, configs, (verdict, &scope)),
        }
    }

    fn rejected(
        &mut self,
        graph: &mut Graph,
        configs: &Configs,
        (verdict, scope): (&Verdict, &Option<Scope>),
        error: &str,
    ) -> bool {
        let sent = config(&verdict.sent, verdict);
        let before = verdict.accepted.as_ref().and_then(|views| config(views, verdict));
        let case = self.cases.entry(scope.clone()).or_default();
        if let (Some(sent), Some(scope), Some(quarantine), true) =
            (sent, scope, configs.quarantine(), is_about_parts(verdict, error))
        {
            let none = Parts::default();
            let before = before.map_or(&none, Config::parts);
            let mut suspects: Vec<Arc<str>> = Vec::new();
            for (name, part) in sent.parts() {
                let same = before.get(name).is_some_and(|before| before.print == part.print);
                // In place of what is held back there is something harmless.
                if !same && !case.held.contains_key(name) {
                    suspects.push(name.clone());
                }
            }
            let guilty = guilty(scope, error, &suspects, sent.parts());
            let search = guilty.is_empty() && !suspects.is_empty() && (verdict.accepted.is_some() || verdict.blank);
            for name in if search { &suspects } else { &guilty } {
                let Some(part) = sent.parts().get(name) else { continue };
                case.held.insert(name.clone(), part.print);
                let instead = before.get(name).cloned();
                quarantine.hold(graph, scope, name, Some(HeldBack { print: part.print, instead }));
            }
            if search {
                let (first, second) = suspects.split_at(suspects.len() / 2);
                case.trials.extend([first.to_vec(), second.to_vec()]);
            }
            for name in &guilty {
                let provenance = quarantine.provenance(graph, scope, name);
                let objects = blamed(&self.recent, &provenance, verdict);
                let (what, without) = Quarantine::words(scope);
                let instead =
                    if before.contains_key(name) { "it goes on with what it accepted before" } else { without };
                let message =
                    format!("{} rejects what it is told about {what} {name}: {error}; {instead}", verdict.proxy);
                let version = sent.parts().get(name).map(|part| part.print);
                case.rejected.insert((verdict.ty, name.clone()), Rejected { message, objects, version });
                self.changed = true;
            }
            if search || !guilty.is_empty() {
                case.next_trial(graph, quarantine, scope);
                return true;
            }
        }
        self.of_resources(graph, configs, (verdict, scope), error);
        false
    }

    /// Notes the resources that a message names.
    fn of_resources(
        &mut self,
        graph: &Graph,
        configs: &Configs,
        (verdict, scope): (&Verdict, &Option<Scope>),
        error: &str,
    ) {
        let case = self.cases.entry(scope.clone()).or_default();
        let layer = verdict.sent.layer(verdict.ty, verdict.scope.as_ref());
        // Everything is behind the listeners of all services.
        let named = |name: &str| name != MAIN_INTERNAL && name != INSPECTED && error.contains(name);
        for resource in layer.iter().filter(|resource| named(resource.name())) {
            let name: Arc<str> = resource.name().into();
            let Some(provenance) = configs.provenance(graph, verdict.ty, &name) else { continue };
            let objects = blamed(&self.recent, &provenance, verdict);
            let message = format!("{} rejects {} {name}: {error}", verdict.proxy, verdict.ty.label());
            let version = Some(resource.version().number());
            case.rejected.insert((verdict.ty, name), Rejected { message, objects, version });
            self.changed = true;
        }
    }

    fn accepted(&mut self, graph: &mut Graph, configs: &Configs, (verdict, scope): (&Verdict, &Option<Scope>)) -> bool {
        let Some(case) = self.cases.get_mut(scope) else { return false };
        let layer = verdict.sent.layer(verdict.ty, verdict.scope.as_ref());
        let sent = config(&verdict.sent, verdict);
        let mut told = false;
        let held = &case.held;
        let over = case.rejected.extract_if(.., |(ty, name), rejected| {
            let part = sent.and_then(|sent| sent.parts().get(name));
            let now = match part {
                // What is held back has not been accepted.
                Some(_) if held.get(name) == rejected.version.as_ref() => return false,
                Some(part) => Some(part.print),
                None => layer.get(name).map(|resource| resource.version().number()),
            };
            *ty == verdict.ty && now != rejected.version
        });
        self.changed |= over.count() > 0;
        if let (Some(scope), Some(quarantine)) = (scope, configs.quarantine())
            && verdict.ty == Quarantine::resource_type(scope)
        {
            told = case.next_trial(graph, quarantine, scope);
        }
        if case.rejected.is_empty() && case.held.is_empty() && case.trials.is_empty() {
            self.cases.remove(scope);
        }
        told
    }
}

impl Case {
    /// Has the next of the parts told again that may be innocent.
    fn next_trial(&mut self, graph: &mut Graph, quarantine: &Quarantine, scope: &Scope) -> bool {
        let mut told = false;
        while let Some(names) = self.trials.pop() {
            for name in names {
                if self.held.remove(&name).is_some() {
                    quarantine.hold(graph, scope, &name, None);
                    told = true;
                }
            }
            if told {
                break;
            }
        }
        told
    }
}

/// Whether a message is about a resource that is put together from parts: a
/// listener of services, or any route configuration of a gateway.
fn is_about_parts(verdict: &Verdict, error: &str) -> bool {
    if verdict.scope.as_ref().is_none_or(|scope| verdict.ty != Quarantine::resource_type(scope)) {
        return false;
    }
    if verdict.ty == ResourceType::Routes {
        return true;
    }
    let layer = verdict.sent.layer(ResourceType::Listener, verdict.scope.as_ref());
    let of_services = |name: &str| name == MAIN_INTERNAL || name == INSPECTED;
    let names = |wanted: bool| layer.iter().any(|one| of_services(one.name()) == wanted && error.contains(one.name()));
    names(true) || !names(false)
}

fn config<'a>(views: &'a Views, verdict: &Verdict) -> Option<&'a Config> {
    views.scopes.get(verdict.scope.as_ref()?).map(|config| &**config)
}

/// Of the parts that may be to blame, the only one; or those that a message is
/// about: because it names their filter chains, or quotes what is in them alone.
fn guilty(scope: &Scope, error: &str, suspects: &[Arc<str>], parts: &Parts) -> Vec<Arc<str>> {
    if let [_] = suspects {
        return suspects.to_vec();
    }
    let named = suspects.iter().filter(|name| {
        let mark = Quarantine::mark(scope, name);
        mark.len() >= TELLING && error.contains(&mark)
    });
    let named: Vec<_> = named.cloned().collect();
    if !named.is_empty() {
        return named;
    }
    let quoted = error.split(['\'', '"', '`']).skip(1).step_by(2).filter(|text| text.len() >= TELLING);
    for text in quoted {
        let within = |name: &&Arc<str>| parts.get(*name).is_some_and(|part| Quarantine::contains(part, text));
        if let [only] = suspects.iter().filter(within).collect::<Vec<_>>()[..] {
            return vec![only.clone()];
        }
    }
    Vec::new()
}

/// The objects behind something that was rejected: those that have changed
/// since the proxy last accepted something, if that is known.
fn blamed(recent: &VecDeque<(u64, Vec<Object>)>, provenance: &Provenance, verdict: &Verdict) -> BTreeSet<Object> {
    let object = |(collection, key): &(&'static str, String)| {
        let row = ROWS.iter().find(|row| row.kind.info().table == *collection)?;
        let (namespace, name) = key.split_once('/')?;
        Some((row.kind, ObjectKey::new(namespace, name)))
    };
    let behind = provenance.origins.iter().chain(&provenance.reads).filter_map(object);
    // Rules rather than what they are about.
    let (rules, others): (BTreeSet<_>, BTreeSet<_>) = behind.partition(|(kind, _)| {
        *kind != Kind::IstioGateway && Row::of(*kind).is_some_and(|row| row.says == Says::Always)
    });
    let all = if rules.is_empty() { others } else { rules };
    let Some(accepted) = &verdict.accepted else { return all };
    let since = recent.iter().filter(|(at, _)| *at > accepted.revision && *at <= verdict.sent.revision);
    let new: BTreeSet<_> = since.flat_map(|(_, objects)| objects).filter(|one| all.contains(one)).cloned().collect();
    if new.is_empty() { all } else { new }
}
