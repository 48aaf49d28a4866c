//! The listeners of gateways, one for each address and port, with istiod's
//! names: `0.0.0.0_8080`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};

use crate::envoy::destination::{Destination, declared};
use crate::envoy::encode::{self, Message, duration};
use crate::envoy::endpoint::wildcard;
use crate::envoy::policies::Policies;
use crate::envoy::telemetry::applied::{listener_logs, telemetry};
use crate::envoy::{Configs, Scoped, gateway_topology, listener};
use crate::graph::{Collection, Ctx, Graph, Index};
use crate::model::Model;
use crate::model::service::Protocol;
use crate::proxy::Scope;
use crate::proxy::scope::Families;
use crate::xds::resource::ResourceType;

use super::chains::{Chain, Chains, Common};
use super::merge::{Listened, Merged};

/// How long a client may take for its part of TLS.
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(15);

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct ListenerKey {
    scope: Scope,
    /// The address that it is asked for; empty is all.
    bind: Arc<str>,
    port: u16,
}

impl Scoped for ListenerKey {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn name(&self) -> String {
        let wildcard = wildcard(self.scope.families() == Families::V6);
        match self.bind.is_empty() {
            true => format!("{wildcard}_{}", self.port),
            false => format!("{}_{}", self.bind, self.port),
        }
    }
}

/// A listener, encoded, and the destinations that it leads to.
#[derive(Debug, PartialEq)]
struct Built {
    message: Message,
    references: BTreeSet<Destination>,
}

/// Adds the listeners. Returns the destinations that they lead to.
pub(super) fn add(
    graph: &mut Graph,
    model: &Model,
    merged: Collection<Scope, Arc<Merged>>,
    passed: Collection<Destination, Protocol>,
    to: &mut Configs,
) -> Collection<Destination, Protocol> {
    let passed = graph.index(passed, |key: &Destination, _: &Protocol, keys| keys.push(key.scope.clone()));
    let listened = graph.derive("gateway_ports", merged, |_, scope: &Scope, merged: &Arc<Merged>| {
        let each = merged.listeners.iter().map(|((bind, port), listened)| {
            (ListenerKey { scope: scope.clone(), bind: bind.clone(), port: *port }, listened.clone())
        });
        each.collect::<Vec<_>>()
    });
    let model_of = model.clone();
    let built = graph.derive("gateway_listeners", listened, move |cx, key: &ListenerKey, listened: &Arc<Listened>| {
        built(cx, &model_of, key, listened, passed).map(|built| (key.clone(), Arc::new(built)))
    });
    to.add(graph, "gateway_encoded_listeners", ResourceType::Listener, built, |_, _, built: &Arc<Built>| {
        Some(built.message.clone())
    });
    let model = model.clone();
    graph.derive("gateway_listener_references", built, move |cx, _, built: &Arc<Built>| {
        let known = |destination: &Destination| Some((destination.clone(), declared(cx, &model, destination)?));
        built.references.iter().filter_map(known).collect::<Vec<_>>()
    })
}

/// A listener; none if there is nothing that it could do with a connection.
fn built(
    cx: &Ctx<'_>,
    model: &Model,
    key: &ListenerKey,
    listened: &Listened,
    passed: Index<Scope, Destination, Protocol>,
) -> Option<Built> {
    let references = RefCell::default();
    let mesh = model.scope().mesh(cx);
    let policies = Policies::of(cx, model, &key.scope, None, &references);
    let telemetry = telemetry(cx, model, &key.scope, None, &references);
    let access_log = listener_logs(cx, model, &telemetry);
    let name = key.name();
    let believes_anybody = listened.servers().iter().any(|one| one.server().believes_anybody());
    let unverified = believes_anybody.then(|| Policies::unverified(cx, model, &key.scope, &references));
    let common = Common {
        cx,
        model,
        scope: &key.scope,
        listener: &name,
        policies,
        unverified,
        telemetry,
        passed,
        references: &references,
    };
    let chains = Chains::of(&common, listened).all;
    if chains.is_empty() {
        return None;
    }
    let proxy_protocol = gateway_topology(&key.scope, mesh).proxy_protocol.then(listener::proxy_protocol);
    let inspected = chains.iter().any(|chain| chain.socket.is_some() || !chain.names.is_empty());
    let listener = Listener {
        access_log,
        listener_filters: proxy_protocol.into_iter().chain(inspected.then(listener::tls_inspector)).collect(),
        filter_chains: chains.into_iter().map(filter_chain).collect(),
        ..listener::gateway(name.clone(), &addresses(key))
    };
    Some(Built { message: encode::bytes(&listener), references: references.into_inner() })
}

fn filter_chain(chain: Chain) -> FilterChain {
    let Chain { names, protocols, socket, filters } = chain;
    let matched = FilterChainMatch {
        server_names: names.into_iter().collect(),
        application_protocols: protocols,
        ..Default::default()
    };
    FilterChain {
        filter_chain_match: Some(matched).filter(|matched| *matched != FilterChainMatch::default()),
        transport_socket: socket,
        transport_socket_connect_timeout: duration(HANDSHAKE),
        filters,
        ..Default::default()
    }
}

/// The addresses to listen on.
fn addresses(key: &ListenerKey) -> Vec<SocketAddr> {
    let all: Vec<IpAddr> = match (key.bind.parse().ok(), key.scope.loopback(), key.scope.families()) {
        (Some(bind), ..) => vec![bind],
        (None, Some(only), _) => vec![only],
        (None, None, Families::V4) => vec![wildcard(false)],
        (None, None, Families::V6) => vec![wildcard(true)],
        (None, None, Families::Dual) => vec![wildcard(false), wildcard(true)],
    };
    all.into_iter().map(|address| SocketAddr::new(address, key.port)).collect()
}
