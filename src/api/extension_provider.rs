//! Extension providers of the mesh configuration: external authorization,
//! access logs, tracing, metrics.
//! <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshConfig-ExtensionProvider>

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::duration::duration;
use super::intern::interned;
use super::meta::nullable;
use super::unknown::{Unknown, keeps_unknown};

type Texts = Box<[Arc<str>]>;

/// A provider that policies and telemetry refer to by name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "RawProvider")]
pub struct ExtensionProvider {
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    pub provider: Provider,
}

/// What a provider is.
#[derive(Clone, Debug, PartialEq)]
pub enum Provider {
    /// Envoy's `ext_authz` over HTTP.
    EnvoyExtAuthzHttp(Box<ExtAuthzHttp>),
    /// Envoy's `ext_authz` over gRPC.
    EnvoyExtAuthzGrpc(Box<ExtAuthzGrpc>),
    /// A file for access logs.
    EnvoyFileAccessLog(FileAccessLog),
    /// Access logs of requests, by Envoy's own protocol.
    EnvoyHttpAls(Box<GrpcAccessLog>),
    /// Access logs of connections, by Envoy's own protocol.
    EnvoyTcpAls(Box<GrpcAccessLog>),
    /// OpenTelemetry's access logs.
    EnvoyOtelAls(OtelAccessLog),
    /// OpenTelemetry's traces.
    OpenTelemetry(Box<OpenTelemetryTracing>),
    /// Zipkin's traces.
    Zipkin(ZipkinTracing),
    /// Datadog's traces.
    Datadog(AgentTracing),
    /// SkyWalking's traces.
    Skywalking(AgentTracing),
    /// Prometheus' metrics, by Istio's own filter.
    Prometheus,
    /// One this version does not know, by the name of its field; empty if
    /// there is none.
    Unknown(Arc<str>),
}

#[derive(Default, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
struct RawProvider {
    #[serde(deserialize_with = "nullable")]
    name: Arc<str>,
    envoy_ext_authz_http: Option<Box<ExtAuthzHttp>>,
    envoy_ext_authz_grpc: Option<Box<ExtAuthzGrpc>>,
    envoy_file_access_log: Option<FileAccessLog>,
    envoy_http_als: Option<Box<GrpcAccessLog>>,
    envoy_tcp_als: Option<Box<GrpcAccessLog>>,
    envoy_otel_als: Option<OtelAccessLog>,
    opentelemetry: Option<Box<OpenTelemetryTracing>>,
    zipkin: Option<ZipkinTracing>,
    datadog: Option<AgentTracing>,
    skywalking: Option<AgentTracing>,
    prometheus: Option<serde::de::IgnoredAny>,
    #[serde(skip)]
    unknown: Unknown,
}

impl From<RawProvider> for ExtensionProvider {
    fn from(raw: RawProvider) -> Self {
        let unknown = raw.unknown.names().next().unwrap_or_default();
        let provider = None
            .or(raw.envoy_ext_authz_http.map(Provider::EnvoyExtAuthzHttp))
            .or(raw.envoy_ext_authz_grpc.map(Provider::EnvoyExtAuthzGrpc))
            .or(raw.envoy_file_access_log.map(Provider::EnvoyFileAccessLog))
            .or(raw.envoy_http_als.map(Provider::EnvoyHttpAls))
            .or(raw.envoy_tcp_als.map(Provider::EnvoyTcpAls))
            .or(raw.envoy_otel_als.map(Provider::EnvoyOtelAls))
            .or(raw.opentelemetry.map(Provider::OpenTelemetry))
            .or(raw.zipkin.map(Provider::Zipkin))
            .or(raw.datadog.map(Provider::Datadog))
            .or(raw.skywalking.map(Provider::Skywalking))
            .or(raw.prometheus.map(|_| Provider::Prometheus))
            .unwrap_or_else(|| Provider::Unknown(unknown.into()));
        Self { name: raw.name, provider }
    }
}

