//! Waypoints, and which of them an object uses.
//! <https://istio.io/latest/docs/ambient/usage/waypoint/>

pub mod account;
pub mod canary;

use std::sync::Arc;

use fairway_proto::workload::application_tunnel::Protocol as TunnelProtocol;

use crate::api::gateway::{Gateway, GatewayClass, Listener, RouteNamespaces};
use crate::api::{Labels, Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Graph};

use super::selection::Selection;
use super::service::{Service, ServiceKey};
use super::{Model, Scope, problem};
use account::AccountWaypoints;

/// The port waypoints accept HBONE on.
pub const PORT: u16 = 15008;

const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// The field that problems with it are about.
pub const USE_WAYPOINT_FIELD: &str = "metadata.labels[istio.io/use-waypoint]";
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
const INBOUND_BINDING: &str = "ambient.istio.io/waypoint-inbound-binding";

/// The label of everything that a controller makes for Gateways.
pub(super) const MANAGED: &str = "gateway.istio.io/managed";

/// Whether the label's value says that a Service is a waypoint's own, or that
/// of a gateway like one. Such a Service has no waypoint.
pub(super) fn is_gateway(managed: Option<&str>) -> bool {
    matches!(managed, Some("istio.io-mesh-controller" | "istio.io-eastwest-controller"))
}

/// A Gateway that has an address, hence can be sent traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct Waypoint {
    /// Where it is reached.
    pub address: Address,
    /// What traffic it is for.
    pub traffic: TrafficType,
    /// Who may attach to it.
    pub attachment: RouteNamespaces,
    /// How its own instances take traffic from ztunnel.
    pub binding: Option<Binding>,
    /// The service account that it serves, whatever labels say.
    pub account: Option<Arc<str>>,
}

/// Where a waypoint is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum Address {
    /// A hostname, in the waypoint's namespace.
    Hostname(Arc<str>),
    /// An address on the cluster's network.
    Ip(std::net::IpAddr),
}

/// What traffic a waypoint is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrafficType {
    /// Traffic to services.
    Service,
    /// Traffic to workload addresses.
    Workload,
    /// Both.
    All,
    /// Neither, or a type that is not known.
    None,
}

impl TrafficType {
    pub(super) fn covers(&self, other: &TrafficType) -> bool {
        *self == TrafficType::All || self == other
    }
}

/// How instances of a waypoint take traffic from ztunnel ("sandwich").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// With or without a PROXY header.
    pub protocol: TunnelProtocol,
    /// The port; 0 keeps that of the traffic.
    pub port: u16,
}

/// All usable waypoints. A Gateway that has no address yet is none.
pub fn waypoints(graph: &mut Graph, scope: &Scope) -> Collection<ObjectKey, Waypoint> {
    let classes = scope.inputs.gateway_classes;
    graph.derive("waypoints", scope.inputs.gateways, move |cx, key, gateway| {
        let class = ObjectKey { namespace: "".into(), name: gateway.spec.gateway_class_name.clone() };
        waypoint(cx, gateway, cx.get(classes, &class)).map(|waypoint| (key.clone(), waypoint))
    })
}

fn waypoint(cx: &Ctx<'_>, gateway: &Gateway, class: Option<&GatewayClass>) -> Option<Waypoint> {
    let binding = binding(cx, gateway, class);
    let label = gateway.meta.label(WAYPOINT_FOR).or_else(|| class?.meta.label(WAYPOINT_FOR));
    let account = account::account(gateway);
    Some(Waypoint {
        address: address(gateway)?,
        traffic: match label {
            None if account.is_some() => TrafficType::All,
            None | Some("service") => TrafficType::Service,
            Some("workload") => TrafficType::Workload,
            Some("all") => TrafficType::All,
            Some(_) => TrafficType::None,
        },
        attachment: listener(gateway, binding)
            .map(|listener| listener.allowed_routes.namespaces.clone())
            .unwrap_or_default(),
        binding,
        account,
    })
}

