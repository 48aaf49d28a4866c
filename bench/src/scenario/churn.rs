//! Pods change by the clock, and everybody is told.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::time::{sleep, sleep_until};

use super::{AGREE, ARRIVAL, Bench, Stage, Who, millis};
use crate::client::Clients;
use crate::limit::Limit;
use crate::options::Options;
use crate::plane::Launch;
use crate::process::{Meter, memory};
use crate::report::{Budget, Budgets, Sample};
use crate::stats::{median, percentile};
use crate::world::{Op, Timed};

pub const LIMIT: &str = "a server that writes as many prepared messages of the mean size to as many streams and reads \
                         the acknowledgements; its CPU per minute is for as many messages";
pub const PODS: usize = 20_000;
pub const STREAMS: usize = 100;

/// Milliseconds that half of all changes may take to come out of the API
/// server for a run to count.
const KEEPS_UP: f64 = 200.0;

/// How much changes.
#[derive(Clone, Copy)]
pub struct Load {
    /// Changes a second.
    pub rate: f64,
    /// How long.
    pub seconds: u64,
}

pub const QUIET: Load = Load { rate: 1.0, seconds: 20 };
pub const BUSY: Load = Load { rate: 100.0, seconds: 20 };

impl Load {
    /// What it is with other flags.
    pub fn with(self, options: &Options) -> Self {
        Self { rate: options.rate.unwrap_or(self.rate), seconds: options.seconds.unwrap_or(self.seconds) }
    }

    fn changes(self) -> usize {
        (self.rate * self.seconds as f64).ceil().max(1.0) as usize
    }
}

pub fn setting(load: Load, options: &Options) -> String {
    let Load { rate, seconds } = load.with(options);
    format!(
        "{} pods, {rate} changes a second for {seconds} s, {} streams; latency to each client, from when a watch of \
         our own showed the change",
        options.pods.unwrap_or(PODS),
        options.streams.unwrap_or(STREAMS)
    )
}

pub fn budgets(load: Load, options: &Options) -> Budgets {
    if options.pods.is_some_and(|pods| pods > PODS) || options.streams.is_some_and(|streams| streams > STREAMS) {
        return vec![("server CPU per message and stream", Budget::TimesLimit(1.3))];
    }
    match load.rate {
        rate if rate > 1.0 => vec![
            ("latency p50", Budget::AtMost(5.0)),
            ("latency p99", Budget::AtMost(25.0)),
            ("server CPU per minute", Budget::AtMost(8.0)),
            ("server CPU per message and stream", Budget::TimesLimit(1.3)),
        ],
        _ => vec![("latency p99", Budget::AtMost(5.0)), ("server CPU per minute", Budget::AtMost(0.2))],
    }
}

pub async fn run(load: Load, bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let (load, streams) = (load.with(&bench.options), bench.options.streams.unwrap_or(STREAMS));
    let Who::Plane(launch) = who else { return limit(bench, streams).await.map(Some) };
    staged(bench, launch, async |bench, stage| churn(bench, stage, load).await).await
}

/// Measures something on a control plane with streams. The pods are kept also
/// if that fails.
pub async fn staged(
    bench: &mut Bench,
    launch: &Launch,
    measure: impl AsyncFnOnce(&mut Bench, &mut Stage) -> anyhow::Result<Sample>,
) -> anyhow::Result<Option<Sample>> {
    let streams = bench.options.streams.unwrap_or(STREAMS);
    let mut stage = bench.stage(launch, PODS, streams).await?;
    let sample = measure(bench, &mut stage).await;
    stage.end(bench).await;
    sample.map(Some)
}

/// Changes pods under clients that have synced.
pub async fn churn(bench: &mut Bench, stage: &mut Stage, load: Load) -> anyhow::Result<Sample> {
    Ok(episode(bench, stage, load).await?.0)
}

