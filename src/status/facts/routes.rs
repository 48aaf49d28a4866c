//! What is known of the Gateway API's routes. Of their parents, services and
//! Gateways of our classes are ours to speak about.
//! <https://gateway-api.sigs.k8s.io/mesh/>

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::route::{BackendRef, GROUP, ParentReference, RouteSpec};
use crate::api::virtual_service::Destination;
use crate::api::{Kind, Meta, ObjectKey};
use crate::envoy::route::gateway_api::{self, Backends, Lowered, references};
use crate::envoy::route::{Clients, ClusterRef, Problem, RouteRequest, Semantics};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::gateway::RouteKind;
use crate::model::gateway::kubernetes::attachment::{self, Attached};
use crate::model::gateway::kubernetes::{self, Role};
use crate::model::virtual_service::parent_service;
use crate::model::{Model, problem};

use super::{About, Facts, Parent, Waypoint};

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
                about(cx, model, RouteKind::HTTPRoute, &route.meta, &route.spec, &lower)
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
                about(cx, model, RouteKind::GRPCRoute, &route.meta, &route.spec, &lower)
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
                about(cx, model, RouteKind::TCPRoute, &route.meta, &route.spec, &lower)
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
                about(cx, model, RouteKind::TLSRoute, &route.meta, &route.spec, &lower)
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
    kind: RouteKind,
    meta: &Meta,
    spec: &RouteSpec<R>,
    lower: &dyn Fn(&Backends<'_>) -> Vec<Problem>,
) -> Option<About> {
    if !model.scope().configures(cx, meta) {
        return None;
    }
    let route = attachment::Route { kind, meta, parents: &spec.parent_refs, hostnames: &spec.hostnames };
    let attached = model.gateway_api.attached(cx, model.scope(), route);
    let mut parents: Vec<Parent> = Vec::new();
    for reference in &spec.parent_refs {
        // One that is named twice has one status.
        if parents.iter().all(|known| known.reference != *reference) {
            let gateway = attached.iter().find(|one| one.reference == *reference).map(gateway);
            parents.extend(gateway.or_else(|| parent(cx, model, &meta.namespace, reference)));
        }
    }
    if parents.is_empty() {
        return None;
    }
    let name = kubernetes::listener::name(kind);
    let there = |host: &_| super::service_of(cx, model, &meta.namespace, host).is_some();
    let backends = RefCell::new(BTreeSet::new());
    let consumed: &[ParentReference] = if attached.is_empty() { &spec.parent_refs } else { &[] };
    let valid = |backend: &BackendRef, to: &Destination| {
        if !attached.is_empty() && (&*backend.group, &*backend.kind) == ("", "Service") {
            let namespace = if backend.namespace.is_empty() { &meta.namespace } else { &backend.namespace };
            backends.borrow_mut().insert(ObjectKey { namespace: namespace.clone(), name: backend.name.clone() });
        }
        references::check(cx, model, (name, &meta.namespace, consumed), (backend, to), there)
    };
    let lowering = Backends { namespace: &meta.namespace, domain: &model.settings.domain, valid: &valid };
    for found in lower(&lowering) {
        cx.diagnose(problem(name, meta, found.path("spec.rules"), found.reason, found.message));
    }
    let backends = backends.into_inner().into_iter().collect();
    Some(About::Route { rules: spec.rules.len(), parents, backends })
}

/// A parent that is a gateway.
fn gateway(attached: &Attached) -> Parent {
    let Attached { reference, bound } = attached;
    Parent {
        reference: reference.clone(),
        denied: bound.as_ref().err().map(|said| (said.reason, said.message.clone())),
        listeners: bound.as_ref().map_or(0, Vec::len),
        waypoint: Waypoint::NotAsked,
    }
}

/// A parent that is ours to speak about, and no gateway.
fn parent(cx: &Ctx<'_>, model: &Model, namespace: &Arc<str>, reference: &ParentReference) -> Option<Parent> {
    let denied = |reason, message: String| Some((reason, message.into()));
    let parent = |denied, waypoint| Parent { reference: reference.clone(), denied, listeners: 0, waypoint };
    let Some((registry, key)) = parent_service(reference, namespace) else {
        let message = "a waypoint's listener has no routes: those of the services that use it count";
        let key = waypoint(cx, model, namespace, reference)?;
        return Some(parent(denied("NotAllowedByListeners", message.into()), Waypoint::Served(key)));
    };
    let Some((found, service)) = cx.fetch(model.services_by_origin, &(registry, key.clone())).next() else {
        let kind = registry.kind();
        let missing = Waypoint::Missing("NoMatchingParent", "parent not found".into());
        return Some(parent(denied("NoMatchingParent", format!("parent {kind} {key} was not found")), missing));
    };
    let port = reference.port.is_none_or(|port| service.ports.iter().any(|one| one.number == port));
    let section = &reference.section_name;
    let section = section.is_empty() || service.ports.iter().any(|one| one.name == *section);
    let not_there = match (port, section) {
        (true, true) => None,
        (false, _) => denied("NoMatchingParent", format!("{key} has no port {}", reference.port.unwrap_or(0))),
        (_, false) => denied("NoMatchingParent", format!("{key} has no port named {}", reference.section_name)),
    };
    let missing = "istio.io/use-waypoint label missing from parent and parent namespace, or its waypoint is not \
                   ready; in ambient mode, route will not be respected";
    let served = match cx.get(model.service_waypoints, found) {
        Some(waypoint) => Waypoint::Served(waypoint.clone()),
        None => Waypoint::Missing("MissingUseWaypointLabel", missing.into()),
    };
    Some(parent(not_there, served))
}

/// The waypoint that a reference is to, if it is to one.
fn waypoint(cx: &Ctx<'_>, model: &Model, namespace: &Arc<str>, reference: &ParentReference) -> Option<ObjectKey> {
    if (&*reference.group, &*reference.kind) != (GROUP, "Gateway") {
        return None;
    }
    let namespace = if reference.namespace.is_empty() { namespace } else { &reference.namespace };
    let key = ObjectKey { namespace: namespace.clone(), name: reference.name.clone() };
    let gateway = cx.get(model.inputs.gateways, &key)?;
    let role = kubernetes::role(cx, model.inputs.gateway_classes, &gateway.spec.gateway_class_name);
    (role == Some(Role::Waypoint)).then_some(key)
}
