//! The filter chains of a gateway's listener: one for plain HTTP, or one for
//! each server that has names of its own in TLS.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::core::v3::TransportSocket;
use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;

use crate::envoy::Scoped;
use crate::envoy::destination::Destination;
use crate::envoy::listener::http::{self, HttpSettings};
use crate::envoy::listener::{self, connection_manager, is_server_name, tcp_proxy};
use crate::envoy::name;
use crate::envoy::policies::Policies;
use crate::envoy::route::UNKNOWN_SERVICE;
use crate::envoy::telemetry::{Destination as Counted, Telemetry, Traffic};
use crate::envoy::tls::server::{Terminated, downstream};
use crate::graph::{Ctx, Diagnostic, Index};
use crate::model::by_host::covers;
use crate::model::gateway::credential::flaws;
use crate::model::gateway::{Server, TlsMode};
use crate::model::secret::Flaw;
use crate::model::service::Protocol;
use crate::model::{Model, problem};
use crate::proxy::Scope;

use super::connections;
use super::merge::{Listened, Merging};

/// A filter chain.
pub(super) struct Chain {
    /// The names of TLS that it is for; none is any.
    pub(super) names: BTreeSet<String>,
    /// The protocols that a client of TLS has to ask for; none is any.
    pub(super) protocols: Vec<String>,
    /// Where TLS ends here.
    pub(super) socket: Option<TransportSocket>,
    /// The network filters.
    pub(super) filters: Vec<Filter>,
}

/// What all chains of a listener have in common.
pub(super) struct Common<'a> {
    pub(super) cx: &'a Ctx<'a>,
    pub(super) model: &'a Model,
    pub(super) scope: &'a Scope,
    /// The name of the listener.
    pub(super) listener: &'a str,
    pub(super) policies: Policies,
    /// Those where certificates of clients may be by anybody, if they may.
    pub(super) unverified: Option<Policies>,
    pub(super) telemetry: Telemetry,
    /// The services that connections are passed on to.
    pub(super) passed: Index<Scope, Destination, Protocol>,
    pub(super) references: &'a RefCell<BTreeSet<Destination>>,
}

/// The chains of a listener.
#[derive(Default)]
pub(super) struct Chains {
    pub(super) all: Vec<Chain>,
    /// Names that have a chain. Two chains for one would be refused by Envoy,
    /// and the listener with them.
    names: BTreeSet<String>,
    /// Names of servers whose connections lead nowhere.
    closed: BTreeSet<String>,
}

/// The protocols that sidecars ask for in mutual TLS. Whoever asks for one and
/// arrives at an endpoint that takes nothing else has to prove who it is there.
const MUTUAL: [&str; 5] = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

impl Chains {
    pub(super) fn of(common: &Common<'_>, listened: &Listened) -> Self {
        let mut chains = Self::default();
        match listened {
            Listened::Http { routes, servers } => {
                let grpc_web = servers.iter().any(|one| one.server().grpc_web);
                let filters = vec![common.http(routes, None, grpc_web)];
                chains.all.push(Chain { names: BTreeSet::new(), protocols: Vec::new(), socket: None, filters });
            }
            // Servers that end TLS have their names, whatever routes say.
            Listened::Chains(servers) => {
                let ends = |one: &&Merging| one.server().tls.as_ref().is_some_and(|tls| tls.mode.terminates());
                for one in servers.iter().filter(ends).chain(servers.iter().filter(|one| !ends(one))) {
                    chains.add(common, one);
                }
                chains.close(common);
            }
        }
        chains
    }

    /// Keeps what is closed from a chain for wider names, which would have Envoy
    /// take connections that ask for it: the wider one may ask nobody for a
    /// certificate.
    fn close(&mut self, common: &Common<'_>) {
        let names = std::mem::take(&mut self.closed).into_iter().filter(|name| {
            let has = |chain: &Chain| chain.names.contains(name) || (chain.names.is_empty() && name == "*");
            let wider = |chain: &Chain| chain.names.is_empty() || chain.names.iter().any(|other| covers(other, name));
            !self.all.iter().any(has) && self.all.iter().any(wider)
        });
        let names: BTreeSet<_> = names.collect();
        if !names.is_empty() {
            // There is nothing that a policy could let through.
            let proxy = TcpProxy { access_log: common.access_logs(Traffic::Tcp), ..tcp_proxy(UNKNOWN_SERVICE) };
            self.push(names, None, Some(vec![listener::filter("envoy.filters.network.tcp_proxy", &proxy)]));
        }
    }

