//! Flags of the commands that ask a running control plane.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::duration;

/// How the control plane is found.
#[derive(Args, Debug, Clone)]
#[command(rename_all = "kebab-case", next_help_heading = "Finding the control plane")]
pub struct Connection {
    /// Kubeconfig; else KUBECONFIG, ~/.kube/config, or the pod this runs in
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Its context
    #[arg(long)]
    pub context: Option<String>,
    /// Namespace of the control plane
    #[arg(long, short = 'i', default_value = "istio-system")]
    pub istio_namespace: String,
    /// Only replicas of this revision
    #[arg(long)]
    pub revision: Option<String>,
    /// Monitoring addresses of replicas, such as http://localhost:15014 at the end
    /// of a kubectl port-forward. Kubernetes is not asked where they are then
    #[arg(long, env = "FAIRWAY_ADDRESS", value_delimiter = ',')]
    pub address: Vec<String>,
    /// File with a token for addresses that are not of this machine
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// How long one question may take
    #[arg(long, default_value = "15s", value_parser = duration::parse)]
    pub request_timeout: Duration,
}

/// The rights that [`Connection`] takes, for the help of commands.
pub const RIGHTS: &str = "\
Every replica is asked through the API server's proxy of its pod. That takes the right to `get` `pods/proxy`, to `list` \
`pods`, and to `create` `serviceaccounts/token` (of the account `default`) in the namespace of the control plane; the \
token is good for its debug pages and nothing else. Where the API server does not reach pods, forward a port, which \
takes `create` of `pods/portforward`:

  kubectl -n istio-system port-forward deployment/istiod 15014 &
  fairway proxies --address http://localhost:15014";

/// How something is shown.
#[derive(Args, Debug, Clone, Copy)]
#[command(rename_all = "kebab-case", next_help_heading = "Output")]
pub struct Output {
    /// Form of the output
    #[arg(long, short = 'o', value_enum, default_value_t = Form::Table)]
    pub output: Form,
    /// When there are colours; NO_COLOR is honoured
    #[arg(long, value_enum, default_value_t = Colour::Auto)]
    pub color: Colour,
}

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

/// When there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Flags of `proxies`.
#[derive(Args, Debug)]
#[command(rename_all = "kebab-case", after_long_help = RIGHTS)]
pub struct Proxies {
    /// Only proxies whose name begins with this
    pub name: Option<String>,
    /// Only proxies of this namespace
    #[arg(long, short)]
    pub namespace: Option<String>,
    /// Where the control plane is.
    #[command(flatten)]
    pub connection: Connection,
    /// What is printed.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `wait`.
#[derive(Args, Debug)]
#[command(rename_all = "kebab-case", after_long_help = RIGHTS)]
pub struct Wait {
    /// Kind of the object: VirtualService, virtualservices or vs. With --address
    /// its newest generation is known only if --kubeconfig or --context is given,
    /// too; else what is in force is waited for
    pub kind: String,
    /// Its name
    pub name: String,
    /// Its namespace
    #[arg(long, short, default_value = "default")]
    pub namespace: String,
    /// Wait until it is gone from all proxies
    #[arg(long)]
    pub deleted: bool,
    /// For how long
    #[arg(long, default_value = "60s", value_parser = duration::parse)]
    pub timeout: Duration,
    /// Where the control plane is.
    #[command(flatten)]
    pub connection: Connection,
    /// What is printed.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `check`.
#[derive(Args, Debug)]
#[command(rename_all = "kebab-case", after_long_help = RIGHTS)]
pub struct Check {
    /// Check whether it can be installed, not what is
    #[arg(long)]
    pub pre: bool,
    /// Where the control plane is.
    #[command(flatten)]
    pub connection: Connection,
    /// What is printed.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `request`, which are those of `pilot-discovery request`: `istioctl
/// bug-report` calls that in the control plane's pod.
#[derive(Args, Debug)]
#[command(rename_all = "kebab-case")]
pub struct Request {
    /// GET
    #[arg(value_parser = ["GET"])]
    pub method: String,
    /// The page, such as debug/syncz
    pub path: String,
    /// Where the monitoring port is
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15014")]
    pub address: String,
    /// For how long
    #[arg(long, default_value = "30s", value_parser = duration::parse)]
    pub request_timeout: Duration,
}

/// Flags of `completion`.
#[derive(Args, Debug)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// A shell that completes commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// `source <(fairway completion bash)`
    Bash,
    /// `source <(fairway completion zsh)`
    Zsh,
    /// `fairway completion fish | source`
    Fish,
}
