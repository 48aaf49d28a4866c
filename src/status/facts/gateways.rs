//! What is known of the Gateway API's Gateways: their listeners, checked, and how
//! many routes are attached to each. What becomes of it depends on what is
//! deployed, so their statuses are written by the controller that does that.

use std::sync::Arc;

use crate::api::{Kind, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index};
use crate::model::Model;
use crate::model::gateway::GatewayKey;
use crate::model::gateway::kubernetes::listener::Listener;
use crate::model::gateway::kubernetes::{Checked, Role};

use super::{About, Facts, Waypoint};

/// What is known of a Gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayFacts {
    /// What it asks for.
    pub checked: Arc<Checked>,
    /// How many routes are attached to each of its listeners.
    pub attached: Box<[u32]>,
    /// The same of each that adds listeners to it.
    pub attached_to_sets: Box<[Box<[u32]>]>,
}

/// What is known of all Gateways.
pub type GatewayTable = imbl::OrdMap<ObjectKey, Arc<GatewayFacts>>;

pub(super) fn add(
    graph: &mut Graph,
    model: &Model,
    routes: &[(Kind, Collection<ObjectKey, Facts>)],
) -> Collection<ObjectKey, GatewayFacts> {
    let served: Vec<_> = routes.iter().map(|(_, facts)| by_waypoint(graph, *facts)).collect();
    let gateways = model.gateway_api;
    graph.derive("gateway_facts", gateways.checked, move |cx, key: &ObjectKey, checked| {
        let count = |gateway: &GatewayKey, listeners: &[Listener]| {
            listeners.iter().map(|one| number(gateways.attached_routes(cx, gateway, &one.name))).collect::<Box<[_]>>()
        };
        let attached = match checked.role {
            Role::Gateway => count(&checked.key(), &checked.listeners),
            // All that a waypoint serves goes through its one listener.
            Role::Waypoint => {
                let routes = routes_of(cx, &served, key);
                checked.listeners.iter().map(|one| if &*one.protocol == "HBONE" { routes } else { 0 }).collect()
            }
        };
        let attached_to_sets = checked.sets.iter().map(|set| count(&set.key(), &set.listeners)).collect();
        [(key.clone(), GatewayFacts { checked: checked.clone(), attached, attached_to_sets })]
    })
}

type ByWaypoint = Index<ObjectKey, ObjectKey, Facts>;

/// Routes by the waypoints that serve their parents.
fn by_waypoint(graph: &mut Graph, facts: Collection<ObjectKey, Facts>) -> ByWaypoint {
    graph.index(facts, |_: &ObjectKey, facts: &Facts, keys| {
        let About::Route { parents, .. } = &facts.about else { return };
        for parent in parents.iter().filter(|parent| parent.denied.is_none()) {
            if let Waypoint::Served(waypoint) = &parent.waypoint
                && !keys.contains(waypoint)
            {
                keys.push(waypoint.clone());
            }
        }
    })
}

fn routes_of(cx: &Ctx<'_>, served: &[ByWaypoint], waypoint: &ObjectKey) -> u32 {
    number(served.iter().map(|index| cx.fetch(*index, waypoint).count()).sum())
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
