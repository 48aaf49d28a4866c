//! Which routes count for a service at a waypoint: VirtualServices, and the
//! Gateway API's routes that have the service as their parent.
//! <https://istio.io/latest/docs/reference/config/networking/virtual-service/>,
//! <https://gateway-api.sigs.k8s.io/mesh/>

use std::sync::Arc;

use crate::api::route::{GRPCRoute, HTTPRoute, ParentReference, TCPRoute};
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
    }
}

fn by_parent<R: Value>(
    graph: &mut Graph,
    routes: Collection<ObjectKey, R>,
    parents: impl Fn(&R) -> &[ParentReference] + Send + 'static,
) -> Index<Parent, ObjectKey, R> {
    graph.index(routes, move |key: &ObjectKey, route, keys| {
        for parent in parents(route) {
            if let Some(parent) = parent_service(parent, &key.namespace)
                && !keys.contains(&parent)
            {
                keys.push(parent);
            }
        }
    })
}

/// The service that a reference is to, for a route in a namespace.
pub fn parent_service(parent: &ParentReference, namespace: &Arc<str>) -> Option<Parent> {
    let registry = match (&*parent.group, &*parent.kind) {
        ("", "Service") => Registry::Kubernetes,
        ("networking.istio.io", "ServiceEntry") => Registry::ServiceEntry,
        _ => return None,
    };
    let namespace = if parent.namespace.is_empty() { namespace } else { &parent.namespace };
    Some((registry, ObjectKey { namespace: namespace.clone(), name: parent.name.clone() }))
}

/// Whether a route is attached to a port of a service.
pub fn attached(parents: &[ParentReference], namespace: &Arc<str>, service_of: &Service, port: u16) -> bool {
    let own = (service_of.registry, service_of.meta.key());
    parents.iter().any(|parent| {
        parent_service(parent, namespace).as_ref() == Some(&own) && parent.port.is_none_or(|number| number == port)
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

    /// The virtual services beside another one whose rules for one of its hosts
    /// come before its own.
    pub fn older<'g>(
        &self,
        cx: &Ctx<'g>,
        scope: &Scope,
        one: &VirtualService,
        host: &Arc<str>,
    ) -> Vec<&'g VirtualService> {
        let host = resolve(host, &one.meta.namespace, &scope.settings.domain);
        let age = |one: &VirtualService| (one.meta.created, one.meta.name.clone());
        let own = age(one);
        let mut all = match host.contains('*') {
            true => self.by_host.wide(cx, &one.meta.namespace),
            false => self.by_host.exact(cx, &one.meta.namespace, &host),
        };
        all.retain(|other| {
            let mesh = other.spec.gateways.is_empty() || other.spec.gateways.iter().any(|gateway| &**gateway == "mesh");
            let same = || {
                let mut hosts = other.spec.hosts.iter();
                hosts.any(|other_host| resolve(other_host, &other.meta.namespace, &scope.settings.domain) == host)
            };
            mesh && age(other) < own && same() && scope.configures(cx, &other.meta)
        });
        all
    }

    /// A virtual service that another one in `from` may delegate to.
    pub fn delegate<'g>(&self, cx: &Ctx<'g>, scope: &Scope, key: &ObjectKey, from: &str) -> Option<&'g VirtualService> {
        let default = &scope.mesh(cx).default_virtual_service_export_to;
        let found = cx.get(self.virtual_services, key)?;
        let seen = exported(&found.spec.export_to, default, &key.namespace, from);
        (seen && scope.configures(cx, &found.meta)).then_some(found)
    }

    /// The routes for HTTP that have the service as a parent, from namespaces
    /// that count.
    pub fn http<'g>(&self, cx: &Ctx<'g>, scope: &Scope, client: &Arc<str>, service: &Service) -> Vec<&'g HTTPRoute> {
        of_parent(cx, self.http, scope, client, service, |route| &route.meta)
    }

    /// The same for gRPC.
    pub fn grpc<'g>(&self, cx: &Ctx<'g>, scope: &Scope, client: &Arc<str>, service: &Service) -> Vec<&'g GRPCRoute> {
        of_parent(cx, self.grpc, scope, client, service, |route| &route.meta)
    }

    /// The same for TCP, oldest first.
    pub fn tcp<'g>(&self, cx: &Ctx<'g>, scope: &Scope, client: &Arc<str>, service: &Service) -> Vec<&'g TCPRoute> {
        let mut routes = of_parent(cx, self.tcp, scope, client, service, |route| &route.meta);
        routes.sort_by_key(|route| (route.meta.created, route.meta.namespace.clone(), route.meta.name.clone()));
        routes
    }
}

fn of_parent<'g, R: Value>(
    cx: &Ctx<'g>,
    index: Index<Parent, ObjectKey, R>,
    scope: &Scope,
    client: &Arc<str>,
    service: &Service,
    meta: impl Fn(&R) -> &Meta,
) -> Vec<&'g R> {
    let parent = (service.registry, service.meta.key());
    let counts = |key: &ObjectKey| key.namespace == *client || key.namespace == service.key.namespace;
    let found = cx.fetch(index, &parent).filter(|(key, route)| counts(key) && scope.configures(cx, meta(route)));
    found.map(|(_, route)| route).collect()
}
