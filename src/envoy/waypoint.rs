//! What a waypoint is configured with: the services that are attached to it,
//! and nothing of any other.
//! <https://istio.io/latest/docs/ambient/usage/waypoint/>
//!
//! Each service is worked out by itself: a filter chain, clusters and endpoints
//! for each of its ports. The listener that tells them apart is put together
//! from encoded chains, so that a change of one service encodes that one.

mod chain;
mod connections;
mod policies;
pub mod quarantine;
mod routes;
mod telemetry;

pub use policies::called;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::endpoint::v3::LocalityLbEndpoints;
use envoy_types::pb::envoy::config::listener::v3::Listener;

use crate::api::{Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index};
use crate::model::destination_rule::{Client, Rule};
use crate::model::mesh::MeshConfig;
use crate::model::service::{Port, Protocol, Resolution, Service, ServiceKey};
use crate::model::waypoint::canary::Canary;
use crate::model::{Model, problem};
use crate::proxy::{Scope, WaypointScope};
use crate::xds::resource::ResourceType;

use super::access_log::Only;
use super::cluster::discovery::Discovery;
use super::cluster::transport::Transport;
use super::cluster::{self, ENCAP, MAIN_INTERNAL, Upstream};
use super::endpoint::locality::Preference;
use super::endpoint::{self, CONNECT_ORIGINATE};
use super::listener::{self, CONNECT_TERMINATE};
use super::name::{self, Handling};
use super::{Configs, Scoped, encode};

/// One of the few resources that every waypoint has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Fixture {
    scope: Scope,
    name: &'static str,
}

/// A service that a waypoint serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Served {
    scope: Scope,
    service: ServiceKey,
}

/// A port of a service that a waypoint serves, handled in one way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Destination {
    scope: Scope,
    service: ServiceKey,
    port: u16,
    handling: Handling,
    /// Empty for the whole service.
    subset: Arc<str>,
}

impl Scoped for Fixture {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn name(&self) -> String {
        self.name.to_owned()
    }
}

impl Scoped for Destination {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn name(&self) -> String {
        match self.handling {
            Handling::Outbound => name::outbound(self.port, &self.subset, &self.service.hostname),
            handling => name::inbound_vip(self.port, handling, &self.subset, &self.service),
        }
    }
}

/// The Gateway of a waypoint.
fn gateway(scope: &Scope) -> ObjectKey {
    let WaypointScope { namespace, gateway, .. } = waypoint(scope);
    ObjectKey { namespace: namespace.clone(), name: gateway.clone() }
}

/// The class of a waypoint's Gateway; empty if there is none.
fn class(cx: &Ctx<'_>, model: &Model, scope: &Scope) -> Arc<str> {
    let gateway = cx.get(model.inputs.gateways, &gateway(scope));
    gateway.map(|gateway| gateway.spec.gateway_class_name.clone()).unwrap_or_default()
}

fn waypoint(scope: &Scope) -> &WaypointScope {
    let Scope::Waypoint(waypoint) = scope;
    waypoint
}

/// The ways in which traffic for a port may be handled. A port that does not
/// declare its protocol is looked at.
fn handlings(protocol: Protocol) -> &'static [Handling] {
    match protocol {
        Protocol::Http11 | Protocol::Http2 | Protocol::Grpc => &[Handling::Http],
        Protocol::Tcp | Protocol::Tls => &[Handling::Tcp],
        Protocol::Unknown => &[Handling::Http, Handling::Tcp],
    }
}

/// The ports of a service that a waypoint can handle. A host that is looked up
/// for each request has to be in the request, and outside of the mesh.
fn ports(service: &Service) -> impl Iterator<Item = &Port> {
    let dynamic = service.resolution == Resolution::DynamicDns;
    let tcp = service.ports.iter().filter(|port| &*port.transport == "TCP" && port.number != 0);
    tcp.filter(move |port| !dynamic || (service.external && port.protocol == Protocol::Http11))
}

/// The proxies of a scope as those who connect to services.
fn client(scope: &Scope) -> Client<'_> {
    let WaypointScope { namespace, place, .. } = waypoint(scope);
    Client { namespace, labels: &place.labels }
}

/// The trust domains that mean the mesh's own.
fn trust_domains(mesh: &MeshConfig) -> Vec<&str> {
    let aliases = mesh.trust_domain_aliases.iter().map(|alias| &**alias);
    std::iter::once(&*mesh.trust_domain).chain(aliases).collect()
}

/// How long a connection of HBONE may be idle.
const HBONE_IDLE: Duration = Duration::from_secs(3600);

