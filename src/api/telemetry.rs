//! Telemetry: what proxies log, count and trace.
//! <https://istio.io/latest/docs/reference/config/telemetry/>

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::duration::duration;
use super::intern::interned;
use super::istio::{PolicySelector, PolicyTargetRef};
use super::meta::{Meta, nullable};
use super::unknown::{Unknown, keeps_unknown_below};

/// What proxies log, count and trace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct Telemetry {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// What was asked for.
    #[serde(deserialize_with = "nullable")]
    pub spec: TelemetrySpec,
    /// Paths of fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// `telemetry.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TelemetrySpec {
    /// The workloads it is for.
    pub selector: Option<PolicySelector>,
    /// What it is attached to, in the older singular form.
    pub target_ref: Option<PolicyTargetRef>,
    /// What it is attached to.
    #[serde(deserialize_with = "nullable")]
    pub target_refs: Box<[PolicyTargetRef]>,
    /// Traces.
    #[serde(deserialize_with = "nullable")]
    pub tracing: Box<[Tracing]>,
    /// Metrics.
    #[serde(deserialize_with = "nullable")]
    pub metrics: Box<[Metrics]>,
    /// Access logs.
    #[serde(deserialize_with = "nullable")]
    pub access_logging: Box<[AccessLogging]>,
}

/// The name of a provider of the mesh configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ProviderRef {
    /// The name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
}

/// Whether a workload is looked at as a client or as a server.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ModeSelector {
    /// `CLIENT_AND_SERVER` (also when empty), `CLIENT` or `SERVER`.
    #[serde(deserialize_with = "interned")]
    pub mode: Arc<str>,
}

/// What is logged of requests and connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AccessLogging {
    /// When it applies.
    #[serde(rename = "match", deserialize_with = "nullable")]
    pub matches: ModeSelector,
    /// Where it is logged; the parent's providers if there are none.
    #[serde(deserialize_with = "nullable")]
    pub providers: Box<[ProviderRef]>,
    /// Whether nothing is.
    pub disabled: Option<bool>,
    /// What is.
    pub filter: Option<LogFilter>,
}

/// A condition for what is logged.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LogFilter {
    /// An expression of CEL.
    #[serde(deserialize_with = "nullable")]
    pub expression: Arc<str>,
}

/// What is counted.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metrics {
    /// Who counts; the parent's providers if there are none.
    #[serde(deserialize_with = "nullable")]
    pub providers: Box<[ProviderRef]>,
    /// Changes of single metrics, in order.
    #[serde(deserialize_with = "nullable")]
    pub overrides: Box<[MetricsOverride]>,
    /// How often an open TCP connection is counted.
    #[serde(deserialize_with = "duration")]
    pub reporting_interval: Option<Duration>,
}

/// Changes a metric, or all.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsOverride {
    /// The metric.
    #[serde(rename = "match", deserialize_with = "nullable")]
    pub matches: MetricSelector,
    /// Whether it is not counted.
    pub disabled: Option<bool>,
    /// Changes of its labels.
    #[serde(deserialize_with = "nullable")]
    pub tag_overrides: BTreeMap<Arc<str>, TagOverride>,
}

/// A metric.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricSelector {
    /// One of Istio's, such as `REQUEST_COUNT`; all, or when empty,
    /// `ALL_METRICS`.
    #[serde(deserialize_with = "interned")]
    pub metric: Arc<str>,
    /// Another one.
    #[serde(deserialize_with = "nullable")]
    pub custom_metric: Arc<str>,
    /// As in [`ModeSelector`].
    #[serde(deserialize_with = "interned")]
    pub mode: Arc<str>,
}

/// Changes a label of a metric.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TagOverride {
    /// `UPSERT` (also when empty) or `REMOVE`.
    #[serde(deserialize_with = "interned")]
    pub operation: Arc<str>,
    /// The expression of its value.
    #[serde(deserialize_with = "nullable")]
    pub value: Arc<str>,
}

/// What is traced.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// When it applies.
    #[serde(rename = "match", deserialize_with = "nullable")]
    pub matches: ModeSelector,
    /// Where spans go, of which the first counts; the parent's providers if
    /// there are none.
    #[serde(deserialize_with = "nullable")]
    pub providers: Box<[ProviderRef]>,
    /// How many of a hundred requests are traced that nobody decided about.
    pub random_sampling_percentage: Option<f64>,
    /// Whether no spans are sent.
    pub disable_span_reporting: Option<bool>,
    /// Tags of spans. They take the place of the parent's.
    pub custom_tags: Option<BTreeMap<Arc<str>, CustomTag>>,
    /// Whether the request's id says if it is traced.
    pub use_request_id_for_trace_sampling: Option<bool>,
    /// Whether spans have Istio's tags.
    pub enable_istio_tags: Option<bool>,
    /// Whether the next hop is not told of the trace.
    pub disable_context_propagation: Option<bool>,
}

/// A tag of spans: one of these.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CustomTag {
    /// A text.
    pub literal: Option<Literal>,
    /// A variable of the proxy's environment.
    pub environment: Option<Named>,
    /// A header of the request.
    pub header: Option<Named>,
    /// A format as in access logs.
    pub formatter: Option<Literal>,
}

/// A text.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Literal {
    /// The text.
    #[serde(deserialize_with = "nullable")]
    pub value: Arc<str>,
}

/// Something that has a value by its name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Named {
    /// The name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The value where there is none.
    #[serde(deserialize_with = "nullable")]
    pub default_value: Arc<str>,
}
keeps_unknown_below!(Telemetry);
