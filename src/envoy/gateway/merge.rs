//! Which servers the proxies of a gateway listen for: those of all gateways
//! that are for them, put together by port. The oldest gateway comes first, of
//! one age the name decides and then the namespace; who comes later and does not
//! go with what is there is left out, and its neighbours are not.
//! <https://istio.io/latest/docs/reference/config/networking/gateway/#Server>

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::core::TargetPort;
use crate::api::{Labels, Meta};
use crate::graph::Ctx;
use crate::model::gateway::{GatewayKey, GatewayServers, Proxies, Proxy, Server, ServerProtocol};
use crate::model::service::{Port, Service, ServiceKey};
use crate::model::{Model, problem};
use crate::proxy::{GatewayScope, Scope};

/// A Service with this label is not looked at to find out where a port is
/// listened on.
const NO_TRANSLATION: &str = "experimental.istio.io/disable-gateway-port-translation";

/// What the proxies of a scope listen for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Merged {
    /// By address, which is empty for all of them, and port.
    pub(super) listeners: BTreeMap<(Arc<str>, u16), Arc<Listened>>,
}

/// What is listened for on one port.
#[derive(Debug, PartialEq)]
pub(super) enum Listened {
    /// Plain HTTP.
    Http {
        /// The route configuration.
        routes: Arc<str>,
        /// The servers, in order.
        servers: Vec<Merging>,
    },
    /// Anything else. Several servers are told apart by the names of TLS.
    Chains(Vec<Merging>),
}

/// A server of a gateway, where it is listened for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Merging {
    /// The gateway.
    pub(super) gateway: GatewayKey,
    /// Its servers.
    pub(super) of: Arc<GatewayServers>,
    /// Which of them.
    pub(super) index: usize,
    /// Its place among all servers of the proxies.
    pub(super) position: usize,
    /// The route configuration, if it speaks HTTP.
    pub(super) routes: Option<Arc<str>>,
}

impl Merging {
    /// The server itself.
    pub(super) fn server(&self) -> &Server {
        &self.of.servers[self.index]
    }

    /// Says that it is left out.
    fn leave_out(&self, cx: &Ctx<'_>, reason: &'static str, message: String) {
        let (field, meta) = (&*self.server().field, &self.of.meta);
        cx.diagnose(problem(self.gateway.declared.kind(), meta, field, reason, message + "; the server is left out"));
    }
}

impl Listened {
    /// Its servers, in order.
    pub(super) fn servers(&self) -> &[Merging] {
        match self {
            Self::Http { servers, .. } | Self::Chains(servers) => servers,
        }
    }

    /// Whether a further server goes with those that are there; if not, why.
    fn admits(&self, server: &Server) -> Result<(), String> {
        let other = |of: &Merging| {
            let (kind, meta) = (of.gateway.declared.kind(), &of.of.meta);
            format!("{} of {kind} {}", of.server().field, meta.key())
        };
        let Some(first) = self.servers().first() else { return Ok(()) };
        match self {
            Self::Http { .. } if server.protocol == ServerProtocol::Http => Ok(()),
            Self::Http { .. } => Err(format!("{} has plain HTTP on the port", other(first))),
            Self::Chains(_) if server.protocol == ServerProtocol::Http => {
                Err(format!("{} has another protocol on the port than HTTP", other(first)))
            }
            Self::Chains(_) if first.server().tls.is_none() || server.tls.is_none() => {
                Err(format!("{} has the port, and without TLS nothing tells them apart", other(first)))
            }
            Self::Chains(_) => Ok(()),
        }
    }
}

