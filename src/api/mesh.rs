//! `MeshConfig`, a YAML text inside a ConfigMap. It is decoded with the
//! ConfigMap, so one that is broken is treated like any object that does not
//! decode: the last good one stays in force, and the field is reported.
//! <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/>

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::gateway::LabelSelector;
use super::meta::nullable;

/// What is read of `MeshConfig`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    /// The trust domain of every identity.
    pub trust_domain: Arc<str>,
    /// Trust domains that mean the same.
    #[serde(deserialize_with = "nullable")]
    pub trust_domain_aliases: Vec<Arc<str>>,
    /// The namespace whose policies apply to the whole mesh.
    pub root_namespace: Arc<str>,
    /// The namespaces that are looked at; empty is all.
    #[serde(deserialize_with = "nullable")]
    pub discovery_selectors: Vec<LabelSelector>,
    /// What proxies are told.
    #[serde(deserialize_with = "nullable")]
    pub default_config: ProxyConfig,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            root_namespace: "istio-system".into(),
            discovery_selectors: Vec::new(),
            default_config: ProxyConfig::default(),
        }
    }
}

/// What is read of `ProxyConfig`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    /// Where proxies find the control plane, as `host:port`.
    #[serde(deserialize_with = "nullable")]
    pub discovery_address: Arc<str>,
}

impl MeshConfig {
    /// Reads a mesh configuration from YAML.
    pub fn from_yaml(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let config: Self = super::yaml(text).map_err(|error| error.to_string())?;
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
        for domain in [&config.trust_domain].into_iter().chain(&config.trust_domain_aliases) {
            if domain.is_empty() || !domain.bytes().all(allowed) {
                return Err(format!("trustDomain: {domain:?} is not made of a-z, 0-9, '.', '-', '_'"));
            }
        }
        Ok(config)
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
}

fn embedded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<MeshConfig>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    MeshConfig::from_yaml(&text).map(|config| Some(Arc::new(config))).map_err(serde::de::Error::custom)
}
