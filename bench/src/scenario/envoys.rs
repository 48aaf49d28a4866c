//! Envoys that everything has been told, and one object that changes at a time:
//! what scenarios of waypoints and gateways share.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::time::{sleep, sleep_until};

use super::churn::{percentiles, pushes};
use super::{AGREE, ARRIVAL, Bench, Recorded, SYNC};
use crate::envoy::{Checker, Proxy, Wants};
use crate::http2::Target;
use crate::mesh::write;
use crate::options::{Driver, Options};
use crate::plane::{Launch, Objects, Plane};
use crate::process::{Meter, memory};
use crate::report::Sample;
use crate::site::Site;
use crate::world::{QUIET, token};

/// What changes, how often and for how long.
#[derive(Clone, Copy)]
pub struct Load<What> {
    /// What changes.
    pub what: What,
    /// How often in a second, unless something else is wanted.
    pub rate: f64,
    /// For how many seconds, unless something else is wanted.
    pub seconds: u64,
}

impl<What: Copy> Load<What> {
    /// With the rate and the time that are wanted.
    pub fn with(self, options: &Options) -> Self {
        let (rate, seconds) = (options.rate.unwrap_or(self.rate), options.seconds.unwrap_or(self.seconds));
        Self { rate, seconds, ..self }
    }
}

/// A control plane that serves a site, and has been checked to do so.
pub struct Stage<S> {
    /// What there is.
    pub site: S,
    /// The control plane.
    pub plane: Plane,
    /// Where it is.
    pub target: Target,
    tls: bool,
    /// What Envoys ask it for, for each of the site's proxies.
    pub wants: Vec<Wants>,
    folder: PathBuf,
    /// The number of the next change.
    next: usize,
}

impl<S: Site> Stage<S> {
    /// Starts a control plane and has everything that it sends checked.
    pub async fn start(bench: &mut Bench, launch: &Launch, site: S, tls: bool) -> anyhow::Result<Self> {
        ensure!(bench.options.driver != Some(Driver::Kube), "Envoys are measured on files");
        let folder = bench.work().join(format!("site-{}", std::fs::read_dir(bench.work())?.count()));
        site.write(&folder)?;
        let mut plane = Plane::start(launch, &Objects::Folder(folder.clone()), bench.work())?;
        plane.ready().await?;
        let target = match tls {
            false => Target::plain(plane.grpc().port()),
            true => {
                let root = std::fs::read(plane.state.join("root-cert.pem"))?;
                Target::tls(plane.secure().port(), &root, "istiod.istio-system.svc")?
            }
        };
        let mut stage = Self { site, plane, target, tls, wants: Vec::new(), folder, next: 1 };
        stage.want()?;
        bench.recorded = Recorded { first: stage.agree(SYNC).await?, ..Default::default() };
        Ok(stage)
    }

    /// Works out what Envoys ask for now.
    fn want(&mut self) -> anyhow::Result<()> {
        let wants = |proxy: &Proxy| {
            let token = if self.tls { Some(token(&self.plane, &proxy.holder)?) } else { None };
            Ok(Wants::of(proxy, token))
        };
        self.wants = self.site.proxies().iter().map(wants).collect::<anyhow::Result<_>>()?;
        Ok(())
    }

