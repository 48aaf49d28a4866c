//! ztunnels, as far as a control plane can tell: wildcard subscriptions to
//! both types over incremental xDS, every response acknowledged.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::protobuf::{Struct, Value, value};
use prost::Message as _;
use tokio::task::JoinSet;

use crate::http2::{Connection, Receiver, Target, grpc};
use crate::mesh::{Holder, node_name};
use crate::message::Walker;
use crate::progress::Progress;

/// The method ztunnel calls.
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Workloads and services.
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// Policies.
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
/// How many streams are opened at a time; the rest wait in line, as they would
/// before a listener's backlog.
const OPENING: usize = 64;

/// What a ztunnel shows.
#[derive(Clone)]
pub struct Credentials {
    /// The node it runs on.
    pub node: usize,
    /// The pod it is.
    pub pod: String,
    /// Its token, where one is needed.
    pub token: Option<String>,
}

impl Credentials {
    /// The credentials of a ztunnel.
    pub fn new(node: usize, holder: Holder, token: Option<String>) -> Self {
        Self { node, pod: holder.pod, token }
    }
}

/// How clients begin, and what they wait for.
#[derive(Clone, Default)]
pub struct Hello {
    /// How many addresses and policies make a client complete.
    pub complete: [usize; 2],
    /// Names and versions of addresses and policies that it has already, as
    /// they are in requests.
    versions: Rc<[Vec<u8>; 2]>,
}

impl Hello {
    /// Clients that know nothing and are to be told this much.
    pub fn empty(addresses: usize, policies: usize) -> Self {
        Self { complete: [addresses, policies], versions: Rc::default() }
    }

    /// Clients that have names and versions already, and wait for nothing but
    /// to be told so.
    pub fn resuming(versions: [Vec<(String, String)>; 2]) -> Self {
        // Messages that are put one after the other are one message.
        let encode = |versions: Vec<(String, String)>| {
            let initial_resource_versions = versions.into_iter().collect();
            DeltaDiscoveryRequest { initial_resource_versions, ..Default::default() }.encode_to_vec()
        };
        Self { complete: [0; 2], versions: Rc::new(versions.map(encode)) }
    }

    /// The first requests of a ztunnel.
    fn requests(&self, credentials: &Credentials) -> Vec<u8> {
        let Credentials { node, pod, .. } = credentials;
        let text = |value: &str| Value { kind: Some(value::Kind::StringValue(value.into())) };
        let metadata = [
            ("NAME", text(pod)),
            ("NAMESPACE", text("istio-system")),
            ("INSTANCE_IPS", text("10.0.0.1")),
            ("NODE_NAME", text(&node_name(*node))),
            ("SERVICE_ACCOUNT", text("ztunnel")),
            ("ISTIO_VERSION", text("1.30.0")),
        ];
        let node = Node {
            id: format!("ztunnel~10.0.0.1~{pod}.istio-system~istio-system.svc.cluster.local"),
            metadata: Some(Struct { fields: metadata.into_iter().map(|(key, value)| (key.into(), value)).collect() }),
            ..Default::default()
        };
        let requests = [ADDRESS, AUTHORIZATION].into_iter().zip(&*self.versions).map(|(type_url, versions)| {
            let request =
                DeltaDiscoveryRequest { node: Some(node.clone()), type_url: type_url.into(), ..Default::default() };
            let mut request = request.encode_to_vec();
            request.extend_from_slice(versions);
            grpc(&request)
        });
        requests.collect::<Vec<_>>().concat()
    }
}

/// Connects and begins the stream.
pub async fn begin(target: &Target, credentials: &Credentials, hello: &Hello) -> anyhow::Result<Connection> {
    let mut connection = Connection::open(target).await?;
    connection.call(DELTA, credentials.token.as_deref(), &hello.requests(credentials), false);
    Ok(connection)
}

/// Which type a message is of: 0 is addresses, 1 is policies.
pub fn place(type_url: &[u8]) -> anyhow::Result<usize> {
    match type_url {
        url if url == ADDRESS.as_bytes() => Ok(0),
        url if url == AUTHORIZATION.as_bytes() => Ok(1),
        url => bail!("a response of type {}", String::from_utf8_lossy(url)),
    }
}

/// What all clients report to.
pub struct Tally {
    /// Clients that are complete.
    pub synced: Cell<usize>,
    /// When the last of them was.
    pub last_synced: Cell<Option<Instant>>,
    /// Bytes of all bodies.
    pub bytes: Cell<u64>,
    /// Messages.
    pub messages: Cell<u64>,
    /// Resources, and names that were removed.
    pub resources: Cell<u64>,
    /// When each client had each change completely, in microseconds of `since`.
    pub arrivals: RefCell<Vec<Vec<u32>>>,
    /// When the clients were started.
    pub since: Instant,
    /// Why clients ended; none should.
    pub failures: RefCell<Vec<String>>,
}

impl Tally {
    fn new() -> Self {
        Self {
            synced: Cell::default(),
            last_synced: Cell::default(),
            bytes: Cell::default(),
            messages: Cell::default(),
            resources: Cell::default(),
            arrivals: RefCell::default(),
            since: Instant::now(),
            failures: RefCell::default(),
        }
    }
}

/// Adds to a count.
pub fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get() + more);
}

/// One stream.
struct Session {
    walker: Walker,
    tally: Rc<Tally>,
    /// Messages and resources of each type.
    had: [(usize, usize); 2],
    complete: [usize; 2],
    synced: bool,
}

