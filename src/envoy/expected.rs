//! Proxies that there should be. Much of what is wrong with an object is found when
//! a proxy's configuration is worked out, and proxies are connected to one replica
//! each. The replica that speaks for all therefore works out what it would tell one
//! proxy of each gateway and waypoint of which none is connected to it, as the
//! objects have it.

use std::sync::Arc;

use crate::api::{Labels, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index};
use crate::model::Model;
use crate::model::gateway::{GATEWAY_NAME, GatewayKey, GatewayServers, Proxies};
use crate::model::selection::{Group, PodGroup};
use crate::model::service::{Service, ServiceKey};
use crate::proxy::scope::Families;
use crate::proxy::{Capabilities, GatewayScope, Place, Scope, WaypointScope};

/// By what connected proxies are found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Near {
    /// Those of a waypoint.
    Waypoint(ObjectKey),
    /// Gateways in a namespace.
    Namespace(Arc<str>),
}

/// The scopes that proxies have, and while this replica `speaks` for all, those
/// that others' proxies have.
pub(super) fn with_expected(
    graph: &mut Graph,
    model: &Model,
    connected: Collection<Scope, ()>,
    speaks: Collection<(), ()>,
) -> Collection<Scope, ()> {
    let near = graph.index(connected, |scope: &Scope, (), keys| {
        keys.push(match scope {
            Scope::Waypoint(one) => {
                Near::Waypoint(ObjectKey { namespace: one.namespace.clone(), name: one.gateway.clone() })
            }
            Scope::Gateway(one) => Near::Namespace(one.namespace.clone()),
        });
    });
    let waypoints = graph.derive("expected_waypoints", model.waypoints, move |cx, key: &ObjectKey, _| {
        cx.get(speaks, &())?;
        let is_there = cx.fetch(near, &Near::Waypoint(key.clone())).next().is_some();
        (!is_there).then(|| (waypoint(key), ()))
    });
    let pods = Pods { near, of_service: model.selection.of_service };
    let servers = model.gateways.servers;
    let made = graph.derive("expected_gateways", servers, move |cx, _: &GatewayKey, of: &Arc<GatewayServers>| {
        if cx.get(speaks, &()).is_none() {
            return Vec::new();
        }
        match &of.proxies {
            Proxies::Made { namespace, gateway } => {
                let labels = [(GATEWAY_NAME, &**gateway)].into_iter().collect();
                pods.expected(cx, namespace, &labels).into_iter().collect()
            }
            Proxies::Behind(services) => {
                services.iter().flat_map(|key| pods.behind(cx, key, &Labels::default())).collect()
            }
            // Many gateways select the same proxies.
            Proxies::Selected { .. } => Vec::new(),
        }
    });
    let selectors = graph.distinct(
        "gateway_selectors",
        servers,
        |_, of: &Arc<GatewayServers>| match &of.proxies {
            Proxies::Selected { labels, namespace } => Some((labels.clone(), namespace.clone())),
            Proxies::Made { .. } | Proxies::Behind(_) => None,
        },
        |_, _| Some(()),
    );
    // Pods that are gateways have a Service in front of them, in nearly every mesh.
    let leading = graph.index(model.services, |_: &ServiceKey, service: &Arc<Service>, keys| {
        keys.extend_from_slice(service.selector.pairs());
    });
    let selected = graph.derive("expected_selected_gateways", selectors, move |cx, (labels, namespace), ()| {
        let first = cx.get(speaks, &()).and_then(|()| labels.pairs().first());
        let services = first.into_iter().flat_map(|pair| cx.fetch(leading, pair));
        let services = services.filter(|(key, service)| {
            labels.select(&service.selector) && namespace.as_ref().is_none_or(|only| *only == key.namespace)
        });
        services.flat_map(|(key, _)| pods.behind(cx, key, labels)).collect::<Vec<_>>()
    });
    graph.union("wanted_scopes", [connected, waypoints, made, selected])
}

/// Where pods are found that are gateways, and proxies that are connected.
#[derive(Clone, Copy)]
struct Pods {
    near: Index<Near, Scope, ()>,
    of_service: Index<ServiceKey, PodGroup, Group>,
}

impl Pods {
    /// The proxies behind a service that a selector selects.
    fn behind(self, cx: &Ctx<'_>, service: &ServiceKey, selector: &Labels) -> Vec<(Scope, ())> {
        let groups = cx.fetch(self.of_service, service).map(|(group, _)| group);
        let selected = groups.filter(|group| selector.select(&group.labels));
        selected.filter_map(|group| self.expected(cx, &group.namespace, &group.labels)).collect()
    }

    /// The proxy that pods with these labels are, unless one is connected.
    fn expected(self, cx: &Ctx<'_>, namespace: &Arc<str>, labels: &Labels) -> Option<(Scope, ())> {
        let labels = Place::labels_of(labels.iter());
        let is_there = cx
            .fetch(self.near, &Near::Namespace(namespace.clone()))
            .any(|(scope, ())| labels.iter().all(|(key, value)| scope.place().label(key) == Some(&**value)));
        (!is_there).then(|| (gateway(namespace.clone(), labels), ()))
    }
}

/// A waypoint's proxy of which no more is known.
fn waypoint(key: &ObjectKey) -> Scope {
    Scope::from(WaypointScope {
        namespace: key.namespace.clone(),
        gateway: key.name.clone(),
        capabilities: Capabilities::STOCK,
        families: Families::V4,
        loopback: None,
        place: Place::default(),
    })
}

/// The same of a gateway.
fn gateway(namespace: Arc<str>, labels: Arc<[(Arc<str>, Arc<str>)]>) -> Scope {
    Scope::from(GatewayScope {
        namespace,
        capabilities: Capabilities::STOCK,
        families: Families::V4,
        loopback: None,
        unprivileged: false,
        own: None,
        place: Place { labels, ..Place::default() },
        address: None,
        listed_by: [].into(),
    })
}
