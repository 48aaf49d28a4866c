//! `Listener`: where a proxy takes traffic, and what it does with it.
//!
//! At a waypoint a connection comes in by HBONE (`connect_terminate`), is told apart by the
//! address it is for (`main_internal`), is routed, and leaves by HBONE
//! (`connect_originate`). The three are joined by internal connections.
//! <https://www.envoyproxy.io/docs/envoy/latest/configuration/other_features/internal_listener>

pub mod http;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, Http2ProtocolOptions, KeepaliveSettings, SubstitutionFormatString, TrafficDirection, data_source,
};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType as FilterConfig;
use envoy_types::pb::envoy::config::listener::v3::listener::connection_balance_config::{BalanceType, ExactBalance};
use envoy_types::pb::envoy::config::listener::v3::listener::{
    ConnectionBalanceConfig, InternalListenerConfig, ListenerSpecifier,
};
use envoy_types::pb::envoy::config::listener::v3::listener_filter::ConfigType as ListenerFilterConfig;
use envoy_types::pb::envoy::config::listener::v3::listener_filter_chain_match_predicate::{MatchSet, Rule};
use envoy_types::pb::envoy::config::listener::v3::{
    AdditionalAddress, Filter, FilterChain, Listener, ListenerFilter, ListenerFilterChainMatchPredicate as Predicate,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::upgrade_config::ConnectConfig;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, UpgradeConfig as RouteUpgrade};
use envoy_types::pb::envoy::config::route::v3::route_match::{ConnectMatcher, PathSpecifier};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost};
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::FilterStateValue;
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value::{
    Key, SharedWithUpstream, Value,
};
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3::FilterConfig as DynamicForwardProxy;
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3::filter_config::ImplementationSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::set_filter_state::v3::Config as SetFilterState;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    PathWithEscapedSlashesAction, RouteSpecifier, SetCurrentClientCertDetails, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, RequestIdExtension, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config as NetworkFilterState;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier as TcpCluster, TunnelingConfig,
};
use envoy_types::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use fairway_proto::peer_metadata::Config as PeerMetadata;
use fairway_proto::peer_metadata::config::discovery_method::MethodSpecifier;
use fairway_proto::peer_metadata::config::{DiscoveryMethod, WorkloadDiscovery};
use prost::{Message, Name};

use super::authorization::{PEER_ADDRESS, PEER_PRINCIPAL};
use super::cluster::MAIN_INTERNAL;
use super::encode::{any, boolean, duration, uint32};
use super::endpoint::{CONNECT_ORIGINATE, socket, wildcard};
use super::route::session;
use super::tls;
use crate::api::mesh::MeshConfig;
use crate::proxy::scope::Families;
use crate::proxy::{Capabilities, Scope};

/// The listener that takes HBONE.
pub const CONNECT_TERMINATE: &str = "connect_terminate";
/// The internal listener that connections go through which `main_internal`
/// cannot look into, and the cluster that leads to it.
pub const INSPECTED: &str = "main_internal_inspected";
/// What waypoints and their users call the proxy's product.
const SERVER: &str = "istio-envoy";

/// A network filter.
pub fn filter<M: Message + Name>(name: &str, config: &M) -> Filter {
    Filter { name: name.into(), config_type: Some(FilterConfig::TypedConfig(any(config))) }
}

/// An HTTP filter.
pub fn http_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    let config_type = Some(http_filter::ConfigType::TypedConfig(any(config)));
    HttpFilter { name: name.into(), config_type, ..Default::default() }
}

fn listener_filter<M: Message + Name>(name: &str, config: &M) -> ListenerFilter {
    let config_type = Some(ListenerFilterConfig::TypedConfig(any(config)));
    ListenerFilter { name: name.into(), config_type, ..Default::default() }
}

/// What every listener and route manager of HTTP has in common.
/// <https://www.envoyproxy.io/docs/envoy/latest/configuration/best_practices/edge>
pub fn connection_manager(
    stat_prefix: String,
    route: RouteConfiguration,
    filters: Vec<HttpFilter>,
) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix,
        route_specifier: Some(RouteSpecifier::RouteConfig(route)),
        http_filters: filters,
        // Streams may be quiet for long; routes have timeouts of their own.
        stream_idle_timeout: duration(Duration::ZERO),
        server_name: SERVER.into(),
        use_remote_address: boolean(false),
        proxy_100_continue: true,
        normalize_path: boolean(true),
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged.into(),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".into(), ..Default::default() }],
        request_id_extension: Some(request_id(true)),
        ..Default::default()
    }
}

