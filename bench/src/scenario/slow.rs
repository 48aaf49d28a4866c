//! Clients that hardly read, and clients that do not read at all, beside
//! clients that do.

use std::time::Duration;

use anyhow::Context;

use super::churn::{self, BUSY, Load, PODS, STREAMS};
use super::{AGREE, Bench, SYNC, Server, Stage, Who};
use crate::check::{Checker, Pace};
use crate::options::Options;
use crate::process::memory;
use crate::report::{Budget, Budgets, Sample};

pub const LIMIT: &str = "the same changes before there were slow clients, of the same control plane";
/// How many read slowly, and as many do not read.
const SLOW: usize = 10;
/// Bytes a second that slow ones read.
const RATE: usize = 1024;

pub fn setting((): (), options: &Options) -> String {
    let Load { rate, seconds } = BUSY.with(options);
    format!(
        "{} pods, {rate} changes a second for {seconds} s without and {seconds} s with {SLOW} clients that read \
         {RATE} bytes a second and {SLOW} that do not read, {} healthy streams",
        options.pods.unwrap_or(PODS),
        options.streams.unwrap_or(STREAMS)
    )
}

pub fn budgets((): (), _: &Options) -> Budgets {
    vec![
        ("latency p99 of healthy clients", Budget::TimesLimit(1.05)),
        ("growth of RSS", Budget::AtMost(10.0)),
        ("slow clients that converge when they read again", Budget::AtLeast(2.0 * SLOW as f64)),
    ]
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let Who::Plane(launch) = who else { return Ok(Some(bench.recorded.limit.clone())) };
    churn::staged(bench, launch, compare).await
}

async fn compare(bench: &mut Bench, stage: &mut Stage) -> anyhow::Result<Sample> {
    let load = BUSY.with(&bench.options);
    let alone = churn::churn(bench, stage, load).await?;
    let mut slow = Vec::new();
    for at in 0..2 * SLOW {
        // Each is a checking client: what it holds in the end is compared.
        let Server { target, credentials, hello, .. } = &stage.running.server;
        let checker = Checker::start(target, &credentials[at % credentials.len()], hello);
        checker.synced(SYNC).await?;
        slow.push(checker);
    }
    for (at, checker) in slow.iter().enumerate() {
        checker.set_pace(if at < SLOW { Pace::Bytes(RATE) } else { Pace::Stopped });
    }
    let before = memory(stage.running.server.pid)?;
    let beside = churn::churn(bench, stage, load).await?;
    let after = memory(stage.running.server.pid)?;
    let behind = slow.iter().filter(|checker| checker.table.borrow().compare(&stage.world).is_err()).count();
    let mut converged = 0;
    for checker in &slow {
        checker.set_pace(Pace::Full);
    }
    for checker in &slow {
        checker.agrees(&stage.world, AGREE).await.context("a slow client does not converge")?;
        converged += 1;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut sample = churn::beside(bench, &alone, &beside, "of healthy clients")?;
    sample.add("growth of RSS", (after.rss - before.rss) / 1e6, "MB");
    sample.add("slow clients that were behind", behind as f64, "");
    sample.add("slow clients that converge when they read again", converged as f64, "");
    Ok(sample)
}
