//! Which policies a waypoint enforces, and for what.
//!
//! A policy is for a waypoint only if it names a target: a service that the
//! waypoint serves, the waypoint itself, or, from the root namespace, the
//! class of waypoints. One that selects workloads by label is ztunnel's. A
//! target is always in the policy's own namespace.
//! <https://istio.io/latest/docs/ambient/usage/l7-features/#targeting-policies>

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::api::istio::{AuthorizationPolicy, PolicyTargetRef};
use crate::api::request_authentication::RequestAuthentication;
use crate::api::telemetry::Telemetry;
use crate::api::{Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index, Value};

use super::Scope;
use super::service::{Registry, Service};

/// What a policy can be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetKind {
    /// A Kubernetes Service.
    Service,
    /// A ServiceEntry.
    ServiceEntry,
    /// A Gateway, here a waypoint.
    Gateway,
    /// All Gateways of a class.
    GatewayClass,
}

/// What a policy is attached to, by the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The kind.
    pub kind: TargetKind,
    /// The policy's namespace, where the target has to be. For a class, which
    /// is in none, it has to be the root namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

/// A policy that can be attached to targets.
pub trait Attachable: Value {
    /// Its name and namespace.
    fn meta(&self) -> &Meta;
    /// `targetRef`, the older form.
    fn target_ref(&self) -> Option<&PolicyTargetRef>;
    /// `targetRefs`, which counts if it is there.
    fn target_refs(&self) -> &[PolicyTargetRef];
}

macro_rules! attachable {
    ($($kind:ty),+) => { $(
        impl Attachable for $kind {
            fn meta(&self) -> &Meta {
                &self.meta
            }

            fn target_ref(&self) -> Option<&PolicyTargetRef> {
                self.spec.target_ref.as_ref()
            }

            fn target_refs(&self) -> &[PolicyTargetRef] {
                &self.spec.target_refs
            }
        }
    )+ };
}

attachable!(AuthorizationPolicy, RequestAuthentication, Telemetry);

/// What a policy is attached to. A reference into another namespace, or to
/// another kind, is to nothing.
pub fn targets<P: Attachable>(policy: &P) -> impl Iterator<Item = Target> {
    let several = policy.target_refs();
    let single = policy.target_ref().filter(|_| several.is_empty());
    let own = &policy.meta().namespace;
    several.iter().chain(single).filter_map(move |reference| {
        let kind = match (&*reference.group, &*reference.kind) {
            ("" | "core", "Service") => TargetKind::Service,
            ("networking.istio.io", "ServiceEntry") => TargetKind::ServiceEntry,
            ("gateway.networking.k8s.io", "Gateway") => TargetKind::Gateway,
            ("gateway.networking.k8s.io", "GatewayClass") => TargetKind::GatewayClass,
            _ => return None,
        };
        let here = reference.namespace.is_empty() || reference.namespace == *own;
        here.then(|| Target { kind, namespace: own.clone(), name: reference.name.clone() })
    })
}

/// The class that stands for all classes of waypoints: a policy for it is for
/// waypoints of classes that users made, too, as in Istio.
const WAYPOINT_CLASS: &str = "istio-waypoint";

/// The targets whose policies a waypoint enforces: itself and its class, and
/// for traffic to a service, the service.
pub fn enforced(
    waypoint: &ObjectKey,
    class: &Arc<str>,
    root_namespace: &Arc<str>,
    service: Option<&Service>,
) -> Vec<Target> {
    let service = service.map(|service| Target {
        kind: match service.registry {
            Registry::Kubernetes => TargetKind::Service,
            Registry::ServiceEntry => TargetKind::ServiceEntry,
        },
        namespace: service.meta.namespace.clone(),
        name: service.meta.name.clone(),
    });
    let gateway =
        Target { kind: TargetKind::Gateway, namespace: waypoint.namespace.clone(), name: waypoint.name.clone() };
    let class_target = |name: Arc<str>| {
        let (kind, namespace) = (TargetKind::GatewayClass, root_namespace.clone());
        Target { kind, namespace, name }
    };
    let own = (&**class != WAYPOINT_CLASS).then(|| class_target(class.clone()));
    let classes = std::iter::once(class_target(WAYPOINT_CLASS.into())).chain(own);
    classes.chain(std::iter::once(gateway)).chain(service).collect()
}

/// Policies of one kind, by what they are attached to.
pub struct AttachedPolicies<P>(Index<Target, ObjectKey, P>);

impl<P> Clone for AttachedPolicies<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for AttachedPolicies<P> {}

impl<P: Attachable> AttachedPolicies<P> {
    /// Declares the index.
    pub fn new(graph: &mut Graph, policies: Collection<ObjectKey, P>) -> Self {
        Self(graph.index(policies, |_, policy, keys| {
            keys.extend(targets(policy));
            keys.sort_unstable();
            keys.dedup();
        }))
    }

    /// The policies that are attached to a target, oldest first.
    pub fn of_target<'g>(&self, cx: &Ctx<'g>, scope: &Scope, target: &Target) -> Vec<&'g P> {
        let mut policies: Vec<&P> = cx.fetch(self.0, target).map(|(_, policy)| policy).collect();
        policies.sort_by_key(|policy| (policy.meta().created, &policy.meta().namespace, &policy.meta().name));
        policies.retain(|policy| scope.configures(cx, policy.meta()));
        policies
    }

    /// The policies that a waypoint enforces for traffic to a service, or for
    /// all it is sent if there is none, oldest first.
    pub fn enforced<'g>(
        &self,
        cx: &Ctx<'g>,
        scope: &Scope,
        waypoint: &ObjectKey,
        class: &Arc<str>,
        service: Option<&Service>,
    ) -> Vec<&'g P> {
        let targets = enforced(waypoint, class, &scope.mesh(cx).root_namespace, service);
        let mut policies: Vec<&P> =
            targets.iter().flat_map(|target| cx.fetch(self.0, target)).map(|(_, policy)| policy).collect();
        let order = |policy: &&'g P| {
            let meta: &'g Meta = policy.meta();
            (meta.created, &meta.namespace, &meta.name)
        };
        policies.sort_by_key(order);
        // One policy may name several of the targets.
        policies.dedup_by_key(|policy| policy.meta().key());
        policies.retain(|policy| scope.configures(cx, policy.meta()));
        policies
    }
}
