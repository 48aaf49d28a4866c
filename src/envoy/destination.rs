//! Where proxies send traffic: a port of a service, or a subset of it, with the
//! cluster and the endpoints that lead there. Waypoints and gateways have these
//! in common; what differs is how a connection is opened.

use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::endpoint::v3::LocalityLbEndpoints;
use ipnet::IpNet;

use crate::api::{Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Diagnostic, Graph};
use crate::model::destination_rule::Rule;
use crate::model::endpoint::Endpoint;
use crate::model::service::{Port, Protocol, Resolution, Service, ServiceKey};
use crate::model::{Model, problem, waypoint};
use crate::proxy::Scope;
use crate::proxy::scope::Families;
use crate::xds::resource::ResourceType;

use super::cluster::discovery::Discovery;
use super::cluster::transport::Transport;
use super::cluster::{self, Upstream};
use super::endpoint::locality::Preference;
use super::endpoint::{self, Reach, TLS_MODE};
use super::name::{self, Handling};
use super::{Configs, Scoped, client, encode};

/// A port of a service as a proxy sends traffic there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Destination {
    pub(super) scope: Scope,
    pub(super) service: ServiceKey,
    /// The port of the service.
    pub(super) port: u16,
    /// What the proxy does with it.
    pub(super) handling: Handling,
    /// Empty for the whole service.
    pub(super) subset: Arc<str>,
}

impl Scoped for Destination {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn name(&self) -> String {
        match self.handling {
            Handling::Outbound => name::outbound(self.port, &self.subset, &self.service.hostname),
            Handling::Passed => name::sni(self.port, &self.subset, &self.service.hostname),
            handling => name::inbound_vip(self.port, handling, &self.subset, &self.service),
        }
    }
}

/// The ways in which traffic for a port may be handled. A port that does not
/// declare its protocol is looked at.
pub(super) fn handlings(protocol: Protocol) -> &'static [Handling] {
    match protocol {
        Protocol::Http11 | Protocol::Http2 | Protocol::Grpc => &[Handling::Http],
        Protocol::Tcp | Protocol::Tls => &[Handling::Tcp],
        Protocol::Unknown => &[Handling::Http, Handling::Tcp],
    }
}

/// The ports of a service that a proxy can handle. A host that is looked up
/// for each request has to be in the request, and outside of the mesh.
pub(super) fn ports(service: &Service) -> impl Iterator<Item = &Port> {
    let dynamic = service.resolution == Resolution::DynamicDns;
    let tcp = service.ports.iter().filter(|port| &*port.transport == "TCP" && port.number != 0);
    tcp.filter(move |port| !dynamic || (service.external && port.protocol == Protocol::Http11))
}

/// The protocol that the port of a destination declares; `None` if there is no
/// such port.
pub(super) fn declared(cx: &Ctx<'_>, model: &Model, destination: &Destination) -> Option<Protocol> {
    let service = cx.get(model.services, &destination.service)?;
    ports(service).find(|port| port.number == destination.port).map(|port| port.protocol)
}

/// The service of a destination, and what is to be done with connections to
/// it. `None` if they cannot be made as asked for: requests fail then. A cluster
/// and its endpoints both come from here, as one without the other would have an
/// Envoy wait, or us.
fn reachable<'g>(cx: &Ctx<'g>, model: &Model, key: &Destination) -> Option<(&'g Service, Rule)> {
    let service = cx.get(model.services, &key.service)?;
    let rule = model.destination_rules.rule(cx, model.scope(), client(&key.scope), &key.service).unwrap_or_default();
    // A subset that is gone is nobody's.
    if !key.subset.is_empty() && rule.subset(&key.subset).is_none() {
        return None;
    }
    let policy = rule.policy(key.port, &key.subset);
    // Of what a BackendTLSPolicy asks for its own status speaks.
    let by_rule = !policy.tls.is_some_and(|tls| rule.backend_tls.iter().any(|(_, other)| std::ptr::eq(tls, other)));
    match Transport::of(&policy, service) {
        Ok(transport) => {
            // Connections fail until it is mended; nobody goes without.
            for name in transport.credentials().filter(|_| by_rule) {
                if let Some(flaw) = model.credentials.flaw(cx, &name, client(&key.scope).namespace) {
                    let found = finding(&rule, "tls.credentialName", flaw.reason, &*flaw.message);
                    cx.diagnose(Diagnostic { severity: flaw.severity(), ..found });
                }
            }
            Some((service, rule))
        }
        Err(refused) => {
            let message = format!("{}; the proxy does not connect rather than connect without", refused.message);
            if by_rule || !refused.field.starts_with("tls") {
                say(cx, &rule, refused.field, refused.reason, message);
            }
            None
        }
    }
}

