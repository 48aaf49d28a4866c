//! What a workload costs in memory: two meshes, and the difference.

use tokio::time::sleep;

use super::{Bench, Outcome, SETTLE};
use crate::process::memory;
use crate::progress;
use crate::report::{Budget, finding};

/// Runs the scenario.
pub async fn run(bench: &mut Bench) -> anyhow::Result<Outcome> {
    let pods = bench.options.pods;
    let mut findings = Vec::new();
    let mut steady = Vec::new();
    let mut wire = Vec::new();
    for pods in [pods, 2 * pods] {
        let served = bench.serve(pods).await?;
        sleep(SETTLE).await;
        let now = memory(served.fairway.pid())?;
        progress(&format!("  {pods} pods: RSS {:.0} MB", now.rss / 1e6));
        findings.push(finding(format!("{pods} pods: RSS after the first client"), now.rss / 1e6, "MB"));
        findings.push(finding(format!("{pods} pods: peak RSS of the start"), now.peak / 1e6, "MB"));
        steady.push((served.mesh.size.workloads() as f64, now.rss));
        wire.push(served.addresses.bytes.len() as f64);
    }
    let [(small, less), (large, more)] = steady[..] else { anyhow::bail!("two meshes") };
    findings.push(
        finding("RSS per workload, with its share of services and nodes", (more - less) / (large - small), "bytes")
            .limit((wire[1] - wire[0]) / (large - small))
            .budget(Budget::AtMost(2500.0)),
    );
    Ok(Outcome {
        setting: format!("{pods} and {} pods, from files", 2 * pods),
        limit: "the bytes that a workload and its share of services have on the wire",
        findings,
    })
}
