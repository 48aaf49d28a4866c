//! Which of the Gateway API's routes are bound to which listeners, and why
//! those are not that are not.
//! <https://gateway-api.sigs.k8s.io/concepts/api-overview/#attaching-routes-to-gateways>

use std::sync::Arc;

use crate::api::gateway::RouteNamespaces;
use crate::api::route::{GRPCRoute, HTTPRoute, ParentReference, RouteSpec, TCPRoute, TLSRoute};
use crate::api::{Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index, Value};
use crate::model::Scope;
use crate::model::by_host::covers;

use super::super::{Binding, Bound, Declared, GatewayKey, RouteKey, RouteKind};
use super::listener::{Listener, name};
use super::{Checked, GatewayApi, Role, Said, admits, parent};

/// A parent of a route that is ours to speak about.
#[derive(Clone, Debug, PartialEq)]
pub struct Attached {
    /// As the route has it.
    pub reference: ParentReference,
    /// Where it is bound, which may be to several listeners; why it is not.
    pub bound: Result<Vec<Binding>, Said>,
}

/// A route, as far as listeners choose among them.
#[derive(Clone, Copy)]
pub struct Route<'a> {
    /// Its kind.
    pub kind: RouteKind,
    /// Its name and namespace.
    pub meta: &'a Meta,
    /// What it is to be attached to.
    pub parents: &'a [ParentReference],
    /// The hosts it is for; none is any.
    pub hostnames: &'a [Arc<str>],
}

/// The tables that routes are attached by.
#[derive(Clone)]
struct Tables {
    scope: Scope,
    checked: Collection<ObjectKey, Arc<Checked>>,
    by_set: Index<ObjectKey, ObjectKey, Arc<Checked>>,
}

/// All routes of the Gateway API that are bound to gateways.
pub(super) fn bound(
    graph: &mut Graph,
    scope: &Scope,
    checked: Collection<ObjectKey, Arc<Checked>>,
    by_set: Index<ObjectKey, ObjectKey, Arc<Checked>>,
) -> Collection<RouteKey, Arc<Bound>> {
    let inputs = scope.inputs;
    let tables = Tables { scope: scope.clone(), checked, by_set };
    let http =
        of_kind(graph, &tables, "bound_http_routes", RouteKind::HTTPRoute, inputs.http_routes, |one: &HTTPRoute| {
            of(&one.meta, &one.spec)
        });
    let grpc =
        of_kind(graph, &tables, "bound_grpc_routes", RouteKind::GRPCRoute, inputs.grpc_routes, |one: &GRPCRoute| {
            of(&one.meta, &one.spec)
        });
    let tcp = of_kind(graph, &tables, "bound_tcp_routes", RouteKind::TCPRoute, inputs.tcp_routes, |one: &TCPRoute| {
        of(&one.meta, &one.spec)
    });
    let tls = of_kind(graph, &tables, "bound_tls_routes", RouteKind::TLSRoute, inputs.tls_routes, |one: &TLSRoute| {
        of(&one.meta, &one.spec)
    });
    graph.union("gateway_api_routes", [http, grpc, tcp, tls])
}

type Parts<'a> = (&'a Meta, &'a [ParentReference], &'a [Arc<str>]);

fn of<'a, R>(meta: &'a Meta, spec: &'a RouteSpec<R>) -> Parts<'a> {
    (meta, &spec.parent_refs, &spec.hostnames)
}

fn of_kind<R: Value>(
    graph: &mut Graph,
    tables: &Tables,
    table: &'static str,
    kind: RouteKind,
    routes: Collection<ObjectKey, R>,
    parts: fn(&R) -> Parts<'_>,
) -> Collection<RouteKey, Arc<Bound>> {
    let tables = tables.clone();
    graph.derive(table, routes, move |cx, key: &ObjectKey, route: &R| {
        let (meta, parents, hostnames) = parts(route);
        let route = Route { kind, meta, parents, hostnames };
        let to = bindings(attached(cx, &tables, route));
        let connections = matches!(kind, RouteKind::TCPRoute | RouteKind::TLSRoute);
        let bound = Bound { created: meta.created, connections, to };
        (!bound.to.is_empty()).then(|| (RouteKey { kind, object: key.clone() }, Arc::new(bound)))
    })
}

