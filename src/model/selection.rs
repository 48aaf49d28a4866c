//! Which pods are behind which services, by what their pods have in common: a
//! namespace and labels. A selector is looked at once for each such group, not
//! once for each pod.

use std::sync::Arc;

use crate::api::core::Pod;
use crate::api::{Labels, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index};

use super::Scope;
use super::service::{SelectorKey, Service, ServiceKey};

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

/// What services select, and whom.
#[derive(Clone, Copy)]
pub struct Selection {
    /// For each group of pods, in namespaces that are discovered, the services
    /// that select it.
    pub services: Collection<PodGroup, Vec<Arc<Service>>>,
    /// The groups that a service selects.
    pub groups: Index<ServiceKey, PodGroup, Vec<Arc<Service>>>,
    /// The pods of a group.
    pub pods: Index<PodGroup, ObjectKey, Pod>,
}

/// Declares the collections.
pub(super) fn selection(
    graph: &mut Graph,
    scope: &Scope,
    by_selector: Index<SelectorKey, ServiceKey, Arc<Service>>,
) -> Selection {
    let inputs = scope.inputs;
    let pods = graph.index(inputs.pods, |_: &ObjectKey, pod: &Pod, keys| keys.push(PodGroup::of(pod)));
    let scope = scope.clone();
    let of_pod = |_: &_, pod: &Pod| Some(PodGroup::of(pod));
    let services = graph.distinct("pod_groups", inputs.pods, of_pod, move |cx, group: &PodGroup| {
        scope.discovers(cx, &group.namespace).then(|| selecting(cx, by_selector, group))
    });
    let groups = graph.index(services, |_: &PodGroup, services: &Vec<Arc<Service>>, keys| {
        keys.extend(services.iter().map(|service| service.key.clone()));
    });
    Selection { services, groups, pods }
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
