//! What a DestinationRule makes of a cluster.
//! <https://istio.io/latest/docs/reference/config/networking/destination-rule/>

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget as WireBudget;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster, OutlierDetection as WireOutlier, UpstreamConnectionOptions,
};
use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as Common, KeepaliveSettings, RuntimeDouble,
    TcpKeepalive as WireKeepalive, UpstreamHttpProtocolOptions,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::UInt64Value;

use super::http_options;
use crate::api::destination_rule::{
    ConnectionPoolSettings, ConsistentHash, HashAlgorithm, HttpSettings, LoadBalancerSettings, OutlierDetection,
    RetryBudget, TcpKeepalive, TcpSettings, Warmup,
};
use crate::api::mesh::MeshConfig;
use crate::envoy::encode::{duration, uint32};
use crate::model::destination_rule::Policy;
use crate::model::service::Protocol;

/// Sets what a policy says about a cluster. What it leaves open is the mesh's.
/// `upstream` is what TLS wants of HTTP. Returns whether HTTP/2 is spoken in any
/// case.
pub fn apply(
    cluster: &mut Cluster,
    policy: Policy<'_>,
    mesh: &MeshConfig,
    protocol: Protocol,
    upstream: Option<UpstreamHttpProtocolOptions>,
) -> bool {
    let pool = policy.connection_pool.or(mesh.default_traffic_policy.connection_pool.as_ref());
    let http2 = connection_pool(cluster, pool, mesh, protocol, upstream);
    if let Some(settings) = policy.load_balancer {
        load_balancer(cluster, settings);
    }
    let outlier = policy.outlier_detection.or(mesh.default_traffic_policy.outlier_detection.as_ref());
    if let Some(settings) = outlier {
        outlier_detection(cluster, settings);
    }
    if let Some(budget) = policy.retry_budget {
        retry_budget(cluster, budget);
    }
    http2
}

fn connection_pool(
    cluster: &mut Cluster,
    pool: Option<&ConnectionPoolSettings>,
    mesh: &MeshConfig,
    protocol: Protocol,
    tls: Option<UpstreamHttpProtocolOptions>,
) -> bool {
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    let timeout = tcp.and_then(|tcp| tcp.connect_timeout).unwrap_or(mesh.connect_timeout);
    cluster.connect_timeout = duration(timeout);
    let keepalive = tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref()).or(mesh.tcp_keepalive.as_ref());
    if let Some(keepalive) = keepalive {
        let tcp_keepalive = Some(wire_keepalive(keepalive));
        cluster.upstream_connection_options = Some(UpstreamConnectionOptions { tcp_keepalive, ..Default::default() });
    }
    let limits = cluster.circuit_breakers.iter_mut().flat_map(|breakers| &mut breakers.thresholds);
    for limits in limits {
        let set = |limit: &mut Option<_>, to: Option<u32>| {
            if let Some(to) = to.filter(|to| *to > 0) {
                *limit = uint32(to);
            }
        };
        set(&mut limits.max_connections, tcp.map(|tcp| tcp.max_connections));
        set(&mut limits.max_pending_requests, http.map(|http| http.http1_max_pending_requests));
        set(&mut limits.max_requests, http.map(|http| http.http2_max_requests));
        set(&mut limits.max_retries, http.map(|http| http.max_retries));
    }
    let common = common_options(tcp, http);
    let upstream = upstream_protocol(http, mesh, protocol);
    // Bytes that are passed on have no host that could be looked at.
    let tls = tls.filter(|_| !matches!(protocol, Protocol::Tcp | Protocol::Tls));
    if common.is_none() && upstream.is_none() && tls.is_none() {
        return false;
    }
    // Envoy wants to be told a protocol once it is told anything.
    let upstream = upstream.unwrap_or_else(|| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())),
        })
    });
    let http2 = matches!(
        &upstream,
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(_)),
        })
    );
    cluster.typed_extension_protocol_options = http_options(&HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_http_protocol_options: tls,
        upstream_protocol_options: Some(upstream),
        ..Default::default()
    });
    http2
}

