//! Waypoints of a service account, as the first announcement of ambient mode
//! has them: a Gateway of the class `istio-mesh` with the annotation
//! `istio.io/service-account` serves the workloads of that account, and the
//! services whose pods all run as it.
//! <https://istio.io/latest/blog/2022/get-started-ambient/>
//!
//! A label that says something else about an object beats the account. What its
//! namespace says does not, as an account is narrower.

use std::sync::Arc;

use crate::api::core::Pod;
use crate::api::gateway::Gateway;
use crate::api::{Labels, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index};
use crate::model::Model;
use crate::model::selection::Selection;
use crate::model::service::Service;

use super::{TrafficType, Waypoint, instance_of, named};

/// The class of such Gateways, and the annotation that names the account.
const CLASS: &str = "istio-mesh";
const ACCOUNT: &str = "istio.io/service-account";

/// Waypoints of accounts, by their namespace. There are few namespaces with any.
pub type AccountWaypoints = Index<Arc<str>, ObjectKey, Waypoint>;

/// The account that a Gateway serves.
pub(super) fn account(gateway: &Gateway) -> Option<Arc<str>> {
    let account = gateway.meta.annotation(ACCOUNT).filter(|account| !account.is_empty())?;
    (&*gateway.spec.gateway_class_name == CLASS).then(|| account.into())
}

/// Declares the index.
pub(in crate::model) fn account_waypoints(
    graph: &mut Graph,
    waypoints: Collection<ObjectKey, Waypoint>,
) -> AccountWaypoints {
    graph.index(waypoints, |key: &ObjectKey, waypoint: &Waypoint, keys| {
        if waypoint.account.is_some() {
            keys.push(key.namespace.clone());
        }
    })
}

/// The waypoint of the account that all pods of a service run as.
pub(super) fn of_service(
    cx: &Ctx<'_>,
    waypoints: AccountWaypoints,
    selection: Selection,
    service: &Service,
) -> Option<ObjectKey> {
    if named(&service.meta.labels, &service.key.namespace).is_some() {
        return None;
    }
    let waypoints = of_namespace(cx, waypoints, &service.key.namespace, &TrafficType::Service);
    if waypoints.is_empty() {
        return None;
    }
    let groups = cx.fetch(selection.of_service, &service.key);
    let pods = groups.flat_map(|(group, _)| cx.fetch(selection.pods, group));
    let mut accounts =
        pods.filter(|(_, pod)| !pod.status.ended).map(|(_, pod)| &pod.spec.template.service_account_name);
    let first = accounts.next()?;
    accounts.all(|account| account == first).then_some(())?;
    waypoints.into_iter().find(|(account, _, _)| *account == first).map(|(_, key, _)| key.clone())
}

/// The pods of an account that have its waypoint. Few meshes have such, so all
/// groups of pods are looked at rather than kept by namespace.
pub(in crate::model) fn pods<'g>(
    cx: &Ctx<'g>,
    waypoints: Collection<ObjectKey, Waypoint>,
    selection: Selection,
    namespace: &Arc<str>,
    account: &str,
) -> Vec<&'g Pod> {
    let groups = cx.all(selection.groups).into_iter().map(|(group, _)| group).filter(|group| {
        group.namespace == *namespace
            && named(&group.labels, namespace).is_none()
            && instance_of(cx, waypoints, namespace, &group.labels).is_none()
    });
    let pods = groups.flat_map(|group| cx.fetch(selection.pods, group)).map(|(_, pod)| pod);
    pods.filter(|pod| *pod.spec.template.service_account_name == *account).collect()
}

/// The accounts of a namespace that have a waypoint for some traffic. Of two
/// for one account the first by name counts.
fn of_namespace<'g>(
    cx: &Ctx<'g>,
    waypoints: AccountWaypoints,
    namespace: &Arc<str>,
    traffic: &TrafficType,
) -> Vec<(&'g Arc<str>, &'g ObjectKey, &'g Waypoint)> {
    let found = cx.fetch(waypoints, namespace).filter(|(_, waypoint)| waypoint.traffic.covers(traffic));
    let mut found: Vec<_> =
        found.filter_map(|(key, waypoint)| Some((waypoint.account.as_ref()?, key, waypoint))).collect();
    found.sort_by(|a, b| a.1.cmp(b.1));
    found
}

impl Model {
    /// The accounts whose pods of these labels have a waypoint that their own
    /// labels do not name.
    pub fn account_waypoints<'g>(
        &self,
        cx: &Ctx<'g>,
        namespace: &Arc<str>,
        labels: &Labels,
    ) -> Vec<(&'g Arc<str>, &'g ObjectKey, &'g Waypoint)> {
        if named(labels, namespace).is_some() || self.instance_of(cx, namespace, labels).is_some() {
            return Vec::new();
        }
        of_namespace(cx, self.waypoints_of_accounts, namespace, &TrafficType::Workload)
    }
}