/// How requests are told apart, and whether that says if they are traced.
pub fn request_id(traced_by_it: bool) -> RequestIdExtension {
    let config = UuidRequestIdConfig { use_request_id_for_trace_sampling: boolean(traced_by_it), ..Default::default() };
    RequestIdExtension { typed_config: Some(any(&config)) }
}

/// The last HTTP filter. Headers for debugging Envoy can be left out.
pub fn router(debug_headers: bool) -> HttpFilter {
    http_filter("envoy.filters.http.router", &Router { suppress_envoy_headers: !debug_headers, ..Default::default() })
}

/// Whom Istio's filter finds out about, for its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The caller, where connections arrive. The next listener is told.
    Caller,
    /// The endpoint.
    Endpoint,
    /// The endpoint; and the caller, where the listener before that was told may
    /// have been in between. What is known already is not looked for.
    Both,
}

/// Istio's filter that finds out who is at the other end.
pub fn peer_metadata(peer: Peer) -> HttpFilter {
    let workload =
        || DiscoveryMethod { method_specifier: Some(MethodSpecifier::WorkloadDiscovery(WorkloadDiscovery {})) };
    let (name, discovery) = match peer {
        Peer::Caller => (
            "waypoint_downstream_peer_metadata",
            PeerMetadata { downstream_discovery: vec![workload()], shared_with_upstream: true, ..Default::default() },
        ),
        Peer::Endpoint => (
            "waypoint_upstream_peer_metadata",
            PeerMetadata { upstream_discovery: vec![workload()], ..Default::default() },
        ),
        Peer::Both => (
            "waypoint_upstream_peer_metadata",
            PeerMetadata {
                downstream_discovery: vec![workload()],
                upstream_discovery: vec![workload()],
                ..Default::default()
            },
        ),
    };
    http_filter(name, &discovery)
}

/// The same at a gateway: who the endpoint is, by the filter's name there.
pub fn exchange_metadata() -> HttpFilter {
    HttpFilter { name: "istio.metadata_exchange".into(), ..peer_metadata(Peer::Endpoint) }
}

/// Notes a property of the connection for those further in. `factory` says
/// which kind of object it becomes.
fn state(key: &str, factory: &str, format: &str) -> FilterStateValue {
    let source =
        DataSource { specifier: Some(data_source::Specifier::InlineString(format.into())), ..Default::default() };
    let format = SubstitutionFormatString { format: Some(Format::TextFormatSource(source)), ..Default::default() };
    FilterStateValue {
        factory_key: factory.into(),
        shared_with_upstream: SharedWithUpstream::Once.into(),
        key: Some(Key::ObjectKey(key.into())),
        value: Some(Value::FormatString(format)),
        ..Default::default()
    }
}

/// Hands the destination and the identities of both ends on to
/// `main_internal`. The texts take part in the choice of the connection to it,
/// so that no two callers or destinations share one.
fn connect_authority(capabilities: Capabilities) -> HttpFilter {
    let noted = all_noted(capabilities).map(|(key, format)| noted(capabilities, key, format));
    let config = SetFilterState { on_request_headers: noted.collect(), ..Default::default() };
    http_filter("connect_authority", &config)
}