/// The places where a route is bound, each once.
fn bindings(attached: Vec<Attached>) -> Box<[Binding]> {
    let mut all: Vec<Binding> = attached.into_iter().filter_map(|one| one.bound.ok()).flatten().collect();
    all.retain(|binding| !binding.hosts.is_empty());
    all.sort_unstable();
    all.dedup();
    all.into()
}

impl GatewayApi {
    /// What becomes of those parents of a route that are gateways of ours.
    pub fn attached(&self, cx: &Ctx<'_>, scope: &Scope, route: Route<'_>) -> Vec<Attached> {
        attached(cx, &Tables { scope: scope.clone(), checked: self.checked, by_set: self.by_set }, route)
    }
}

fn attached(cx: &Ctx<'_>, tables: &Tables, route: Route<'_>) -> Vec<Attached> {
    let references = route.parents.iter().filter_map(|one| Some((one, parent(one, &route.meta.namespace)?)));
    let mut references = references.peekable();
    // Most routes of a mesh have no gateway as a parent.
    if references.peek().is_none() || !tables.scope.configures(cx, route.meta) {
        return Vec::new();
    }
    references
        .filter_map(|(reference, key)| {
            let bound = match listeners(cx, tables, &key)? {
                Ok(found) => bound_to(cx, tables, route, reference, &key, found),
                Err(said) => Err(Said::new("NotAllowedByListeners", format!("{key} has no effect: {}", said.message))),
            };
            Some(Attached { reference: reference.clone(), bound })
        })
        .collect()
}

/// The listeners of a gateway of ours, or why they do not count; none of a
/// waypoint, whose routes are those of the services that use it.
fn listeners<'g>(
    cx: &Ctx<'g>,
    tables: &Tables,
    key: &GatewayKey,
) -> Option<Result<(&'g Checked, &'g [Listener]), &'g Said>> {
    match key.declared {
        Declared::Kubernetes => {
            let checked = cx.get(tables.checked, &key.object()).filter(|one| one.role == Role::Gateway)?;
            Some(Ok((&**checked, &*checked.listeners)))
        }
        Declared::ListenerSet => {
            let (_, checked) = cx.fetch(tables.by_set, &key.object()).next()?;
            let set = checked.sets.iter().find(|set| set.meta.key() == key.object())?;
            Some(set.denied.as_ref().map(|()| (&**checked, &*set.listeners)))
        }
        Declared::Istio | Declared::Ingress => None,
    }
}

/// Why a route may not attach to a listener, by how far it got: of several
/// listeners, what is said about the one that is likeliest meant counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Denied {
    Parent,
    Kind,
    Hostname,
    Namespace,
}

fn bound_to(
    cx: &Ctx<'_>,
    tables: &Tables,
    route: Route<'_>,
    reference: &ParentReference,
    key: &GatewayKey,
    (gateway, listeners): (&Checked, &[Listener]),
) -> Result<Vec<Binding>, Said> {
    let (mut bindings, mut denials) = (Vec::new(), Vec::new());
    for listener in listeners.iter().filter(|one| one.takes_routes()) {
        match hosts(cx, tables, route, reference, key, listener) {
            Ok(hosts) => bindings.push(Binding {
                gateway: key.clone(),
                server: Some(listener.name.clone()),
                hosts: isolated(hosts, listener, gateway),
            }),
            Err(denial) => denials.push(denial),
        }
    }
    if !bindings.is_empty() {
        return Ok(bindings);
    }
    // The first of those that got equally far.
    let farthest = denials.into_iter().rev().max_by_key(|(denied, _)| *denied);
    let none = || Said::new("NoMatchingParent", format!("{key} has no listener that takes routes"));
    Err(farthest.map_or_else(none, |(_, said)| said))
}

