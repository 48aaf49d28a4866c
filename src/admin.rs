//! What people look at: readiness, metrics, versions and debug pages.
//!
//! `:8080` answers `/ready`; `:15014` answers `/metrics`, `/version` and, to
//! those who may see them, `/debug/…` ([`access`]). Paths are istiod's where it
//! has them.

pub mod access;
pub mod ca;
pub mod debug;
pub mod metrics;
mod profiles;
pub mod render;
pub mod scopes;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ca::authenticate::Authenticate;
use crate::source::Problems;
use crate::source::originals::Originals;
use crate::writer::{Published, Questions};
use crate::xds::server::connections::Connections;

/// The process's metrics. What starts late registers late.
#[derive(Clone, Default)]
pub struct SharedRegistry(Arc<Mutex<Registry>>);

impl SharedRegistry {
    /// Registers metrics.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the pages show.
#[derive(Clone)]
pub struct Admin {
    /// Whether proxies are being served.
    pub ready: watch::Receiver<bool>,
    /// The process's metrics.
    pub registry: SharedRegistry,
    /// What the writer publishes.
    pub published: Published,
    /// Where the graph is asked.
    pub questions: Questions,
    /// Who is connected.
    pub connections: Arc<Connections>,
    /// What cannot be read at the moment.
    pub problems: Problems,
    /// What signs certificates, and who was refused one.
    pub ca: ca::Ca,
    /// Where objects can be read as they were written.
    pub originals: Originals,
    /// The cluster's id.
    pub cluster: Arc<str>,
    /// Finds out who asks for debug pages.
    pub authenticate: Arc<dyn Authenticate>,
    /// The namespaces whose accounts see everything, besides the mesh's root
    /// namespace.
    pub system_namespaces: Arc<[Arc<str>]>,
    /// Whether metrics too are for this machine only.
    pub metrics_local_only: bool,
    /// Whether profiles may be taken.
    pub profile: bool,
    /// Cancelled when the process is about to end.
    pub stopping: CancellationToken,
    /// What is logged.
    pub levels: scopes::Levels,
}

impl Admin {
    /// The namespaces whose accounts see everything.
    fn system_namespaces(&self) -> BTreeSet<Arc<str>> {
        let root = self.published.mesh.borrow().root_namespace.clone();
        let root = Some(root).filter(|root| !root.is_empty());
        self.system_namespaces.iter().cloned().chain(root).collect()
    }
}

/// The pages of the health port.
pub fn health_pages(admin: Admin) -> Router {
    Router::new().route("/ready", get(ready)).with_state(admin)
}

/// The pages of the monitoring port.
pub fn monitoring_pages(admin: Admin) -> Router {
    let debug =
        debug::pages().merge(profiles::pages()).route_layer(from_fn_with_state(admin.clone(), access::identified));
    let mut metrics = Router::new().route("/metrics", get(expose));
    if admin.metrics_local_only {
        metrics = metrics.route_layer(from_fn(access::local_only));
    }
    let pages = Router::new().route("/version", get(version)).merge(metrics).merge(debug).merge(scopes::pages(&admin));
    pages.fallback(without_empty_parts).with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> Response {
    match *admin.ready.borrow() {
        true => (StatusCode::OK, "ready\n").into_response(),
        false => {
            let open =
                admin.problems.list().into_iter().map(|problem| format!("{}: {}\n", problem.place, problem.reason));
            let why = match &*admin.published.blocked.borrow() {
                Some(reason) => format!("the mesh's configuration cannot be read: {reason}"),
                None => "not everything has been read yet".to_owned(),
            };
            let text = format!("not ready: {why}\n{}", open.collect::<String>());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

/// The version as istiod writes it: the release, a revision of the source and the
/// state of that, which nobody told us. istioctl takes it apart, and would print
/// the end of a line.
async fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), "-fairway-unknown-unknown")
}

/// What Go's servers do with a path that has empty parts: `istioctl version` and
/// `istioctl bug-report` ask for `//version`.
async fn without_empty_parts(uri: Uri) -> Response {
    let path = uri.path();
    // Browsers take a backslash for a slash, and would go elsewhere.
    if !path.contains("//") || path.contains('\\') {
        return StatusCode::NOT_FOUND.into_response();
    }
    let mut clean = String::new();
    for character in path.chars() {
        if character != '/' || !clean.ends_with('/') {
            clean.push(character);
        }
    }
    if let Some(query) = uri.query() {
        clean = clean + "?" + query;
    }
    Redirect::permanent(&clean).into_response()
}

async fn expose(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match admin.registry.register(|registry| prometheus_client::encoding::text::encode(&mut text, registry)) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
