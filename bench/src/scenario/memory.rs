//! What a workload costs in memory: meshes of several sizes, and the slope of
//! the line through them.

use tokio::time::sleep;

use super::{Bench, SETTLE, Who};
use crate::options::{Driver, Options};
use crate::process::memory;
use crate::progress::say;
use crate::report::{Budget, Budgets, Sample};
use crate::stats::slope;

pub const LIMIT: &str = "the bytes that a workload and its share of services have on the wire";
const PODS: usize = 40_000;
/// Parts of the largest mesh.
const PARTS: [usize; 3] = [4, 2, 1];
const MILLION: usize = 1_000_000;

pub fn setting((): (), options: &Options) -> String {
    format!("meshes of a quarter, half and all of {} pods, compact, one client", options.pods.unwrap_or(PODS))
}

pub fn budgets((): (), options: &Options) -> Budgets {
    let mut budgets = vec![("RSS per workload with its share of services and nodes", Budget::AtMost(1500.0))];
    if options.pods.unwrap_or(PODS) == MILLION {
        budgets.push(("RSS of the largest", Budget::AtMost(2000.0)));
    }
    budgets
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    const SLOPE: &str = "RSS per workload with its share of services and nodes";
    let mut sample = Sample::default();
    let Who::Plane(launch) = who else { return Ok(Some(bench.recorded.limit.clone())) };
    let (mut steady, mut wire) = (Vec::new(), Vec::new());
    for part in PARTS {
        let pods = bench.options.pods.unwrap_or(PODS) / part;
        let mut size = bench.options.size(pods, true);
        (size.pods, size.services) = (pods, bench.options.services.unwrap_or(pods / 20).max(50));
        let world = bench.world(Driver::Files, size).await?;
        let running = bench.serve(&world, launch, false).await?;
        sleep(SETTLE).await;
        let now = memory(running.plane.pid())?;
        say(&format!("  {pods} pods: RSS {:.0} MB", now.rss / 1e6));
        let workloads = size.workloads() as f64;
        steady.push((workloads, now.rss));
        wire.push((workloads, bench.recorded.first.iter().map(Vec::len).sum::<usize>() as f64));
        if part == 1 {
            sample.add("RSS of the largest", now.rss / 1e6, "MB");
            sample.add("peak RSS of the largest", now.peak / 1e6, "MB");
        }
        running.stop().await;
        // The largest of these are much of a disk.
        if let Some(folder) = world.folder() {
            std::fs::remove_dir_all(folder)?;
        }
    }
    bench.recorded.limit.add(SLOPE, slope(&wire), "bytes");
    sample.add(SLOPE, slope(&steady), "bytes");
    Ok(Some(sample))
}
