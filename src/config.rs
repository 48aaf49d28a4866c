//! Flags and environment. Nobody else reads them.
//!
//! Names and defaults are istiod's, so that a chart or a script written for
//! istiod starts Fairway. What istiod knows and Fairway does not is listed in
//! one warning, never silently accepted and never fatal.

pub mod agent;
pub(crate) mod duration;
mod environment;
pub mod terminal;
mod traces;
#[cfg(test)]
mod tests;
mod unknown;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use environment::{Environment, KeysFetchedBy};
pub use traces::Traces;

/// The command line.
#[derive(Parser, Debug)]
#[command(name = "fairway", version, about = "A service-mesh control plane for ztunnel, in place of istiod")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the control plane.
    #[command(alias = "serve")]
    Discovery(Box<Discovery>),
    /// Print a token of the development issuer, for a control plane without a
    /// cluster.
    Token(Token),
    /// Print what a proxy would be told for a folder of YAML.
    Translate(Translate),
    /// List connected proxies: what they have, what they wait for, and what they
    /// rejected.
    Proxies(terminal::Proxies),
    /// Wait until all proxies have what an object says.
    ///
    /// Returns when every connected proxy has acknowledged everything up to the
    /// change of the object; a proxy that the object does not concern is there at
    /// once. Fails at once if a proxy rejects what comes from it. Of kinds that the
    /// API server does not count changes of, such as Service, what is in force when
    /// the command begins is waited for.
    Wait(terminal::Wait),
    /// Say what is wrong with an installation, or in the way of one, and what to
    /// do about it.
    Check(terminal::Check),
    /// Print the definitions of the kinds that are Istio's, as YAML for kubectl.
    ///
    /// They say of objects what Fairway reads of them, and keep everything else that
    /// somebody writes; nothing is refused that Istio's own definitions accept. A
    /// cluster that has those needs none of these: `fairway check` says which kinds
    /// are not defined.
    Crds,
    /// Ask the control plane in this pod for a page, as pilot-discovery does.
    Request(terminal::Request),
    /// Print what completes commands in a shell.
    Completion(terminal::Completion),
    /// Run a stock Envoy as a proxy of the mesh, in place of pilot-agent.
    Agent(Box<agent::Agent>),
    /// Become Envoy, for as long as the agent lives. Only the agent calls it.
    #[command(hide = true)]
    ExecProxy(agent::ExecProxy),
    /// Print the version.
    Version,
}

/// Flags of `discovery`. Names and defaults are those of `pilot-discovery`.
#[derive(Args, Debug, Clone)]
#[command(rename_all = "camelCase")]
pub struct Discovery {
    /// Plaintext gRPC address: xDS without secrets. Empty moves it to httpAddr
    #[arg(long, default_value = ":15010")]
    pub grpc_addr: String,
    /// TLS gRPC address: xDS and certificate signing. Empty closes it
    #[arg(long = "secureGRPCAddr", default_value = ":15012")]
    pub secure_grpc_addr: String,
    /// HTTP address: readiness
    #[arg(long, default_value = ":8080")]
    pub http_addr: String,
    /// HTTPS address of the webhooks; accepted and not used yet
    #[arg(long, default_value = ":15017")]
    pub https_addr: String,
    /// HTTP address: metrics, version, debug pages
    #[arg(long, default_value = ":15014")]
    pub monitoring_addr: String,
    /// Profiles at monitoringAddr, below /debug/pprof
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub profile: bool,
    /// DNS domain suffix of services
    #[arg(long, default_value = "cluster.local")]
    pub domain: String,
    /// Kubeconfig to use outside a cluster
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Accepted; requests are bounded by how many are under way instead
    #[arg(long = "kubernetesApiQPS", default_value_t = 80.0)]
    pub kubernetes_api_qps: f32,
    /// Accepted; requests are bounded by how many are under way instead
    #[arg(long = "kubernetesApiBurst", default_value_t = 160)]
    pub kubernetes_api_burst: u32,
    /// File with the mesh configuration; beats the ConfigMap
    #[arg(long, default_value = "./etc/istio/config/mesh")]
    pub mesh_config: PathBuf,
    /// Folder of YAML to serve instead of a cluster
    #[arg(long)]
    pub config_dir: Option<PathBuf>,
    /// Where the root key and the token issuer of a control plane without a
    /// cluster are kept
    #[arg(long, default_value = "./fairway-state")]
    pub state_dir: PathBuf,
    /// Namespace of the control plane; POD_NAMESPACE if not given
    #[arg(long, short = 'n')]
    pub namespace: Option<String>,
    /// Interval of HTTP/2 pings to clients
    #[arg(long, default_value = "30s", value_parser = duration::parse)]
    pub keepalive_interval: Duration,
    /// How long a ping may stay unanswered
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub keepalive_timeout: Duration,
    /// How long a connection lives, so that load spreads again
    #[arg(long, default_value = "infinite", value_parser = duration::parse)]
    pub keepalive_max_server_connection_age: Duration,
    /// Image of waypoints if neither PROXY_IMAGE nor the installer's values
    /// (ConfigMap istio-sidecar-injector) say which
    #[arg(long, default_value = "docker.io/istio/proxyv2:1.30.4")]
    pub waypoint_image: String,
    /// How long streams may take to end after SIGTERM
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub shutdown_duration: Duration,
    /// The oldest version of TLS that is spoken
    #[arg(long = "tls-min-version", default_value = "1.2", value_parser = ["1.2", "1.3"])]
    pub tls_min_version: String,
    /// Serving certificate
    #[arg(long, default_value = "")]
    pub tls_cert_file: String,
    /// Key of the serving certificate
    #[arg(long, default_value = "")]
    pub tls_key_file: String,
    /// Roots that client certificates are verified with
    #[arg(long, default_value = "")]
    pub ca_cert_file: String,
    /// Log levels, as scope:level,...
    #[arg(long = "log_output_level", default_value = "default:info")]
    pub log_output_level: String,
    /// Log in JSON
    #[arg(long = "log_as_json", num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true)]
    pub log_as_json: bool,
    /// Watch and serve, but write nothing to the API server
    #[arg(long = "read-only", num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true)]
    pub read_only: bool,
}