/// The first hostname, else the first IP address.
fn address(gateway: &Gateway) -> Option<Address> {
    let addresses = &gateway.status.addresses;
    let hostname = addresses.iter().find(|address| &*address.kind == "Hostname" && !address.value.is_empty());
    hostname.map(|address| Address::Hostname(address.value.clone())).or_else(|| {
        let ip = addresses.iter().filter(|address| matches!(&*address.kind, "" | "IPAddress"));
        ip.filter_map(|address| address.value.parse().ok()).next().map(Address::Ip)
    })
}

/// The listener that traffic arrives at, whose rules say who may attach.
fn listener(gateway: &Gateway, binding: Option<Binding>) -> Option<&Listener> {
    let bound = binding.and_then(|binding| {
        gateway.spec.listeners.iter().find(|listener| match binding {
            Binding { port: 0, protocol: TunnelProtocol::Proxy } => &*listener.protocol == "istio.io/PROXY",
            Binding { port: 0, protocol: TunnelProtocol::None } => false,
            Binding { port, .. } => listener.port == port,
        })
    });
    let hbone = |listener: &&Listener| &*listener.protocol == "HBONE" && listener.port == PORT;
    bound.or_else(|| gateway.spec.listeners.iter().find(hbone))
}

fn binding(cx: &Ctx<'_>, gateway: &Gateway, class: Option<&GatewayClass>) -> Option<Binding> {
    let value = gateway.meta.annotation(INBOUND_BINDING).or_else(|| class?.meta.annotation(INBOUND_BINDING))?;
    let (protocol, port) = value.split_once('/').map_or((value, None), |(protocol, port)| (protocol, Some(port)));
    let protocol = match protocol {
        "NONE" => Some(TunnelProtocol::None),
        "PROXY" => Some(TunnelProtocol::Proxy),
        _ => None,
    };
    let port = port.map_or(Some(0), |port| port.parse().ok());
    let binding = protocol.zip(port).map(|(protocol, port)| Binding { protocol, port });
    if binding.is_none() {
        let message = format!("{value:?} is not NONE or PROXY, with an optional /port");
        let field = format!("metadata.annotations[{INBOUND_BINDING}]");
        cx.diagnose(problem("Gateway", &gateway.meta, field, "UnsupportedValue", message));
    }
    binding
}

/// The waypoint of each service that has one. Services of gateways themselves
/// have none, or traffic would go round in circles.
pub(super) fn of_services(
    graph: &mut Graph,
    scope: &Scope,
    waypoints: Collection<ObjectKey, Waypoint>,
    accounts: AccountWaypoints,
    selection: Selection,
    services: Collection<ServiceKey, Arc<Service>>,
) -> Collection<ServiceKey, ObjectKey> {
    let scope = scope.clone();
    graph.derive("service_waypoints", services, move |cx, key, service| {
        if is_gateway(service.meta.label(MANAGED)) {
            return None;
        }
        if let Some(waypoint) = account::of_service(cx, accounts, selection, service) {
            return Some((key.clone(), waypoint));
        }
        let found = attached(cx, &scope, waypoints, &key.namespace, &service.meta.labels, &TrafficType::Service);
        let waypoint = found.unwrap_or_else(|unattached| {
            unattached.diagnose(cx, service.registry.kind(), &service.meta);
            None
        });
        waypoint.map(|(waypoint, _)| (key.clone(), waypoint))
    })
}

/// The waypoint that `labels` name, for an object in `namespace`.
enum Named {
    /// `none`: no waypoint, whatever the namespace says.
    OptOut,
    /// This one.
    Waypoint(ObjectKey),
}

fn named(labels: &Labels, namespace: &Arc<str>) -> Option<Named> {
    Some(match labels.get(USE_WAYPOINT)? {
        "none" => Named::OptOut,
        name => {
            let namespace = labels.get(USE_WAYPOINT_NAMESPACE).map_or_else(|| namespace.clone(), Into::into);
            Named::Waypoint(ObjectKey { namespace, name: name.into() })
        }
    })
}

/// Why an object does not have the waypoint that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unattached {
    /// The waypoint.
    pub waypoint: ObjectKey,
    /// A CamelCase reason.
    pub reason: &'static str,
    /// The same for a person.
    pub message: String,
}

impl Unattached {
    /// Says it about an object.
    pub fn diagnose(&self, cx: &Ctx<'_>, kind: &'static str, meta: &Meta) {
        cx.diagnose(problem(kind, meta, USE_WAYPOINT_FIELD, self.reason, &*self.message));
    }
}

