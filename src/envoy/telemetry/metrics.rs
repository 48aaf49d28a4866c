//! Metrics: which are counted, with which labels. For Istio's proxies this is
//! the configuration of their own filter, `istio.stats`.
//! <https://istio.io/latest/docs/reference/config/metrics/>
//!
//! Overrides are applied in order, each on top of those before it: the order of
//! the objects, then that in the object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use fairway_proto::stats::{MetricConfig, PluginConfig, Reporter};

use crate::api::extension_provider::Provider;
use crate::api::telemetry::{MetricsOverride, Telemetry as Object};
use crate::envoy::encode::duration;
use crate::envoy::listener::{filter, http_filter};
use crate::graph::Diagnostic;
use crate::model::problem;

use super::{Request, Side, cel, names, provider, say};

/// Istio's metrics: the name in the API, and what Prometheus calls it after
/// `istio_`.
pub(super) const METRICS: [(&str, &str); 10] = [
    ("REQUEST_COUNT", "requests_total"),
    ("REQUEST_DURATION", "request_duration_milliseconds"),
    ("REQUEST_SIZE", "request_bytes"),
    ("RESPONSE_SIZE", "response_bytes"),
    ("TCP_OPENED_CONNECTIONS", "tcp_connections_opened_total"),
    ("TCP_CLOSED_CONNECTIONS", "tcp_connections_closed_total"),
    ("TCP_SENT_BYTES", "tcp_sent_bytes_total"),
    ("TCP_RECEIVED_BYTES", "tcp_received_bytes_total"),
    ("GRPC_REQUEST_MESSAGES", "request_messages_total"),
    ("GRPC_RESPONSE_MESSAGES", "response_messages_total"),
];

/// What one provider counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Metrics {
    /// Changes by Prometheus' name.
    changes: BTreeMap<Arc<str>, Change>,
    /// How often an open TCP connection is counted.
    interval: Option<Duration>,
}

/// What is changed about a metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Change {
    disabled: bool,
    /// The expressions of labels; `None` for a label that is taken away.
    pub(super) labels: BTreeMap<Arc<str>, Option<Arc<str>>>,
}

impl Metrics {
    /// What is changed about a metric, unless it is not counted.
    pub(super) fn counted(&self, name: &str) -> Option<Option<&Change>> {
        match self.changes.get(name) {
            Some(Change { disabled: true, .. }) => None,
            change => Some(change),
        }
    }

    fn config(&self, side: Side) -> Option<PluginConfig> {
        if METRICS.iter().all(|(_, name)| self.counted(name).is_none()) {
            return None;
        }
        let metrics = self.changes.iter().filter(|(_, change)| **change != Change::default());
        let metrics = metrics.map(|(name, change)| {
            let labels = change.labels.iter();
            let set = labels.clone().filter_map(|(name, value)| Some((name.to_string(), value.as_ref()?.to_string())));
            let removed = labels.filter(|(_, value)| value.is_none()).map(|(name, _)| name.to_string());
            MetricConfig {
                dimensions: set.collect(),
                name: name.to_string(),
                tags_to_remove: removed.collect(),
                drop: change.disabled,
            }
        });
        Some(PluginConfig {
            // What a client calls a service must not become one.
            disable_host_header_fallback: true,
            tcp_reporting_duration: self.interval.and_then(duration),
            metrics: metrics.collect(),
            reporter: match side {
                Side::Client => Reporter::Unspecified,
                Side::Server => Reporter::ServerGateway,
            }
            .into(),
            ..Default::default()
        })
    }

    /// Istio's filter for requests, unless it had nothing to count.
    pub(super) fn http_filter(&self, side: Side) -> Option<HttpFilter> {
        Some(http_filter("istio.stats", &self.config(side)?))
    }

    /// The same for connections.
    pub(super) fn network_filter(&self, side: Side) -> Option<Filter> {
        Some(filter("istio.stats", &self.config(side)?))
    }
}