/// Says something about a policy of a rule.
fn say(cx: &Ctx<'_>, rule: &Rule, field: &str, reason: &'static str, message: impl Into<String>) {
    cx.diagnose(finding(rule, field, reason, message));
}

/// A finding about a policy of a rule.
fn finding(rule: &Rule, field: &str, reason: &'static str, message: impl Into<String>) -> Diagnostic {
    let ObjectKey { namespace, name } = rule.origin.clone().unwrap_or_default();
    let meta = Meta { namespace, name, ..Meta::default() };
    problem("DestinationRule", &meta, format!("spec.trafficPolicy.{field}"), reason, message)
}

/// The endpoints of a destination, as its proxies see them.
fn endpoints(
    cx: &Ctx<'_>,
    model: &Model,
    key: &Destination,
    service: &Service,
    rule: &Rule,
    discovery: Discovery,
) -> Vec<LocalityLbEndpoints> {
    if let Some(through) = through_waypoint(cx, model, key, service, discovery) {
        return through;
    }
    let mut endpoints = model.endpoints(cx, service);
    if let Some(subset) = rule.subset(&key.subset) {
        endpoints.retain(|endpoint| subset.labels.select(&endpoint.labels));
    }
    let policy = rule.policy(key.port, &key.subset);
    // A rule that says what is spoken knows better.
    let disabled = |endpoint: &Endpoint, port: u16| {
        let Endpoint { namespace, labels, .. } = endpoint;
        policy.tls.is_none() && model.peer_authentications.disables(cx, model.scope(), namespace, labels, port)
    };
    let request = endpoint::Request {
        service,
        port: key.port,
        cluster_id: &model.settings.cluster,
        families: key.scope.families(),
        place: key.scope.place(),
        by_dns: discovery != Discovery::Eds,
        reach: reach(cx, model, key, service, rule),
        takes_mutual: &|endpoint, port| endpoint.labels.get(TLS_MODE) == Some("istio") && !disabled(endpoint, port),
    };
    if policy.load_balancer.is_some_and(|settings| settings.zone_aware_lb_setting.is_some()) {
        let message =
            "zones are balanced by proxies that know of their siblings; at a waypoint all endpoints are equal";
        say(cx, rule, "loadBalancer.zoneAwareLbSetting", "UnsupportedValue", message);
    }
    let preference = Preference::of(&policy, service, model.scope().mesh(cx));
    endpoint::localities(&request, &preference, &endpoints)
}

/// The endpoints of the waypoint that gateways send traffic for a service
/// through, if there is one.
fn through_waypoint(
    cx: &Ctx<'_>,
    model: &Model,
    key: &Destination,
    service: &Service,
    discovery: Discovery,
) -> Option<Vec<LocalityLbEndpoints>> {
    let Scope::Gateway(proxy) = &key.scope else { return None };
    if key.handling != Handling::Outbound || discovery != Discovery::Eds {
        return None;
    }
    let waypoints = model.ingress_waypoint(cx, service)?;
    let mut addresses = service.addresses.iter().map(IpNet::addr);
    let address = addresses.find(|address| match proxy.families {
        Families::V4 => address.is_ipv4(),
        Families::V6 => address.is_ipv6(),
        Families::Dual => true,
    })?;
    let request = endpoint::Request {
        service,
        port: waypoint::PORT,
        cluster_id: &model.settings.cluster,
        families: proxy.families,
        place: &proxy.place,
        by_dns: false,
        reach: Reach::Through(SocketAddr::new(address, key.port)),
        takes_mutual: &|_, _| false,
    };
    Some(endpoint::localities(&request, &Preference::None, &waypoints))
}

