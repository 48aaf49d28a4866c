//! Which AuthorizationPolicies ztunnel enforces, and on which workloads.
//! What their rules say is `workload::authorization`'s business, so that a
//! change of rules does not touch a single workload.
//! <https://istio.io/latest/docs/reference/config/security/authorization-policy/>

use std::sync::Arc;

use crate::api::istio::AuthorizationPolicy;
use crate::api::{Labels, ObjectKey};
use crate::graph::{Ctx, Graph, Index};

use super::{Scope, problem};

/// The workloads a policy is for.
#[derive(Clone, Debug, PartialEq)]
pub enum Reach {
    /// All of the mesh.
    Mesh,
    /// All of its namespace.
    Namespace,
    /// Those with these labels; in the root namespace, those of any namespace.
    Workloads(Labels),
}

/// What a policy does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets it through; what no such policy matches is refused.
    Allow,
    /// Refuses it.
    Deny,
    /// An action that is not known, and must not let anything through.
    Unknown,
}

/// A policy as ztunnel is to enforce it.
#[derive(Clone, Debug, PartialEq)]
pub struct Enforced {
    /// The workloads it is for.
    pub reach: Reach,
    /// What it does.
    pub action: Action,
    /// Whether it is only to be logged.
    pub dry_run: bool,
}

/// How ztunnel enforces a policy, or `None` if it does not. Diagnostics say
/// why; only the transform that owns the policy asks for them.
pub fn enforced(cx: &Ctx<'_>, scope: &Scope, policy: &AuthorizationPolicy, diagnose: bool) -> Option<Enforced> {
    let AuthorizationPolicy { meta, spec } = policy;
    if !scope.configures(cx, meta) {
        return None;
    }
    // What is attached to a target is for the waypoint or gateway there.
    if spec.target_ref.is_some() || !spec.target_refs.is_empty() {
        return None;
    }
    let say = |field: &str, message: String| {
        if diagnose {
            cx.diagnose(problem("AuthorizationPolicy", meta, field, "UnsupportedValue", message));
        }
    };
    let action = match &*spec.action {
        "" | "ALLOW" => Action::Allow,
        "DENY" => Action::Deny,
        action @ ("AUDIT" | "CUSTOM") => {
            say(
                "spec.action",
                format!("ztunnel does not support {action}; the policy has no effect without a waypoint"),
            );
            return None;
        }
        other => {
            say("spec.action", format!("{other:?} is not an action; everything the policy is for is refused"));
            Action::Unknown
        }
    };
    let dry_run = meta
        .annotation("istio.io/dry-run")
        .is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"));
    if dry_run && !scope.settings.dry_run_policies {
        say("metadata.annotations[istio.io/dry-run]", "ztunnel is not sent dry-run policies; it has no effect".into());
        return None;
    }
    let selector = spec.selector.as_ref().map(|selector| &selector.match_labels);
    let reach = match selector.filter(|labels| !labels.is_empty()) {
        Some(labels) => Reach::Workloads(labels.clone()),
        None if meta.namespace == scope.mesh(cx).root_namespace => Reach::Mesh,
        None => Reach::Namespace,
    };
    Some(Enforced { reach, action, dry_run })
}

/// The policies that workloads are selected for, by the namespace of the policy.
#[derive(Clone, Copy)]
pub struct SelectorPolicies {
    by_namespace: Index<Arc<str>, ObjectKey, Labels>,
}

/// Declares the collection.
pub fn selector_policies(graph: &mut Graph, scope: &Scope) -> SelectorPolicies {
    let scope_of = scope.clone();
    let policies =
        graph.derive("selector_policies", scope.inputs.authorization_policies, move |cx, key, policy| match enforced(
            cx, &scope_of, policy, false,
        )?
        .reach
        {
            Reach::Workloads(labels) => Some((key.clone(), labels)),
            Reach::Mesh | Reach::Namespace => None,
        });
    SelectorPolicies {
        by_namespace: graph.index(policies, |key: &ObjectKey, _, keys| keys.push(key.namespace.clone())),
    }
}

impl SelectorPolicies {
    /// The policies that name a workload by its labels, sorted: those of its
    /// own namespace and those of the root namespace.
    pub fn of_workload<'g>(
        &self,
        cx: &Ctx<'g>,
        scope: &Scope,
        namespace: &Arc<str>,
        labels: &Labels,
    ) -> Vec<&'g ObjectKey> {
        let root = &scope.mesh(cx).root_namespace;
        let mut keys: Vec<_> = Vec::new();
        for namespace in [root, namespace] {
            let matching = cx.fetch(self.by_namespace, namespace).filter(|(_, selector)| selector.select(labels));
            keys.extend(matching.map(|(key, _)| key));
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}
