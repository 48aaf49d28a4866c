//! What a gateway is configured with: listeners for the servers that gateways
//! ask its proxies for, route configurations for the routes that are bound to
//! them, and the clusters and endpoints that those lead to, and no others.
//! <https://istio.io/latest/docs/concepts/traffic-management/#gateways>
//!
//! Istio's `Gateway`, the Gateway API and `Ingress` are the same here; see
//! [`crate::model::gateway`].

mod chains;
mod connections;
mod listeners;
mod merge;
pub(super) mod routes;
mod services;

use std::cell::RefCell;
use std::sync::Arc;

use envoy_types::pb::envoy::config::listener::v3::Listener;

use crate::graph::{Collection, Ctx, Graph};
use crate::model::Model;
use crate::model::service::{Protocol, Service, ServiceKey};
use crate::proxy::Scope;
use crate::xds::resource::ResourceType;

use super::access_log::Only;
use super::destination::{Destination, add_clusters, add_endpoints};
use super::endpoint::CONNECT_ORIGINATE;
use super::quarantine::Ward;
use super::telemetry::applied;
use super::{Configs, connect_originate, encode, fixtures, listener, trust_domains};

use merge::Merged;
use routes::Hosted;

/// Adds the tables. Returns the hosts of route configurations, which can be held
/// back one by one.
pub(super) fn add(graph: &mut Graph, model: &Model, to: &mut Configs) -> Ward<Hosted> {
    add_fixtures(graph, model, to);
    let model_of = model.clone();
    let merged = graph.derive("gateway_servers_of_proxies", to.gateways, move |cx, scope: &Scope, ()| {
        [(scope.clone(), Arc::new(Merged::of(cx, &model_of, scope)))]
    });
    let (routed, quarantine) = routes::add(graph, model, merged, to);
    let passed = services::passed(graph, model, merged);
    let all = services::all(graph, model, to.gateways);
    let listened = listeners::add(graph, model, merged, passed, to);
    let referenced: Collection<Destination, Protocol> =
        graph.union("gateway_references", [routed, listened, passed, all]);
    let by_service = graph.index(referenced, |key: &Destination, _: &Protocol, keys| keys.push(key.service.clone()));
    let model_of = model.clone();
    let identities = graph.group("gateway_identities", by_service, move |cx, key: &ServiceKey| {
        Some(identities(cx, &model_of, cx.get(model_of.services, key)?))
    });
    add_clusters(graph, "gateway_clusters", model, referenced, Some(identities), to);
    add_endpoints(graph, "gateway_endpoints", model, referenced, to);
    quarantine
}

/// The identities of those who serve a service: its pods by their accounts, and
/// whom it names itself.
fn identities(cx: &Ctx<'_>, model: &Model, service: &Service) -> Vec<String> {
    let domains = trust_domains(model.scope().mesh(cx));
    let of_pods = model.accounts(cx, service).into_iter().flat_map(|(namespace, account)| {
        let identity = move |domain: &&str| format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
        domains.iter().map(identity).collect::<Vec<_>>()
    });
    let mut all: Vec<_> = of_pods.chain(service.subject_alt_names.iter().map(ToString::to_string)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What every gateway has: the way out by HBONE.
fn add_fixtures(graph: &mut Graph, model: &Model, to: &mut Configs) {
    let clusters = fixtures(graph, "gateway_fixed_clusters", to.gateways, &[CONNECT_ORIGINATE]);
    let listeners = fixtures(graph, "gateway_fixed_listeners", to.gateways, &[CONNECT_ORIGINATE]);
    let scope_of = model.scope().clone();
    to.add(graph, "gateway_internal_clusters", ResourceType::Cluster, clusters, move |cx, _, ()| {
        Some(encode::bytes(&connect_originate(scope_of.mesh(cx))))
    });
    let model = model.clone();
    to.add(graph, "gateway_internal_listeners", ResourceType::Listener, listeners, move |cx, key, ()| {
        // What the other listeners refer to is enough for this.
        let telemetry = applied::telemetry(cx, &model, &key.scope, None, &RefCell::default());
        let listener = listener::connect_originate(telemetry.logs(&[Only::UpstreamFailure]));
        let access_log = applied::listener_logs(cx, &model, &telemetry);
        Some(encode::bytes(&Listener { access_log, ..listener }))
    });
}
