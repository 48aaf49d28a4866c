//! What becomes of connections that a waypoint passes on as they are: rules for
//! TLS by server name, then rules for TCP, else the service itself.
//! <https://istio.io/latest/docs/reference/config/networking/virtual-service/#TLSRoute>,
//! <https://gateway-api.sigs.k8s.io/reference/spec/#tlsroute>
//!
//! istiod has one chain for a port, hence only knows rules that hold for all of
//! its connections. Here a rule that holds for some has a chain of its own, and
//! the listener's matcher chooses.

use std::cmp::Reverse;
use std::sync::Arc;

use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use ipnet::IpNet;

use crate::api::virtual_service::{RouteDestination, VirtualService};
use crate::envoy::authorization::{PEER_PRINCIPAL, caller_of};
use crate::envoy::listener::{is_server_name, tcp_proxy};
use crate::envoy::matcher::Condition;
use crate::envoy::route::Problem;
use crate::envoy::routing::{self, Attributes, prefix};
use crate::model::problem;
use crate::model::service::{Protocol, parse_range};

use super::routes::Routing;

/// What becomes of the connections for one port.
pub(super) struct Connections {
    /// What becomes of some of them, in order.
    pub(super) some: Vec<(Condition, TcpProxy)>,
    /// What becomes of the rest.
    pub(super) rest: TcpProxy,
    /// Whether server names decide.
    pub(super) names: bool,
}

/// Which connections a rule is for.
enum When {
    Never,
    If(Box<Condition>),
    Always,
}

/// A rule.
struct Rule {
    when: When,
    /// The namespace of the object it is from.
    namespace: Arc<str>,
    /// The object, in statistics.
    prefix: String,
    route: Vec<RouteDestination>,
}

