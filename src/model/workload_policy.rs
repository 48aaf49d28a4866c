//! Which policies apply to a proxy that is a workload itself, as a gateway is:
//! those that select it by its labels, those for all of its namespace, the same
//! in the root namespace for all of the mesh, and those that are attached to
//! the Gateway that it serves or to its class.
//! <https://istio.io/latest/docs/reference/config/type/workload-selector/>

use std::sync::Arc;

use crate::api::istio::AuthorizationPolicy;
use crate::api::request_authentication::RequestAuthentication;
use crate::api::telemetry::Telemetry;
use crate::api::{Labels, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index};

use super::Scope;
use super::waypoint_policy::{Attachable, AttachedPolicies, Target, TargetKind, targets};

/// A policy that can select workloads by their labels.
pub trait Selecting: Attachable {
    /// The labels; none is all workloads.
    fn selector(&self) -> Option<&Labels>;
}

macro_rules! selecting {
    ($($kind:ty),+) => { $(
        impl Selecting for $kind {
            fn selector(&self) -> Option<&Labels> {
                self.spec.selector.as_ref().map(|selector| &selector.match_labels)
            }
        }
    )+ };
}
selecting!(AuthorizationPolicy, RequestAuthentication, Telemetry);

/// Policies of one kind for workloads.
pub struct WorkloadPolicies<P> {
    /// Those without a target, by namespace.
    by_namespace: Index<Arc<str>, ObjectKey, P>,
    attached: AttachedPolicies<P>,
}

impl<P> Clone for WorkloadPolicies<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for WorkloadPolicies<P> {}

/// A proxy that serves a Gateway.
#[derive(Clone, Copy, Debug)]
pub struct GatewayProxy<'a> {
    /// Its namespace.
    pub namespace: &'a Arc<str>,
    /// The labels of its pod.
    pub labels: &'a Labels,
    /// The Gateway of the Gateway API that it serves, if it serves one.
    pub gateway: Option<&'a ObjectKey>,
    /// The class of that.
    pub class: &'a Arc<str>,
}

impl<P: Selecting> WorkloadPolicies<P> {
    /// Declares the index.
    pub fn new(graph: &mut Graph, policies: Collection<ObjectKey, P>, attached: AttachedPolicies<P>) -> Self {
        let by_namespace = graph.index(policies, |key: &ObjectKey, policy: &P, keys| {
            if targets(policy).next().is_none() && policy.target_ref().is_none() && policy.target_refs().is_empty() {
                keys.push(key.namespace.clone());
            }
        });
        Self { by_namespace, attached }
    }

    /// Those for a proxy, the more general first: of the mesh, of the namespace,
    /// those that select it, those that are attached. Of a kind the oldest comes
    /// first.
    pub fn of_gateway<'g>(&self, cx: &Ctx<'g>, scope: &Scope, proxy: GatewayProxy<'_>) -> Vec<&'g P> {
        let root = &scope.mesh(cx).root_namespace;
        let mut namespaces = vec![root, proxy.namespace];
        namespaces.dedup();
        let mut found: Vec<(usize, &P)> = Vec::new();
        for (rank, namespace) in namespaces.into_iter().enumerate() {
            let all = cx.fetch(self.by_namespace, namespace).map(|(_, policy)| policy);
            for policy in all.filter(|policy| scope.configures(cx, policy.meta())) {
                match policy.selector().filter(|labels| !labels.is_empty()) {
                    None => found.push((rank, policy)),
                    Some(labels) if labels.select(proxy.labels) => found.push((2, policy)),
                    Some(_) => {}
                }
            }
        }
        let class = (TargetKind::GatewayClass, root, proxy.class);
        let gateway = proxy.gateway.map(|key| (TargetKind::Gateway, &key.namespace, &key.name));
        for (kind, namespace, name) in [class].into_iter().chain(gateway) {
            let target = Target { kind, namespace: namespace.clone(), name: name.clone() };
            found.extend(self.attached.of_target(cx, scope, &target).into_iter().map(|policy| (3, policy)));
        }
        found.sort_by_key(|(rank, policy)| (*rank, policy.meta().created, policy.meta().key()));
        // One may be attached to the class and to the Gateway.
        found.dedup_by_key(|(_, policy)| policy.meta().key());
        found.into_iter().map(|(_, policy)| policy).collect()
    }
}
