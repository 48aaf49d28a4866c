//! `main_internal`: the services of a waypoint, told apart by the address that
//! a connection is for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ForwardClientCertDetails;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::xds::core::v3::CidrRange;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::envoy::Configs;
use crate::envoy::cluster::{ENCAP, MAIN_INTERNAL};
use crate::envoy::encode::{self, Message, boolean, uint32};
use crate::envoy::listener::{self, Inspected, connection_manager, http, tcp_proxy};
use crate::envoy::matcher::{self, Input, IpRangeMatcher, Matcher, OnMatch, exact};
use crate::envoy::name::{self, Handling};
use crate::envoy::route::{self, ClusterRef};
use crate::envoy::telemetry::{Destination as Counted, Telemetry, Traffic};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::Model;
use crate::model::service::{Protocol, Service};
use crate::proxy::Scope;
use crate::xds::resource::ResourceType;

use super::policies::Policies;
use super::routes::Routing;
use super::telemetry::{listener_logs, telemetry};
use super::{Destination, Fixture, Served, by_scope, gateway, handlings, ports, waypoint};

/// A service's part of the listener.
#[derive(PartialEq)]
struct Chains {
    /// Who was first decides whose chain an address belongs to.
    age: (u32, Served),
    /// The addresses of the service.
    ranges: Vec<CidrRange>,
    /// What follows for its ports.
    ports: OnMatch,
    /// Encoded filter chains.
    chains: Vec<Message>,
    /// What its ports declare.
    inspected: Inspected,
    /// Where its routes lead that the waypoint does not serve.
    references: BTreeSet<Destination>,
}

/// `Listener.filter_chains` and `Listener.filter_chain_matcher`.
const FILTER_CHAINS: u32 = 3;
const FILTER_CHAIN_MATCHER: u32 = 32;

/// Adds the listener. Returns the destinations that its routes lead to and
/// that the waypoint does not serve.
pub(super) fn add_main_internal(
    graph: &mut Graph,
    model: &Model,
    served: Collection<Served, ()>,
    to: &mut Configs,
) -> Collection<Destination, Protocol> {
    let model_of = model.clone();
    let chains = graph.derive("waypoint_chains", served, move |cx, key: &Served, ()| {
        let service = cx.get(model_of.services, &key.service)?;
        Some((key.clone(), chains(cx, &model_of, key, service)))
    });
    let services = model.services;
    let referenced = graph.derive("waypoint_references", chains, move |cx, _, chains: &Chains| {
        let protocol = |destination: &Destination| {
            let service = cx.get(services, &destination.service)?;
            let port = ports(service).find(|port| port.number == destination.port)?;
            Some((destination.clone(), port.protocol))
        };
        chains.references.iter().filter_map(protocol).collect::<Vec<_>>()
    });
    let chains = by_scope(graph, chains);
    let listeners = graph.derive("waypoint_main_internal", to.scopes, move |_, scope: &Scope, ()| {
        [(Fixture { scope: scope.clone(), name: MAIN_INTERNAL }, ())]
    });
    let model = model.clone();
    to.add(graph, "waypoint_main_listener", ResourceType::Listener, listeners, move |cx, key, ()| {
        let mut services: Vec<&Chains> = cx.fetch(chains, &key.scope).map(|(_, chains)| chains).collect();
        services.sort_by(|a, b| a.age.cmp(&b.age));
        // Whom all services' chains call is enough for these, see below.
        let common = Common::new(cx, &model, &key.scope, None, &RefCell::default());
        let access_log = listener_logs(cx, &model, &common.telemetry);
        Some(listener(&services, direct_chains(&common), access_log))
    });
    referenced
}

/// Puts the listener together.
fn listener(services: &[&Chains], direct: [FilterChain; 2], access_log: Vec<AccessLog>) -> Message {
    let mut inspected = Inspected::default();
    for service in services {
        inspected.declared.extend(&service.inspected.declared);
        inspected.undeclared.extend(&service.inspected.undeclared);
        inspected.tls.extend(&service.inspected.tls);
    }
    let mut message = encode::bytes(&Listener { access_log, ..listener::main_internal(&inspected) });
    for chain in services.iter().flat_map(|service| &service.chains) {
        put(&mut message, FILTER_CHAINS, chain);
    }
    for chain in direct {
        put(&mut message, FILTER_CHAINS, &encode::bytes(&chain));
    }
    let ranges = services.iter().filter(|service| !service.ranges.is_empty());
    let matchers = ranges
        .map(|service| IpRangeMatcher {
            ranges: service.ranges.clone(),
            on_match: Some(service.ports.clone()),
            ..Default::default()
        })
        .collect();
    put(&mut message, FILTER_CHAIN_MATCHER, &encode::bytes(&matcher::destination(matchers)));
    message
}

