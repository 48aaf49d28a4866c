//! Many clients that connect at once and know nothing yet.

use std::time::{Duration, Instant};

use super::{Bench, SYNC, Server, Who, millis};
use crate::options::{Driver, Options};
use crate::process::{Meter, memory, reset_peak};
use crate::report::{Budget, Budgets, Sample};

pub const LIMIT: &str = "a server that sends the same bytes to as many clients from one buffer";
const PODS: usize = 50_000;
const CLIENTS: usize = 100;
/// What a client may hold while it is sent everything.
const EACH: f64 = 64.0 * 1024.0;

pub fn setting((): (), options: &Options) -> String {
    format!("{} pods from files, {} clients", options.pods.unwrap_or(PODS), options.streams.unwrap_or(CLIENTS))
}

pub fn budgets((): (), options: &Options) -> Budgets {
    let mut budgets = vec![
        ("server CPU per client", Budget::TimesLimit(2.0)),
        ("peak less 64 KiB per client, over steady", Budget::AtMost(1.3)),
    ];
    if options.pods.unwrap_or(PODS) <= PODS {
        budgets.push(("server CPU per client", Budget::AtMost(15.0)));
    }
    budgets
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let count = bench.options.streams.unwrap_or(CLIENTS);
    let Who::Plane(launch) = who else {
        let (_limit, server) = bench.limit(bench.options.tls, &[])?;
        return sync(&server, count).await.map(Some);
    };
    let size = bench.options.size(PODS, true);
    let world = bench.world(Driver::Files, size).await?;
    let running = bench.serve(&world, launch, false).await?;
    let sample = sync(&running.server, count).await?;
    running.checker.agrees(&world, super::AGREE).await?;
    running.stop().await;
    bench.keep(world);
    Ok(Some(sample))
}

async fn sync(server: &Server, count: usize) -> anyhow::Result<Sample> {
    let pid = server.pid;
    server.warm_up().await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut meter = Meter::new(pid);
    reset_peak(pid)?;
    let (before, used, started) = (memory(pid)?, meter.read()?, Instant::now());
    let clients = server.clients(count);
    let wall = clients.synced(SYNC).await? - started;
    // The last acknowledgements are still being read.
    tokio::time::sleep(Duration::from_millis(50)).await;
    clients.check()?;
    let (cpu, after, bytes) = ((meter.read()? - used) / count as u32, memory(pid)?, clients.tally.bytes.get());
    clients.stop().await;
    let mut sample = Sample::default();
    sample.add("server CPU per client", millis(cpu), "ms");
    sample.add("wall until the last client is complete", wall.as_secs_f64(), "s");
    sample.add("bytes per client", bytes as f64 / count as f64 / 1e6, "MB");
    sample.add("RSS before", before.rss / 1e6, "MB");
    sample.add("growth of the peak", (after.peak - before.rss) / 1e6, "MB");
    sample.add("peak less 64 KiB per client, over steady", (after.peak - EACH * count as f64) / before.rss, "x");
    Ok(sample)
}