/// `envoyExtAuthzHttp`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct ExtAuthzHttp {
    /// The service that decides, as `[namespace/]hostname`.
    #[serde(deserialize_with = "nullable")]
    pub service: Arc<str>,
    /// Its port.
    #[serde(deserialize_with = "nullable")]
    pub port: u32,
    /// The time it has; 600 s if not given.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// What is put before the path of the check.
    #[serde(deserialize_with = "nullable")]
    pub path_prefix: Arc<str>,
    /// Whether requests pass when the service does not answer.
    #[serde(deserialize_with = "nullable")]
    pub fail_open: bool,
    /// Whether the route is chosen again after the check.
    #[serde(deserialize_with = "nullable")]
    pub clear_route_cache: bool,
    /// The status when the service does not answer; empty is 403.
    #[serde(deserialize_with = "nullable")]
    pub status_on_error: Arc<str>,
    /// Request headers in the check, the older form.
    #[serde(deserialize_with = "nullable")]
    pub include_headers_in_check: Texts,
    /// Request headers in the check.
    #[serde(deserialize_with = "nullable")]
    pub include_request_headers_in_check: Texts,
    /// Headers put into the check.
    #[serde(deserialize_with = "nullable")]
    pub include_additional_headers_in_check: BTreeMap<Arc<str>, Arc<str>>,
    /// The body in the check.
    pub include_request_body_in_check: Option<RequestBody>,
    /// Headers of the answer that go to the service asked for.
    #[serde(deserialize_with = "nullable")]
    pub headers_to_upstream_on_allow: Texts,
    /// Headers of the answer that go to the client when denied.
    #[serde(deserialize_with = "nullable")]
    pub headers_to_downstream_on_deny: Texts,
    /// Headers of the answer that go to the client when allowed.
    #[serde(deserialize_with = "nullable")]
    pub headers_to_downstream_on_allow: Texts,
    /// Fields this version does not know. A check must not become wider because
    /// a part of it was not understood.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// `envoyExtAuthzGrpc`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct ExtAuthzGrpc {
    /// The service that decides, as `[namespace/]hostname`.
    #[serde(deserialize_with = "nullable")]
    pub service: Arc<str>,
    /// Its port.
    #[serde(deserialize_with = "nullable")]
    pub port: u32,
    /// The time it has; 600 s if not given.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Whether requests pass when the service does not answer.
    #[serde(deserialize_with = "nullable")]
    pub fail_open: bool,
    /// Whether the route is chosen again after the check.
    #[serde(deserialize_with = "nullable")]
    pub clear_route_cache: bool,
    /// The status when the service does not answer; empty is 403.
    #[serde(deserialize_with = "nullable")]
    pub status_on_error: Arc<str>,
    /// The body in the check.
    pub include_request_body_in_check: Option<RequestBody>,
    /// Fields this version does not know; see [`ExtAuthzHttp::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// The body in a check.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestBody {
    /// The most bytes.
    #[serde(deserialize_with = "nullable")]
    pub max_request_bytes: u32,
    /// Whether a longer body is cut rather than refused.
    #[serde(deserialize_with = "nullable")]
    pub allow_partial_message: bool,
    /// Whether the body goes as bytes rather than as a text; gRPC only.
    #[serde(deserialize_with = "nullable")]
    pub pack_as_bytes: bool,
}

/// `envoyFileAccessLog`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FileAccessLog {
    /// The path.
    #[serde(deserialize_with = "nullable")]
    pub path: Arc<str>,
    /// The format; Istio's own if not given.
    pub log_format: Option<LogFormat>,
    /// Whether values that are empty are left out.
    #[serde(deserialize_with = "nullable")]
    pub omit_empty_values: bool,
}

/// `envoyHttpAls` and `envoyTcpAls`, which has no headers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcAccessLog {
    /// The service that takes logs, as `[namespace/]hostname`.
    #[serde(deserialize_with = "nullable")]
    pub service: Arc<str>,
    /// Its port.
    #[serde(deserialize_with = "nullable")]
    pub port: u32,
    /// The name of the log; empty is the default.
    #[serde(deserialize_with = "nullable")]
    pub log_name: Arc<str>,
    /// Objects of Envoy's filter state that are logged, instead of who is at
    /// either end.
    #[serde(deserialize_with = "nullable")]
    pub filter_state_objects_to_log: Texts,
    /// Headers of requests that are logged besides.
    #[serde(deserialize_with = "nullable")]
    pub additional_request_headers_to_log: Texts,
    /// Headers of responses that are logged besides.
    #[serde(deserialize_with = "nullable")]
    pub additional_response_headers_to_log: Texts,
    /// Trailers of responses that are logged besides.
    #[serde(deserialize_with = "nullable")]
    pub additional_response_trailers_to_log: Texts,
}

/// `envoyOtelAls`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OtelAccessLog {
    /// The collector, as `[namespace/]hostname`.
    #[serde(deserialize_with = "nullable")]
    pub service: Arc<str>,
    /// Its port.
    #[serde(deserialize_with = "nullable")]
    pub port: u32,
    /// The name of the log; empty is the default.
    #[serde(deserialize_with = "nullable")]
    pub log_name: Arc<str>,
    /// The format; Istio's own if not given.
    pub log_format: Option<LogFormat>,
}

/// The format of a log: a text, labels, or both.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LogFormat {
    /// A line with Envoy's operators.
    pub text: Option<Arc<str>>,
    /// A JSON object with Envoy's operators in its texts, in any order.
    pub labels: Option<serde_json::Map<String, serde_json::Value>>,
}

