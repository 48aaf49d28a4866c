//! What becomes of requests and connections: the routes of virtual services and
//! of the Gateway API, and where they lead. The rules are the same wherever
//! requests arrive; which of them count there is decided by whoever asks.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster,
};
use envoy_types::pb::envoy::r#type::v3::HashPolicy;
use envoy_types::pb::envoy::r#type::v3::hash_policy::{PolicySpecifier, SourceIp};

use crate::api::destination_rule::HashKey;
use crate::api::route::{BackendRef, GRPCRoute, HTTPRoute, ParentReference, TCPRoute, TLSRoute};
use crate::api::unknown::Unknown;
use crate::api::virtual_service::{
    Destination as ApiDestination, HttpRoute, L4MatchAttributes, RouteDestination, TcpRoute, TlsMatchAttributes,
    TlsRoute, VirtualService,
};
use crate::api::{Labels, Meta, ObjectKey};
use crate::graph::Ctx;
use crate::model::by_host::resolve;
use crate::model::destination_rule::{Client, Rule};
use crate::model::gateway::GatewayKey;
use crate::model::gateway::ingress::IngressHost;
use crate::model::service::{Port, Service, ServiceKey};
use crate::model::{Model, problem};
use crate::proxy::Scope;

use super::destination::{Destination, handlings, ports};
use super::encode::duration;
use super::listener::tcp_proxy;
use super::name::{self, Handling};
use super::route::gateway_api::{self, Backends, references};
use super::route::{self, Clients, ClusterRef, Problem, RouteRequest, Semantics, UNKNOWN_SERVICE, delegate, session};
use super::{Scoped, client, gateway, proxy_headers};

/// What rules for TLS and for TCP match by.
pub(super) struct Attributes<'a> {
    /// Server names; none of a rule for TCP.
    pub(super) sni_hosts: Option<&'a [Arc<str>]>,
    pub(super) destination_subnets: &'a [Arc<str>],
    pub(super) port: u32,
    pub(super) source_labels: &'a Labels,
    pub(super) source_namespace: &'a str,
    pub(super) gateways: &'a [Arc<str>],
    pub(super) unknown: &'a Unknown,
}

impl<'a> From<&'a TlsMatchAttributes> for Attributes<'a> {
    fn from(one: &'a TlsMatchAttributes) -> Self {
        Self {
            sni_hosts: Some(&one.sni_hosts),
            destination_subnets: &one.destination_subnets,
            port: one.port,
            source_labels: &one.source_labels,
            source_namespace: &one.source_namespace,
            gateways: &one.gateways,
            unknown: &one.unknown,
        }
    }
}

impl<'a> From<&'a L4MatchAttributes> for Attributes<'a> {
    fn from(one: &'a L4MatchAttributes) -> Self {
        Self {
            sni_hosts: None,
            destination_subnets: &one.destination_subnets,
            port: one.port,
            source_labels: &one.source_labels,
            source_namespace: &one.source_namespace,
            gateways: &one.gateways,
            unknown: &one.unknown,
        }
    }
}

/// The routes of one place are worked out here.
#[derive(Clone, Copy)]
pub(super) struct Routing<'a> {
    pub(super) cx: &'a Ctx<'a>,
    pub(super) model: &'a Model,
    pub(super) scope: &'a Scope,
    /// Where requests arrive.
    pub(super) at: At<'a>,
    /// Destinations that are not served by the proxies themselves.
    pub(super) references: &'a RefCell<BTreeSet<Destination>>,
}

/// Where requests arrive.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    /// At a port of a service that a waypoint serves.
    Service {
        /// The service.
        service: &'a Service,
        /// The port.
        port: &'a Port,
    },
    /// At a server of a gateway.
    Server {
        /// The gateway.
        gateway: &'a GatewayKey,
        /// The server's port.
        port: u16,
        /// Whether requests arrive by TLS.
        tls: bool,
    },
}

impl At<'_> {
    /// The port that clients ask for.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Service { port, .. } => port.number,
            Self::Server { port, .. } => port,
        }
    }
}

