//! What proxies rejected, and what follows from it.
//!
//! A resource of its own costs itself: Envoy takes the others of a response.
//! The services of a waypoint are in one listener, and the hosts of a gateway's
//! port in one route configuration, so there the part that is to blame is looked
//! for, and held back while the others go on: the one that Envoy's message is
//! about, else the one that is new since the proxy last accepted something. If
//! there are several, all of them are held back and tried again, half by half.
//! Of a proxy that goes on with something of which nothing is known here, nothing
//! is held back before it is known to be at fault (`search`).
//!
//! This is the one place that remembers something about proxies; what is held
//! back enters the graph as a fact.

mod search;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::api::{Kind, ObjectKey};
use crate::envoy::cluster::MAIN_INTERNAL;
use crate::envoy::listener::INSPECTED;
use crate::envoy::{Configs, HeldBack, Quarantine, is_trial};
use crate::graph::{Graph, Provenance};
use crate::proxy::Scope;
use crate::status::{ROWS, Row, Says};
use crate::xds::resource::ResourceType;
use crate::xds::verdict::Verdict;
use crate::xds::view::{Config, Part, Parts, Views};
use search::Search;

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
    /// The search for parts of which nothing is held back yet.
    inquiry: Option<Inquiry>,
    /// Parts that turned out to be innocent, with the hashes of their contents,
    /// for as long as what they are in is rejected.
    cleared: BTreeMap<Arc<str>, u64>,
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

/// Something that proxies rejected, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RejectedResource {
    /// Its type.
    #[serde(rename = "type")]
    pub ty: ResourceType,
    /// Its name, or that of the part of it that is to blame.
    pub name: Arc<str>,
    /// Why.
    pub message: String,
    /// The objects it comes from, as far as they may be to blame.
    pub objects: Vec<String>,
}

/// A search among the parts of what was sent.
struct Inquiry {
    search: Search,
    /// The resources that were rejected.
    of: Versions,
    /// The view that they were in.
    revision: u64,
    /// The listener that the parts asked about are in.
    listener: Arc<str>,
}

