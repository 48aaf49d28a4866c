//! What becomes of requests for a port of a service: the routes of virtual
//! services and of the Gateway API, and where they lead.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::Route;

use crate::api::route::{BackendRef, ParentReference};
use crate::api::virtual_service::{Destination as ApiDestination, PortSelector, VirtualService};
use crate::api::{Meta, ObjectKey};
use crate::envoy::Scoped;
use crate::envoy::name::{self, Handling};
use crate::envoy::route::gateway_api::{self, Backends, references};
use crate::envoy::route::{self, ClusterRef, Problem, RouteRequest, Semantics, delegate, session};
use crate::graph::Ctx;
use crate::model::destination_rule::Rule;
use crate::model::service::{Port, Service, ServiceKey};
use crate::model::virtual_service::{HttpRoutes, Place};
use crate::model::{Model, problem};

use super::{Destination, Served, client, gateway, handlings, ports, waypoint};

/// The routes of one port of a service at one waypoint are worked out here.
pub(super) struct Routing<'a> {
    pub(super) cx: &'a Ctx<'a>,
    pub(super) model: &'a Model,
    pub(super) key: &'a Served,
    pub(super) service: &'a Service,
    pub(super) port: &'a Port,
    /// Destinations that the waypoint does not serve by itself.
    pub(super) references: &'a RefCell<BTreeSet<Destination>>,
}

