//! Measures a Fairway on this machine: `make bench`, or
//! `cargo run --release -p fairway-bench -- [SCENARIO...] [--pods N] ...`.
//!
//! Each scenario starts the release binary on a generated folder, drives it
//! over loopback and prints one line of JSON; at the end comes a table.
//!
//! # How to read the numbers
//! * **Beside a limit.** The same binary is twice as fast in one minute as in
//!   the next on a shared machine, so each scenario measures in the same run
//!   what would be possible: reading the same bytes, or the same stack (tonic,
//!   hyper, h2) sending prepared bytes without knowing what they mean. Trust
//!   the ratio before the number.
//! * **CPU is the server's alone**, as the kernel accounts for it, and hardly
//!   depends on how many cores the clients have left to it. Wall time does:
//!   clients and server share the machine.
//! * **Latency is open loop.** Changes are made by the clock, whether or not
//!   the last one has arrived. It ends with the last byte at the client. A
//!   folder is read only after 50 ms of quiet, which no cluster source waits
//!   for, so latency is given raw and with those 50 ms subtracted.
//! * **Clients are cheap and uncritical**: they walk field lengths, count and
//!   acknowledge. One that is neither ([`check`]) decodes everything and
//!   compares it with what was generated; if it disagrees, the run is void and
//!   fails.
//! * **Memory** is what the process holds ("RSS"), without the kernel's socket
//!   buffers. Differences are taken between states that both have been reached
//!   after a first client, so that what is built once is not blamed on streams.
//! * The page cache is warm, and generated objects have no `managedFields`.
//!
//! # Code
//! [`mesh`] generates, [`fairway`] runs the server, [`limit`] is the other
//! server, [`http2`], [`message`] and [`client`] are the clients, [`process`]
//! reads what processes cost, [`report`] prints; [`scenario`] has the rest.

mod mesh;
mod fairway;
mod limit;
mod http2;
mod message;
mod client;
mod check;
mod process;
mod report;
mod scenario;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};

use process::Neighbours;
use report::Report;
use scenario::Bench;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A scenario that hangs is given up after this long.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measures Fairway beside what this machine can do at best.
#[derive(Parser, Debug)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    hidden: Option<Hidden>,
    /// What to measure; everything if nothing is named
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    #[command(flatten)]
    options: Options,
}

/// How much of everything.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Pods of the large mesh
    #[arg(long, default_value_t = 20_000)]
    pods: usize,
    /// Services of the large mesh
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Pods of the mesh that push and idle use
    #[arg(long, default_value_t = 2000)]
    small_pods: usize,
    /// Clients of cold-sync
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// Streams of push
    #[arg(long, default_value_t = 500)]
    streams: usize,
    /// Streams of idle
    #[arg(long, default_value_t = 1000)]
    idle_streams: usize,
    /// Changes a second in push
    #[arg(long, default_value_t = 5)]
    rate: u32,
    /// How long push and csr go on
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Concurrent callers of csr
    #[arg(long, default_value_t = 16)]
    callers: usize,
    /// How often start-to-serve is repeated; the median counts
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// The control plane; the one beside this program if not given
    #[arg(long)]
    fairway: Option<PathBuf>,
    /// Also write the table to a file
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Hidden {
    /// The other server.
    #[command(hide = true)]
    LimitServer {
        folder: PathBuf,
        #[arg(long)]
        tls: bool,
    },
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    /// From exec to the first complete client
    StartToServe,
    /// Many clients at once
    ColdSync,
    /// One change at a time to many clients
    Push,
    /// The memory of streams
    Idle,
    /// The memory of workloads
    Memory,
    /// Certificates
    Csr,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Hidden::LimitServer { folder, tls }) = arguments.hidden {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(limit::serve(&folder, tls));
        runtime.shutdown_background();
        return result;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let mut terminated =
        runtime.block_on(async { tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) })?;
    local.block_on(&runtime, async {
        // Returning drops what was started, which ends it.
        tokio::select! {
            result = run(arguments) => result,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            _ = terminated.recv() => anyhow::bail!("terminated"),
        }
    })
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let beside = std::env::current_exe()?.with_file_name("fairway");
    let options = arguments.options;
    let binary = options.fairway.clone().unwrap_or(beside);
    anyhow::ensure!(binary.exists(), "{} is missing: cargo build --release -p fairway", binary.display());
    let scenarios = match arguments.scenarios.as_slice() {
        [] => Scenario::value_variants().to_vec(),
        some => some.to_vec(),
    };
    let mut bench = Bench::new(binary, options.clone())?;
    let mut reports = Vec::new();
    for scenario in scenarios {
        let name = scenario.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default();
        progress(&format!("{name} (load average {})", process::load()));
        let (load, neighbours, started) = (process::load(), Neighbours::watch(), Instant::now());
        let run = async {
            match scenario {
                Scenario::StartToServe => scenario::start::run(&mut bench).await,
                Scenario::ColdSync => scenario::sync::run(&mut bench).await,
                Scenario::Push => scenario::push::run(&mut bench).await,
                Scenario::Idle => scenario::idle::run(&mut bench).await,
                Scenario::Memory => scenario::memory::run(&mut bench).await,
                Scenario::Csr => scenario::csr::run(&mut bench).await,
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, run).await.context("took too long").and_then(|outcome| outcome);
        let scenario::Outcome { setting, limit, findings } = outcome.with_context(|| name.clone())?;
        let noise = (load, neighbours.cores());
        let seconds = started.elapsed().as_secs_f64();
        let report = Report { scenario: scenario_name(scenario), setting, limit, findings, noise, seconds };
        println!("{}", report.json());
        reports.push(report);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let head =
        format!("{cores} cores ({}), {}\n", process::model(), jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"));
    let text = head + &report::table(&reports);
    println!("\n{text}");
    if let Some(path) = &options.output {
        std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn scenario_name(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::StartToServe => "start-to-serve",
        Scenario::ColdSync => "cold-sync",
        Scenario::Push => "push",
        Scenario::Idle => "idle",
        Scenario::Memory => "memory",
        Scenario::Csr => "csr",
    }
}

/// Says on stderr what is going on.
fn progress(text: &str) {
    eprintln!("{} {text}", jiff::Timestamp::now().strftime("%H:%M:%S"));
}
