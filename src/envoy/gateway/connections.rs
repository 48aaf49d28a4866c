//! What becomes of connections that a gateway passes on as they are: rules for
//! TLS by server name, rules for TCP for everything else.
//! <https://istio.io/latest/docs/reference/config/networking/virtual-service/#TLSRoute>,
//! <https://gateway-api.sigs.k8s.io/reference/spec/#tlsroute>

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;

use crate::api::Meta;
use crate::api::virtual_service::{RouteDestination, VirtualService};
use crate::envoy::destination::Destination;
use crate::envoy::listener::is_server_name;
use crate::envoy::route::{Clients, Problem, UNKNOWN_SERVICE};
use crate::envoy::routing::{At, Attributes, Connections, Routing, prefix};
use crate::model::gateway::{RouteKey, RouteKind, Server};
use crate::model::problem;

use super::chains::Common;
use super::merge::Merging;
use super::routes::{hosts, visible, within};
use super::services::admits;

/// An object with rules that is bound to a server, and the hosts that they have
/// in common.
type BoundHere<'g> = (&'g RouteKey, Vec<Arc<str>>);

/// Where the connections to a server without names go, or those of no route's
/// names at one that ends TLS: the first rule that is for them decides.
pub(super) fn of_tcp(common: &Common<'_>, one: &Merging) -> Option<TcpProxy> {
    let routing = routing(common, one);
    for (key, _) in bound(common, one) {
        let found = match key.kind {
            RouteKind::VirtualService => {
                let one = common.cx.get(common.model.inputs.virtual_services, &key.object);
                one.and_then(|one| of_virtual_service(&routing, one))
            }
            RouteKind::TCPRoute => common
                .cx
                .get(common.model.inputs.tcp_routes, &key.object)
                .and_then(|route| Some(proxy(&routing, &route.meta, &routing.of_tcp_route(route)?.route))),
            RouteKind::TLSRoute | RouteKind::HTTPRoute | RouteKind::GRPCRoute | RouteKind::Ingress => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Where the connections to a server with TLS go, by their names. Where TLS ends,
/// only those of TLSRoutes count, as a VirtualService's are for what goes on as
/// it is. Names that are in `claimed` have a chain already.
pub(super) fn of_tls(
    common: &Common<'_>,
    one: &Merging,
    claimed: &mut BTreeSet<String>,
) -> Vec<(BTreeSet<String>, TcpProxy)> {
    let routing = routing(common, one);
    let ends = one.server().tls.as_ref().is_some_and(|tls| tls.mode.terminates());
    let mut all = Vec::new();
    for (key, hosts) in bound(common, one) {
        match key.kind {
            RouteKind::VirtualService if ends => {}
            RouteKind::VirtualService => {
                if let Some(of) = common.cx.get(common.model.inputs.virtual_services, &key.object) {
                    by_name(&routing, of, &hosts, claimed, &mut all);
                }
            }
            RouteKind::TLSRoute => {
                let Some(route) = common.cx.get(common.model.inputs.tls_routes, &key.object) else { continue };
                let rule = routing.of_tls_route(route);
                let (names, wrong): (Vec<_>, Vec<_>) = hosts.iter().partition(|host| is_server_name(host));
                for name in wrong {
                    let message = format!("{name:?} is not a host, possibly with a leading *; it is left out");
                    common.cx.diagnose(problem("TLSRoute", &route.meta, "spec.hostnames", "InvalidValue", message));
                }
                let free = names.into_iter().filter(|host| claimed.insert(host.to_string()));
                let names: BTreeSet<_> = free.map(ToString::to_string).collect();
                if let Some(rule) = rule.filter(|_| !names.is_empty()) {
                    all.push((names, proxy(&routing, &route.meta, &rule.route)));
                }
            }
            RouteKind::HTTPRoute | RouteKind::GRPCRoute | RouteKind::TCPRoute | RouteKind::Ingress => {}
        }
    }
    all
}

/// Where connections to a server go that are passed on by the name of a service.
pub(super) fn passed<'a>(common: &Common<'a>, server: &'a Server) -> impl Iterator<Item = &'a Destination> {
    let all = common.cx.fetch(common.passed, common.scope).map(|(to, _)| to);
    all.filter(|to| server.hosts.iter().any(|host| admits(host, &to.service)))
}

fn routing<'a>(common: &Common<'a>, one: &'a Merging) -> Routing<'a> {
    let Common { cx, model, scope, references, .. } = *common;
    let (gateway, port, tls) = (&one.gateway, one.server().port, one.server().tls.is_some());
    Routing { cx, model, scope, at: At::Server { gateway, port, tls }, references }
}

/// The objects with rules for connections that are bound to a server, oldest
/// first.
fn bound<'a>(common: &Common<'a>, one: &Merging) -> Vec<BoundHere<'a>> {
    let Common { cx, model, scope, .. } = *common;
    let all = model.gateways.connections(cx, &one.gateway).into_iter();
    let here = all.filter_map(|(key, bound)| {
        let bindings = bound.to.iter().filter(|binding| binding.gateway == one.gateway);
        let hosts: Vec<_> = bindings.flat_map(|binding| hosts(one.server(), binding, &key.object.namespace)).collect();
        (!hosts.is_empty() && visible(cx, model, key, scope)).then_some((key, hosts))
    });
    here.collect()
}

/// The first rule for TCP of a virtual service that is for a server's
/// connections.
fn of_virtual_service(routing: &Routing<'_>, one: &VirtualService) -> Option<TcpProxy> {
    for (index, rule) in one.spec.tcp.iter().enumerate() {
        let matches = rule.matches.iter().map(Attributes::from).enumerate();
        let mut concerned = rule.matches.is_empty();
        for (at, attributes) in matches {
            concerned |= concerns(routing, one, ("spec.tcp", index, at), &attributes);
        }
        if concerned && !rule.route.is_empty() {
            let route = routing.destinations(one, &rule.route);
            return Some(proxy(routing, &one.meta, &route));
        }
    }
    None
}

/// The rules for TLS of a virtual service, by the names that they are for.
fn by_name(
    routing: &Routing<'_>,
    of: &VirtualService,
    hosts: &[Arc<str>],
    claimed: &mut BTreeSet<String>,
    all: &mut Vec<(BTreeSet<String>, TcpProxy)>,
) {
    for (index, rule) in of.spec.tls.iter().enumerate().filter(|(_, rule)| !rule.route.is_empty()) {
        for (at, matched) in rule.matches.iter().enumerate() {
            let place = ("spec.tls", index, at);
            if !concerns(routing, of, place, &Attributes::from(matched)) {
                continue;
            }
            let mut names = BTreeSet::new();
            for (position, name) in matched.sni_hosts.iter().enumerate() {
                let lower = name.to_ascii_lowercase();
                let (reason, why) = match () {
                    () if !is_server_name(&lower) => ("InvalidValue", "not a host, possibly with a leading *"),
                    () if !hosts.iter().any(|host| within(&lower, host)) => {
                        let why = "not among the hosts that the virtual service and the gateway have in common";
                        ("HostnameConflict", why)
                    }
                    () if claimed.contains(&lower) => {
                        let why = "another rule or server has the name on the port";
                        ("HostnameConflict", why)
                    }
                    () => {
                        claimed.insert(lower.clone());
                        names.insert(lower);
                        continue;
                    }
                };
                let field = format!("match[{at}].sniHosts[{position}]");
                let message = format!("{name:?} is {why}; it is left out");
                let found = Problem { rule: index, field, reason, message };
                routing.say("VirtualService", &of.meta, &found, "spec.tls");
            }
            if !names.is_empty() {
                let route = routing.destinations(of, &rule.route);
                all.push((names, proxy(routing, &of.meta, &route)));
            }
        }
    }
}

/// Whether a match of a rule, which is the `rule`th of `rules`, is for a
/// server's connections.
fn concerns(
    routing: &Routing<'_>,
    of: &VirtualService,
    (rules, rule, at): (&str, usize, usize),
    attributes: &Attributes<'_>,
) -> bool {
    match is_for(attributes, &routing.clients(&of.meta.namespace), routing.at.port()) {
        Ok(matches) => matches,
        Err((field, reason, message)) => {
            let field = format!("match[{at}].{field}");
            let found = Problem { rule, field, reason, message: message + "; the match is left out" };
            routing.say("VirtualService", &of.meta, &found, rules);
            false
        }
    }
}

/// Whether a match is for connections of some clients to a port. What a gateway
/// cannot tell costs the match, which must not become wider.
fn is_for(one: &Attributes<'_>, clients: &Clients<'_>, port: u16) -> Result<bool, (String, &'static str, String)> {
    if !clients.named(one.gateways) || (one.port != 0 && one.port != u32::from(port)) {
        return Ok(false);
    }
    if let Some(name) = one.unknown.names().next() {
        return Err((name.to_owned(), "UnknownField", "this version does not know the condition".into()));
    }
    if !one.destination_subnets.is_empty() {
        let message = "at a gateway all connections are for its own address";
        return Err(("destinationSubnets".into(), "UnsupportedValue", message.into()));
    }
    Ok(clients.have(one.source_labels, one.source_namespace))
}

fn proxy(routing: &Routing<'_>, meta: &Meta, route: &[RouteDestination]) -> TcpProxy {
    let to = Connections { namespace: &meta.namespace, prefix: &prefix(meta), route };
    routing.proxy(UNKNOWN_SERVICE, &to)
}
