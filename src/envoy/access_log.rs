//! Access logs: where lines go, what is in them, and what of it is logged.
//! <https://istio.io/latest/docs/tasks/observability/logs/access-log/>

#[cfg(test)]
mod tests;

use std::sync::Arc;

use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::comparison_filter::Op;
use envoy_types::pb::envoy::config::accesslog::v3::extension_filter::ConfigType as FilterConfig;
use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, AndFilter, ComparisonFilter, ExtensionFilter, ResponseFlagFilter, StatusCodeFilter,
};
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, DataSource, GrpcService, RuntimeUInt32, SubstitutionFormatString, TypedExtensionConfig,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use envoy_types::pb::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, NullValue, Struct, Value};
use envoy_types::pb::opentelemetry::proto::common::v1::any_value::Value as OtelValue;
use envoy_types::pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue, KeyValueList};
use serde_json::Value as Json;

use super::authorization::matcher::is_header_name;
use super::encode::any;
use super::telemetry::Collector;
use crate::api::extension_provider::{self as api, GrpcAccessLog, LogFormat, OtelAccessLog};
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

/// What of connections and requests is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Connections that no filter chain is for.
    NoRoute,
    /// Connections that could not be passed on.
    UpstreamFailure,
    /// Requests that are answered with an error.
    Errors,
}

/// The filter of an access log, if it has any.
pub fn filter(only: &[Only], expression: Option<&str>) -> Option<AccessLogFilter> {
    let of = |specifier| AccessLogFilter { filter_specifier: Some(specifier) };
    let flag = |flag: &str| of(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter { flags: vec![flag.into()] }));
    let expression = expression.map(|expression| {
        let config = ExpressionFilter { expression: expression.into(), ..Default::default() };
        of(FilterSpecifier::ExtensionFilter(ExtensionFilter {
            name: "envoy.access_loggers.extension_filters.cel".into(),
            config_type: Some(FilterConfig::TypedConfig(any(&config))),
        }))
    });
    let only = only.iter().map(|only| match only {
        Only::NoRoute => flag("NR"),
        Only::UpstreamFailure => flag("UF"),
        Only::Errors => {
            // The key is required, and nobody sets it.
            let least = RuntimeUInt32 { default_value: 400, runtime_key: "istio.io/unset".into() };
            let comparison = ComparisonFilter { op: Op::Ge.into(), value: Some(least) };
            of(FilterSpecifier::StatusCodeFilter(StatusCodeFilter { comparison: Some(comparison) }))
        }
    });
    let mut filters: Vec<_> = only.chain(expression).collect();
    match filters.len() {
        0 | 1 => filters.pop(),
        _ => Some(of(FilterSpecifier::AndFilter(AndFilter { filters }))),
    }
}

/// A file in the format of the mesh configuration; if that is none, in Istio's.
pub fn of_mesh(path: &str, mesh: &MeshConfig) -> AccessLog {
    let default = |_| match &*mesh.access_log_encoding {
        "JSON" => json(default_fields()),
        _ => text_format(default_line()),
    };
    to_file(path, mesh_format(mesh).unwrap_or_else(default))
}

/// The format of the mesh configuration.
pub fn mesh_format(mesh: &MeshConfig) -> Result<SubstitutionFormatString, String> {
    let given = &*mesh.access_log_format;
    match &*mesh.access_log_encoding {
        "JSON" if given.is_empty() => Ok(json(default_fields())),
        "JSON" => {
            let fields = serde_json::from_str(given).map_err(|_| "it is not an object of JSON")?;
            labels(&fields).map(json)
        }
        _ => text(given),
    }
}

/// The path of a provider's file.
pub fn path(provider: &api::FileAccessLog) -> &str {
    if provider.path.is_empty() { "/dev/stdout" } else { &provider.path }
}

/// A provider's file.
pub fn file(provider: &api::FileAccessLog) -> Result<AccessLog, String> {
    let format = match &provider.log_format {
        Some(LogFormat { labels: Some(given), .. }) if !given.is_empty() => json(labels(given)?),
        Some(LogFormat { labels: Some(_), .. }) => json(default_fields()),
        Some(LogFormat { text: given, labels: None }) => text(given.as_deref().unwrap_or_default())?,
        None => text("")?,
    };
    let format = SubstitutionFormatString { omit_empty_values: provider.omit_empty_values, ..format };
    Ok(to_file(path(provider), format))
}