/// What is noted of a connection that arrives by HBONE: where it is for, where
/// it is from, and who is at its ends.
const NOTED: [(&str, &str); 6] = [
    (LOCAL_IP, "%REQ(:AUTHORITY)%"),
    ("io.istio.connect_authority", "%REQ(:AUTHORITY)%"),
    ("envoy.filters.listener.original_dst.remote_ip", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    (PEER_PRINCIPAL, "%DOWNSTREAM_PEER_URI_SAN%"),
    ("io.istio.local_principal", "%DOWNSTREAM_LOCAL_URI_SAN%"),
    // The address that an internal connection directly comes from is none.
    (PEER_ADDRESS, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
];
const LOCAL_IP: &str = "envoy.filters.listener.original_dst.local_ip";

/// What of it a proxy can note.
fn all_noted(capabilities: Capabilities) -> impl Iterator<Item = (&'static str, &'static str)> {
    NOTED.into_iter().filter(move |(key, _)| *key != PEER_ADDRESS || capabilities.network_ip)
}

/// Addresses have kinds of their own.
fn noted(capabilities: Capabilities, key: &str, format: &str) -> FilterStateValue {
    let factory = match key {
        PEER_ADDRESS => "envoy.network.ip",
        key if key.starts_with("envoy.filters.listener.original_dst.") => key,
        _ => capabilities.hashable_string.factory(),
    };
    state(key, factory, format)
}

/// Hands what was noted of a connection on to the next internal listener: it is
/// shared with one at a time.
fn noted_again(keys: &[&str], capabilities: Capabilities) -> Filter {
    let again = |key: &&str| match *key {
        // As a text it has a port, which this kind does not take.
        PEER_ADDRESS => noted(capabilities, key, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
        key => noted(capabilities, key, &format!("%FILTER_STATE({key}:PLAIN)%")),
    };
    let config = NetworkFilterState { on_new_connection: keys.iter().map(again).collect(), ..Default::default() };
    filter("connect_authority", &config)
}

/// `connect_terminate`: takes HBONE.
pub fn connect_terminate(scope: &Scope, trust_domains: &[&str], mesh: &MeshConfig, logs: Vec<AccessLog>) -> Listener {
    let connect = || "CONNECT".to_owned();
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::ConnectMatcher(ConnectMatcher {})),
            ..Default::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(MAIN_INTERNAL.into())),
            upgrade_configs: vec![RouteUpgrade {
                upgrade_type: connect(),
                connect_config: Some(ConnectConfig::default()),
                ..Default::default()
            }],
            ..Default::default()
        })),
        ..Default::default()
    };
    let host =
        VirtualHost { name: "default".into(), domains: vec!["*".into()], routes: vec![route], ..Default::default() };
    let routes = RouteConfiguration { name: "default".into(), virtual_hosts: vec![host], ..Default::default() };
    let caller = scope.capabilities().peer_metadata.then(|| peer_metadata(Peer::Caller));
    let filters = caller.into_iter().chain([connect_authority(scope.capabilities()), router(true)]).collect();
    let headers = &mesh.default_config.proxy_headers;
    let manager = HttpConnectionManager {
        access_log: logs,
        forward_client_cert_details: http::forwarded_client_certificate(headers).into(),
        set_current_client_cert_details: Some(SetCurrentClientCertDetails {
            subject: boolean(true),
            uri: true,
            dns: true,
            ..Default::default()
        }),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: connect(), ..Default::default() }],
        http2_protocol_options: Some(Http2ProtocolOptions {
            allow_connect: true,
            max_concurrent_streams: uint32(100),
            connection_keepalive: Some(KeepaliveSettings {
                interval: duration(Duration::from_secs(10)),
                timeout: duration(Duration::from_secs(20)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        // These are settings of HTTP that is read, not carried.
        normalize_path: None,
        proxy_100_continue: false,
        request_id_extension: None,
        ..connection_manager(CONNECT_TERMINATE.into(), routes, filters)
    };
    let manager = http::with_proxy_headers(manager, headers);
    let chain = FilterChain {
        name: "default".into(),
        transport_socket: Some(tls::downstream_hbone(trust_domains)),
        filters: vec![filter("envoy.filters.network.http_connection_manager", &manager)],
        ..Default::default()
    };
    let hbone = |address| socket(SocketAddr::new(address, crate::model::waypoint::PORT));
    let more = (scope.families() == Families::Dual && scope.loopback().is_none())
        .then(|| AdditionalAddress { address: Some(hbone(wildcard(true))), ..Default::default() });
    let main = scope.loopback().unwrap_or_else(|| wildcard(scope.families() == Families::V6));
    Listener {
        name: CONNECT_TERMINATE.into(),
        address: Some(hbone(main)),
        additional_addresses: more.into_iter().collect(),
        connection_balance_config: Some(ConnectionBalanceConfig {
            balance_type: Some(BalanceType::ExactBalance(ExactBalance {})),
        }),
        traffic_direction: TrafficDirection::Inbound.into(),
        filter_chains: vec![chain],
        ..Default::default()
    }
}

fn internal_listener(name: &str) -> Listener {
    Listener {
        name: name.into(),
        listener_specifier: Some(ListenerSpecifier::InternalListener(InternalListenerConfig::default())),
        ..Default::default()
    }
}

/// `connect_originate`: opens HBONE to the address a connection is for.
pub fn connect_originate(logs: Vec<AccessLog>) -> Listener {
    let proxy = TcpProxy {
        access_log: logs,
        stat_prefix: CONNECT_ORIGINATE.into(),
        cluster_specifier: Some(TcpCluster::Cluster(CONNECT_ORIGINATE.into())),
        tunneling_config: Some(TunnelingConfig { hostname: "%DOWNSTREAM_LOCAL_ADDRESS%".into(), ..Default::default() }),
        ..Default::default()
    };
    Listener {
        listener_filters: vec![listener_filter("envoy.filters.listener.original_dst", &OriginalDst {})],
        filter_chains: vec![FilterChain {
            filters: vec![filter("envoy.filters.network.tcp_proxy", &proxy)],
            ..Default::default()
        }],
        ..internal_listener(CONNECT_ORIGINATE)
    }
}

/// Which ports of connections that arrive at `main_internal` are looked into.
/// Envoy decides that by the port alone, whatever the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspected {
    /// Ports that declare HTTP.
    pub http: BTreeSet<u16>,
    /// Ports that declare a protocol that is passed on. Looking for HTTP would
    /// wait for the client, which in some of them waits for the server.
    pub bytes: BTreeSet<u16>,
    /// Ports that declare nothing, of whatever service: on them HTTP is looked
    /// for.
    pub undeclared: BTreeSet<u16>,
    /// Ports that may carry TLS: only on them it is looked for.
    pub tls: BTreeSet<u16>,
    /// Ports that one service declares to be TCP while another wants them
    /// looked into. They are not; the other's connections go to [`INSPECTED`].
    pub elsewhere: BTreeSet<u16>,
    /// Whether there are connections for workloads' own addresses, whose ports
    /// declare nothing.
    pub workloads: bool,
}

/// `main_internal` without its filter chains, which are made one by one.
pub fn main_internal(inspected: &Inspected) -> Listener {
    let Inspected { http, bytes, undeclared, tls, elsewhere, workloads } = inspected;
    let http = http.iter().filter(|_| !workloads);
    let declared: BTreeSet<_> = http.chain(bytes).copied().collect();
    let quiet: BTreeSet<_> = declared.difference(undeclared).chain(elsewhere).copied().collect();
    let mut filters = vec![
        listener_filter("envoy.filters.listener.original_dst", &OriginalDst {}),
        ListenerFilter {
            filter_disabled: any_port(&Vec::from_iter(quiet)),
            ..listener_filter("envoy.filters.listener.http_inspector", &HttpInspector {})
        },
    ];
    let tls: Vec<_> = tls.difference(elsewhere).copied().collect();
    if let Some(tls) = any_port(&tls) {
        filters.push(ListenerFilter {
            filter_disabled: Some(Predicate { rule: Some(Rule::NotMatch(Box::new(tls))) }),
            ..listener_filter("envoy.filters.listener.tls_inspector", &TlsInspector::default())
        });
    }
    Listener {
        traffic_direction: TrafficDirection::Inbound.into(),
        listener_filters: filters,
        // Who waits for the server is none that speaks HTTP.
        continue_on_listener_filters_timeout: inspected.workloads,
        ..internal_listener(MAIN_INTERNAL)
    }
}

/// [`INSPECTED`] without its filter chains. All that arrives is looked into.
pub fn inspected() -> Listener {
    Listener {
        traffic_direction: TrafficDirection::Inbound.into(),
        listener_filters: vec![
            listener_filter("envoy.filters.listener.original_dst", &OriginalDst {}),
            listener_filter("envoy.filters.listener.http_inspector", &HttpInspector {}),
            listener_filter("envoy.filters.listener.tls_inspector", &TlsInspector::default()),
        ],
        ..internal_listener(INSPECTED)
    }
}

/// The chain that leads to [`INSPECTED`]. Nothing is decided here, so no policy
/// applies.
pub fn to_inspected(capabilities: Capabilities) -> FilterChain {
    let keys: Vec<_> = all_noted(capabilities).map(|(key, _)| key).collect();
    let again = noted_again(&keys, capabilities);
    tcp_chain(INSPECTED, vec![again], &tcp_proxy(INSPECTED))
}

/// Matches connections for any of these ports; `None` if there are none.
fn any_port(ports: &[u16]) -> Option<Predicate> {
    let one = |port: &u16| {
        let start = i32::from(*port);
        Predicate { rule: Some(Rule::DestinationPortRange(Int32Range { start, end: start + 1 })) }
    };
    match ports {
        [] => None,
        [port] => Some(one(port)),
        // A set of one is refused.
        several => Some(Predicate { rule: Some(Rule::OrMatch(MatchSet { rules: several.iter().map(one).collect() })) }),
    }
}

/// Where a gateway listens, without its filter chains.
pub fn gateway(name: String, addresses: &[SocketAddr]) -> Listener {
    let mut addresses = addresses.iter().map(|address| Some(socket(*address)));
    Listener {
        name,
        address: addresses.next().flatten(),
        additional_addresses: addresses.map(|address| AdditionalAddress { address, ..Default::default() }).collect(),
        traffic_direction: TrafficDirection::Outbound.into(),
        // A worker that takes many at once would have them to itself.
        max_connections_to_accept_per_socket_event: uint32(1),
        ..Default::default()
    }
}

/// Takes a PROXY header off each connection.
pub fn proxy_protocol() -> ListenerFilter {
    listener_filter("envoy.filters.listener.proxy_protocol", &ProxyProtocol::default())
}

/// Finds out the server name and the protocols that a client of TLS asks for.
pub fn tls_inspector() -> ListenerFilter {
    // What most clients send fits, and less is held for those that send nothing.
    let inspector = TlsInspector { initial_read_buffer_size: uint32(512), ..Default::default() };
    listener_filter("envoy.filters.listener.tls_inspector", &inspector)
}

/// Routes that are asked for by name.
pub fn route_discovery(name: &str) -> RouteSpecifier {
    RouteSpecifier::Rds(Rds { config_source: Some(tls::ads(true)), route_config_name: name.into() })
}

/// A filter chain that reads HTTP.
pub fn http_chain(name: &str, first: Vec<Filter>, manager: &HttpConnectionManager) -> FilterChain {
    let manager = filter("envoy.filters.network.http_connection_manager", manager);
    FilterChain { name: name.into(), filters: first.into_iter().chain([manager]).collect(), ..Default::default() }
}

/// A filter chain that passes bytes on.
pub fn tcp_chain(name: &str, first: Vec<Filter>, proxy: &TcpProxy) -> FilterChain {
    let proxy = filter("envoy.filters.network.tcp_proxy", proxy);
    FilterChain { name: name.into(), filters: first.into_iter().chain([proxy]).collect(), ..Default::default() }
}

/// Passes bytes on to a cluster.
pub fn tcp_proxy(cluster: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: cluster.into(),
        cluster_specifier: Some(TcpCluster::Cluster(cluster.into())),
        ..Default::default()
    }
}

/// Makes gRPC of what browsers send instead.
/// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/grpc_web_filter>
pub fn grpc_web() -> HttpFilter {
    http_filter("envoy.filters.http.grpc_web", &GrpcWeb {})
}

/// Keeps requests at endpoints, where routes say how.
pub fn stateful_session() -> HttpFilter {
    http_filter(session::FILTER, &StatefulSession::default())
}

/// Looks up the host of each request.
pub fn dynamic_forward_proxy(cache: DnsCacheConfig) -> HttpFilter {
    let config = DynamicForwardProxy {
        implementation_specifier: Some(ImplementationSpecifier::DnsCacheConfig(cache)),
        ..Default::default()
    };
    http_filter("envoy.filters.http.dynamic_forward_proxy", &config)
}

/// The chain for traffic to workloads' own addresses that is HTTP.
pub const DIRECT_HTTP: &str = "direct-http";
/// The chain for traffic to workloads' own addresses that is something else.
pub const DIRECT_TCP: &str = "direct-tcp";

/// The chains for traffic to workloads' own addresses.
pub fn direct_chains(
    manager: &HttpConnectionManager,
    network_filters: Vec<Filter>,
    proxy: &TcpProxy,
) -> [FilterChain; 2] {
    // The destination is handed on to `connect_originate`.
    let first = || noted_again(&[LOCAL_IP], Capabilities::STOCK);
    [
        tcp_chain(DIRECT_TCP, std::iter::once(first()).chain(network_filters).collect(), proxy),
        http_chain(DIRECT_HTTP, vec![first()], manager),
    ]
}

#[cfg(test)]
mod tests;

/// Whether a text can be what clients of TLS are told apart by: a name, all
/// that end like it after a leading `*.`, or `*`. Envoy refuses the whole
/// listener for a wildcard elsewhere.
/// <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/listener/v3/listener_components.proto#config-listener-v3-filterchainmatch>
pub fn is_server_name(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    name == "*" || !(matches!(rest, "" | ".") || rest.contains('*'))
}
