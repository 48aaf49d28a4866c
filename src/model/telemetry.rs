//! Which Telemetry applies to what a waypoint does.
//!
//! Each adds to those before it: that of the root namespace, that of the
//! waypoint's namespace, that of the service's namespace, then those that name
//! the class, the waypoint or the service. Only one without a target counts in
//! a namespace, the oldest. Those that select workloads by label are not for
//! waypoints.
//! <https://istio.io/latest/docs/reference/config/telemetry/>

use std::sync::Arc;

use crate::api::ObjectKey;
use crate::api::telemetry::Telemetry;
use crate::graph::{Collection, Ctx, Graph, Index};

use super::Scope;
use super::service::Service;
use super::waypoint_policy::AttachedPolicies;

/// Telemetry by namespace and by what it is attached to.
#[derive(Clone, Copy)]
pub struct Telemetries {
    /// Those for all of a namespace.
    by_namespace: Index<Arc<str>, ObjectKey, Telemetry>,
    attached: AttachedPolicies<Telemetry>,
}

impl Telemetries {
    /// Declares the indexes.
    pub fn new(graph: &mut Graph, telemetries: Collection<ObjectKey, Telemetry>) -> Self {
        let by_namespace = graph.index(telemetries, |key: &ObjectKey, telemetry: &Telemetry, keys| {
            if is_for_namespace(telemetry) {
                keys.push(key.namespace.clone());
            }
        });
        Self { by_namespace, attached: AttachedPolicies::new(graph, telemetries) }
    }

    /// Those that are attached to something.
    pub fn attached(&self) -> AttachedPolicies<Telemetry> {
        self.attached
    }

    /// What applies at a waypoint to traffic for a service, or to everything
    /// else, the most general first.
    pub fn applicable<'g>(
        &self,
        cx: &Ctx<'g>,
        scope: &Scope,
        waypoint: &ObjectKey,
        class: &Arc<str>,
        service: Option<&Service>,
    ) -> Vec<&'g Telemetry> {
        let root = &scope.mesh(cx).root_namespace;
        let own = service.map(|service| &service.meta.namespace);
        let mut namespaces = vec![root];
        for namespace in [Some(&waypoint.namespace), own].into_iter().flatten() {
            if !namespaces.contains(&namespace) {
                namespaces.push(namespace);
            }
        }
        let wide = namespaces.into_iter().filter_map(|namespace| {
            let all = cx.fetch(self.by_namespace, namespace).map(|(_, telemetry)| telemetry);
            all.filter(|one| scope.configures(cx, &one.meta)).min_by_key(|one| (one.meta.created, &one.meta.name))
        });
        let mut all: Vec<_> = wide.collect();
        // A service's own comes last, the class's first.
        for target in super::waypoint_policy::enforced(waypoint, class, root, service) {
            for one in self.attached.of_target(cx, scope, &target) {
                if !all.iter().any(|other| other.meta.key() == one.meta.key()) {
                    all.push(one);
                }
            }
        }
        all
    }
}

fn is_for_namespace(telemetry: &Telemetry) -> bool {
    let spec = &telemetry.spec;
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    !selects && spec.target_ref.is_none() && spec.target_refs.is_empty()
}
