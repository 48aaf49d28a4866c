//! What the graph knows of objects that have a status, besides what is wrong
//! with them. None of it depends on which proxies are connected to which
//! replica, so all replicas say the same.

mod backend_tls;
mod gateways;
mod ingress;
mod policies;
mod routes;
mod virtual_service;

use std::sync::Arc;

use crate::api::compact::Uid;
use crate::api::core::LoadBalancerIngress;
use crate::api::destination_rule::{DestinationRule, TrafficPolicy};
use crate::api::istio::ServiceEntry;
use crate::api::meta::Generation;
use crate::api::route::ParentReference;
use crate::api::telemetry::Telemetry;
use crate::api::{Kind, Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Diagnostic, Graph, Value};
use crate::model::binding::{Binding, binding, binding_of_service};
use crate::model::by_host::resolve;
use crate::model::gateway::GatewayServers;
use crate::model::gateway::credential::{Led, flaws};
use crate::model::gateway::kubernetes::Verdict;
use crate::model::service::ServiceKey;
use crate::model::{Model, not_known, problem};

pub use gateways::{GatewayFacts, GatewayTable};

/// What is known of an object that is ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Which object of its name was judged. One that was made again is as new,
    /// even if all that is known of it is the same.
    pub uid: Uid,
    /// Which of the user's changes was judged.
    pub generation: Generation,
    /// What its conditions depend on.
    pub about: About,
}

/// What the conditions of an object depend on, besides its problems.
#[derive(Clone, Debug, PartialEq)]
pub enum About {
    /// Nothing.
    Plain,
    /// It is a route.
    Route {
        /// The number of its rules.
        rules: usize,
        /// Its parents, as far as they are ours to speak about.
        parents: Vec<Parent>,
        /// The Services that it leads to, if it has a gateway as a parent.
        backends: Vec<ObjectKey>,
    },
    /// It is a policy for what is behind services.
    Policy(Vec<Target>),
    /// It is a policy for ztunnel.
    Ztunnel {
        /// Whether it has an effect.
        enforced: bool,
    },
    /// It is a policy that names what it is for.
    Attached(Vec<Bound>),
    /// It asks for a waypoint.
    Bound(Binding),
    /// It is reached at these addresses.
    Reached(Vec<LoadBalancerIngress>),
}

/// A parent of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Parent {
    /// As the route writes it.
    pub reference: ParentReference,
    /// Why the route is not attached to it, if it is not.
    pub denied: Option<(&'static str, Arc<str>)>,
    /// How many listeners it is attached to, of a gateway.
    pub listeners: usize,
    /// Whether there is a waypoint that serves it.
    pub waypoint: Waypoint,
}

/// The waypoint of a route's parent.
#[derive(Clone, Debug, PartialEq)]
pub enum Waypoint {
    /// It has no need for one.
    NotAsked,
    /// There is none, and why.
    Missing(&'static str, Arc<str>),
    /// This one.
    Served(ObjectKey),
}

/// What a policy for services has an effect on.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The object.
    pub reference: ParentReference,
    /// Who speaks for it.
    pub controller: &'static str,
    /// Whether the policy has an effect there.
    pub accepted: Verdict,
    /// Whether what it refers to is there.
    pub resolved: Verdict,
}

/// A target of a policy, and whether the policy is bound to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// The target: `KIND.GROUP:NAMESPACE/NAME`.
    pub ancestor: Arc<str>,
    /// Whether it is.
    pub bound: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, for people.
    pub message: Arc<str>,
}

/// What is known.
pub struct Collections {
    /// Of objects, by kind.
    pub objects: Vec<(Kind, Collection<ObjectKey, Facts>)>,
    /// Of the Gateway API's Gateways.
    pub gateways: Collection<ObjectKey, GatewayFacts>,
}

