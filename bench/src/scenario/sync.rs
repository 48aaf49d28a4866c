//! Many clients that connect at once and know nothing yet.

use std::time::{Duration, Instant};

use super::{Bench, Outcome, SYNC, channel, millis};
use crate::client::{Clients, Credentials};
use crate::http2::Target;
use crate::limit::Limit;
use crate::process::{Meter, memory, reset_peak};
use crate::progress;
use crate::report::{Budget, finding};

/// What one server needed.
struct Cost {
    /// CPU for each client.
    cpu: Duration,
    wall: Duration,
    /// Peak beyond what it had before.
    growth: f64,
    bytes: u64,
}

/// Runs the scenario.
pub async fn run(bench: &mut Bench) -> anyhow::Result<Outcome> {
    let served = bench.serve(bench.options.pods).await?;
    let count = bench.options.clients;
    let mut findings = Vec::new();
    let mut bytes = 0;
    for tls in [false, true] {
        let credentials = served.fairway.credentials(&served.mesh, tls)?;
        let first = [served.addresses.bytes.as_slice(), &served.policies.bytes];
        let limit = Limit::start(bench.work(), tls, &first, &[])?;
        // Each once without being measured, for what is built only once.
        let _ = sync(served.fairway.pid(), &served.fairway.target(tls)?, &credentials, 1).await?;
        let _ = sync(limit.pid(), &limit.target(tls)?, &credentials, 1).await?;
        let fairway = sync(served.fairway.pid(), &served.fairway.target(tls)?, &credentials, count).await?;
        let limit = sync(limit.pid(), &limit.target(tls)?, &credentials, count).await?;
        bytes = fairway.bytes / count as u64;
        let name = channel(tls);
        progress(&format!("  {name}: {:.2} ms, limit {:.2} ms", millis(fairway.cpu), millis(limit.cpu)));
        findings.push(
            finding(format!("{name}: server CPU per client"), millis(fairway.cpu), "ms")
                .limit(millis(limit.cpu))
                .budget(Budget::TimesLimit(2.0)),
        );
        findings.push(
            finding(format!("{name}: wall until the last client is complete"), fairway.wall.as_secs_f64(), "s")
                .limit(limit.wall.as_secs_f64()),
        );
        findings
            .push(finding(format!("{name}: growth of the peak"), fairway.growth / 1e6, "MB").limit(limit.growth / 1e6));
    }
    Ok(Outcome {
        setting: format!(
            "{count} clients, {} addresses and {} policies, {:.1} MB each",
            served.mesh.size.addresses(),
            served.mesh.size.policies(),
            bytes as f64 / 1e6
        ),
        limit: "a server that sends the same bytes to as many clients from one buffer",
        findings,
    })
}

async fn sync(pid: u32, target: &Target, credentials: &[Credentials], count: usize) -> anyhow::Result<Cost> {
    let mut meter = Meter::new(pid);
    reset_peak(pid)?;
    let (before, used, started) = (memory(pid)?, meter.read()?, Instant::now());
    let clients = Clients::start(target, credentials, count);
    let wall = clients.synced(SYNC).await? - started;
    // The last acknowledgements are still being read.
    tokio::time::sleep(Duration::from_millis(50)).await;
    clients.check()?;
    let (cpu, after, bytes) = ((meter.read()? - used) / count as u32, memory(pid)?, clients.tally.bytes.get());
    clients.stop().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(Cost { cpu, wall, growth: after.peak - before.rss, bytes })
}