fn put(message: &mut Message, field: u32, value: &[u8]) {
    encode_key(field, WireType::LengthDelimited, message);
    encode_varint(value.len() as u64, message);
    message.extend_from_slice(value);
}

fn chains(cx: &Ctx<'_>, model: &Model, key: &Served, service: &Service) -> Chains {
    let ranges = service.addresses.iter().map(|range| CidrRange {
        address_prefix: range.addr().to_string(),
        prefix_len: uint32(range.prefix_len().into()),
    });
    let references = RefCell::default();
    let common = Common::new(cx, model, &key.scope, Some(service), &references);
    // What all connections have in common may be sent elsewhere, and is without
    // references of its own.
    telemetry(cx, model, &key.scope, None, &references);
    let mut encoded = Vec::new();
    let mut matches = BTreeMap::new();
    for port in ports(service) {
        let chain = |handling: &Handling| name::inbound_vip(port.number, *handling, "", &service.key);
        for handling in handlings(port.protocol) {
            let routing = Routing { cx, model, key, service, port, references: &references };
            encoded.push(filter_chain(&routing, &common, *handling));
        }
        let action = match handlings(port.protocol) {
            [Handling::Http, Handling::Tcp] => matcher::further(sniff(&chain(&Handling::Http), &chain(&Handling::Tcp))),
            one => one.first().map(|handling| matcher::chain(&chain(handling))).unwrap_or_default(),
        };
        matches.insert(port.number.to_string(), action);
    }
    Chains {
        age: (service.meta.created, key.clone()),
        ranges: ranges.collect(),
        ports: matcher::further(exact(Input::DestinationPort, matches, None)),
        chains: encoded,
        inspected: inspected(service),
        references: references.into_inner(),
    }
}

/// What the ports of a service declare.
fn inspected(service: &Service) -> Inspected {
    let with = |wanted: fn(Protocol) -> bool| {
        ports(service).filter(|port| wanted(port.protocol)).map(|port| port.number).collect::<BTreeSet<_>>()
    };
    Inspected {
        declared: with(|protocol| protocol != Protocol::Unknown),
        undeclared: with(|protocol| protocol == Protocol::Unknown),
        tls: with(|protocol| protocol == Protocol::Tls),
    }
}

/// Tells HTTP from everything else by what was found at the start of the
/// connection.
fn sniff(http: &str, tcp: &str) -> Matcher {
    // The input quotes what it found.
    let protocols = ["'h2c'", "'http/1.1'"].map(|protocol| (protocol.to_owned(), matcher::chain(http)));
    exact(Input::ApplicationProtocol, BTreeMap::from(protocols), Some(matcher::chain(tcp)))
}

/// What the chains of a service, or of all else, have in common.
struct Common<'a> {
    cx: &'a Ctx<'a>,
    model: &'a Model,
    scope: &'a Scope,
    service: Option<&'a Service>,
    policies: Policies,
    telemetry: Telemetry,
}

impl<'a> Common<'a> {
    fn new(
        cx: &'a Ctx<'a>,
        model: &'a Model,
        scope: &'a Scope,
        service: Option<&'a Service>,
        references: &RefCell<BTreeSet<Destination>>,
    ) -> Self {
        let policies = Policies::of(cx, model, scope, service, references);
        let telemetry = telemetry(cx, model, scope, service, references);
        Self { cx, model, scope, service, policies, telemetry }
    }

    fn access_logs(&self, traffic: Traffic) -> Vec<AccessLog> {
        self.telemetry.access_logs(Counted { service: self.service, traffic })
    }

