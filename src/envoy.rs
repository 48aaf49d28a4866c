//! What Envoys are told: clusters, endpoints, listeners and routes, made from
//! the model for one [`Scope`] at a time.
//!
//! Names, filters and metadata are Istio's wherever a tool can see them. The
//! generators are plain functions from model rows to messages of
//! `envoy_types`; [`encode`] is the only place that turns a message into bytes.

pub mod access_log;
pub mod authorization;
pub mod cluster;
mod destination;
pub mod encode;
pub mod endpoint;
mod expected;
pub mod gateway;
pub mod listener;
pub mod matcher;
pub mod name;
mod place;
pub mod policies;
pub mod quarantine;
pub mod request_authentication;
pub mod route;
mod routing;
pub mod secret;
pub mod telemetry;
pub mod tls;
pub mod waypoint;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;

use crate::api::ObjectKey;
use crate::api::mesh::{GatewayTopology, ProxyHeaders};
use crate::graph::{Collection, Ctx, Graph, Index, Key, Provenance, Value};
use crate::model::Model;
use crate::model::destination_rule::Client;
use crate::model::gateway::GATEWAY_NAME;
use crate::model::mesh::MeshConfig;
use crate::proxy::{OwnConfig, Scope};
use crate::xds::resource::{Body, Resource, ResourceType};
use crate::xds::view::{Config, Draft, LayerKind, Parts, Scopes};

use place::Places;
pub use quarantine::{HeldBack, Quarantine, is_trial};

/// The configurations of all scopes, as the graph makes them.
pub struct Configs {
    /// For each scope that a proxy has, the one that its configuration is worked
    /// out for. Several may share one.
    placed: Collection<Scope, Scope>,
    /// The same the other way round.
    sharers: Index<Scope, Scope, Scope>,
    /// The scopes that configurations are worked out for.
    scopes: Collection<Scope, ()>,
    /// Those of waypoints.
    waypoints: Collection<Scope, ()>,
    /// Those of gateways.
    gateways: Collection<Scope, ()>,
    // The graph writes to them during a commit, `update` reads them after that.
    drafts: Arc<Mutex<Drafts>>,
    provenances: Vec<(ResourceType, Box<dyn Fn(&Graph, &str) -> Option<Provenance> + Send>)>,
    quarantine: Option<Quarantine>,
}

#[derive(Default)]
struct Drafts {
    layers: BTreeMap<Scope, [Draft; LayerKind::SCOPED.len()]>,
    /// What resources are put together from.
    parts: BTreeMap<Scope, Parts>,
    /// What they were when they were last finished.
    configs: BTreeMap<Scope, Arc<Config>>,
    /// Scopes that the commit wrote to.
    written: BTreeSet<Scope>,
}

/// What is made for each of `connected`, the scopes that proxies have, and while
/// this replica `speaks` for all, for those that should be there besides.
pub fn configs(
    graph: &mut Graph,
    model: &Model,
    connected: Collection<Scope, ()>,
    speaks: Collection<(), ()>,
) -> Configs {
    let connected = expected::with_expected(graph, model, connected, speaks);
    let places = Places::new(graph, model);
    let placed =
        graph.derive("placed_scopes", connected, move |cx, scope, ()| [(scope.clone(), places.placed(cx, scope))]);
    let sharers = graph.index(placed, |_: &Scope, placed: &Scope, keys| keys.push(placed.clone()));
    let scopes = graph.group("shared_scopes", sharers, |_, _| Some(()));
    let mut of_kind = |table, is: fn(&Scope) -> bool| {
        graph.derive(table, scopes, move |_, scope: &Scope, ()| is(scope).then(|| (scope.clone(), ())))
    };
    let waypoints = of_kind("waypoint_scopes", |scope| matches!(scope, Scope::Waypoint(_)));
    let gateways = of_kind("gateway_scopes", |scope| matches!(scope, Scope::Gateway(_)));
    let (drafts, provenances) = (Arc::default(), Vec::new());
    let mut configs = Configs { placed, sharers, scopes, waypoints, gateways, drafts, provenances, quarantine: None };
    let services = waypoint::add(graph, model, &mut configs);
    let hosts = gateway::add(graph, model, &mut configs);
    configs.quarantine = Some(Quarantine { services, hosts });
    configs
}