impl Receiver for Session {
    fn data(&mut self, bytes: &[u8], reply: &mut Vec<u8>) -> anyhow::Result<()> {
        let Self { walker, tally, had, synced, .. } = self;
        add(&tally.bytes, bytes.len() as u64);
        walker.read(bytes, |message| {
            reply.extend(grpc(&message.ack()));
            let (messages, resources) = &mut had[place(&message.type_url)?];
            (*messages, *resources) = (*messages + 1, *resources + message.resources);
            add(&tally.messages, 1);
            add(&tally.resources, (message.resources + message.removed) as u64);
            if *synced {
                let now = tally.since.elapsed().as_micros() as u32;
                let mut arrivals = tally.arrivals.borrow_mut();
                for change in message.changes()? {
                    if let Some(arrivals) = arrivals.get_mut(change) {
                        arrivals.push(now);
                    }
                }
            }
            Ok(())
        })?;
        let complete = |(had, least): (&(usize, usize), &usize)| had.0 > 0 && had.1 >= *least;
        if !self.synced && self.had.iter().zip(&self.complete).all(complete) {
            self.synced = true;
            self.tally.synced.set(self.tally.synced.get() + 1);
            self.tally.last_synced.set(Some(Instant::now()));
        }
        Ok(())
    }

    fn ended(&mut self, headers: &[u8]) -> anyhow::Result<()> {
        bail!("the server ended the stream: {}", printable(headers))
    }
}

/// What can be read of encoded headers.
pub fn printable(headers: &[u8]) -> String {
    headers.iter().map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }).collect()
}

/// Many clients, which live until this is dropped.
pub struct Clients {
    /// What they report.
    pub tally: Rc<Tally>,
    tasks: JoinSet<()>,
    count: usize,
    /// How many of them each change is for.
    hearers: Cell<usize>,
}

impl Clients {
    /// Starts ztunnels. To be called within a `LocalSet`.
    pub fn start(target: &Target, credentials: &[Credentials], count: usize, hello: &Hello) -> Self {
        Self::play(target, count, |at, tally| {
            let credentials = &credentials[at % credentials.len()];
            let session = Session {
                walker: Walker::new(false),
                tally: tally.clone(),
                had: [(0, 0); 2],
                complete: hello.complete,
                synced: false,
            };
            (credentials.token.clone(), hello.requests(credentials), session)
        })
    }

    /// Starts clients of any kind: `each` says what a client shows, what it says
    /// first, and what it does with the answers. To be called within a `LocalSet`.
    pub fn play<R: Receiver + 'static>(
        target: &Target,
        count: usize,
        each: impl Fn(usize, &Rc<Tally>) -> (Option<String>, Vec<u8>, R),
    ) -> Self {
        let tally = Rc::new(Tally::new());
        let places = Rc::new(tokio::sync::Semaphore::new(OPENING));
        let mut tasks = JoinSet::new();
        for at in 0..count {
            let (target, places) = (target.clone(), places.clone());
            let (token, first, mut session) = each(at, &tally);
            let tally = tally.clone();
            tasks.spawn_local(async move {
                let run = async {
                    let mut place = Some(places.acquire().await?);
                    let mut connection = Connection::open(&target).await?;
                    connection.call(DELTA, token.as_deref(), &first, false);
                    drop(first);
                    loop {
                        connection.exchange(&mut session).await?;
                        // Its handshake is done and its first bytes are here.
                        place.take();
                    }
                };
                let ended: anyhow::Result<()> = run.await;
                if let Err(error) = ended {
                    tally.failures.borrow_mut().push(format!("{error:#}"));
                }
            });
        }
        Self { tally, tasks, count, hearers: Cell::new(count) }
    }

    /// Waits until all are complete, and shows how that goes.
    pub async fn synced(&self, limit: Duration) -> anyhow::Result<Instant> {
        let mut progress = (self.count > 1).then(|| Progress::start("clients synced", self.count));
        let show = |synced| {
            if let Some(progress) = &mut progress {
                progress.at(synced);
            }
        };
        self.all_synced(limit, show).await
    }

    /// Waits until all are complete, and tells from time to time how many are.
    pub async fn all_synced(&self, limit: Duration, mut each: impl FnMut(usize)) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + limit;
        while self.tally.synced.get() < self.count {
            self.check()?;
            let synced = self.tally.synced.get();
            ensure!(Instant::now() < deadline, "only {synced} of {} clients have synced after {limit:?}", self.count);
            each(synced);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.tally.last_synced.get().context("nobody has synced")
    }

    /// Fails if a client has ended.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.tally.failures.borrow().first() {
            Some(failure) => bail!("a client failed: {failure}"),
            None => Ok(()),
        }
    }

    /// Begins to note when changes before this number arrive.
    pub fn expect(&self, changes: usize) {
        self.tally.arrivals.replace(vec![Vec::new(); changes]);
    }

    /// Says that each change is for so many of them, not for all.
    pub fn hearers(&self, count: usize) {
        self.hearers.set(count);
    }

    /// Waits until every one of these changes has reached all it is for.
    pub async fn arrived(&self, changes: std::ops::Range<usize>, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            self.check()?;
            let missing = |at: &&Vec<u32>| at.len() < self.hearers.get();
            let arrivals = self.tally.arrivals.borrow()[changes.clone()].iter().filter(missing).count();
            if arrivals == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "void: {arrivals} changes did not reach all clients");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How long each change took to reach each client, in milliseconds from
    /// an instant for each.
    pub fn latencies(&self, from: impl Iterator<Item = (usize, Instant)>) -> Vec<f64> {
        let arrivals = self.tally.arrivals.borrow();
        let mut latencies = Vec::new();
        for (change, from) in from {
            let from = from.saturating_duration_since(self.tally.since).as_secs_f64() * 1e3;
            latencies.extend(arrivals[change].iter().map(|at| f64::from(*at) / 1e3 - from));
        }
        latencies
    }

    /// Ends all of them.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests;