impl Routing<'_> {
    pub(super) fn client(&self) -> &Arc<str> {
        &waypoint(&self.key.scope).namespace
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place { client: self.client(), service: self.service, port: self.port.number }
    }

    /// What counts for connections to a service.
    pub(super) fn destination_rule(&self, service: &ServiceKey) -> Option<Rule> {
        self.model.destination_rules.rule(self.cx, self.model.scope(), client(&self.key.scope), service)
    }

    /// The service that a host stands for, as a client of the waypoint's
    /// namespace sees it.
    fn service_of(&self, host: &Arc<str>) -> Option<ServiceKey> {
        if *host == self.service.key.hostname {
            return Some(self.service.key.clone());
        }
        self.cx.get(self.model.canonical, host).cloned()
    }

    /// The service of a destination, and its port: the one that is asked for,
    /// the service's only one, or that of the client.
    pub(super) fn target(&self, destination: &ApiDestination) -> (Option<ServiceKey>, u16) {
        let asked = destination.port.as_ref().and_then(|port| u16::try_from(port.number).ok());
        let key = self.service_of(&destination.host);
        let service = key.as_ref().and_then(|key| self.cx.get(self.model.services, key));
        let only = service.and_then(|service| match &*ports(service).collect::<Vec<_>>() {
            [one] => Some(one.number),
            _ => None,
        });
        (key, asked.or(only).unwrap_or(self.port.number))
    }

    /// The cluster of a destination, and what keeps requests at one endpoint.
    /// One that is not there is named all the same: requests for it fail, and
    /// do not go elsewhere. A port that declares nothing is handled as the
    /// client's was found to be.
    pub(super) fn cluster(&self, destination: &ApiDestination, found: Handling) -> ClusterRef {
        let subset = &*destination.subset;
        let (key, port) = self.target(destination);
        let Some(key) = key else {
            return ClusterRef { name: name::outbound(port, subset, &destination.host), ..ClusterRef::default() };
        };
        let scope = &self.key.scope;
        let rule = self.destination_rule(&key);
        let hash = rule.as_ref().and_then(|rule| rule.policy(port, subset).load_balancer?.consistent_hash.clone());
        let served = self.model.serves(self.cx, &gateway(scope), &key);
        let service = self.cx.get(self.model.services, &key);
        let declared = service.and_then(|service| ports(service).find(|one| one.number == port));
        let handling = match declared.map(|port| handlings(port.protocol)) {
            _ if !served => Handling::Outbound,
            Some([one]) => *one,
            Some(_) | None => found,
        };
        let cluster = Destination { scope: scope.clone(), service: key, port, handling, subset: subset.into() };
        let name = cluster.name();
        if !served {
            self.references.borrow_mut().insert(cluster);
        }
        let labelled = service.filter(|_| self.model.settings.persistent_sessions);
        let session = labelled.and_then(|service| service.session()).filter(session::is_valid);
        ClusterRef { name, consistent_hash: hash, session }
    }

    /// The routes for HTTP. Without any rule, everything goes to the service.
    pub(super) fn http(&self) -> Vec<Route> {
        let Self { cx, model, service, port, .. } = *self;
        let virtual_services = model.routes.virtual_services(cx, model.scope(), self.client(), service);
        let mut routes = Vec::new();
        let mut any = false;
        for one in virtual_services.iter().filter(|one| route::applies(port.number, &one.spec.http)) {
            any = true;
            routes.extend(self.of_virtual_service(one));
            if routes.last().is_some_and(ends) {
                return routes;
            }
        }
        if let Some(more) = self.of_gateway_api() {
            any = true;
            routes.extend(more);
        }
        if any {
            return routes;
        }
        let own = ApiDestination {
            host: service.key.hostname.clone(),
            port: Some(PortSelector { number: port.number.into() }),
            ..ApiDestination::default()
        };
        let operation = format!("{}:{}/*", service.key.hostname, port.number);
        let retry = model.scope().mesh(cx).default_http_retry_policy.as_ref();
        vec![route::default_route(&self.cluster(&own, Handling::Http), &operation, retry)]
    }

    fn of_virtual_service(&self, one: &VirtualService) -> Vec<Route> {
        let Self { cx, model, .. } = *self;
        let scope = model.scope();
        let find = |key: &ObjectKey| model.routes.delegate(cx, scope, key, &one.meta.namespace);
        let resolved = delegate::resolve(one, &model.settings.domain, &find);
        let (namespace, name) = (&one.meta.namespace, &one.meta.name);
        let config = format!("/apis/networking.istio.io/v1/namespaces/{namespace}/virtual-service/{name}");
        let (routes, problems) =
            self.with_request(&config, name, Semantics::Istio, |request| route::routes(request, &resolved.http));
        for found in resolved.problems {
            self.say("VirtualService", &one.meta, &found, "spec.http");
        }
        for mut found in problems {
            // The rule of the object, not its place after delegates were put in.
            found.rule = resolved.origins.get(found.rule).copied().unwrap_or(found.rule);
            self.say("VirtualService", &one.meta, &found, "spec.http");
        }
        routes
    }

    pub(super) fn say(&self, kind: &'static str, meta: &Meta, found: &Problem, rules: &str) {
        self.cx.diagnose(problem(kind, meta, found.path(rules), found.reason, &*found.message));
    }

    fn with_request<T>(
        &self,
        config: &str,
        name: &str,
        semantics: Semantics,
        then: impl FnOnce(&RouteRequest<'_>) -> T,
    ) -> T {
        let mesh = self.model.scope().mesh(self.cx);
        then(&RouteRequest {
            config,
            name,
            semantics,
            port: self.port.number,
            append_x_forwarded_host: mesh.default_config.proxy_headers.x_forwarded_host.enabled == Some(true),
            default_retry: mesh.default_http_retry_policy.as_ref(),
            cluster_of: &|destination| self.cluster(destination, Handling::Http),
        })
    }

    /// Routes of the Gateway API, those of all objects together; `None` if
    /// there is no object.
    fn of_gateway_api(&self) -> Option<Vec<Route>> {
        let Self { cx, model, service, .. } = *self;
        let HttpRoutes { http, grpc } = model.routes.http(cx, model.scope(), self.place());
        if http.is_empty() && grpc.is_empty() {
            return None;
        }
        let mut lowered = Vec::new();
        for route in http {
            let (rules, problems) = self.backends("HTTPRoute", (&route.meta, &route.spec.parent_refs), |backends| {
                gateway_api::http_rules(route, backends)
            });
            lowered.extend(rules.into_iter().map(|one| ("HTTPRoute", one)));
            problems.iter().for_each(|found| self.say("HTTPRoute", &route.meta, found, "spec.rules"));
        }
        for route in grpc {
            let (rules, problems) = self.backends("GRPCRoute", (&route.meta, &route.spec.parent_refs), |backends| {
                gateway_api::grpc_rules(route, backends)
            });
            lowered.extend(rules.into_iter().map(|one| ("GRPCRoute", one)));
            problems.iter().for_each(|found| self.say("GRPCRoute", &route.meta, found, "spec.rules"));
        }
        let kinds: Vec<_> = lowered.iter().map(|(kind, one)| (one.route.clone(), *kind)).collect();
        let mut lowered: Vec<_> = lowered.into_iter().map(|(_, one)| one).collect();
        gateway_api::sort(&mut lowered);
        let config = |one: &gateway_api::Lowered| {
            let kind = kinds.iter().find(|(key, _)| *key == one.route).map_or("HTTPRoute", |(_, kind)| kind);
            let kind = if kind == "GRPCRoute" { "grpcroutes" } else { "httproutes" };
            let ObjectKey { namespace, name } = &one.route;
            format!("/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/{kind}/{name}")
        };
        let (routes, problems) = self.with_request("", &service.meta.name, Semantics::GatewayApi, |request| {
            gateway_api::routes(request, &config, &lowered)
        });
        for (key, found) in problems {
            let kind = kinds.iter().find(|(one, _)| *one == key).map_or("HTTPRoute", |(_, kind)| kind);
            let meta = Meta { namespace: key.namespace, name: key.name, ..Meta::default() };
            self.say(kind, &meta, &found, "spec.rules");
        }
        Some(routes)
    }

    pub(super) fn backends<T>(
        &self,
        kind: &str,
        (meta, parents): (&Meta, &[ParentReference]),
        then: impl FnOnce(&Backends<'_>) -> T,
    ) -> T {
        let there = |host: &_| self.service_of(host).is_some();
        let valid = |backend: &BackendRef, to: &ApiDestination| {
            references::check(self.cx, self.model, (kind, &meta.namespace, parents), (backend, to), there)
        };
        then(&Backends { namespace: &meta.namespace, domain: &self.model.settings.domain, valid: &valid })
    }
}

/// Whether nothing after a route can match.
fn ends(route: &Route) -> bool {
    route.r#match.as_ref().is_some_and(route::is_catch_all)
}
