//! `DestinationRule`: how connections to a host are made.
//! <https://istio.io/latest/docs/reference/config/networking/destination-rule/>

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::duration::duration;
use super::intern::interned;
use super::istio::PolicySelector;
use super::meta::{Labels, Meta, nullable};
use super::unknown::{Unknown, keeps_unknown, keeps_unknown_below};
use super::virtual_service::PortSelector;

type Texts = Box<[Arc<str>]>;

/// How connections to a host are made.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct DestinationRule {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// The host, its policy and its subsets.
    #[serde(deserialize_with = "nullable")]
    pub spec: DestinationRuleSpec,
    /// Paths of fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// `destinationRule.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationRuleSpec {
    /// The host, possibly a short name or with a leading `*`.
    #[serde(deserialize_with = "nullable")]
    pub host: Arc<str>,
    /// For all traffic to the host.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Parts of the host's endpoints.
    #[serde(deserialize_with = "nullable")]
    pub subsets: Box<[Subset]>,
    /// The namespaces that see it: names, `.` or `*`; none is the mesh's
    /// default.
    #[serde(deserialize_with = "nullable")]
    pub export_to: Texts,
    /// The clients it is for; none is all.
    pub workload_selector: Option<PolicySelector>,
}

/// A part of a host's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct Subset {
    /// The name that routes refer to.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Labels that the endpoints have.
    pub labels: Labels,
    /// What differs from the host's policy.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Fields this version does not know, of which one may be meant for the
    /// labels.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A policy for connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// How endpoints are chosen.
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits and times of connections.
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When an endpoint is taken out.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS of the connections.
    pub tls: Option<ClientTlsSettings>,
    /// Policies of single ports, which replace the four above.
    #[serde(deserialize_with = "nullable")]
    pub port_level_settings: Box<[PortTrafficPolicy]>,
    /// A proxy to go through.
    pub tunnel: Option<TunnelSettings>,
    /// The PROXY protocol header to send.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How many requests may be retries.
    pub retry_budget: Option<RetryBudget>,
}

/// The policy of a port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortTrafficPolicy {
    /// The port of the host.
    pub port: Option<PortSelector>,
    /// How endpoints are chosen.
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits and times of connections.
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When an endpoint is taken out.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS of the connections.
    pub tls: Option<ClientTlsSettings>,
}

/// A proxy to go through.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TunnelSettings {
    /// `CONNECT` (also when empty) or `POST`.
    #[serde(deserialize_with = "interned")]
    pub protocol: Arc<str>,
    /// The host behind the proxy.
    #[serde(deserialize_with = "nullable")]
    pub target_host: Arc<str>,
    /// The port behind the proxy.
    #[serde(deserialize_with = "nullable")]
    pub target_port: u32,
}

/// The PROXY protocol header to send.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ProxyProtocol {
    /// `V1` (also when empty) or `V2`.
    #[serde(deserialize_with = "interned")]
    pub version: Arc<str>,
}

/// How many requests may be retries.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudget {
    /// Retries in percents of the requests; 20 if not given.
    pub percent: Option<f64>,
    /// How many may always be there; 0 is the default of 3.
    #[serde(deserialize_with = "nullable")]
    pub min_retry_concurrency: u32,
    /// The time in which requests are counted.
    #[serde(deserialize_with = "duration")]
    pub budget_interval: Option<Duration>,
}

/// How endpoints are chosen.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerSettings {
    /// `UNSPECIFIED` (also when empty), `LEAST_REQUEST`, `LEAST_CONN`,
    /// `RANDOM`, `ROUND_ROBIN` or `PASSTHROUGH`.
    #[serde(deserialize_with = "interned")]
    pub simple: Arc<str>,
    /// By a hash of the request, instead.
    pub consistent_hash: Option<ConsistentHash>,
    /// Preferences between localities.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// Preferences between zones, by Envoy's own reckoning.
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    /// The time in which a new endpoint gets its full share, the older form.
    #[serde(deserialize_with = "duration")]
    pub warmup_duration_secs: Option<Duration>,
    /// How a new endpoint gets its full share.
    pub warmup: Option<Warmup>,
}

/// How a new endpoint gets its full share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Warmup {
    /// The time it takes.
    #[serde(deserialize_with = "duration")]
    pub duration: Option<Duration>,
    /// The share at the start, in percents; 10 if not given.
    pub minimum_percent: Option<f64>,
    /// The form of the curve; 1 if not given, which is a line.
    pub aggression: Option<f64>,
}

/// Equal requests go to the same endpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "RawConsistentHash")]
pub struct ConsistentHash {
    /// What makes requests equal.
    pub key: Option<HashKey>,
    /// How endpoints are found by hash.
    pub algorithm: Option<HashAlgorithm>,
    /// The least size of the ring, the older form; 0 is not set.
    pub minimum_ring_size: u64,
}

