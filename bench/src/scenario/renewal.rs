//! Certificates are renewed all at once while pods change.

use std::time::Duration;

use anyhow::Context;

use super::churn::{self, Load, PODS, QUIET, STREAMS};
use super::csr::Wave;
use super::{Bench, SYNC, Who};
use crate::client::Clients;
use crate::options::{Driver, Options};
use crate::report::{Budget, Budgets, Sample};
use crate::stats::percentile;

pub const LIMIT: &str = "the same changes before the wave, of the same control plane";
/// A minute's wave of 10 000 identities.
const RATE: f64 = 10_000.0 / 60.0;
/// So that a p99 is one of more than a hundred changes.
const CHANGES: Load = Load { rate: 10.0, seconds: 15 };

fn load(options: &Options) -> Load {
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
    let Who::Plane(launch) = who else {
        let mut sample = Sample::default();
        // What was measured before the wave is kept where limits are.
        sample.add("latency p99 during the wave", bench.recorded.decoding, "ms");
        return Ok(Some(sample));
    };
    let (load, streams) = (load(&bench.options), bench.options.streams.unwrap_or(STREAMS));
    let size = bench.options.size(PODS, false);
    let mut world = bench.world(Driver::Kube, size).await?;
    let running = bench.serve(&world, launch, false).await?;
    let clients = Clients::start(&running.target, &running.credentials, streams, &running.hello);
    clients.synced(SYNC).await?;
    let quiet = churn::churn(bench, &running, &clients, &mut world, load).await?;
    let wave = Wave::new(&running.plane, &world, bench.options.callers, true).await?;
    // A little longer than the changes, which begin a second later.
    let duration = Duration::from_secs(load.seconds + 2);
    let wave = tokio::task::spawn_local(wave.open(RATE, duration));
    let busy = churn::churn(bench, &running, &clients, &mut world, load).await?;
    let mut certificates = wave.await??;
    clients.stop().await;
    running.stop().await;
    bench.keep(world);
    let mut sample = Sample::default();
    for part in ["p50", "p99"] {
        let name = format!("latency {part}");
        let latency = busy.get(&name).context("no latency")?;
        sample.add(format!("latency {part} during the wave"), latency, "ms");
    }
    bench.recorded.decoding = quiet.get("latency p99").context("no latency")?;
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        let latency = percentile(&mut certificates, part);
        sample.add(format!("certificates, {name} from when one was due"), latency, "ms");
    }
    sample.add("certificates", certificates.len() as f64, "");
    Ok(Some(sample))
}