/// Adds the tables.
pub(super) fn add(graph: &mut Graph, model: &Model, to: &mut Configs) -> quarantine::Quarantine {
    let scopes = to.scopes;
    add_fixtures(graph, model, to);

    let by_waypoint =
        graph.index(model.service_waypoints, |_: &ServiceKey, waypoint: &ObjectKey, keys| keys.push(waypoint.clone()));
    let by_canary =
        graph.index(model.service_canaries, |_: &ServiceKey, canary: &Canary, keys| keys.push(canary.waypoint.clone()));
    let served = graph.derive("waypoint_services", scopes, move |cx, scope: &Scope, ()| {
        let gateway = gateway(scope);
        let services = cx.fetch(by_waypoint, &gateway).map(|(service, _)| service.clone());
        let services = services.chain(cx.fetch(by_canary, &gateway).map(|(service, _)| service.clone()));
        services.map(|service| (Served { scope: scope.clone(), service }, ())).collect::<Vec<_>>()
    });
    let model_of = model.clone();
    let destinations = graph.derive("waypoint_destinations", served, move |cx, key: &Served, ()| {
        let Served { scope, service } = key;
        let rule = model_of.destination_rules.rule(cx, model_of.scope(), client(scope), service).unwrap_or_default();
        let mut all = Vec::new();
        for port in cx.get(model_of.services, service).into_iter().flat_map(|service| ports(service)) {
            let subsets = rule.subsets.iter().map(|subset| subset.name.clone());
            for subset in std::iter::once("".into()).chain(subsets) {
                all.extend(handlings(port.protocol).iter().map(|&handling| {
                    let (scope, service, subset) = (scope.clone(), service.clone(), subset.clone());
                    (Destination { scope, service, port: port.number, handling, subset }, port.protocol)
                }));
            }
        }
        all
    });
    add_clusters(graph, "waypoint_clusters", model, destinations, to);
    add_endpoints(graph, "waypoint_endpoints", model, destinations, to);
    let (referenced, quarantine) = chain::add_main_internal(graph, model, served, to);
    add_clusters(graph, "waypoint_other_clusters", model, referenced, to);
    add_endpoints(graph, "waypoint_other_endpoints", model, referenced, to);
    quarantine
}

fn add_fixtures(graph: &mut Graph, model: &Model, to: &mut Configs) {
    let fixtures = |graph: &mut Graph, table, names: &'static [&'static str]| {
        graph.derive(table, to.scopes, move |_, scope: &Scope, ()| {
            names.iter().map(|name| (Fixture { scope: scope.clone(), name }, ())).collect::<Vec<_>>()
        })
    };
    let clusters = fixtures(graph, "waypoint_fixed_clusters", &[MAIN_INTERNAL, ENCAP, CONNECT_ORIGINATE]);
    let listeners = fixtures(graph, "waypoint_fixed_listeners", &[CONNECT_TERMINATE, CONNECT_ORIGINATE]);
    let scope_of = model.scope().clone();
    to.add(graph, "waypoint_internal_clusters", ResourceType::Cluster, clusters, move |cx, key, ()| {
        let cluster = match key.name {
            CONNECT_ORIGINATE => {
                let mesh = scope_of.mesh(cx);
                let idle = mesh.hbone_idle_timeout.unwrap_or(HBONE_IDLE);
                cluster::connect_originate(&trust_domains(mesh), mesh.connect_timeout, idle)
            }
            ENCAP => cluster::to_internal_listener(ENCAP, CONNECT_ORIGINATE),
            name => cluster::to_internal_listener(name, name),
        };
        Some(encode::bytes(&cluster))
    });
    let model = model.clone();
    to.add(graph, "waypoint_internal_listeners", ResourceType::Listener, listeners, move |cx, key, ()| {
        let mesh = model.scope().mesh(cx);
        // What all services' chains refer to is enough for these, see there.
        let telemetry = telemetry::telemetry(cx, &model, &key.scope, None, &RefCell::default());
        let listener = match key.name {
            CONNECT_TERMINATE => {
                let logs = telemetry.logs(&[Only::Errors]);
                listener::connect_terminate(waypoint(&key.scope), &trust_domains(mesh), mesh, logs)
            }
            _ => listener::connect_originate(telemetry.logs(&[Only::UpstreamFailure])),
        };
        let access_log = telemetry::listener_logs(cx, &model, &telemetry);
        Some(encode::bytes(&Listener { access_log, ..listener }))
    });
}

/// The service of a destination, and what is to be done with connections to
/// it. `None` if they cannot be made as asked for: requests fail then. A cluster
/// and its endpoints both come from here, as one without the other would have an
/// Envoy wait, or us.
fn reachable<'g>(cx: &Ctx<'g>, model: &Model, key: &Destination) -> Option<(&'g Service, Rule)> {
    let service = cx.get(model.services, &key.service)?;
    let rule = model.destination_rules.rule(cx, model.scope(), client(&key.scope), &key.service).unwrap_or_default();
    // A subset that is gone is nobody's.
    if !key.subset.is_empty() && rule.subset(&key.subset).is_none() {
        return None;
    }
    match Transport::of(&rule.policy(key.port, &key.subset), service) {
        Ok(_) => Some((service, rule)),
        Err(refused) => {
            let message = format!("{}; a waypoint does not connect rather than connect without", refused.message);
            say(cx, &rule, refused.field, refused.reason, message);
            None
        }
    }
}

