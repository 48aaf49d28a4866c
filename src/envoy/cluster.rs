//! `Cluster`: where an Envoy can send traffic, and how.

pub mod discovery;
pub mod policy;
pub mod transport;

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, LbConfig, LbPolicy, OriginalDstLbConfig, TransportSocketMatch,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::core::v3::{
    HealthStatus, HealthStatusSet, Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as Common,
    TransportSocket,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use envoy_types::pb::envoy::r#type::metadata::v3::MetadataKey;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::{PathSegment, path_segment};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value};

use super::encode::{any, duration, uint32};
use super::endpoint::locality::Preference;
use super::endpoint::{CONNECT_ORIGINATE, Reach, fields, filter_metadata, internal};
use super::name;
use super::tls::{self, ORIGINAL_DST};
use crate::api::ObjectKey;
use crate::api::mesh::MeshConfig;
use crate::model::destination_rule::Rule;
use crate::model::service::{Protocol, Service};
use crate::proxy::scope::Families;
use discovery::Discovery;
use transport::Transport;

/// The internal listener behind `connect_terminate`, where a waypoint tells
/// services apart.
pub const MAIN_INTERNAL: &str = "main_internal";
/// The cluster that opens HBONE to the address a connection was for.
pub const ENCAP: &str = "encap";
/// The port of HBONE.
const HBONE_PORT: u32 = 15008;

/// Limits of Envoy that nobody asked for, hence lifted; remaining resources are
/// shown.
pub fn unlimited() -> CircuitBreakers {
    let thresholds = Thresholds {
        max_connections: uint32(u32::MAX),
        max_pending_requests: uint32(u32::MAX),
        max_requests: uint32(u32::MAX),
        max_retries: uint32(u32::MAX),
        track_remaining: true,
        ..Default::default()
    };
    CircuitBreakers { thresholds: vec![thresholds], per_host_thresholds: Vec::new() }
}

/// Settings of HTTP for the connections of a cluster.
pub fn http_options(options: &HttpProtocolOptions) -> HashMap<String, Any> {
    HashMap::from([("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), any(options))])
}

/// A cluster with what all have.
fn base(name: String) -> Cluster {
    Cluster { alt_stat_name: name::statistics(&name), name, circuit_breakers: Some(unlimited()), ..Default::default() }
}

/// A cluster that leads to an internal listener of the same proxy.
pub fn to_internal_listener(cluster: &str, listener: &str) -> Cluster {
    let both = UseDownstreamHttpConfig {
        http_protocol_options: Some(Http1ProtocolOptions::default()),
        http2_protocol_options: Some(Http2ProtocolOptions::default()),
        ..Default::default()
    };
    let endpoint = Endpoint { address: Some(internal(listener, "")), ..Default::default() };
    let endpoint = LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() };
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: cluster.into(),
            endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
            ..Default::default()
        }),
        transport_socket: Some(tls::internal(&[], tls::raw_buffer())),
        typed_extension_protocol_options: http_options(&HttpProtocolOptions {
            common_http_protocol_options: Some(Common {
                idle_timeout: duration(Duration::from_secs(300)),
                ..Default::default()
            }),
            upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(both)),
            ..Default::default()
        }),
        ..base(cluster.into())
    }
}

/// What opens HBONE connections: to the host of the address that the
/// connection is for, or to its waypoint where the endpoint names one.
pub fn connect_originate(trust_domains: &[&str], connect_timeout: Duration, idle_timeout: Duration) -> Cluster {
    let waypoint = PathSegment { segment: Some(path_segment::Segment::Key("waypoint".into())) };
    let h2 = Http2ProtocolOptions { allow_connect: true, ..Default::default() };
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into())),
        lb_policy: LbPolicy::ClusterProvided.into(),
        lb_config: Some(LbConfig::OriginalDstLbConfig(OriginalDstLbConfig {
            upstream_port_override: uint32(HBONE_PORT),
            metadata_key: Some(MetadataKey { key: ORIGINAL_DST.into(), path: vec![waypoint] }),
            ..Default::default()
        })),
        connect_timeout: duration(connect_timeout),
        cleanup_interval: duration(Duration::from_secs(60)),
        transport_socket: Some(tls::upstream_hbone(trust_domains)),
        typed_extension_protocol_options: http_options(&HttpProtocolOptions {
            common_http_protocol_options: Some(Common { idle_timeout: duration(idle_timeout), ..Default::default() }),
            upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(h2)),
            })),
            ..Default::default()
        }),
        ..base(CONNECT_ORIGINATE.into())
    }
}

