//! Who the proxy is: the node id and the metadata that the control plane makes
//! its configuration from.
//!
//! The id is `type~ip~pod.namespace~domain`. The keys of the metadata are
//! pilot-agent's; flags are texts there, and lists are joined by commas, so
//! they are here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::proxy_config::ProxyConfig;
use crate::config::agent::AgentEnvironment;

/// What a proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Beside an application.
    Sidecar,
    /// A gateway.
    Router,
    /// A proxy of services in an ambient mesh.
    Waypoint,
}

impl Role {
    /// The role of pilot-agent's arguments: `proxy waypoint`, `waypoint`. A
    /// proxy that does not say what it is, is a sidecar.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        match words.strip_prefix(&["proxy"]).unwrap_or(&words) {
            [] | ["sidecar"] => Ok(Self::Sidecar),
            ["router"] => Ok(Self::Router),
            ["waypoint"] => Ok(Self::Waypoint),
            other => Err(format!("{:?} is not sidecar, router or waypoint", other.join(" "))),
        }
    }

    /// Its name in a node id.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
            Self::Waypoint => "waypoint",
        }
    }
}

/// What the downward API says of the pod.
#[derive(Clone, Debug, Default)]
pub struct PodInfo {
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// The pod's annotations.
    pub annotations: BTreeMap<String, String>,
}

impl PodInfo {
    /// Reads the files `labels` and `annotations` of a folder. Either may be
    /// absent.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let file = |name: &str| match std::fs::read_to_string(folder.join(name)) {
            Ok(text) => downward(&text).map_err(|error| format!("{}: {error}", folder.join(name).display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(format!("cannot read {}: {error}", folder.join(name).display())),
        };
        Ok(Self { labels: file("labels")?, annotations: file("annotations")? })
    }
}

/// Lines of `key="value"`, quoted as Go does.
fn downward(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(key, quoted)| Ok((key.to_string(), unquote(quoted)?))).collect()
}

fn unquote(quoted: &str) -> Result<String, String> {
    let broken = || format!("{quoted} is not a quoted text");
    let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(broken)?;
    let mut value = String::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            value.push(character);
            continue;
        }
        let escape = rest.next().ok_or_else(broken)?;
        let mut code = |digits: usize| {
            let text: String = rest.by_ref().take(digits).collect();
            u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == digits).and_then(char::from_u32)
        };
        value.push(match escape {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'v' => '\x0b',
            'x' => code(2).ok_or_else(broken)?,
            'u' => code(4).ok_or_else(broken)?,
            'U' => code(8).ok_or_else(broken)?,
            other => other,
        });
    }
    Ok(value)
}

/// A proxy's identity on the wire.
#[derive(Clone, Debug)]
pub struct Node {
    /// What the proxy is.
    pub role: Role,
    /// The node id.
    pub id: String,
    /// The cluster of proxies it belongs to.
    pub cluster: String,
    /// Region, zone and sub-zone, as far as they are known.
    pub locality: Map<String, Value>,
    /// What the control plane makes the configuration from.
    pub metadata: Map<String, Value>,
}

/// The ports of a proxy that the control plane must know of.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Where Envoy answers probes.
    pub envoy_status: u16,
    /// Where Envoy answers Prometheus.
    pub envoy_prometheus: u16,
}

/// What else makes a node.
pub struct Facts<'a> {
    /// The environment.
    pub environment: &'a AgentEnvironment,
    /// The proxy's configuration.
    pub proxy_config: &'a ProxyConfig,
    /// The pod.
    pub pod: &'a PodInfo,
    /// Its addresses; the first is part of the id.
    pub instance_ips: &'a [IpAddr],
    /// `--domain`.
    pub domain: Option<&'a str>,
    /// `--serviceCluster`.
    pub service_cluster: Option<&'a str>,
    /// `--outlierLogPath`.
    pub outlier_log_path: Option<&'a str>,
    /// Its ports.
    pub ports: Ports,
}

/// A node, and what is wrong with the variables that describe it.
pub fn node(role: Role, facts: &Facts) -> (Node, Vec<String>) {
    let environment = facts.environment;
    let namespace = &environment.pod_namespace;
    let domain = facts.domain.filter(|domain| !domain.is_empty());
    let domain = domain.map_or_else(|| format!("{namespace}.svc.cluster.local"), ToString::to_string);
    let ip = facts.instance_ips.first().map_or_else(|| "127.0.0.1".to_string(), ToString::to_string);
    let (metadata, problems) = metadata(facts);
    let node = Node {
        role,
        id: format!("{}~{ip}~{}.{namespace}~{domain}", role.name(), environment.pod_name),
        cluster: cluster(facts, &metadata),
        locality: locality(&metadata),
        metadata,
    };
    (node, problems)
}

