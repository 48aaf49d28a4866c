//! Everything the agent goes by, made of flags, environment, the proxy's
//! configuration and the pod.
//!
//! A flag beats a variable, which beats the proxy's configuration, which beats
//! the default.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::bootstrap::{self, Bootstrap};
use super::certificate::Identity;
use super::drain::{Drain, Until};
use super::node::{self, Facts, Node, PodInfo, Ports, Role};
use super::process::{Arguments, Envoy};
use super::proxy_config::{self, ProxyConfig};
use super::renewal::Grace;
use super::upstream::{self, Roots, Upstream};
use crate::config::agent::{Agent, AgentEnvironment};

/// Where istiod is, if nobody says.
const DISCOVERY: &str = "istiod.istio-system.svc:15012";

/// The annotation that changes a pod's `ProxyConfig`.
const PROXY_CONFIG_ANNOTATION: &str = "proxy.istio.io/config";

/// Everything the agent goes by.
pub struct Settings {
    /// Who the proxy is.
    pub node: Node,
    /// Where xDS is served.
    pub discovery: Upstream,
    /// Where certificates are issued.
    pub ca: Upstream,
    /// Who the workload is.
    pub identity: Identity,
    /// The lifetime that certificates are asked for.
    pub secret_ttl: Duration,
    /// When they are renewed.
    pub grace: Grace,
    /// Where the agent and Envoy listen.
    pub listen_address: IpAddr,
    /// The port of Envoy's admin pages.
    pub admin_port: u16,
    /// The agent's port.
    pub status_port: u16,
    /// The port for probes.
    pub envoy_status_port: u16,
    /// The port for scrapers.
    pub envoy_prometheus_port: u16,
    /// The folder of the bootstrap.
    pub config_path: PathBuf,
    /// The socket of the secret discovery service.
    pub sds_path: PathBuf,
    /// The socket of the xDS proxy.
    pub xds_path: PathBuf,
    /// How long Envoy may take to end.
    pub kill_after: Duration,
    flags: Agent,
    environment: AgentEnvironment,
    proxy_config: ProxyConfig,
    annotations: BTreeMap<String, String>,
    instance_ips: Vec<IpAddr>,
}

impl Settings {
    /// The settings, and those that have no effect.
    pub fn new(flags: Agent, environment: AgentEnvironment) -> Result<(Self, Vec<String>), String> {
        let role = Role::parse(&flags.role)?;
        let pod = PodInfo::read(&flags.pod_info_path)?;
        let proxy_config = proxy_config(&flags, &environment, &pod)?;
        let mut ignored: Vec<_> = proxy_config.without_effect().collect();

        let given = [flags.discovery_address.as_deref().unwrap_or_default(), &proxy_config.discovery_address];
        let discovery_address = given.into_iter().find(|address| !address.is_empty()).unwrap_or(DISCOVERY).to_string();
        let upstreams = upstreams(&flags, &environment, &proxy_config, &discovery_address, &mut ignored)?;
        let instance_ips = match environment.instance_ips.as_slice() {
            [] => own_address(&discovery_address).into_iter().collect(),
            ips => ips.to_vec(),
        };

        let mut taken = Vec::new();
        let mut port = |flag: Option<u16>, other: u16| free_port(flag.unwrap_or(other), &mut taken);
        let admin_port = port(flags.admin_port, proxy_config.proxy_admin_port.unwrap_or(15000))?;
        let status_port = port(flags.status_port, proxy_config.status_port.unwrap_or(15020))?;
        let envoy_status_port = port(flags.envoy_status_port, environment.envoy_status_port)?;
        let envoy_prometheus_port = port(flags.envoy_prometheus_port, environment.envoy_prometheus_port)?;
        drop(taken);

        let config_path = flags.config_path.clone().or_else(|| proxy_config.config_path.clone());
        let config_path = config_path.unwrap_or_else(|| "/etc/istio/proxy".into());
        let facts = Facts {
            environment: &environment,
            proxy_config: &proxy_config,
            pod: &pod,
            instance_ips: &instance_ips,
            domain: flags.domain.as_deref(),
            service_cluster: flags.service_cluster.as_deref(),
            outlier_log_path: flags.outlier_log_path.as_deref(),
            ports: Ports { envoy_status: envoy_status_port, envoy_prometheus: envoy_prometheus_port },
        };
        let (node, problems) = node::node(role, &facts);
        ignored.extend(problems);
        let settings = Self {
            node,
            discovery: upstreams.0,
            ca: upstreams.1,
            identity: Identity {
                trust_domain: environment.trust_domain.clone(),
                namespace: environment.pod_namespace.clone(),
                service_account: environment.service_account.clone(),
            },
            secret_ttl: environment.secret_ttl,
            grace: Grace { ratio: environment.grace_ratio, jitter: environment.grace_jitter },
            listen_address: flags.listen_address.unwrap_or_else(|| bootstrap::wildcard(&instance_ips)),
            admin_port,
            status_port,
            envoy_status_port,
            envoy_prometheus_port,
            sds_path: flags.sds_path.clone().unwrap_or_else(|| config_path.join("SDS")),
            xds_path: config_path.join("XDS"),
            config_path,
            kill_after: flags.kill_after,
            annotations: pod.annotations,
            flags,
            environment,
            proxy_config,
            instance_ips,
        };
        Ok((settings, ignored))
    }

