//! What a waypoint is configured with: the services that are attached to it,
//! and nothing of any other.
//! <https://istio.io/latest/docs/ambient/usage/waypoint/>
//!
//! Each service is worked out by itself: a filter chain, clusters and endpoints
//! for each of its ports. The listener that tells them apart is put together
//! from encoded chains, so that a change of one service encodes that one.

pub(super) mod chain;
mod connections;
mod routes;

use std::cell::RefCell;

use envoy_types::pb::envoy::config::listener::v3::Listener;

use crate::api::ObjectKey;
use crate::graph::{Collection, Graph, Index};
use crate::model::Model;
use crate::model::service::ServiceKey;
use crate::proxy::Scope;
use crate::xds::resource::ResourceType;

use super::access_log::Only;
use super::cluster::{self, ENCAP, MAIN_INTERNAL};
use super::destination::{Destination, add_clusters, add_endpoints, handlings, ports};
use super::endpoint::CONNECT_ORIGINATE;
use super::listener::{self, CONNECT_TERMINATE};
use super::quarantine::Ward;
use super::telemetry::applied;
use super::{Configs, Scoped, client, connect_originate, encode, fixtures, gateway, trust_domains};

use chain::Chains;

/// A service that a waypoint serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Served {
    scope: Scope,
    service: ServiceKey,
}

impl Scoped for Served {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn name(&self) -> String {
        self.service.to_string()
    }
}

/// Adds the tables.
pub(super) fn add(graph: &mut Graph, model: &Model, to: &mut Configs) -> Ward<Chains> {
    let scopes = to.waypoints;
    add_fixtures(graph, model, to);

    let by_waypoint =
        graph.index(model.service_waypoints, |_: &ServiceKey, waypoint: &ObjectKey, keys| keys.push(waypoint.clone()));
    let served = graph.derive("waypoint_services", scopes, move |cx, scope: &Scope, ()| {
        let gateway = gateway(scope);
        let services = cx.fetch(by_waypoint, &gateway).map(|(service, _)| service.clone());
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
    add_clusters(graph, "waypoint_clusters", model, destinations, None, to);
    add_endpoints(graph, "waypoint_endpoints", model, destinations, to);
    let (referenced, quarantine) = chain::add_main_internal(graph, model, served, to);
    add_clusters(graph, "waypoint_other_clusters", model, referenced, None, to);
    add_endpoints(graph, "waypoint_other_endpoints", model, referenced, to);
    quarantine
}

fn add_fixtures(graph: &mut Graph, model: &Model, to: &mut Configs) {
    let scopes = to.waypoints;
    let clusters = fixtures(graph, "waypoint_fixed_clusters", scopes, &[MAIN_INTERNAL, ENCAP, CONNECT_ORIGINATE]);
    let listeners = fixtures(graph, "waypoint_fixed_listeners", scopes, &[CONNECT_TERMINATE, CONNECT_ORIGINATE]);
    let scope_of = model.scope().clone();
    to.add(graph, "waypoint_internal_clusters", ResourceType::Cluster, clusters, move |cx, key, ()| {
        let cluster = match key.name {
            CONNECT_ORIGINATE => connect_originate(scope_of.mesh(cx)),
            ENCAP => cluster::to_internal_listener(ENCAP, CONNECT_ORIGINATE),
            name => cluster::to_internal_listener(name, name),
        };
        Some(encode::bytes(&cluster))
    });
    let model = model.clone();
    to.add(graph, "waypoint_internal_listeners", ResourceType::Listener, listeners, move |cx, key, ()| {
        let mesh = model.scope().mesh(cx);
        // What all services' chains refer to is enough for these, see there.
        let telemetry = applied::telemetry(cx, &model, &key.scope, None, &RefCell::default());
        let listener = match key.name {
            CONNECT_TERMINATE => {
                let logs = telemetry.logs(&[Only::Errors]);
                listener::connect_terminate(&key.scope, &trust_domains(mesh), mesh, logs)
            }
            _ => listener::connect_originate(telemetry.logs(&[Only::UpstreamFailure])),
        };
        let access_log = applied::listener_logs(cx, &model, &telemetry);
        Some(encode::bytes(&Listener { access_log, ..listener }))
    });
}

/// The rows of one scope, found by it.
fn by_scope<V: crate::graph::Value>(graph: &mut Graph, rows: Collection<Served, V>) -> Index<Scope, Served, V> {
    graph.index(rows, |key: &Served, _: &V, keys| keys.push(key.scope.clone()))
}
