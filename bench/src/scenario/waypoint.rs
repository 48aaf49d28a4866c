//! One object of a waypoint with many services changes: a route, or a pod
//! behind a service.
//!
//! All services of a waypoint are in one listener, with their routes, as Istio
//! has it. So a change of one route is megabytes for each waypoint, which the
//! limit sends too; what an Envoy needs to take them in is not measured here.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
pub use fairway_bench::waypoint::Size;
use fairway_bench::waypoint::{GATEWAY, NAMESPACE, Shop, What};
use tokio::time::{sleep, sleep_until};

use super::churn::{percentiles, pushes};
use super::{AGREE, ARRIVAL, Bench, Recorded, SYNC, Who};
use crate::envoy::{Checker, ENDPOINTS, LISTENERS, Wants};
use crate::http2::Target;
use crate::mesh::{Holder, write};
use crate::options::{Driver, Options};
use crate::plane::{Launch, Objects, Plane};
use crate::process::{Meter, memory};
use crate::report::{Budget, Budgets, Sample};
use crate::world::{QUIET, token};

pub const LIMIT: &str = "a server that writes the same bytes, prepared and shared, to as many streams";
const SERVICES: usize = 1000;
const ROUTES_PER_SERVICE: usize = 5;
const PODS_PER_SERVICE: usize = 2;

/// What changes, how often and for how long.
#[derive(Clone, Copy)]
pub struct Load {
    what: What,
    rate: f64,
    seconds: u64,
}

/// Slow enough for each change to be read by itself.
pub const ROUTE: Load = Load { what: What::Route, rate: 4.0, seconds: 10 };
pub const ENDPOINT: Load = Load { what: What::Pod, rate: 8.0, seconds: 10 };

/// How much there is, with other flags.
pub fn size(options: &Options) -> Size {
    let services = options.services.unwrap_or(SERVICES).max(1);
    let routes = options.routes.unwrap_or(services * ROUTES_PER_SERVICE).max(services);
    Size { services, routes, pods: options.pods.unwrap_or(services * PODS_PER_SERVICE).max(services) }
}

pub fn setting(load: Load, options: &Options) -> String {
    let Size { services, routes, pods } = size(options);
    let what = match load.what {
        What::Route => "route",
        What::Pod => "pod",
    };
    format!(
        "a waypoint of {services} services, {routes} routes and {pods} pods from files; one {what} changes {} times a \
         second for {} s, {} stream(s); latency until a client has read and acknowledged it, from when the file was there",
        options.rate.unwrap_or(load.rate),
        options.seconds.unwrap_or(load.seconds),
        options.streams.unwrap_or(1)
    )
}

pub fn budgets(load: Load, _: &Options) -> Budgets {
    match load.what {
        What::Route => {
            vec![("latency p99", Budget::AtMost(15.0)), ("server CPU per message and stream", Budget::TimesLimit(1.5))]
        }
        What::Pod => vec![("latency p99", Budget::AtMost(5.0))],
    }
}

pub async fn run(load: Load, bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let streams = bench.options.streams.unwrap_or(1);
    let Who::Plane(launch) = who else {
        let (mut limit, server) = bench.limit(bench.options.tls, &bench.recorded.update)?;
        let clients = Wants::of(&Shop::new(size(&bench.options)), None).clients(&server.target, streams);
        clients.synced(SYNC).await?;
        let sample = pushes(bench, &mut limit, &clients).await?;
        clients.stop().await;
        return Ok(Some(sample));
    };
    let mut stage = Stage::start(bench, launch).await?;
    let update = stage.typical(load.what).await?;
    let sample = stage.changes(bench, load, streams).await?;
    bench.recorded.update.push(update);
    stage.check().await?;
    stage.plane.stop().await;
    Ok(Some(sample))
}

/// A control plane that serves a waypoint, and has been checked to do so.
pub struct Stage {
    /// What there is.
    pub shop: Shop,
    /// The control plane.
    pub plane: Plane,
    /// Where it is.
    pub target: Target,
    /// What Envoys ask it for.
    pub wants: Wants,
    folder: PathBuf,
    /// The number of the next change.
    next: usize,
}

impl Stage {
    /// Starts a control plane and has everything that it sends checked.
    pub async fn start(bench: &mut Bench, launch: &Launch) -> anyhow::Result<Self> {
        ensure!(bench.options.driver != Some(Driver::Kube), "waypoints are measured on files");
        let folder = bench.work().join(format!("waypoint-{}", std::fs::read_dir(bench.work())?.count()));
        let shop = Shop::new(size(&bench.options));
        shop.write(&folder)?;
        let mut plane = Plane::start(launch, &Objects::Folder(folder.clone()), bench.work())?;
        plane.ready().await?;
        let (target, token) = match bench.options.tls {
            false => (Target::plain(plane.grpc().port()), None),
            true => {
                let root = std::fs::read(plane.state.join("root-cert.pem"))?;
                let target = Target::tls(plane.secure().port(), &root, "istiod.istio-system.svc")?;
                (target, Some(token(&plane, &holder())?))
            }
        };
        let wants = Wants::of(&shop, token);
        let checker = Checker::start(&target, &wants, &shop, SYNC).await?;
        bench.recorded = Recorded { first: checker.held.borrow().first.clone(), ..Default::default() };
        checker.stop().await;
        Ok(Self { shop, plane, target, wants, folder, next: 1 })
    }

