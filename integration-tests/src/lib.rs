//! Fairway against a real Kubernetes API and real clients.
//!
//! What the tests in `tests/integration` stand on: a throw-away Kubernetes
//! API, the process under test, a client as strict as ztunnel, and a second
//! opinion on what that client should have been told. None of it uses the code
//! of Fairway itself, only the wire contracts: a mistake there must not be
//! able to excuse itself here.
#![allow(clippy::unwrap_used, reason = "whatever fails here fails a test")]
#![allow(clippy::large_futures, reason = "a test runs once")]

pub mod runner;
pub mod child;
pub mod cluster;
pub mod api;
pub mod watch;
pub mod kubelet;
pub mod fairway;
pub mod ztunnel;
pub mod crowd;
pub mod envoy;
pub mod certificate;
pub mod identity;
pub mod issuer;
pub mod authorizer;
pub mod tls;
pub mod accept;
pub mod echo;
pub mod hbone;
pub mod proxy;
pub mod waypoint;
pub mod expected;
pub mod stage;

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// How long anything that should happen may take. A passing test never waits
/// it out; two busy cores and a debug build need the margin.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at that cannot announce itself.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks until there is a result, and panics with the last reason if there is
/// none in time.
pub async fn eventually<T, E, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    eventually_within(PATIENCE, what, &mut look).await
}

/// [`eventually`] with a limit of its own.
pub async fn eventually_within<T, E, F>(limit: Duration, what: &str, mut look: impl FnMut() -> F) -> T
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + limit;
    let mut last = String::from("it was never looked at");
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, look()).await {
            Ok(Ok(result)) => return result,
            Ok(Err(reason)) => last = format!("{reason:?}"),
            Err(_) => panic!("{what}: not within {limit:?}: {last}"),
        }
        // What is known at once is never too late for the timeout above.
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}: {last}");
        tokio::time::sleep(INTERVAL).await;
    }
}