/// `opentelemetry`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenTelemetryTracing {
    /// The collector, as `[namespace/]hostname`.
    #[serde(deserialize_with = "nullable")]
    pub service: Arc<str>,
    /// Its port.
    #[serde(deserialize_with = "nullable")]
    pub port: u32,
    /// The longest path in a span; 0 is 256.
    #[serde(deserialize_with = "nullable")]
    pub max_tag_length: u32,
    /// Over HTTP rather than gRPC.
    pub http: Option<TracingHttp>,
    /// Over gRPC, with settings.
    pub grpc: Option<TracingGrpc>,
    /// What finds out about the proxy.
    #[serde(deserialize_with = "nullable")]
    pub resource_detectors: ResourceDetectors,
    /// A sampler of Dynatrace.
    pub dynatrace_sampler: Option<DynatraceSampler>,
    /// `ISTIO_CANONICAL` (also when empty) or `OTEL_SEMANTIC_CONVENTIONS`.
    #[serde(deserialize_with = "interned")]
    pub service_attribute_enrichment: Arc<str>,
}

/// How spans are sent over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TracingHttp {
    /// The path.
    #[serde(deserialize_with = "nullable")]
    pub path: Arc<str>,
    /// The time for a request.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Headers.
    #[serde(deserialize_with = "nullable")]
    pub headers: Box<[ProviderHeader]>,
}

/// How spans are sent over gRPC.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TracingGrpc {
    /// The time for a request.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Metadata.
    #[serde(deserialize_with = "nullable")]
    pub initial_metadata: Box<[ProviderHeader]>,
}

/// A header for a provider.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProviderHeader {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Its value.
    #[serde(deserialize_with = "nullable")]
    pub value: Arc<str>,
    /// A variable of the control plane's environment with its value, instead.
    #[serde(deserialize_with = "nullable")]
    pub env_name: Arc<str>,
}

/// What finds out about the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ResourceDetectors {
    /// The environment.
    pub environment: Option<Empty>,
    /// Dynatrace's files.
    pub dynatrace: Option<Empty>,
}

/// A message without fields, or with some this version does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Empty {}

/// A sampler of Dynatrace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DynatraceSampler {
    /// The tenant.
    #[serde(deserialize_with = "nullable")]
    pub tenant: Arc<str>,
    /// The cluster.
    #[serde(deserialize_with = "nullable")]
    pub cluster_id: i32,
    /// Spans a minute; 0 is 1000.
    #[serde(deserialize_with = "nullable")]
    pub root_spans_per_minute: u32,
    /// Where it is configured.
    pub http_service: Option<DynatraceApi>,
}

/// Where a sampler of Dynatrace is configured.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DynatraceApi {
    /// The service, as `[namespace/]hostname`.
    #[serde(deserialize_with = "nullable")]
    pub service: Arc<str>,
    /// Its port.
    #[serde(deserialize_with = "nullable")]
    pub port: u32,
    /// How it is asked.
    pub http: Option<TracingHttp>,
}

/// `datadog` and `skywalking`: an agent, and little to say to it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentTracing {
    /// The agent, as `[namespace/]hostname`.
    #[serde(deserialize_with = "nullable")]
    pub service: Arc<str>,
    /// Its port.
    #[serde(deserialize_with = "nullable")]
    pub port: u32,
    /// The longest path in a span; 0 is 256. Not for SkyWalking.
    #[serde(deserialize_with = "nullable")]
    pub max_tag_length: u32,
    /// What SkyWalking knows us by.
    #[serde(deserialize_with = "nullable")]
    pub access_token: Arc<str>,
}

/// `zipkin`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ZipkinTracing {
    /// The collector, as `[namespace/]hostname`.
    #[serde(deserialize_with = "nullable")]
    pub service: Arc<str>,
    /// Its port.
    #[serde(deserialize_with = "nullable")]
    pub port: u32,
    /// The longest path in a span; 0 is 256.
    #[serde(deserialize_with = "nullable")]
    pub max_tag_length: u32,
    /// Whether trace ids are of 64 bits rather than 128.
    #[serde(rename = "enable64bitTraceId", deserialize_with = "nullable")]
    pub enable_64bit_trace_id: bool,
    /// The path; empty is `/api/v2/spans`.
    #[serde(deserialize_with = "nullable")]
    pub path: Arc<str>,
    /// `USE_B3` (also when empty) or `USE_B3_WITH_W3C_PROPAGATION`.
    #[serde(deserialize_with = "interned")]
    pub trace_context_option: Arc<str>,
    /// The time for a request.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Headers.
    #[serde(deserialize_with = "nullable")]
    pub headers: Box<[ProviderHeader]>,
}

keeps_unknown!(RawProvider, ExtAuthzHttp, ExtAuthzGrpc);
