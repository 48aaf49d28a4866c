//! Clients that hardly read, and clients that do not read at all, beside
//! clients that do.
//!
//! Episodes with them and episodes without take turns, and the latencies of
//! each kind are looked at together: what a machine does to one half of a
//! minute and not to the other is more than slow clients do, and a comparison
//! of two halves measures that. Slow clients are there in their own episodes
//! only: as clients that read they would be a load that the others lack.
//!
//! What a slow client costs in memory is what it has been sent and has not
//! taken, and the mesh as it was then: about one more copy of what has changed
//! since, for all of them together. That is there after the first episode, and
//! bounded. What must not be is growth with time, be it that clients come and
//! go or that they stay and stay slow; so the first episode is compared with
//! the last, which goes on for as long as all of them took together.

use anyhow::Context;

use super::churn::{self, BUSY, Load, PODS, STREAMS};
use super::{AGREE, Bench, SYNC, Server, Stage, Who};
use crate::check::{Checker, Pace};
use crate::options::Options;
use crate::process::memory;
use crate::progress::say;
use crate::report::{Budget, Budgets, Sample};

pub const LIMIT: &str = "the same changes without slow clients, of the same control plane";
/// How many read slowly, and as many do not read.
const SLOW: usize = 10;
/// Bytes a second that slow ones read.
const RATE: usize = 1024;

/// How often there are slow clients, and how often there are none.
const EPISODES: u64 = 4;
const GROWTH: &str = "growth of RSS from the first slow episode to the last";

/// What is changed in one episode.
fn part(load: Load) -> Load {
    Load { seconds: (load.seconds / EPISODES).max(1), ..load }
}

pub fn setting((): (), options: &Options) -> String {
    let Load { rate, seconds } = part(BUSY.with(options));
    format!(
        "{} pods, {rate} changes a second for {seconds} s without and {seconds} s with {SLOW} clients that read \
         {RATE} bytes a second and {SLOW} that do not read, {EPISODES} times in turns, {} healthy streams",
        options.pods.unwrap_or(PODS),
        options.streams.unwrap_or(STREAMS)
    )
}

pub fn budgets((): (), _: &Options) -> Budgets {
    vec![
        ("latency p99 of healthy clients", Budget::TimesLimit(1.05)),
        (GROWTH, Budget::AtMost(10.0)),
        ("slow clients that converge when they read again", Budget::AtLeast((2 * SLOW) as f64 * EPISODES as f64)),
    ]
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let Who::Plane(launch) = who else { return Ok(Some(bench.recorded.limit.clone())) };
    churn::staged(bench, launch, compare).await
}

async fn compare(bench: &mut Bench, stage: &mut Stage) -> anyhow::Result<Sample> {
    let load = BUSY.with(&bench.options);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let mut occupied = Vec::new();
    let (mut behind, mut converged) = (0, 0);
    for episode in 1..=EPISODES {
        alone.extend(churn::episode(bench, stage, part(load)).await?.1);
        let quiet = memory(stage.running.server.pid)?;
        let slow = readers(stage).await?;
        let before = memory(stage.running.server.pid)?;
        for (at, checker) in slow.iter().enumerate() {
            checker.set_pace(if at < SLOW { Pace::Bytes(RATE) } else { Pace::Stopped });
        }
        beside.extend(churn::episode(bench, stage, part(load)).await?.1);
        if episode == EPISODES {
            churn::churn(bench, stage, load).await?;
        }
        let after = memory(stage.running.server.pid)?;
        let [quiet, before, after] = [quiet, before, after].map(|memory| memory.rss / 1e6);
        say(&format!(
            "  RSS {quiet:.0} MB without, {before:.0} MB with clients that read, {after:.0} MB with slow ones"
        ));
        occupied.push((before, after));
        behind += slow.iter().filter(|checker| checker.table.borrow().compare(&stage.world).is_err()).count();
        for checker in &slow {
            checker.set_pace(Pace::Full);
        }
        for checker in &slow {
            checker.agrees(&stage.world, AGREE).await.context("a slow client does not converge")?;
            converged += 1;
        }
    }
    let [alone, beside] = [alone, beside].map(|latencies| {
        let mut sample = Sample::default();
        churn::percentiles(&mut sample, "latency", latencies);
        sample
    });
    let mut sample = churn::beside(bench, &alone, &beside, "of healthy clients")?;
    let (first, last) = (occupied.first().zip(occupied.last())).context("no episode")?;
    sample.add("growth of RSS in the first slow episode", first.1 - first.0, "MB");
    sample.add("growth of RSS in the last slow episode", last.1 - last.0, "MB");
    sample.add(GROWTH, last.1 - first.1, "MB");
    sample.add("slow clients that were behind", behind as f64, "");
    sample.add("slow clients that converge when they read again", converged as f64, "");
    Ok(sample)
}

/// Clients that have everything. Each is a checking client: what it holds in
/// the end is compared.
async fn readers(stage: &Stage) -> anyhow::Result<Vec<Checker>> {
    let Server { target, credentials, hello, .. } = &stage.running.server;
    let mut readers = Vec::new();
    for at in 0..2 * SLOW {
        let checker = Checker::start(target, &credentials[at % credentials.len()], hello);
        checker.synced(SYNC).await?;
        readers.push(checker);
    }
    Ok(readers)
}
