//! `main_internal`: the services of a waypoint, told apart by the address that
//! a connection is for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ForwardClientCertDetails;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::xds::core::v3::CidrRange;
use ipnet::IpNet;
use rapidhash::v3::rapidhash_v3;

use crate::api::virtual_service::HttpRetry;
use crate::envoy::cluster::discovery::dns_cache;
use crate::envoy::cluster::{self, ENCAP, MAIN_INTERNAL};
use crate::envoy::destination::{Destination, declared, handlings, ports};
use crate::envoy::encode::{self, Message, boolean, uint32};
use crate::envoy::listener::http::{self, HttpSettings};
use crate::envoy::listener::{
    self, DIRECT_HTTP, DIRECT_TCP, INSPECTED, Inspected, Peer, connection_manager, tcp_proxy,
};
use crate::envoy::matcher::{self, Input, Matcher, OnMatch, exact};
use crate::envoy::name::{self, Handling};
use crate::envoy::policies::Policies;
use crate::envoy::quarantine::{Content, Ward};
use crate::envoy::route::{self, ClusterRef, UNKNOWN_SERVICE};
use crate::envoy::telemetry::applied::{listener_logs, telemetry};
use crate::envoy::telemetry::{Destination as Counted, Telemetry, Traffic};
use crate::envoy::{Configs, Fixture, gateway};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::Model;
use crate::model::service::{Protocol, Resolution, Service, ServiceKey};
use crate::proxy::Scope;
use crate::xds::resource::{Piece, ResourceType};

use super::connections::Connections;
use super::routes::Routing;
use super::{Served, by_scope};

/// A service's part of the listener.
#[derive(Debug, PartialEq)]
pub(in crate::envoy) struct Chains {
    /// Who was first decides whose chain an address belongs to.
    created: u32,
    /// The addresses of the service.
    ranges: Vec<CidrRange>,
    /// Its ports.
    ports: Vec<PortChains>,
    /// What follows for its addresses, encoded, if all its ports are handled in
    /// one listener, as they nearly always are.
    matcher: Message,
    /// Where its routes lead that the waypoint does not serve.
    references: BTreeSet<Destination>,
    /// A hash of all that an Envoy might reject.
    print: u64,
}

impl Chains {
    fn of(created: u32, ranges: Vec<CidrRange>, ports: Vec<PortChains>, references: BTreeSet<Destination>) -> Self {
        let on_matches = ports.iter().map(|port| (port.number.to_string(), port.on_match.clone()));
        let matcher = port_matcher(&ranges, on_matches.collect());
        let pieces = ports.iter().flat_map(|port| &port.chains).map(Piece::hash);
        let hashes = pieces.chain([rapidhash_v3(&matcher)]).flat_map(u64::to_le_bytes);
        let print = rapidhash_v3(&hashes.collect::<Vec<_>>());
        Self { created, ranges, ports, matcher, references, print }
    }
}

impl Content for Chains {
    type Key = Served;

    fn print(&self) -> u64 {
        self.print
    }

    fn contains(&self, text: &[u8]) -> bool {
        let mut chains = self.ports.iter().flat_map(|port| &port.chains);
        chains.any(|chain| memchr::memmem::find(chain.bytes(), text).is_some())
    }

    /// Its connections end.
    fn closed(&self, of: &Served) -> Self {
        let port = |port: &PortChains| {
            let name = format!("quarantined|{}|{}", port.number, of.service);
            let chain = listener::tcp_chain(&name, Vec::new(), &tcp_proxy(UNKNOWN_SERVICE));
            PortChains {
                number: port.number,
                protocol: port.protocol,
                tls: port.tls,
                on_match: matcher::chain(&name),
                chains: vec![Piece::field(FILTER_CHAINS, &encode::bytes(&chain))],
            }
        };
        let ports = self.ports.iter().map(port).collect();
        Self { print: 0, ..Self::of(self.created, self.ranges.clone(), ports, BTreeSet::new()) }
    }