impl Merged {
    /// What the proxies of a scope listen for.
    pub(super) fn of(cx: &Ctx<'_>, model: &Model, scope: &Scope) -> Self {
        let Scope::Gateway(proxy) = scope else { return Self::default() };
        let services = services(cx, model, proxy);
        let keys: Vec<_> = services.iter().map(|service| service.key.clone()).collect();
        let labels = &proxy.place.labels;
        let of_proxy = Proxy { namespace: &proxy.namespace, labels, services: &keys };
        let gateways = strictly(model.gateways.of_proxy(cx, of_proxy));
        let mut merging = Building::default();
        for (gateway, of) in gateways {
            for (index, server) in of.servers.iter().enumerate() {
                let ports = listened_on(cx, model, &of.proxies, server.port, &services);
                for port in ports {
                    let position = merging.position;
                    merging.position += 1;
                    let routes = routes(gateway, server, port);
                    let one = Merging { gateway: gateway.clone(), of: of.clone(), index, position, routes };
                    if proxy.unprivileged && port < 1024 {
                        let message = format!("the proxy is not privileged to listen on port {port}");
                        one.leave_out(cx, "PortUnavailable", message);
                        continue;
                    }
                    if let Err((reason, message)) = merging.add(port, one.clone()) {
                        one.leave_out(cx, reason, message);
                    }
                }
            }
        }
        let listeners = merging.listeners.into_iter().map(|(at, listened)| (at, Arc::new(listened)));
        Self { listeners: listeners.collect() }
    }
}

/// A merge that is under way.
#[derive(Default)]
struct Building {
    listeners: BTreeMap<(Arc<str>, u16), Listened>,
    /// The hosts of servers with TLS, by address and port.
    hosts: BTreeSet<(Arc<str>, u16, String)>,
    /// Route configurations of servers that end TLS, which have one each.
    routes: BTreeSet<Arc<str>>,
    position: usize,
}

impl Building {
    fn add(&mut self, port: u16, one: Merging) -> Result<(), (&'static str, String)> {
        let server = one.server();
        let at = (server.bind.clone(), port);
        if let Some(there) = self.listeners.get(&at) {
            there.admits(server).map_err(|message| ("ProtocolConflict", message))?;
        }
        let ends = server.protocol == ServerProtocol::Https && one.routes.is_some();
        if let Some(routes) = one.routes.as_ref().filter(|routes| ends && self.routes.contains(*routes)) {
            let message = format!("another server has the route configuration {routes:?}; ports need different names");
            return Err(("PortNameConflict", message));
        }
        if server.tls.is_some() {
            let claims: Vec<_> = claims(server).map(|host| (at.0.clone(), port, host)).collect();
            if let Some((_, _, host)) = claims.iter().find(|claim| self.hosts.contains(claim)) {
                return Err(("HostnameConflict", format!("another server has the host {host:?} on the port")));
            }
            self.hosts.extend(claims);
        }
        if ends {
            self.routes.extend(one.routes.clone());
        }
        let empty = || match &one.routes {
            Some(routes) if server.protocol == ServerProtocol::Http => {
                Listened::Http { routes: routes.clone(), servers: Vec::new() }
            }
            _ => Listened::Chains(Vec::new()),
        };
        match self.listeners.entry(at).or_insert_with(empty) {
            Listened::Http { servers, .. } | Listened::Chains(servers) => servers.push(one.clone()),
        }
        Ok(())
    }
}

/// What no two servers with TLS on a port may have in common. Where TLS ends,
/// the name of TLS alone decides; it does not end where a route's names count,
/// which may be of different namespaces.
fn claims(server: &Server) -> impl Iterator<Item = String> {
    let ends = server.tls.as_ref().is_some_and(|tls| !tls.https_redirect && tls.mode.terminates());
    server.hosts.iter().map(move |host| match &host.namespace {
        Some(namespace) if !ends => format!("{namespace}/{}", host.host),
        _ => host.host.to_string(),
    })
}

/// Gateways that a controller made proxies for keep them to themselves: others
/// may only select these proxies from the same namespace. The Secrets of a
/// namespace are the proxy's.
/// <https://istio.io/latest/docs/tasks/traffic-management/ingress/gateway-api/>
fn strictly<'g>(
    gateways: Vec<(&'g GatewayKey, &'g Arc<GatewayServers>)>,
) -> Vec<(&'g GatewayKey, &'g Arc<GatewayServers>)> {
    let made = gateways.iter().filter(|(_, of)| matches!(of.proxies, Proxies::Made { .. }));
    let namespaces: BTreeSet<_> = made.map(|(key, _)| key.namespace.clone()).collect();
    let mut gateways = gateways;
    if !namespaces.is_empty() {
        gateways.retain(|(key, _)| key.declared.by_gateway_api() || namespaces.contains(&key.namespace));
    }
    gateways
}

