//! The control plane crashes and starts again; all clients come back with the
//! versions of everything they hold.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{AGREE, Bench, SYNC, Server, Who, millis};
use crate::check::Checker;
use crate::client::Hello;
use crate::options::{Driver, Options};
use crate::process::{Meter, memory, reset_peak};
use crate::report::{Budget, Budgets, Sample};

pub const LIMIT: &str = "a server that reads the same requests without looking at them and sends what was answered";
const PODS: usize = 50_000;
const STREAMS: usize = 100;
/// Versions in one request that must be accepted.
const MANY: usize = 240_000;

pub fn setting((): (), options: &Options) -> String {
    let (pods, streams) = (options.pods.unwrap_or(PODS), options.streams.unwrap_or(STREAMS));
    format!(
        "{pods} pods from files, {streams} TLS streams that hold everything, SIGKILL, start; then {MANY} versions on one stream, most of names that are gone"
    )
}

pub fn budgets((): (), options: &Options) -> Budgets {
    let mut budgets = vec![
        ("resources sent again", Budget::AtMost(0.0)),
        ("peak RSS over RSS before they came back", Budget::AtMost(1.2)),
        ("versions accepted in one request", Budget::AtLeast(MANY as f64)),
    ];
    if options.pods.unwrap_or(PODS) <= PODS && options.streams.unwrap_or(STREAMS) <= STREAMS {
        budgets.push(("server CPU of all reconnects", Budget::AtMost(1.5)));
    }
    budgets
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let count = bench.options.streams.unwrap_or(STREAMS);
    let Who::Plane(launch) = who else {
        let (_limit, server) = bench.limit(true, &[])?;
        return storm(&server, count).await.map(Some);
    };
    let size = bench.options.size(PODS, true);
    let world = bench.world(Driver::Files, size).await?;
    // Who has not shown who it is may not send this much.
    let mut running = bench.serve(&world, launch, true).await?;
    let clients = running.server.synced(count).await?;
    let versions = running.checker.table.borrow().versions();
    let table = running.checker.table.clone();
    running.server.hello = Hello::resuming(versions.clone());

    running.plane = running.plane.crash()?;
    running.server.pid = running.plane.pid();
    clients.stop().await;
    let ready = running.plane.ready().await?;
    let start = ready - running.plane.started;
    table.borrow_mut().first.clear();
    let Server { target, credentials, hello, .. } = &running.server;
    running.checker = Checker::resume(target, &credentials[0], hello, table.clone());
    running.checker.agrees(&world, AGREE.max(SYNC)).await?;
    bench.recorded.first.clone_from(&table.borrow().first);
    bench.recorded.hello = hello.clone();
    sleep(Duration::from_secs(1)).await;
    let mut sample = storm(&running.server, count).await?;
    running.checker.agrees(&world, AGREE).await?;
    sample.add("exec to ready after the crash", start.as_secs_f64(), "s");

    // As many as anybody may hold.
    let [mut addresses, policies] = versions;
    let gone = MANY.saturating_sub(addresses.len());
    addresses
        .extend((0..gone).map(|at| (format!("Kubernetes//Pod/gone/gone-7d9f8c6b5-{at:06}"), format!("{at:016x}"))));
    let accepted = addresses.len();
    running.server.hello = Hello::resuming([addresses, policies]);
    let many = running.server.clients(1);
    let answered = many.synced(SYNC).await;
    let told = many.tally.resources.get();
    many.stop().await;
    sample.add("versions accepted in one request", if answered.is_ok() { accepted as f64 } else { 0.0 }, "");
    // Without this an answer that ignores the names would pass.
    anyhow::ensure!(answered.is_err() || told == gone as u64, "void: {told} names removed or sent, {gone} are gone");
    running.stop().await;
    bench.keep(world);
    Ok(Some(sample))
}

async fn storm(server: &Server, count: usize) -> anyhow::Result<Sample> {
    let pid = server.pid;
    let mut meter = Meter::new(pid);
    reset_peak(pid)?;
    let (before, used, started) = (memory(pid)?, meter.read()?, Instant::now());
    let clients = server.clients(count);
    let wall = clients.synced(SYNC).await? - started;
    sleep(Duration::from_millis(50)).await;
    clients.check()?;
    let (cpu, after) = (meter.read()? - used, memory(pid)?);
    let mut sample = Sample::default();
    sample.add("server CPU of all reconnects", cpu.as_secs_f64(), "s");
    sample.add("server CPU per client", millis(cpu) / count as f64, "ms");
    sample.add("wall until the last client is told", wall.as_secs_f64(), "s");
    sample.add("resources sent again", clients.tally.resources.get() as f64, "");
    sample.add("peak RSS over RSS before they came back", after.peak / before.rss, "x");
    clients.stop().await;
    Ok(sample)
}