/// What is counted, for each provider of Prometheus' metrics that is in use.
pub(super) fn metrics(request: &Request<'_>, problems: &mut Vec<Diagnostic>) -> Vec<Metrics> {
    let defaults = &request.mesh.default_providers.metrics[..];
    let entries = request.telemetries.iter().flat_map(|telemetry| {
        let entries = telemetry.spec.metrics.iter().enumerate();
        entries.map(|(at, entry)| (*telemetry, at, entry))
    });
    let entries: Vec<_> = entries.collect();
    // As with access logs, the last who names providers decides.
    let named = entries.iter().rev().map(|(.., entry)| names(&entry.providers)).find(|names| !names.is_empty());
    let scope: BTreeSet<Arc<str>> = named.unwrap_or_else(|| defaults.to_vec()).into_iter().collect();
    let mut counting: BTreeMap<Arc<str>, Metrics> = BTreeMap::new();
    for name in &scope {
        match provider(request.mesh, name).map(|found| &found.provider) {
            Some(Provider::Prometheus) => _ = counting.insert(name.clone(), Metrics::default()),
            Some(_) => {}
            None => {
                let message = format!("there is no provider {name:?}; it counts nothing");
                let by = entries.iter().rev().find(|(.., entry)| names(&entry.providers).contains(name));
                match by {
                    Some((telemetry, at, _)) => {
                        let field = format!("spec.metrics[{at}].providers");
                        say(problems, telemetry, field, "ProviderUnusable", message);
                    }
                    None => {
                        let field = "mesh.defaultProviders.metrics";
                        problems.push(problem("ConfigMap", request.mesh_origin, field, "ProviderUnusable", message));
                    }
                }
            }
        }
    }
    let mut parent = defaults.to_vec();
    for (telemetry, at, entry) in entries {
        if !entry.providers.is_empty() {
            parent = names(&entry.providers);
        }
        // Read once, whoever it is for.
        let overrides = entry.overrides.iter().enumerate();
        let overrides: Vec<_> = overrides
            .filter(|(_, one)| request.side.is_meant(&one.matches.mode))
            .map(|(number, one)| {
                changes(request, telemetry, &format!("spec.metrics[{at}].overrides[{number}]"), one, problems)
            })
            .collect();
        for name in &parent {
            let Some(metrics) = counting.get_mut(name) else { continue };
            metrics.interval = entry.reporting_interval.or(metrics.interval);
            for change in overrides.iter().flatten() {
                change.apply(metrics);
            }
        }
    }
    counting.into_values().collect()
}

/// What one override changes.
struct Override {
    metrics: Vec<Arc<str>>,
    disabled: Option<bool>,
    labels: BTreeMap<Arc<str>, Option<Arc<str>>>,
}

impl Override {
    fn apply(&self, to: &mut Metrics) {
        for name in &self.metrics {
            let change = to.changes.entry(name.clone()).or_default();
            change.disabled = self.disabled.unwrap_or(change.disabled);
            change.labels.extend(self.labels.clone());
        }
    }
}

fn changes(
    request: &Request<'_>,
    telemetry: &Object,
    field: &str,
    given: &MetricsOverride,
    problems: &mut Vec<Diagnostic>,
) -> Option<Override> {
    let selector = &given.matches;
    let metrics = match (&*selector.custom_metric, &*selector.metric) {
        ("", "" | "ALL_METRICS") => METRICS.iter().map(|(_, name)| Arc::from(*name)).collect(),
        ("", metric) => match METRICS.iter().find(|(name, _)| *name == metric) {
            Some((_, name)) => vec![Arc::from(*name)],
            None => {
                let message = format!("{metric:?} is not a metric; the override has no effect");
                say(problems, telemetry, format!("{field}.match.metric"), "UnsupportedValue", message);
                return None;
            }
        },
        (custom, _) => vec![Arc::from(custom)],
    };
    let mut labels = BTreeMap::new();
    for (name, label) in &given.tag_overrides {
        let at = || format!("{field}.tagOverrides[{name}]");
        let mut wrong = |reason, why: String| {
            say(problems, telemetry, at(), reason, format!("{why}; the label stays as it is"));
        };
        match &*label.operation {
            "REMOVE" => _ = labels.insert(name.clone(), None),
            "" | "UPSERT" => match expression(&label.value, request) {
                Ok(()) => _ = labels.insert(name.clone(), Some(label.value.clone())),
                Err(why) => wrong("InvalidValue", why),
            },
            other => wrong("UnsupportedValue", format!("{other:?} is not UPSERT or REMOVE")),
        }
    }
    Some(Override { metrics, disabled: given.disabled, labels })
}

/// Whether a proxy takes the expression of a label.
fn expression(text: &str, request: &Request<'_>) -> Result<(), String> {
    // Other proxies have it in a format, where this is the end.
    if !request.capabilities.istio_stats && text.contains('%') {
        return Err("the proxy cannot take a % in it".into());
    }
    cel::check(text)
}
