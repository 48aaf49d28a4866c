//! Measures control planes on this machine: `make bench`, or
//! `cargo run --release -p fairway-bench -- [SCENARIO...] [--pods N] ...`.
//!
//! Scenarios are in [`scenario`], which has the table of them. Each starts a
//! control plane on a mesh, drives it over loopback and prints a line of JSON;
//! at the end comes a table.
//!
//! # Contenders
//! * **The control plane** is a command line (`--cp-cmd`); if none is given, the
//!   release binary beside this program.
//! * **A peer** (`--peer-cmd`) is any other: an older build, or whatever takes
//!   istiod's flags. The two take turns, only one of them alive at a time, and
//!   are compared by the median of the ratios of pairs, with a 95 % interval
//!   from resampling. What reads no folders needs `--driver kube`.
//! * **The limit** has its turn right after: the same stack (tonic, hyper, h2)
//!   sending the bytes that the control plane has sent, prepared and shared, to
//!   as many clients, without knowing what they mean; or decoding, or signing
//!   alone.
//!
//! # How to read the numbers
//! * **Trust the ratio before the number.** The same binary is twice as fast in
//!   one minute as in the next on a shared machine.
//! * **CPU is the server's alone**, as the kernel accounts for it, and hardly
//!   depends on how many cores the clients have left to it. Wall time and
//!   latency do: clients, API server and control plane share the machine.
//! * **Latency is open loop.** Changes are made by the clock, whether or not
//!   the last one has arrived, so a server that stalls is late for all of them.
//!   It ends with the last byte at the client, and all clients count. It is
//!   given from when a raw watch of ours showed the change, from when the API
//!   server had answered the write, and from when the change was due. The first
//!   can be negative: there is no saying whose watch is served first.
//! * **A folder is read only after 50 ms of quiet**, which no cluster source
//!   waits for; those 50 ms are subtracted.
//! * **Clients are cheap and uncritical**: they walk field lengths, count and
//!   acknowledge. One that is neither ([`check`]) decodes and applies everything
//!   and compares what it holds with what the objects mean, before and after
//!   the changes; if it disagrees, the run is void and fails.
//! * **Memory** is what the process holds ("RSS"), without the kernel's socket
//!   buffers. Differences are taken between states that both have been reached
//!   after a first client, so that what is built once is not blamed on streams.
//! * The page cache is warm. Objects in folders have no `managedFields`; those
//!   in the API server have.
//!
//! # Code
//! `mesh`, `waypoint` and `gateway` (in `lib.rs`) say what there is; [`world`]
//! keeps the first in a folder or, through [`kube`] and [`watch`], in a
//! kube-apiserver, and [`site`] says what the others mean to Envoys.
//! [`plane`] runs control planes, [`limit`] is the other server. [`http2`] and
//! [`message`] are what clients are made of; [`client`] has ztunnels, [`envoy`]
//! waypoints and gateways. [`process`] reads what processes cost, [`stats`] and [`report`]
//! make numbers of it.
//!
//! # Single parts
//! `make micro` measures what scenarios cannot tell apart: a commit, a
//! difference, the codec, one stream, one certificate, each alone in this
//! process on the same meshes. `benches/micro` has them. They find what made a
//! scenario slower; whether it matters is for the scenario to say.

mod stats;
mod progress;
mod options;
mod plane;
mod limit;
mod http2;
mod message;
mod client;
mod envoy;
mod site;
mod check;
mod watch;
mod kube;
mod world;
mod process;
mod report;
mod scenario;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use fairway_bench::mesh;

use options::{Arguments, Hidden, Options};
use plane::{Launch, allow_open_files};
use process::Neighbours;
use progress::say;
use report::{Report, Round};
use scenario::{Bench, SCENARIOS, Scenario, Who};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Hidden::LimitServer { folder, tls }) = arguments.hidden {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(limit::serve(&folder, tls));
        runtime.shutdown_background();
        return result;
    }
    allow_open_files(std::process::id());
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
    let options = arguments.options;
    let mut scenarios: Vec<&Scenario> = Vec::new();
    for name in &arguments.scenarios {
        let found = SCENARIOS.iter().find(|scenario| scenario.name == name || scenario.alias == name);
        scenarios.push(found.with_context(|| format!("there is no scenario {name}; see --help"))?);
    }
    if scenarios.is_empty() {
        scenarios.extend(SCENARIOS);
    }
    let (plane, peer) = launches(&options)?;
    let mut bench = Bench::new(options.clone())?;
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    for scenario in scenarios {
        say(&format!("{} {}: {} (load average {})", scenario.name, scenario.alias, scenario.about, process::load()));
        let (load, neighbours, started) = (process::load(), Neighbours::watch(), Instant::now());
        let patience = Duration::from_secs(options.patience);
        let rounds = tokio::time::timeout(patience, rounds(&mut bench, scenario, &plane, peer.as_ref())).await;
        let rounds = match rounds.context("took too long").and_then(|rounds| rounds) {
            Ok(rounds) => rounds,
            Err(error) => {
                // The others are worth having all the same.
                say(&format!("{} failed: {error:#}", scenario.name));
                failed.push(scenario.name);
                continue;
            }
        };
        let report = Report {
            scenario: format!("{} ({})", scenario.name, scenario.alias),
            setting: (scenario.setting)(&options),
            limit: scenario.limit,
            rounds,
            budgets: (scenario.budgets)(&options),
            noise: (load, neighbours.cores()),
            seconds: started.elapsed().as_secs_f64(),
        };
        println!("{}", report.json());
        reports.push(report);
    }
    let text = heading(&plane, peer.as_ref()) + &report::table(&reports);
    println!("\n{text}");
    if let Some(path) = &options.output {
        std::fs::write(path, format!("# Results\n\n{text}"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// The contenders take turns, so that a machine that is slow for a while is
/// slow for all of them.
async fn rounds(
    bench: &mut Bench,
    scenario: &Scenario,
    plane: &Launch,
    peer: Option<&Launch>,
) -> anyhow::Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for number in 0..bench.rounds() {
        let mut round = Round::default();
        if let Some(peer) = peer {
            // Before, so that what the limit repeats is what ours has sent.
            say(&format!("  round {}: peer", number + 1));
            round.peer = (scenario.run)(bench, Who::Plane(peer)).await.context("peer")?;
        }
        say(&format!("  round {}", number + 1));
        round.plane = (scenario.run)(bench, Who::Plane(plane)).await?.context("no numbers")?;
        round.limit = (scenario.run)(bench, Who::Limit).await.context("limit")?;
        rounds.push(round);
    }
    Ok(rounds)
}

fn launches(options: &Options) -> anyhow::Result<(Launch, Option<Launch>)> {
    let beside = std::env::current_exe()?.with_file_name("fairway").display().to_string();
    let fixed = [options.grpc, options.secure_grpc, options.http, None, options.metrics];
    let plane = Launch::new(options.cp_cmd.as_deref().unwrap_or(&beside), fixed)
        .context("the control plane (cargo build --release -p fairway)")?;
    let peer =
        options.peer_cmd.as_deref().map(|command| Launch::new(command, fixed)).transpose().context("the peer")?;
    Ok((plane, peer))
}

/// Where and when, and what was measured.
fn heading(plane: &Launch, peer: Option<&Launch>) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let name = |launch: &Launch| {
        let program = Path::new(launch.program());
        program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    };
    let peer = peer.map(|peer| format!(" beside {} as peer", name(peer))).unwrap_or_default();
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC");
    format!("{}{peer} on {cores} cores ({}), {now}\n", name(plane), process::model())
}
