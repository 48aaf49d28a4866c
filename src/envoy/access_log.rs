//! Access logs, as the mesh configuration asks for them.
//! <https://istio.io/latest/docs/tasks/observability/logs/access-log/>

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{DataSource, SubstitutionFormatString};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use super::encode::any;
use crate::api::mesh::MeshConfig;

/// The fields of a line of Istio's default format, in order, with the names
/// they have in JSON. Tools parse them.
const FIELDS: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("route_name", "%ROUTE_NAME%"),
];

/// Fields that stand in quotes in a line of text.
const QUOTED: &[&str] =
    &["upstream_transport_failure_reason", "x_forwarded_for", "user_agent", "request_id", "authority", "upstream_host"];

/// The access logs of the mesh; none unless `accessLogFile` is set.
pub fn access_logs(mesh: &MeshConfig) -> Vec<AccessLog> {
    if mesh.access_log_file.is_empty() {
        return Vec::new();
    }
    let format = match &*mesh.access_log_encoding {
        "JSON" => json(&mesh.access_log_format),
        _ if mesh.access_log_format.is_empty() => text(&default_line()),
        _ => text(&mesh.access_log_format),
    };
    let log = FileAccessLog {
        path: mesh.access_log_file.to_string(),
        access_log_format: Some(AccessLogFormat::LogFormat(format)),
    };
    vec![AccessLog {
        name: "envoy.access_loggers.file".into(),
        config_type: Some(ConfigType::TypedConfig(any(&log))),
        ..Default::default()
    }]
}

/// Istio's default line.
fn default_line() -> String {
    let mut line = String::new();
    for (name, operator) in FIELDS {
        line += &match *name {
            "start_time" => format!("[{operator}] "),
            "method" => format!("\"{operator} "),
            "protocol" => format!("{operator}\" "),
            "route_name" => format!("{operator}\n"),
            name if QUOTED.contains(&name) => format!("\"{operator}\" "),
            _ => format!("{operator} "),
        };
    }
    line
}

fn text(line: &str) -> SubstitutionFormatString {
    let source = DataSource { specifier: Some(Specifier::InlineString(line.into())), ..Default::default() };
    SubstitutionFormatString { format: Some(Format::TextFormatSource(source)), ..Default::default() }
}

/// A line of JSON: as given, an object of texts, or Istio's default.
fn json(format: &str) -> SubstitutionFormatString {
    let given: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(format).ok();
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let fields = match given {
        Some(given) => given
            .into_iter()
            .map(|(name, operator)| {
                let operator = operator.as_str().map_or_else(|| operator.to_string(), str::to_owned);
                (name, value(&operator))
            })
            .collect(),
        None => FIELDS.iter().map(|(name, operator)| ((*name).to_owned(), value(operator))).collect(),
    };
    SubstitutionFormatString { format: Some(Format::JsonFormat(Struct { fields })), ..Default::default() }
}