    fn key(scope: &Scope, name: &str) -> Option<Served> {
        let (namespace, hostname) = name.split_once('/')?;
        let service = ServiceKey { namespace: namespace.into(), hostname: hostname.into() };
        Some(Served { scope: scope.clone(), service })
    }

    fn trial(listener: &str, parts: &[(Served, &Self)]) -> Vec<Piece> {
        let services: Vec<_> = parts.iter().map(|(_, chains)| *chains).collect();
        let listener = Listener { name: listener.into(), ..listener::inspected() };
        let mut pieces = vec![Piece::new(encode::bytes(&listener))];
        let matchers = put_services(&mut pieces, &services, |_| Part::Own);
        pieces.push(Piece::field(FILTER_CHAIN_MATCHER, &matcher::destination(matchers)));
        pieces
    }
}

/// A port's part of the listener.
#[derive(Debug, PartialEq)]
struct PortChains {
    number: u16,
    /// What it declares.
    protocol: Protocol,
    /// Whether TLS is looked for.
    tls: bool,
    /// What follows for its connections.
    on_match: OnMatch,
    /// Filter chains, encoded as fields of the listener.
    chains: Vec<Piece>,
}

impl PortChains {
    /// Whether connections wait until the client has said something.
    fn waits(&self) -> bool {
        self.tls || self.protocol == Protocol::Unknown
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
) -> (Collection<Destination, Protocol>, Ward<Chains>) {
    let model_of = model.clone();
    let chains = graph.derive("waypoint_chains", served, move |cx, key: &Served, ()| {
        let service = cx.get(model_of.services, &key.service)?;
        Some((key.clone(), Arc::new(chains(cx, &model_of, key, service))))
    });
    let quarantine = Ward::new(graph, ["quarantine", "waypoint_parts", "waypoint_parts_asked"], chains);
    quarantine.add_trials(graph, to.waypoints, ["waypoint_trials", "waypoint_trial_listeners"], to);
    let chains = quarantine.parts();
    let model_of = model.clone();
    let referenced = graph.derive("waypoint_references", chains, move |cx, _, chains: &Arc<Chains>| {
        let known = |destination: &Destination| Some((destination.clone(), declared(cx, &model_of, destination)?));
        chains.references.iter().filter_map(known).collect::<Vec<_>>()
    });
    let chains = by_scope(graph, chains);
    let elsewhere = graph.derive("waypoint_inspections", to.waypoints, move |cx, scope: &Scope, ()| {
        let ports = elsewhere(cx.fetch(chains, scope).map(|(_, chains)| &**chains));
        (!ports.is_empty()).then(|| (Fixture { scope: scope.clone(), name: INSPECTED }, ports))
    });
    to.add(graph, "waypoint_inspection_clusters", ResourceType::Cluster, elsewhere, move |_, key, _| {
        Some(encode::bytes(&cluster::to_internal_listener(key.name, key.name)))
    });
    let listeners = graph.derive("waypoint_main_internal", to.waypoints, move |_, scope: &Scope, ()| {
        [(Fixture { scope: scope.clone(), name: MAIN_INTERNAL }, ())]
    });
    let oldest_first = move |cx: &Ctx<'_>, scope: &Scope, listener: &dyn Fn(&[&Chains]) -> Vec<Piece>| {
        let mut services: Vec<&Chains> = cx.fetch(chains, scope).map(|(_, chains)| &**chains).collect();
        // Of one age they stay in the order of their names.
        services.sort_by_key(|service| service.created);
        listener(&services)
    };
    let model = model.clone();
    to.add(graph, "waypoint_main_listener", ResourceType::Listener, listeners, move |cx, key, ()| {
        let scope = &key.scope;
        let elsewhere = cx.get(elsewhere, &Fixture { scope: scope.clone(), name: INSPECTED });
        let other = |elsewhere: &BTreeSet<u16>| (elsewhere.clone(), listener::to_inspected(scope.capabilities()));
        let workloads = cx.get(model.attached_workloads, &gateway(scope)).map(Vec::as_slice).unwrap_or_default();
        // Whom all services' chains call is enough for these, see below.
        let common = Common::new(cx, &model, scope, None, &RefCell::default());
        let access_log = listener_logs(cx, &model, &common.telemetry);
        let direct = (workloads, direct_chains(&common));
        Some(oldest_first(cx, scope, &|services| {
            main_internal(services, elsewhere.map(other), &direct, access_log.clone())
        }))
    });
    to.add(graph, "waypoint_inspection_listeners", ResourceType::Listener, elsewhere, move |cx, key, ports| {
        Some(oldest_first(cx, &key.scope, &|services| inspected(services, ports)))
    });
    (referenced, quarantine)
}