fn to_file(path: &str, format: SubstitutionFormatString) -> AccessLog {
    let log = FileAccessLog { path: path.into(), access_log_format: Some(AccessLogFormat::LogFormat(format)) };
    AccessLog {
        name: "envoy.access_loggers.file".into(),
        config_type: Some(ConfigType::TypedConfig(any(&log))),
        ..Default::default()
    }
}

/// Logs of requests, sent to a collector by Envoy's own protocol.
/// <https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/accesslog/v3/als.proto>
pub fn http_grpc(provider: &GrpcAccessLog, collector: &Collector) -> Result<AccessLog, String> {
    let headers = |given: &[Arc<str>]| match given.iter().find(|name| !is_header_name(name)) {
        Some(wrong) => Err(format!("{wrong:?} is not the name of a header")),
        None => Ok(given.iter().map(ToString::to_string).collect()),
    };
    let config = HttpGrpcAccessLogConfig {
        common_config: Some(grpc(provider, collector, "http_envoy_accesslog")),
        additional_request_headers_to_log: headers(&provider.additional_request_headers_to_log)?,
        additional_response_headers_to_log: headers(&provider.additional_response_headers_to_log)?,
        additional_response_trailers_to_log: headers(&provider.additional_response_trailers_to_log)?,
    };
    Ok(AccessLog {
        name: "envoy.http_grpc_access_log".into(),
        config_type: Some(ConfigType::TypedConfig(any(&config))),
        ..Default::default()
    })
}

/// The same of connections.
pub fn tcp_grpc(provider: &GrpcAccessLog, collector: &Collector) -> AccessLog {
    let config = TcpGrpcAccessLogConfig { common_config: Some(grpc(provider, collector, "tcp_envoy_accesslog")) };
    AccessLog {
        name: "envoy.tcp_grpc_access_log".into(),
        config_type: Some(ConfigType::TypedConfig(any(&config))),
        ..Default::default()
    }
}

fn grpc(provider: &GrpcAccessLog, collector: &Collector, name: &str) -> CommonGrpcAccessLogConfig {
    let given = &provider.filter_state_objects_to_log;
    CommonGrpcAccessLogConfig {
        log_name: if provider.log_name.is_empty() { name.into() } else { provider.log_name.to_string() },
        grpc_service: Some(to_collector(collector)),
        transport_api_version: ApiVersion::V3.into(),
        filter_state_objects_to_log: match given.is_empty() {
            true => PEERS.map(Into::into).to_vec(),
            false => given.iter().map(ToString::to_string).collect(),
        },
        ..Default::default()
    }
}

fn to_collector(collector: &Collector) -> GrpcService {
    let Collector { cluster, hostname } = collector.clone();
    let envoy = EnvoyGrpc { cluster_name: cluster, authority: hostname, ..Default::default() };
    GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() }
}

/// OpenTelemetry's logs, sent to a collector.
pub fn open_telemetry(provider: &OtelAccessLog, collector: &Collector) -> Result<AccessLog, String> {
    let format = provider.log_format.as_ref();
    let body = match format.and_then(|format| format.text.as_deref()).unwrap_or_default() {
        "" => default_line(),
        text => checked(text)?.to_owned(),
    };
    let text = |text: String| AnyValue { value: Some(OtelValue::StringValue(text)) };
    let mut attributes = Vec::new();
    for (name, value) in format.and_then(|format| format.labels.as_ref()).into_iter().flatten() {
        // Attributes are texts; anything else is an empty one in Istio.
        let value = checked(value.as_str().unwrap_or_default())?;
        attributes.push(KeyValue { key: name.clone(), value: Some(text(value.to_owned())), ..Default::default() });
    }
    attributes.sort_by(|a, b| a.key.cmp(&b.key));
    let formats = attributes.iter().filter_map(|attribute| match attribute.value.as_ref()?.value.as_ref()? {
        OtelValue::StringValue(text) => Some(text.as_str()),
        _ => None,
    });
    let formatters = formatters(formats.chain([&*body]));
    let name = if provider.log_name.is_empty() { "otel_envoy_accesslog" } else { &*provider.log_name };
    let config = OpenTelemetryAccessLogConfig {
        grpc_service: Some(to_collector(collector)),
        log_name: name.into(),
        filter_state_objects_to_log: PEERS.map(Into::into).to_vec(),
        disable_builtin_labels: true,
        body: Some(text(body)),
        attributes: (!attributes.is_empty()).then_some(KeyValueList { values: attributes }),
        formatters,
        ..Default::default()
    };
    Ok(AccessLog {
        name: "envoy.access_loggers.open_telemetry".into(),
        config_type: Some(ConfigType::TypedConfig(any(&config))),
        ..Default::default()
    })
}