fn wire_keepalive(keepalive: &TcpKeepalive) -> WireKeepalive {
    let seconds =
        |time: Option<Duration>| time.and_then(|time| uint32(u32::try_from(time.as_secs()).unwrap_or(u32::MAX)));
    WireKeepalive {
        keepalive_probes: if keepalive.probes > 0 { uint32(keepalive.probes) } else { None },
        keepalive_time: seconds(keepalive.time),
        keepalive_interval: seconds(keepalive.interval),
    }
}

fn common_options(tcp: Option<&TcpSettings>, http: Option<&HttpSettings>) -> Option<Common> {
    let idle = http.and_then(|http| http.idle_timeout).or_else(|| tcp.and_then(|tcp| tcp.idle_timeout));
    let requests = http.map(|http| http.max_requests_per_connection).filter(|requests| *requests > 0);
    let life = tcp.and_then(|tcp| tcp.max_connection_duration);
    (idle.is_some() || requests.is_some() || life.is_some()).then(|| Common {
        idle_timeout: idle.and_then(duration),
        max_requests_per_connection: requests.and_then(uint32),
        max_connection_duration: life.and_then(duration),
        ..Default::default()
    })
}

/// How HTTP is spoken to endpoints: as the rule says, as the port declares, or
/// as the client did.
fn upstream_protocol(
    http: Option<&HttpSettings>,
    mesh: &MeshConfig,
    protocol: Protocol,
) -> Option<UpstreamProtocolOptions> {
    let downstream = |h2: Http2ProtocolOptions| {
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions::default()),
            http2_protocol_options: Some(h2),
            ..Default::default()
        })
    };
    let h2 = Http2ProtocolOptions {
        max_concurrent_streams: http.map(|http| http.max_concurrent_streams).filter(|most| *most > 0).and_then(uint32),
        connection_keepalive: http.and_then(|http| http.http2_keep_alive.as_ref()).map(|keepalive| KeepaliveSettings {
            interval: keepalive.interval.and_then(duration),
            timeout: keepalive.timeout.and_then(duration),
            ..Default::default()
        }),
        ..Default::default()
    };
    if http.is_some_and(|http| http.use_client_protocol) {
        return Some(downstream(h2));
    }
    let is_http = matches!(protocol, Protocol::Http11 | Protocol::Http2 | Protocol::Grpc);
    let upgrade = match http.map_or("", |http| &*http.h2_upgrade_policy) {
        "UPGRADE" => true,
        "DO_NOT_UPGRADE" => false,
        _ => is_http && &*mesh.h2_upgrade_policy == "UPGRADE",
    };
    match protocol {
        Protocol::Http2 | Protocol::Grpc => {}
        _ if upgrade => {}
        Protocol::Unknown => return Some(downstream(h2)),
        Protocol::Http11 | Protocol::Tcp | Protocol::Tls => return None,
    }
    let protocol_config = Some(ProtocolConfig::Http2ProtocolOptions(h2));
    Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config }))
}

fn load_balancer(cluster: &mut Cluster, settings: &LoadBalancerSettings) {
    if let Some(hash) = &settings.consistent_hash {
        return consistent_hash(cluster, hash);
    }
    let slow_start = slow_start(settings);
    match &*settings.simple {
        "ROUND_ROBIN" => {
            cluster.lb_policy = LbPolicy::RoundRobin.into();
            cluster.lb_config = slow_start
                .map(|slow| LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config: Some(slow) }));
        }
        "RANDOM" => cluster.lb_policy = LbPolicy::Random.into(),
        // That is how endpoints are found.
        "PASSTHROUGH" => {}
        _ => {
            cluster.lb_config = slow_start.map(|slow| {
                LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                    slow_start_config: Some(slow),
                    ..Default::default()
                })
            });
        }
    }
}

