//! Where the proxies of a scope are. What they say of it themselves is little:
//! which node of Kubernetes they are on, mostly. What is worked out for them is
//! shared by all in one zone, unless it goes by nodes.

use crate::graph::{Ctx, Graph, Index};
use crate::model::Model;
use crate::model::endpoint::Locality;
use crate::model::service::{Distribution, ServiceKey};
use crate::proxy::{Place, Scope, WaypointScope};

use crate::api::ObjectKey;

/// Finds out where proxies are.
pub(super) struct Places {
    model: Model,
    /// Services whose traffic goes by nodes, by the waypoint they are attached
    /// to.
    by_node: Index<ObjectKey, ServiceKey, ObjectKey>,
}

impl Places {
    /// Declares what is looked at.
    pub(super) fn new(graph: &mut Graph, model: &Model) -> Self {
        let services = model.services;
        let by_node = graph.derive("services_by_node", model.service_waypoints, move |cx, key, waypoint| {
            let distribution = cx.get(services, key).map(|service| service.distribution);
            let by_node = matches!(distribution, Some(Distribution::LocalNode | Distribution::PreferSameNode));
            by_node.then(|| (key.clone(), waypoint.clone()))
        });
        let by_node = graph.index(by_node, |_: &ServiceKey, waypoint: &ObjectKey, keys| keys.push(waypoint.clone()));
        Self { model: model.clone(), by_node }
    }

    /// The scope that a proxy's configuration is worked out for: what its node
    /// says of where it is counts before what it says itself, and the node is
    /// left out if nothing goes by it.
    pub(super) fn placed(&self, cx: &Ctx<'_>, scope: &Scope) -> Scope {
        let Scope::Waypoint(waypoint) = scope;
        let WaypointScope { namespace, gateway, place, .. } = waypoint;
        let gateway = ObjectKey { namespace: namespace.clone(), name: gateway.clone() };
        let goes_by_node = cx.fetch(self.by_node, &gateway).next().is_some();
        let of_node = || Some(self.model.locality_of_node(cx, &place.node)).filter(|locality| !locality.is_unknown());
        let locality = Locality::of_labels(|label| place.label(label)).or_else(of_node);
        let mut placed = place.clone();
        if let Some(Locality { region, zone, subzone }) = locality {
            placed = Place { region, zone, subzone, ..placed };
        }
        if !goes_by_node {
            placed.node = "".into();
        }
        Scope::Waypoint(WaypointScope { place: placed, ..waypoint.clone() })
    }
}
