//! The Gateway API's gateways: which are ours, what their listeners ask for and
//! whether that can be done, and which routes are bound to them.
//! <https://gateway-api.sigs.k8s.io/reference/spec/>
//!
//! Each listener is checked once, for the generator and for its status alike.
//! What istiod does where the API leaves a choice is what is done here.

pub mod attachment;
pub mod conflict;
pub mod credentials;
pub mod listener;
#[cfg(test)]
mod tests;
pub mod tls;

use std::sync::Arc;

use crate::api::gateway::{Gateway, GatewayClass, GatewaySpec, ListenerSet, RouteNamespaces};
use crate::api::meta::Generation;
use crate::api::route::{GROUP, ParentReference};
use crate::api::{Labels, Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index};
use crate::model::Scope;
use crate::model::binding::WAYPOINT_CONTROLLER;
use crate::model::reference_grant::ReferenceGrants;
use crate::model::secret::Credentials;
use crate::model::service::{ServiceKey, hostname};

use super::{Declared, GatewayKey, GatewayServers, Proxies, RouteKey, Source};
use listener::{Listener, Owner};

/// The controller of the class `istio`, as GatewayClasses name it.
pub const CONTROLLER: &str = "istio.io/gateway-controller";

/// The label that namespaces have by themselves.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What is said about something that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The Gateway API's word for it.
    pub reason: &'static str,
    /// The same for people.
    pub message: Arc<str>,
}

impl Said {
    /// A reason and a message.
    pub fn new(reason: &'static str, message: impl Into<Arc<str>>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Whether something can be done.
pub type Verdict = Result<(), Said>;

/// What proxies of a Gateway are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Traffic into the mesh and out of it.
    Gateway,
    /// Traffic to the services and workloads that use it.
    Waypoint,
}

/// Where a Gateway is reached, as far as its user says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Whether its proxies are ours to make.
    pub managed: bool,
    /// The address that its load balancer is to have.
    pub ip: Option<Arc<str>>,
    /// Services of the user's own, as the user names them.
    pub services: Vec<Arc<str>>,
    /// Addresses that cannot be had.
    pub refused: Vec<Arc<str>>,
}

/// A Gateway of ours, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The object.
    pub meta: Meta,
    /// What its proxies are for.
    pub role: Role,
    /// Where it is reached.
    pub placement: Placement,
    /// Its own listeners, in order.
    pub listeners: Box<[Listener]>,
    /// What adds listeners to it, oldest first.
    pub sets: Box<[CheckedSet]>,
    /// Whether the certificate can be had that backends are to be shown.
    pub client_certificate: Verdict,
    /// Whether clients with certificates of unknown makers are let in.
    pub insecure: bool,
}

/// A `ListenerSet` that names a Gateway of ours, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedSet {
    /// The object.
    pub meta: Meta,
    /// Why its listeners do not count, if they do not.
    pub denied: Verdict,
    /// Its listeners, in order; none if they do not count.
    pub listeners: Box<[Listener]>,
}

impl Checked {
    /// Which of the user's changes was judged.
    pub fn generation(&self) -> Generation {
        self.meta.generation
    }

    /// The key of the Gateway.
    pub fn key(&self) -> GatewayKey {
        key(Declared::Kubernetes, &self.meta)
    }
}

impl CheckedSet {
    /// The key of the `ListenerSet`.
    pub fn key(&self) -> GatewayKey {
        key(Declared::ListenerSet, &self.meta)
    }
}

fn key(declared: Declared, meta: &Meta) -> GatewayKey {
    GatewayKey { declared, namespace: meta.namespace.clone(), name: meta.name.clone() }
}

/// The Gateway API's gateways.
#[derive(Clone, Copy)]
pub struct GatewayApi {
    /// Those that are ours.
    pub checked: Collection<ObjectKey, Arc<Checked>>,
    /// The same by the `ListenerSet`s that name them, whether they count or not.
    by_set: Index<ObjectKey, ObjectKey, Arc<Checked>>,
    /// Routes by gateway and listener.
    by_listener: Index<(GatewayKey, Arc<str>), RouteKey, Arc<super::Bound>>,
    /// What there is for the generator.
    pub source: Source,
}

/// What checking a Gateway reads.
#[derive(Clone)]
struct World {
    scope: Scope,
    grants: ReferenceGrants,
    credentials: Credentials,
    sets: Index<ObjectKey, ObjectKey, ListenerSet>,
}

