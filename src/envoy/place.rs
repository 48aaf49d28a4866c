//! Where the proxies of a scope are. What they say of it themselves is little:
//! which node of Kubernetes they are on, mostly. What is worked out for them is
//! shared by all in one zone, unless it goes by nodes.

use std::net::IpAddr;

use crate::api::ObjectKey;
use crate::api::istio::ServiceEntry;
use crate::graph::{Ctx, Graph, Index};
use crate::model::Model;
use crate::model::endpoint::Locality;
use crate::model::service::{Distribution, Service, ServiceKey};
use crate::proxy::{GatewayScope, OwnConfig, Place, Scope, WaypointScope};

use super::gateway;

/// Finds out where proxies are.
pub(super) struct Places {
    model: Model,
    /// Services whose traffic goes by nodes, by the waypoint they are attached
    /// to.
    by_node: Index<ObjectKey, ServiceKey, Vec<ObjectKey>>,
    /// All of them: any of them may be behind a gateway.
    all_by_node: Index<(), ServiceKey, ()>,
    /// ServiceEntries by the addresses of endpoints that they say are in the
    /// mesh.
    listing: Index<IpAddr, ObjectKey, ServiceEntry>,
}

fn goes_by_node(service: &Service) -> bool {
    matches!(service.distribution, Distribution::LocalNode | Distribution::PreferSameNode)
}

impl Places {
    /// Declares what is looked at.
    pub(super) fn new(graph: &mut Graph, model: &Model) -> Self {
        let (services, canaries) = (model.services, model.service_canaries);
        let by_node = graph.derive("services_by_node", model.service_waypoints, move |cx, key, waypoint| {
            let by_node = cx.get(services, key).is_some_and(|service| goes_by_node(service));
            let canary = || cx.get(canaries, key).map(|canary| canary.waypoint.clone());
            by_node.then(|| (key.clone(), std::iter::once(waypoint.clone()).chain(canary()).collect()))
        });
        let all_by_node = graph.derive("all_services_by_node", services, |_, key: &ServiceKey, service| {
            goes_by_node(service).then(|| (key.clone(), ()))
        });
        let listing = graph.index(model.inputs.service_entries, |_: &ObjectKey, entry: &ServiceEntry, keys| {
            if &*entry.spec.location == "MESH_INTERNAL" {
                keys.extend(entry.spec.endpoints.iter().filter_map(|one| one.address.parse::<IpAddr>().ok()));
                keys.sort_unstable();
                keys.dedup();
            }
        });
        Self {
            model: model.clone(),
            by_node: graph.index(by_node, |_: &ServiceKey, waypoints: &Vec<ObjectKey>, keys| {
                keys.extend(waypoints.iter().cloned())
            }),
            all_by_node: graph.index(all_by_node, |_: &ServiceKey, (), keys| keys.push(())),
            listing,
        }
    }

    /// The scope that a proxy's configuration is worked out for: what its node
    /// says of where it is counts before what it says itself, and the node is
    /// left out if nothing goes by it.
    pub(super) fn placed(&self, cx: &Ctx<'_>, scope: &Scope) -> Scope {
        match scope {
            Scope::Waypoint(waypoint) => {
                let by_node = cx.fetch(self.by_node, &gateway(scope)).next().is_some();
                let place = self.place(cx, &waypoint.place, by_node);
                Scope::from(WaypointScope { place, ..(**waypoint).clone() })
            }
            Scope::Gateway(proxy) => {
                let by_node = cx.fetch(self.all_by_node, &()).next().is_some();
                let place = self.place(cx, &proxy.place, by_node);
                let entries = proxy.address.iter().flat_map(|address| cx.fetch(self.listing, address));
                let hosts = entries
                    .flat_map(|(key, entry)| entry.spec.hosts.iter().map(|host| (key.namespace.clone(), host.clone())));
                let mut listed_by: Vec<_> = hosts.collect();
                listed_by.sort_unstable();
                listed_by.dedup();
                let of_mesh = &self.model.scope().mesh(cx).default_config;
                let own = OwnConfig::beside(&proxy.own, &of_mesh.gateway_topology, &of_mesh.proxy_headers);
                let listed_by = listed_by.into();
                Scope::from(GatewayScope { place, address: None, listed_by, own, ..(**proxy).clone() })
            }
        }
    }

    fn place(&self, cx: &Ctx<'_>, place: &Place, goes_by_node: bool) -> Place {
        let of_node = || Some(self.model.locality_of_node(cx, &place.node)).filter(|locality| !locality.is_unknown());
        let locality = Locality::of_labels(|label| place.label(label)).or_else(of_node);
        let mut placed = place.clone();
        if let Some(Locality { region, zone, subzone }) = locality {
            placed = Place { region, zone, subzone, ..placed };
        }
        if !goes_by_node {
            placed.node = "".into();
        }
        placed
    }
}