/// The hosts that a route and a listener have in common, if the route may
/// attach to it.
fn hosts(
    cx: &Ctx<'_>,
    tables: &Tables,
    route: Route<'_>,
    reference: &ParentReference,
    key: &GatewayKey,
    listener: &Listener,
) -> Result<Vec<Arc<str>>, (Denied, Said)> {
    let denied = |denied, reason, message: String| Err((denied, Said::new(reason, message)));
    if let Some(port) = reference.port.filter(|port| *port != listener.port) {
        return denied(Denied::Parent, "NoMatchingParent", format!("{key} has no listener at port {port}"));
    }
    if !reference.section_name.is_empty() && reference.section_name != listener.name {
        let message = format!("{key} has no listener {:?}", &*reference.section_name);
        return denied(Denied::Parent, "NoMatchingParent", message);
    }
    if !listener.kinds.contains(&route.kind) {
        let message = format!("listener {} does not take routes of kind {}", listener.name, name(route.kind));
        return denied(Denied::Kind, "NotAllowedByListeners", message);
    }
    let common = common(route.hostnames, &listener.hostname);
    if common.is_empty() {
        let message = format!("none of its hostnames has anything in common with {}", listener.hostname);
        return denied(Denied::Hostname, "NoMatchingListenerHostname", message);
    }
    if !admitted(cx, tables, key, &listener.namespaces, &route.meta.namespace) {
        let message = format!("listener {} does not allow routes of namespace {}", listener.name, route.meta.namespace);
        return denied(Denied::Namespace, "NotAllowedByListeners", message);
    }
    Ok(common)
}

fn admitted(cx: &Ctx<'_>, tables: &Tables, key: &GatewayKey, namespaces: &RouteNamespaces, from: &Arc<str>) -> bool {
    admits(cx, &tables.scope, &key.namespace, namespaces, from)
}

/// What the hosts of a route have in common with that of a listener. Of two
/// that match each other, the narrower is what they have in common.
fn common(hostnames: &[Arc<str>], listener: &Arc<str>) -> Vec<Arc<str>> {
    let any: Arc<str> = "*".into();
    let listener = if listener.is_empty() { &any } else { listener };
    let mut hosts: Vec<Arc<str>> = match hostnames.is_empty() {
        true => vec![any.clone()],
        false => hostnames.iter().map(|host| host.to_ascii_lowercase().into()).collect(),
    };
    hosts = hosts
        .into_iter()
        .filter_map(|host| match () {
            () if host == *listener || covers(listener, &host) => Some(host),
            () if covers(&host, listener) => Some(listener.clone()),
            () => None,
        })
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

/// Those hosts that no other listener of the same port and protocol is more
/// particularly for: what is said there counts for them, and if nothing is
/// said, nothing does.
/// <https://gateway-api.sigs.k8s.io/reference/spec/#listener>
fn isolated(hosts: Vec<Arc<str>>, own: &Listener, gateway: &Checked) -> Box<[Arc<str>]> {
    let sets = gateway.sets.iter().filter(|set| set.denied.is_ok()).flat_map(|set| &*set.listeners);
    let beside = gateway.listeners.iter().chain(sets).filter(|other| {
        other.takes_routes() && other.port == own.port && other.protocol == own.protocol && !other.hostname.is_empty()
    });
    let particular: Vec<&str> =
        beside.map(|other| &*other.hostname).filter(|other| narrower(other, &own.hostname)).collect();
    let theirs = |host: &Arc<str>| particular.iter().any(|other| **other == **host || covers(other, host));
    hosts.into_iter().filter(|host| !theirs(host)).collect()
}

/// Whether a host is matched by another one and not the same; an empty one
/// matches all.
fn narrower(host: &str, than: &str) -> bool {
    host != than && (than.is_empty() || covers(than, host))
}
