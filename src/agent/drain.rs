//! How a proxy ends: listeners are drained, connections are given time, and
//! only then does Envoy go.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use axum::http::Method;

use super::admin;
use super::node::Role;
use super::process::Running;
use super::upstream::chain;

/// How often connections are counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// How often counting may fail in a row.
const FAILURES: u32 = 5;

/// What is waited for between the drain and the end.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// Some time: `terminationDrainDuration`.
    Passed(Duration),
    /// Some time (`MINIMUM_DRAIN_DURATION`), and then the last connection:
    /// `EXIT_ON_ZERO_ACTIVE_CONNECTIONS`. Whoever sets that sets the longest
    /// time too, as the pod's grace period.
    Unused(Duration),
}

/// How a proxy ends.
#[derive(Clone, Debug)]
pub struct Drain {
    /// What the proxy is.
    pub role: Role,
    /// Envoy's admin port.
    pub admin: SocketAddr,
    /// What is waited for.
    pub until: Until,
    /// How long Envoy may take to end.
    pub kill_after: Duration,
    /// Ports that are not for the workload.
    pub own_ports: [u16; 2],
}

/// Ends Envoy. `hurry` is a signal that came while one was being followed.
pub async fn end(drain: &Drain, envoy: &mut Running, hurry: impl Future<Output = ()>) -> anyhow::Result<ExitStatus> {
    // Applications go on making calls while they end, so only what comes in
    // to a sidecar is drained. All that gateways have comes in.
    let path = match drain.role {
        Role::Sidecar => "/drain_listeners?inboundonly&graceful",
        Role::Router | Role::Waypoint => "/drain_listeners?graceful",
    };
    match admin::text(drain.admin, Method::POST, path).await {
        Ok(_) => tracing::info!(until = ?drain.until, "listeners are draining"),
        Err(error) => tracing::warn!(error = chain(&error), "listeners cannot be drained"),
    }
    tokio::select! {
        ended = envoy.ended() => {
            tracing::info!("Envoy ended by itself while draining");
            return ended;
        }
        () = wait(drain) => {}
        () = hurry => tracing::info!("not waiting any longer"),
    }
    envoy.stop(drain.kill_after).await
}

async fn wait(drain: &Drain) {
    let minimum = match drain.until {
        Until::Passed(time) => return tokio::time::sleep(time).await,
        Until::Unused(minimum) => minimum,
    };
    tokio::time::sleep(minimum).await;
    let mut failures = 0;
    loop {
        match admin::text(drain.admin, Method::GET, "/stats?usedonly&filter=downstream_cx_active$").await {
            Ok(page) => match connections(&page, drain.own_ports) {
                0 => return tracing::info!("there are no connections any more"),
                count => {
                    failures = 0;
                    tracing::info!(count, "waiting for connections to end");
                }
            },
            Err(error) => {
                failures += 1;
                tracing::warn!(error = chain(&error), "connections cannot be counted");
                if failures >= FAILURES {
                    return;
                }
            }
        }
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

/// How many connections of clients there are. Probes and scrapers are not
/// waited for, nor are connections between listeners of this Envoy, which stay
/// open for as long as a pool has them.
pub fn connections(page: &str, own_ports: [u16; 2]) -> u64 {
    let clients = admin::stats(page).filter(|(name, _)| {
        let Some(listener) = name.strip_prefix("listener.").and_then(|rest| rest.strip_suffix(".downstream_cx_active"))
        else {
            return false;
        };
        let own = own_ports.iter().any(|port| listener.ends_with(&format!("_{port}")));
        !own && !listener.starts_with("admin")
            && !listener.starts_with("envoy_internal_")
            && !listener.contains(".worker_")
    });
    clients.map(|(_, count)| count).sum()
}
