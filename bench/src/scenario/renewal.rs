//! Certificates are renewed all at once while pods change.

use std::time::Duration;

use super::churn::{self, Load, PODS, QUIET, STREAMS};
use super::csr::Wave;
use super::{Bench, Stage, Who};
use crate::options::Options;
use crate::report::{Budget, Budgets, Sample};
use crate::stats::percentile;

pub const LIMIT: &str = "the same changes before the wave, of the same control plane";
/// A minute's wave of 10 000 identities.
const RATE: f64 = 10_000.0 / 60.0;
/// So that a p99 is one of more than a hundred changes.
const CHANGES: Load = Load { rate: 10.0, seconds: 15 };

/// What changes quietly and beside something else.
pub fn load(options: &Options) -> Load {
    Load {
        rate: options.rate.unwrap_or(CHANGES.rate).max(QUIET.rate),
        seconds: options.seconds.unwrap_or(CHANGES.seconds),
    }
}

pub fn setting((): (), options: &Options) -> String {
    let Load { rate, seconds } = load(options);
    format!(
        "{} pods, {rate} changes a second, {} streams, for {seconds} s quiet and {seconds} s with {RATE:.0} \
         certificates a second (open loop)",
        options.pods.unwrap_or(PODS),
        options.streams.unwrap_or(STREAMS)
    )
}

pub fn budgets((): (), _: &Options) -> Budgets {
    vec![("latency p99 during the wave", Budget::TimesLimit(1.2))]
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let Who::Plane(launch) = who else { return Ok(Some(bench.recorded.limit.clone())) };
    churn::staged(bench, launch, compare).await
}

async fn compare(bench: &mut Bench, stage: &mut Stage) -> anyhow::Result<Sample> {
    let load = load(&bench.options);
    let quiet = churn::churn(bench, stage, load).await?;
    let wave = Wave::new(&stage.running.plane, &stage.world, bench.options.callers, true).await?;
    // A little longer than the changes, which begin a second later.
    let duration = Duration::from_secs(load.seconds + 2);
    let wave = tokio::task::spawn_local(wave.open(RATE, duration));
    let busy = churn::churn(bench, stage, load).await?;
    let mut certificates = wave.await??;
    let mut sample = churn::beside(bench, &quiet, &busy, "during the wave")?;
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        let latency = percentile(&mut certificates, part);
        sample.add(format!("certificates, {name} from when one was due"), latency, "ms");
    }
    sample.add("certificates", certificates.len() as f64, "");
    Ok(sample)
}