/// Declares what is known of objects that have a status.
pub fn collections(graph: &mut Graph, model: &Model) -> Collections {
    let inputs = model.inputs;
    let mut all = vec![
        add(
            (graph, model),
            "service_facts",
            Kind::Service,
            inputs.services,
            |service| &service.meta,
            |cx, model, service| binding_of_service(cx, model, &service.meta).map(About::Bound),
        ),
        add(
            (graph, model),
            "service_entry_facts",
            Kind::ServiceEntry,
            inputs.service_entries,
            |entry| &entry.meta,
            |cx, model, entry| {
                conflicts(cx, model, entry);
                binding(cx, model, &entry.meta).map(About::Bound)
            },
        ),
        add(
            (graph, model),
            "destination_rule_facts",
            Kind::DestinationRule,
            inputs.destination_rules,
            |rule| &rule.meta,
            |cx, model, rule| {
                if !model.scope().configures(cx, &rule.meta) {
                    return None;
                }
                words_of_rule(cx, rule);
                host_is_there(cx, model, "DestinationRule", &rule.meta, "spec.host", &rule.spec.host);
                Some(About::Plain)
            },
        ),
        add(
            (graph, model),
            "istio_gateway_facts",
            Kind::IstioGateway,
            inputs.istio_gateways,
            |gateway| &gateway.meta,
            |cx, model, gateway| model.scope().configures(cx, &gateway.meta).then_some(About::Plain),
        ),
        add(
            (graph, model),
            "peer_authentication_facts",
            Kind::PeerAuthentication,
            inputs.peer_authentications,
            |policy| &policy.meta,
            |cx, model, policy| model.scope().configures(cx, &policy.meta).then_some(About::Plain),
        ),
    ];
    words_of_telemetries(graph, model);
    istio_credentials(graph, model);
    all.push(virtual_service::add(graph, model));
    all.push(ingress::add(graph, model));
    all.extend(policies::add(graph, model));
    let routes = routes::add(graph, model);
    let gateways = gateways::add(graph, model, &routes);
    all.push(backend_tls::add(graph, model, &routes));
    all.extend(routes);
    unreadable(graph, model);
    Collections { objects: all, gateways }
}

/// Says which words of a DestinationRule are not known.
fn words_of_rule(cx: &Ctx<'_>, DestinationRule { meta, spec, unknown }: &DestinationRule) {
    const KIND: &str = "DestinationRule";
    not_known(cx, KIND, meta, "", unknown);
    if let Some(selector) = &spec.workload_selector {
        not_known(cx, KIND, meta, "spec.workloadSelector", &selector.unknown);
    }
    words_of_tls(cx, meta, "spec", spec.traffic_policy.as_ref());
    for (at, subset) in spec.subsets.iter().enumerate() {
        let field = format!("spec.subsets[{at}]");
        words_of_tls(cx, meta, &field, subset.traffic_policy.as_ref());
        if subset.is_known() {
            not_known(cx, KIND, meta, &field, &subset.unknown);
            continue;
        }
        let names: Vec<_> = subset.unknown.names().collect();
        let message = format!("there are no labels, and this version does not know {}; left out", names.join(", "));
        cx.diagnose(problem(KIND, meta, field, "UnknownField", message));
    }
}

/// The same of what a policy says of TLS, which is not left out where it is not
/// understood.
fn words_of_tls(cx: &Ctx<'_>, meta: &Meta, place: &str, policy: Option<&TrafficPolicy>) {
    let Some(policy) = policy else { return };
    let of_ports = policy.port_level_settings.iter().enumerate();
    let of_ports = of_ports.map(|(at, port)| (format!(".portLevelSettings[{at}]"), port.tls.as_ref()));
    for (within, tls) in std::iter::once((String::new(), policy.tls.as_ref())).chain(of_ports) {
        let Some(tls) = tls else { continue };
        let message = match &*tls.mode {
            "DISABLE" | "ISTIO_MUTUAL" => "this version does not know the field; ignored",
            _ => "this version does not know the field; connections that it is for are refused",
        };
        for name in tls.unknown.names() {
            let field = format!("{place}.trafficPolicy{within}.tls.{name}");
            cx.diagnose(problem("DestinationRule", meta, field, "UnknownField", message));
        }
    }
}

/// Says which words of Telemetries are not known.
fn words_of_telemetries(graph: &mut Graph, model: &Model) {
    let scope = model.scope().clone();
    graph.derive("telemetry_words", model.inputs.telemetries, move |cx, _: &ObjectKey, telemetry| {
        let Telemetry { meta, spec, unknown } = telemetry;
        if scope.configures(cx, meta) {
            not_known(cx, "Telemetry", meta, "", unknown);
            if let Some(selector) = &spec.selector {
                not_known(cx, "Telemetry", meta, "spec.selector", &selector.unknown);
            }
        }
        None::<((), ())>
    });
}

