//! `main_internal`: the services of a waypoint, told apart by the address that
//! a connection is for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::listener::v3::FilterChain;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::xds::core::v3::CidrRange;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use rapidhash::v3::rapidhash_v3;

use crate::envoy::cluster::{ENCAP, MAIN_INTERNAL};
use crate::envoy::encode::{self, Message, boolean, uint32};
use crate::envoy::listener::{self, Inspected, connection_manager};
use crate::envoy::matcher::{self, Input, IpRangeMatcher, Matcher, OnMatch, exact};
use crate::envoy::name::{self, Handling};
use crate::envoy::route::{self, ClusterRef, UNKNOWN_SERVICE};
use crate::envoy::{Configs, access_log};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::Model;
use crate::model::service::{Protocol, Service};
use crate::proxy::Scope;
use crate::xds::resource::ResourceType;

use super::policies::Policies;
use super::quarantine::Quarantine;
use super::routes::Routing;
use super::{Destination, Fixture, Served, by_scope, handlings, ports};

/// A service's part of the listener.
#[derive(PartialEq)]
pub(super) struct Chains {
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
    /// A hash of all that an Envoy might reject.
    pub(super) print: u64,
}

impl Chains {
    /// Whether a text is in what an Envoy is told.
    pub(super) fn contains(&self, text: &[u8]) -> bool {
        self.chains.iter().any(|chain| memchr::memmem::find(chain, text).is_some())
    }

    /// What a service has that can be told to no Envoy: its connections end.
    pub(super) fn closed(&self) -> Self {
        let name = format!("quarantined|{}", self.age.1.service);
        Self {
            age: self.age.clone(),
            ranges: self.ranges.clone(),
            ports: OnMatch::chain(&name),
            chains: vec![encode::bytes(&listener::tcp_chain(&name, Vec::new(), &listener::tcp_proxy(UNKNOWN_SERVICE)))],
            inspected: Inspected::default(),
            references: BTreeSet::new(),
            print: 0,
        }
    }
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
) -> (Collection<Destination, Protocol>, Quarantine) {
    let model_of = model.clone();
    let chains = graph.derive("waypoint_chains", served, move |cx, key: &Served, ()| {
        let service = cx.get(model_of.services, &key.service)?;
        Some((key.clone(), Arc::new(chains(cx, &model_of, key, service))))
    });
    let quarantine = Quarantine::new(graph, chains);
    let chains = quarantine.parts();
    let services = model.services;
    let referenced = graph.derive("waypoint_references", chains, move |cx, _, chains: &Arc<Chains>| {
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
        let mut services: Vec<&Chains> = cx.fetch(chains, &key.scope).map(|(_, chains)| &**chains).collect();
        services.sort_by(|a, b| a.age.cmp(&b.age));
        Some(listener(&services, direct_chains(cx, &model, &key.scope)))
    });
    (referenced, quarantine)
}

/// Puts the listener together.
fn listener(services: &[&Chains], direct: [FilterChain; 2]) -> Message {
    let mut inspected = Inspected::default();
    for service in services {
        inspected.declared.extend(&service.inspected.declared);
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

fn chains(cx: &Ctx<'_>, model: &Model, key: &Served, service: &Service) -> Chains {
    let ranges = service.addresses.iter().map(|range| CidrRange {
        address_prefix: range.addr().to_string(),
        prefix_len: uint32(range.prefix_len().into()),
    });
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
    let print = rapidhash_v3(&encoded.concat());
    Chains {
        print,
        age: (service.meta.created, key.clone()),
        ranges: ranges.collect(),
        ports: OnMatch::matcher(exact(Input::DestinationPort, matches, None)),
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
