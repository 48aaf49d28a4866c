//! What is known of the Gateway API's routes. Of their parents, only services
//! and waypoints are ours to speak about.
//! <https://gateway-api.sigs.k8s.io/mesh/>

use std::sync::Arc;

use crate::api::route::{BackendRef, GROUP, ParentReference, RouteSpec};
use crate::api::virtual_service::Destination;
use crate::api::{Kind, Meta, ObjectKey};
use crate::envoy::route::gateway_api::{self, Backends, Lowered, references};
use crate::envoy::route::{Clients, ClusterRef, Problem, RouteRequest, Semantics};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::binding::WAYPOINT_CONTROLLER;
use crate::model::virtual_service::parent_service;
use crate::model::{Model, problem};

use super::{About, Facts, Parent};

pub(super) fn add(graph: &mut Graph, model: &Model) -> [(Kind, Collection<ObjectKey, Facts>); 4] {
    let inputs = model.inputs;
    [
        super::add(
            (&mut *graph, model),
            "http_route_facts",
            Kind::HTTPRoute,
            inputs.http_routes,
            |route| &route.meta,
            |cx, model, route| {
                let lower = |backends: &Backends<'_>| lowered(gateway_api::http_rules(route, backends));
                about(cx, model, Kind::HTTPRoute, &route.meta, &route.spec, &lower)
            },
        ),
        super::add(
            (&mut *graph, model),
            "grpc_route_facts",
            Kind::GRPCRoute,
            inputs.grpc_routes,
            |route| &route.meta,
            |cx, model, route| {
                let lower = |backends: &Backends<'_>| lowered(gateway_api::grpc_rules(route, backends));
                about(cx, model, Kind::GRPCRoute, &route.meta, &route.spec, &lower)
            },
        ),
        super::add(
            (&mut *graph, model),
            "tcp_route_facts",
            Kind::TCPRoute,
            inputs.tcp_routes,
            |route| &route.meta,
            |cx, model, route| {
                let lower = |backends: &Backends<'_>| gateway_api::tcp_rule(route, backends).1;
                about(cx, model, Kind::TCPRoute, &route.meta, &route.spec, &lower)
            },
        ),
        super::add(
            (&mut *graph, model),
            "tls_route_facts",
            Kind::TLSRoute,
            inputs.tls_routes,
            |route| &route.meta,
            |cx, model, route| {
                let lower = |backends: &Backends<'_>| gateway_api::tls_rule(route, backends).1;
                about(cx, model, Kind::TLSRoute, &route.meta, &route.spec, &lower)
            },
        ),
    ]
}

/// What is wrong with lowered rules, besides what was found when lowering.
fn lowered((rules, mut problems): (Vec<Lowered>, Vec<Problem>)) -> Vec<Problem> {
    let request = RouteRequest {
        config: "",
        name: "",
        semantics: Semantics::GatewayApi,
        port: 0,
        clients: Clients::Mesh,
        tls: false,
        append_x_forwarded_host: false,
        default_retry: None,
        cluster_of: &|_| ClusterRef { name: "a".into(), ..ClusterRef::default() },
    };
    let (_, found) = gateway_api::routes(&request, &|_| String::new(), &rules);
    problems.extend(found.into_iter().map(|(_, problem)| problem));
    problems
}

/// What is known of a route, if it has a parent that is ours. `lower` finds the
/// problems of its rules.
fn about<R>(
    cx: &Ctx<'_>,
    model: &Model,
    kind: Kind,
    meta: &Meta,
    spec: &RouteSpec<R>,
    lower: &dyn Fn(&Backends<'_>) -> Vec<Problem>,
) -> Option<About> {
    if !model.scope().configures(cx, meta) {
        return None;
    }
    let mut parents: Vec<Parent> = Vec::new();
    for reference in &spec.parent_refs {
        // One that is named twice has one status.
        if parents.iter().all(|known| known.reference != *reference) {
            parents.extend(parent(cx, model, &meta.namespace, reference));
        }
    }
    if parents.is_empty() {
        return None;
    }
    let name = kind.info().kind;
    let there = |host: &_| super::service_of(cx, model, &meta.namespace, host).is_some();
    let valid = |backend: &BackendRef, to: &Destination| {
        references::check(cx, model, (name, &meta.namespace, &spec.parent_refs), (backend, to), there)
    };
    let backends = Backends { namespace: &meta.namespace, domain: &model.settings.domain, valid: &valid };
    for found in lower(&backends) {
        cx.diagnose(problem(name, meta, found.path("spec.rules"), found.reason, found.message));
    }
    Some(About::Route { rules: spec.rules.len(), parents })
}

/// A parent that is ours to speak about.
fn parent(cx: &Ctx<'_>, model: &Model, namespace: &Arc<str>, reference: &ParentReference) -> Option<Parent> {
    let denied = |reason, message: String| Some((reason, message.into()));
    let parent = |denied, waypoint| Parent { reference: reference.clone(), denied, waypoint };
    let Some((registry, key)) = parent_service(reference, namespace) else {
        let message = "a waypoint's listener has no routes: those of the services that use it count";
        return waypoint(cx, model, namespace, reference)
            .then(|| parent(denied("NotAllowedByListeners", message.into()), Ok(())));
    };
    let Some((found, service)) = cx.fetch(model.services_by_origin, &(registry, key.clone())).next() else {
        let kind = registry.kind();
        let missing = || Err(("NoMatchingParent", "parent not found".into()));
        return Some(parent(denied("NoMatchingParent", format!("parent {kind} {key} was not found")), missing()));
    };
    let port = reference.port.is_none_or(|port| service.ports.iter().any(|one| one.number == port));
    let section = &reference.section_name;
    let section = section.is_empty() || service.ports.iter().any(|one| one.name == *section);
    let not_there = match (port, section) {
        (true, true) => None,
        (false, _) => denied("NoMatchingParent", format!("{key} has no port {}", reference.port.unwrap_or(0))),
        (_, false) => denied("NoMatchingParent", format!("{key} has no port named {}", reference.section_name)),
    };
    let served = cx.get(model.service_waypoints, found).is_some();
    let missing = "istio.io/use-waypoint label missing from parent and parent namespace, or its waypoint is not \
                   ready; in ambient mode, route will not be respected";
    let served = if served { Ok(()) } else { Err(("MissingUseWaypointLabel", missing.into())) };
    Some(parent(not_there, served))
}

/// Whether a reference is to a waypoint.
fn waypoint(cx: &Ctx<'_>, model: &Model, namespace: &Arc<str>, reference: &ParentReference) -> bool {
    if (&*reference.group, &*reference.kind) != (GROUP, "Gateway") {
        return false;
    }
    let namespace = if reference.namespace.is_empty() { namespace } else { &reference.namespace };
    let key = ObjectKey { namespace: namespace.clone(), name: reference.name.clone() };
    let class = |gateway: &crate::api::gateway::Gateway| {
        let key = ObjectKey { namespace: "".into(), name: gateway.spec.gateway_class_name.clone() };
        cx.get(model.inputs.gateway_classes, &key)
    };
    let class = cx.get(model.inputs.gateways, &key).and_then(class);
    class.is_some_and(|class| &*class.spec.controller_name == WAYPOINT_CONTROLLER)
}
