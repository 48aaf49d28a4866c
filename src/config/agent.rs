//! Flags and environment of `fairway agent`.
//!
//! Arguments and variables are pilot-agent's, so that a pod template written
//! for Istio's proxy image starts it:
//! <https://istio.io/latest/docs/reference/commands/pilot-agent/>.
//! What pilot-agent does not have are the paths and ports that let several
//! agents run on one machine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::environment::Reader;

/// Flags of `agent`.
#[derive(Args, Debug, Clone)]
#[command(rename_all = "camelCase")]
pub struct Agent {
    /// What the proxy is: waypoint, router or sidecar. The word "proxy" may
    /// stand before it
    #[arg(value_name = "TYPE", num_args = 0..=2)]
    pub role: Vec<String>,
    /// DNS domain of the proxy; POD_NAMESPACE.svc.cluster.local if not given
    #[arg(long)]
    pub domain: Option<String>,
    /// Name of the cluster of proxies this one belongs to
    #[arg(long)]
    pub service_cluster: Option<String>,
    /// File with the mesh configuration, of which defaultConfig is read
    #[arg(long, default_value = "/etc/istio/config/mesh")]
    pub mesh_config: PathBuf,
    /// Log level of Envoy; may be followed by scopes, as in info,upstream:debug
    #[arg(long, default_value = "warning")]
    pub proxy_log_level: String,
    /// Log levels of Envoy's components, as in upstream:debug,http:info
    #[arg(long, default_value = "")]
    pub proxy_component_log_level: String,
    /// Number of worker threads of Envoy
    #[arg(long)]
    pub concurrency: Option<u32>,
    /// Where Envoy logs what outlier detection ejects
    #[arg(long)]
    pub outlier_log_path: Option<String>,
    /// Log levels of the agent, as scope:level,...
    #[arg(long = "log_output_level", default_value = "default:info")]
    pub log_output_level: String,
    /// Log in JSON
    #[arg(long = "log_as_json", num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true)]
    pub log_as_json: bool,
    /// Folder for the bootstrap and the sockets; beats ProxyConfig.configPath
    #[arg(long)]
    pub config_path: Option<PathBuf>,
    /// The Envoy to run; beats ENVOY and ProxyConfig.binaryPath
    #[arg(long)]
    pub binary_path: Option<PathBuf>,
    /// Where xDS is served; beats ProxyConfig.discoveryAddress
    #[arg(long)]
    pub discovery_address: Option<String>,
    /// File with the roots of the control plane's certificate
    #[arg(long, default_value = "/var/run/secrets/istio/root-cert.pem")]
    pub root_cert_file: PathBuf,
    /// File with the service account's token, read again for every call
    #[arg(long, default_value = "/var/run/secrets/tokens/istio-token")]
    pub token_file: PathBuf,
    /// Folder with the pod's labels and annotations from the downward API
    #[arg(long, default_value = "/etc/istio/pod")]
    pub pod_info_path: PathBuf,
    /// Socket of the secret discovery service; configPath/SDS if not given
    #[arg(long)]
    pub sds_path: Option<PathBuf>,
    /// Address of the ports other than the admin port; all addresses if not given
    #[arg(long)]
    pub listen_address: Option<IpAddr>,
    /// Port of Envoy's admin pages, on loopback; 0 or auto for a free one
    #[arg(long, value_parser = port)]
    pub admin_port: Option<u16>,
    /// Port of the agent's own pages; 0 or auto for a free one
    #[arg(long, value_parser = port)]
    pub status_port: Option<u16>,
    /// Port where Envoy answers probes; 0 or auto for a free one
    #[arg(long, value_parser = port)]
    pub envoy_status_port: Option<u16>,
    /// Port where Envoy answers Prometheus; 0 or auto for a free one
    #[arg(long, value_parser = port)]
    pub envoy_prometheus_port: Option<u16>,
    /// How long Envoy may take to end before it is killed
    #[arg(long, default_value = "5s", value_parser = super::duration::parse)]
    pub kill_after: Duration,
    /// Write the bootstrap, print its path and end
    #[arg(long)]
    pub bootstrap_only: bool,
}