/// The name of the route configuration of a server; none if it does not read
/// HTTP. Tools know them.
fn routes(gateway: &GatewayKey, server: &Server, port: u16) -> Option<Arc<str>> {
    let bind = if server.bind.is_empty() { String::new() } else { format!(".{}", server.bind) };
    let ends = server.tls.as_ref().is_some_and(|tls| tls.mode.terminates() && !tls.closed);
    match server.protocol {
        ServerProtocol::Http => Some(format!("http.{port}{bind}").into()),
        ServerProtocol::Https if ends => {
            let Server { name, port, port_name, .. } = server;
            let (owner, namespace) = (gateway.istio_name(name), &gateway.namespace);
            Some(format!("https.{port}.{port_name}.{owner}.{namespace}{bind}").into())
        }
        ServerProtocol::Https | ServerProtocol::Tls | ServerProtocol::Tcp => None,
    }
}

/// The services that the proxies of a scope are behind, oldest first.
fn services<'g>(cx: &Ctx<'g>, model: &Model, proxy: &GatewayScope) -> Vec<&'g Arc<Service>> {
    let GatewayScope { namespace, place, listed_by, .. } = proxy;
    let labels: Labels = place.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
    let mut services: Vec<&Arc<Service>> = Vec::new();
    for (key, value) in labels.pairs() {
        let pair = (namespace.clone(), key.clone(), value.clone());
        let found = cx.fetch(model.services_by_selector, &pair).map(|(_, service)| service);
        services.extend(found.filter(|service| service.selector.select(&labels)));
    }
    services.extend(listed_by.iter().filter_map(|(namespace, hostname)| {
        cx.get(model.services, &ServiceKey { namespace: namespace.clone(), hostname: hostname.clone() })
    }));
    let age = |service: &&Arc<Service>| {
        let Meta { created, .. } = service.meta;
        (created, service.key.clone())
    };
    services.sort_by_key(age);
    services.dedup_by_key(|service| service.key.clone());
    services
}

/// The ports that proxies listen on for a port as clients know it. A gateway
/// that selects proxies means the port of the first of their services that has
/// it, or else the proxies' own; one that names services means their ports.
fn listened_on(cx: &Ctx<'_>, model: &Model, proxies: &Proxies, number: u16, services: &[&Arc<Service>]) -> Vec<u16> {
    let port = |service: &Service| {
        let mut ports = service.ports.iter().filter(|port| &*port.transport == "TCP");
        ports.find(|port| port.number == number).map(|port| target(cx, model, service, port))
    };
    match proxies {
        Proxies::Behind(keys) => {
            let named = services.iter().filter(|service| keys.contains(&service.key));
            let ports: BTreeSet<_> = named.filter_map(|service| port(service)).collect();
            ports.into_iter().collect()
        }
        Proxies::Selected { .. } | Proxies::Made { .. } => {
            let translated = services.iter().filter(|service| service.meta.label(NO_TRANSLATION).is_none());
            vec![translated.filter_map(|service| port(service)).next().unwrap_or(number)]
        }
    }
}

/// Where a port of a service is listened on. If the service names a port of its
/// pods, they are looked at.
fn target(cx: &Ctx<'_>, model: &Model, service: &Service, port: &Port) -> u16 {
    match &port.target {
        TargetPort::Number(number) => *number,
        TargetPort::Same => port.number,
        TargetPort::Name(_) => {
            let endpoints = model.endpoints(cx, service);
            let mut targets = endpoints.iter().flat_map(|endpoint| &endpoint.ports);
            targets.find(|(number, _)| *number == port.number).map_or(port.number, |(_, target)| *target)
        }
    }
}
