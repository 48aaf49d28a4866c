//! `MeshConfig`, a YAML text inside a ConfigMap. It is decoded with the
//! ConfigMap, so one that is broken is treated like any object that does not
//! decode: the last good one stays in force, and the field is reported.
//! <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/>

#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::destination_rule::{
    ConnectionPoolSettings, LocalityLbSetting, OutlierDetection, TcpKeepalive, ZoneAwareLbSetting,
};
use super::duration::duration;
use super::extension_provider::{ExtensionProvider, FileAccessLog, Provider};
use super::gateway::LabelSelector;
use super::intern::interned;
use super::meta::nullable;
use super::telemetry::CustomTag;
use super::virtual_service::HttpRetry;

type Texts = Vec<Arc<str>>;

/// What is read of `MeshConfig`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    /// The trust domain of every identity.
    pub trust_domain: Arc<str>,
    /// Trust domains that mean the same.
    #[serde(deserialize_with = "nullable")]
    pub trust_domain_aliases: Texts,
    /// The namespace whose policies apply to the whole mesh.
    pub root_namespace: Arc<str>,
    /// The namespaces that are looked at; empty is all.
    #[serde(deserialize_with = "nullable")]
    pub discovery_selectors: Vec<LabelSelector>,
    /// What proxies are told.
    #[serde(deserialize_with = "nullable")]
    pub default_config: ProxyConfig,
    /// The time Envoys have to connect.
    #[serde(deserialize_with = "ten_seconds")]
    pub connect_timeout: Duration,
    /// The time after which an HBONE connection without streams is closed.
    #[serde(deserialize_with = "duration")]
    pub hbone_idle_timeout: Option<Duration>,
    /// Probes of idle connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// How often names are resolved again that do not say how long they last.
    #[serde(deserialize_with = "duration")]
    pub dns_refresh_rate: Option<Duration>,
    /// What TLS connections begin with that say no more than that.
    #[serde(deserialize_with = "nullable")]
    pub tls_defaults: TlsDefaults,
    /// Where access logs go; empty is nowhere.
    #[serde(deserialize_with = "nullable")]
    pub access_log_file: Arc<str>,
    /// The format of access logs; empty is Istio's own.
    #[serde(deserialize_with = "nullable")]
    pub access_log_format: Arc<str>,
    /// `TEXT` (also when empty) or `JSON`.
    #[serde(deserialize_with = "interned")]
    pub access_log_encoding: Arc<str>,
    /// Whether requests are traced, by the tracer of the bootstrap, where no
    /// provider is said.
    #[serde(deserialize_with = "nullable")]
    pub enable_tracing: bool,
    /// Whether connections that nothing is listening for are not logged.
    #[serde(deserialize_with = "nullable")]
    pub disable_envoy_listener_log: bool,
    /// Whether clients use mTLS where servers do.
    #[serde(deserialize_with = "yes")]
    pub enable_auto_mtls: bool,
    /// `DO_NOT_UPGRADE` (also when empty) or `UPGRADE`.
    #[serde(deserialize_with = "interned")]
    pub h2_upgrade_policy: Arc<str>,
    /// When routes that do not say are tried again.
    pub default_http_retry_policy: Option<HttpRetry>,
    /// What destination rules do not say about connections.
    #[serde(deserialize_with = "nullable")]
    pub default_traffic_policy: DefaultTrafficPolicy,
    /// What becomes of paths before they are matched.
    #[serde(deserialize_with = "nullable")]
    pub path_normalization: PathNormalization,
    /// Preferences between localities.
    #[serde(deserialize_with = "locality_lb_setting")]
    pub locality_lb_setting: LocalityLbSetting,
    /// Preferences between zones.
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    /// Who sees services that do not say; everyone unless given.
    #[serde(deserialize_with = "everyone")]
    pub default_service_export_to: Texts,
    /// Who sees virtual services that do not say.
    #[serde(deserialize_with = "everyone")]
    pub default_virtual_service_export_to: Texts,
    /// Who sees destination rules that do not say.
    #[serde(deserialize_with = "everyone")]
    pub default_destination_rule_export_to: Texts,
    /// Which Ingresses are for the mesh: `OFF`, `DEFAULT` or `STRICT` (also when
    /// empty).
    #[serde(deserialize_with = "interned")]
    pub ingress_controller_mode: Arc<str>,
    /// The class of Ingresses that are for the mesh, as annotations name it.
    #[serde(deserialize_with = "interned")]
    pub ingress_class: Arc<str>,
    /// The Service in front of the proxies that Ingresses are for; empty is
    /// none.
    #[serde(deserialize_with = "interned")]
    pub ingress_service: Arc<str>,
    /// The value of the label `istio` that those proxies have; empty is as the
    /// Service is called.
    #[serde(deserialize_with = "interned")]
    pub ingress_selector: Arc<str>,
    /// Providers by name. Those that every mesh has come first, unless the mesh
    /// has others of their names.
    #[serde(deserialize_with = "extension_providers")]
    pub extension_providers: Vec<ExtensionProvider>,
    /// The providers that are used unless a `Telemetry` says otherwise.
    #[serde(deserialize_with = "nullable")]
    pub default_providers: DefaultProviders,
    /// All that was said, also what is not read.
    #[serde(skip)]
    pub given: Arc<Map<String, Value>>,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            root_namespace: "istio-system".into(),
            discovery_selectors: Vec::new(),
            default_config: ProxyConfig::default(),
            connect_timeout: CONNECT_TIMEOUT,
            hbone_idle_timeout: None,
            tcp_keepalive: None,
            dns_refresh_rate: None,
            tls_defaults: TlsDefaults::default(),
            access_log_file: "".into(),
            access_log_format: "".into(),
            access_log_encoding: "".into(),
            enable_tracing: false,
            disable_envoy_listener_log: false,
            enable_auto_mtls: true,
            h2_upgrade_policy: "".into(),
            default_http_retry_policy: None,
            default_traffic_policy: DefaultTrafficPolicy::default(),
            path_normalization: PathNormalization::default(),
            locality_lb_setting: LocalityLbSetting { enabled: Some(true), ..LocalityLbSetting::default() },
            zone_aware_lb_setting: None,
            default_service_export_to: vec!["*".into()],
            default_virtual_service_export_to: vec!["*".into()],
            default_destination_rule_export_to: vec!["*".into()],
            ingress_controller_mode: "".into(),
            ingress_class: "istio".into(),
            ingress_service: "istio-ingressgateway".into(),
            ingress_selector: "".into(),
            extension_providers: builtin_providers(),
            default_providers: DefaultProviders::default(),
            given: Arc::default(),
        }
    }
}

