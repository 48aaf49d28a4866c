//! Streams on which nothing happens.

use std::time::Duration;

use tokio::time::sleep;

use super::{Bench, Outcome, SETTLE, SYNC, channel};
use crate::client::{Clients, Credentials};
use crate::http2::Target;
use crate::limit::Limit;
use crate::process::{Meter, memory};
use crate::progress;
use crate::report::{Budget, finding};

/// How long the CPU of idle streams is watched.
const WATCH: Duration = Duration::from_secs(5);

/// What one stream costs while it is idle.
struct Cost {
    /// KiB.
    rss: f64,
    /// KiB.
    pss: f64,
    /// Microseconds of CPU a second.
    cpu: f64,
}

/// Runs the scenario.
pub async fn run(bench: &mut Bench) -> anyhow::Result<Outcome> {
    let count = bench.options.idle_streams;
    let pods = bench.options.small_pods;
    let mut findings = Vec::new();
    for tls in [false, true] {
        // A process of its own for each row: memory that was used and given
        // back would otherwise be counted as free.
        let served = bench.serve(pods).await?;
        let credentials = served.fairway.credentials(&served.mesh, tls)?;
        let fairway = idle(served.fairway.pid(), &served.fairway.target(tls)?, &credentials, count).await?;
        let first = [served.addresses.bytes.as_slice(), &served.policies.bytes];
        let limit = Limit::start(bench.work(), tls, &first, &[])?;
        let limit = idle(limit.pid(), &limit.target(tls)?, &credentials, count).await?;
        let name = channel(tls);
        progress(&format!("  {name}: {:.1} KiB per stream, limit {:.1}", fairway.rss, limit.rss));
        findings.push(
            finding(format!("{name}: RSS per stream"), fairway.rss, "KiB")
                .limit(limit.rss)
                .budget(Budget::AtMost(64.0)),
        );
        findings.push(finding(format!("{name}: PSS per stream"), fairway.pss, "KiB").limit(limit.pss));
        findings.push(finding(format!("{name}: CPU per stream and second"), fairway.cpu, "us").limit(limit.cpu));
    }
    Ok(Outcome {
        setting: format!("{count} streams, all synced with {pods} pods, then left alone"),
        limit: "a server that has sent as many streams the same bytes and keeps nothing",
        findings,
    })
}

async fn idle(pid: u32, target: &Target, credentials: &[Credentials], count: usize) -> anyhow::Result<Cost> {
    let one = Clients::start(target, credentials, 1);
    one.synced(SYNC).await?;
    one.stop().await;
    sleep(SETTLE).await;
    let before = memory(pid)?;
    let clients = Clients::start(target, credentials, count);
    clients.synced(SYNC).await?;
    sleep(SETTLE).await;
    let after = memory(pid)?;
    let mut meter = Meter::new(pid);
    let used = meter.read()?;
    sleep(WATCH).await;
    let cpu = (meter.read()? - used).as_secs_f64() * 1e6 / WATCH.as_secs_f64() / count as f64;
    clients.check()?;
    clients.stop().await;
    let each = |after: f64, before: f64| (after - before) / 1024.0 / count as f64;
    Ok(Cost { rss: each(after.rss, before.rss), pss: each(after.pss, before.pss), cpu })
}
