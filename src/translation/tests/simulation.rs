//! Where a call goes that arrives at a proxy: the listener, the filter chain,
//! the virtual host and the route that Envoy would choose, and the cluster.
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/listener/v3/listener_components.proto#config-listener-v3-filterchainmatch>

use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::virtual_host::TlsRequirementType;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier as TcpCluster;

use super::*;

/// What a client does.
#[derive(Clone, Debug, Default)]
pub(super) struct Call {
    pub(super) port: u16,
    /// The host it asks for, by HTTP; none if it does not speak HTTP.
    pub(super) host: Option<String>,
    pub(super) path: String,
    /// The name it gives in TLS; none without TLS.
    pub(super) sni: Option<String>,
    /// The protocol it asks for in TLS.
    pub(super) alpn: String,
}

/// What becomes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) listener: String,
    pub(super) route_config: String,
    pub(super) virtual_host: String,
    pub(super) route: String,
    pub(super) cluster: String,
    /// Why it goes no further.
    pub(super) error: &'static str,
}

/// What a proxy is told.
pub(super) struct Told {
    listeners: Vec<Listener>,
    routes: Vec<RouteConfiguration>,
}

impl Told {
    pub(super) fn of(views: &Views, scope: &Scope) -> Self {
        let all = |ty: ResourceType| views.layer(ty, Some(scope)).iter().collect::<Vec<_>>();
        let listeners = all(ResourceType::Listener);
        let routes = all(ResourceType::Routes);
        Self {
            listeners: listeners
                .iter()
                .map(|one| Listener::decode(&*one.message(ResourceType::Listener)).expect("a listener"))
                .collect(),
            routes: routes
                .iter()
                .map(|one| RouteConfiguration::decode(&*one.message(ResourceType::Routes)).expect("routes"))
                .collect(),
        }
    }

    /// What becomes of a call.
    pub(super) fn call(&self, call: &Call) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.error = self.follow(call, &mut outcome).err().unwrap_or_default();
        outcome
    }

    fn follow(&self, call: &Call, outcome: &mut Outcome) -> Result<(), &'static str> {
        let listener = self.listeners.iter().find(|one| port(one) == Some(call.port)).ok_or("ErrNoListener")?;
        outcome.listener = listener.name.clone();
        let chain = chain(listener, call)?;
        if chain.transport_socket.is_some() && call.sni.is_none() {
            return Err("ErrTLSError");
        }
        let Some(ConfigType::TypedConfig(last)) = chain.filters.last().and_then(|filter| filter.config_type.as_ref())
        else {
            return Err("ErrNoFilter");
        };
        if last.type_url.ends_with(".TcpProxy") {
            let proxy = TcpProxy::decode(&*last.value).expect("a proxy");
            outcome.cluster = match proxy.cluster_specifier {
                Some(TcpCluster::Cluster(name)) => name,
                Some(TcpCluster::WeightedClusters(all)) => {
                    all.clusters.iter().map(|one| format!("{}={} ", one.name, one.weight)).collect()
                }
                _ => String::new(),
            };
            return Ok(());
        }
        let host = match &call.host {
            Some(host) if chain.transport_socket.is_some() || call.sni.is_none() => host.to_ascii_lowercase(),
            _ => return Err("ErrProtocolError"),
        };
        let manager = HttpConnectionManager::decode(&*last.value).expect("a manager");
        let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier else { return Err("ErrNoRoutes") };
        outcome.route_config = rds.route_config_name;
        let found = self.routes.iter().find(|one| one.name == outcome.route_config).ok_or("ErrNoVirtualHost")?;
        let virtual_host = virtual_host(found, &host).ok_or("ErrNoVirtualHost")?;
        outcome.virtual_host = virtual_host.name.clone();
        if virtual_host.require_tls == TlsRequirementType::All as i32 && call.sni.is_none() {
            return Err("ErrTLSRedirect");
        }
        let route = virtual_host.routes.iter().find(|route| matches(route, &call.path)).ok_or("ErrNoRoute")?;
        outcome.route = route.name.clone();
        if let Some(Action::Route(action)) = &route.action {
            outcome.cluster = match &action.cluster_specifier {
                Some(ClusterSpecifier::Cluster(name)) => name.clone(),
                Some(ClusterSpecifier::WeightedClusters(all)) => all
                    .clusters
                    .iter()
                    .map(|one| format!("{}={} ", one.name, one.weight.as_ref().map_or(0, |weight| weight.value)))
                    .collect(),
                _ => String::new(),
            };
        }
        Ok(())
    }
}