/// The time Envoys have to connect, if the mesh does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The providers that every mesh has.
fn builtin_providers() -> Vec<ExtensionProvider> {
    let stdout = FileAccessLog { path: "/dev/stdout".into(), ..FileAccessLog::default() };
    let builtin = [
        ("prometheus", Provider::Prometheus),
        ("stackdriver", Provider::Unknown("stackdriver".into())),
        ("envoy", Provider::EnvoyFileAccessLog(stdout)),
    ];
    builtin.map(|(name, provider)| ExtensionProvider { name: name.into(), provider }).into()
}

/// What destination rules do not say about connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultTrafficPolicy {
    /// Limits and times.
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When an endpoint is taken out.
    pub outlier_detection: Option<OutlierDetection>,
}

/// What TLS connections are made with, except those of the mesh itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsDefaults {
    /// Curves, in order of preference; none is the proxy's own list.
    #[serde(deserialize_with = "nullable")]
    pub ecdh_curves: Texts,
    /// Cipher suites, in order of preference; none is the proxy's own list.
    #[serde(deserialize_with = "nullable")]
    pub cipher_suites: Texts,
    /// The least version that servers take: `TLSV1_2` or `TLSV1_3`; anything
    /// else is the proxy's own.
    #[serde(deserialize_with = "interned")]
    pub min_protocol_version: Arc<str>,
}

/// What becomes of paths before they are matched.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PathNormalization {
    /// `DEFAULT` (also when empty), which is `BASE`; `NONE`, `MERGE_SLASHES` or
    /// `DECODE_AND_MERGE_SLASHES`.
    #[serde(deserialize_with = "interned")]
    pub normalization: Arc<str>,
}

/// Names of providers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultProviders {
    /// For traces.
    #[serde(deserialize_with = "nullable")]
    pub tracing: Texts,
    /// For metrics; that of Prometheus unless given, as istiod's chart has it.
    #[serde(deserialize_with = "prometheus")]
    pub metrics: Texts,
    /// For access logs.
    #[serde(deserialize_with = "nullable")]
    pub access_logging: Texts,
}

impl Default for DefaultProviders {
    fn default() -> Self {
        Self { tracing: Vec::new(), metrics: vec!["prometheus".into()], access_logging: Vec::new() }
    }
}