/// The ports that one service declares to be TCP, in which the server may speak
/// first, and on which another's connections have to be looked into.
fn elsewhere<'a>(services: impl Iterator<Item = &'a Chains>) -> BTreeSet<u16> {
    let (mut quiet, mut waiting) = (BTreeSet::new(), BTreeSet::new());
    for port in services.flat_map(|service| &service.ports) {
        if port.waits() {
            waiting.insert(port.number);
        } else if port.protocol == Protocol::Tcp {
            quiet.insert(port.number);
        }
    }
    waiting.intersection(&quiet).copied().collect()
}

/// Puts the listener together. `elsewhere` are ports with connections that
/// another listener looks into, and the chain that leads there; `direct` are the
/// addresses of workloads that are attached, and the chains for them.
fn main_internal(
    services: &[&Chains],
    elsewhere: Option<(BTreeSet<u16>, FilterChain)>,
    (workloads, direct): &(&[IpAddr], [FilterChain; 2]),
    access_log: Vec<AccessLog>,
) -> Vec<Piece> {
    let (elsewhere, other) = elsewhere.unzip();
    let elsewhere = elsewhere.unwrap_or_default();
    let mut inspected = Inspected { elsewhere, workloads: !workloads.is_empty(), ..Inspected::default() };
    for port in services.iter().flat_map(|service| &service.ports) {
        let of_protocol = match port.protocol {
            Protocol::Http11 | Protocol::Http2 | Protocol::Grpc => &mut inspected.http,
            Protocol::Tcp | Protocol::Tls => &mut inspected.bytes,
            Protocol::Unknown => &mut inspected.undeclared,
        };
        of_protocol.insert(port.number);
        if port.tls {
            inspected.tls.insert(port.number);
        }
    }
    let listener = Listener { access_log, ..listener::main_internal(&inspected) };
    let mut pieces = vec![Piece::new(encode::bytes(&listener))];
    let moved = |port: &PortChains| port.waits() && inspected.elsewhere.contains(&port.number);
    let mut matchers = put_services(&mut pieces, services, |port| match moved(port) {
        true => Part::Other(matcher::chain(INSPECTED)),
        false => Part::Own,
    });
    if !workloads.is_empty() {
        let host = |address: &IpAddr| range(&IpNet::from(*address));
        let on_match = matcher::further(sniff(matcher::chain(DIRECT_HTTP), matcher::chain(DIRECT_TCP)));
        matchers.extend(matcher::ranges(workloads.iter().map(host).collect(), on_match));
    }
    pieces.push(Piece::field(FILTER_CHAIN_MATCHER, &matcher::destination(matchers)));
    let others = other.iter().chain(direct);
    pieces.extend(others.map(|chain| Piece::field(FILTER_CHAINS, &encode::bytes(chain))));
    pieces
}

/// Puts the listener together that looks into connections for some ports.
fn inspected(services: &[&Chains], ports: &BTreeSet<u16>) -> Vec<Piece> {
    let mut pieces = vec![Piece::new(encode::bytes(&listener::inspected()))];
    let matchers = put_services(&mut pieces, services, |port| match port.waits() && ports.contains(&port.number) {
        true => Part::Own,
        false => Part::Nothing,
    });
    pieces.push(Piece::field(FILTER_CHAIN_MATCHER, &matcher::destination(matchers)));
    pieces
}

