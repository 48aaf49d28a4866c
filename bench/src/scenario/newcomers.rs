//! Clients that know nothing come, in crowds and again and again, while pods
//! change: what the mesh as a whole is sent must not wait for what they are.
//!
//! Newcomers are a thread of this program beside the one of the clients that
//! hear of changes, and both share the machine with the control plane and the
//! API server. With two cores most of what a change then waits for is a core.
//! How much that is, the limit says: a server that has every byte prepared,
//! under as many newcomers. So what is judged is not the delay but the delay
//! over the limit's.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::sleep_until;

use super::churn::{self, Load, PODS, STREAMS};
use super::renewal::load;
use super::{Bench, SYNC, Server, Stage, Who, millis};
use crate::client::{Clients, Credentials, Hello};
use crate::http2::Target;
use crate::options::Options;
use crate::report::{Budget, Budgets, Sample};
use crate::stats::median;

pub const LIMIT: &str = "a server that writes prepared messages, to as many streams, beside as many newcomers";
/// How often a crowd comes, unless the last one is still there.
const EVERY: Duration = Duration::from_secs(1);
const SLOWDOWN: &str = "latency p99, beside newcomers over quiet";

pub fn setting((): (), options: &Options) -> String {
    let (Load { rate, seconds }, newcomers) = (load(options), options.newcomers);
    format!(
        "{} pods, {rate} changes a second, {} streams, for {seconds} s quiet and {seconds} s with {newcomers} clients \
         that know nothing each second",
        options.pods.unwrap_or(PODS),
        options.streams.unwrap_or(STREAMS)
    )
}

pub fn budgets((): (), _: &Options) -> Budgets {
    vec![(SLOWDOWN, Budget::TimesLimit(1.2))]
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let Who::Plane(launch) = who else {
        let (mut limit, server) = bench.limit(bench.options.tls, &bench.recorded.update)?;
        let clients = server.synced(bench.options.streams.unwrap_or(STREAMS)).await?;
        let quiet = churn::pushes(bench, &mut limit, &clients).await?;
        let crowds = Crowds::start(&server, bench.options.newcomers)?;
        let busy = churn::pushes(bench, &mut limit, &clients).await?;
        let sample = sample(&quiet, &busy, &crowds.end().await?);
        clients.stop().await;
        return sample.map(Some);
    };
    churn::staged(bench, launch, compare).await
}

async fn compare(bench: &mut Bench, stage: &mut Stage) -> anyhow::Result<Sample> {
    let load = load(&bench.options);
    let quiet = churn::churn(bench, stage, load).await?;
    let crowds = Crowds::start(&stage.running.server, bench.options.newcomers)?;
    let busy = churn::churn(bench, stage, load).await?;
    sample(&quiet, &busy, &crowds.end().await?)
}

fn sample(quiet: &Sample, busy: &Sample, crowds: &[f64]) -> anyhow::Result<Sample> {
    let mut sample = Sample::default();
    for (latencies, when) in [(quiet, "quiet"), (busy, "beside newcomers")] {
        for part in ["p50", "p99"] {
            let latency = latencies.get(&format!("latency {part}")).context("no latency")?;
            sample.add(format!("latency {part} {when}"), latency, "ms");
        }
    }
    let p99 = |when: &str| sample.get(&format!("latency p99 {when}")).context("no latency");
    sample.add(SLOWDOWN, p99("beside newcomers")? / p99("quiet")?, "x");
    sample.add("crowds", crowds.len() as f64, "");
    sample.add("until all of a crowd are complete, p50", median(crowds), "ms");
    Ok(sample)
}

/// Crowds that come one after the other until this is dropped, on a thread of
/// their own.
struct Crowds {
    /// Whose end is theirs.
    leave: oneshot::Sender<()>,
    /// Milliseconds until each was complete.
    left: oneshot::Receiver<anyhow::Result<Vec<f64>>>,
}

impl Crowds {
    fn start(server: &Server, count: usize) -> anyhow::Result<Self> {
        let ((leave, told), (say, left)) = (oneshot::channel(), oneshot::channel());
        let (target, credentials, complete) =
            (server.target.clone(), server.credentials.clone(), server.hello.complete);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            let hello = Hello::empty(complete[0], complete[1]);
            let crowds = crowds(&target, &credentials, count, &hello, told);
            // Nobody may be left to hear it.
            let _ = say.send(LocalSet::new().block_on(&runtime, crowds));
        };
        std::thread::Builder::new().name("newcomers".into()).spawn(work)?;
        Ok(Self { leave, left })
    }

    async fn end(self) -> anyhow::Result<Vec<f64>> {
        drop(self.leave);
        self.left.await.context("the newcomers' thread has ended")?
    }
}

async fn crowds(
    target: &Target,
    credentials: &[Credentials],
    count: usize,
    hello: &Hello,
    mut told: oneshot::Receiver<()>,
) -> anyhow::Result<Vec<f64>> {
    let (mut took, mut due) = (Vec::new(), tokio::time::Instant::now());
    loop {
        let crowd = async {
            sleep_until(due).await;
            let (started, clients) = (Instant::now(), Clients::start(target, credentials, count, hello));
            let synced = clients.all_synced(SYNC, |_| {}).await?;
            clients.stop().await;
            anyhow::Ok(millis(synced - started))
        };
        tokio::select! {
            _ = &mut told => return Ok(took),
            crowd = crowd => took.push(crowd?),
        }
        due = (due + EVERY).max(tokio::time::Instant::now());
    }
}