/// What is read of `ProxyConfig`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    /// Where proxies find the control plane, as `host:port`.
    #[serde(deserialize_with = "nullable")]
    pub discovery_address: Arc<str>,
    /// Headers that proxies set or leave out.
    #[serde(deserialize_with = "nullable")]
    pub proxy_headers: ProxyHeaders,
    /// What of traces no `Telemetry` says.
    #[serde(deserialize_with = "nullable")]
    pub tracing: ProxyTracing,
    /// What is in front of gateways.
    #[serde(deserialize_with = "nullable")]
    pub gateway_topology: GatewayTopology,
}

/// What is in front of gateways.
/// <https://istio.io/latest/docs/ops/configuration/traffic-management/network-topologies/>
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayTopology {
    /// How many proxies, each of which adds to `x-forwarded-for`.
    #[serde(deserialize_with = "nullable")]
    pub num_trusted_proxies: u32,
    /// What becomes of `x-forwarded-client-cert`: `UNDEFINED` (also when empty),
    /// which is `SANITIZE_SET`, or as for proxies' headers.
    #[serde(deserialize_with = "interned")]
    pub forward_client_cert_details: Arc<str>,
    /// Whether connections begin with a PROXY header.
    #[serde(deserialize_with = "present")]
    pub proxy_protocol: bool,
}

/// What of traces no `Telemetry` says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyTracing {
    /// How many of a hundred requests are traced; 0 is the default.
    pub sampling: Option<f64>,
    /// Tags of spans.
    #[serde(deserialize_with = "nullable")]
    pub custom_tags: BTreeMap<Arc<str>, CustomTag>,
    /// The longest path in a span; 0 is Envoy's default.
    pub max_path_tag_length: Option<u32>,
    /// Whether spans have Istio's tags.
    pub enable_istio_tags: Option<bool>,
}

/// Headers that proxies set or leave out.
/// <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#ProxyConfig-ProxyHeaders>
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyHeaders {
    /// `x-forwarded-client-cert`: `UNDEFINED` (also when empty), `SANITIZE`,
    /// `FORWARD_ONLY`, `APPEND_FORWARD`, `SANITIZE_SET` or
    /// `ALWAYS_FORWARD_ONLY`.
    #[serde(deserialize_with = "interned")]
    pub forwarded_client_cert: Arc<str>,
    /// What `x-forwarded-client-cert` says.
    pub set_current_client_cert_details: Option<ClientCertDetails>,
    /// `x-request-id`.
    #[serde(deserialize_with = "nullable")]
    pub request_id: Switch,
    /// `server`.
    #[serde(deserialize_with = "nullable")]
    pub server: ServerHeader,
    /// `x-envoy-attempt-count`.
    #[serde(deserialize_with = "nullable")]
    pub attempt_count: Switch,
    /// Headers for debugging Envoy.
    #[serde(deserialize_with = "nullable")]
    pub envoy_debug_headers: Switch,
    /// Headers that tell peers of each other.
    #[serde(deserialize_with = "nullable")]
    pub metadata_exchange_headers: MetadataExchange,
    /// Whether HTTP/1 headers keep their case.
    #[serde(rename = "preserveHttp1HeaderCase")]
    pub preserve_http1_header_case: Option<bool>,
    /// `x-forwarded-host`, where hosts are rewritten.
    #[serde(deserialize_with = "nullable")]
    pub x_forwarded_host: Switch,
    /// `x-forwarded-port`.
    #[serde(deserialize_with = "nullable")]
    pub x_forwarded_port: Switch,
}

/// Whether a header is there. Which of the two is read depends on whether it
/// is there by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(default)]
pub struct Switch {
    /// Whether it is left out.
    pub disabled: Option<bool>,
    /// Whether it is there.
    pub enabled: Option<bool>,
}

/// The header `server`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(default)]
pub struct ServerHeader {
    /// Whether it is passed through.
    pub disabled: Option<bool>,
    /// Its value; empty is the default.
    #[serde(deserialize_with = "nullable")]
    pub value: Arc<str>,
}

/// Headers that tell peers of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(default)]
pub struct MetadataExchange {
    /// `UNDEFINED` (also when empty) or `IN_MESH`.
    #[serde(deserialize_with = "interned")]
    pub mode: Arc<str>,
}

/// What `x-forwarded-client-cert` says of a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(default)]
pub struct ClientCertDetails {
    /// The subject.
    pub subject: Option<bool>,
    /// The certificate.
    pub cert: Option<bool>,
    /// The chain.
    pub chain: Option<bool>,
    /// DNS names.
    pub dns: Option<bool>,
    /// URIs.
    pub uri: Option<bool>,
}

/// Whether a field is there, whatever is in it.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<serde::de::IgnoredAny>::deserialize(deserializer)?.is_some())
}