/// A key of the rows of one scope.
trait Scoped: Key {
    /// The scope.
    fn scope(&self) -> &Scope;
    /// The name of the resource.
    fn name(&self) -> String;
}

/// One of the few resources that every proxy of a kind has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Fixture {
    scope: Scope,
    name: &'static str,
}

impl Scoped for Fixture {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn name(&self) -> String {
        self.name.to_owned()
    }
}

/// Rows for resources that every proxy of a kind has.
fn fixtures(
    graph: &mut Graph,
    table: &'static str,
    scopes: Collection<Scope, ()>,
    names: &'static [&'static str],
) -> Collection<Fixture, ()> {
    graph.derive(table, scopes, move |_, scope: &Scope, ()| {
        names.iter().map(|name| (Fixture { scope: scope.clone(), name }, ())).collect::<Vec<_>>()
    })
}

/// The Gateway of the Gateway API that proxies serve, by the label of their
/// pods; one without a name if there is none.
fn gateway(scope: &Scope) -> ObjectKey {
    let name = match scope {
        Scope::Waypoint(waypoint) => waypoint.gateway.clone(),
        Scope::Gateway(proxy) => proxy.place.label(GATEWAY_NAME).unwrap_or_default().into(),
    };
    ObjectKey { namespace: scope.namespace().clone(), name }
}

/// The class of that Gateway; empty if there is none.
fn class(cx: &Ctx<'_>, model: &Model, scope: &Scope) -> Arc<str> {
    let gateway = cx.get(model.inputs.gateways, &gateway(scope));
    gateway.map(|gateway| gateway.spec.gateway_class_name.clone()).unwrap_or_default()
}

/// The proxies of a scope as those who connect to services.
fn client(scope: &Scope) -> Client<'_> {
    Client { namespace: scope.namespace(), labels: &scope.place().labels }
}

/// The headers that the proxies of a scope set or leave out.
fn proxy_headers<'a>(scope: &'a Scope, mesh: &'a MeshConfig) -> &'a ProxyHeaders {
    own(scope).and_then(|own| own.headers.as_ref()).unwrap_or(&mesh.default_config.proxy_headers)
}

/// What is in front of the proxies of a scope.
fn gateway_topology<'a>(scope: &'a Scope, mesh: &'a MeshConfig) -> &'a GatewayTopology {
    own(scope).and_then(|own| own.topology.as_ref()).unwrap_or(&mesh.default_config.gateway_topology)
}

fn own(scope: &Scope) -> Option<&OwnConfig> {
    match scope {
        Scope::Waypoint(_) => None,
        Scope::Gateway(proxy) => proxy.own.as_deref(),
    }
}

/// The trust domains that mean the mesh's own.
fn trust_domains(mesh: &MeshConfig) -> Vec<&str> {
    let aliases = mesh.trust_domain_aliases.iter().map(|alias| &**alias);
    std::iter::once(&*mesh.trust_domain).chain(aliases).collect()
}

/// How long a connection of HBONE may be idle.
const HBONE_IDLE: Duration = Duration::from_secs(3600);

/// The cluster that opens HBONE connections.
fn connect_originate(mesh: &MeshConfig) -> Cluster {
    let idle = mesh.hbone_idle_timeout.unwrap_or(HBONE_IDLE);
    cluster::connect_originate(&trust_domains(mesh), mesh.connect_timeout, idle)
}