/// The versions of the resources that are put together from parts.
type Versions = Vec<(String, u64)>;

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

    /// What the proxies of a scope rejected, in order.
    pub fn of(&self, scope: Option<&Scope>) -> Vec<RejectedResource> {
        let case = self.cases.iter().find(|(known, _)| known.as_ref() == scope);
        let rejected = case.into_iter().flat_map(|(_, case)| &case.rejected);
        let shown = rejected.map(|((ty, name), rejected)| RejectedResource {
            ty: *ty,
            name: name.clone(),
            message: rejected.message.clone(),
            objects: rejected.objects.iter().map(|(kind, key)| format!("{} {key}", kind.info().subject)).collect(),
        });
        shown.collect()
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
        let gone: Vec<_> = self.cases.extract_if(.., |scope, _| !works_out(scope)).collect();
        self.changed |= !gone.is_empty();
        let Some(quarantine) = configs.quarantine() else { return };
        for (scope, case) in gone {
            let Some(scope) = scope else { continue };
            case.held.keys().for_each(|name| quarantine.hold(graph, &scope, name, None));
            quarantine.ask(graph, &scope, &[]);
        }
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
        let answered = self.answered(graph, configs, (verdict, &scope));
        answered
            | match &verdict.error {
                Some(error) => self.rejected(graph, configs, (verdict, &scope), error),
                None => self.accepted(graph, configs, (verdict, &scope)),
            }
    }

    /// Takes what a proxy says of parts that it was asked about.
    fn answered(&mut self, graph: &mut Graph, configs: &Configs, (verdict, scope): (&Verdict, &Option<Scope>)) -> bool {
        let (Some(scope), Some(quarantine)) = (scope, configs.quarantine()) else { return false };
        let Some(case) = self.cases.get_mut(&Some(scope.clone())) else { return false };
        let of_parts = Quarantine::resource_type(scope);
        let tells = verdict.ty == of_parts || verdict.ty == ResourceType::Listener;
        let Some(inquiry) = case.inquiry.as_mut().filter(|_| tells) else { return false };
        if versions(&verdict.sent, verdict, scope) != inquiry.of {
            // What is newer is judged anew, and what is older is of no interest.
            let newer = verdict.sent.revision > inquiry.revision;
            if newer {
                case.inquiry = None;
                quarantine.ask(graph, scope, &[]);
            }
            return newer;
        }
        // Who takes all of it has nothing to say of parts.
        let takes = |views: &Arc<Views>| versions(views, verdict, scope) == inquiry.of;
        let takes_it = verdict.ty == of_parts && verdict.accepted.as_ref().is_some_and(takes);
        let listeners = verdict.sent.layer(ResourceType::Listener, verdict.scope.as_ref());
        if verdict.ty != ResourceType::Listener || takes_it || !listeners.contains(&inquiry.listener) {
            return false;
        }
        let sent = config(&verdict.sent, verdict).map(Config::parts);
        // What follows the name of the listener is why it is not taken.
        let rejection = verdict.error.as_deref().and_then(|error| error.split_once(&*inquiry.listener));
        let rejection = rejection.map(|(_, why)| why.trim_start_matches(':').trim());
        if rejection.is_none() {
            let innocent = inquiry.search.asked().iter();
            case.cleared.extend(innocent.filter_map(|name| Some((name.clone(), sent?.get(name)?.print))));
        }
        inquiry.search.answered(rejection);
        if inquiry.search.asked().is_empty() {
            return self.end_inquiry(graph, quarantine, (verdict, scope));
        }
        inquiry.listener = ask(graph, quarantine, scope, &inquiry.search, sent);
        true
    }

    /// Holds back what a search has found.
    fn end_inquiry(
        &mut self,
        graph: &mut Graph,
        quarantine: &Quarantine,
        (verdict, scope): (&Verdict, &Scope),
    ) -> bool {
        let Some(case) = self.cases.get_mut(&Some(scope.clone())) else { return false };
        let Some(Inquiry { search, .. }) = case.inquiry.take() else { return false };
        quarantine.ask(graph, scope, &[]);
        // What was accepted says nothing of parts, of which nothing is known.
        let verdict = Verdict { accepted: None, ..verdict.clone() };
        for (name, error) in search.found() {
            self.blame(graph, quarantine, (&verdict, scope), name, error);
        }
        true
    }

    fn rejected(
        &mut self,
        graph: &mut Graph,
        configs: &Configs,
        (verdict, scope): (&Verdict, &Option<Scope>),
        error: &str,
    ) -> bool {
        let sent = config(&verdict.sent, verdict).map(Config::parts);
        let case = self.cases.entry(scope.clone()).or_default();
        if let (Some(sent), Some(scope), Some(quarantine), true) =
            (sent, scope, configs.quarantine(), is_about_parts(verdict, error))
        {
            if case.inquiry.is_some() {
                // Another proxy of the kind, or one that is late.
                return false;
            }
            let before = accepted(verdict);
            let suspect = |(name, part): (&Arc<str>, &Part)| {
                let same = before.is_some_and(|before| before.get(name).is_some_and(|old| old.print == part.print));
                // In place of what is held back there is something harmless.
                let known = case.held.contains_key(name) || case.cleared.get(name) == Some(&part.print);
                (!same && !known).then(|| name.clone())
            };
            let suspects: Vec<Arc<str>> = sent.iter().filter_map(suspect).collect();
            // Where nothing was accepted before, it may be none of them.
            let known = verdict.accepted.is_some() || verdict.blank;
            let guilty = guilty(scope, error, &suspects, sent, known);
            let told = !suspects.is_empty();
            if !guilty.is_empty() {
                for name in &guilty {
                    self.blame(graph, quarantine, (verdict, scope), name, error);
                }
            } else if known && told {
                for name in &suspects {
                    case.hold(graph, quarantine, (verdict, scope), name);
                }
                let (first, second) = suspects.split_at(suspects.len() / 2);
                case.trials.extend([first.to_vec(), second.to_vec()]);
            } else if told {
                let search = Search::new(suspects);
                let listener = ask(graph, quarantine, scope, &search, Some(sent));
                let of = versions(&verdict.sent, verdict, scope);
                case.inquiry = Some(Inquiry { search, of, revision: verdict.sent.revision, listener });
            }
            if told {
                let case = self.cases.entry(Some(scope.clone())).or_default();
                case.next_trial(graph, quarantine, scope);
                return true;
            }
        }
        self.of_resources(graph, configs, (verdict, scope), error);
        false
    }

    /// Holds back a part that is to blame, and has that told.
    fn blame(
        &mut self,
        graph: &mut Graph,
        quarantine: &Quarantine,
        (verdict, scope): (&Verdict, &Scope),
        name: &Arc<str>,
        error: &str,
    ) {
        let case = self.cases.entry(Some(scope.clone())).or_default();
        let Some(version) = case.hold(graph, quarantine, (verdict, scope), name) else { return };
        let provenance = quarantine.provenance(graph, scope, name);
        let objects = blamed(&self.recent, &provenance, verdict);
        let (what, without) = Quarantine::words(scope);
        let instead = match accepted(verdict).is_some_and(|before| before.contains_key(name)) {
            true => "it goes on with what it accepted before",
            false => without,
        };
        let message = format!("{} rejects what it is told about {what} {name}: {error}; {instead}", verdict.proxy);
        let rejected = Rejected { message, objects, version: Some(version) };
        case.rejected.insert((Quarantine::resource_type(scope), name.clone()), rejected);
        self.changed = true;
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
        let named = |name: &str| !is_of_services(name) && !is_trial(name) && error.contains(name);
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
            let takes = |views: &Arc<Views>| versions(views, verdict, scope) == versions(&verdict.sent, verdict, scope);
            if case.inquiry.is_none() && verdict.accepted.as_ref().is_some_and(takes) {
                case.cleared.clear();
            }
        }
        if case.is_over() {
            self.cases.remove(scope);
        }
        told
    }
}

