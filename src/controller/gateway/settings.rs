//! What of the mesh's installation goes into a proxy's pod: our own settings,
//! the values that Istio's installer keeps beside its templates, and the mesh
//! configuration.

use serde_json::{Map, Value, json};

/// What the process is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The revision; Gateways of another one are not ours.
    pub revision: String,
    /// The namespace of the control plane.
    pub system_namespace: String,
    /// The suffix of service hostnames.
    pub domain: String,
    /// The cluster's id.
    pub cluster: String,
    /// The ConfigMap with root certificates.
    pub root_config_map: String,
    /// The image of proxies, if the environment says so; beats all others.
    pub proxy_image: Option<String>,
    /// The image of proxies if nothing else says which.
    pub default_image: String,
    /// Whether `Programmed` means what it does for istiod: that there is an
    /// address.
    pub programmed_by_address: bool,
}

/// What the installation says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Installation {
    /// The `values` of the ConfigMap `istio-sidecar-injector`.
    pub values: Value,
    /// The `mesh` of the ConfigMap `istio`.
    pub mesh: Value,
}

impl Installation {
    /// Reads the ConfigMap of the installer's values. What cannot be read says
    /// nothing.
    pub fn read_values(&mut self, map: Option<&Value>) {
        let text = map.and_then(|map| map["data"]["values"].as_str());
        self.values = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    }

    /// Reads the ConfigMap of the mesh configuration.
    pub fn read_mesh(&mut self, map: Option<&Value>) {
        let text = map.and_then(|map| map["data"]["mesh"].as_str());
        self.mesh = text.and_then(|text| crate::api::yaml(text).ok()).unwrap_or_default();
    }

    /// A value below `global`.
    pub fn global(&self, path: &[&str]) -> &Value {
        path.iter().fold(&self.values["global"], |value, part| &value[part])
    }

    /// A text below `global`; empty counts as not set.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        self.global(path).as_str().filter(|text| !text.is_empty())
    }

    /// A setting of the waypoints' pods, if there is something in it.
    pub fn of_waypoints(&self, name: &str) -> Option<Value> {
        filled(self.global(&["waypoint", name]))
    }

    /// The image of proxies.
    pub fn image(&self, settings: &Settings) -> String {
        if let Some(image) = &settings.proxy_image {
            return image.clone();
        }
        let name = self.text(&["proxy", "image"]).unwrap_or("proxyv2");
        if name.contains('/') {
            return name.to_owned();
        }
        let tag = match self.global(&["tag"]) {
            Value::String(tag) if !tag.is_empty() => tag.clone(),
            Value::Number(tag) => tag.to_string(),
            _ => return settings.default_image.clone(),
        };
        let Some(hub) = self.text(&["hub"]) else { return settings.default_image.clone() };
        match self.text(&["variant"]) {
            Some(variant) if !tag.ends_with(variant) => format!("{hub}/{name}:{tag}-{variant}"),
            _ => format!("{hub}/{name}:{tag}"),
        }
    }

    /// The trust domain, if it is said.
    pub fn trust_domain(&self) -> Option<&str> {
        let said = self.mesh["trustDomain"].as_str().filter(|text| !text.is_empty());
        said.or_else(|| self.text(&["trustDomain"]))
    }

    /// The host and port that proxies find us at.
    pub fn discovery_address(&self, settings: &Settings) -> String {
        let said = self.mesh["defaultConfig"]["discoveryAddress"].as_str();
        said.map_or_else(|| own_address(settings), ToOwned::to_owned)
    }

    /// The host and port where certificates are signed.
    pub fn ca_address(&self, settings: &Settings) -> String {
        self.text(&["caAddress"]).map_or_else(|| own_address(settings), ToOwned::to_owned)
    }

    /// The configuration that the proxy's agent reads.
    pub fn proxy_config(&self, settings: &Settings) -> Value {
        let mut config = self.mesh["defaultConfig"].as_object().cloned().unwrap_or_default();
        config.insert("discoveryAddress".into(), json!(self.discovery_address(settings)));
        // A stable order: the text is compared.
        let mut keys: Vec<_> = config.into_iter().collect();
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        Value::Object(keys.into_iter().collect())
    }
}

/// A value that is not empty.
pub fn filled(value: &Value) -> Option<Value> {
    let filled = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    filled.then(|| without_nulls(value))
}

fn own_address(settings: &Settings) -> String {
    let revision = match settings.revision.as_str() {
        "" | "default" => String::new(),
        revision => format!("-{revision}"),
    };
    format!("istiod{revision}.{}.svc:15012", settings.system_namespace)
}

/// Values that a user has taken away are `null` in Helm.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect::<Map<_, _>>())
        }
        Value::Array(list) => Value::Array(list.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}