/// Arguments of the hidden command that becomes Envoy.
#[derive(Args, Debug, Clone)]
pub struct ExecProxy {
    /// The process whose end ends the proxy.
    pub parent: u32,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<String>,
}

fn port(text: &str) -> Result<u16, String> {
    match text {
        "auto" => Ok(0),
        _ => text.parse().map_err(|_| format!("{text:?} is not a port, 0 or auto")),
    }
}

/// What the environment says.
#[derive(Clone, Debug)]
pub struct AgentEnvironment {
    /// `PROXY_CONFIG`: a `ProxyConfig` in YAML or JSON.
    pub proxy_config: String,
    /// `CA_ADDR`; the discovery address if it is not set.
    pub ca_address: Option<String>,
    /// `CA_ROOT_CA`: another file with roots for the CA, or `SYSTEM`.
    pub ca_root: Option<String>,
    /// `XDS_ROOT_CA`: another file with roots for xDS, or `SYSTEM`.
    pub xds_root: Option<String>,
    /// `ISTIOD_SAN`: the name the control plane's certificate must have.
    pub server_name: Option<String>,
    /// `POD_NAME`.
    pub pod_name: String,
    /// `POD_NAMESPACE`.
    pub pod_namespace: String,
    /// `INSTANCE_IP`, and more of them from `INSTANCE_IPS`.
    pub instance_ips: Vec<IpAddr>,
    /// `SERVICE_ACCOUNT`.
    pub service_account: String,
    /// `HOST_IP`.
    pub host_ip: Option<String>,
    /// `TRUST_DOMAIN`.
    pub trust_domain: String,
    /// `SECRET_TTL`: the lifetime that certificates are asked for.
    pub secret_ttl: Duration,
    /// `SECRET_GRACE_PERIOD_RATIO`: the part of the lifetime that is left when
    /// a certificate is renewed.
    pub grace_ratio: f64,
    /// `SECRET_GRACE_PERIOD_RATIO_JITTER`: by how much that varies.
    pub grace_jitter: f64,
    /// `ISTIO_CPU_LIMIT`: how many cores there are for Envoy.
    pub cpu_limit: u32,
    /// `ISTIO_DELTA_XDS`: whether Envoy asks incrementally.
    pub delta_xds: bool,
    /// `ENVOY_STATUS_PORT`.
    pub envoy_status_port: u16,
    /// `ENVOY_PROMETHEUS_PORT`.
    pub envoy_prometheus_port: u16,
    /// `EXIT_ON_ZERO_ACTIVE_CONNECTIONS`.
    pub exit_on_zero_connections: bool,
    /// `MINIMUM_DRAIN_DURATION`.
    pub minimum_drain: Duration,
    /// `METRICS_LOCALHOST_ACCESS_ONLY`.
    pub metrics_local_only: bool,
    /// `ISTIO_BOOTSTRAP_OVERRIDE`: a file that is merged into the bootstrap.
    pub bootstrap_override: Option<PathBuf>,
    /// `ENVOY`: the Envoy to run.
    pub envoy: Option<PathBuf>,
    /// `ISTIO_META_*`, without the prefix.
    pub metadata: BTreeMap<String, String>,
    /// `ISTIO_METAJSON_*`, without the prefix.
    pub json_metadata: BTreeMap<String, String>,
    /// `XDS_HEADER_*`, without the prefix.
    pub xds_headers: BTreeMap<String, String>,
    /// `CA_HEADER_*`, without the prefix.
    pub ca_headers: BTreeMap<String, String>,
}