/// Where Istio's filter leaves who is at either end.
const PEERS: [&str; 2] = ["upstream_peer", "downstream_peer"];

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

/// A line of text: as given, with a line break, or Istio's default.
fn text(given: &str) -> Result<SubstitutionFormatString, String> {
    let line = match checked(given)? {
        "" => default_line(),
        given if given.ends_with('\n') => given.to_owned(),
        given => format!("{given}\n"),
    };
    Ok(text_format(line))
}

fn text_format(line: String) -> SubstitutionFormatString {
    let formatters = formatters([&*line]);
    let source = DataSource { specifier: Some(Specifier::InlineString(line)), ..Default::default() };
    SubstitutionFormatString { format: Some(Format::TextFormatSource(source)), formatters, ..Default::default() }
}

/// A line of JSON.
fn json(fields: Struct) -> SubstitutionFormatString {
    let mut texts = Vec::new();
    fields.fields.values().for_each(|value| all_texts(value, &mut texts));
    let formatters = formatters(texts);
    SubstitutionFormatString { format: Some(Format::JsonFormat(fields)), formatters, ..Default::default() }
}

fn default_fields() -> Struct {
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    Struct { fields: FIELDS.iter().map(|(name, operator)| ((*name).to_owned(), value(operator))).collect() }
}

/// An object of formats, in which there may be others.
fn labels(given: &serde_json::Map<String, Json>) -> Result<Struct, String> {
    let fields = given.iter().map(|(name, value)| Ok((name.clone(), label(value)?)));
    Ok(Struct { fields: fields.collect::<Result<_, String>>()? })
}

fn label(given: &Json) -> Result<Value, String> {
    let kind = match given {
        Json::Null => Kind::NullValue(NullValue::NullValue.into()),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(value) => Kind::StringValue(checked(value)?.to_owned()),
        Json::Array(values) => {
            Kind::ListValue(ListValue { values: values.iter().map(label).collect::<Result<_, _>>()? })
        }
        Json::Object(fields) => Kind::StructValue(labels(fields)?),
    };
    Ok(Value { kind: Some(kind) })
}

fn all_texts<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value.kind.as_ref() {
        Some(Kind::StringValue(text)) => texts.push(text),
        Some(Kind::StructValue(fields)) => fields.fields.values().for_each(|value| all_texts(value, texts)),
        Some(Kind::ListValue(list)) => list.values.iter().for_each(|value| all_texts(value, texts)),
        _ => {}
    }
}

/// The formatters that formats need and that Envoy does not have by itself.
fn formatters<'a>(formats: impl IntoIterator<Item = &'a str>) -> Vec<TypedExtensionConfig> {
    let needed = formats.into_iter().any(|format| format.contains("%REQ_WITHOUT_QUERY"));
    let formatter = TypedExtensionConfig {
        name: "envoy.formatter.req_without_query".into(),
        typed_config: Some(any(&ReqWithoutQuery {})),
    };
    if needed { vec![formatter] } else { Vec::new() }
}

/// A format, if it is one: what is between percent signs has to be an operator,
/// `NAME`, `NAME(…)` or either with `:LENGTH`. Which operators there are is
/// not looked at, as it differs between Envoys.
pub fn checked(format: &str) -> Result<&str, String> {
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('%') {
            rest = after;
            continue;
        }
        let wrong = || {
            let shown: String = rest[at..].chars().take(40).collect();
            format!("there is no operator at {shown:?} in the format")
        };
        let end = after.find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_');
        let (name, mut tail) = after.split_at(end.ok_or_else(wrong)?);
        if name.is_empty() {
            return Err(wrong());
        }
        if let Some(arguments) = tail.strip_prefix('(') {
            let close = arguments.match_indices(')').map(|(close, _)| &arguments[close + 1..]);
            tail = close.into_iter().find(|tail| tail.starts_with(['%', ':'])).ok_or_else(wrong)?;
        }
        if let Some(length) = tail.strip_prefix(':') {
            tail = length.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        rest = tail.strip_prefix('%').ok_or_else(wrong)?;
    }
    Ok(format)
}
