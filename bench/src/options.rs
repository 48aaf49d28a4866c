//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Measures control planes beside what this machine can do at best.
#[derive(Parser, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = crate::scenario::help())]
pub struct Arguments {
    /// What is not for people.
    #[command(subcommand)]
    pub hidden: Option<Hidden>,
    /// What to measure, by number or alias; everything if nothing is named
    pub scenarios: Vec<String>,
    /// Everything else.
    #[command(flatten)]
    pub options: Options,
}

/// How much of everything. What is not given is each scenario's own.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The control plane: a program that has istiod's flags, or a whole command line with {source}, {grpc} and so on
    /// (see src/plane.rs); the fairway beside this program if not given
    #[arg(long, value_name = "COMMAND")]
    pub cp_cmd: Option<String>,
    /// Another one, run in turns with the first; for example an older build
    #[arg(long, value_name = "COMMAND")]
    pub peer_cmd: Option<String>,
    /// Where the control planes listen if they do not listen where they are told: gRPC without TLS
    #[arg(long, value_name = "ADDRESS")]
    pub grpc: Option<SocketAddr>,
    /// The same of gRPC with TLS
    #[arg(long, value_name = "ADDRESS")]
    pub secure_grpc: Option<SocketAddr>,
    /// The same of readiness
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<SocketAddr>,
    /// The same of metrics
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<SocketAddr>,
    /// How often each scenario is run; 1 alone, 5 with a peer
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Where objects are kept
    #[arg(long, value_enum)]
    pub driver: Option<Driver>,
    /// Clients use TLS and tokens also where a scenario does not ask for it
    #[arg(long)]
    pub tls: bool,
    /// Pods
    #[arg(long, value_name = "N")]
    pub pods: Option<usize>,
    /// Services; one for 20 pods if not given
    #[arg(long, value_name = "N")]
    pub services: Option<usize>,
    /// Routes of a waypoint or of gateways, spread over services
    #[arg(long, value_name = "N")]
    pub routes: Option<usize>,
    /// Streams
    #[arg(long, value_name = "N")]
    pub streams: Option<usize>,
    /// Changes a second
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// How long load goes on
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// Concurrent callers that want certificates
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub callers: usize,
    /// Clients that know nothing and come at once, beside others
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub newcomers: usize,
    /// A scenario that takes longer is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub patience: u64,
    /// Also write machine, date and table to a file
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

impl Options {
    /// How often each scenario is run.
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.peer_cmd.is_some() { 5 } else { 1 }).max(1)
    }
}

/// Where objects are kept.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A folder of YAML
    Files,
    /// A real kube-apiserver
    Kube,
}

/// What is not for people.
#[derive(Subcommand, Debug)]
pub enum Hidden {
    /// The other server.
    #[command(hide = true)]
    LimitServer {
        /// What to send.
        folder: PathBuf,
        /// Whether to use TLS.
        #[arg(long)]
        tls: bool,
    },
}
