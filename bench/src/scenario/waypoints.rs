//! Equal waypoints: proxies of one Gateway that can do the same. They are told
//! the same, so it should be there once.

use tokio::time::sleep;

use super::waypoint;
use super::{Bench, SETTLE, SYNC, Who};
use crate::envoy::Wants;
use crate::http2::Target;
use crate::options::Options;
use crate::process::memory;
use crate::report::{Budget, Budgets, Sample};

pub const LIMIT: &str = "a server that has sent as many streams the same bytes and keeps nothing";
const WAYPOINTS: usize = 200;
const SHARED: &str = "RSS with all, less as many idle streams, over that with one";

pub fn setting((): (), options: &Options) -> String {
    let waypoint::Size { services, routes, pods } = waypoint::size(options);
    format!(
        "{} equal waypoints of {services} services, {routes} routes and {pods} pods from files",
        options.streams.unwrap_or(WAYPOINTS)
    )
}

pub fn budgets((): (), _: &Options) -> Budgets {
    vec![(SHARED, Budget::AtMost(1.1))]
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let count = bench.options.streams.unwrap_or(WAYPOINTS).max(2);
    let Who::Plane(launch) = who else { return Ok(Some(std::mem::take(&mut bench.recorded.limit))) };
    let stage = waypoint::stage(bench, launch).await?;
    let mut found = growth(stage.plane.pid(), &stage.target, &stage.wants, count).await?;
    stage.plane.stop().await;
    let (limit, server) = bench.limit(bench.options.tls, &[])?;
    let idle = growth(limit.pid(), &server.target, &stage.wants, count).await?;
    let value = |of: &Sample, what| of.get(what).unwrap_or(f64::NAN);
    let streams = value(&idle, EACH) * 1024.0 * (count - 1) as f64 / 1e6;
    let shared = (value(&found, ALL) - streams) / value(&found, ONE);
    found.add(SHARED, shared, "x");
    bench.recorded.limit = idle;
    Ok(Some(found))
}

const ONE: &str = "RSS with one";
const ALL: &str = "RSS with all";
const EACH: &str = "RSS per further waypoint";

/// The memory of a server with one stream and with all of them.
async fn growth(pid: u32, target: &Target, wants: &[Wants], count: usize) -> anyhow::Result<Sample> {
    let first = Wants::clients(wants, target, 1);
    first.synced(SYNC).await?;
    sleep(SETTLE).await;
    let one = memory(pid)?.rss;
    let others = Wants::clients(wants, target, count - 1);
    others.synced(SYNC).await?;
    sleep(2 * SETTLE).await;
    let all = memory(pid)?.rss;
    first.check()?;
    others.check()?;
    others.stop().await;
    first.stop().await;
    let mut sample = Sample::default();
    sample.add(ONE, one / 1e6, "MB");
    sample.add(ALL, all / 1e6, "MB");
    sample.add(EACH, (all - one) / 1024.0 / (count - 1) as f64, "KiB");
    Ok(sample)
}