    /// Envoy's admin pages.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(bootstrap::loopback(&self.instance_ips), self.admin_port)
    }

    /// The bootstrap.
    pub fn bootstrap(&self) -> Value {
        bootstrap::bootstrap(&Bootstrap {
            node: &self.node,
            proxy_config: &self.proxy_config,
            annotations: &self.annotations,
            instance_ips: &self.instance_ips,
            xds_path: &self.xds_path,
            sds_path: &self.sds_path,
            listen_address: self.listen_address,
            metrics_local_only: self.environment.metrics_local_only,
            admin_port: self.admin_port,
            status_port: self.status_port,
            envoy_status_port: self.envoy_status_port,
            envoy_prometheus_port: self.envoy_prometheus_port,
            delta: self.environment.delta_xds || self.node.role == Role::Waypoint,
            log_as_json: self.flags.log_as_json,
            outlier_log_path: self.flags.outlier_log_path.as_deref(),
        })
    }

    /// Writes the bootstrap.
    pub fn write_bootstrap(&self) -> anyhow::Result<PathBuf> {
        let written = bootstrap::write(&self.config_path, &self.bootstrap());
        written.with_context(|| format!("cannot write the bootstrap to {}", self.config_path.display()))
    }

    /// How Envoy is run.
    pub fn envoy(&self, bootstrap: &Path) -> anyhow::Result<Envoy> {
        let config = &self.proxy_config;
        let cores = Some(self.environment.cpu_limit).filter(|limit| *limit > 0);
        let bootstrap_override = match &self.environment.bootstrap_override {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                Some(text.replace("$(HOST_IP)", self.environment.host_ip.as_deref().unwrap_or_default()))
            }
        };
        let arguments = Arguments {
            bootstrap: bootstrap.into(),
            bootstrap_override,
            log_level: self.flags.proxy_log_level.clone(),
            component_log_level: self.flags.proxy_component_log_level.clone(),
            concurrency: self.flags.concurrency.or(config.concurrency).or(cores),
            drain: config.drain_duration.unwrap_or(Duration::from_secs(45)),
            ipv6: bootstrap::loopback(&self.instance_ips).is_ipv6(),
            file_flush_interval: config.file_flush_interval.unwrap_or(Duration::from_secs(1)),
            file_flush_min_size_kb: config.file_flush_min_size_kb,
        };
        let program = [&self.flags.binary_path, &self.environment.envoy, &config.binary_path];
        let program = program.into_iter().flatten().next().cloned().unwrap_or_else(|| "envoy".into());
        let launcher = Some(std::env::current_exe().context("cannot find this program")?);
        Ok(Envoy { program, arguments: arguments.command_line(), launcher })
    }

    /// How the proxy ends.
    pub fn drain(&self) -> Drain {
        let termination = self.proxy_config.termination_drain_duration.unwrap_or(Duration::from_secs(5));
        Drain {
            role: self.node.role,
            admin: self.admin(),
            until: match self.environment.exit_on_zero_connections {
                true => Until::Unused(self.environment.minimum_drain),
                false => Until::Passed(termination),
            },
            kill_after: self.kill_after,
            own_ports: [self.envoy_status_port, self.envoy_prometheus_port],
        }
    }
}

