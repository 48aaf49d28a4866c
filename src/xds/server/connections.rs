//! The live connections, for metrics and the debug pages, and to send some of
//! them elsewhere: nothing that a client is sent depends on this registry.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use futures::task::AtomicWaker;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use serde::Serialize;
use tracing::info;

use super::{Shared, clip};
use crate::proxy::{Node, NodeKind, Scope};
use crate::xds::demand::Held;
use crate::xds::stream::{Progress, Stream};
use crate::xds::view::Views;

/// The streams that are open.
#[derive(Debug, Default)]
pub struct Connections {
    live: DashMap<u64, Arc<Connection>>,
    opened: AtomicU64,
}

/// One open stream.
#[derive(Debug)]
pub struct Connection {
    /// Identifies it, such as `ztunnel-abc.istio-system-12`.
    pub id: String,
    /// Who is connected.
    pub node: Node,
    /// From where.
    pub address: Option<SocketAddr>,
    /// Since when.
    pub connected: Timestamp,
    /// The revision of the newest views of which it has judged all it is told.
    settled: AtomicU64,
    // A lock and not a channel: written by its stream, read by debug pages,
    // and held only to copy a few strings.
    types: Mutex<Vec<TypeStatus>>,
    /// Whether it is to go to another replica.
    leaving: AtomicBool,
    waker: Arc<AtomicWaker>,
}

/// What has been sent of a type and acknowledged, and when.
#[derive(Clone, Debug, Serialize)]
pub struct TypeStatus {
    /// What.
    #[serde(flatten)]
    pub progress: Progress,
    /// When the latest response was sent.
    pub sent_at: Option<Timestamp>,
    /// When a response was acknowledged last.
    pub acked_at: Option<Timestamp>,
}

/// How far a client is with a type, in the words of `istioctl proxy-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncState {
    /// It has the latest response.
    Synced,
    /// It was not sent anything.
    NotSent,
    /// It has not answered the latest response.
    Stale,
    /// It has rejected the latest response.
    Error,
}

impl TypeStatus {
    /// How far the client is.
    pub fn state(&self) -> SyncState {
        let Progress { sent, acked, error, .. } = &self.progress;
        match (error, sent) {
            (Some(_), _) => SyncState::Error,
            (None, None) => SyncState::NotSent,
            (None, sent) if sent == acked => SyncState::Synced,
            (None, Some(_)) => SyncState::Stale,
        }
    }

    fn update(&mut self, progress: Progress) {
        if progress.sent != self.progress.sent {
            self.sent_at = Some(Timestamp::now());
        }
        if progress.acked != self.progress.acked {
            self.acked_at = Some(Timestamp::now());
        }
        self.progress = progress;
    }
}

/// What the debug pages show of a connection.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The id of the connection.
    pub connection: String,
    /// Who is connected.
    pub node: Node,
    /// From where.
    pub address: Option<SocketAddr>,
    /// Since when.
    pub connected: Timestamp,
    /// The revision of the newest views of which it has judged all it is told.
    pub settled: u64,
    /// What has been sent and acknowledged, by type.
    pub types: Vec<TypeStatus>,
}

impl Connections {
    /// The number of open streams.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether no stream is open.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Ends some streams, for their clients to find another replica. Those that
    /// have just come are left alone. Returns how many.
    pub fn shed(&self, count: usize, settled: SignedDuration) -> usize {
        let now = Timestamp::now();
        // The map is in an order of its own, another in each process.
        let old = self.live.iter().filter(|entry| {
            let connection = entry.value();
            now.duration_since(connection.connected) >= settled && !connection.leaves()
        });
        let leaving: Vec<_> = old.take(count).map(|entry| entry.value().clone()).collect();
        for connection in &leaving {
            connection.leaving.store(true, Ordering::Release);
            connection.waker.wake();
        }
        leaving.len()
    }

    /// The state of every open stream of a kind of proxy.
    pub fn statuses_of(&self, kind: NodeKind) -> Vec<Status> {
        let of_kind = self.live.iter().filter(|entry| entry.value().node.kind == kind);
        of_kind.map(|entry| entry.value().status()).collect()
    }