/// Declares the collections.
pub fn gateway_api(graph: &mut Graph, scope: &Scope, grants: ReferenceGrants, credentials: Credentials) -> GatewayApi {
    let inputs = scope.inputs;
    let sets = graph.index(inputs.listener_sets, |key: &ObjectKey, set: &ListenerSet, keys| {
        keys.extend(
            parent(&set.spec.parent_ref, &key.namespace)
                .filter(|parent| parent.declared == Declared::Kubernetes)
                .map(|parent| parent.object()),
        );
    });
    let world = World { scope: scope.clone(), grants, credentials, sets };
    let checked = graph.derive("checked_gateways", inputs.gateways, move |cx, key: &ObjectKey, gateway| {
        check(cx, &world, gateway).map(|checked| (key.clone(), Arc::new(checked)))
    });
    let by_set = graph.index(checked, |_: &ObjectKey, checked: &Arc<Checked>, keys| {
        keys.extend(checked.sets.iter().map(|set| set.meta.key()));
    });
    let domain = scope.settings.domain.clone();
    let servers =
        graph.derive("gateway_api_servers", checked, move |_, _: &ObjectKey, checked| servers(checked, &domain));
    let bound = attachment::bound(graph, scope, checked, by_set);
    let by_listener = graph.index(bound, |_: &RouteKey, bound: &Arc<super::Bound>, keys| {
        keys.extend(bound.to.iter().filter_map(|one| Some((one.gateway.clone(), one.server.clone()?))));
        keys.sort_unstable();
        keys.dedup();
    });
    GatewayApi { checked, by_set, by_listener, source: Source { servers, bound } }
}

impl GatewayApi {
    /// The Gateway of a gateway: itself, or the one that it adds to.
    pub fn gateway_of(&self, cx: &Ctx<'_>, gateway: &GatewayKey) -> Option<ObjectKey> {
        match gateway.declared {
            Declared::Kubernetes => Some(gateway.object()),
            Declared::ListenerSet => {
                let own = gateway.object();
                let counts =
                    |checked: &Checked| checked.sets.iter().any(|set| set.meta.key() == own && set.denied.is_ok());
                cx.fetch(self.by_set, &own).find(|(_, checked)| counts(checked)).map(|(key, _)| key.clone())
            }
            Declared::Istio | Declared::Ingress => None,
        }
    }

    /// How many routes are attached to a listener.
    pub fn attached_routes(&self, cx: &Ctx<'_>, gateway: &GatewayKey, listener: &Arc<str>) -> usize {
        cx.fetch(self.by_listener, &(gateway.clone(), listener.clone())).count()
    }
}

/// The gateway that a reference is to, for an object in a namespace: a Gateway,
/// or what adds listeners to one.
pub fn parent(reference: &ParentReference, namespace: &Arc<str>) -> Option<GatewayKey> {
    let declared = match (&*reference.group, &*reference.kind) {
        (GROUP, "Gateway") => Declared::Kubernetes,
        (GROUP, "ListenerSet") => Declared::ListenerSet,
        _ => return None,
    };
    let namespace = if reference.namespace.is_empty() { namespace } else { &reference.namespace };
    Some(GatewayKey { declared, namespace: namespace.clone(), name: reference.name.clone() })
}

/// What proxies of a class's Gateways are for, if the class is ours. Ours are
/// known by name where there is no object, as when objects come from files.
pub fn role(cx: &Ctx<'_>, classes: Collection<ObjectKey, GatewayClass>, class: &Arc<str>) -> Option<Role> {
    let key = ObjectKey { namespace: "".into(), name: class.clone() };
    let controller = match (cx.get(classes, &key), &**class) {
        (Some(class), _) => &*class.spec.controller_name,
        (None, "istio") => CONTROLLER,
        (None, "istio-waypoint" | "istio-mesh") => WAYPOINT_CONTROLLER,
        (None, _) => return None,
    };
    match controller {
        CONTROLLER => Some(Role::Gateway),
        WAYPOINT_CONTROLLER => Some(Role::Waypoint),
        _ => None,
    }
}

/// Where a Gateway is reached, as its `spec.addresses` say. One IP address is
/// asked of a gateway's load balancer; hostnames are of services that somebody
/// else made. An address without a value is any of its type.
/// <https://istio.io/latest/docs/tasks/traffic-management/ingress/gateway-api/#manual-deployment>
fn placement(spec: &GatewaySpec, role: Role) -> Placement {
    let given: Vec<_> = spec.addresses.iter().filter(|address| !address.value.is_empty()).collect();
    match &*given {
        [] => Placement { managed: true, ..Placement::default() },
        [only] if role == Role::Gateway && matches!(&*only.kind, "" | "IPAddress") => {
            Placement { managed: true, ip: Some(only.value.clone()), ..Placement::default() }
        }
        several => {
            let mut placement = Placement::default();
            for one in several {
                let list = if &*one.kind == "Hostname" { &mut placement.services } else { &mut placement.refused };
                list.push(one.value.clone());
            }
            placement
        }
    }
}

/// Whether routes or listeners of a namespace may attach to what is in another.
pub fn admits(cx: &Ctx<'_>, scope: &Scope, own: &Arc<str>, namespaces: &RouteNamespaces, from: &Arc<str>) -> bool {
    match &*namespaces.from {
        "" | "Same" => own == from,
        "All" => true,
        "Selector" => namespaces.selector.as_ref().is_some_and(|selector| {
            scope.namespace(cx, from).is_some_and(|meta| selector.matches(&named(&meta.labels, from)))
        }),
        _ => false,
    }
}

/// A namespace's labels, with the one that API servers give it.
fn named(labels: &Labels, name: &str) -> Labels {
    match labels.get(NAMESPACE_NAME) {
        Some(_) => labels.clone(),
        None => labels.iter().chain([(NAMESPACE_NAME, name)]).collect(),
    }
}