/// The same, with each latency to each client.
pub async fn episode(bench: &mut Bench, stage: &mut Stage, load: Load) -> anyhow::Result<(Sample, Vec<f64>)> {
    let Stage { world, running, clients } = stage;
    let from = world.next;
    let schedule = world.revisions(load.rate, load.changes());
    clients.expect(world.next);
    sleep(Duration::from_secs(1)).await;
    let pid = running.plane.pid();
    let (mut meter, tally) = (Meter::new(pid), &clients.tally);
    let (used, messages, bytes, started) = (meter.read()?, tally.messages.get(), tally.bytes.get(), Instant::now());
    let before = memory(pid)?;
    let played = world.play(schedule).await?;
    clients.arrived(from..world.next, ARRIVAL).await?;
    // The last acknowledgements are still being read.
    sleep(Duration::from_millis(100)).await;
    let (cpu, span) = (meter.read()? - used, started.elapsed());
    let after = memory(pid)?;
    clients.check()?;
    running.checker.agrees(world, AGREE).await?;

    let (messages, bytes) = (tally.messages.get() - messages, tally.bytes.get() - bytes);
    let streams = tally.synced.get();
    bench.recorded.update.clear();
    bench.recorded.update.extend(running.checker.table.borrow().typical_update());
    (bench.recorded.messages, bench.recorded.span) = (messages as usize / streams, span);
    let quiet = world.quiet();
    let latency = |since: fn(&Timed) -> Instant| {
        let changes = played.iter().filter_map(|timed| match &timed.op {
            Op::Revise { revision, .. } => Some((crate::mesh::number(revision)?, since(timed))),
            _ => None,
        });
        let mut latency = clients.latencies(changes);
        latency.iter_mut().for_each(|latency| *latency -= quiet);
        latency
    };
    let api: Vec<f64> = played
        .iter()
        .map(|timed| millis(timed.seen.unwrap_or(timed.answered).saturating_duration_since(timed.due)))
        .collect();
    // Otherwise the API server is measured, and by a clock that runs late.
    let (needs, early) = (median(&api), median(&latency(|timed| timed.seen.unwrap_or(timed.answered))));
    ensure!(needs < KEEPS_UP, "void: the API server does not keep up on this machine: {needs:.0} ms behind");
    ensure!(early > -KEEPS_UP / 10.0, "void: our watch is {:.0} ms later than clients", -early);
    let mut sample = Sample::default();
    let latencies = latency(|timed| timed.seen.unwrap_or(timed.answered));
    percentiles(&mut sample, "latency", latencies.clone());
    percentiles(&mut sample, "latency from the API server's answer", latency(|timed| timed.answered));
    percentiles(&mut sample, "latency from when the change was due", latency(|timed| timed.due));
    percentiles(&mut sample, "what the API server needs of that", api);
    sample.add("server CPU per minute", cpu.as_secs_f64() / span.as_secs_f64() * 60.0, "s");
    let each = cpu.as_secs_f64() * 1e6 / messages as f64;
    sample.add("server CPU per message and stream", each, "us");
    sample.add("messages per stream", messages as f64 / streams as f64, "");
    sample.add("bytes per message", bytes as f64 / messages as f64, "");
    sample.add("RSS after", after.rss / 1e6, "MB");
    sample.add("growth of RSS", (after.rss - before.rss) / 1e6, "MB");
    Ok((sample, latencies))
}

/// Adds what is told of latencies.
pub fn percentiles(sample: &mut Sample, what: &str, mut latencies: Vec<f64>) {
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        sample.add(format!("{what} {name}"), percentile(&mut latencies, part), "ms");
    }
}

async fn limit(bench: &Bench, streams: usize) -> anyhow::Result<Sample> {
    let (mut limit, server) = bench.limit(bench.options.tls, &bench.recorded.update)?;
    let clients = server.synced(streams).await?;
    let sample = pushes(bench, &mut limit, &clients).await?;
    clients.stop().await;
    Ok(sample)
}

/// Has the limit send what was recorded to clients that have synced.
pub async fn pushes(bench: &Bench, limit: &mut Limit, clients: &Clients) -> anyhow::Result<Sample> {
    let (recorded, streams) = (&bench.recorded, clients.tally.synced.get());
    let (count, span) = (recorded.messages.max(1), recorded.span);
    clients.expect(count);
    sleep(Duration::from_secs(1)).await;
    let mut meter = Meter::new(limit.pid());
    let (used, messages, start) = (meter.read()?, clients.tally.messages.get(), tokio::time::Instant::now());
    let mut pushed = Vec::with_capacity(count);
    for number in 0..count {
        sleep_until(start + span.mul_f64(number as f64 / count as f64)).await;
        pushed.push((number, Instant::now()));
        limit.push(number)?;
    }
    sleep(Duration::from_millis(500)).await;
    clients.check()?;
    let (cpu, messages) = (meter.read()? - used, clients.tally.messages.get() - messages);
    let mut latency = clients.latencies(pushed.into_iter());
    let each = cpu.as_secs_f64() / messages.max(1) as f64;
    let per_minute = each * (count * streams) as f64 / span.as_secs_f64() * 60.0;
    let mut sample = Sample::default();
    for (name, part) in [("latency p50", 0.5), ("latency p99", 0.99), ("latency max", 1.0)] {
        sample.add(name, percentile(&mut latency, part), "ms");
    }
    sample.add("server CPU per minute", per_minute, "s");
    sample.add("server CPU per message and stream", each * 1e6, "us");
    let size = recorded.update.first().context("no update was recorded")?.len();
    sample.add("messages per stream", messages as f64 / streams as f64, "");
    sample.add("bytes per message", size as f64 + 5.0, "");
    Ok(sample)
}

/// The latencies of changes while something else went on; their limits are
/// those of the same control plane before that.
pub fn beside(bench: &mut Bench, quiet: &Sample, busy: &Sample, when: &str) -> anyhow::Result<Sample> {
    let (mut sample, mut limit) = (Sample::default(), Sample::default());
    for part in ["p50", "p99", "max"] {
        for (from, to) in [(busy, &mut sample), (quiet, &mut limit)] {
            let latency = from.get(&format!("latency {part}")).context("no latency")?;
            to.add(format!("latency {part} {when}"), latency, "ms");
        }
    }
    bench.recorded.limit = limit;
    Ok(sample)
}