impl Configs {
    /// Adds a table that has one resource at most for each row of `source`.
    fn add<K: Scoped, V: Value, M: Into<Body>>(
        &mut self,
        graph: &mut Graph,
        table: &'static str,
        ty: ResourceType,
        source: Collection<K, V>,
        message: impl Fn(&Ctx<'_>, &K, &V) -> Option<M> + Send + 'static,
    ) {
        let Some(at) = ty.layer().scoped() else { return };
        let drafts = self.drafts.clone();
        let resource = move |cx: &Ctx<'_>, key: &K, row: &V| {
            let message = message(cx, key, row)?;
            Some(Resource::of(ty, &key.name(), message))
        };
        let sink = move |key: &K, resource: Option<Resource>| {
            let mut drafts = lock(&drafts);
            let draft = &mut drafts.layers.entry(key.scope().clone()).or_default()[at];
            match resource {
                Some(resource) => draft.upsert(resource),
                None => draft.remove(&key.name()),
            }
            drafts.written.insert(key.scope().clone());
        };
        let output = graph.output(table, source, resource, Resource::fingerprint, sink);
        let provenance = move |graph: &Graph, wanted: &str| graph.output_provenance(output, |key| key.name() == wanted);
        self.provenances.push((ty, Box::new(provenance)));
    }

    /// The configurations after the last commit, if they are not those of
    /// before, `old`.
    pub fn update(&self, graph: &Graph, old: &Scopes) -> Option<Scopes> {
        let mut drafts = lock(&self.drafts);
        let mut written = std::mem::take(&mut drafts.written);
        for (scope, name, part) in self.quarantine.iter().flat_map(|quarantine| quarantine.changes(graph)) {
            let parts = drafts.parts.entry(scope).or_default();
            match part {
                Some(part) => drop(parts.insert(name, part)),
                None => drop(parts.remove(&name)),
            }
        }
        for change in graph.changes(self.scopes) {
            if change.new.is_some() {
                // Known from now on, even if there is nothing to tell it.
                written.insert(change.key.clone());
            } else {
                written.remove(&change.key);
                drafts.layers.remove(&change.key);
                drafts.configs.remove(&change.key);
                drafts.parts.remove(&change.key);
            }
        }
        let mut scopes = old.clone();
        let mut changed = false;
        for change in graph.changes(self.placed).iter().filter(|change| change.new.is_none()) {
            changed |= scopes.remove(&change.key).is_some();
        }
        let moved = graph.changes(self.placed).iter().filter_map(|change| change.new.as_deref());
        let mut renewed: BTreeSet<Scope> = moved.cloned().collect();
        for scope in written {
            let before = drafts.configs.get(&scope).cloned();
            let layers = drafts.layers.entry(scope.clone()).or_default().each_mut().map(Draft::finish);
            if before.is_some() && layers.iter().all(Option::is_none) {
                continue;
            }
            let mut all = before.map(|config| config.layers().clone()).unwrap_or_default();
            for (layer, newer) in all.iter_mut().zip(layers) {
                if let Some(newer) = newer {
                    *layer = newer;
                }
            }
            let parts = drafts.parts.get(&scope).cloned().unwrap_or_default();
            drafts.configs.insert(scope.clone(), Arc::new(Config::new(all).with_parts(parts)));
            renewed.insert(scope);
        }
        for scope in renewed {
            let Some(config) = drafts.configs.get(&scope) else { continue };
            for (sharer, _) in graph.fetch(self.sharers, &scope) {
                scopes.insert(sharer.clone(), config.clone());
                changed = true;
            }
        }
        changed.then_some(scopes)
    }

    /// The scope that the configuration of a connected proxy's is worked out for.
    pub fn shared(&self, graph: &Graph, connected: &Scope) -> Option<Scope> {
        graph.get(self.placed, connected).map(|placed| (**placed).clone())
    }

    /// Whether a configuration is worked out for a scope.
    pub fn works_out(&self, graph: &Graph, scope: &Scope) -> bool {
        graph.get(self.scopes, scope).is_some()
    }

    /// What holds back parts of resources.
    pub fn quarantine(&self) -> Option<&Quarantine> {
        self.quarantine.as_ref()
    }

    /// Where the resource of a name comes from, in any of the scopes.
    pub fn provenance(&self, graph: &Graph, ty: ResourceType, name: &str) -> Option<Provenance> {
        self.provenances.iter().filter(|(of, _)| *of == ty).find_map(|(_, find)| find(graph, name))
    }
}

fn lock(drafts: &Mutex<Drafts>) -> MutexGuard<'_, Drafts> {
    drafts.lock().unwrap_or_else(PoisonError::into_inner)
}