/// A port of a service, or a subset of it, as a proxy reaches it.
pub struct Upstream<'a> {
    /// The name of the cluster.
    pub name: String,
    /// The service.
    pub service: &'a Service,
    /// What connections are like.
    pub rule: &'a Rule,
    /// The port of the service.
    pub port: u16,
    /// The subset; empty for the whole service.
    pub subset: &'a str,
    /// The protocol of the connections.
    pub protocol: Protocol,
    /// What is spoken on them.
    pub transport: Transport<'a>,
    /// How endpoints are found.
    pub discovery: Discovery,
    /// Those that are in the cluster.
    pub endpoints: Vec<LocalityLbEndpoints>,
    /// Which endpoints are preferred.
    pub preference: Preference<'a>,
    /// The address families of the proxy.
    pub families: Families,
    /// How it reaches workloads.
    pub reach: Reach,
    /// The identities of the workloads behind the service, which those that take
    /// mutual TLS have to have one of.
    pub identities: &'a [String],
}

/// A port of a service that a waypoint serves or refers to, or a subset of it.
pub fn upstream(upstream: Upstream<'_>, mesh: &MeshConfig) -> Cluster {
    let Upstream { name, service, rule, port, subset, protocol, transport, discovery, .. } = upstream;
    let mut cluster = Cluster {
        lb_policy: LbPolicy::LeastRequest.into(),
        // An endpoint that is not ready gets nothing, however few are. Envoy's
        // own rule is to use all when less than half are healthy.
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ..Default::default()
        }),
        metadata: Some(filter_metadata([("istio", metadata(service, rule, subset))])),
        ..base(name)
    };
    let http2 = policy::apply(&mut cluster, rule.policy(port, subset), mesh, protocol, transport.http());
    if discovery.balances() && upstream.preference.weighted() {
        let weighted = LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {});
        cluster.common_lb_config.get_or_insert_default().locality_config_specifier = Some(weighted);
    }
    if service.keeps_sessions() {
        use HealthStatus::{Degraded, Draining, Healthy, Unknown};
        let statuses = [Healthy, Draining, Unknown, Degraded].map(i32::from).to_vec();
        // Of an endpoint that drains, sessions that have begun go on.
        cluster.common_lb_config.get_or_insert_default().override_host_status = Some(HealthStatusSet { statuses });
    }
    let insecure = transport.insecure();
    discovery.apply(&mut cluster, service, upstream.endpoints, mesh, upstream.families, insecure);
    let inner = transport.socket(mesh, http2);
    let mutual = match upstream.reach {
        Reach::Tunnel => {
            cluster.transport_socket = Some(tunnel(inner));
            return cluster;
        }
        Reach::Sockets { mutual } if discovery.balances() => mutual,
        // No endpoint says which socket is for it.
        Reach::Sockets { .. } | Reach::Passed | Reach::Through(_) => {
            cluster.transport_socket = Some(inner);
            return cluster;
        }
    };
    let own = |name: &str, socket| TransportSocketMatch { name: name.into(), r#match: None, transport_socket: socket };
    let hbone = TransportSocketMatch {
        r#match: Some(fields([("tunnel", "http".to_owned())])),
        ..own("hbone", Some(tunnel(inner.clone())))
    };
    let sni = name::sni(port, subset, &service.key.hostname);
    let mutual = mutual.then(|| TransportSocketMatch {
        r#match: Some(fields([("tlsMode", "istio".to_owned())])),
        ..own("tlsMode-istio", Some(tls::upstream_mutual(&sni, upstream.identities, http2)))
    });
    let rest = TransportSocketMatch {
        r#match: Some(Struct::default()),
        ..own(if transport.is_plain() { "tlsMode-disabled" } else { "user" }, Some(inner))
    };
    cluster.transport_socket_matches = std::iter::once(hbone).chain(mutual).chain([rest]).collect();
    cluster
}

/// Leads to the internal listener that opens HBONE, with what it needs to know
/// of the endpoint. Connections to other endpoints pass through it.
fn tunnel(inner: TransportSocket) -> TransportSocket {
    tls::internal(&[ORIGINAL_DST, "istio"], inner)
}

/// What `istio` in a cluster's metadata says: the services, which telemetry
/// names destinations by, and the rule and subset, which tools show.
fn metadata(service: &Service, rule: &Rule, subset: &str) -> Struct {
    let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
    let mut metadata = services(service);
    if let Some(ObjectKey { namespace, name }) = &rule.origin {
        let path = format!("/apis/networking.istio.io/v1/namespaces/{namespace}/destination-rule/{name}");
        metadata.fields.insert("config".into(), text(path));
    }
    if !subset.is_empty() {
        metadata.fields.insert("subset".into(), text(subset.into()));
    }
    metadata
}

/// `istio.services` of a cluster's metadata, which telemetry names
/// destinations by.
fn services(service: &Service) -> Struct {
    let one = fields([
        ("host", service.key.hostname.to_string()),
        ("name", service.meta.name.to_string()),
        ("namespace", service.key.namespace.to_string()),
    ]);
    let list = ListValue { values: vec![Value { kind: Some(Kind::StructValue(one)) }] };
    Struct { fields: HashMap::from([("services".to_owned(), Value { kind: Some(Kind::ListValue(list)) })]) }
}
