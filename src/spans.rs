//! Traces of how a change reaches proxies: when it was heard of, its commit, and
//! each response that tells it to a proxy, up to the acknowledgement.
//!
//! | Span | From | To | Parent |
//! |---|---|---|---|
//! | `change` | the first event of a commit was taken | what came of it is published | none |
//! | `commit` | the graph begins | the graph is up to date | `change` |
//! | `push` | a response is begun | the proxy has judged it | `commit` |
//!
//! Without the feature `otel`, and as long as nobody has said where traces go,
//! [`on`] is false and nothing else is called: that is one load in the writer and
//! in a stream. Spans wait in a bounded queue, and are lost when that is full: a
//! collector that does not answer delays nobody.

#[cfg(not(feature = "otel"))]
mod nowhere;
#[cfg(feature = "otel")]
mod otlp;

use std::time::{Duration, SystemTime};

#[cfg(not(feature = "otel"))]
use nowhere as sink;
#[cfg(feature = "otel")]
use otlp as sink;

/// Whether this build can send traces.
pub const AVAILABLE: bool = cfg!(feature = "otel");

/// Where traces go, and how many there are.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The collector, as `http://HOST:PORT`.
    pub endpoint: String,
    /// What the process is called.
    pub service: String,
    /// The replica.
    pub instance: String,
    /// Which share of all changes is traced, between 0 and 1.
    pub share: f64,
}

/// A change that was committed.
#[derive(Clone, Debug)]
pub struct Change {
    /// When its first event was taken.
    pub heard: SystemTime,
    /// Of how many events it is.
    pub events: usize,
    /// When its commit began.
    pub begun: SystemTime,
    /// When the graph was up to date.
    pub committed: SystemTime,
    /// The revision of the views that were published, if any were.
    pub revision: Option<u64>,
    /// The collections of which rows were worked out, and how many.
    pub rows: Vec<(&'static str, u64)>,
}

/// A response to a proxy that tells of a change.
#[derive(Clone, Debug)]
pub struct Push {
    /// The change.
    pub of: Followed,
    /// The type, in short.
    pub ty: &'static str,
    /// When it was begun.
    pub begun: SystemTime,
    /// How long it took to hand it over to the transport.
    pub sending: Duration,
    /// How many resources it has.
    pub resources: usize,
    /// How many names it removes.
    pub removed: usize,
    /// Its length.
    pub bytes: usize,
}

/// A change whose pushes are traced.
#[derive(Clone, Debug)]
pub struct Followed(sink::Parent);

/// Begins to send traces. To be called once, on a runtime.
///
/// # Errors
/// If the endpoint cannot be one, or this build has no traces. Nothing is
/// connected to yet.
pub fn start(settings: &Settings) -> anyhow::Result<()> {
    sink::start(settings)
}

/// Sends what still waits, for a moment at most. Blocks.
pub fn stop() {
    sink::stop();
}

/// Whether there are traces at all.
pub fn on() -> bool {
    sink::on()
}

/// Tells of a change.
pub fn changed(change: Change) {
    sink::changed(change);
}

/// Whether a response of a revision is to be told of. Only of the latest changes,
/// and of each only some.
pub fn follow(revision: u64) -> Option<Followed> {
    sink::follow(revision).map(Followed)
}

/// Tells of a response that a proxy has judged just now: accepted it, or rejected
/// it for a reason.
pub fn judged(push: Push, proxy: &str, error: Option<&str>) {
    sink::judged(push, proxy, error);
}
