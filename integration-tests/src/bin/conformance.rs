//! `make conformance`: the conformance suite of the Gateway API on a stage whose
//! control plane is Fairway. Arguments are the suite's: `conformance/*.go` says
//! which there are.
#![allow(clippy::unwrap_used, reason = "whatever fails here fails the run")]
#![allow(clippy::large_futures, reason = "it runs once")]

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use fairway_integration_tests::cluster::{self, Channel};
use fairway_integration_tests::runner;
use fairway_integration_tests::stage::{Stage, enter};
use tokio::signal::unix::{SignalKind, signal};

const MESH: &str = include_str!("../../stage/mesh.yaml");

/// How long the suite may take. On two idle cores it takes five minutes.
const LIMIT: Duration = Duration::from_secs(2400);

/// How the table marks what failed.
const FAILED: &str = "**fail**";

fn main() -> ExitCode {
    enter::enter(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let passed = runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).unwrap();
            tokio::select! {
                passed = run() => passed,
                _ = tokio::signal::ctrl_c() => false,
                _ = terminate.recv() => false,
            }
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
        // Only a courtesy; it is a temporary folder.
        let _ = std::fs::remove_dir_all(runner::folder());
        if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

/// Whether everything passed that was not skipped.
async fn run() -> bool {
    let programs = cluster::tool("FAIRWAY_CONFORMANCE", ".cache/conformance");
    let output = programs.join("output");
    // What is left of the last run would be taken for this one's.
    let _ = std::fs::remove_dir_all(&output);
    std::fs::create_dir_all(&output).unwrap();
    // Some of what istiod claims is in fields of the experimental channel.
    let stage = Stage::start_with(Channel::Experimental).await;
    stage.apply(MESH).await;
    stage.ready_pod("istio-system", "app=istiod").await;
    stage.ztunnels().await;

    let mut suite = tokio::process::Command::new(programs.join("suite"));
    suite.env("KUBECONFIG", stage.cluster.kubeconfig());
    suite.args(["-test.v", "-test.run=^TestConformance$"]).arg(format!("-test.timeout={}s", LIMIT.as_secs()));
    suite.arg(format!("-output={}", output.display())).arg(concat!("-version=", env!("CARGO_PKG_VERSION")));
    suite.args(std::env::args_os().skip(1));
    // It reports to standard error which test has ended; the rest is for who
    // looks for a reason.
    suite.stdin(Stdio::null()).stdout(std::fs::File::create(output.join("log")).unwrap()).kill_on_drop(true);
    let mut suite = suite.spawn().unwrap();
    // It knows its limit, and says what it was at when it was reached.
    let ended = tokio::time::timeout(LIMIT + Duration::from_secs(60), suite.wait()).await;
    let passed = ended.is_ok_and(|status| status.is_ok_and(|status| status.success()));

    keep_logs(stage.folder(), &output.join("pods"));
    let _ = std::fs::copy(stage.log_path(), output.join("stage.log"));
    stage.stop().await;
    if !passed {
        println!("{}", runner::tail(&output.join("log"), 30));
    }
    // Its rows say which failed, and its first words how many.
    let table = std::fs::read_to_string(output.join("table.md")).unwrap_or_default();
    println!();
    table.lines().filter(|line| line.contains(FAILED)).for_each(|line| println!("{line}"));
    println!("{}: report.yaml, table.md, log, what the pods have printed", output.display());
    let mut words = table.lines().filter(|line| !line.is_empty() && !line.starts_with('|'));
    let suite = words.next().unwrap_or("# Conformance").trim_start_matches("# ");
    let count = words.next().unwrap_or("It did not begin.");
    println!("{suite}: {}. {count}", if passed { "ok" } else { "FAILED" });
    passed
}

/// Copies what the containers of a stage have printed, of pods that are gone as
/// well.
fn keep_logs(stage: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for pod in folders(stage) {
        for container in folders(&pod) {
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // A folder of volumes has none.
            let _ = std::fs::copy(container.join("log"), to.join(format!("{}.{}.log", name(&pod), name(&container))));
        }
    }
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(of).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).collect()
}
