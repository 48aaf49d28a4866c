//! From exec to the first client that has everything.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{Bench, Outcome};
use crate::check::check;
use crate::client::{Credentials, first_responses};
use crate::fairway::Fairway;
use crate::process::{Meter, memory};
use crate::progress;
use crate::report::{Budget, finding, median};

/// Runs the scenario.
pub async fn run(bench: &mut Bench) -> anyhow::Result<Outcome> {
    let mesh = bench.mesh(bench.options.pods)?;
    let credentials = Credentials::new(0, mesh.ztunnel(0), None);
    let (mut ready, mut served, mut cpu, mut peak) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..bench.options.repeat.max(1) {
        let mut fairway = Fairway::start(&bench.binary, &mesh.folder, bench.work())?;
        let is_ready = fairway.ready()?;
        let target = fairway.target(false)?;
        first_responses(&target, &credentials, Duration::from_secs(60)).await?;
        served.push(fairway.started.elapsed().as_secs_f64());
        ready.push((is_ready - fairway.started).as_secs_f64());
        cpu.push(Meter::new(fairway.pid()).read()?.as_secs_f64());
        peak.push(memory(fairway.pid())?.peak / 1e6);
        progress(&format!("  run {}: served after {:.2} s", run + 1, served[run]));
        check(&target, &credentials, &mesh).await?;
    }
    progress("  limit: reading and parsing the same files");
    let (split, parsed) = read(&mesh.folder)?;
    let findings = vec![
        finding("exec to ready", median(&mut ready), "s"),
        finding("exec to first client complete", median(&mut served), "s").budget(Budget::AtMost(3.0)),
        finding("server CPU until then, beside parsing to JSON values", median(&mut cpu), "s").limit(parsed),
        finding("the same, beside reading and dividing the files", median(&mut cpu), "s").limit(split),
        finding("peak RSS", median(&mut peak), "MB").limit(mesh.bytes as f64 / 1e6),
    ];
    Ok(Outcome {
        setting: format!(
            "{} pods, {} services, {:.0} MB of YAML; median of {}",
            mesh.size.pods,
            mesh.size.services,
            mesh.bytes as f64 / 1e6,
            bench.options.repeat
        ),
        limit: "one thread that reads the same files, divides them, and has serde_saphyr make JSON values; for memory, their size",
        findings,
    })
}

/// Seconds for reading files and dividing documents, and for parsing as well.
fn read(folder: &Path) -> anyhow::Result<(f64, f64)> {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    for entry in std::fs::read_dir(folder.join("hot"))? {
        paths.push(entry?.path());
    }
    let (mut split, mut parse) = (Duration::ZERO, Duration::ZERO);
    for path in paths.iter().filter(|path| path.is_file()) {
        let started = Instant::now();
        let text = std::fs::read_to_string(path)?;
        let documents: Vec<_> = text.split("---\n").collect();
        split += started.elapsed();
        let started = Instant::now();
        for document in documents {
            let value: serde_json::Value = serde_saphyr::from_str_with_options(document, options())
                .with_context(|| format!("{}", path.display()))?;
            std::hint::black_box(value);
        }
        parse += started.elapsed();
    }
    Ok((split.as_secs_f64(), (split + parse).as_secs_f64()))
}

/// Without limits, as Fairway reads.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { budget: None, emit_comments: false }
}