fn ten_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Ok(duration(deserializer)?.unwrap_or(CONNECT_TIMEOUT))
}

fn yes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(true))
}

fn prometheus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(|| vec!["prometheus".into()]))
}

fn everyone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(|| vec!["*".into()]))
}

/// Preferences between localities are on unless they are turned off.
fn locality_lb_setting<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LocalityLbSetting, D::Error> {
    let setting: LocalityLbSetting = nullable(deserializer)?;
    Ok(LocalityLbSetting { enabled: setting.enabled.or(Some(true)), ..setting })
}

fn extension_providers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ExtensionProvider>, D::Error> {
    let given: Vec<ExtensionProvider> = nullable(deserializer)?;
    let mut providers = builtin_providers();
    for one in given {
        match providers.iter_mut().find(|other| other.name == one.name) {
            Some(other) => *other = one,
            None => providers.push(one),
        }
    }
    Ok(providers)
}

impl MeshConfig {
    /// Reads a mesh configuration from YAML.
    pub fn from_yaml(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut config: Self = super::yaml(text).map_err(|error| error.to_string())?;
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
        for domain in [&config.trust_domain].into_iter().chain(&config.trust_domain_aliases) {
            if domain.is_empty() || !domain.bytes().all(allowed) {
                return Err(format!("trustDomain: {domain:?} is not made of a-z, 0-9, '.', '-', '_'"));
            }
        }
        // What is not a map was empty, or there is no configuration.
        config.given = super::yaml::<Option<_>>(text).ok().flatten().map(Arc::new).unwrap_or_default();
        Ok(config)
    }

    /// The configuration in force in the form that it is written in: what was
    /// said, and the defaults of what is read.
    pub fn effective(&self) -> Value {
        let mut effective = defaults();
        let mut providers = builtin_provider_values();
        if let Some(given) = self.given.get("extensionProviders").and_then(Value::as_array) {
            providers.retain(|builtin| !given.iter().any(|one| one.get("name") == builtin.get("name")));
            providers.extend(given.iter().cloned());
        }
        merge(&mut effective, &self.given);
        effective.insert("extensionProviders".into(), providers.into());
        effective.into()
    }
}

/// [`MeshConfig::default`] as it would be written.
fn defaults() -> Map<String, Value> {
    let defaults = json!({
        "trustDomain": "cluster.local",
        "rootNamespace": "istio-system",
        "connectTimeout": "10s",
        "enableAutoMtls": true,
        "localityLbSetting": {"enabled": true},
        "defaultServiceExportTo": ["*"],
        "defaultVirtualServiceExportTo": ["*"],
        "defaultDestinationRuleExportTo": ["*"],
        "ingressClass": "istio",
        "ingressService": "istio-ingressgateway",
        "defaultProviders": {"metrics": ["prometheus"]},
    });
    match defaults {
        Value::Object(defaults) => defaults,
        _ => Map::new(),
    }
}

/// Those of [`builtin_providers`].
fn builtin_provider_values() -> Vec<Value> {
    vec![
        json!({"name": "prometheus", "prometheus": {}}),
        json!({"name": "stackdriver", "stackdriver": {}}),
        json!({"name": "envoy", "envoyFileAccessLog": {"path": "/dev/stdout"}}),
    ]
}

/// Messages are merged field by field, and lists replaced, as istiod does.
fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (_, Value::Null) => {}
            (Some(Value::Object(into)), Value::Object(from)) => merge(into, from),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

/// What is read of a ConfigMap's data.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConfigMapData {
    /// The mesh configuration.
    #[serde(deserialize_with = "embedded")]
    pub mesh: Option<Arc<MeshConfig>>,
    /// The root certificates that workloads trust.
    #[serde(rename = "root-cert.pem", deserialize_with = "nullable")]
    pub root_cert: Arc<str>,
    /// The certificates of authorities that somebody refers to.
    #[serde(rename = "ca.crt", deserialize_with = "nullable")]
    pub ca: Arc<str>,
    /// What they have revoked.
    #[serde(rename = "ca.crl", deserialize_with = "nullable")]
    pub crl: Arc<str>,
    /// The same as `ca.crt`, in Istio's layout.
    #[serde(rename = "cacert", deserialize_with = "nullable")]
    pub istio_ca: Arc<str>,
    /// The same as `ca.crl`, in Istio's layout.
    #[serde(rename = "crl", deserialize_with = "nullable")]
    pub istio_crl: Arc<str>,
}

fn embedded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<MeshConfig>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    MeshConfig::from_yaml(&text).map(|config| Some(Arc::new(config))).map_err(serde::de::Error::custom)
}