impl Model {
    /// The waypoint for an object with these labels: the one its own label
    /// names, else the one its namespace's label names.
    pub fn attached<'g>(
        &self,
        cx: &Ctx<'g>,
        namespace: &Arc<str>,
        labels: &Labels,
        traffic: &TrafficType,
    ) -> Result<Option<(ObjectKey, &'g Waypoint)>, Unattached> {
        attached(cx, self.scope(), self.waypoints, namespace, labels, traffic)
    }

    /// Whether a waypoint serves a service: as its waypoint, or as a canary.
    pub fn serves(&self, cx: &Ctx<'_>, waypoint: &ObjectKey, service: &ServiceKey) -> bool {
        cx.get(self.service_waypoints, service) == Some(waypoint)
            || cx.get(self.service_canaries, service).is_some_and(|canary| canary.waypoint == *waypoint)
    }

    /// The waypoint that a workload with these labels is an instance of.
    pub fn instance_of<'g>(&self, cx: &Ctx<'g>, namespace: &Arc<str>, labels: &Labels) -> Option<&'g Waypoint> {
        instance_of(cx, self.waypoints, namespace, labels)
    }
}

pub(super) fn instance_of<'g>(
    cx: &Ctx<'g>,
    waypoints: Collection<ObjectKey, Waypoint>,
    namespace: &Arc<str>,
    labels: &Labels,
) -> Option<&'g Waypoint> {
    let name = labels.get("gateway.networking.k8s.io/gateway-name").filter(|name| !name.is_empty())?;
    cx.get(waypoints, &ObjectKey { namespace: namespace.clone(), name: name.into() })
}

pub(super) fn attached<'g>(
    cx: &Ctx<'g>,
    scope: &Scope,
    waypoints: Collection<ObjectKey, Waypoint>,
    namespace: &Arc<str>,
    labels: &Labels,
    traffic: &TrafficType,
) -> Result<Option<(ObjectKey, &'g Waypoint)>, Unattached> {
    let own_namespace = scope.namespace(cx, namespace);
    let own = named(labels, namespace);
    let inherited = own.is_none();
    let named = own.or_else(|| named(&own_namespace?.labels, namespace));
    let Some(Named::Waypoint(key)) = named else { return Ok(None) };
    match usable(cx, waypoints, &key, (namespace, own_namespace), traffic) {
        Ok(waypoint) => Ok(Some((key, waypoint))),
        // A namespace's label is for whatever it fits.
        Err((UNSUPPORTED, _)) if inherited && *traffic == TrafficType::Workload => Ok(None),
        Err((reason, message)) => {
            let place = if inherited { "label of the namespace" } else { "label" };
            let message = format!("{place}: {message}; traffic bypasses it");
            Err(Unattached { waypoint: key, reason, message })
        }
    }
}

/// A waypoint by its name, if objects of a namespace may attach to it; else the
/// reason, in one word and for people.
fn usable<'g>(
    cx: &Ctx<'g>,
    waypoints: Collection<ObjectKey, Waypoint>,
    key: &ObjectKey,
    (namespace, meta): (&Arc<str>, Option<&Meta>),
    traffic: &TrafficType,
) -> Result<&'g Waypoint, (&'static str, String)> {
    let Some(waypoint) = cx.get(waypoints, key) else {
        return Err(("WaypointIsNotReady", format!("waypoint {key} does not exist or has no address")));
    };
    let allowed = match &*waypoint.attachment.from {
        "All" => true,
        "Selector" => {
            let selector = waypoint.attachment.selector.as_ref();
            selector.is_some_and(|selector| meta.is_some_and(|meta| selector.matches(&meta.labels)))
        }
        "None" => false,
        _ => key.namespace == *namespace,
    };
    if !allowed {
        return Err(("AttachmentDenied", format!("waypoint {key} does not allow this namespace to attach")));
    }
    if !waypoint.traffic.covers(traffic) {
        return Err((UNSUPPORTED, format!("waypoint {key} is not for this kind of traffic")));
    }
    Ok(waypoint)
}

const UNSUPPORTED: &str = "UnsupportedTrafficType";
