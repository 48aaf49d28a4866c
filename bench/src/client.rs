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
use crate::message::{Message, Walker};

/// The method ztunnel calls.
pub const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
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

/// What all clients report to.
#[derive(Default)]
pub struct Tally {
    /// Clients that have both first responses.
    pub synced: Cell<usize>,
    /// When the last of them had.
    pub last_synced: Cell<Option<Instant>>,
    /// Bytes of all bodies.
    pub bytes: Cell<u64>,
    /// When each client had each change completely.
    pub arrivals: RefCell<Vec<Vec<Instant>>>,
    /// The latest message with a change in it.
    pub update: RefCell<Message>,
    /// Why clients ended; none should.
    pub failures: RefCell<Vec<String>>,
}

/// One stream.
struct Session {
    walker: Walker,
    tally: Rc<Tally>,
    first: [Option<Message>; 2],
    synced: bool,
}

impl Receiver for Session {
    fn data(&mut self, bytes: &[u8], reply: &mut Vec<u8>) -> anyhow::Result<()> {
        let Self { walker, tally, first, .. } = self;
        tally.bytes.set(tally.bytes.get() + bytes.len() as u64);
        walker.read(bytes, |message| {
            reply.extend(grpc(&message.ack()));
            let at = match message.type_url.as_slice() {
                url if url == ADDRESS.as_bytes() => 0,
                url if url == AUTHORIZATION.as_bytes() => 1,
                url => bail!("a response of type {}", String::from_utf8_lossy(url)),
            };
            if first[at].is_none() {
                first[at] = Some(message);
                return Ok(());
            }
            let changes = message.changes()?;
            if !changes.is_empty() {
                let now = Instant::now();
                let mut arrivals = tally.arrivals.borrow_mut();
                for change in changes {
                    if let Some(arrivals) = arrivals.get_mut(change) {
                        arrivals.push(now);
                    }
                }
                tally.update.replace(message);
            }
            Ok(())
        })?;
        if !self.synced && self.first.iter().all(Option::is_some) {
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

/// The first requests of a ztunnel.
fn hello(credentials: &Credentials) -> Vec<u8> {
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
    let requests = [ADDRESS, AUTHORIZATION].map(|type_url| {
        let request =
            DeltaDiscoveryRequest { node: Some(node.clone()), type_url: type_url.into(), ..Default::default() };
        grpc(&request.encode_to_vec())
    });
    requests.concat()
}

async fn begin(
    target: &Target,
    credentials: &Credentials,
    tally: Rc<Tally>,
    keep: bool,
) -> anyhow::Result<(Connection, Session)> {
    let mut connection = Connection::open(target).await?;
    connection.call(DELTA, credentials.token.as_deref(), &hello(credentials), false);
    Ok((connection, Session { walker: Walker::new(keep), tally, first: [None, None], synced: false }))
}

/// One client that keeps both first responses, addresses first.
pub async fn first_responses(
    target: &Target,
    credentials: &Credentials,
    limit: Duration,
) -> anyhow::Result<(Message, Message)> {
    let sync = async {
        let (mut connection, mut session) = begin(target, credentials, Rc::default(), true).await?;
        while !session.synced {
            connection.exchange(&mut session).await?;
        }
        let [Some(addresses), Some(policies)] = session.first else { bail!("synced without responses") };
        Ok((addresses, policies))
    };
    tokio::time::timeout(limit, sync).await.context("no complete first responses in time")?
}

/// Many clients, which live until this is dropped.
pub struct Clients {
    /// What they report.
    pub tally: Rc<Tally>,
    tasks: JoinSet<()>,
    count: usize,
}

impl Clients {
    /// Starts clients. To be called within a `LocalSet`.
    pub fn start(target: &Target, credentials: &[Credentials], count: usize) -> Self {
        let tally = Rc::<Tally>::default();
        let places = Rc::new(tokio::sync::Semaphore::new(OPENING));
        let mut tasks = JoinSet::new();
        for at in 0..count {
            let (target, credentials) = (target.clone(), credentials[at % credentials.len()].clone());
            let (tally, places) = (tally.clone(), places.clone());
            tasks.spawn_local(async move {
                let run = async {
                    let place = places.acquire().await?;
                    let (mut connection, mut session) = begin(&target, &credentials, tally.clone(), false).await?;
                    let mut place = Some(place);
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
        Self { tally, tasks, count }
    }

    /// Waits until all have their first responses.
    pub async fn synced(&self, limit: Duration) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + limit;
        while self.tally.synced.get() < self.count {
            self.check()?;
            ensure!(
                Instant::now() < deadline,
                "only {} of {} clients have synced after {limit:?}",
                self.tally.synced.get(),
                self.count
            );
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

    /// Ends all of them.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}