fn metadata(facts: &Facts) -> (Map<String, Value>, Vec<String>) {
    let Facts { environment, proxy_config, pod, .. } = facts;
    let (mut metadata, mut problems) = (Map::new(), Vec::new());
    let from_proxy = proxy_config.proxy_metadata.iter();
    let from_proxy = from_proxy.filter_map(|(name, value)| Some((name.strip_prefix("ISTIO_META_")?, value)));
    let from_environment = environment.metadata.iter().map(|(name, value)| (name.as_str(), value));
    for (name, value) in from_proxy.chain(from_environment) {
        metadata.insert(name.to_string(), value.as_str().into());
    }
    let (mut labels, mut annotations) = (BTreeMap::new(), BTreeMap::new());
    for (name, text) in &environment.json_metadata {
        let broken = |error: serde_json::Error| format!("ISTIO_METAJSON_{name}: {error}");
        match name.as_str() {
            "LABELS" => match serde_json::from_str(text) {
                Ok(texts) => labels = texts,
                Err(error) => problems.push(broken(error)),
            },
            "ANNOTATIONS" => match serde_json::from_str(text) {
                Ok(texts) => annotations = texts,
                Err(error) => problems.push(broken(error)),
            },
            _ => match serde_json::from_str::<Map<String, Value>>(text) {
                Ok(fields) => metadata.extend(fields),
                Err(error) => problems.push(broken(error)),
            },
        }
    }
    if !labels.is_empty() {
        metadata.insert("STATIC_LABELS".into(), json!(labels));
    }
    // The hash of a ReplicaSet says nothing about the workload.
    labels.extend(pod.labels.clone().into_iter().filter(|(key, _)| key != "pod-template-hash"));
    annotations.extend(pod.annotations.clone());
    if let Some(locality) = labels.get_mut(LOCALITY_LABEL) {
        // Labels cannot have the slashes that localities are written with.
        if !locality.contains('/') {
            *locality = locality.replace('.', "/");
        }
    }
    for (name, texts) in [("LABELS", labels), ("ANNOTATIONS", annotations)] {
        if !texts.is_empty() {
            metadata.insert(name.into(), json!(texts));
        }
    }
    let ips: Vec<_> = facts.instance_ips.iter().map(ToString::to_string).collect();
    let said = [
        ("NAME", json!(environment.pod_name)),
        ("NAMESPACE", json!(environment.pod_namespace)),
        ("SERVICE_ACCOUNT", json!(environment.service_account)),
        ("INSTANCE_IPS", json!(ips.join(","))),
        ("ENVOY_STATUS_PORT", json!(facts.ports.envoy_status)),
        ("ENVOY_PROMETHEUS_PORT", json!(facts.ports.envoy_prometheus)),
        ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", json!(environment.exit_on_zero_connections.to_string())),
        ("PROXY_CONFIG", json!(proxy_config.whole)),
        // Not ISTIO_VERSION: what a control plane may send to an Istio proxy
        // of some version is not what this one understands.
        ("FAIRWAY_VERSION", json!(env!("CARGO_PKG_VERSION"))),
    ];
    metadata.extend(said.map(|(name, value)| (name.to_string(), value)));
    if let Some(path) = facts.outlier_log_path.filter(|path| !path.is_empty()) {
        metadata.insert("OUTLIER_LOG_PATH".into(), path.into());
    }
    (metadata, problems)
}

/// A name given by hand, else one made of what the pod is part of.
fn cluster(facts: &Facts, metadata: &Map<String, Value>) -> String {
    // What istiod's defaults say is as good as nothing.
    let given = [facts.proxy_config.service_cluster.as_str(), facts.service_cluster.unwrap_or_default()];
    if let Some(name) = given.into_iter().find(|name| !name.is_empty() && *name != "istio-proxy") {
        return name.to_string();
    }
    let label = |name: &str| metadata.get("LABELS").and_then(|labels| labels.get(name));
    let workload = label("app").or_else(|| label("app.kubernetes.io/name")).or_else(|| metadata.get("WORKLOAD_NAME"));
    let workload = workload.and_then(Value::as_str).unwrap_or("istio-proxy");
    format!("{workload}.{}", facts.environment.pod_namespace)
}

/// The label that says where a workload is, when its node does not.
const LOCALITY_LABEL: &str = "istio-locality";

fn locality(metadata: &Map<String, Value>) -> Map<String, Value> {
    let label = metadata.get("LABELS").and_then(|labels| labels.get(LOCALITY_LABEL)).and_then(Value::as_str);
    let parts = label.unwrap_or_default().splitn(3, '/').filter(|part| !part.is_empty());
    ["region", "zone", "sub_zone"].into_iter().zip(parts).map(|(name, part)| (name.to_string(), part.into())).collect()
}