/// What a listener has for a port.
enum Part {
    /// The port's chains.
    Own,
    /// Something else.
    Other(OnMatch),
    Nothing,
}

/// Adds the chains of ports to a listener, and returns what chooses them.
fn put_services(pieces: &mut Vec<Piece>, services: &[&Chains], part: impl Fn(&PortChains) -> Part) -> Message {
    let mut matchers = Message::new();
    for service in services {
        let parts: Vec<_> = service.ports.iter().map(|port| (port, part(port))).collect();
        let own = parts.iter().filter(|(_, part)| matches!(part, Part::Own));
        pieces.extend(own.clone().flat_map(|(port, _)| port.chains.iter().cloned()));
        if own.count() == parts.len() {
            matchers.extend_from_slice(&service.matcher);
            continue;
        }
        let on_match = |(port, part): (&PortChains, Part)| {
            let on_match = match part {
                Part::Own => port.on_match.clone(),
                Part::Other(on_match) => on_match,
                Part::Nothing => return None,
            };
            Some((port.number.to_string(), on_match))
        };
        matchers.extend(port_matcher(&service.ranges, parts.into_iter().filter_map(on_match).collect()));
    }
    matchers
}

/// What follows for the ports of a service; nothing if it cannot be reached.
fn port_matcher(ranges: &[CidrRange], ports: BTreeMap<String, OnMatch>) -> Message {
    match ranges.is_empty() || ports.is_empty() {
        true => Message::new(),
        false => matcher::ranges(ranges.to_vec(), matcher::further(exact(Input::DestinationPort, ports, None))),
    }
}

fn chains(cx: &Ctx<'_>, model: &Model, key: &Served, service: &Service) -> Chains {
    let references = RefCell::default();
    let common = Common::new(cx, model, &key.scope, Some(service), &references);
    // What all connections have in common may be sent elsewhere, and is without
    // references of its own.
    telemetry(cx, model, &key.scope, None, &references);
    let port = |port| {
        let routing = Routing { cx, model, key, service, port, references: &references };
        port_chains(&routing, &common)
    };
    let ports = ports(service).map(port).collect();
    let ranges = service.addresses.iter().map(range).collect();
    Chains::of(service.meta.created, ranges, ports, references.into_inner())
}

fn range(range: &IpNet) -> CidrRange {
    CidrRange { address_prefix: range.addr().to_string(), prefix_len: uint32(range.prefix_len().into()) }
}

/// The chains of a port, in the order of [`handlings`].
fn port_chains(routing: &Routing<'_>, common: &Common<'_>) -> PortChains {
    let Routing { service, port, .. } = *routing;
    let mut chains = Vec::new();
    let mut on_matches = Vec::new();
    let mut tls = port.protocol == Protocol::Tls;
    for handling in handlings(port.protocol) {
        let name = name::inbound_vip(port.number, *handling, "", &service.key);
        on_matches.push(match handling {
            Handling::Http => {
                chains.push(Piece::field(FILTER_CHAINS, &encode::bytes(&http_chain(routing, common, &name))));
                matcher::chain(&name)
            }
            Handling::Tcp | Handling::Outbound | Handling::Passed => {
                let Connections { some, rest, names } = routing.connections(&name);
                tls |= names;
                let mut chain = |name: &str, proxy: TcpProxy| {
                    let proxy = TcpProxy { access_log: common.access_logs(Traffic::Tcp), ..proxy };
                    let chain = listener::tcp_chain(name, common.network_filters(), &proxy);
                    chains.push(Piece::field(FILTER_CHAINS, &encode::bytes(&chain)));
                    matcher::chain(name)
                };
                let rest = chain(&name, rest);
                let some = some
                    .into_iter()
                    .enumerate()
                    .map(|(index, (predicate, proxy))| (predicate, chain(&format!("{name}|{index}"), proxy)));
                match some.collect::<Vec<_>>() {
                    none if none.is_empty() => rest,
                    some => matcher::further(matcher::first(some, rest)),
                }
            }
        });
    }
    let on_match = match <[OnMatch; 2]>::try_from(on_matches) {
        Ok([http, tcp]) => matcher::further(sniff(http, tcp)),
        Err(one) => one.into_iter().next().unwrap_or_default(),
    };
    PortChains { number: port.number, protocol: port.protocol, tls, on_match, chains }
}

