//! The agent's own port: whether the proxy can be sent traffic, whether it is
//! alive, and its metrics. Paths are pilot-agent's.
//!
//! Probes come through Envoy's port 15021, so that an answer also says that
//! Envoy serves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt;
use http_body_util::BodyExt;
use jiff::Timestamp;
use tokio::sync::watch;

use super::upstream::chain;
use super::{admin, metrics};

/// What is known of the proxy.
pub struct Proxy {
    /// Envoy's admin port.
    pub admin: SocketAddr,
    /// When the workload certificate ends, if there is one.
    pub certificate: watch::Sender<Option<Timestamp>>,
    /// Whether the end has begun.
    pub draining: AtomicBool,
    /// Whether Envoy runs.
    pub running: AtomicBool,
    /// How often the CA was asked, and how often in vain.
    pub requests: (AtomicU64, AtomicU64),
    /// What Envoy has said once, and does not take back in its life.
    configured: AtomicBool,
    /// The last answer, which is logged when it changes.
    last: watch::Sender<Option<Result<(), String>>>,
}

impl Proxy {
    /// A proxy of which nothing is known.
    pub fn new(admin: SocketAddr) -> Self {
        Self {
            admin,
            certificate: watch::Sender::default(),
            draining: AtomicBool::new(false),
            running: AtomicBool::new(false),
            requests: Default::default(),
            configured: AtomicBool::new(false),
            last: watch::Sender::default(),
        }
    }

    /// Whether the proxy can be sent traffic, or why not.
    pub async fn ready(&self) -> Result<(), String> {
        let ready = self.check().await;
        let changed = |last: &mut Option<Result<(), String>>| {
            let changed = last.as_ref() != Some(&ready);
            *last = Some(ready.clone());
            changed
        };
        if self.last.send_if_modified(changed) {
            match &ready {
                Ok(()) => tracing::info!("the proxy is ready"),
                Err(reason) => tracing::info!(reason, "the proxy is not ready"),
            }
        }
        ready
    }

    async fn check(&self) -> Result<(), String> {
        if self.draining.load(Relaxed) {
            return Err("draining".into());
        }
        if !self.running.load(Relaxed) {
            return Err("Envoy does not run".into());
        }
        if self.certificate.borrow().is_none() {
            return Err("no workload certificate yet".into());
        }
        if self.configured.load(Relaxed) {
            return Ok(());
        }
        let page = admin::text(self.admin, Method::GET, READINESS).await.map_err(|error| chain(&error))?;
        configured(&page)?;
        self.configured.store(true, Relaxed);
        Ok(())
    }
}

/// The statistics that say whether Envoy has what it needs.
const READINESS: &str = concat!(
    r"/stats?usedonly&filter=^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$",
    r"|^listener_manager\.workers_started$|^server\.state$"
);

/// Whether Envoy has been configured and has begun to serve, by its statistics.
pub fn configured(page: &str) -> Result<(), String> {
    let (mut cds, mut lds, mut rejected, mut state, mut workers) = (0, 0, 0, None, 0);
    for (name, value) in admin::stats(page) {
        match name {
            "cluster_manager.cds.update_success" => cds = value,
            "listener_manager.lds.update_success" => lds = value,
            "cluster_manager.cds.update_rejected" | "listener_manager.lds.update_rejected" => rejected += value,
            "listener_manager.workers_started" => workers = value,
            "server.state" => state = Some(value),
            _ => {}
        }
    }
    match (cds > 0, lds > 0) {
        (true, true) => {}
        _ if rejected > 0 => return Err("Envoy rejected its configuration".into()),
        (false, false) => return Err("no configuration from the control plane yet".into()),
        (true, false) => return Err("no listeners from the control plane yet".into()),
        (false, true) => return Err("no clusters from the control plane yet".into()),
    }
    match state {
        Some(0) => {}
        Some(1) => return Err("Envoy is draining".into()),
        _ => return Err("Envoy is still initializing".into()),
    }
    if workers == 0 {
        return Err("Envoy's workers have not started yet".into());
    }
    Ok(())
}

/// The pages.
pub fn pages(proxy: Arc<Proxy>) -> Router {
    Router::new()
        .route("/healthz/ready", get(ready))
        .route("/healthz/live", get(live))
        .route("/stats/prometheus", get(metrics_page))
        .route("/metrics", get(metrics_page))
        .with_state(proxy)
}

async fn ready(State(proxy): State<Arc<Proxy>>) -> Response {
    match proxy.ready().await {
        Ok(()) => (StatusCode::OK, "ready\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

async fn live(State(proxy): State<Arc<Proxy>>) -> Response {
    match proxy.running.load(Relaxed) {
        true => (StatusCode::OK, "live\n").into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "Envoy does not run\n").into_response(),
    }
}

/// Envoy's metrics and the agent's, in one text.
async fn metrics_page(State(proxy): State<Arc<Proxy>>) -> Response {
    let own = own_metrics(&proxy);
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    match admin::open(proxy.admin, Method::GET, "/stats/prometheus").await {
        Ok(page) => {
            // The page can be long, and is passed on as it comes. The
            // connection is kept for as long.
            let (body, connection) = (page.response.into_body(), page.connection);
            let envoys = body.into_data_stream().inspect(move |_| {
                let _held = &connection;
            });
            let envoys = metrics::under_istios_names(envoys);
            let own = futures::stream::once(async move { Ok::<_, hyper::Error>(Bytes::from(own)) });
            (kind, Body::from_stream(own.chain(envoys))).into_response()
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), "no metrics of Envoy");
            (kind, own).into_response()
        }
    }
}

/// The agent's metrics, named as pilot-agent's, which alerts are written for.
fn own_metrics(proxy: &Proxy) -> String {
    let mut text = String::new();
    if let Some(expires) = *proxy.certificate.borrow() {
        let left = expires.duration_since(Timestamp::now()).as_secs_f64();
        text.push_str("# TYPE istio_agent_cert_expiry_seconds gauge\n");
        text.push_str(&format!("istio_agent_cert_expiry_seconds{{resource_name=\"default\"}} {left:.0}\n"));
    }
    for (name, count) in [
        ("istio_agent_num_outgoing_requests", &proxy.requests.0),
        ("istio_agent_num_failed_outgoing_requests", &proxy.requests.1),
    ] {
        let count = count.load(Relaxed);
        text.push_str(&format!("# TYPE {name} counter\n{name}{{request_type=\"csr\"}} {count}\n"));
    }
    text
}