impl Routing<'_> {
    /// What counts for connections to a service.
    pub(super) fn destination_rule(&self, service: &ServiceKey) -> Option<Rule> {
        self.model.destination_rules.rule(self.cx, self.model.scope(), client(self.scope), service)
    }

    /// The service that a host stands for in an object of a namespace: at a
    /// waypoint what a client of its namespace sees; at a gateway that of the
    /// object's own namespace comes first.
    fn service_of(&self, host: &Arc<str>, namespace: &Arc<str>) -> Option<ServiceKey> {
        match self.at {
            At::Service { service, .. } if *host == service.key.hostname => return Some(service.key.clone()),
            At::Service { .. } => {}
            At::Server { .. } => {
                let own = ServiceKey { namespace: namespace.clone(), hostname: host.clone() };
                if self.cx.get(self.model.services, &own).is_some() {
                    return Some(own);
                }
            }
        }
        self.cx.get(self.model.canonical, host).cloned()
    }

    /// The service of a destination, and its port: the one that is asked for,
    /// the service's only one, or that of the client.
    pub(super) fn target(&self, destination: &ApiDestination, namespace: &Arc<str>) -> (Option<ServiceKey>, u16) {
        let asked = destination.port.as_ref().and_then(|port| u16::try_from(port.number).ok());
        let key = self.service_of(&destination.host, namespace);
        let service = key.as_ref().and_then(|key| self.cx.get(self.model.services, key));
        let only = service.and_then(|service| match &*ports(service).collect::<Vec<_>>() {
            [one] => Some(one.number),
            _ => None,
        });
        (key, asked.or(only).unwrap_or(self.at.port()))
    }

    /// The cluster of a destination, and what keeps requests at one endpoint.
    /// One that is not there is named all the same: requests for it fail, and
    /// do not go elsewhere. A port that declares nothing is handled as the
    /// client's was found to be.
    pub(super) fn cluster(&self, destination: &ApiDestination, namespace: &Arc<str>, found: Handling) -> ClusterRef {
        let subset = &*destination.subset;
        let (key, port) = self.target(destination, namespace);
        let Some(key) = key else {
            return ClusterRef { name: name::outbound(port, subset, &destination.host), ..ClusterRef::default() };
        };
        let rule = self.destination_rule(&key);
        let hash = rule.as_ref().and_then(|rule| rule.policy(port, subset).load_balancer?.consistent_hash.clone());
        let served = match self.at {
            At::Service { .. } => self.model.serves(self.cx, &gateway(self.scope), &key),
            At::Server { .. } => false,
        };
        let handling = if served { self.handling(&key, port, found) } else { Handling::Outbound };
        let service = self.cx.get(self.model.services, &key);
        let labelled = service.filter(|_| self.model.settings.persistent_sessions);
        let session = labelled.and_then(|service| service.session()).filter(session::is_valid);
        let scope = self.scope.clone();
        let cluster = Destination { scope, service: key, port, handling, subset: subset.into() };
        let name = cluster.name();
        if !served {
            self.references.borrow_mut().insert(cluster);
        }
        ClusterRef { name, consistent_hash: hash, session }
    }

    fn handling(&self, key: &ServiceKey, port: u16, found: Handling) -> Handling {
        let service = self.cx.get(self.model.services, key);
        let declared = service.and_then(|service| ports(service).find(|one| one.number == port));
        match declared.map(|port| handlings(port.protocol)) {
            Some([one]) => *one,
            Some(_) | None => found,
        }
    }

    /// Who asks, for an object with rules in a namespace.
    pub(super) fn clients<'b>(&'b self, from: &'b Arc<str>) -> Clients<'b> {
        match self.at {
            At::Service { .. } => Clients::Mesh,
            At::Server { gateway, .. } => {
                let Client { namespace, labels } = client(self.scope);
                Clients::Gateway { gateway, from, namespace, labels }
            }
        }
    }

    /// Whether any rule for HTTP of a virtual service is for requests that
    /// arrive here.
    pub(super) fn applies(&self, one: &VirtualService) -> bool {
        route::applies(&self.clients(&one.meta.namespace), self.at.port(), &one.spec.http)
    }

    /// The routes of a virtual service. The first rule that always applies ends
    /// them.
    pub(super) fn of_virtual_service(&self, one: &VirtualService) -> Vec<Route> {
        let Self { cx, model, .. } = *self;
        let scope = model.scope();
        let find = |key: &ObjectKey| model.routes.delegate(cx, scope, key, &one.meta.namespace);
        let resolved = delegate::resolve(one, &model.settings.domain, &find);
        let (routes, problems) = self.of_rules(&one.meta, Semantics::Istio, &resolved.http);
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

    /// The routes of the rules that Ingresses have for one host.
    pub(super) fn of_ingress(&self, of: &IngressHost) -> Vec<Route> {
        let VirtualService { meta, spec, .. } = &of.virtual_service;
        let (routes, problems) = self.of_rules(meta, Semantics::Ingress, &spec.http);
        for found in problems {
            let Some((ObjectKey { namespace, name }, field)) = of.origins.get(found.rule).cloned() else { continue };
            let meta = Meta { namespace, name, ..Meta::default() };
            self.cx.diagnose(problem("Ingress", &meta, &*field, found.reason, found.message));
        }
        routes
    }

    /// The routes of the rules of a virtual service.
    fn of_rules(&self, meta: &Meta, semantics: Semantics, http: &[HttpRoute]) -> (Vec<Route>, Vec<Problem>) {
        let Meta { namespace, name, .. } = meta;
        let config = format!("/apis/networking.istio.io/v1/namespaces/{namespace}/virtual-service/{name}");
        self.with_request(&config, (namespace, name), semantics, |request| route::routes(request, http))
    }

    pub(super) fn say(&self, kind: &'static str, meta: &Meta, found: &Problem, rules: &str) {
        self.cx.diagnose(problem(kind, meta, found.path(rules), found.reason, &*found.message));
    }

    fn with_request<T>(
        &self,
        config: &str,
        (namespace, name): (&Arc<str>, &str),
        semantics: Semantics,
        then: impl FnOnce(&RouteRequest<'_>) -> T,
    ) -> T {
        let mesh = self.model.scope().mesh(self.cx);
        let tls = matches!(self.at, At::Server { tls: true, .. });
        then(&RouteRequest {
            config,
            name,
            semantics,
            port: self.at.port(),
            clients: self.clients(namespace),
            tls,
            append_x_forwarded_host: proxy_headers(self.scope, mesh).x_forwarded_host.enabled == Some(true),
            default_retry: mesh.default_http_retry_policy.as_ref(),
            cluster_of: &|destination| self.cluster(destination, namespace, Handling::Http),
        })
    }

    /// The routes of all objects of the Gateway API together that are for one
    /// host, or for one port of a service; `name` is for traces.
    pub(super) fn of_gateway_api(&self, http: &[&HTTPRoute], grpc: &[&GRPCRoute], name: &str) -> Vec<Route> {
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
        let namespace = self.scope.namespace();
        let (routes, problems) = self.with_request("", (namespace, name), Semantics::GatewayApi, |request| {
            gateway_api::routes(request, &config, &lowered)
        });
        for (key, found) in problems {
            let kind = kinds.iter().find(|(one, _)| *one == key).map_or("HTTPRoute", |(_, kind)| kind);
            let meta = Meta { namespace: key.namespace, name: key.name, ..Meta::default() };
            self.say(kind, &meta, &found, "spec.rules");
        }
        routes
    }

    /// The rule of a TLSRoute; what is wrong with it is said.
    pub(super) fn of_tls_route(&self, route: &TLSRoute) -> Option<TlsRoute> {
        let TLSRoute { meta, spec } = route;
        let (rule, problems) =
            self.backends("TLSRoute", (meta, &spec.parent_refs), |backends| gateway_api::tls_rule(route, backends));
        problems.iter().for_each(|found| self.say("TLSRoute", meta, found, "spec.rules"));
        rule
    }

    /// The rule of a TCPRoute; what is wrong with it is said.
    pub(super) fn of_tcp_route(&self, route: &TCPRoute) -> Option<TcpRoute> {
        let TCPRoute { meta, spec } = route;
        let (rule, problems) =
            self.backends("TCPRoute", (meta, &spec.parent_refs), |backends| gateway_api::tcp_rule(route, backends));
        problems.iter().for_each(|found| self.say("TCPRoute", meta, found, "spec.rules"));
        rule
    }

    fn backends<T>(
        &self,
        kind: &str,
        (meta, parents): (&Meta, &[ParentReference]),
        then: impl FnOnce(&Backends<'_>) -> T,
    ) -> T {
        let there = |host: &_| self.service_of(host, &meta.namespace).is_some();
        let parents: &[ParentReference] = match self.at {
            At::Service { .. } => parents,
            At::Server { .. } => &[],
        };
        let valid = |backend: &BackendRef, to: &ApiDestination| {
            references::check(self.cx, self.model, (kind, &meta.namespace, parents), (backend, to), there)
        };
        then(&Backends { namespace: &meta.namespace, domain: &self.model.settings.domain, valid: &valid })
    }

    /// The destinations of a rule of a virtual service, with their full names.
    pub(super) fn destinations(&self, of: &VirtualService, route: &[RouteDestination]) -> Vec<RouteDestination> {
        let mut route = route.to_vec();
        for one in &mut route {
            one.destination.host = resolve(&one.destination.host, &of.meta.namespace, &self.model.settings.domain);
        }
        route
    }

    /// Passes connections on to where a rule says. `own` is the name in
    /// statistics of a rule that leads nowhere.
    pub(super) fn proxy(&self, own: &str, rule: &Connections<'_>) -> TcpProxy {
        let Connections { namespace, prefix, route } = *rule;
        let cluster = |destination: &ApiDestination| match destination.host.is_empty() {
            true => UNKNOWN_SERVICE.to_owned(),
            false => self.cluster(destination, namespace, Handling::Tcp).name,
        };
        if let [one] = route {
            let proxy = tcp_proxy(&cluster(&one.destination));
            return self.configured(proxy, Some((&one.destination, namespace)));
        }
        let weighted = route.iter().filter_map(|one| {
            let weight = u32::try_from(one.weight).ok().filter(|weight| *weight > 0)?;
            Some(ClusterWeight { name: cluster(&one.destination), weight, ..Default::default() })
        });
        let clusters: Vec<_> = weighted.collect();
        if clusters.is_empty() {
            return TcpProxy { stat_prefix: own.into(), ..tcp_proxy(UNKNOWN_SERVICE) };
        }
        let weighted = TcpProxy {
            stat_prefix: prefix.to_owned(),
            cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster { clusters })),
            ..Default::default()
        };
        let whole = route.first().map(|one| ApiDestination { subset: "".into(), ..one.destination.clone() });
        self.configured(weighted, whole.as_ref().map(|whole| (whole, namespace)))
    }

    /// What the rule for a destination, or for the service itself, says about
    /// connections. Of several destinations the first one's counts, as Istio
    /// does it: a proxy has one setting for all.
    pub(super) fn configured(&self, proxy: TcpProxy, destination: Option<(&ApiDestination, &Arc<str>)>) -> TcpProxy {
        let (key, port) = match (destination, self.at) {
            (Some((destination, namespace)), _) => self.target(destination, namespace),
            (None, At::Service { service, port }) => (Some(service.key.clone()), port.number),
            (None, At::Server { .. }) => return proxy,
        };
        let Some(rule) = key.and_then(|key| self.destination_rule(&key)) else { return proxy };
        let subset = destination.map_or("", |(destination, _)| &*destination.subset);
        let policy = rule.policy(port, subset);
        let tcp = policy.connection_pool.and_then(|pool| pool.tcp.as_ref());
        let hash = policy.load_balancer.and_then(|balancer| balancer.consistent_hash.as_ref()?.key.as_ref());
        let by_source = matches!(hash, Some(HashKey::SourceIp(true)));
        TcpProxy {
            idle_timeout: tcp.and_then(|tcp| tcp.idle_timeout).and_then(duration),
            max_downstream_connection_duration: tcp.and_then(|tcp| tcp.max_connection_duration).and_then(duration),
            hash_policy: by_source
                .then_some(HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})) })
                .into_iter()
                .collect(),
            ..proxy
        }
    }
}

/// Where a rule sends connections.
#[derive(Clone, Copy)]
pub(super) struct Connections<'a> {
    /// The namespace of the object that the rule is from.
    pub(super) namespace: &'a Arc<str>,
    /// The object, in statistics.
    pub(super) prefix: &'a str,
    /// The destinations.
    pub(super) route: &'a [RouteDestination],
}

/// What the statistics of an object's weighted rules are called.
pub(super) fn prefix(meta: &Meta) -> String {
    format!("{}.{}", meta.name, meta.namespace)
}