    /// The state of every open stream, ordered by connection.
    pub fn statuses(&self) -> Vec<Status> {
        let mut statuses: Vec<_> = self.live.iter().map(|entry| entry.value().status()).collect();
        statuses.sort_by(|a, b| a.connection.cmp(&b.connection));
        statuses
    }
}

/// Counts connections when it is asked to, so the count cannot drift, and a
/// version nobody has any more leaves no trace.
#[derive(Debug)]
pub(super) struct ConnectedCollector(pub(super) Arc<Connections>);

impl Collector for ConnectedCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut versions = BTreeMap::<_, i64>::new();
        for connection in self.0.live.iter() {
            *versions.entry(connection.node.version.clone()).or_default() += 1;
        }
        let help = "Number of endpoints connected to this pilot using XDS";
        let mut family = encoder.encode_descriptor("pilot_xds", help, None, MetricType::Gauge)?;
        for (version, count) in versions {
            family.encode_family(&[("version", &*version)])?.encode_gauge(&count)?;
        }
        Ok(())
    }
}

impl Connection {
    /// Notes what the stream has sent and seen acknowledged.
    pub(super) fn update(&self, progress: impl Iterator<Item = Progress>) {
        let mut known = self.types.lock().unwrap_or_else(PoisonError::into_inner);
        // In the order of types, of which there are more and more.
        for (at, progress) in progress.enumerate() {
            if known.get(at).is_none_or(|one| one.progress.ty != progress.ty) {
                let nothing = Progress { sent: None, acked: None, error: None, revision: None, ty: progress.ty };
                known.insert(at, TypeStatus { progress: nothing, sent_at: None, acked_at: None });
            }
            known[at].update(progress);
        }
    }

    /// Notes that everything as of these views was judged, if it was.
    pub(super) fn settle(&self, stream: &Stream, views: &Arc<Views>) {
        if self.settled.load(Ordering::Relaxed) != views.revision && stream.is_settled(views) {
            self.settled.store(views.revision, Ordering::Relaxed);
        }
    }

    /// Whether it is to go to another replica.
    pub(super) fn leaves(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    fn status(&self) -> Status {
        let types = self.types.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let settled = self.settled.load(Ordering::Relaxed);
        let Self { id, node, address, connected, .. } = self;
        Status { connection: id.clone(), node: node.clone(), address: *address, connected: *connected, settled, types }
    }
}

/// Keeps a connection in the registry for as long as it lives.
pub(super) struct Registration {
    pub(super) connection: Arc<Connection>,
    /// How we ended the stream; absent if the client just went away.
    pub(super) ended: Option<tonic::Status>,
    number: u64,
    shared: Arc<Shared>,
    /// Has the client's configuration worked out.
    _held: Option<Held>,
}

impl Registration {
    pub(super) fn new(
        shared: &Arc<Shared>,
        node: Node,
        scope: Option<&Scope>,
        address: Option<SocketAddr>,
        waker: Arc<AtomicWaker>,
    ) -> Self {
        let number = shared.connections.opened.fetch_add(1, Ordering::Relaxed) + 1;
        let id = format!("{}-{number}", node.name);
        info!(connection = id, node = %node.id, ?address, "xDS stream opened");
        let connected = Timestamp::now();
        let (settled, types, leaving) = (AtomicU64::new(0), Mutex::default(), AtomicBool::new(false));
        let connection = Arc::new(Connection { id, node, address, connected, settled, types, leaving, waker });
        shared.connections.live.insert(number, connection.clone());
        let held = scope.map(|scope| shared.demand.hold([scope.clone()]));
        Self { connection, ended: None, number, shared: shared.clone(), _held: held }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.connections.live.remove(&self.number);
        let status = self.ended.as_ref();
        let (code, reason) = (status.map(|status| status.code()), status.map(|status| clip(status.message())));
        info!(connection = %self.connection.id, ?code, reason, "xDS stream closed");
    }
}