fn proxy_config(flags: &Agent, environment: &AgentEnvironment, pod: &PodInfo) -> Result<ProxyConfig, String> {
    let place = flags.mesh_config.display().to_string();
    let mesh = match std::fs::read_to_string(&flags.mesh_config) {
        Ok(text) => proxy_config::parse(&place, &text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
        Err(error) => return Err(format!("cannot read {place}: {error}")),
    };
    let annotation = pod.annotations.get(PROXY_CONFIG_ANNOTATION).map(String::as_str).unwrap_or_default();
    ProxyConfig::merged([
        (place.as_str(), mesh.get("defaultConfig").cloned().unwrap_or_default()),
        ("PROXY_CONFIG", proxy_config::parse("PROXY_CONFIG", &environment.proxy_config)?),
        (PROXY_CONFIG_ANNOTATION, proxy_config::parse(PROXY_CONFIG_ANNOTATION, annotation)?),
    ])
}

/// Where xDS is served, and where certificates are issued.
fn upstreams(
    flags: &Agent,
    environment: &AgentEnvironment,
    proxy_config: &ProxyConfig,
    discovery_address: &str,
    ignored: &mut Vec<String>,
) -> Result<(Upstream, Upstream), String> {
    let roots = |other: &Option<String>| match other.as_deref() {
        Some("SYSTEM") => Roots::System,
        Some(path) => Roots::File(path.into()),
        None => Roots::File(flags.root_cert_file.clone()),
    };
    let mut headers = |prefix: &str, pairs: &BTreeMap<String, String>| {
        let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let (mut headers, broken) = upstream::headers(pairs);
        ignored.extend(broken.into_iter().map(|name| format!("{prefix}{name}")));
        // The key that the API server of the pod's cluster is found by.
        if let Some(cluster) = environment.metadata.get("CLUSTER_ID").and_then(|id| HeaderValue::try_from(id).ok()) {
            headers.insert(HeaderName::from_static("clusterid"), cluster);
        }
        headers
    };
    // An enum of protobuf, by name or by number.
    let plaintext = match &proxy_config.control_plane_auth_policy {
        Value::String(name) => name == "NONE",
        Value::Number(number) => number.as_u64() == Some(0),
        _ => false,
    };
    let discovery = Upstream {
        address: discovery_address.to_string(),
        server_name: environment.server_name.clone(),
        roots: (!plaintext).then(|| roots(&environment.xds_root)),
        token_file: flags.token_file.clone(),
        headers: headers("XDS_HEADER_", &environment.xds_headers),
    };
    let ca = Upstream {
        address: environment.ca_address.clone().unwrap_or_else(|| discovery_address.to_string()),
        // Another CA has another name.
        server_name: environment.server_name.clone().filter(|_| environment.ca_address.is_none()),
        // Who has a token must not give it to whoever listens in.
        roots: Some(roots(&environment.ca_root)),
        token_file: flags.token_file.clone(),
        headers: headers("CA_HEADER_", &environment.ca_headers),
    };
    for (name, upstream) in [("discoveryAddress", &discovery), ("CA_ADDR", &ca)] {
        upstream.check().map_err(|error| format!("{name}: {error}"))?;
    }
    Ok((discovery, ca))
}

/// The address that the control plane would see, which is the pod's when
/// nobody says. Nothing is sent to find out.
fn own_address(discovery_address: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect(discovery_address).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// A port, or a free one in place of 0. It is held until all have been found,
/// so that no two are the same.
fn free_port(port: u16, taken: &mut Vec<TcpListener>) -> Result<u16, String> {
    if port != 0 {
        return Ok(port);
    }
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("no free port: {error}"))?;
    let port = listener.local_addr().map_err(|error| format!("no free port: {error}"))?.port();
    taken.push(listener);
    Ok(port)
}
