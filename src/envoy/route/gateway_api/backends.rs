//! Where the Gateway API's rules lead.

use std::sync::Arc;

use super::Lowering;
use super::filters::header_filter;
use crate::api::route::{BackendRef, TCPRoute, TLSRoute};
use crate::api::virtual_service::{
    Destination, HttpRouteDestination, PortSelector, RouteDestination, TcpRoute, TlsMatchAttributes, TlsRoute,
};
use crate::envoy::route::Problem;

/// How backends are found.
pub struct Backends<'a> {
    /// The namespace of the route.
    pub namespace: &'a str,
    /// The suffix of service hostnames: `cluster.local`.
    pub domain: &'a str,
    /// Whether a backend is there, and the route may refer to it.
    pub valid: &'a dyn Fn(&BackendRef, &Destination) -> Result<(), Invalid>,
}

/// Why a backend is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The Gateway API's word for it: `BackendNotFound`, `RefNotPermitted` or
    /// `InvalidKind`.
    pub reason: &'static str,
    /// The reason, for people.
    pub message: String,
}

impl Backends<'_> {
    /// The destination of a backend that is valid.
    pub(super) fn resolve(&self, backend: &BackendRef) -> Result<Destination, Invalid> {
        let destination = destination(backend, self.namespace, self.domain)?;
        (self.valid)(backend, &destination)?;
        Ok(destination)
    }
}

/// The destination that a backend means, for a route in a namespace, whether it
/// is there or not.
pub fn destination(backend: &BackendRef, namespace: &str, domain: &str) -> Result<Destination, Invalid> {
    let invalid = |reason, message: &str| Err(Invalid { reason, message: message.to_owned() });
    let namespace = if backend.namespace.is_empty() { namespace } else { &backend.namespace };
    let host: Arc<str> = match (&*backend.group, &*backend.kind) {
        ("", "Service") | ("multicluster.x-k8s.io", "ServiceImport") if backend.name.contains('.') => {
            return invalid("BackendNotFound", "a service is given by its name, not by its hostname");
        }
        ("", "Service") => format!("{}.{namespace}.svc.{domain}", backend.name).into(),
        ("multicluster.x-k8s.io", "ServiceImport") => {
            format!("{}.{namespace}.svc.clusterset.local", backend.name).into()
        }
        ("networking.istio.io", "Hostname") if !backend.namespace.is_empty() => {
            return invalid("BackendNotFound", "a hostname has no namespace");
        }
        ("networking.istio.io", "Hostname") => backend.name.clone(),
        (group, kind) => {
            let message = format!("a backend of group {group:?} and kind {kind:?} is not supported");
            return invalid("InvalidKind", &message);
        }
    };
    if backend.name.is_empty() {
        return invalid("BackendNotFound", "a backend needs a name");
    }
    match backend.port {
        Some(port) => Ok(Destination { host, subset: "".into(), port: Some(PortSelector { number: port.into() }) }),
        None => invalid("BackendNotFound", "a backend needs a port"),
    }
}

impl Lowering<'_> {
    /// A destination for each backend with a weight. One that is not valid has
    /// no host, so that its share of requests gets an error.
    pub(super) fn http_destinations(&mut self, refs: &[BackendRef]) -> Vec<HttpRouteDestination> {
        let mut destinations = Vec::new();
        for (index, backend) in refs.iter().enumerate().filter(|(_, backend)| backend.weight > 0) {
            let at = format!("backendRefs[{index}]");
            let (mut destination, mut headers) = (self.destination(&at, backend), None);
            for (position, filter) in backend.filters.iter().enumerate() {
                if !header_filter(filter, &mut headers) {
                    let message = format!(
                        "a filter of type {:?} is not supported for a backend; its share is answered with 500",
                        filter.kind
                    );
                    self.note(format!("{at}.filters[{position}].type"), "UnsupportedValue", message);
                    destination = Destination::default();
                }
            }
            destinations.push(HttpRouteDestination { destination, weight: weight(backend), headers });
        }
        destinations
    }

    fn destination(&mut self, at: &str, backend: &BackendRef) -> Destination {
        self.backends.resolve(backend).unwrap_or_else(|Invalid { reason, message }| {
            self.note(at, reason, message + "; its share gets an error");
            Destination::default()
        })
    }

    /// The same for connections. Where there is none, all are refused.
    fn destinations(&mut self, refs: &[BackendRef]) -> Vec<RouteDestination> {
        let mut destinations = Vec::new();
        for (index, backend) in refs.iter().enumerate().filter(|(_, backend)| backend.weight > 0) {
            let destination = self.destination(&format!("backendRefs[{index}]"), backend);
            destinations.push(RouteDestination { destination, weight: weight(backend) });
        }
        if destinations.is_empty() {
            destinations.push(RouteDestination::default());
        }
        destinations
    }
}

fn weight(backend: &BackendRef) -> i32 {
    i32::try_from(backend.weight).unwrap_or(i32::MAX)
}

/// The rule of a `TCPRoute`, of which only the first counts. A destination
/// without a host is one that refuses.
pub fn tcp_rule(route: &TCPRoute, backends: &Backends<'_>) -> (Option<TcpRoute>, Vec<Problem>) {
    let mut problems = Vec::new();
    let rule = route.spec.rules.first().map(|rule| {
        let mut cx = Lowering { rule: 0, backends, problems: &mut problems };
        TcpRoute { matches: Vec::new(), route: cx.destinations(&rule.backend_refs) }
    });
    (rule, problems)
}

/// The rule of a `TLSRoute`, of which only the first counts.
pub fn tls_rule(route: &TLSRoute, backends: &Backends<'_>) -> (Option<TlsRoute>, Vec<Problem>) {
    let mut problems = Vec::new();
    let rule = route.spec.rules.first().map(|rule| {
        let mut cx = Lowering { rule: 0, backends, problems: &mut problems };
        let sni_hosts =
            if route.spec.hostnames.is_empty() { ["*".into()].into() } else { route.spec.hostnames.clone() };
        let matches = vec![TlsMatchAttributes { sni_hosts, ..TlsMatchAttributes::default() }];
        TlsRoute { matches, route: cx.destinations(&rule.backend_refs) }
    });
    (rule, problems)
}
