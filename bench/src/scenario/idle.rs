//! Streams on which nothing happens.

use std::time::Duration;

use tokio::time::sleep;

use super::{AGREE, Bench, SETTLE, Server, Who};
use crate::options::{Driver, Options};
use crate::process::{Meter, memory};
use crate::report::{Budget, Budgets, Sample};

pub const LIMIT: &str = "a server that has sent as many streams the same bytes and keeps nothing";
const PODS: usize = 2000;
const STREAMS: usize = 2000;
/// How long the CPU of idle streams is watched.
const WATCH: Duration = Duration::from_secs(5);

pub fn setting((): (), options: &Options) -> String {
    let streams = options.streams.unwrap_or(STREAMS);
    format!("{streams} TLS streams, all synced with {} pods, then left alone", options.pods.unwrap_or(PODS))
}

pub fn budgets((): (), _: &Options) -> Budgets {
    vec![("RSS per stream", Budget::AtMost(40.0)), ("kept after all have left, of the growth", Budget::AtMost(0.2))]
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let count = bench.options.streams.unwrap_or(STREAMS);
    let Who::Plane(launch) = who else {
        let (_limit, server) = bench.limit(true, &[])?;
        return idle(&server, count).await.map(Some);
    };
    let size = bench.options.size(PODS, false);
    let world = bench.world(Driver::Files, size).await?;
    let running = bench.serve(&world, launch, true).await?;
    let sample = idle(&running.server, count).await?;
    running.checker.agrees(&world, AGREE).await?;
    running.stop().await;
    bench.keep(world);
    Ok(Some(sample))
}

async fn idle(server: &Server, count: usize) -> anyhow::Result<Sample> {
    let pid = server.pid;
    server.warm_up().await?;
    sleep(SETTLE).await;
    let before = memory(pid)?;
    let clients = server.synced(count).await?;
    sleep(SETTLE).await;
    let during = memory(pid)?;
    let mut meter = Meter::new(pid);
    let used = meter.read()?;
    sleep(WATCH).await;
    let cpu = (meter.read()? - used).as_secs_f64() * 1e6 / WATCH.as_secs_f64() / count as f64;
    clients.check()?;
    clients.stop().await;
    sleep(2 * SETTLE).await;
    let after = memory(pid)?;
    let each = |bytes: f64| bytes / 1024.0 / count as f64;
    let mut sample = Sample::default();
    sample.add("RSS per stream", each(during.rss - before.rss), "KiB");
    sample.add("PSS per stream", each(during.pss - before.pss), "KiB");
    sample.add("CPU per stream and second", cpu, "us");
    let kept = (after.rss - before.rss) / (during.rss - before.rss);
    sample.add("kept after all have left, of the growth", kept.max(0.0), "x");
    Ok(sample)
}