    /// Checks what new Envoys of each kind are told. Returns the messages to the
    /// first of them.
    async fn agree(&self, limit: Duration) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut first = Vec::new();
        for at in 0..self.wants.len() {
            let checker = self.checker(at, limit).await?;
            if at == 0 {
                first = checker.held.borrow().first.clone();
            }
            checker.stop().await;
        }
        Ok(first)
    }

    async fn checker(&self, proxy: usize, limit: Duration) -> anyhow::Result<Checker> {
        Checker::start(&self.target, &self.wants[proxy], &self.site, proxy, limit).await
    }

    /// Puts a file where the control plane reads it, at once and as a whole.
    fn put(&self, file: &str, text: &str) -> anyhow::Result<Instant> {
        let staging = self.folder.with_extension("staged");
        write(&staging, text)?;
        std::fs::rename(&staging, self.folder.join(file))?;
        Ok(Instant::now())
    }

    fn change(&mut self, what: S::What) -> anyhow::Result<(usize, String, String)> {
        let number = self.next;
        self.next += 1;
        let (file, text) = self.site.change(what, number)?;
        Ok((number, file, text))
    }

    /// What is sent for a change.
    pub async fn typical(&mut self, what: S::What) -> anyhow::Result<Vec<u8>> {
        let proxy = self.next % self.wants.len();
        let checker = self.checker(proxy, SYNC).await?;
        let (_, file, text) = self.change(what)?;
        self.put(&file, &text)?;
        checker.agrees(&self.site, proxy, AGREE).await?;
        let update = checker.held.borrow().last[S::place(what)].clone();
        checker.stop().await;
        Ok(update)
    }

    /// Makes changes by the clock under clients that have everything. The
    /// checking one is away: it has the thread of the clients for itself while
    /// it decodes.
    pub async fn changes(&mut self, bench: &mut Bench, load: Load<S::What>, streams: usize) -> anyhow::Result<Sample> {
        let Load { what, rate, seconds } = load.with(&bench.options);
        let count = (rate * seconds as f64).ceil().max(1.0) as usize;
        let clients = Wants::clients(&self.wants, &self.target, streams);
        clients.synced(SYNC).await?;
        let hearers = streams / self.wants.len();
        ensure!(hearers > 0, "fewer streams than proxies that differ");
        clients.hearers(hearers);
        let numbers = self.next..self.next + count;
        clients.expect(numbers.end);
        sleep(Duration::from_secs(1)).await;
        let (mut meter, tally) = (Meter::new(self.plane.pid()), &clients.tally);
        let (used, messages, bytes) = (meter.read()?, tally.messages.get(), tally.bytes.get());
        let (began, mut made) = (Instant::now(), Vec::with_capacity(count));
        for at in 0..count {
            let (number, file, text) = self.change(what)?;
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
        (bench.recorded.messages, bench.recorded.span) = (messages as usize / hearers, span);
        let mut sample = Sample::default();
        percentiles(&mut sample, "latency", latencies);
        sample.add("server CPU per change", cpu.as_secs_f64() * 1e3 / count as f64, "ms");
        sample.add("server CPU per message and stream", cpu.as_secs_f64() * 1e6 / messages as f64, "us");
        sample.add("messages per change and stream", messages as f64 / (count * hearers) as f64, "");
        sample.add("bytes per message", bytes as f64 / messages as f64, "");
        sample.add("RSS after", memory(self.plane.pid())?.rss / 1e6, "MB");
        Ok(sample)
    }

    /// Whether what has changed is what new Envoys are told, and whether one that
    /// is there is told of a new service in an order in which it can use it.
    pub async fn check(&mut self) -> anyhow::Result<()> {
        let checker = self.checker(0, SYNC).await?;
        let (leads, file, text) = self.site.add();
        checker.in_order(leads, ARRIVAL, || self.put(&file, &text).map(drop)).await?;
        checker.agrees(&self.site, 0, AGREE).await?;
        checker.stop().await;
        self.want()?;
        self.agree(SYNC).await.map(drop)
    }

    /// Measures changes, and checks what came of them.
    pub async fn measure(mut self, bench: &mut Bench, load: Load<S::What>, streams: usize) -> anyhow::Result<Sample> {
        let update = self.typical(load.what).await?;
        let sample = self.changes(bench, load, streams).await?;
        bench.recorded.update.push(update);
        self.check().await?;
        self.plane.stop().await;
        Ok(sample)
    }
}

/// The limit's turn: it sends what was recorded to Envoys of the first kind, as
/// many as a change is for.
pub async fn limit(bench: &Bench, site: &impl Site, tls: bool, streams: usize) -> anyhow::Result<Sample> {
    let (mut limit, server) = bench.limit(tls, &bench.recorded.update)?;
    let proxies = site.proxies();
    // A server without tokens takes any.
    let wants = Wants::of(&proxies[0], tls.then(String::new));
    let clients = Wants::clients(&[wants], &server.target, (streams / proxies.len()).max(1));
    clients.synced(SYNC).await?;
    let sample = pushes(bench, &mut limit, &clients).await?;
    clients.stop().await;
    Ok(sample)
}