    /// Puts a file where the control plane reads it, at once and as a whole.
    fn put(&self, file: &str, text: &str) -> anyhow::Result<Instant> {
        let staging = self.folder.with_extension("staged");
        write(&staging, text)?;
        std::fs::rename(&staging, self.folder.join(file))?;
        Ok(Instant::now())
    }

    fn change(&mut self, what: What) -> (usize, String, String) {
        let number = self.next;
        self.next += 1;
        let (file, text) = self.shop.change(what, number);
        (number, file, text)
    }

    /// What is sent for a change.
    async fn typical(&mut self, what: What) -> anyhow::Result<Vec<u8>> {
        let checker = Checker::start(&self.target, &self.wants, &self.shop, SYNC).await?;
        let (_, file, text) = self.change(what);
        self.put(&file, &text)?;
        checker.agrees(&self.shop, AGREE).await?;
        let place = match what {
            What::Route => LISTENERS,
            What::Pod => ENDPOINTS,
        };
        let update = checker.held.borrow().last[place].clone();
        checker.stop().await;
        Ok(update)
    }

    /// Makes changes by the clock under clients that have everything. The
    /// checking one is away: it has the thread of the clients for itself while
    /// it decodes.
    async fn changes(&mut self, bench: &mut Bench, load: Load, streams: usize) -> anyhow::Result<Sample> {
        let (rate, seconds) = (bench.options.rate.unwrap_or(load.rate), bench.options.seconds.unwrap_or(load.seconds));
        let count = (rate * seconds as f64).ceil().max(1.0) as usize;
        let clients = self.wants.clients(&self.target, streams);
        clients.synced(SYNC).await?;
        let numbers = self.next..self.next + count;
        clients.expect(numbers.end);
        sleep(Duration::from_secs(1)).await;
        let (mut meter, tally) = (Meter::new(self.plane.pid()), &clients.tally);
        let (used, messages, bytes) = (meter.read()?, tally.messages.get(), tally.bytes.get());
        let (began, mut made) = (Instant::now(), Vec::with_capacity(count));
        for at in 0..count {
            let (number, file, text) = self.change(load.what);
            sleep_until((began + Duration::from_secs_f64(at as f64 / rate)).into()).await;
            made.push((number, self.put(&file, &text)?));
        }
        clients.arrived(numbers, ARRIVAL).await?;
        // The last acknowledgements are still being read.
        sleep(Duration::from_millis(100)).await;
        let (cpu, span) = (meter.read()? - used, began.elapsed());
        clients.check()?;
        let (messages, bytes) = (tally.messages.get() - messages, tally.bytes.get() - bytes);
        let mut latencies = clients.latencies(made.into_iter());
        latencies.iter_mut().for_each(|latency| *latency -= QUIET);
        clients.stop().await;
        (bench.recorded.messages, bench.recorded.span) = (messages as usize / streams, span);
        let mut sample = Sample::default();
        percentiles(&mut sample, "latency", latencies);
        sample.add("server CPU per change", cpu.as_secs_f64() * 1e3 / count as f64, "ms");
        sample.add("server CPU per message and stream", cpu.as_secs_f64() * 1e6 / messages as f64, "us");
        sample.add("messages per stream", messages as f64 / streams as f64, "");
        sample.add("bytes per message", bytes as f64 / messages as f64, "");
        sample.add("RSS after", memory(self.plane.pid())?.rss / 1e6, "MB");
        Ok(sample)
    }

    /// Whether what has changed is what a new Envoy is told, and whether one that
    /// is there is told of a new service in an order in which it can use it.
    async fn check(&mut self) -> anyhow::Result<()> {
        let checker = Checker::start(&self.target, &self.wants, &self.shop, SYNC).await?;
        let (service, file, text) = self.shop.add();
        checker.in_order(service, ARRIVAL, || self.put(&file, &text).map(drop)).await.context("a new service")?;
        checker.agrees(&self.shop, AGREE).await?;
        checker.stop().await;
        Ok(())
    }
}

/// Whom a waypoint's token is for.
fn holder() -> Holder {
    Holder {
        namespace: NAMESPACE.into(),
        service_account: GATEWAY.into(),
        pod: "waypoint-1".into(),
        uid: "00000000-0000-4c3b-8a9e-000000000001".into(),
    }
}