/// Variables that change what pilot-agent does, and have no effect here.
const WITHOUT_EFFECT: &[&str] = &[
    "FILE_MOUNTED_CERTS",
    "PROV_CERT",
    "OUTPUT_CERTS",
    "CA_PROVIDER",
    "ECC_SIGNATURE_ALGORITHM",
    "DISABLE_ENVOY",
    "GRPC_XDS_BOOTSTRAP",
    "ISTIO_META_DNS_CAPTURE",
    "ISTIO_META_ENABLE_DNS_SERVER",
    "ISTIO_KUBE_APP_PROBERS",
    "ISTIO_PROMETHEUS_ANNOTATIONS",
    "ENVOY_SECURE_METRICS_PORT",
    "ENVOY_SECURE_MERGED_METRICS_PORT",
];

impl AgentEnvironment {
    /// Reads variables. Returns also the names of those that are set and have
    /// no effect. An error names the variable.
    pub fn read(variables: impl IntoIterator<Item = (String, String)>) -> Result<(Self, Vec<String>), String> {
        let mut reader = Reader { variables: variables.into_iter().collect(), read: Vec::new() };
        let with_prefix = |reader: &Reader, prefix: &str| -> BTreeMap<String, String> {
            let all = reader.variables.iter();
            all.filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_string(), value.clone()))).collect()
        };
        let mut instance_ips = Vec::new();
        for name in ["INSTANCE_IP", "INSTANCE_IPS"] {
            for text in reader.list(name, "") {
                let ip = text.parse().map_err(|_| format!("{name}: {text:?} is not an IP address"))?;
                if !instance_ips.contains(&ip) {
                    instance_ips.push(ip);
                }
            }
        }
        let ratio = |reader: &mut Reader, name: &'static str, default: f64| {
            let value: f64 = reader.number(name, default)?;
            match (0.0..=1.0).contains(&value) {
                true => Ok(value),
                false => Err(format!("{name}: {value} is not between 0 and 1")),
            }
        };
        let environment = Self {
            proxy_config: reader.text("PROXY_CONFIG", ""),
            ca_address: reader.value("CA_ADDR"),
            ca_root: reader.value("CA_ROOT_CA"),
            xds_root: reader.value("XDS_ROOT_CA"),
            server_name: reader.value("ISTIOD_SAN"),
            pod_name: reader.text("POD_NAME", "unknown"),
            pod_namespace: reader.text("POD_NAMESPACE", "default"),
            instance_ips,
            service_account: reader.text("SERVICE_ACCOUNT", "default"),
            host_ip: reader.value("HOST_IP"),
            trust_domain: reader.text("TRUST_DOMAIN", "cluster.local"),
            secret_ttl: reader.duration("SECRET_TTL", "24h")?,
            grace_ratio: ratio(&mut reader, "SECRET_GRACE_PERIOD_RATIO", 0.5)?,
            grace_jitter: ratio(&mut reader, "SECRET_GRACE_PERIOD_RATIO_JITTER", 0.01)?,
            cpu_limit: reader.number("ISTIO_CPU_LIMIT", 0)?,
            delta_xds: reader.flag("ISTIO_DELTA_XDS", true)?,
            envoy_status_port: reader.number("ENVOY_STATUS_PORT", 15021)?,
            envoy_prometheus_port: reader.number("ENVOY_PROMETHEUS_PORT", 15090)?,
            exit_on_zero_connections: reader.flag("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", false)?,
            minimum_drain: reader.duration("MINIMUM_DRAIN_DURATION", "5s")?,
            metrics_local_only: reader.flag("METRICS_LOCALHOST_ACCESS_ONLY", false)?,
            bootstrap_override: reader.value("ISTIO_BOOTSTRAP_OVERRIDE").map(PathBuf::from),
            envoy: reader.value("ENVOY").map(PathBuf::from),
            metadata: with_prefix(&reader, "ISTIO_META_"),
            json_metadata: with_prefix(&reader, "ISTIO_METAJSON_"),
            xds_headers: with_prefix(&reader, "XDS_HEADER_"),
            ca_headers: with_prefix(&reader, "CA_HEADER_"),
        };
        let ignored = WITHOUT_EFFECT.iter().filter(|name| reader.value(name).is_some_and(|value| value != "false"));
        Ok((environment, ignored.map(ToString::to_string).collect()))
    }
}
