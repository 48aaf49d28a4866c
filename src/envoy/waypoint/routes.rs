//! What becomes of traffic for a port of a service: the routes of virtual
//! services and of the Gateway API, and where they lead.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster,
};

use crate::api::route::BackendRef;
use crate::api::virtual_service::{
    Destination as ApiDestination, L4MatchAttributes, PortSelector, RouteDestination, TcpRoute, VirtualService,
};
use crate::api::{Meta, ObjectKey};
use crate::envoy::Scoped;
use crate::envoy::listener::tcp_proxy;
use crate::envoy::name::{self, Handling};
use crate::envoy::route::gateway_api::{self, Backends, references};
use crate::envoy::route::{self, ClusterRef, Problem, RouteRequest, Semantics, UNKNOWN_SERVICE, delegate};
use crate::graph::Ctx;
use crate::model::by_host::resolve;
use crate::model::service::{Port, Protocol, Service, ServiceKey};
use crate::model::virtual_service::attached;
use crate::model::{Model, problem};

use super::{Destination, Served, gateway, ports, waypoint};

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
    fn client(&self) -> &Arc<str> {
        &waypoint(&self.key.scope).namespace
    }

    /// The service that a host stands for, as a client of the waypoint's
    /// namespace sees it.
    fn service_of(&self, host: &Arc<str>) -> Option<ServiceKey> {
        if *host == self.service.key.hostname {
            return Some(self.service.key.clone());
        }
        self.cx.get(self.model.canonical, host).cloned()
    }

    /// The cluster of a destination, and what keeps requests at one endpoint.
    /// One that is not there is named all the same: requests for it fail, and
    /// do not go elsewhere.
    fn cluster(&self, destination: &ApiDestination) -> ClusterRef {
        let subset = &*destination.subset;
        let asked = destination.port.as_ref().and_then(|port| u16::try_from(port.number).ok());
        let key = self.service_of(&destination.host);
        let service = key.as_ref().and_then(|key| self.cx.get(self.model.services, key));
        let only = service.and_then(|service| match &*ports(service).collect::<Vec<_>>() {
            [one] => Some(one.number),
            _ => None,
        });
        let port = asked.or(only).unwrap_or(self.port.number);
        let Some(key) = key else {
            return ClusterRef { name: name::outbound(port, subset, &destination.host), consistent_hash: None };
        };
        let scope = &self.key.scope;
        let rule = self.model.destination_rules.rule(self.cx, self.model.scope(), self.client(), &key);
        let hash = rule.as_ref().and_then(|rule| rule.policy(port, subset).load_balancer?.consistent_hash.clone());
        let by = self.cx.get(self.model.service_waypoints, &key);
        let served = by.is_some_and(|by| *by == gateway(scope));
        let handling = if served { Handling::Http } else { Handling::Outbound };
        let cluster = Destination { scope: scope.clone(), service: key, port, handling, subset: subset.into() };
        let name = cluster.name();
        if !served {
            self.references.borrow_mut().insert(cluster);
        }
        ClusterRef { name, consistent_hash: hash }
    }

    /// The routes for HTTP. Without any rule, everything goes to the service.
    pub(super) fn http(&self) -> Vec<Route> {
        let Self { cx, model, service, port, .. } = *self;
        let mesh = model.scope().mesh(cx);
        let virtual_services = model.routes.virtual_services(cx, model.scope(), self.client(), service);
        let mut routes = Vec::new();
        let mut any = false;
        for one in virtual_services.iter().filter(|one| !one.spec.http.is_empty()) {
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
        let grpc = port.protocol == Protocol::Grpc;
        let retry = mesh.default_inbound_http_retry_policy.as_ref();
        vec![route::default_route(&self.cluster(&own), &operation, grpc, retry)]
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

    fn say(&self, kind: &'static str, meta: &Meta, found: &Problem, rules: &str) {
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
            cluster_of: &|destination| self.cluster(destination),
        })
    }

    /// Routes of the Gateway API, those of all objects together; `None` if
    /// there is no object.
    fn of_gateway_api(&self) -> Option<Vec<Route>> {
        let Self { cx, model, service, port, .. } = *self;
        let scope = model.scope();
        let (mut lowered, mut any) = (Vec::new(), false);
        for route in model.routes.http(cx, scope, self.client(), service) {
            if attached(&route.spec.parent_refs, &route.meta.namespace, service, port.number) {
                any = true;
                let (rules, problems) =
                    self.backends("HTTPRoute", &route.meta, |backends| gateway_api::http_rules(route, backends));
                lowered.extend(rules.into_iter().map(|one| ("HTTPRoute", one)));
                problems.iter().for_each(|found| self.say("HTTPRoute", &route.meta, found, "spec.rules"));
            }
        }
        for route in model.routes.grpc(cx, scope, self.client(), service) {
            if attached(&route.spec.parent_refs, &route.meta.namespace, service, port.number) {
                any = true;
                let (rules, problems) =
                    self.backends("GRPCRoute", &route.meta, |backends| gateway_api::grpc_rules(route, backends));
                lowered.extend(rules.into_iter().map(|one| ("GRPCRoute", one)));
                problems.iter().for_each(|found| self.say("GRPCRoute", &route.meta, found, "spec.rules"));
            }
        }
        if !any {
            return None;
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

    fn backends<T>(&self, kind: &str, meta: &Meta, then: impl FnOnce(&Backends<'_>) -> T) -> T {
        let there = |host: &_| self.service_of(host).is_some();
        let valid = |backend: &BackendRef, to: &ApiDestination| {
            references::check(self.cx, self.model, (kind, &meta.namespace), (backend, to), there)
        };
        then(&Backends { namespace: &meta.namespace, domain: &self.model.settings.domain, valid: &valid })
    }

    /// Where connections go that are passed on as they are: to where the first
    /// rule for TCP says, else to the service.
    pub(super) fn tcp(&self, own: &str) -> TcpProxy {
        let Self { cx, model, service, port, .. } = *self;
        let scope = model.scope();
        for one in model.routes.virtual_services(cx, scope, self.client(), service) {
            let domain = &model.settings.domain;
            let applies =
                |rule: &&TcpRoute| rule.matches.is_empty() || rule.matches.iter().any(|one| self.matches(one));
            if let Some(rule) = one.spec.tcp.iter().find(applies) {
                let mut to = rule.route.clone();
                for one_to in &mut to {
                    one_to.destination.host = resolve(&one_to.destination.host, &one.meta.namespace, domain);
                }
                return self.to(own, &format!("{}.{}", one.meta.name, one.meta.namespace), &to);
            }
        }
        for route in model.routes.tcp(cx, scope, self.client(), service) {
            if attached(&route.spec.parent_refs, &route.meta.namespace, service, port.number) {
                let (rule, problems) =
                    self.backends("TCPRoute", &route.meta, |backends| gateway_api::tcp_rule(route, backends));
                problems.iter().for_each(|found| self.say("TCPRoute", &route.meta, found, "spec.rules"));
                if let Some(rule) = rule {
                    return self.to(own, &format!("{}.{}", route.meta.name, route.meta.namespace), &rule.route);
                }
            }
        }
        tcp_proxy(own)
    }

    /// Whether a match applies at a waypoint, which knows nothing of its
    /// clients' labels.
    fn matches(&self, one: &L4MatchAttributes) -> bool {
        let here = one.gateways.is_empty() || one.gateways.iter().any(|gateway| &**gateway == "mesh");
        let narrower = one.source_labels.iter().next().is_some()
            || !one.source_namespace.is_empty()
            || !one.destination_subnets.is_empty()
            || one.unknown.names().next().is_some();
        here && !narrower && (one.port == 0 || one.port == u32::from(self.port.number))
    }

    fn to(&self, own: &str, prefix: &str, route: &[RouteDestination]) -> TcpProxy {
        let cluster = |destination: &ApiDestination| match destination.host.is_empty() {
            true => UNKNOWN_SERVICE.to_owned(),
            // The chain is for TCP, whatever the destination's port declares.
            false => self.cluster(destination).name.replacen("|http", "|tcp", 1),
        };
        if let [one] = route {
            let cluster = cluster(&one.destination);
            return TcpProxy {
                cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.clone())),
                ..tcp_proxy(&cluster)
            };
        }
        let weighted = route.iter().filter_map(|one| {
            let weight = u32::try_from(one.weight).ok().filter(|weight| *weight > 0)?;
            Some(ClusterWeight { name: cluster(&one.destination), weight, ..Default::default() })
        });
        let clusters: Vec<_> = weighted.collect();
        if clusters.is_empty() {
            return TcpProxy { stat_prefix: own.into(), ..tcp_proxy(UNKNOWN_SERVICE) };
        }
        TcpProxy {
            stat_prefix: prefix.into(),
            cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster { clusters })),
            ..Default::default()
        }
    }
}

/// Whether nothing after a route can match.
fn ends(route: &Route) -> bool {
    route.r#match.as_ref().is_some_and(route::is_catch_all)
}