fn slow_start(settings: &LoadBalancerSettings) -> Option<SlowStartConfig> {
    if let Some(Warmup { duration: Some(window), minimum_percent, aggression }) = &settings.warmup {
        let aggression = RuntimeDouble { default_value: aggression.unwrap_or(1.0), runtime_key: "(".into() };
        return Some(SlowStartConfig {
            slow_start_window: duration(*window),
            aggression: Some(aggression),
            min_weight_percent: Some(Percent { value: minimum_percent.unwrap_or(10.0) }),
        });
    }
    let window = settings.warmup_duration_secs?;
    Some(SlowStartConfig { slow_start_window: duration(window), ..Default::default() })
}

fn consistent_hash(cluster: &mut Cluster, hash: &ConsistentHash) {
    let size = |value: u64| Some(UInt64Value { value });
    let ring = |smallest: u64| {
        let minimum_ring_size = size(if smallest == 0 { 1024 } else { smallest });
        LbConfig::RingHashLbConfig(RingHashLbConfig { minimum_ring_size, ..Default::default() })
    };
    let (policy, config) = match &hash.algorithm {
        Some(HashAlgorithm::Maglev(table)) => {
            let table_size = if *table == 0 { None } else { size(*table) };
            (LbPolicy::Maglev, LbConfig::MaglevLbConfig(MaglevLbConfig { table_size }))
        }
        Some(HashAlgorithm::RingHash(smallest)) => (LbPolicy::RingHash, ring(*smallest)),
        None => (LbPolicy::RingHash, ring(hash.minimum_ring_size)),
    };
    (cluster.lb_policy, cluster.lb_config) = (policy.into(), Some(config));
}

fn outlier_detection(cluster: &mut Cluster, settings: &OutlierDetection) {
    let always = |count: Option<u32>| count.and_then(|count| uint32(if count > 0 { 100 } else { 0 }));
    let errors = |count: Option<u32>| count.filter(|count| *count > 0).and_then(uint32);
    let mut outlier = WireOutlier {
        // Istio has no setting for it.
        enforcing_success_rate: uint32(0),
        consecutive_5xx: errors(settings.consecutive_5xx_errors),
        enforcing_consecutive_5xx: always(settings.consecutive_5xx_errors),
        consecutive_gateway_failure: errors(settings.consecutive_gateway_errors),
        enforcing_consecutive_gateway_failure: always(settings.consecutive_gateway_errors),
        interval: settings.interval.and_then(duration),
        base_ejection_time: settings.base_ejection_time.and_then(duration),
        ..Default::default()
    };
    if settings.max_ejection_percent > 0 {
        outlier.max_ejection_percent = uint32(settings.max_ejection_percent);
    }
    if settings.split_external_local_origin_errors {
        outlier.split_external_local_origin_errors = true;
        outlier.consecutive_local_origin_failure = errors(settings.consecutive_local_origin_failures);
        outlier.enforcing_consecutive_local_origin_failure = always(settings.consecutive_local_origin_failures);
        outlier.enforcing_local_origin_success_rate = uint32(0);
    }
    cluster.outlier_detection = Some(outlier);
    // Endpoints that are out stay out, however few are left, unless asked for.
    let threshold = f64::from(settings.min_health_percent);
    cluster.common_lb_config.get_or_insert_default().healthy_panic_threshold = Some(Percent { value: threshold });
}

fn retry_budget(cluster: &mut Cluster, budget: &RetryBudget) {
    let wire = WireBudget {
        budget_percent: Some(Percent { value: budget.percent.unwrap_or(20.0) }),
        min_retry_concurrency: uint32(if budget.min_retry_concurrency > 0 { budget.min_retry_concurrency } else { 3 }),
        budget_interval: budget.budget_interval.and_then(duration),
    };
    for limits in cluster.circuit_breakers.iter_mut().flat_map(|breakers| &mut breakers.thresholds) {
        limits.retry_budget = Some(wire);
    }
}
