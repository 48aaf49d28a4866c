//! Something changes half of all workloads at once.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::time::sleep;

use super::{AGREE, Bench, SYNC, Who};
use crate::client::Clients;
use crate::mesh::{Size, namespace_name, write};
use crate::options::{Driver, Options};
use crate::process::{Meter, memory, reset_peak};
use crate::progress::Progress;
use crate::report::{Budget, Budgets, Sample};

pub const LIMIT: &str = "a server that sends the same messages to as many streams from one buffer";
const PODS: usize = 20_000;
const STREAMS: usize = 300;

pub fn setting((): (), options: &Options) -> String {
    let (pods, streams) = (options.pods.unwrap_or(PODS), options.streams.unwrap_or(STREAMS));
    format!("{pods} pods from files, half of them in one namespace, {streams} streams; wall less 50 ms")
}

pub fn budgets((): (), _: &Options) -> Budgets {
    vec![("server CPU per stream", Budget::TimesLimit(2.0))]
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let count = bench.options.streams.unwrap_or(STREAMS);
    let Who::Plane(launch) = who else {
        let recorded = &bench.recorded;
        let (mut limit, server) = bench.limit(bench.options.tls, &recorded.update)?;
        let clients = server.synced(count).await?;
        let change = || {
            limit.push(0)?;
            Ok(Instant::now())
        };
        return fan_out(server.pid, &clients, recorded.messages, 0.0, change).await.map(Some);
    };
    let size = Size { namespaces: 2, ..bench.options.size(PODS, true) };
    let mut world = bench.world(Driver::Files, size).await?;
    let folder = world.folder().context("a namespace is labelled in a folder only")?.to_owned();
    write(&folder.join("waypoint.yaml"), &waypoint(&namespace_name(0)))?;
    let running = bench.serve(&world, launch, false).await?;
    let clients = running.server.synced(count).await?;
    // Every pod and every service of the namespace.
    let expected = size.pods.div_ceil(size.namespaces) + size.services.div_ceil(size.namespaces);
    let quiet = world.quiet();
    let sample = fan_out(running.server.pid, &clients, expected, quiet, || world.set_waypoint(0, true)).await?;
    clients.stop().await;
    running.checker.agrees(&world, AGREE).await?;
    bench.recorded.update.clone_from(&running.checker.table.borrow().updates);
    bench.recorded.messages = expected;
    running.stop().await;
    // The folder is as it was, for the next round.
    world.set_waypoint(0, false)?;
    bench.keep(world);
    Ok(Some(sample))
}

async fn fan_out(
    pid: u32,
    clients: &Clients,
    expected: usize,
    quiet: f64,
    change: impl FnOnce() -> anyhow::Result<Instant>,
) -> anyhow::Result<Sample> {
    sleep(Duration::from_secs(1)).await;
    let tally = &clients.tally;
    let streams = tally.synced.get();
    let mut meter = Meter::new(pid);
    reset_peak(pid)?;
    let (before, used, resources, bytes) = (memory(pid)?, meter.read()?, tally.resources.get(), tally.bytes.get());
    let changed = change()?;
    let deadline = changed + SYNC;
    let mut progress = Progress::start("resources that reached clients", streams * expected);
    loop {
        let had = (tally.resources.get() - resources) as usize;
        progress.at(had);
        if had >= streams * expected {
            break;
        }
        clients.check()?;
        ensure!(Instant::now() < deadline, "void: only {had} of {} resources arrived", streams * expected);
        sleep(Duration::from_millis(2)).await;
    }
    let wall = changed.elapsed();
    sleep(Duration::from_millis(100)).await;
    let (cpu, after) = (meter.read()? - used, memory(pid)?);
    let mut sample = Sample::default();
    sample.add("server CPU per stream", cpu.as_secs_f64() * 1e3 / streams as f64, "ms");
    sample.add("server CPU", cpu.as_secs_f64(), "s");
    sample.add("wall until the last client has all", wall.as_secs_f64() - quiet / 1e3, "s");
    sample.add("bytes per stream", (tally.bytes.get() - bytes) as f64 / streams as f64 / 1e6, "MB");
    sample.add("resources per stream", (tally.resources.get() - resources) as f64 / streams as f64, "");
    sample.add("growth of the peak", (after.peak - before.rss) / 1e6, "MB");
    Ok(sample)
}

fn waypoint(namespace: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: waypoint
  namespace: {namespace}
  labels:
    istio.io/waypoint-for: all
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - {{ name: mesh, port: 15008, protocol: HBONE }}
status:
  addresses:
  - {{ type: Hostname, value: waypoint.{namespace}.svc.cluster.local }}
"
    )
}
