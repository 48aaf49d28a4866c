//! Which pods and workload entries are behind which services, and which
//! waypoint traffic to their own addresses goes through. For pods both follow
//! from what they have in common, a namespace and labels: a selector is looked
//! at once for each such group, not once for each pod.

use std::sync::Arc;

use crate::api::core::Pod;
use crate::api::istio::WorkloadEntry;
use crate::api::{Labels, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index};

use super::service::{SelectorKey, Service, ServiceKey};
use super::waypoint::{TrafficType, Unattached, Waypoint, attached, instance_of};
use super::{Scope, not_known};

/// The pods of one namespace that have equal labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodGroup {
    /// The namespace of the pods.
    pub namespace: Arc<str>,
    /// Their labels.
    pub labels: Labels,
}

impl PodGroup {
    /// The group of a pod.
    pub fn of(pod: &Pod) -> Self {
        Self { namespace: pod.meta.namespace.clone(), labels: pod.meta.labels.clone() }
    }
}

/// What follows from the namespace and the labels of workloads.
#[derive(Debug, PartialEq)]
pub struct Group {
    /// The services that select them.
    pub services: Vec<Arc<Service>>,
    /// The waypoint that traffic to their own addresses goes through, if one is
    /// asked for. An instance of a waypoint has none. Most have none, so the
    /// rest is elsewhere.
    pub waypoint: Option<Box<Result<ObjectKey, Unattached>>>,
}

impl Group {
    fn keys(&self, keys: &mut Vec<ServiceKey>) {
        keys.extend(self.services.iter().map(|service| service.key.clone()));
    }

    fn waypoint_key(&self, keys: &mut Vec<ObjectKey>) {
        keys.extend(self.waypoint.as_deref().and_then(|waypoint| waypoint.as_ref().ok()).cloned());
    }
}

/// What services select, and whom.
#[derive(Clone, Copy)]
pub struct Selection {
    /// The groups of pods in namespaces that are discovered.
    pub groups: Collection<PodGroup, Group>,
    /// The groups that a service selects.
    pub of_service: Index<ServiceKey, PodGroup, Group>,
    /// The groups that are attached to a waypoint.
    pub of_waypoint: Index<ObjectKey, PodGroup, Group>,
    /// The pods of a group.
    pub pods: Index<PodGroup, ObjectKey, Pod>,
    /// The workload entries that a service selects.
    pub entries_of_service: Index<ServiceKey, ObjectKey, Group>,
    /// The workload entries that are attached to a waypoint.
    pub entries_of_waypoint: Index<ObjectKey, ObjectKey, Group>,
}

/// The labels of a workload entry: those of the object count before those of
/// its specification.
pub fn entry_labels(entry: &WorkloadEntry) -> Labels {
    match &entry.spec.labels {
        Some(labels) => labels.overlaid(&entry.meta.labels),
        None => entry.meta.labels.clone(),
    }
}

/// Declares the collections.
pub(super) fn selection(
    graph: &mut Graph,
    scope: &Scope,
    by_selector: Index<SelectorKey, ServiceKey, Arc<Service>>,
    waypoints: Collection<ObjectKey, Waypoint>,
) -> Selection {
    let inputs = scope.inputs;
    let pods = graph.index(inputs.pods, |_: &ObjectKey, pod: &Pod, keys| keys.push(PodGroup::of(pod)));
    let scope_of = scope.clone();
    let of_pod = |_: &_, pod: &Pod| Some(PodGroup::of(pod));
    let groups = graph.distinct("pod_groups", inputs.pods, of_pod, move |cx, key: &PodGroup| {
        scope_of.discovers(cx, &key.namespace).then(|| group(cx, &scope_of, by_selector, waypoints, key))
    });
    let scope_of = scope.clone();
    let entries = graph.derive("workload_entry_groups", inputs.workload_entries, move |cx, key, entry| {
        let labels = entry_labels(entry);
        let key_of = PodGroup { namespace: key.namespace.clone(), labels };
        let ours = scope_of.configures(cx, &entry.meta);
        if ours {
            not_known(cx, "WorkloadEntry", &entry.meta, "", &entry.unknown);
        }
        ours.then(|| (key.clone(), group(cx, &scope_of, by_selector, waypoints, &key_of)))
    });
    Selection {
        groups,
        of_service: graph.index(groups, |_: &PodGroup, group: &Group, keys| group.keys(keys)),
        of_waypoint: graph.index(groups, |_: &PodGroup, group: &Group, keys| group.waypoint_key(keys)),
        pods,
        entries_of_service: graph.index(entries, |_: &ObjectKey, group: &Group, keys| group.keys(keys)),
        entries_of_waypoint: graph.index(entries, |_: &ObjectKey, group: &Group, keys| group.waypoint_key(keys)),
    }
}

fn group(
    cx: &Ctx<'_>,
    scope: &Scope,
    by_selector: Index<SelectorKey, ServiceKey, Arc<Service>>,
    waypoints: Collection<ObjectKey, Waypoint>,
    key: &PodGroup,
) -> Group {
    let PodGroup { namespace, labels } = key;
    let waypoint = match instance_of(cx, waypoints, namespace, labels) {
        Some(_) => None,
        None => attached(cx, scope, waypoints, namespace, labels, &TrafficType::Workload).transpose(),
    };
    Group {
        services: selecting(cx, by_selector, key),
        waypoint: waypoint.map(|waypoint| Box::new(waypoint.map(|(key, _)| key))),
    }
}

fn selecting(
    cx: &Ctx<'_>,
    by_selector: Index<SelectorKey, ServiceKey, Arc<Service>>,
    group: &PodGroup,
) -> Vec<Arc<Service>> {
    let mut services = Vec::new();
    for (label, value) in group.labels.pairs() {
        let pair = (group.namespace.clone(), label.clone(), value.clone());
        let found = cx.fetch(by_selector, &pair);
        services.extend(found.filter(|(_, one)| one.selector.select(&group.labels)).map(|(_, one)| one.clone()));
    }
    services
}
