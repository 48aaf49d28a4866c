//! Pods are replaced: new ones come without being ready, become ready, old ones
//! end and go.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::churn::{PODS, STREAMS};
use super::{AGREE, Bench, Stage, Who};
use crate::check::{Event, Table};
use crate::options::Options;
use crate::process::Meter;
use crate::report::{Budget, Budgets, Sample};
use crate::stats::percentile;
use crate::world::{Op, Timed, World};

pub const LIMIT: &str = "for bytes, each state that was told once";
/// How many pods are replaced.
const REPLACED: usize = 1000;
const SECONDS: u64 = 30;
/// How long commits may hold back what happens, by design.
const WINDOW: Duration = Duration::from_millis(10);
/// How far apart our watch and the control plane may see one event on a busy
/// machine.
const BLUR: Duration = Duration::from_millis(20);

pub fn setting((): (), options: &Options) -> String {
    format!(
        "{} of {} pods are replaced in {} s, four changes for each, {} streams; latency to the checking client",
        replaced(options),
        options.pods.unwrap_or(PODS),
        options.seconds.unwrap_or(SECONDS),
        options.streams.unwrap_or(STREAMS)
    )
}

pub fn budgets((): (), _: &Options) -> Budgets {
    vec![
        ("bytes of resources over the least", Budget::AtMost(1.05)),
        ("unhealthy states hidden longer than the window", Budget::AtMost(0.0)),
    ]
}

fn replaced(options: &Options) -> usize {
    REPLACED.min(options.pods.unwrap_or(PODS) / 2)
}

/// What happens to each pair of an old and a new pod, and how long after the
/// pair's turn has come.
fn schedule(world: &World, replaced: usize, seconds: u64) -> Vec<(Duration, Op)> {
    let mut schedule = Vec::new();
    for number in 0..replaced {
        let turn = Duration::from_secs(seconds).mul_f64(number as f64 / replaced as f64);
        let (old, new) = (number, world.mesh.new_pod(world.next + number));
        schedule.extend([
            (turn, Op::Create { pod: new }),
            (turn + Duration::from_millis(700), Op::Ready { pod: new }),
            (turn + Duration::from_millis(1000), Op::Terminate { pod: old }),
            (turn + Duration::from_millis(1500), Op::Remove { pod: old }),
        ]);
    }
    schedule.sort_by_key(|(due, _)| *due);
    schedule
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let Who::Plane(launch) = who else { return Ok(None) };
    let (streams, seconds) = (bench.options.streams.unwrap_or(STREAMS), bench.options.seconds.unwrap_or(SECONDS));
    let replaced = replaced(&bench.options);
    let Stage { mut world, running, clients } = bench.stage(launch, PODS, streams).await?;
    sleep(Duration::from_secs(1)).await;
    let mut meter = Meter::new(running.plane.pid());
    let (used, bytes) = (meter.read()?, clients.tally.bytes.get());
    let schedule = schedule(&world, replaced, seconds);
    let played = world.play(schedule).await?;
    running.checker.agrees(&world, AGREE).await?;
    sleep(Duration::from_millis(100)).await;
    let (cpu, bytes) = (meter.read()? - used, clients.tally.bytes.get() - bytes);
    clients.check()?;
    clients.stop().await;

    let mut sample = judge(&running.checker.table.borrow(), &world, &played);
    let least = running.checker.table.borrow().needed_bytes as f64;
    sample.add("all bytes over the least", bytes as f64 / streams as f64 / least, "x");
    sample.add("server CPU", cpu.as_secs_f64(), "s");
    running.stop().await;
    // This mesh is not what other scenarios take it for.
    drop(world);
    Ok(Some(sample))
}

/// What the checking client was told of what was seen to happen.
fn judge(table: &Table, world: &World, played: &[Timed]) -> Sample {
    let told = told(&table.events);
    let (mut latency, mut hidden) = (Vec::new(), 0);
    for timed in played {
        let at = timed.seen.unwrap_or(timed.answered);
        let (namespace, name) = world.mesh.pod_name(timed.op.pod());
        let uid = format!("Kubernetes//Pod/{namespace}/{name}");
        let state = match timed.op {
            Op::Remove { .. } => None,
            Op::Ready { .. } | Op::Revise { .. } => Some(true),
            Op::Create { .. } | Op::Terminate { .. } => Some(false),
        };
        // The next state of the pod ends this one.
        let next = played.iter().filter(|other| other.op.pod() == timed.op.pod());
        let end = next.map(|other| other.seen.unwrap_or(other.answered)).filter(|other| *other > at).min();
        let events = told.get(uid.as_str()).map_or(&[][..], Vec::as_slice);
        // Each pod is in each state once, so there is nothing to confuse it
        // with, and our watch may well be the later one.
        match events.iter().find(|(_, healthy)| *healthy == state) {
            Some((when, _)) => latency.push(signed_millis(*when, at)),
            None if state == Some(false) && end.is_none_or(|end| end - at > WINDOW + BLUR) => hidden += 1,
            None => {}
        }
    }
    let mut sample = Sample::default();
    for (name, part) in [("latency p50", 0.5), ("latency p99", 0.99), ("latency max", 1.0)] {
        sample.add(name, percentile(&mut latency, part), "ms");
    }
    sample.add("states", played.len() as f64, "");
    sample.add("states told", latency.len() as f64, "");
    sample.add("unhealthy states hidden longer than the window", f64::from(hidden), "");
    let least = table.needed_bytes as f64;
    sample.add("bytes of resources over the least", table.resource_bytes as f64 / least, "x");
    sample.add("messages", table.messages as f64, "");
    sample
}

/// When each workload was told to be what.
fn told(events: &[Event]) -> HashMap<&str, Vec<(Instant, Option<bool>)>> {
    let mut told: HashMap<&str, Vec<_>> = HashMap::new();
    for event in events {
        told.entry(&event.name).or_default().push((event.at, event.healthy));
    }
    told
}

fn signed_millis(when: Instant, since: Instant) -> f64 {
    let (late, early) = (when.saturating_duration_since(since), since.saturating_duration_since(when));
    super::millis(late) - super::millis(early)
}