/// What is the matter with the credentials of Istio's Gateways, whoever is
/// connected.
fn istio_credentials(graph: &mut Graph, model: &Model) {
    let credentials = model.credentials;
    graph.derive("istio_gateway_credentials", model.led, move |cx, key: &Led, of: &Arc<GatewayServers>| {
        for server in &of.servers {
            let Some(tls) = server.tls.as_ref().filter(|tls| tls.mode.terminates() && !tls.closed) else { continue };
            for (field, flaw) in flaws(cx, &credentials, server, tls, &key.service.namespace) {
                let field = format!("{}.tls.{field}", server.field);
                let found = problem(key.gateway.declared.kind(), &of.meta, field, flaw.reason, &*flaw.message);
                cx.diagnose(Diagnostic { severity: flaw.severity(), ..found });
            }
        }
        None::<((), ())>
    });
}

/// Objects that do not decode have a diagnostic too.
fn unreadable(graph: &mut Graph, model: &Model) {
    graph.derive("unreadable_objects", model.inputs.unreadable, |cx, (kind, key): &(Kind, ObjectKey), error| {
        let meta = Meta { namespace: key.namespace.clone(), name: key.name.clone(), ..Meta::default() };
        let message = format!("cannot be read: {}; its last good state stays, if there was one", error.reason);
        cx.diagnose(problem(kind.info().subject, &meta, &*error.field, super::UNREADABLE, message));
        None::<((), ())>
    });
}

/// Declares what `about` says of the objects of one kind.
fn add<V: Value>(
    (graph, model): (&mut Graph, &Model),
    name: &'static str,
    kind: Kind,
    objects: Collection<ObjectKey, V>,
    meta: fn(&V) -> &Meta,
    about: impl Fn(&Ctx<'_>, &Model, &V) -> Option<About> + Send + 'static,
) -> (Kind, Collection<ObjectKey, Facts>) {
    let model = model.clone();
    let facts = graph.derive(name, objects, move |cx, key: &ObjectKey, object| {
        let about = about(cx, &model, object)?;
        let Meta { uid, generation, .. } = meta(object);
        Some((key.clone(), Facts { uid: uid.clone(), generation: *generation, about }))
    });
    (kind, facts)
}

/// The service of a host, as an object in a namespace writes it.
fn service_of(cx: &Ctx<'_>, model: &Model, namespace: &Arc<str>, host: &Arc<str>) -> Option<ServiceKey> {
    let host = resolve(host, namespace, &model.settings.domain);
    let own = ServiceKey { namespace: namespace.clone(), hostname: host.clone() };
    match cx.get(model.services, &own) {
        Some(_) => Some(own),
        None => cx.get(model.canonical, &host).cloned(),
    }
}

/// Says that there is no service of a host, if there is none. Returns the one
/// there is.
fn host_is_there(
    cx: &Ctx<'_>,
    model: &Model,
    kind: &'static str,
    meta: &Meta,
    field: &str,
    host: &Arc<str>,
) -> Option<ServiceKey> {
    if host.is_empty() || host.contains('*') {
        return None;
    }
    let found = service_of(cx, model, &meta.namespace, host);
    if found.is_none() {
        let host = resolve(host, &meta.namespace, &model.settings.domain);
        cx.diagnose(problem(kind, meta, field, NOT_FOUND, format!("there is no service {host}")));
    }
    found
}

/// The reason for which something has no effect that refers to what is not
/// there, by the name that Istio's analyzers have for it.
const NOT_FOUND: &str = "ReferencedResourceNotFound";

/// Hosts that are somebody else's already.
fn conflicts(cx: &Ctx<'_>, model: &Model, entry: &ServiceEntry) {
    if !model.scope().configures(cx, &entry.meta) {
        return;
    }
    for (at, host) in entry.spec.hosts.iter().enumerate() {
        let key = ServiceKey { namespace: entry.meta.namespace.clone(), hostname: host.clone() };
        let Some(service) = cx.get(model.services, &key) else { continue };
        let own = service.registry.kind() == "ServiceEntry" && service.meta.name == entry.meta.name;
        if !own {
            let (kind, name) = (service.registry.kind(), service.meta.key());
            let message = format!("{host} is the host of {kind} {name}; this one does not count");
            cx.diagnose(problem("ServiceEntry", &entry.meta, format!("spec.hosts[{at}]"), "ConflictingHosts", message));
        }
    }
}