    fn add(&mut self, common: &Common<'_>, one: &Merging) {
        let server = one.server();
        match (&server.tls, &one.routes) {
            (None, _) => {
                let proxy = connections::of_tcp(common, one);
                self.push([], None, proxy.map(|proxy| common.tcp(server, proxy)));
            }
            (Some(tls), _) if tls.mode == TlsMode::AutoPassthrough => {
                for to in connections::passed(common, server) {
                    let name = to.name();
                    if self.names.insert(name.clone()) {
                        // No policy looks at what is passed on: its end does.
                        let proxy = TcpProxy { access_log: common.access_logs(Traffic::Tcp), ..tcp_proxy(&name) };
                        let filters = vec![listener::filter("envoy.filters.network.tcp_proxy", &proxy)];
                        let protocols = MUTUAL.map(str::to_owned).into();
                        self.all.push(Chain { names: [name].into(), protocols, socket: None, filters });
                    }
                }
            }
            (Some(tls), _) if !tls.mode.terminates() => {
                for (names, proxy) in connections::of_tls(common, one, &mut self.names) {
                    self.push(names, None, Some(common.tcp(server, proxy)));
                }
            }
            (Some(tls), routes) => {
                let socket = if tls.closed { None } else { common.ends_tls(one) };
                let filters = match (&socket, routes) {
                    (None, _) => None,
                    (Some(_), Some(routes)) => Some(vec![common.http(routes, Some(server), false)]),
                    (Some(socket), None) => {
                        for (names, proxy) in connections::of_tls(common, one, &mut self.names) {
                            self.push(names, Some(socket.clone()), Some(common.tcp(server, proxy)));
                        }
                        connections::of_tcp(common, one).map(|proxy| common.tcp(server, proxy))
                    }
                };
                let names = server.hosts.iter().map(|host| host.host.to_string());
                let free = names.filter(|name| is_server_name(name) && self.names.insert(name.clone()));
                let names: BTreeSet<_> = free.collect();
                match filters {
                    None => self.closed.extend(names),
                    Some(_) if names.is_empty() => {}
                    Some(filters) => self.push(names, socket, Some(filters)),
                }
            }
        }
    }

    fn push(
        &mut self,
        names: impl IntoIterator<Item = String>,
        socket: Option<TransportSocket>,
        filters: Option<Vec<Filter>>,
    ) {
        let mut names: BTreeSet<_> = names.into_iter().collect();
        if names.contains("*") {
            names.clear();
        }
        if let Some(filters) = filters {
            self.all.push(Chain { names, protocols: Vec::new(), socket, filters });
        }
    }
}

impl Common<'_> {
    fn access_logs(&self, traffic: Traffic) -> Vec<AccessLog> {
        self.telemetry.access_logs(Counted { service: None, traffic })
    }

    /// The policies that count for clients of a server.
    fn policies(&self, server: Option<&Server>) -> &Policies {
        let unverified = self.unverified.as_ref().filter(|_| server.is_some_and(|server| server.believes_anybody()));
        unverified.unwrap_or(&self.policies)
    }

    /// Reads HTTP, for a server if it is one with TLS. `grpc_web` says that it may
    /// be gRPC as browsers speak it.
    fn http(&self, routes: &Arc<str>, server: Option<&Server>, grpc_web: bool) -> Filter {
        let mesh = self.model.scope().mesh(self.cx);
        let settings = HttpSettings::of(self.scope, mesh, &self.model.settings);
        // Which of the routes keep sessions is not known here.
        let mut last: Vec<_> = grpc_web.then(listener::grpc_web).into_iter().collect();
        last.extend(self.telemetry.http_filters());
        last.push(listener::stateful_session());
        let filters = self.policies(server).http_filters(last, listener::router(settings.debug_headers()));
        let exchange = self.scope.capabilities().peer_metadata.then(listener::exchange_metadata);
        let filters = exchange.into_iter().chain(filters).collect();
        let prefix = match server.map(|server| &*server.name).filter(|name| !name.is_empty()) {
            Some(name) => name.to_owned(),
            None => name::statistics(&format!("outbound_{}", self.listener)),
        };
        let manager = connection_manager(prefix, RouteConfiguration::default(), filters);
        let manager = HttpConnectionManager {
            route_specifier: Some(listener::route_discovery(routes)),
            access_log: self.access_logs(Traffic::Http),
            tracing: self.telemetry.tracing(),
            request_id_extension: Some(listener::request_id(self.telemetry.traces_by_request_id())),
            ..http::at_gateway(manager, settings)
        };
        listener::filter("envoy.filters.network.http_connection_manager", &manager)
    }

    /// Passes connections to a server on.
    fn tcp(&self, server: &Server, proxy: TcpProxy) -> Vec<Filter> {
        let proxy = TcpProxy { access_log: self.access_logs(Traffic::Tcp), ..proxy };
        let first = self.policies(Some(server)).network.iter().cloned().chain(self.telemetry.network_filters());
        first.chain([listener::filter("envoy.filters.network.tcp_proxy", &proxy)]).collect()
    }

    /// Ends TLS; none if that cannot be done as asked for.
    fn ends_tls(&self, one: &Merging) -> Option<TransportSocket> {
        let (cx, server) = (self.cx, one.server());
        let tls = server.tls.as_ref()?;
        let say = |field: &str, flaw: Flaw| {
            let field = format!("{}.tls.{field}", server.field);
            let found = problem(one.gateway.declared.kind(), &one.of.meta, field, flaw.reason, &*flaw.message);
            cx.diagnose(Diagnostic { severity: flaw.severity(), ..found });
        };
        // Of references of the Gateway API this was said where they are read.
        if !one.gateway.declared.by_gateway_api() {
            let namespace = crate::envoy::gateway(self.scope).namespace;
            let found = flaws(cx, &self.model.credentials, server, tls, &namespace);
            found.into_iter().for_each(|(field, flaw)| say(field, flaw));
        }
        match downstream(tls, one.routes.is_some(), self.model.scope().mesh(cx)) {
            Ok(Terminated { socket, problems }) => {
                problems.into_iter().for_each(|(field, flaw)| say(field, flaw));
                Some(socket)
            }
            Err((field, flaw)) => {
                let message = format!("{}; the server is left out", flaw.message);
                say(field, Flaw { message, ..flaw });
                None
            }
        }
    }
}
