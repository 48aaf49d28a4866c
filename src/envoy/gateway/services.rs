//! Destinations of gateways that no route leads to by its name: all services, if
//! gateways are to be told of all, and those that connections are passed on to
//! by the name that sidecars ask for in TLS.
//! <https://istio.io/latest/docs/reference/config/networking/gateway/#ServerTLSSettings-TLSmode>

use std::sync::Arc;

use crate::envoy::client;
use crate::envoy::destination::{Destination, ports};
use crate::envoy::name::Handling;
use crate::graph::{Collection, Ctx, Graph};
use crate::model::Model;
use crate::model::by_host::exported;
use crate::model::gateway::{ServerHost, TlsMode};
use crate::model::service::{Protocol, Service, ServiceKey};
use crate::proxy::Scope;

use super::merge::Merged;
use super::routes::within;

/// All services, at each gateway, if the process was told so.
pub(super) fn all(
    graph: &mut Graph,
    model: &Model,
    scopes: Collection<Scope, ()>,
) -> Collection<Destination, Protocol> {
    let model_of = model.clone();
    graph.derive("gateway_all_services", model.services, move |cx, key: &ServiceKey, service: &Arc<Service>| {
        let mut found = Vec::new();
        if model_of.settings.all_services_at_gateways {
            let scopes = cx.all(scopes).into_iter().map(|(scope, ())| scope);
            for scope in scopes.filter(|scope| is_seen(cx, &model_of, service, scope)) {
                found.extend(destinations(cx, &model_of, scope, key, service, Handling::Outbound));
            }
        }
        found
    })
}

/// The services that connections are passed on to.
pub(super) fn passed(
    graph: &mut Graph,
    model: &Model,
    merged: Collection<Scope, Arc<Merged>>,
) -> Collection<Destination, Protocol> {
    let passing = graph.derive("gateway_passing", merged, |_, scope: &Scope, merged: &Arc<Merged>| {
        let servers = merged.listeners.values().flat_map(|listened| listened.servers()).map(|one| one.server());
        let passing = servers.filter(|one| one.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::AutoPassthrough));
        let hosts: Vec<ServerHost> = passing.flat_map(|one| one.hosts.iter().cloned()).collect();
        (!hosts.is_empty()).then(|| (scope.clone(), hosts))
    });
    let model_of = model.clone();
    graph.derive("gateway_passed_services", model.services, move |cx, key: &ServiceKey, service: &Arc<Service>| {
        let mut found = Vec::new();
        if service.external {
            return found;
        }
        for (scope, hosts) in cx.all(passing) {
            if hosts.iter().any(|host| admits(host, key)) && is_seen(cx, &model_of, service, scope) {
                found.extend(destinations(cx, &model_of, scope, key, service, Handling::Passed));
            }
        }
        found
    })
}

/// Whether connections for a host of a server may go to a service.
pub(super) fn admits(host: &ServerHost, service: &ServiceKey) -> bool {
    let namespace = host.namespace.as_ref().is_none_or(|only| *only == service.namespace);
    namespace && within(&service.hostname, &host.host)
}

/// Whether a service is exported to the namespace of a gateway. Whoever passes a
/// name in TLS chooses among these, so a service that is kept from the gateway's
/// namespace is kept from the world.
/// <https://istio.io/latest/docs/reference/config/networking/service-entry/#ServiceEntry-export_to>
fn is_seen(cx: &Ctx<'_>, model: &Model, service: &Service, scope: &Scope) -> bool {
    let default = &model.scope().mesh(cx).default_service_export_to;
    exported(&service.export_to, default, &service.key.namespace, scope.namespace())
}

/// The ports of a service, each with its subsets.
fn destinations(
    cx: &Ctx<'_>,
    model: &Model,
    scope: &Scope,
    key: &ServiceKey,
    service: &Service,
    handling: Handling,
) -> Vec<(Destination, Protocol)> {
    let rule = model.destination_rules.rule(cx, model.scope(), client(scope), key).unwrap_or_default();
    let subsets: Vec<Arc<str>> =
        std::iter::once("".into()).chain(rule.subsets.iter().map(|subset| subset.name.clone())).collect();
    let each = ports(service).flat_map(|port| {
        let of_subset = move |subset: &Arc<str>| {
            let (scope, service, subset) = (scope.clone(), key.clone(), subset.clone());
            (Destination { scope, service, port: port.number, handling, subset }, port.protocol)
        };
        subsets.iter().map(of_subset)
    });
    each.collect()
}
