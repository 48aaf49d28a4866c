//! Metrics for Envoys that are not Istio's: an access logger of Envoy that
//! counts, with Istio's names and those of Istio's labels that such a proxy
//! can tell, and which route and which cluster it was.
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/access_loggers/stats/v3/stats.proto>
//!
//! What a client can choose freely is no label, so that nobody can fill the
//! proxy's memory with them; a Telemetry can add such labels, as in Istio.

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
use envoy_types::pb::envoy::extensions::access_loggers::stats::v3::Config;
use envoy_types::pb::envoy::extensions::access_loggers::stats::v3::config::histogram::Unit;
use envoy_types::pb::envoy::extensions::access_loggers::stats::v3::config::{Counter, Histogram, Stat, Tag};
use envoy_types::pb::envoy::r#type::v3::Scope as StatsScope;
use envoy_types::pb::google::protobuf::UInt64Value;

use crate::envoy::encode::any;
use crate::model::service::Service;

use super::metrics::{Change, Metrics};
use super::{Destination, Side, Traffic};

/// How a metric is counted.
enum Value {
    /// One for each.
    One,
    /// The sum of a value.
    Sum(&'static str),
    /// How a value is distributed.
    Distribution(Unit, &'static str),
}

/// For requests. Each is a description of some six hundred bytes in the listener
/// for each port of a service, so the sizes of requests and responses, of which
/// Envoy has totals by cluster, are not among them.
const HTTP: [(&str, Value); 2] = [
    ("requests_total", Value::One),
    ("request_duration_milliseconds", Value::Distribution(Unit::Milliseconds, "%DURATION%")),
];

/// For connections, when they end.
const TCP: [(&str, Value); 3] = [
    ("tcp_connections_closed_total", Value::One),
    ("tcp_sent_bytes_total", Value::Sum("%BYTES_SENT%")),
    ("tcp_received_bytes_total", Value::Sum("%BYTES_RECEIVED%")),
];

/// The logger that counts, unless there is nothing to count.
pub(super) fn access_log(metrics: &Metrics, side: Side, destination: Destination<'_>) -> Option<AccessLog> {
    let table: &[(&str, Value)] = match destination.traffic {
        Traffic::Http | Traffic::Grpc => &HTTP,
        Traffic::Tcp => &TCP,
    };
    let stats_scope = Some(StatsScope { prefix: "istio".into(), ..Default::default() });
    let mut config = Config { stats_scope, ..Default::default() };
    for (name, value) in table {
        let Some(change) = metrics.counted(name) else { continue };
        let stat = Some(Stat { name: (*name).into(), tags: tags(change, side, destination) });
        match value {
            Value::One => {
                let value_fixed = Some(UInt64Value { value: 1 });
                config.counters.push(Counter { stat, value_fixed, ..Default::default() });
            }
            Value::Sum(format) => {
                config.counters.push(Counter { stat, value_format: (*format).into(), ..Default::default() });
            }
            Value::Distribution(unit, format) => {
                config.histograms.push(Histogram { stat, unit: (*unit).into(), value_format: (*format).into() });
            }
        }
    }
    if config.counters.is_empty() && config.histograms.is_empty() {
        return None;
    }
    Some(AccessLog {
        name: "envoy.access_loggers.stats".into(),
        config_type: Some(ConfigType::TypedConfig(any(&config))),
        ..Default::default()
    })
}

fn tags(change: Option<&Change>, side: Side, Destination { service, traffic }: Destination<'_>) -> Vec<Tag> {
    let own = |of: fn(&Service) -> &str| service.map_or("unknown".to_owned(), |service| literal(of(service)));
    let request = match traffic {
        Traffic::Http => "http",
        Traffic::Grpc => "grpc",
        Traffic::Tcp => "tcp",
    };
    // Behind a waypoint's tunnel the certificate is another hop's.
    let (reporter, security, principal) = match side {
        Side::Client => ("source", "unknown", "%DOWNSTREAM_PEER_URI_SAN%"),
        Side::Server => ("waypoint", "mutual_tls", "%FILTER_STATE(io.istio.peer_principal:PLAIN)%"),
    };
    let mut tags = vec![
        ("connection_security_policy", security.to_owned()),
        ("destination_service", own(|service| &service.key.hostname)),
        ("destination_service_name", own(|service| &service.meta.name)),
        ("destination_service_namespace", own(|service| &service.key.namespace)),
        ("reporter", reporter.to_owned()),
        ("request_protocol", request.to_owned()),
        ("response_flags", "%RESPONSE_FLAGS%".to_owned()),
        ("source_principal", principal.to_owned()),
        ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%".to_owned()),
    ];
    if traffic != Traffic::Tcp {
        tags.push(("response_code", "%RESPONSE_CODE%".to_owned()));
        tags.push(("route_name", "%ROUTE_NAME%".to_owned()));
    }
    if traffic == Traffic::Grpc {
        tags.push(("grpc_response_status", "%GRPC_STATUS_NUMBER%".to_owned()));
    }
    let mut tags: Vec<_> = tags.into_iter().map(|(name, format)| (name.to_owned(), format)).collect();
    for (name, expression) in change.into_iter().flat_map(|change| &change.labels) {
        tags.retain(|(other, _)| **other != **name);
        if let Some(expression) = expression {
            tags.push((name.to_string(), format!("%CEL({expression})%")));
        }
    }
    tags.sort();
    tags.into_iter().map(|(name, value_format)| Tag { name, value_format, rules: None }).collect()
}

/// A text in a format.
fn literal(text: &str) -> String {
    text.replace('%', "%%")
}
