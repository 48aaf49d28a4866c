//! What is measured: THE table of scenarios, one file for each, and what they
//! share.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use futures::future::LocalBoxFuture;
use tempfile::TempDir;

use crate::check::Checker;
use crate::client::{Clients, Credentials, Hello};
use crate::http2::Target;
use crate::limit::Limit;
use crate::mesh::Size;
use crate::options::{Driver, Options};
use crate::plane::{Launch, Plane};
use crate::progress::say;
use crate::report::{Budgets, Sample};
use crate::world::World;

mod churn;
mod csr;
mod envoys;
mod fanout;
mod gateway;
mod gateways;
mod idle;
mod memory;
mod newcomers;
mod reconnect;
mod renewal;
mod rollout;
mod slow;
mod start;
mod sync;
mod waypoint;
mod waypoints;

/// A scenario.
pub struct Scenario {
    /// Its number.
    pub name: &'static str,
    /// What it is about, in a word.
    pub alias: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// What its limit is.
    pub limit: &'static str,
    /// What it is run with.
    pub setting: fn(&Options) -> String,
    /// What it should come to.
    pub budgets: fn(&Options) -> Budgets,
    /// Runs it once, for one contender; none if this contender has no part.
    pub run: Run,
}

/// One contender's turn.
pub type Run = for<'a> fn(&'a mut Bench, Who<'a>) -> LocalBoxFuture<'a, anyhow::Result<Option<Sample>>>;

macro_rules! scenarios {
    ($($name:literal, $alias:literal, $about:literal, $module:ident::$run:ident, $with:expr;)+) => {
        &[$(Scenario {
            name: $name,
            alias: $alias,
            about: $about,
            limit: $module::LIMIT,
            setting: |options| $module::setting($with, options),
            budgets: |options| $module::budgets($with, options),
            run: |bench, who| Box::pin($module::$run($with, bench, who)),
        },)+]
    };
}

/// All scenarios. Those that can share a mesh are next to each other, and the
/// one that wears it out is the last: to put 20 000 pods into an API server
/// takes longer than any scenario.
pub const SCENARIOS: &[Scenario] = scenarios! {
    "s1", "cold-sync", "many clients connect at once and know nothing", sync::run, ();
    "s5", "reconnect", "the control plane crashes; everybody comes back with versions", reconnect::run, ();
    "s6", "fan-out", "a namespace gets a waypoint, which changes half of all workloads", fanout::run, ();
    "s9", "start", "from exec to the first complete client, from files", start::run, Driver::Files;
    "s10", "idle", "the memory of streams on which nothing happens", idle::run, ();
    "s11", "memory", "the memory of workloads", memory::run, ();
    "w1", "route", "a route of a waypoint with many services changes", waypoint::run, waypoint::ROUTE;
    "w2", "endpoint", "a pod behind one of the services of a waypoint changes", waypoint::run, waypoint::ENDPOINT;
    "w3", "waypoints", "the memory of many equal waypoints", waypoints::run, ();
    "g1", "gateway-route", "a route is added to one of many gateways", gateway::run, gateway::ROUTE;
    "g2", "certificate", "a Secret of a gateway's listener is replaced", gateway::run, gateway::SECRET;
    "g3", "gateways", "the memory of what gateways serve, kind by kind", gateways::run, ();
    "s9k", "start-kube", "the same from a kube-apiserver", start::run, Driver::Kube;
    "s2", "quiet", "one pod changes each second", churn::run, churn::QUIET;
    "s3", "churn", "a hundred pods change each second", churn::run, churn::BUSY;
    "s12", "csr", "certificates, closed loop", csr::run, ();
    "s13", "renewal", "certificates are renewed while pods change", renewal::run, ();
    "s15", "newcomers", "clients that know nothing come in crowds while pods change", newcomers::run, ();
    "s14", "slow-readers", "some clients hardly read or do not read at all", slow::run, ();
    "s4", "rollout", "a thousand pods are replaced in half a minute", rollout::run, ();
};