/// Tells HTTP from everything else by what was found at the start of the
/// connection.
fn sniff(http: OnMatch, other: OnMatch) -> Matcher {
    // The input quotes what it found.
    let protocols = ["'h2c'", "'http/1.1'"].map(|protocol| (protocol.to_owned(), http.clone()));
    exact(Input::ApplicationProtocol, BTreeMap::from(protocols), Some(other))
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

    fn manager(
        &self,
        statistics: &str,
        routes: RouteConfiguration,
        (traffic, peer): (Traffic, Peer),
    ) -> HttpConnectionManager {
        let mesh = self.model.scope().mesh(self.cx);
        let endpoint = self.scope.capabilities().peer_metadata.then(|| listener::peer_metadata(peer));
        let counting = endpoint.into_iter().chain(self.telemetry.http_filters()).collect();
        let settings = HttpSettings::of(self.scope, mesh, &self.model.settings);
        let filters = self.policies.http_filters(counting, listener::router(settings.debug_headers()));
        let manager = connection_manager(name::statistics(statistics), routes, filters);
        let mut manager = http::with_settings(manager, settings);
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

fn http_chain(routing: &Routing<'_>, common: &Common<'_>, name: &str) -> FilterChain {
    let (service, port) = (routing.service, routing.port.number);
    let all = routing.http();
    let sessions = route::session::any_kept(&all);
    let routes = routes(name, service, port, all);
    let traffic = if routing.port.protocol == Protocol::Grpc { Traffic::Grpc } else { Traffic::Http };
    // Its connections may have come through one more listener.
    let peer = if routing.port.protocol == Protocol::Unknown { Peer::Both } else { Peer::Endpoint };
    let mut manager = common.manager(&format!("inbound_0.0.0.0_{port}"), routes, (traffic, peer));
    if service.resolution == Resolution::DynamicDns {
        let cache = dns_cache(service, routing.key.scope.families());
        // The router is the last.
        let last = manager.http_filters.len().saturating_sub(1);
        manager.http_filters.insert(last, listener::dynamic_forward_proxy(cache));
    }
    if sessions {
        let last = manager.http_filters.len().saturating_sub(1);
        manager.http_filters.insert(last, listener::stateful_session());
    }
    listener::http_chain(name, Vec::new(), &manager)
}

/// The chains for traffic to workloads' own addresses.
fn direct_chains(common: &Common<'_>) -> [FilterChain; 2] {
    let mesh = common.model.scope().mesh(common.cx);
    let routes = direct_routes(ENCAP, mesh.default_http_retry_policy.as_ref());
    let manager = common.manager("inbound_0.0.0.0_0", routes, (Traffic::Http, Peer::Endpoint));
    let proxy = TcpProxy { access_log: common.access_logs(Traffic::Tcp), ..tcp_proxy(ENCAP) };
    listener::direct_chains(&manager, common.network_filters(), &proxy)
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
fn direct_routes(cluster: &str, retry: Option<&HttpRetry>) -> RouteConfiguration {
    let to = ClusterRef { name: cluster.into(), ..ClusterRef::default() };
    RouteConfiguration {
        name: cluster.into(),
        virtual_hosts: vec![VirtualHost {
            name: "inbound|http|0".into(),
            domains: vec!["*".into()],
            routes: vec![route::default_route(&to, "direct", retry)],
            ..Default::default()
        }],
        validate_clusters: boolean(false),
        ..Default::default()
    }
}
