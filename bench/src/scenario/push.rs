//! One pod changes at a time, and everybody is told.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::time::{sleep, sleep_until};

use super::{Bench, Outcome, SYNC, channel, micros, millis};
use crate::client::{Clients, Credentials};
use crate::http2::Target;
use crate::limit::Limit;
use crate::mesh::{HOT_PODS, Mesh};
use crate::message::Message;
use crate::process::Meter;
use crate::progress;
use crate::report::{Budget, finding, median, percentile};

/// How long the file source waits for quiet before it reads.
const QUIET: f64 = 50.0;
/// How long a change may take to reach everybody.
const ARRIVAL: Duration = Duration::from_secs(5);

/// What a series of changes cost.
struct Series {
    /// CPU of the server for each change.
    cpu: Duration,
    /// Milliseconds from the change to the first, the middle and the last
    /// client, for each change.
    latency: [Vec<f64>; 3],
}

/// Something that can be made to push.
trait Source {
    fn change(&mut self, number: usize) -> anyhow::Result<Instant>;
}

/// The files of a folder.
struct Files<'a> {
    mesh: &'a Mesh,
    staging: std::path::PathBuf,
}

impl Source for Files<'_> {
    fn change(&mut self, number: usize) -> anyhow::Result<Instant> {
        let at = number % HOT_PODS.min(self.mesh.size.pods);
        std::fs::write(&self.staging, self.mesh.hot_pod(at, number))?;
        let changed = Instant::now();
        std::fs::rename(&self.staging, self.mesh.hot_file(at))?;
        Ok(changed)
    }
}

impl Source for Limit {
    fn change(&mut self, number: usize) -> anyhow::Result<Instant> {
        let changed = Instant::now();
        self.push(number)?;
        Ok(changed)
    }
}

/// Runs the scenario.
pub async fn run(bench: &mut Bench) -> anyhow::Result<Outcome> {
    let (streams, rate, seconds) = (bench.options.streams, bench.options.rate, bench.options.seconds);
    let changes = (u64::from(rate) * seconds).max(1) as usize;
    let served = bench.serve(bench.options.small_pods).await?;
    let mut files = Files { mesh: &served.mesh, staging: bench.work().join("staged.yaml") };
    let update = update(&served.fairway.target(false)?, &mut files).await?;
    let mut first_change = 1;
    let mut findings = Vec::new();
    for tls in [false, true] {
        let credentials = served.fairway.credentials(&served.mesh, tls)?;
        let target = served.fairway.target(tls)?;
        let mut measure = Measure { pid: served.fairway.pid(), target, credentials, rate, first: first_change };
        // What a change costs whoever listens.
        let alone = measure.series(&mut files, 1, (changes / 2).max(1)).await?;
        let mut all = measure.series(&mut files, streams, changes).await?;
        first_change = measure.first;

        let first = [served.addresses.bytes.as_slice(), &served.policies.bytes];
        let mut limit = Limit::start(bench.work(), tls, &first, &update.bytes)?;
        let (pid, target) = (limit.pid(), limit.target(tls)?);
        let mut measure = Measure { pid, target, credentials: measure.credentials, rate, first: 1 };
        let limit_alone = measure.series(&mut limit, 1, (changes / 2).max(1)).await?;
        let mut limit_all = measure.series(&mut limit, streams, changes).await?;

        let name = channel(tls);
        let each = |all: &Series, alone: &Series| {
            micros(all.cpu.saturating_sub(alone.cpu)) / (streams.saturating_sub(1).max(1)) as f64
        };
        let (cpu, limit_cpu) = (each(&all, &alone), each(&limit_all, &limit_alone));
        progress(&format!("  {name}: {cpu:.1} us per client and change, limit {limit_cpu:.1}"));
        findings.push(
            finding(format!("{name}: server CPU per client and change"), cpu, "us")
                .limit(limit_cpu)
                .budget(Budget::AtMost(20.0)),
        );
        findings.push(finding(format!("{name}: server CPU per change with one client"), micros(alone.cpu), "us"));
        for (who, (ours, limits)) in
            ["first", "median", "last"].into_iter().zip(all.latency.iter_mut().zip(&mut limit_all.latency))
        {
            let (half, limit_half) = (median(ours), median(limits));
            let (most, limit_most) = (percentile(ours, 0.99), percentile(limits, 0.99));
            findings.push(
                finding(format!("{name}: latency to the {who} client, p50, less 50 ms"), half - QUIET, "ms")
                    .limit(limit_half),
            );
            findings.push(
                finding(format!("{name}: latency to the {who} client, p99, less 50 ms"), most - QUIET, "ms")
                    .limit(limit_most),
            );
            if who == "last" {
                findings.push(finding(format!("{name}: the same raw, p50"), half, "ms"));
                findings.push(finding(format!("{name}: the same raw, p99"), most, "ms"));
            }
        }
    }
    drop(served);

    // What a change costs in a large mesh, and how long it takes there.
    let served = bench.serve(bench.options.pods).await?;
    let mut files = Files { mesh: &served.mesh, staging: bench.work().join("staged.yaml") };
    let credentials = served.fairway.credentials(&served.mesh, false)?;
    let target = served.fairway.target(false)?;
    let mut measure = Measure { pid: served.fairway.pid(), target, credentials, rate, first: 1 };
    let mut large = measure.series(&mut files, 1, (changes / 2).max(1)).await?;
    let pods = served.mesh.size.pods;
    findings.push(finding(format!("{pods} pods: server CPU per change with one client"), micros(large.cpu), "us"));
    let latency = median(&mut large.latency[2]) - QUIET;
    findings.push(finding(format!("{pods} pods: latency to one client, p50, less 50 ms"), latency, "ms"));
    Ok(Outcome {
        setting: format!(
            "{streams} streams, {} pods, {rate} changes a second for {seconds} s, one pod each; {} bytes per message",
            bench.options.small_pods,
            update.bytes.len()
        ),
        limit: "a server that writes one prepared message of that size to all streams",
        findings,
    })
}