/// How the proxies of a destination reach its endpoints. Gateways use mutual TLS
/// where a rule says so, or says nothing and the mesh does not either.
fn reach(cx: &Ctx<'_>, model: &Model, key: &Destination, service: &Service, rule: &Rule) -> Reach {
    match key.scope {
        Scope::Waypoint(_) => Reach::Tunnel,
        Scope::Gateway(_) if key.handling == Handling::Passed => Reach::Passed,
        Scope::Gateway(_) => {
            let mutual = match rule.policy(key.port, &key.subset).tls {
                Some(tls) => &*tls.mode == "ISTIO_MUTUAL",
                None => model.scope().mesh(cx).enable_auto_mtls && !service.external,
            };
            Reach::Sockets { mutual }
        }
    }
}

/// The endpoints in a cluster with names that are to be resolved. An Envoy that
/// only takes the newest answer takes one name.
fn resolved(cx: &Ctx<'_>, service: &Service, logical: bool, all: Vec<LocalityLbEndpoints>) -> Vec<LocalityLbEndpoints> {
    let mut all = all;
    if logical && all.iter().map(|group| group.lb_endpoints.len()).sum::<usize>() > 1 {
        let message = "names are resolved for one endpoint only; the others get nothing";
        cx.diagnose(problem("ServiceEntry", &service.meta, "spec.endpoints", "UnsupportedValue", message));
        all.truncate(1);
        for group in &mut all {
            group.lb_endpoints.truncate(1);
            group.load_balancing_weight = group.lb_endpoints.first().and_then(|one| one.load_balancing_weight);
        }
    }
    all
}

/// Adds the clusters of destinations. `identities` are those of the workloads
/// behind services, where they matter.
pub(super) fn add_clusters(
    graph: &mut Graph,
    table: &'static str,
    model: &Model,
    destinations: Collection<Destination, Protocol>,
    identities: Option<Collection<ServiceKey, Vec<String>>>,
    to: &mut Configs,
) {
    let model = model.clone();
    to.add(graph, table, ResourceType::Cluster, destinations, move |cx, key, protocol| {
        let (service, rule) = reachable(cx, &model, key)?;
        let policy = rule.policy(key.port, &key.subset);
        let mesh = model.scope().mesh(cx);
        let discovery = Discovery::of(service, key.port, &policy);
        let endpoints = match discovery {
            Discovery::Dns { logical, .. } => {
                let all = resolved(cx, service, logical, endpoints(cx, &model, key, service, &rule, discovery));
                // Envoy takes no such cluster without any.
                Some(all).filter(|all| !all.is_empty())?
            }
            Discovery::Eds | Discovery::OriginalDst(_) | Discovery::DynamicDns => Vec::new(),
        };
        let upstream = Upstream {
            name: key.name(),
            service,
            rule: &rule,
            port: key.port,
            subset: &key.subset,
            // Bytes are passed on as they are.
            protocol: if matches!(key.handling, Handling::Tcp | Handling::Passed) { Protocol::Tcp } else { *protocol },
            transport: match key.handling {
                // It has been spoken by whoever opened the connection.
                Handling::Passed => Transport::default(),
                Handling::Http | Handling::Tcp | Handling::Outbound => Transport::of(&policy, service).ok()?,
            },
            discovery,
            endpoints,
            preference: Preference::of(&policy, service, mesh),
            families: key.scope.families(),
            reach: reach(cx, &model, key, service, &rule),
            identities: identities
                .and_then(|identities| cx.get(identities, &key.service))
                .map(Vec::as_slice)
                .unwrap_or_default(),
        };
        Some(encode::bytes(&cluster::upstream(upstream, mesh)))
    });
}

/// Adds the endpoints of destinations.
pub(super) fn add_endpoints(
    graph: &mut Graph,
    table: &'static str,
    model: &Model,
    destinations: Collection<Destination, Protocol>,
    to: &mut Configs,
) {
    let model = model.clone();
    to.add(graph, table, ResourceType::Endpoints, destinations, move |cx, key, _| {
        let (service, rule) = reachable(cx, &model, key)?;
        let discovery = Discovery::of(service, key.port, &rule.policy(key.port, &key.subset));
        if discovery != Discovery::Eds {
            return None;
        }
        let endpoints = endpoints(cx, &model, key, service, &rule, discovery);
        Some(encode::bytes(&endpoint::assignment(&key.name(), endpoints)))
    });
}