/// What makes requests equal.
#[derive(Clone, Debug, PartialEq)]
pub enum HashKey {
    /// The value of this header.
    HeaderName(Arc<str>),
    /// The value of this cookie.
    Cookie(HttpCookie),
    /// The client's address.
    SourceIp(bool),
    /// The value of this query parameter.
    QueryParameterName(Arc<str>),
}

/// How endpoints are found by hash.
#[derive(Clone, Debug, PartialEq)]
pub enum HashAlgorithm {
    /// A ring of at least this size; 0 is the default.
    RingHash(u64),
    /// A table of this size; 0 is the default.
    Maglev(u64),
}

/// A cookie that is hashed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpCookie {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Its path.
    #[serde(deserialize_with = "nullable")]
    pub path: Arc<str>,
    /// Its lifetime; with one, Envoy makes the cookie.
    #[serde(deserialize_with = "duration")]
    pub ttl: Option<Duration>,
    /// Further attributes.
    #[serde(deserialize_with = "nullable")]
    pub attributes: Box<[CookieAttribute]>,
}

/// An attribute of a cookie.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CookieAttribute {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Its value.
    #[serde(deserialize_with = "nullable")]
    pub value: Arc<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawConsistentHash {
    http_header_name: Option<Arc<str>>,
    http_cookie: Option<HttpCookie>,
    use_source_ip: Option<bool>,
    http_query_parameter_name: Option<Arc<str>>,
    ring_hash: Option<RawRingHash>,
    maglev: Option<RawMaglev>,
    #[serde(deserialize_with = "nullable")]
    minimum_ring_size: u64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRingHash {
    #[serde(deserialize_with = "nullable")]
    minimum_ring_size: u64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMaglev {
    #[serde(deserialize_with = "nullable")]
    table_size: u64,
}

impl From<RawConsistentHash> for ConsistentHash {
    fn from(raw: RawConsistentHash) -> Self {
        // Of fields that exclude each other, API servers admit one.
        let header = raw.http_header_name.map(HashKey::HeaderName);
        let cookie = raw.http_cookie.map(HashKey::Cookie);
        let source_ip = raw.use_source_ip.map(HashKey::SourceIp);
        let parameter = raw.http_query_parameter_name.map(HashKey::QueryParameterName);
        let ring_hash = raw.ring_hash.map(|ring| HashAlgorithm::RingHash(ring.minimum_ring_size));
        let maglev = raw.maglev.map(|maglev| HashAlgorithm::Maglev(maglev.table_size));
        Self {
            key: header.or(cookie).or(source_ip).or(parameter),
            algorithm: ring_hash.or(maglev),
            minimum_ring_size: raw.minimum_ring_size,
        }
    }
}

/// Preferences between localities.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityLbSetting {
    /// Shares of traffic by locality.
    #[serde(deserialize_with = "nullable")]
    pub distribute: Box<[Distribute]>,
    /// Regions that stand in for others.
    #[serde(deserialize_with = "nullable")]
    pub failover: Box<[Failover]>,
    /// Labels, the more of which are equal the better, as `key` or `key=value`.
    #[serde(deserialize_with = "nullable")]
    pub failover_priority: Texts,
    /// Whether there are preferences; the mesh's setting if not given.
    pub enabled: Option<bool>,
}

/// Shares of traffic from a locality.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Distribute {
    /// The locality of clients, as `region/zone/subzone`, with `*` at the end.
    #[serde(deserialize_with = "nullable")]
    pub from: Arc<str>,
    /// Shares by locality, 100 together.
    #[serde(deserialize_with = "nullable")]
    pub to: BTreeMap<Arc<str>, u32>,
}

/// A region that stands in for another.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Failover {
    /// The region without endpoints.
    #[serde(deserialize_with = "nullable")]
    pub from: Arc<str>,
    /// The region instead.
    #[serde(deserialize_with = "nullable")]
    pub to: Arc<str>,
}

/// Preferences between zones.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneAwareLbSetting {
    /// Whether there are preferences.
    pub enabled: Option<bool>,
    /// Regions that stand in for others.
    #[serde(deserialize_with = "nullable")]
    pub failover: Box<[Failover]>,
    /// Labels, the more of which are equal the better.
    #[serde(deserialize_with = "nullable")]
    pub failover_priority: Texts,
    /// How many endpoints it takes.
    pub min_cluster_size: Option<u64>,
}

/// Limits and times of connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConnectionPoolSettings {
    /// Of connections.
    pub tcp: Option<TcpSettings>,
    /// Of requests.
    pub http: Option<HttpSettings>,
}

/// Limits and times of connections. A number of 0 is not set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpSettings {
    /// The most connections to the host.
    #[serde(deserialize_with = "nullable")]
    pub max_connections: u32,
    /// The time to connect.
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Option<Duration>,
    /// Probes of idle connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// The longest life of a connection.
    #[serde(deserialize_with = "duration")]
    pub max_connection_duration: Option<Duration>,
    /// The time after which a connection without traffic is closed.
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Option<Duration>,
}

