//! A client as strict as ztunnel: it asks, acknowledges, refuses, reconnects
//! and keeps state as ztunnel does, and notes every breach of the protocol
//! that ztunnel would suffer from in silence.

pub mod wire;
pub mod refusal;
pub mod table;
mod session;
mod connect;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::PATIENCE;
use table::Table;

pub(crate) use connect::lazy_channel;
pub use connect::{Tls, authorize, channel};

/// The type of workloads and services.
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// The type of policies.
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

/// How a ztunnel connects.
#[derive(Clone)]
pub struct Options {
    /// Where the control plane listens.
    pub address: SocketAddr,
    /// Where its other replicas listen: a connection that ends is followed by one
    /// to the next, as a Service would have it.
    pub others: Vec<SocketAddr>,
    /// TLS, with what it takes; `None` is plaintext, which a real ztunnel
    /// never speaks.
    pub tls: Option<Tls>,
    /// The token it proves its identity with.
    pub token: Option<String>,
    /// The node it runs on.
    pub node: String,
    /// Whether it asks for addresses one by one (`XDS_ON_DEMAND`).
    pub on_demand: bool,
    /// What it kept from an earlier connection.
    pub retained: BTreeMap<&'static str, BTreeMap<String, String>>,
}

impl Options {
    /// A ztunnel on the plaintext port.
    pub fn plaintext(address: SocketAddr) -> Self {
        Self {
            address,
            others: vec![],
            tls: None,
            token: None,
            node: "node-a".into(),
            on_demand: false,
            retained: BTreeMap::new(),
        }
    }
}

/// What a test tells a running client.
enum Command {
    /// Ask for these names.
    Demand(Vec<String>),
    /// Keep acknowledgements back, or send those that are due.
    HoldAcks(bool),
    /// Drop the connection, as a network fault does.
    Disconnect,
    /// Connect again, perhaps to another replica.
    Connect(SocketAddr),
}

/// A running client. It ends when it is dropped.
pub struct Ztunnel {
    table: Arc<Mutex<Table>>,
    changed: watch::Receiver<u64>,
    commands: mpsc::UnboundedSender<Command>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Ztunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ztunnel {
    /// Starts a client, which connects until it succeeds.
    pub fn start(options: Options) -> Self {
        let table = Arc::new(Mutex::new(Table::default()));
        let (notify, changed) = watch::channel(0);
        let (commands, orders) = mpsc::unbounded_channel();
        let task = tokio::spawn(session::run(options, table.clone(), notify, orders));
        Self { table, changed, commands, task }
    }

    /// Starts a client and waits until it is ready.
    pub async fn ready(options: Options) -> Self {
        let ztunnel = Self::start(options);
        ztunnel.until_ready().await;
        ztunnel
    }

    /// Waits until ztunnel would take traffic: both types acknowledged.
    pub async fn until_ready(&self) {
        self.until("ztunnel is ready", |table| match table.ready() {
            true => Ok(()),
            false => Err(format!("acknowledged {:?}; connection: {:?}", table.acknowledged, table.last_error)),
        })
        .await;
    }

    /// Looks at what it knows.
    pub fn read<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.table.lock().unwrap())
    }

    /// Waits until what it knows satisfies a condition, and returns what the
    /// condition returns. Panics on any breach of the protocol.
    pub async fn until<T>(&self, what: &str, look: impl Fn(&Table) -> Result<T, String>) -> T {
        self.until_within(PATIENCE, what, look).await
    }

    /// [`Ztunnel::until`] with a limit of its own.
    pub async fn until_within<T>(&self, limit: Duration, what: &str, look: impl Fn(&Table) -> Result<T, String>) -> T {
        let deadline = Instant::now() + limit;
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            let reason = match self.read(|table| look(table)) {
                Ok(result) => {
                    self.assert_correct();
                    return result;
                }
                Err(reason) => reason,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => panic!("the client ended while waiting until {what}"),
                Err(_) => {
                    self.assert_correct();
                    panic!("{what}: not within {limit:?}: {reason}");
                }
            }
        }
    }

    /// Panics if the control plane broke a rule or sent what ztunnel refuses.
    pub fn assert_correct(&self) {
        let breaches = self.read(|table| table.breaches.clone());
        assert!(breaches.is_empty(), "the control plane broke the protocol:\n{}", breaches.join("\n"));
    }

    /// Asks for addresses by name (on demand).
    pub fn demand(&self, names: &[&str]) {
        let names = names.iter().map(ToString::to_string).collect();
        self.commands.send(Command::Demand(names)).unwrap();
    }

    /// Keeps acknowledgements back, or sends those that are due.
    pub async fn hold_acks(&self, hold: bool) {
        self.commands.send(Command::HoldAcks(hold)).unwrap();
        self.until("acknowledgements are held or not", |table| match table.holding == hold {
            true => Ok(()),
            false => Err("not yet".into()),
        })
        .await;
    }

    /// Drops the connection and stays away.
    pub async fn disconnect(&self) {
        self.commands.send(Command::Disconnect).unwrap();
        self.until("it is disconnected", |table| match table.connected {
            false => Ok(()),
            true => Err("not yet".into()),
        })
        .await;
    }

    /// Connects again, perhaps to another replica, with what it knows, and
    /// waits until both types are answered. Returns the point in the history
    /// from which the new connection counts.
    pub async fn connect(&self, address: SocketAddr) -> usize {
        let (before, connections) = self.read(|table| (table.now(), table.connections));
        self.commands.send(Command::Connect(address)).unwrap();
        self.until("both types are answered again", |table| {
            let new = table.history[before..].iter().filter(|delta| delta.connection > connections);
            let types: std::collections::BTreeSet<_> = new.map(|delta| delta.type_url).collect();
            if types.len() == 2 { Ok(()) } else { Err(format!("{types:?}, {:?}", table.last_error)) }
        })
        .await;
        before
    }

    /// What it would name after a reconnect.
    pub fn retained(&self) -> BTreeMap<&'static str, BTreeMap<String, String>> {
        self.read(|table| table.versions.clone())
    }
}