/// The scenarios, for `--help`.
pub fn help() -> String {
    let lines =
        SCENARIOS.iter().map(|scenario| format!("  {:5}{:14}{}", scenario.name, scenario.alias, scenario.about));
    format!("Scenarios:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// How long clients may take to sync.
pub const SYNC: Duration = Duration::from_secs(180);
/// How long a client may take to hold what the objects mean.
const AGREE: Duration = Duration::from_secs(20);
/// How long changes may take to reach everybody.
const ARRIVAL: Duration = Duration::from_secs(30);
/// How long a process is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);

/// Whose turn it is.
#[derive(Clone, Copy)]
pub enum Who<'a> {
    /// A control plane.
    Plane(&'a Launch),
    /// The limit, which does what the control plane before it has done.
    Limit,
}

/// What the control plane that ran last has sent, for the limit to send too.
#[derive(Default)]
pub struct Recorded {
    first: Vec<Vec<u8>>,
    update: Vec<Vec<u8>>,
    /// Messages to each client, and how long that took.
    messages: usize,
    span: Duration,
    /// What clients said to begin with.
    hello: Hello,
    /// Numbers that are limits and were found beside the control plane's own.
    limit: Sample,
}

/// What scenarios share.
pub struct Bench {
    options: Options,
    work: TempDir,
    kept: Option<World>,
    recorded: Recorded,
}

/// A server as clients see it, be it a control plane or the limit.
struct Server {
    pid: u32,
    target: Target,
    credentials: Vec<Credentials>,
    hello: Hello,
}

impl Server {
    /// Starts clients.
    fn clients(&self, count: usize) -> Clients {
        Clients::start(&self.target, &self.credentials, count, &self.hello)
    }

    /// Starts clients and waits until they have everything.
    async fn synced(&self, count: usize) -> anyhow::Result<Clients> {
        let clients = self.clients(count);
        clients.synced(SYNC).await?;
        Ok(clients)
    }

    /// Has one client come and go, for what is built only once.
    async fn warm_up(&self) -> anyhow::Result<()> {
        self.synced(1).await?.stop().await;
        Ok(())
    }
}

/// A control plane that serves a world, and has been checked to do so.
struct Running {
    plane: Plane,
    server: Server,
    checker: Checker,
}

impl Running {
    /// Ends it, clients first.
    async fn stop(self) {
        drop(self.checker);
        self.plane.stop().await;
    }
}

/// A control plane, the world it serves, and clients that have everything.
struct Stage {
    world: World,
    running: Running,
    clients: Clients,
}

impl Stage {
    /// Ends all but the world, which the next scenario may want.
    async fn end(self, bench: &mut Bench) {
        self.clients.stop().await;
        self.running.stop().await;
        bench.keep(self.world);
    }
}

impl Bench {
    /// A bench that keeps its files in a folder of its own until it ends.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let work = tempfile::Builder::new().prefix("fairway-bench-").tempdir()?;
        Ok(Self { options, work, kept: None, recorded: Recorded::default() })
    }

    /// How often each scenario is run.
    pub fn rounds(&self) -> usize {
        self.options.rounds()
    }

    /// Where files may be put.
    pub fn work(&self) -> &Path {
        self.work.path()
    }

    /// A world with this many pods: the one of the last scenario if it will
    /// do. Whoever takes it gives it back with `keep`.
    async fn world(&mut self, driver: Driver, size: Size) -> anyhow::Result<World> {
        let driver = self.options.driver.unwrap_or(driver);
        let fits = |world: &World| world.mesh.size == size && world.folder().is_none() == (driver == Driver::Kube);
        if let Some(world) = self.kept.take().filter(fits) {
            return Ok(world);
        }
        match driver {
            Driver::Kube => World::kube(size).await,
            Driver::Files => {
                let number = std::fs::read_dir(self.work())?.count();
                let world = World::files(self.work().join(format!("mesh-{number}")), size)?;
                say(&format!("  wrote {} pods, {:.0} MB", size.pods, world.bytes as f64 / 1e6));
                Ok(world)
            }
        }
    }

    fn keep(&mut self, world: World) {
        self.kept = Some(world).filter(|world| world.known);
    }

    /// A control plane on so many pods in a Kubernetes API, with streams.
    async fn stage(&mut self, launch: &Launch, pods: usize, streams: usize) -> anyhow::Result<Stage> {
        let size = self.options.size(pods, false);
        let world = self.world(Driver::Kube, size).await?;
        let started = async {
            let running = self.serve(&world, launch, false).await?;
            let clients = running.server.synced(streams).await?;
            anyhow::Ok((running, clients))
        };
        match started.await {
            Ok((running, clients)) => Ok(Stage { world, running, clients }),
            Err(error) => {
                self.keep(world);
                Err(error)
            }
        }
    }

    /// The limit, which sends what was recorded first, and updates.
    fn limit(&self, tls: bool, update: &[Vec<u8>]) -> anyhow::Result<(Limit, Server)> {
        let Recorded { first, hello, .. } = &self.recorded;
        let limit = Limit::start(self.work(), tls, first, update)?;
        let credentials = vec![Credentials { node: 0, pod: "ztunnel-limit".into(), token: None }];
        let server = Server { pid: limit.pid(), target: limit.target(tls)?, credentials, hello: hello.clone() };
        Ok((limit, server))
    }

    /// A control plane that serves a world.
    async fn serve(&mut self, world: &World, launch: &Launch, tls: bool) -> anyhow::Result<Running> {
        let mut plane = Plane::start(launch, &world.objects(), self.work())?;
        plane.ready().await?;
        let tls = tls || self.options.tls;
        let target = world.target(&plane, tls).await?;
        let credentials = world.credentials(&plane, tls).await?;
        let hello = Hello::empty(world.addresses(), world.mesh.size.policies());
        let first = credentials.first().context("no ztunnel")?;
        let checker = Checker::start(&target, first, &hello);
        checker.agrees(world, AGREE.max(SYNC)).await?;
        self.recorded =
            Recorded { first: checker.table.borrow().first.clone(), hello: hello.clone(), ..Default::default() };
        let server = Server { pid: plane.pid(), target, credentials, hello };
        Ok(Running { plane, server, checker })
    }
}

impl Options {
    /// A mesh with this many pods, unless another number is wanted.
    fn size(&self, pods: usize, compact: bool) -> Size {
        let pods = self.pods.unwrap_or(pods);
        Size { pods, services: self.services.unwrap_or(pods / 20).max(50), namespaces: 50, compact }
    }
}

/// Milliseconds.
fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
