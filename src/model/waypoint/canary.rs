//! Canaries: a second waypoint, which a share of the connections to a service
//! goes through, such as to try a new configuration of the first.
//! <https://istio.io/latest/docs/ambient/usage/waypoint/>

use std::sync::Arc;

use crate::api::{Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::service::{Service, ServiceKey};
use crate::model::{Scope, problem};

use super::{TrafficType, USE_WAYPOINT, Unattached, Waypoint, usable};

const CANARY: &str = "istio.io/use-waypoint-canary";
const CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";
const WEIGHT: &str = "istio.io/use-waypoint-canary-weight";

/// A second waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// The waypoint.
    pub waypoint: ObjectKey,
    /// How many of a hundred connections go through it. With none it still has
    /// the configuration.
    pub weight: u32,
}

/// The canary of each service that has a waypoint and a canary.
pub(in crate::model) fn of_services(
    graph: &mut Graph,
    scope: &Scope,
    waypoints: Collection<ObjectKey, Waypoint>,
    services: Collection<ServiceKey, Arc<Service>>,
    of_services: Collection<ServiceKey, ObjectKey>,
) -> Collection<ServiceKey, Canary> {
    let scope = scope.clone();
    graph.derive("service_canaries", of_services, move |cx, key: &ServiceKey, waypoint| {
        let service = cx.get(services, key)?;
        let found = canary(cx, &scope, waypoints, &service.meta, waypoint).unwrap_or_else(|why| {
            let field = match why.reason {
                "CanaryInvalidWeight" => format!("metadata.annotations[{WEIGHT}]"),
                _ => format!("metadata.labels[{CANARY}]"),
            };
            let message = format!("{}; all connections go through {waypoint}", why.message);
            cx.diagnose(problem(service.registry.kind(), &service.meta, field, why.reason, message));
            None
        });
        found.map(|canary| (key.clone(), canary))
    })
}

/// The canary that an object asks for beside its waypoint. Like the waypoint, it
/// may be the namespace that asks, for objects that name no waypoint themselves.
pub(in crate::model) fn canary(
    cx: &Ctx<'_>,
    scope: &Scope,
    waypoints: Collection<ObjectKey, Waypoint>,
    meta: &Meta,
    waypoint: &ObjectKey,
) -> Result<Option<Canary>, Unattached> {
    let namespace = scope.namespace(cx, &meta.namespace);
    let inherited = namespace.filter(|_| meta.label(USE_WAYPOINT).is_none());
    let declares = |meta: &&Meta| meta.label(CANARY).is_some();
    let Some(declared) = Some(meta).filter(declares).or_else(|| inherited.filter(declares)) else { return Ok(None) };
    let name = declared.label(CANARY).unwrap_or_default();
    if matches!(name, "" | "none") {
        return Ok(None);
    }
    let place = declared.label(CANARY_NAMESPACE).map_or_else(|| meta.namespace.clone(), Into::into);
    let key = ObjectKey { namespace: place, name: name.into() };
    let refused = |reason, message| Err(Unattached { waypoint: key.clone(), reason, message });
    if key == *waypoint {
        return refused("CanarySameAsPrimary", "the canary is the waypoint itself".into());
    }
    let weight = meta.annotation(WEIGHT).or_else(|| inherited?.annotation(WEIGHT)).unwrap_or("0");
    let Some(weight) = weight.parse().ok().filter(|weight| *weight <= 100) else {
        return refused("CanaryInvalidWeight", format!("{weight:?} is not a number from 0 to 100"));
    };
    match usable(cx, waypoints, &key, (&meta.namespace, namespace), &TrafficType::Service) {
        Ok(_) => Ok(Some(Canary { waypoint: key, weight })),
        Err((reason, message)) => refused(reason, message),
    }
}