impl Routing<'_> {
    /// What becomes of connections, given the name of the service's own
    /// cluster.
    pub(super) fn connections(&self, own: &str) -> Connections {
        let (mut some, mut rest, mut names) = (Vec::new(), None, false);
        let tls = self.tls_rules().into_iter().map(|rule| (true, rule));
        for (tls, rule) in tls.chain(self.tcp_rules().into_iter().map(|rule| (false, rule))) {
            let to = routing::Connections { namespace: &rule.namespace, prefix: &rule.prefix, route: &rule.route };
            let proxy = self.rules().proxy(own, &to);
            match rule.when {
                When::Never => {}
                When::If(condition) => {
                    some.push((*condition, proxy));
                    names |= tls;
                }
                When::Always => {
                    rest = Some(proxy);
                    break;
                }
            }
        }
        let rest = rest.unwrap_or_else(|| self.rules().configured(tcp_proxy(own), None));
        Connections { some, rest, names }
    }

    /// The rules for TLS: of virtual services, in their order, then of the
    /// Gateway API, the more specific names first. They are for ports that may
    /// carry TLS. On one that declares TCP nobody looks for it, as the client
    /// may be waiting for the server to speak.
    fn tls_rules(&self) -> Vec<Rule> {
        let Self { cx, model, service, port, .. } = *self;
        if port.protocol == Protocol::Tcp {
            return Vec::new();
        }
        let mut rules = Vec::new();
        for one in model.routes.virtual_services(cx, model.scope(), self.client(), service) {
            for (index, rule) in one.spec.tls.iter().enumerate() {
                let when = self.when(one, "spec.tls", index, rule.matches.iter().map(Attributes::from));
                rules.push(self.rule(one, when, &rule.route));
            }
        }
        let mut named = Vec::new();
        for route in model.routes.tls(cx, model.scope(), self.place()) {
            let rule = self.rules().of_tls_route(route);
            let Some(rule) = rule else { continue };
            for (index, host) in rule.matches.iter().flat_map(|one| &*one.sni_hosts).enumerate() {
                let when = match server_name(host) {
                    Ok(when) => when,
                    Err(message) => {
                        let (field, message) = (format!("spec.hostnames[{index}]"), message + "; the name is left out");
                        cx.diagnose(problem("TLSRoute", &route.meta, field, "InvalidValue", message));
                        continue;
                    }
                };
                let specific = (!host.starts_with('*'), host.len());
                let (namespace, prefix) = (route.meta.namespace.clone(), prefix(&route.meta));
                named.push((specific, Rule { when, namespace, prefix, route: rule.route.clone() }));
            }
        }
        // The sort is stable: of equals the oldest counts.
        named.sort_by_key(|(specific, _)| Reverse(*specific));
        rules.extend(named.into_iter().map(|(_, rule)| rule));
        rules
    }

    /// The rules for TCP, in the same order.
    fn tcp_rules(&self) -> Vec<Rule> {
        let Self { cx, model, service, .. } = *self;
        let mut rules = Vec::new();
        for one in model.routes.virtual_services(cx, model.scope(), self.client(), service) {
            for (index, rule) in one.spec.tcp.iter().enumerate() {
                let when = self.when(one, "spec.tcp", index, rule.matches.iter().map(Attributes::from));
                rules.push(self.rule(one, when, &rule.route));
            }
        }
        for route in model.routes.tcp(cx, model.scope(), self.place()) {
            let rule = self.rules().of_tcp_route(route);
            let (namespace, prefix) = (route.meta.namespace.clone(), prefix(&route.meta));
            rules.extend(rule.map(|rule| Rule { when: When::Always, namespace, prefix, route: rule.route }));
        }
        rules
    }

    fn rule(&self, of: &VirtualService, when: When, route: &[RouteDestination]) -> Rule {
        let route = self.rules().destinations(of, route);
        Rule { when, namespace: of.meta.namespace.clone(), prefix: prefix(&of.meta), route }
    }

    /// When a rule of a virtual service applies: if any of its matches does, or
    /// always if it has none.
    fn when<'a>(
        &self,
        of: &VirtualService,
        rules: &str,
        rule: usize,
        matches: impl ExactSizeIterator<Item = Attributes<'a>>,
    ) -> When {
        if matches.len() == 0 {
            return When::Always;
        }
        let mut any = Vec::new();
        for (index, one) in matches.enumerate() {
            match self.matches(&one) {
                Ok(When::Never) => {}
                Ok(When::If(condition)) => any.push(*condition),
                Ok(When::Always) => return When::Always,
                Err((field, reason, message)) => {
                    let field = format!("match[{index}].{field}");
                    let found = Problem { rule, field, reason, message: message + "; the match is left out" };
                    self.rules().say("VirtualService", &of.meta, &found, rules);
                }
            }
        }
        Condition::any(any).map_or(When::Never, |any| When::If(Box::new(any)))
    }

    /// When a match applies. What a waypoint cannot tell costs the match, which
    /// must not become wider.
    fn matches(&self, one: &Attributes<'_>) -> Result<When, (String, &'static str, String)> {
        let here = one.gateways.is_empty() || one.gateways.iter().any(|gateway| &**gateway == "mesh");
        if !here || (one.port != 0 && one.port != u32::from(self.port.number)) {
            return Ok(When::Never);
        }
        if let Some(name) = one.unknown.names().next() {
            return Err((name.to_owned(), "UnknownField", "this version does not know the condition".into()));
        }
        if !one.source_labels.is_empty() {
            let message = "a waypoint does not know its clients' labels";
            return Err(("sourceLabels".into(), "UnsupportedValue", message.into()));
        }
        let mut all = Vec::new();
        if let Some(hosts) = one.sni_hosts {
            let mut any = Vec::new();
            let mut every = false;
            for (index, host) in hosts.iter().enumerate() {
                match server_name(host).map_err(|message| (format!("sniHosts[{index}]"), "InvalidValue", message))? {
                    When::If(condition) => any.push(*condition),
                    When::Always => every = true,
                    When::Never => {}
                }
            }
            match Condition::any(any) {
                _ if every => {}
                Some(condition) => all.push(condition),
                None => return Err(("sniHosts".into(), "InvalidValue", "a server name is needed".into())),
            }
        }
        match self.subnets(one.destination_subnets)? {
            When::Never => return Ok(When::Never),
            When::If(condition) => all.push(*condition),
            When::Always => {}
        }
        if !one.source_namespace.is_empty() {
            all.push(Condition::noted(PEER_PRINCIPAL, caller_of(one.source_namespace)));
        }
        Ok(Condition::all(all).map_or(When::Always, |all| When::If(Box::new(all))))
    }

    /// Whether the addresses of the service, which are all that arrives here,
    /// are within ranges.
    fn subnets(&self, subnets: &[Arc<str>]) -> Result<When, (String, &'static str, String)> {
        let mut ranges: Vec<IpNet> = Vec::new();
        for (index, subnet) in subnets.iter().enumerate() {
            let Some(range) = parse_range(subnet) else {
                let message = format!("{subnet:?} is neither an IP address nor a CIDR range");
                return Err((format!("destinationSubnets[{index}]"), "InvalidAddress", message));
            };
            ranges.push(range);
        }
        let addresses = &self.service.addresses;
        let within = |address: &IpNet| ranges.iter().any(|range| range.contains(address));
        let overlaps = |address: &IpNet| within(address) || ranges.iter().any(|range| address.contains(range));
        Ok(match () {
            () if ranges.is_empty() || addresses.iter().all(within) => When::Always,
            () if addresses.iter().any(overlaps) => When::If(Box::new(Condition::destination(&ranges))),
            () => When::Never,
        })
    }
}

/// Connections for a server name; the reason if nobody could ask for it.
fn server_name(host: &str) -> Result<When, String> {
    match host {
        "*" => Ok(When::Always),
        "" => Err("empty".into()),
        _ if !is_server_name(host) => Err(format!("{host:?} is not a host, possibly with a leading *")),
        _ => Ok(When::If(Box::new(Condition::server_name(host)))),
    }
}