/// Says something about a policy of a rule.
fn say(cx: &Ctx<'_>, rule: &Rule, field: &str, reason: &'static str, message: impl Into<String>) {
    let ObjectKey { namespace, name } = rule.origin.clone().unwrap_or_default();
    let meta = Meta { namespace, name, ..Meta::default() };
    cx.diagnose(problem("DestinationRule", &meta, format!("spec.trafficPolicy.{field}"), reason, message));
}

/// The endpoints of a destination, as its proxies see them.
fn endpoints(
    cx: &Ctx<'_>,
    model: &Model,
    key: &Destination,
    service: &Service,
    rule: &Rule,
    discovery: Discovery,
) -> Vec<LocalityLbEndpoints> {
    let mut endpoints = model.endpoints(cx, service);
    if let Some(subset) = rule.subset(&key.subset) {
        endpoints.retain(|endpoint| subset.labels.select(&endpoint.labels));
    }
    let WaypointScope { families, place, .. } = waypoint(&key.scope);
    let request = endpoint::Request {
        service,
        port: key.port,
        cluster_id: &model.settings.cluster,
        families: *families,
        place,
        by_dns: discovery != Discovery::Eds,
    };
    let policy = rule.policy(key.port, &key.subset);
    if policy.load_balancer.is_some_and(|settings| settings.zone_aware_lb_setting.is_some()) {
        let message =
            "zones are balanced by proxies that know of their siblings; at a waypoint all endpoints are equal";
        say(cx, rule, "loadBalancer.zoneAwareLbSetting", "UnsupportedValue", message);
    }
    let preference = Preference::of(&policy, service, model.scope().mesh(cx));
    endpoint::localities(&request, &preference, &endpoints)
}

/// The endpoints in a cluster with names that are to be resolved. An Envoy that
/// only takes the newest answer takes one name.
fn resolved(cx: &Ctx<'_>, service: &Service, logical: bool, all: Vec<LocalityLbEndpoints>) -> Vec<LocalityLbEndpoints> {
    let mut all = all;
    if logical && all.iter().map(|group| group.lb_endpoints.len()).sum::<usize>() > 1 {
        let message = "names are resolved for one endpoint only; the others get nothing";
        cx.diagnose(problem("ServiceEntry", &service.meta, "spec.endpoints", "UnsupportedValue", message));
        all.truncate(1);
        for group in &mut all {
            group.lb_endpoints.truncate(1);
            group.load_balancing_weight = group.lb_endpoints.first().and_then(|one| one.load_balancing_weight);
        }
    }
    all
}

fn add_clusters(
    graph: &mut Graph,
    table: &'static str,
    model: &Model,
    destinations: Collection<Destination, Protocol>,
    to: &mut Configs,
) {
    let model = model.clone();
    to.add(graph, table, ResourceType::Cluster, destinations, move |cx, key, protocol| {
        let (service, rule) = reachable(cx, &model, key)?;
        let policy = rule.policy(key.port, &key.subset);
        let mesh = model.scope().mesh(cx);
        let discovery = Discovery::of(service, key.port, &policy);
        let endpoints = match discovery {
            Discovery::Dns { logical, .. } => {
                let all = resolved(cx, service, logical, endpoints(cx, &model, key, service, &rule, discovery));
                // Envoy takes no such cluster without any.
                Some(all).filter(|all| !all.is_empty())?
            }
            Discovery::Eds | Discovery::OriginalDst(_) | Discovery::DynamicDns => Vec::new(),
        };
        let upstream = Upstream {
            name: key.name(),
            service,
            rule: &rule,
            port: key.port,
            subset: &key.subset,
            // Bytes are passed on as they are.
            protocol: if key.handling == Handling::Tcp { Protocol::Tcp } else { *protocol },
            transport: Transport::of(&policy, service).ok()?,
            discovery,
            endpoints,
            preference: Preference::of(&policy, service, mesh),
            families: waypoint(&key.scope).families,
        };
        Some(encode::bytes(&cluster::upstream(upstream, mesh)))
    });
}

fn add_endpoints(
    graph: &mut Graph,
    table: &'static str,
    model: &Model,
    destinations: Collection<Destination, Protocol>,
    to: &mut Configs,
) {
    let model = model.clone();
    to.add(graph, table, ResourceType::Endpoints, destinations, move |cx, key, _| {
        let (service, rule) = reachable(cx, &model, key)?;
        let discovery = Discovery::of(service, key.port, &rule.policy(key.port, &key.subset));
        if discovery != Discovery::Eds {
            return None;
        }
        let endpoints = endpoints(cx, &model, key, service, &rule, discovery);
        Some(encode::bytes(&endpoint::assignment(&key.name(), endpoints)))
    });
}

/// The rows of one scope, found by it.
fn by_scope<V: crate::graph::Value>(graph: &mut Graph, rows: Collection<Served, V>) -> Index<Scope, Served, V> {
    graph.index(rows, |key: &Served, _: &V, keys| keys.push(key.scope.clone()))
}
