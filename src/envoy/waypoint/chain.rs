//! `main_internal`: the services of a waypoint, told apart by the address that
//! a connection is for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use envoy_types::pb::envoy::config::listener::v3::FilterChain;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::xds::core::v3::CidrRange;
use ipnet::IpNet;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::envoy::cluster::discovery::dns_cache;
use crate::envoy::cluster::{ENCAP, MAIN_INTERNAL};
use crate::envoy::encode::{self, Message, boolean, uint32};
use crate::envoy::listener::{self, DIRECT_HTTP, DIRECT_TCP, Inspected, connection_manager};
use crate::envoy::matcher::{self, Input, IpRangeMatcher, Matcher, OnMatch, exact};
use crate::envoy::name::{self, Handling};
use crate::envoy::route::{self, ClusterRef};
use crate::envoy::{Configs, access_log};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::Model;
use crate::model::service::{Protocol, Resolution, Service};
use crate::proxy::Scope;
use crate::xds::resource::ResourceType;

use super::policies::Policies;
use super::routes::Routing;
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
        let workloads = cx.get(model.attached_workloads, &gateway(&key.scope));
        let workloads = workloads.map(Vec::as_slice).unwrap_or_default();
        Some(listener(&services, workloads, direct_chains(cx, &model, &key.scope)))
    });
    referenced
}

/// Puts the listener together. `workloads` are the addresses of those that are
/// attached, to which the chains `direct` lead.
fn listener(services: &[&Chains], workloads: &[IpAddr], direct: [FilterChain; 2]) -> Message {
    let mut inspected = Inspected { workloads: !workloads.is_empty(), ..Inspected::default() };
    for service in services {
        inspected.http.extend(&service.inspected.http);
        inspected.bytes.extend(&service.inspected.bytes);
        inspected.undeclared.extend(&service.inspected.undeclared);
        inspected.tls.extend(&service.inspected.tls);
    }
    let mut message = encode::bytes(&listener::main_internal(&inspected));
    for chain in services.iter().flat_map(|service| &service.chains) {
        put(&mut message, FILTER_CHAINS, chain);
    }
    for chain in direct {
        put(&mut message, FILTER_CHAINS, &encode::bytes(&chain));
    }
    let ranges = services.iter().filter(|service| !service.ranges.is_empty());
    let mut matchers: Vec<_> = ranges
        .map(|service| IpRangeMatcher { ranges: service.ranges.clone(), on_match: Some(service.ports.clone()) })
        .collect();
    if !workloads.is_empty() {
        let host = |address: &IpAddr| range(&IpNet::from(*address));
        let on_match = Some(OnMatch::matcher(sniff(DIRECT_HTTP, DIRECT_TCP)));
        matchers.push(IpRangeMatcher { ranges: workloads.iter().map(host).collect(), on_match });
    }
    put(&mut message, FILTER_CHAIN_MATCHER, &matcher::destination(matchers).encode_to_vec());
    message
}

fn put(message: &mut Message, field: u32, value: &[u8]) {
    encode_key(field, WireType::LengthDelimited, message);
    encode_varint(value.len() as u64, message);
    message.extend_from_slice(value);
}

fn chains(cx: &Ctx<'_>, model: &Model, key: &Served, service: &Service) -> Chains {
    let references = RefCell::default();
    let policies = Policies::of(cx, model, &key.scope, Some(service), &references);
    let mut encoded = Vec::new();
    let mut matches = BTreeMap::new();
    for port in ports(service) {
        let chain = |handling: &Handling| name::inbound_vip(port.number, *handling, "", &service.key);
        for handling in handlings(port.protocol) {
            let routing = Routing { cx, model, key, service, port, references: &references };
            encoded.push(filter_chain(&routing, &policies, *handling));
        }
        let action = match handlings(port.protocol) {
            [Handling::Http, Handling::Tcp] => OnMatch::matcher(sniff(&chain(&Handling::Http), &chain(&Handling::Tcp))),
            one => one.first().map(|handling| OnMatch::chain(&chain(handling))).unwrap_or_default(),
        };
        matches.insert(port.number.to_string(), action);
    }
    Chains {
        age: (service.meta.created, key.clone()),
        ranges: service.addresses.iter().map(range).collect(),
        ports: OnMatch::matcher(exact(Input::DestinationPort, matches, None)),
        chains: encoded,
        inspected: inspected(service),
        references: references.into_inner(),
    }
}

