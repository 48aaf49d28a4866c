//! Telemetry as Envoy's access logs, filters and tracing: what of the objects
//! that apply counts, and what a proxy is told for it.
//! <https://istio.io/latest/docs/reference/config/telemetry/>
//!
//! What cannot be honoured is left out and reported. Nothing here decides
//! whether a request passes; but a format or an expression that Envoy would not
//! take must not reach it, because it would refuse the listener.

pub(super) mod applied;
pub mod cel;
mod logging;
mod metrics;
mod stats_logger;
mod tracing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;

use crate::api::extension_provider::ExtensionProvider;
use crate::api::mesh::MeshConfig;
use crate::api::telemetry::{ProviderRef, Telemetry as Object};
use crate::api::{Meta, ObjectKey};
use crate::graph::Diagnostic;
use crate::model::problem;
use crate::model::service::Service;
use crate::proxy::Capabilities;

use super::access_log::Only;

/// What may influence the result.
pub struct Request<'a> {
    /// The mesh configuration.
    pub mesh: &'a MeshConfig,
    /// The object that the mesh configuration is in.
    pub mesh_origin: &'a Meta,
    /// What applies, the most general first.
    pub telemetries: &'a [&'a Object],
    /// What the proxy can do.
    pub capabilities: Capabilities,
    /// What it is to those that it passes traffic to.
    pub side: Side,
    /// The Gateway that it serves.
    pub gateway: &'a ObjectKey,
    /// The id of the cluster that it is in.
    pub cluster_id: &'a str,
    /// The cluster of a service (`hostname` or `namespace/hostname`) and port,
    /// and its hostname.
    pub cluster: &'a dyn Fn(&str, u16) -> Option<Collector>,
}

/// The side of a connection that a proxy is on, as telemetry sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// That of the client: a gateway calls the services behind it.
    Client,
    /// That of the server: a waypoint stands for its services.
    Server,
}

impl Side {
    /// Whether something is for this side.
    fn is_meant(self, mode: &str) -> bool {
        match mode {
            "" | "CLIENT_AND_SERVER" => true,
            "CLIENT" => self == Self::Client,
            "SERVER" => self == Self::Server,
            _ => false,
        }
    }
}

/// Where something is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// The cluster.
    pub cluster: String,
    /// The service's hostname.
    pub hostname: String,
}

/// What a connection or a request is for, for its metrics.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    /// The service; `None` for a workload's own address.
    pub service: Option<&'a Service>,
    /// What is counted.
    pub traffic: Traffic,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Requests.
    Http,
    /// Requests of gRPC.
    Grpc,
    /// Connections.
    Tcp,
}

/// What is logged and counted, before it is known of what.
pub struct Telemetry {
    capabilities: Capabilities,
    side: Side,
    loggers: Vec<logging::Logger>,
    metrics: Vec<metrics::Metrics>,
    tracing: tracing::Tracing,
    /// What is wrong with the objects.
    pub problems: Vec<Diagnostic>,
}

impl Telemetry {
    /// Works out what applies.
    pub fn new(request: &Request<'_>) -> Self {
        let mut problems = Vec::new();
        let loggers = logging::loggers(request, &mut problems);
        let metrics = metrics::metrics(request, &mut problems);
        let tracing = tracing::tracing(request, &mut problems);
        Self { capabilities: request.capabilities, side: request.side, loggers, metrics, tracing, problems }
    }

    /// The access logs of requests or connections, and what counts them in
    /// proxies that have no filter for it.
    pub fn access_logs(&self, destination: Destination<'_>) -> Vec<AccessLog> {
        let by_log = self.capabilities.stats_logger && !self.capabilities.istio_stats;
        let counting = self.metrics.iter().filter(|_| by_log);
        let counting = counting.filter_map(|metrics| stats_logger::access_log(metrics, self.side, destination));
        self.logs(&[]).into_iter().chain(counting).collect()
    }

    /// The access logs of what is of these kinds alone.
    pub fn logs(&self, only: &[Only]) -> Vec<AccessLog> {
        self.loggers.iter().map(|logger| logger.access_log(only)).collect()
    }

    /// What of requests is traced; `None` if nothing is.
    pub fn tracing(&self) -> Option<Tracing> {
        self.tracing.config.clone()
    }

    /// Whether the ids of requests say if they are traced.
    pub fn traces_by_request_id(&self) -> bool {
        !self.tracing.ignores_request_id
    }

    /// The HTTP filters that count requests.
    pub fn http_filters(&self) -> Vec<HttpFilter> {
        let counting = self.metrics.iter().filter(|_| self.capabilities.istio_stats);
        counting.filter_map(|metrics| metrics.http_filter(self.side)).collect()
    }

    /// The network filters that count connections.
    pub fn network_filters(&self) -> Vec<Filter> {
        let counting = self.metrics.iter().filter(|_| self.capabilities.istio_stats);
        counting.filter_map(|metrics| metrics.network_filter(self.side)).collect()
    }
}

/// A provider by its name.
fn provider<'a>(mesh: &'a MeshConfig, name: &str) -> Option<&'a ExtensionProvider> {
    mesh.extension_providers.iter().find(|provider| provider.name.eq_ignore_ascii_case(name))
}

/// The names of providers, each once.
fn names(providers: &[ProviderRef]) -> Vec<Arc<str>> {
    let mut names: Vec<_> = Vec::with_capacity(providers.len());
    for one in providers {
        if !names.contains(&one.name) {
            names.push(one.name.clone());
        }
    }
    names
}

/// Says something about a Telemetry.
fn say(problems: &mut Vec<Diagnostic>, telemetry: &Object, field: String, reason: &'static str, message: String) {
    problems.push(problem("Telemetry", &telemetry.meta, field, reason, message));
}
