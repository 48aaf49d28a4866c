//! `ProxyConfig`: what a proxy is told before it can be told anything.
//! <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#ProxyConfig>
//!
//! Three places can hold one. A field of a later place replaces that of an
//! earlier, whole, as in pilot-agent: the mesh configuration's `defaultConfig`,
//! the variable `PROXY_CONFIG`, the annotation `proxy.istio.io/config`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::config::duration;

/// What is read of a `ProxyConfig`, and all of it as it was given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    /// Where the control plane is.
    #[serde(deserialize_with = "nullable")]
    pub discovery_address: String,
    /// `NONE` is plaintext.
    #[serde(deserialize_with = "nullable")]
    pub control_plane_auth_policy: Value,
    /// The name of the cluster of proxies this one belongs to.
    #[serde(deserialize_with = "nullable")]
    pub service_cluster: String,
    /// The folder of the bootstrap.
    pub config_path: Option<PathBuf>,
    /// The Envoy to run.
    pub binary_path: Option<PathBuf>,
    /// Worker threads; 0 is one for each core.
    pub concurrency: Option<u32>,
    /// The agent's own port.
    pub status_port: Option<u16>,
    /// The port of Envoy's admin pages.
    pub proxy_admin_port: Option<u16>,
    /// Over which time Envoy's connections are drained.
    #[serde(deserialize_with = "some_duration")]
    pub drain_duration: Option<Duration>,
    /// How long the agent waits between the drain and the end.
    #[serde(deserialize_with = "some_duration")]
    pub termination_drain_duration: Option<Duration>,
    /// How often Envoy's access logs are written.
    #[serde(deserialize_with = "some_duration")]
    pub file_flush_interval: Option<Duration>,
    /// How much of an access log is written at once.
    #[serde(deserialize_with = "nullable")]
    pub file_flush_min_size_kb: u32,
    /// Variables; those that begin with `ISTIO_META_` are metadata.
    #[serde(deserialize_with = "nullable")]
    pub proxy_metadata: BTreeMap<String, String>,
    /// Runtime keys of Envoy; an empty value takes one of ours away.
    #[serde(deserialize_with = "nullable")]
    pub runtime_values: BTreeMap<String, String>,
    /// More statistics to keep.
    #[serde(deserialize_with = "nullable")]
    pub proxy_stats_matcher: StatsMatcher,
    /// More tags to take from the names of statistics.
    #[serde(deserialize_with = "nullable")]
    pub extra_stat_tags: Vec<String>,
    /// Limits of connections.
    #[serde(deserialize_with = "nullable")]
    pub connection_settings: ConnectionSettings,
    /// Everything, which goes to the control plane as metadata.
    #[serde(skip)]
    pub whole: Map<String, Value>,
}

/// Which statistics are kept besides those that are needed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatsMatcher {
    /// Beginnings of names.
    #[serde(deserialize_with = "nullable")]
    pub inclusion_prefixes: Vec<String>,
    /// Ends of names.
    #[serde(deserialize_with = "nullable")]
    pub inclusion_suffixes: Vec<String>,
    /// Regular expressions that whole names match.
    #[serde(deserialize_with = "nullable")]
    pub inclusion_regexps: Vec<String>,
}

/// What is read of `ConnectionSettings`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionSettings {
    /// How many connections all listeners together may have.
    pub global_downstream_connection_limit: Option<u32>,
}

/// Fields that pilot-agent puts into the bootstrap, and have no effect here.
const WITHOUT_EFFECT: &[&str] = &[
    "caCertificatesPem",
    "customConfigFile",
    "envoyAccessLogService",
    "envoyMetricsService",
    "envoyMetricsServiceAddress",
    "privateKeyProvider",
    "proxyBootstrapTemplatePath",
    "readinessProbe",
    "statsdUdpAddress",
    "tracing",
    "zipkinAddress",
];

impl ProxyConfig {
    /// The configuration of some texts of YAML or JSON, each with the name of
    /// its place; later ones replace fields of earlier ones.
    pub fn merged<'a>(places: impl IntoIterator<Item = (&'a str, Value)>) -> Result<Self, String> {
        let mut whole = Map::new();
        for (place, value) in places {
            match value {
                Value::Null => {}
                Value::Object(fields) => whole.extend(fields),
                other => return Err(format!("{place}: {other} is not a ProxyConfig")),
            }
        }
        let config: Result<Self, _> = serde_path_to_error::deserialize(Value::Object(whole.clone()));
        let config = config.map_err(|error| format!("ProxyConfig.{}: {}", error.path(), error.inner()))?;
        Ok(Self { whole, ..config })
    }

    /// Fields that are set and have no effect.
    pub fn without_effect(&self) -> impl Iterator<Item = String> {
        WITHOUT_EFFECT.iter().filter(|name| self.whole.contains_key(**name)).map(|name| format!("ProxyConfig.{name}"))
    }
}

/// A text of YAML or JSON. Nothing is null.
pub fn parse(place: &str, text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str(text).map_err(|error| format!("{place}: {error}"))
}

/// A value for which null is the default, as in protobuf's JSON.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| duration::parse(&text).map_err(serde::de::Error::custom)).transpose()
}