/// Probes of idle connections. What is not set is the system's default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TcpKeepalive {
    /// How many go unanswered before the connection is dead.
    #[serde(deserialize_with = "nullable")]
    pub probes: u32,
    /// The idle time before the first one.
    #[serde(deserialize_with = "duration")]
    pub time: Option<Duration>,
    /// The time between them.
    #[serde(deserialize_with = "duration")]
    pub interval: Option<Duration>,
}

/// Limits and times of requests. A number of 0 is not set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpSettings {
    /// The most requests that wait for a connection.
    #[serde(deserialize_with = "nullable")]
    pub http1_max_pending_requests: u32,
    /// The most requests at a time, whatever the protocol.
    #[serde(deserialize_with = "nullable")]
    pub http2_max_requests: u32,
    /// The most requests on a connection.
    #[serde(deserialize_with = "nullable")]
    pub max_requests_per_connection: u32,
    /// The most retries at a time.
    #[serde(deserialize_with = "nullable")]
    pub max_retries: u32,
    /// The time after which a connection without requests is closed.
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Option<Duration>,
    /// `DEFAULT` (also when empty), `DO_NOT_UPGRADE` or `UPGRADE`.
    #[serde(deserialize_with = "interned")]
    pub h2_upgrade_policy: Arc<str>,
    /// Whether the client's protocol is used.
    #[serde(deserialize_with = "nullable")]
    pub use_client_protocol: bool,
    /// The most streams on an HTTP/2 connection.
    #[serde(deserialize_with = "nullable")]
    pub max_concurrent_streams: u32,
    /// Pings of HTTP/2 connections.
    pub http2_keep_alive: Option<ConnectionKeepalive>,
}

/// Pings of HTTP/2 connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConnectionKeepalive {
    /// The time between them.
    #[serde(deserialize_with = "duration")]
    pub interval: Option<Duration>,
    /// The time to answer one.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
}

/// When an endpoint is taken out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Whether failures to connect are counted by themselves.
    #[serde(deserialize_with = "nullable")]
    pub split_external_local_origin_errors: bool,
    /// How many failures to connect in a row.
    pub consecutive_local_origin_failures: Option<u32>,
    /// How many 502, 503 and 504 in a row; 0 is never.
    pub consecutive_gateway_errors: Option<u32>,
    /// How many 5xx in a row; 0 is never.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    /// The time between looks.
    #[serde(deserialize_with = "duration")]
    pub interval: Option<Duration>,
    /// How long an endpoint is out, times how often it was.
    #[serde(deserialize_with = "duration")]
    pub base_ejection_time: Option<Duration>,
    /// The most endpoints that are out, in percents; 0 is not set.
    #[serde(deserialize_with = "nullable")]
    pub max_ejection_percent: u32,
    /// Below this percentage of healthy endpoints all are used.
    #[serde(deserialize_with = "nullable")]
    pub min_health_percent: u32,
    /// Statuses that are errors.
    #[serde(deserialize_with = "nullable")]
    pub outlier_detection_http_error_codes: Box<[u32]>,
}

/// TLS of connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct ClientTlsSettings {
    /// `DISABLE` (also when empty), `SIMPLE`, `MUTUAL` or `ISTIO_MUTUAL`.
    #[serde(deserialize_with = "interned")]
    pub mode: Arc<str>,
    /// A file of the proxy with its certificate.
    #[serde(deserialize_with = "nullable")]
    pub client_certificate: Arc<str>,
    /// A file of the proxy with its key.
    #[serde(deserialize_with = "nullable")]
    pub private_key: Arc<str>,
    /// A file of the proxy with the roots it trusts.
    #[serde(deserialize_with = "nullable")]
    pub ca_certificates: Arc<str>,
    /// A Secret with key, certificate and roots, or a `configmap://` of roots.
    #[serde(deserialize_with = "nullable")]
    pub credential_name: Arc<str>,
    /// Names of which the server's certificate has to have one.
    #[serde(deserialize_with = "nullable")]
    pub subject_alt_names: Texts,
    /// The server name to send.
    #[serde(deserialize_with = "nullable")]
    pub sni: Arc<str>,
    /// Whether the server's certificate is not looked at.
    pub insecure_skip_verify: Option<bool>,
    /// A file of the proxy with revoked certificates.
    #[serde(deserialize_with = "nullable")]
    pub ca_crl: Arc<str>,
    /// Fields this version does not know. A check that was not understood must
    /// not be left out.
    #[serde(skip)]
    pub unknown: Unknown,
}

impl ClientTlsSettings {
    /// Whether the server's certificate is not looked at.
    pub fn insecure(&self) -> bool {
        self.insecure_skip_verify == Some(true)
    }
}

impl Subset {
    /// Whether it is known what is part of it. Without labels that is everything,
    /// which nobody means who has written something else in their place.
    pub fn is_known(&self) -> bool {
        !self.labels.is_empty() || self.unknown.is_empty()
    }
}

keeps_unknown!(Subset, ClientTlsSettings);
keeps_unknown_below!(DestinationRule);