/// What a client is sent when one pod changes.
async fn update(target: &Target, source: &mut impl Source) -> anyhow::Result<Message> {
    let credentials = [Credentials { node: 0, pod: "ztunnel-watch".into(), token: None }];
    let clients = Clients::start(target, &credentials, 1);
    clients.synced(SYNC).await?;
    clients.tally.arrivals.replace(vec![Vec::new(); 1]);
    source.change(0)?;
    arrived(&clients, 1).await?;
    let message = clients.tally.update.take();
    clients.stop().await;
    ensure!(message.resources == 1, "a change of one pod sent {} resources", message.resources);
    Ok(message)
}

/// Waits until all changes have reached all clients.
async fn arrived(clients: &Clients, count: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + ARRIVAL;
    while clients.tally.arrivals.borrow().iter().any(|arrivals| arrivals.len() < count) {
        clients.check()?;
        let missing = || clients.tally.arrivals.borrow().iter().filter(|arrivals| arrivals.len() < count).count();
        ensure!(Instant::now() < deadline, "void: {} changes did not reach all clients", missing());
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// One server under changes.
struct Measure {
    pid: u32,
    target: Target,
    credentials: Vec<Credentials>,
    rate: u32,
    /// The number of the next change; none is used twice on a folder.
    first: usize,
}

impl Measure {
    async fn series(&mut self, source: &mut impl Source, streams: usize, changes: usize) -> anyhow::Result<Series> {
        let clients = Clients::start(&self.target, &self.credentials, streams);
        clients.synced(SYNC).await?;
        clients.tally.arrivals.replace(vec![Vec::new(); self.first + changes]);
        // Those before the first have been made to be counted as arrived.
        for arrivals in &mut clients.tally.arrivals.borrow_mut()[..self.first] {
            *arrivals = vec![Instant::now(); streams];
        }
        sleep(Duration::from_millis(500)).await;
        let mut meter = Meter::new(self.pid);
        let used = meter.read()?;
        let period = Duration::from_secs(1) / self.rate;
        let start = tokio::time::Instant::now();
        let mut made = Vec::with_capacity(changes);
        for number in 0..changes {
            sleep_until(start + period * number as u32).await;
            made.push(source.change(self.first + number)?);
        }
        arrived(&clients, streams).await?;
        // The last acknowledgements are still being read.
        sleep(Duration::from_millis(100)).await;
        let cpu = (meter.read()? - used) / changes as u32;
        clients.check()?;
        let mut latency = [Vec::new(), Vec::new(), Vec::new()];
        for (number, made) in made.iter().enumerate() {
            let mut arrivals = clients.tally.arrivals.borrow()[self.first + number].clone();
            arrivals.sort();
            ensure!(arrivals.len() == streams, "void: {} arrivals of one change at {streams}", arrivals.len());
            for (list, at) in latency.iter_mut().zip([0, streams / 2, streams - 1]) {
                list.push(millis(arrivals[at].saturating_duration_since(*made)));
            }
        }
        self.first += changes;
        clients.stop().await;
        sleep(Duration::from_millis(200)).await;
        Ok(Series { cpu, latency })
    }
}