/// Checks a Gateway, if it is ours.
fn check(cx: &Ctx<'_>, world: &World, gateway: &Gateway) -> Option<Checked> {
    let World { scope, grants, credentials, sets } = world;
    if !scope.configures(cx, &gateway.meta) {
        return None;
    }
    let spec = &gateway.spec;
    let role = role(cx, scope.inputs.gateway_classes, &spec.gateway_class_name)?;
    let own = &gateway.meta.namespace;
    let mut found: Vec<_> = cx.fetch(*sets, &gateway.meta.key()).map(|(_, set)| set).collect();
    found.retain(|set| scope.configures(cx, &set.meta));
    found.sort_by_key(|set| (set.meta.created, set.meta.namespace.clone(), set.meta.name.clone()));
    let denied = |set: &ListenerSet| {
        if role == Role::Waypoint {
            let message = format!("the GatewayClass {:?} does not support ListenerSet", &*spec.gateway_class_name);
            return Err(Said::new("NotAllowed", message));
        }
        let allowed = spec.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        match allowed.is_some_and(|allowed| {
            // Without a word on who may, nobody may.
            !allowed.from.is_empty() && admits(cx, scope, own, allowed, &set.meta.namespace)
        }) {
            true => Ok(()),
            false => {
                let message =
                    format!("Gateway {} does not allow it: see its spec.allowedListeners", gateway.meta.key());
                Err(Said::new("NotAllowed", message))
            }
        }
    };
    let verdicts: Vec<Verdict> = found.iter().map(|set| denied(set)).collect();
    let counted = found.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok()).map(|(set, _)| *set);
    let merged = spec.listeners.iter().chain(counted.flat_map(|set| &*set.spec.listeners));
    let mut conflicts = conflict::conflicts(merged).into_iter();
    let mut checked = |owner: Owner<'_>, listeners: &[crate::api::gateway::Listener]| -> Box<[Listener]> {
        let mut all = Vec::new();
        for (at, one) in listeners.iter().enumerate() {
            let conflict = conflicts.next().flatten();
            let cx = listener::Checking { cx, scope, grants, credentials, spec, role, owner };
            all.push(cx.listener(at, one, conflict));
        }
        all.into()
    };
    let listeners = checked(Owner { declared: Declared::Kubernetes, meta: &gateway.meta }, &spec.listeners);
    let mut sets = Vec::new();
    for (set, denied) in found.into_iter().zip(verdicts) {
        let listeners = match denied {
            Ok(()) => checked(Owner { declared: Declared::ListenerSet, meta: &set.meta }, &set.spec.listeners),
            Err(_) => Box::default(),
        };
        sets.push(CheckedSet { meta: set.meta.clone(), denied, listeners });
    }
    let frontend = spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let configs = frontend
        .into_iter()
        .flat_map(|one| std::iter::once(&one.default).chain(one.per_port.iter().map(|port| &port.tls)));
    Some(Checked {
        meta: gateway.meta.clone(),
        role,
        placement: placement(spec, role),
        listeners,
        sets: sets.into(),
        client_certificate: tls::client_certificate(cx, scope, grants, credentials, gateway),
        insecure: configs.filter_map(|one| one.validation.as_ref()).any(|one| &*one.mode == tls::INSECURE),
    })
}

/// What the generator is to know of a Gateway and of what adds to it.
fn servers(checked: &Arc<Checked>, domain: &str) -> Vec<(GatewayKey, Arc<GatewayServers>)> {
    if checked.role == Role::Waypoint {
        return Vec::new();
    }
    let Meta { namespace, name, .. } = &checked.meta;
    let proxies = match &checked.placement {
        Placement { managed: true, .. } => Proxies::Made { namespace: namespace.clone(), gateway: name.clone() },
        Placement { services, .. } if services.is_empty() => return Vec::new(),
        Placement { services, .. } => {
            let hostnames = services.iter().map(|service| full(service, namespace, domain));
            let mut keys: Vec<_> =
                hostnames.map(|hostname| ServiceKey { namespace: namespace.clone(), hostname }).collect();
            keys.sort_unstable();
            keys.dedup();
            Proxies::Behind(keys.into())
        }
    };
    let row = |key, meta: &Meta, listeners: &[Listener]| {
        let servers = listeners.iter().enumerate().filter_map(|(at, one)| one.told(at)).collect();
        (key, Arc::new(GatewayServers { meta: meta.clone(), proxies: proxies.clone(), servers }))
    };
    let own = row(checked.key(), &checked.meta, &checked.listeners);
    let sets = checked.sets.iter().filter(|set| set.denied.is_ok());
    std::iter::once(own).chain(sets.map(|set| row(set.key(), &set.meta, &set.listeners))).collect()
}

/// The full name of a Service, which may be given short.
pub fn full(service: &Arc<str>, namespace: &str, domain: &str) -> Arc<str> {
    match service.contains('.') {
        true => service.clone(),
        false => hostname(service, namespace, domain),
    }
}