/// Flags of `translate`.
#[derive(Args, Debug)]
#[command(rename_all = "camelCase")]
pub struct Translate {
    /// Folder with the objects
    #[arg(long, short)]
    pub filename: PathBuf,
    /// Which proxy: ztunnel, waypoint:NAMESPACE/NAME, router:NAMESPACE/GATEWAY or
    /// router:NAMESPACE/LABEL=VALUE,…
    #[arg(long)]
    pub proxy: String,
    /// Also print the objects behind each resource
    #[arg(long)]
    pub explain: bool,
    /// The proxy is Istio's image, not a stock Envoy
    #[arg(long)]
    pub istio_proxy: bool,
    /// DNS domain suffix of services
    #[arg(long, default_value = "cluster.local")]
    pub domain: String,
}

/// Flags of `token`.
#[derive(Args, Debug)]
#[command(rename_all = "camelCase")]
pub struct Token {
    /// The state directory of the control plane
    #[arg(long, default_value = "./fairway-state")]
    pub state_dir: PathBuf,
    /// Namespace of the service account
    #[arg(long)]
    pub namespace: String,
    /// The service account
    #[arg(long)]
    pub service_account: String,
    /// The pod the token is bound to
    #[arg(long)]
    pub pod: Option<String>,
    /// The UID of that pod
    #[arg(long, requires = "pod")]
    pub pod_uid: Option<String>,
    /// The audience
    #[arg(long, default_value = "istio-ca")]
    pub audience: String,
    /// How long it is valid
    #[arg(long, default_value = "1h", value_parser = duration::parse)]
    pub ttl: Duration,
}

/// Parses the command line. Flags that are not known are returned, not refused.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<(Cli, Vec<String>), clap::Error> {
    // As with Go's flags, the last one counts: the chart has some, and what a user
    // adds comes after those.
    let command = Cli::command().mut_subcommand("discovery", |discovery| discovery.args_override_self(true));
    let (known, unknown) = unknown::divide(&command, arguments.into_iter().collect());
    let matches = command.try_get_matches_from(known)?;
    Ok((Cli::from_arg_matches(&matches)?, unknown))
}

/// An address to listen at. Without a host, all addresses of both families
/// are meant; an empty text means not to listen.
pub fn address(flag: &str, text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let full = match text.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None => text.replacen("localhost:", "127.0.0.1:", 1),
    };
    full.parse().map(Some).map_err(|_| format!("--{flag}: {text:?} is not [host]:port with an IP address as host"))
}

impl Discovery {
    /// The filter for the logs: istiod's scopes are ours where they mean the
    /// same.
    pub fn log_filter(&self) -> String {
        log_filter(&self.log_output_level)
    }
}

/// The filter for log levels as `scope:level,...`.
pub(crate) fn log_filter(levels: &str) -> String {
    let level = |text: &str| match text {
        "none" => "off",
        "fatal" | "error" => "error",
        "warn" | "info" | "debug" | "trace" => "known",
        _ => "info",
    };
    let directives = levels.split(',').filter(|part| !part.trim().is_empty()).map(|part| {
        let (scope, wanted) = part.trim().split_once(':').unwrap_or(("default", part.trim()));
        let wanted = if level(wanted) == "known" { wanted } else { level(wanted) };
        match scope {
            "default" | "all" => wanted.to_string(),
            "ads" | "delta" | "xds" => format!("fairway::xds={wanted}"),
            "ca" | "pkica" | "serverca" | "security" => format!("fairway::ca={wanted}"),
            "ambient" | "krt" => {
                format!("fairway::workload={wanted},fairway::model={wanted},fairway::graph={wanted}")
            }
            "kube" | "controllers" => format!("fairway::source={wanted},fairway::controller={wanted}"),
            other => format!("fairway::{other}={wanted}"),
        }
    });
    // Libraries are quiet unless something is wrong.
    ["info,h2=warn,hyper=warn,tower=warn,kube=warn,kube_client=off,pprof=warn".to_string()]
        .into_iter()
        .chain(directives)
        .collect::<Vec<_>>()
        .join(",")
}