impl Case {
    fn is_over(&self) -> bool {
        let Self { held, trials, inquiry, cleared, rejected } = self;
        rejected.is_empty() && held.is_empty() && trials.is_empty() && inquiry.is_none() && cleared.is_empty()
    }

    /// Has a part of what was sent held back, for what was accepted before.
    /// Returns the hash of what is.
    fn hold(
        &mut self,
        graph: &mut Graph,
        quarantine: &Quarantine,
        (verdict, scope): (&Verdict, &Scope),
        name: &Arc<str>,
    ) -> Option<u64> {
        let print = config(&verdict.sent, verdict)?.parts().get(name)?.print;
        let instead = accepted(verdict).and_then(|before| before.get(name).cloned());
        self.held.insert(name.clone(), print);
        quarantine.hold(graph, scope, name, Some(HeldBack { print, instead }));
        Some(print)
    }

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
    let names =
        |wanted: bool| layer.iter().any(|one| is_of_services(one.name()) == wanted && error.contains(one.name()));
    names(true) || !names(false)
}

/// Whether a listener is put together from services.
fn is_of_services(name: &str) -> bool {
    name == MAIN_INTERNAL || name == INSPECTED
}

/// The versions of what of a view is put together from parts, by name.
fn versions(views: &Views, verdict: &Verdict, scope: &Scope) -> Versions {
    let ty = Quarantine::resource_type(scope);
    let layer = views.layer(ty, verdict.scope.as_ref()).iter();
    let of_parts = layer.filter(|one| ty == ResourceType::Routes || is_of_services(one.name()));
    let mut versions: Versions = of_parts.map(|one| (one.name().to_owned(), one.version().number())).collect();
    versions.sort_unstable();
    versions
}

/// The parts that a proxy accepted before, if that is known.
fn accepted(verdict: &Verdict) -> Option<&Parts> {
    config(verdict.accepted.as_ref()?, verdict).map(Config::parts)
}

/// Has a proxy asked about parts of what it was sent. Returns the name of the
/// listener that they are in.
fn ask(graph: &mut Graph, quarantine: &Quarantine, scope: &Scope, search: &Search, sent: Option<&Parts>) -> Arc<str> {
    let part = |name: &Arc<str>| Some((name.clone(), sent?.get(name)?.print));
    let parts: Vec<_> = search.asked().iter().filter_map(part).collect();
    quarantine.ask(graph, scope, &parts)
}

fn config<'a>(views: &'a Views, verdict: &Verdict) -> Option<&'a Config> {
    views.scopes.get(verdict.scope.as_ref()?).map(|config| &**config)
}

/// Of the parts that may be to blame, the only one, if one of them is known to
/// be; or those that a message is about: because it names their filter chains,
/// or quotes what is in them alone.
fn guilty(scope: &Scope, error: &str, suspects: &[Arc<str>], parts: &Parts, known: bool) -> Vec<Arc<str>> {
    if known && suspects.len() == 1 {
        return suspects.to_vec();
    }
    let named = suspects.iter().filter(|name| {
        let mark = Quarantine::mark(scope, name);
        mark.len() >= TELLING && mentions(error, &mark)
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

/// Whether a text has a name in it that is not a part of another: `shop.com` is
/// not in `myshop.com`, nor in `shop.com.example`.
fn mentions(text: &str, name: &str) -> bool {
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
    let ends = |rest: &[u8]| match rest {
        // The end of a sentence.
        [b'.', next, ..] => !of_name(next),
        [next, ..] => !of_name(next),
        [] => true,
    };
    let begins = |before: &[u8]| before.last().is_none_or(|last| *last != b'.' && !of_name(last));
    let (text, separate) = (text.as_bytes(), !name.as_bytes().first().is_some_and(of_name));
    memchr::memmem::find_iter(text, name.as_bytes())
        .any(|at| (separate || begins(&text[..at])) && ends(&text[at + name.len()..]))
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
