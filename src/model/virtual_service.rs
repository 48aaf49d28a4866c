//! Which routes count for a service at a waypoint: VirtualServices, and the
//! Gateway API's routes that have the service as their parent.
//! <https://istio.io/latest/docs/reference/config/networking/virtual-service/>,
//! <https://gateway-api.sigs.k8s.io/mesh/>

use std::sync::Arc;

use crate::api::route::{GRPCRoute, HTTPRoute, ParentReference, TCPRoute, TLSRoute};
use crate::api::virtual_service::VirtualService;
use crate::api::{Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index, Value};

use super::Scope;
use super::by_host::{ByHost, covers, exported, resolve};
use super::service::{Registry, Service};

/// A service as the parent of routes.
pub type Parent = (Registry, ObjectKey);

/// The routes, by what they are for.
#[derive(Clone, Copy)]
pub struct Routes {
    virtual_services: Collection<ObjectKey, VirtualService>,
    by_host: ByHost<VirtualService>,
    http: Index<Parent, ObjectKey, HTTPRoute>,
    grpc: Index<Parent, ObjectKey, GRPCRoute>,
    tcp: Index<Parent, ObjectKey, TCPRoute>,
    tls: Index<Parent, ObjectKey, TLSRoute>,
}

/// The Gateway API's routes for HTTP that count for one port of a service.
#[derive(Debug, Default)]
pub struct HttpRoutes<'g> {
    /// Those of HTTP.
    pub http: Vec<&'g HTTPRoute>,
    /// Those of gRPC.
    pub grpc: Vec<&'g GRPCRoute>,
}

/// A port of a service at a waypoint in a namespace.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The namespace of the waypoint.
    pub client: &'a Arc<str>,
    /// The service.
    pub service: &'a Service,
    /// The number of the port.
    pub port: u16,
}

/// Declares the indexes.
pub(super) fn routes(graph: &mut Graph, scope: &Scope) -> Routes {
    let inputs = scope.inputs;
    Routes {
        virtual_services: inputs.virtual_services,
        by_host: ByHost::new(graph, inputs.virtual_services, &scope.settings.domain, |one: &VirtualService| {
            &one.spec.hosts
        }),
        http: by_parent(graph, inputs.http_routes, |route: &HTTPRoute| &route.spec.parent_refs),
        grpc: by_parent(graph, inputs.grpc_routes, |route: &GRPCRoute| &route.spec.parent_refs),
        tcp: by_parent(graph, inputs.tcp_routes, |route: &TCPRoute| &route.spec.parent_refs),
        tls: by_parent(graph, inputs.tls_routes, |route: &TLSRoute| &route.spec.parent_refs),
    }
}

fn by_parent<R: Value>(
    graph: &mut Graph,
    routes: Collection<ObjectKey, R>,
    parents: impl Fn(&R) -> &[ParentReference] + Send + 'static,
) -> Index<Parent, ObjectKey, R> {
    graph.index(routes, move |key: &ObjectKey, route, keys| {
        for parent in parents(route) {
            if let Some(parent) = service(parent, &key.namespace)
                && !keys.contains(&parent)
            {
                keys.push(parent);
            }
        }
    })
}

/// The service that a reference is to, for a route in a namespace.
fn service(parent: &ParentReference, namespace: &Arc<str>) -> Option<Parent> {
    let registry = match (&*parent.group, &*parent.kind) {
        ("", "Service") => Registry::Kubernetes,
        ("networking.istio.io", "ServiceEntry") => Registry::ServiceEntry,
        _ => return None,
    };
    let namespace = if parent.namespace.is_empty() { namespace } else { &parent.namespace };
    Some((registry, ObjectKey { namespace: namespace.clone(), name: parent.name.clone() }))
}

/// Whether a route is attached to a port of a service, which it may give by
/// number and by name.
fn attached(parents: &[ParentReference], namespace: &Arc<str>, service_of: &Service, port: u16) -> bool {
    let own = (service_of.registry, service_of.meta.key());
    let named = |name: &str| service_of.ports.iter().any(|one| one.number == port && *one.name == *name);
    parents.iter().any(|parent| {
        service(parent, namespace).as_ref() == Some(&own)
            && parent.port.is_none_or(|number| number == port)
            && (parent.section_name.is_empty() || named(&parent.section_name))
    })
}

