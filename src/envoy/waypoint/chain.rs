//! `main_internal`: the services of a waypoint, told apart by the address that
//! a connection is for.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route_action::MaxStreamDuration,
};
use envoy_types::pb::xds::core::v3::CidrRange;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::envoy::encode::{self, Message, boolean, duration, uint32};
use crate::envoy::listener::{self, connection_manager, router};
use crate::envoy::matcher::{self, Input, IpRangeMatcher, Matcher, OnMatch, exact};
use crate::envoy::name::{self, Handling};
use crate::envoy::{Configs, cluster::MAIN_INTERNAL};
use crate::graph::{Collection, Graph};
use crate::model::Model;
use crate::model::service::{Port, Protocol, Service};
use crate::proxy::Scope;
use crate::xds::resource::ResourceType;

use super::{Fixture, Served, by_scope, handlings, ports};

/// A service's part of the listener.
#[derive(PartialEq)]
struct Chains {
    /// Who was first decides whose chain an address belongs to.
    age: (i64, Served),
    /// The addresses of the service.
    ranges: Vec<CidrRange>,
    /// What follows for its ports.
    ports: OnMatch,
    /// Encoded filter chains.
    chains: Vec<Arc<Message>>,
    /// Whether one of its ports may carry TLS.
    tls: bool,
}

/// `Listener.filter_chains` and `Listener.filter_chain_matcher`.
const FILTER_CHAINS: u32 = 3;
const FILTER_CHAIN_MATCHER: u32 = 32;

/// Adds the listener.
pub(super) fn add_main_internal(graph: &mut Graph, model: &Model, served: Collection<Served, ()>, to: &mut Configs) {
    let services = model.services;
    let chains = graph.derive("waypoint_chains", served, move |cx, key: &Served, ()| {
        let service = cx.get(services, &key.service)?;
        Some((key.clone(), chains(key, service)))
    });
    let chains = by_scope(graph, chains);
    let listeners = graph.derive("waypoint_main_internal", to.scopes, move |_, scope: &Scope, ()| {
        [(Fixture { scope: scope.clone(), name: MAIN_INTERNAL }, ())]
    });
    to.add(graph, "waypoint_main_listener", ResourceType::Listener, listeners, move |cx, key, ()| {
        let mut services: Vec<&Chains> = cx.fetch(chains, &key.scope).map(|(_, chains)| chains).collect();
        services.sort_by(|a, b| a.age.cmp(&b.age));
        Some(listener(&services))
    });
}

/// Puts the listener together.
fn listener(services: &[&Chains]) -> Message {
    let mut message = encode::bytes(&listener::main_internal(services.iter().any(|service| service.tls)));
    for chain in services.iter().flat_map(|service| &service.chains) {
        put(&mut message, FILTER_CHAINS, chain);
    }
    for chain in listener::direct_chains(|cluster| direct_routes(cluster)) {
        put(&mut message, FILTER_CHAINS, &encode::bytes(&chain));
    }
    let ranges = services.iter().filter(|service| !service.ranges.is_empty());
    let matchers = ranges
        .map(|service| IpRangeMatcher { ranges: service.ranges.clone(), on_match: Some(service.ports.clone()) })
        .collect();
    put(&mut message, FILTER_CHAIN_MATCHER, &matcher::destination(matchers).encode_to_vec());
    message
}

fn put(message: &mut Message, field: u32, value: &[u8]) {
    encode_key(field, WireType::LengthDelimited, message);
    encode_varint(value.len() as u64, message);
    message.extend_from_slice(value);
}

fn chains(key: &Served, service: &Service) -> Chains {
    let ranges = service.addresses.iter().map(|range| CidrRange {
        address_prefix: range.addr().to_string(),
        prefix_len: uint32(range.prefix_len().into()),
    });
    let mut encoded = Vec::new();
    let mut matches = BTreeMap::new();
    for port in ports(service) {
        let chain = |handling: &Handling| name::inbound_vip(port.number, *handling, "", &service.key);
        for handling in handlings(port.protocol) {
            encoded.push(Arc::new(filter_chain(service, port, *handling)));
        }
        let action = match handlings(port.protocol) {
            [Handling::Http, Handling::Tcp] => OnMatch::matcher(sniff(&chain(&Handling::Http), &chain(&Handling::Tcp))),
            one => one.first().map(|handling| OnMatch::chain(&chain(handling))).unwrap_or_default(),
        };
        matches.insert(port.number.to_string(), action);
    }
    Chains {
        age: (service.meta.created, key.clone()),
        ranges: ranges.collect(),
        ports: OnMatch::matcher(exact(Input::DestinationPort, matches, None)),
        chains: encoded,
        tls: ports(service).any(|port| port.protocol == Protocol::Tls),
    }
}

/// Tells HTTP from everything else by what was found at the start of the
/// connection.
fn sniff(http: &str, tcp: &str) -> Matcher {
    // The input quotes what it found.
    let protocols = ["'h2c'", "'http/1.1'"].map(|protocol| (protocol.to_owned(), OnMatch::chain(http)));
    exact(Input::ApplicationProtocol, BTreeMap::from(protocols), Some(OnMatch::chain(tcp)))
}

fn filter_chain(service: &Service, port: &Port, handling: Handling) -> Message {
    let chain = name::inbound_vip(port.number, handling, "", &service.key);
    let chain = match handling {
        Handling::Tcp => listener::tcp_chain(&chain, Vec::new(), &listener::tcp_proxy(&chain)),
        Handling::Http => {
            let routes = routes(&chain, port.number, vec![default_route(&chain)]);
            let statistics = name::statistics(&format!("inbound_0.0.0.0_{}", port.number));
            let manager = connection_manager(statistics, routes, vec![router()]);
            listener::http_chain(&chain, Vec::new(), &manager)
        }
    };
    encode::bytes(&chain)
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

/// Everything to one cluster.
fn default_route(cluster: &str) -> Route {
    let never = || duration(std::time::Duration::ZERO);
    Route {
        name: "default".into(),
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
            timeout: never(),
            max_stream_duration: Some(MaxStreamDuration {
                max_stream_duration: never(),
                grpc_timeout_header_max: never(),
                ..Default::default()
            }),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Traffic to a workload's own address goes there.
fn direct_routes(cluster: &str) -> RouteConfiguration {
    RouteConfiguration {
        name: cluster.into(),
        virtual_hosts: vec![VirtualHost {
            name: "inbound|http|0".into(),
            domains: vec!["*".into()],
            routes: vec![default_route(cluster)],
            ..Default::default()
        }],
        validate_clusters: boolean(false),
        ..Default::default()
    }
}