fn range(range: &IpNet) -> CidrRange {
    CidrRange { address_prefix: range.addr().to_string(), prefix_len: uint32(range.prefix_len().into()) }
}

/// What the ports of a service declare.
fn inspected(service: &Service) -> Inspected {
    let with = |wanted: fn(Protocol) -> bool| {
        ports(service).filter(|port| wanted(port.protocol)).map(|port| port.number).collect::<BTreeSet<_>>()
    };
    Inspected {
        http: with(|protocol| matches!(protocol, Protocol::Http11 | Protocol::Http2 | Protocol::Grpc)),
        bytes: with(|protocol| matches!(protocol, Protocol::Tcp | Protocol::Tls)),
        undeclared: with(|protocol| protocol == Protocol::Unknown),
        tls: with(|protocol| protocol == Protocol::Tls),
        workloads: false,
    }
}

/// Tells HTTP from everything else by what was found at the start of the
/// connection.
fn sniff(http: &str, tcp: &str) -> Matcher {
    // The input quotes what it found.
    let protocols = ["'h2c'", "'http/1.1'"].map(|protocol| (protocol.to_owned(), OnMatch::chain(http)));
    exact(Input::ApplicationProtocol, BTreeMap::from(protocols), Some(OnMatch::chain(tcp)))
}

fn filter_chain(routing: &Routing<'_>, policies: &Policies, handling: Handling) -> Message {
    let Routing { cx, model, service, port, .. } = *routing;
    let access_log = access_log::access_logs(model.scope().mesh(cx));
    let chain = name::inbound_vip(port.number, handling, "", &service.key);
    let chain = match handling {
        Handling::Http => {
            let routes = routes(&chain, service, port.number, routing.http());
            let statistics = name::statistics(&format!("inbound_0.0.0.0_{}", port.number));
            let mut filters = policies.http_filters();
            if service.resolution == Resolution::DynamicDns {
                let cache = dns_cache(service, waypoint(&routing.key.scope).families);
                // The router is the last.
                filters.insert(filters.len().saturating_sub(1), listener::dynamic_forward_proxy(cache));
            }
            let manager = connection_manager(statistics, routes, filters);
            listener::http_chain(&chain, Vec::new(), &HttpConnectionManager { access_log, ..manager })
        }
        Handling::Tcp | Handling::Outbound => {
            let proxy = TcpProxy { access_log, ..routing.tcp(&chain) };
            listener::tcp_chain(&chain, policies.network.clone(), &proxy)
        }
    };
    encode::bytes(&chain)
}

/// The chains for traffic to workloads' own addresses.
fn direct_chains(cx: &Ctx<'_>, model: &Model, scope: &Scope) -> [FilterChain; 2] {
    // Authorizers of all services are among those of each.
    let policies = Policies::of(cx, model, scope, None, &RefCell::default());
    let logs = access_log::access_logs(model.scope().mesh(cx));
    listener::direct_chains(direct_routes(ENCAP), policies.http_filters(), policies.network, &logs)
}

/// The hosts that requests for a service may be for. The address of the service
/// says enough, except where the host says where a request goes.
fn domains(service: &Service, port: u16) -> Vec<String> {
    match service.resolution {
        Resolution::DynamicDns => {
            let host = &service.key.hostname;
            vec![host.to_string(), format!("{host}:{port}")]
        }
        _ => vec!["*".into()],
    }
}

/// The routes of a chain, which it has in itself.
fn routes(chain: &str, service: &Service, port: u16, routes: Vec<Route>) -> RouteConfiguration {
    RouteConfiguration {
        name: chain.into(),
        virtual_hosts: vec![VirtualHost {
            name: format!("inbound|http|{port}"),
            domains: domains(service, port),
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