impl Routes {
    /// The virtual services for a service at a waypoint in `client`. Only those
    /// of the two namespaces count. A host that is named beats a wildcard, a
    /// longer wildcard a shorter one; of equals the oldest comes first.
    pub fn virtual_services<'g>(
        &self,
        cx: &Ctx<'g>,
        scope: &Scope,
        client: &Arc<str>,
        service: &Service,
    ) -> Vec<&'g VirtualService> {
        let default = &scope.mesh(cx).default_virtual_service_export_to;
        let host = &service.key.hostname;
        let mut places = vec![client, &service.key.namespace];
        places.dedup();
        let mut found: Vec<(usize, &VirtualService)> = Vec::new();
        for place in places {
            let visible = |one: &&VirtualService| {
                let mesh = one.spec.gateways.is_empty() || one.spec.gateways.iter().any(|gateway| &**gateway == "mesh");
                mesh && scope.configures(cx, &one.meta) && exported(&one.spec.export_to, default, place, client)
            };
            found.extend(self.by_host.exact(cx, place, host).into_iter().filter(visible).map(|one| (usize::MAX, one)));
            for one in self.by_host.wide(cx, place).into_iter().filter(visible) {
                let hosts = one.spec.hosts.iter().map(|pattern| resolve(pattern, place, &scope.settings.domain));
                let hosts: Vec<_> = hosts.collect();
                let longest = hosts.iter().filter(|pattern| covers(pattern, host)).map(|pattern| pattern.len()).max();
                if let Some(longest) = longest.filter(|_| !hosts.contains(host)) {
                    found.push((longest, one));
                }
            }
        }
        found.sort_by_key(|(specific, one)| {
            let Meta { created, name, namespace, .. } = &one.meta;
            (std::cmp::Reverse(*specific), *created, name.clone(), namespace.clone())
        });
        found.into_iter().map(|(_, one)| one).collect()
    }

    /// A virtual service that another one in `from` may delegate to.
    pub fn delegate<'g>(&self, cx: &Ctx<'g>, scope: &Scope, key: &ObjectKey, from: &str) -> Option<&'g VirtualService> {
        let default = &scope.mesh(cx).default_virtual_service_export_to;
        let found = cx.get(self.virtual_services, key)?;
        let seen = exported(&found.spec.export_to, default, &key.namespace, from);
        (seen && scope.configures(cx, &found.meta)).then_some(found)
    }

    /// The routes for HTTP and gRPC that have the port as a parent.
    pub fn http<'g>(&self, cx: &Ctx<'g>, scope: &Scope, place: Place<'_>) -> HttpRoutes<'g> {
        let mut http = of_parent(cx, self.http, scope, place, |route| (&route.meta, &*route.spec.parent_refs));
        let mut grpc = of_parent(cx, self.grpc, scope, place, |route| (&route.meta, &*route.spec.parent_refs));
        // The kinds share the requests, hence the precedence.
        let consumers = |meta: &Meta| meta.namespace == *place.client;
        if http.iter().any(|route| consumers(&route.meta)) || grpc.iter().any(|route| consumers(&route.meta)) {
            http.retain(|route| consumers(&route.meta));
            grpc.retain(|route| consumers(&route.meta));
        }
        HttpRoutes { http, grpc }
    }

    /// The same for TCP, oldest first.
    pub fn tcp<'g>(&self, cx: &Ctx<'g>, scope: &Scope, place: Place<'_>) -> Vec<&'g TCPRoute> {
        let routes = of_parent(cx, self.tcp, scope, place, |route| (&route.meta, &*route.spec.parent_refs));
        oldest_consumers_first(routes, place, |route| &route.meta)
    }

    /// The same for TLS, oldest first.
    pub fn tls<'g>(&self, cx: &Ctx<'g>, scope: &Scope, place: Place<'_>) -> Vec<&'g TLSRoute> {
        let routes = of_parent(cx, self.tls, scope, place, |route| (&route.meta, &*route.spec.parent_refs));
        oldest_consumers_first(routes, place, |route| &route.meta)
    }
}

/// The routes that have a port of a service as a parent, from the namespaces
/// that count: that of the service, whose routes are for everybody, and that of
/// the waypoint.
fn of_parent<'g, R: Value>(
    cx: &Ctx<'g>,
    index: Index<Parent, ObjectKey, R>,
    scope: &Scope,
    place: Place<'_>,
    of: impl Fn(&R) -> (&Meta, &[ParentReference]),
) -> Vec<&'g R> {
    let Place { client, service, port } = place;
    let parent = (service.registry, service.meta.key());
    let counts = |key: &ObjectKey, route: &R| {
        let (meta, parents) = of(route);
        (key.namespace == *client || key.namespace == service.key.namespace)
            && scope.configures(cx, meta)
            && attached(parents, &meta.namespace, service, port)
    };
    let found = cx.fetch(index, &parent).filter(|(key, route)| counts(key, route));
    found.map(|(_, route)| route).collect()
}

/// Routes of the waypoint's own namespace beat those of the service's, as a
/// consumer's beat the producer's.
/// <https://gateway-api.sigs.k8s.io/mesh/#namespace-boundaries>
fn oldest_consumers_first<'g, R>(mut routes: Vec<&'g R>, place: Place<'_>, meta: impl Fn(&R) -> &Meta) -> Vec<&'g R> {
    if routes.iter().any(|route| meta(route).namespace == *place.client) {
        routes.retain(|route| meta(route).namespace == *place.client);
    }
    routes.sort_by_key(|route| {
        let Meta { created, namespace, name, .. } = meta(route);
        (*created, namespace.clone(), name.clone())
    });
    routes
}