fn port(listener: &Listener) -> Option<u16> {
    let Some(Address::SocketAddress(address)) = listener.address.as_ref().and_then(|one| one.address.as_ref()) else {
        return None;
    };
    match address.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port).ok(),
        _ => None,
    }
}

/// The chain whose match is the closest: names first, then protocols.
fn chain<'a>(listener: &'a Listener, call: &Call) -> Result<&'a FilterChain, &'static str> {
    let inspects = listener.listener_filters.iter().any(|one| one.name == "envoy.filters.listener.tls_inspector");
    let sni = call.sni.as_deref().filter(|_| inspects).unwrap_or_default();
    let mut chains: Vec<(&FilterChain, FilterChainMatch)> = listener
        .filter_chains
        .iter()
        .map(|chain| (chain, chain.filter_chain_match.clone().unwrap_or_default()))
        .collect();
    let rank = |names: &[String]| {
        let closeness = |name: &String| match name.strip_prefix('*') {
            None if name == sni => usize::MAX,
            Some(suffix) if sni.ends_with(suffix) && sni.len() > suffix.len() => name.len(),
            _ => 0,
        };
        names.iter().map(closeness).max().unwrap_or_default()
    };
    let best = chains.iter().map(|(_, matched)| rank(&matched.server_names)).max().unwrap_or_default();
    chains.retain(|(_, matched)| rank(&matched.server_names) == best && (best > 0 || matched.server_names.is_empty()));
    let asks = |matched: &FilterChainMatch| matched.application_protocols.contains(&call.alpn);
    if chains.iter().any(|(_, matched)| asks(matched)) {
        chains.retain(|(_, matched)| asks(matched));
    } else {
        chains.retain(|(_, matched)| matched.application_protocols.is_empty());
    }
    match &*chains {
        [] => Err("ErrNoFilterChain"),
        [(one, _)] => Ok(one),
        _ => Err("ErrMultipleFilterChain"),
    }
}

fn virtual_host<'a>(routes: &'a RouteConfiguration, host: &str) -> Option<&'a VirtualHost> {
    let host = match host.rsplit_once(':') {
        Some((host, port)) if routes.ignore_port_in_host_matching && port.parse::<u16>().is_ok() => host,
        _ => host,
    };
    let closeness = |domain: &String| match domain.strip_prefix('*') {
        None if domain == host => usize::MAX,
        Some("") => 1,
        Some(suffix) if host.ends_with(suffix) && host.len() > suffix.len() => 1 + suffix.len(),
        _ => 0,
    };
    let all = routes.virtual_hosts.iter().map(|one| (one.domains.iter().map(closeness).max().unwrap_or_default(), one));
    all.filter(|(closeness, _)| *closeness > 0).max_by_key(|(closeness, _)| *closeness).map(|(_, one)| one)
}

fn matches(route: &Route, path: &str) -> bool {
    match route.r#match.as_ref().and_then(|matched| matched.path_specifier.as_ref()) {
        Some(PathSpecifier::Prefix(prefix)) => path.starts_with(&**prefix),
        Some(PathSpecifier::Path(exact)) => path == exact,
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        Some(PathSpecifier::SafeRegex(expression)) => {
            regex::Regex::new(&format!("^(?:{})$", expression.regex)).is_ok_and(|expression| expression.is_match(path))
        }
        _ => false,
    }
}