    fn manager(&self, statistics: &str, routes: RouteConfiguration, traffic: Traffic) -> HttpConnectionManager {
        let mesh = self.model.scope().mesh(self.cx);
        let endpoint = waypoint(self.scope).capabilities.peer_metadata.then(|| listener::peer_metadata(false));
        let counting = endpoint.into_iter().chain(self.telemetry.http_filters()).collect();
        let debug_headers = mesh.default_config.proxy_headers.envoy_debug_headers.disabled != Some(true);
        let filters = self.policies.http_filters(counting, listener::router(debug_headers));
        let manager = connection_manager(name::statistics(statistics), routes, filters);
        let mut manager = http::with_mesh(manager, mesh);
        if forwards_identity(self.cx, self.model, self.scope) {
            manager.http_filters.insert(0, http::client_identity());
            // The certificate is the tunnel's, so there is none to compare with.
            manager.forward_client_cert_details = ForwardClientCertDetails::AlwaysForwardOnly.into();
        }
        HttpConnectionManager {
            access_log: self.access_logs(traffic),
            tracing: self.telemetry.tracing(),
            request_id_extension: Some(listener::request_id(self.telemetry.traces_by_request_id())),
            ..manager
        }
    }

    fn network_filters(&self) -> Vec<Filter> {
        self.policies.network.iter().cloned().chain(self.telemetry.network_filters()).collect()
    }
}

/// Whether services are told who the caller is, in `x-forwarded-client-cert`.
/// Istio reads it off the pod, which has the Gateway's annotations.
fn forwards_identity(cx: &Ctx<'_>, model: &Model, scope: &Scope) -> bool {
    let gateway = cx.get(model.inputs.gateways, &gateway(scope));
    let annotations = gateway.and_then(|gateway| gateway.spec.infrastructure.as_ref()?.annotations.as_ref());
    let value = annotations.and_then(|annotations| annotations.get("ambient.istio.io/xfcc-include-client-identity"));
    value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn filter_chain(routing: &Routing<'_>, common: &Common<'_>, handling: Handling) -> Message {
    let Routing { service, port, .. } = *routing;
    let chain = name::inbound_vip(port.number, handling, "", &service.key);
    let chain = match handling {
        Handling::Http => {
            let routes = routes(&chain, port.number, routing.http());
            let traffic = if port.protocol == Protocol::Grpc { Traffic::Grpc } else { Traffic::Http };
            let manager = common.manager(&format!("inbound_0.0.0.0_{}", port.number), routes, traffic);
            listener::http_chain(&chain, Vec::new(), &manager)
        }
        Handling::Tcp | Handling::Outbound => {
            let proxy = TcpProxy { access_log: common.access_logs(Traffic::Tcp), ..routing.tcp(&chain) };
            listener::tcp_chain(&chain, common.network_filters(), &proxy)
        }
    };
    encode::bytes(&chain)
}

/// The chains for traffic to workloads' own addresses.
fn direct_chains(common: &Common<'_>) -> [FilterChain; 2] {
    let manager = common.manager("inbound_0.0.0.0_0", direct_routes(ENCAP), Traffic::Http);
    let proxy = TcpProxy { access_log: common.access_logs(Traffic::Tcp), ..tcp_proxy(ENCAP) };
    listener::direct_chains(&manager, common.network_filters(), &proxy)
}

/// The routes of a chain, which it has in itself.
fn routes(chain: &str, port: u16, routes: Vec<Route>) -> RouteConfiguration {
    RouteConfiguration {
        name: chain.into(),
        virtual_hosts: vec![VirtualHost {
            name: format!("inbound|http|{port}"),
            domains: vec!["*".into()],
            routes,
            ..Default::default()
        }],
        validate_clusters: boolean(false),
        max_direct_response_body_size_bytes: uint32(1 << 20),
        ..Default::default()
    }
}

/// Traffic to a workload's own address goes there.
fn direct_routes(cluster: &str) -> RouteConfiguration {
    let to = ClusterRef { name: cluster.into(), consistent_hash: None };
    RouteConfiguration {
        name: cluster.into(),
        virtual_hosts: vec![VirtualHost {
            name: "inbound|http|0".into(),
            domains: vec!["*".into()],
            routes: vec![route::default_route(&to, "direct", true, None)],
            ..Default::default()
        }],
        validate_clusters: boolean(false),
        ..Default::default()
    }
}
