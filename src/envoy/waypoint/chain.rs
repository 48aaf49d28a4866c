//! `main_internal`: the services of a waypoint, told apart by the address that
//! a connection is for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::listener::v3::FilterChain;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::xds::core::v3::CidrRange;
use ipnet::IpNet;
use prost::Message as _;

use crate::envoy::cluster::{ENCAP, MAIN_INTERNAL};
use crate::envoy::encode::{self, Message, boolean, uint32};
use crate::envoy::listener::{self, Inspected, connection_manager};
use crate::envoy::matcher::{self, Input, IpRangeMatcher, Matcher, OnMatch, exact};
use crate::envoy::name::{self, Handling};
use crate::envoy::route::{self, ClusterRef};
use crate::envoy::{Configs, access_log};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::Model;
use crate::model::service::{Protocol, Service};
use crate::proxy::Scope;
use crate::xds::resource::{Piece, ResourceType};

use super::policies::Policies;
use super::routes::Routing;
use super::{Destination, Fixture, Served, by_scope, handlings, ports};

/// A service's part of the listener.
#[derive(PartialEq)]
struct Chains {
    /// Who was first decides whose chain an address belongs to.
    created: u32,
    /// What follows for its addresses, encoded; empty if it has none.
    matcher: Message,
    /// Encoded filter chains.
    chains: Vec<Piece>,
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
        // Of one age they stay in the order of their names.
        services.sort_by_key(|service| service.created);
        Some(listener(&services, direct_chains(cx, &model, &key.scope)))
    });
    referenced
}

/// Puts the listener together, of pieces that services have made.
fn listener(services: &[&Chains], direct: [FilterChain; 2]) -> Vec<Piece> {
    let mut inspected = Inspected::default();
    for service in services {
        inspected.declared.extend(&service.inspected.declared);
        inspected.undeclared.extend(&service.inspected.undeclared);
        inspected.tls.extend(&service.inspected.tls);
    }
    let mut pieces = vec![Piece::new(encode::bytes(&listener::main_internal(&inspected)))];
    pieces.extend(services.iter().flat_map(|service| service.chains.iter().cloned()));
    pieces.extend(direct.iter().map(|chain| Piece::field(FILTER_CHAINS, &encode::bytes(chain))));
    let matchers: Vec<_> = services.iter().map(|service| &*service.matcher).collect();
    let matcher = matcher::destination(matchers.concat());
    pieces.push(Piece::field(FILTER_CHAIN_MATCHER, &matcher.encode_to_vec()));
    pieces
}

fn chains(cx: &Ctx<'_>, model: &Model, key: &Served, service: &Service) -> Chains {
    let range = |range: &IpNet| CidrRange {
        address_prefix: range.addr().to_string(),
        prefix_len: uint32(range.prefix_len().into()),
    };
    let ranges: Vec<_> = service.addresses.iter().map(range).collect();
    let references = RefCell::default();
    let policies = Policies::of(cx, model, &key.scope, Some(service), &references);
    let mut encoded = Vec::new();
    let mut matches = BTreeMap::new();
    for port in ports(service) {
        let chain = |handling: &Handling| name::inbound_vip(port.number, *handling, "", &service.key);
        for handling in handlings(port.protocol) {
            let routing = Routing { cx, model, key, service, port, references: &references };
            encoded.push(Piece::field(FILTER_CHAINS, &filter_chain(&routing, &policies, *handling)));
        }
        let action = match handlings(port.protocol) {
            [Handling::Http, Handling::Tcp] => OnMatch::matcher(sniff(&chain(&Handling::Http), &chain(&Handling::Tcp))),
            one => one.first().map(|handling| OnMatch::chain(&chain(handling))).unwrap_or_default(),
        };
        matches.insert(port.number.to_string(), action);
    }
    let on_match = OnMatch::matcher(exact(Input::DestinationPort, matches, None));
    let matcher = match ranges.is_empty() {
        true => Message::new(),
        false => IpRangeMatcher { ranges, on_match: Some(on_match) }.field(),
    };
    Chains {
        created: service.meta.created,
        matcher,
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
    let protocols = ["'h2c'", "'http/1.1'"].map(|protocol| (protocol.to_owned(), OnMatch::chain(http)));
    exact(Input::ApplicationProtocol, BTreeMap::from(protocols), Some(OnMatch::chain(tcp)))
}

fn filter_chain(routing: &Routing<'_>, policies: &Policies, handling: Handling) -> Message {
    let Routing { cx, model, service, port, .. } = *routing;
    let access_log = access_log::access_logs(model.scope().mesh(cx));
    let chain = name::inbound_vip(port.number, handling, "", &service.key);
    let chain = match handling {
        Handling::Http => {
            let routes = routes(&chain, port.number, routing.http());
            let statistics = name::statistics(&format!("inbound_0.0.0.0_{}", port.number));
            let manager = connection_manager(statistics, routes, policies.http_filters());
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
