//! Policies: which exist for ztunnel, and which of them a workload names.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Objects, ROOT_NAMESPACE, STRICT, age, list, map, name, namespace, selects, text};

type Labels = BTreeMap<String, String>;

/// Whether ztunnel is sent an AuthorizationPolicy.
fn is_sent(policy: &Value) -> bool {
    let targeted = policy.pointer("/spec/targetRef").is_some() || !list(policy, "/spec/targetRefs").is_empty();
    let dry_run = map(policy, "/metadata/annotations").get("istio.io/dry-run").is_some_and(|value| value == "true");
    !targeted && !dry_run && !matches!(text(policy, "/spec/action"), "AUDIT" | "CUSTOM")
}

fn selector(object: &Value) -> Labels {
    map(object, "/spec/selector/matchLabels")
}

/// Scope and action of every policy, by name.
pub(super) fn policies(objects: &Objects) -> BTreeMap<String, (String, String)> {
    let mut policies = BTreeMap::new();
    for policy in objects.authorization_policies.iter().filter(|policy| is_sent(policy)) {
        let scope = match (selector(policy).is_empty(), namespace(policy) == ROOT_NAMESPACE) {
            (false, _) => "WORKLOAD_SELECTOR",
            (true, true) => "GLOBAL",
            (true, false) => "NAMESPACE",
        };
        let action = if text(policy, "/spec/action") == "DENY" { "DENY" } else { "ALLOW" };
        policies.insert(format!("{}/{}", namespace(policy), name(policy)), (scope.into(), action.into()));
    }
    let converted = ("WORKLOAD_SELECTOR".to_string(), "DENY".to_string());
    if !objects.peer_authentications.is_empty() {
        policies.insert(STRICT.into(), converted.clone());
    }
    for policy in &objects.peer_authentications {
        if let Effect::Own(name) = effect(objects, policy) {
            policies.insert(name, converted.clone());
        }
    }
    policies
}

/// The policies a workload with these labels names.
pub(super) fn of_workload(objects: &Objects, workload_namespace: &str, labels: &Labels) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for policy in objects.authorization_policies.iter().filter(|policy| is_sent(policy)) {
        let near = namespace(policy) == workload_namespace || namespace(policy) == ROOT_NAMESPACE;
        if near && !selector(policy).is_empty() && selects(&selector(policy), labels) {
            names.insert(format!("{}/{}", namespace(policy), name(policy)));
        }
    }
    let mut own: Vec<_> = objects
        .peer_authentications
        .iter()
        .filter(|_| workload_namespace != ROOT_NAMESPACE)
        .filter(|policy| namespace(policy) == workload_namespace)
        .filter(|policy| !selector(policy).is_empty() && selects(&selector(policy), labels))
        .collect();
    own.sort_by_key(|policy| age(policy));
    let effect = match own.first() {
        Some(policy) => effect(objects, policy),
        None if is_strict(objects, workload_namespace) => Effect::Strict,
        None => Effect::Open,
    };
    match effect {
        Effect::Open => {}
        Effect::Strict => drop(names.insert(STRICT.into())),
        Effect::Own(name) => drop(names.insert(name)),
    }
    names
}

/// Whether workloads of a namespace without a policy of their own are strict.
fn is_strict(objects: &Objects, workload_namespace: &str) -> bool {
    let mode_of = |wanted: &str| {
        let mut wide: Vec<_> = objects
            .peer_authentications
            .iter()
            .filter(|policy| namespace(policy) == wanted && selector(policy).is_empty())
            .collect();
        wide.sort_by_key(|policy| age(policy));
        wide.first().map(|policy| text(policy, "/spec/mtls/mode")).filter(|mode| !matches!(*mode, "" | "UNSET"))
    };
    mode_of(workload_namespace).or_else(|| mode_of(ROOT_NAMESPACE)) == Some("STRICT")
}

/// What a PeerAuthentication with a selector comes to.
enum Effect {
    Open,
    Strict,
    /// A policy with exceptions for ports.
    Own(String),
}

fn effect(objects: &Objects, policy: &Value) -> Effect {
    if selector(policy).is_empty() || namespace(policy) == ROOT_NAMESPACE {
        return Effect::Open;
    }
    let strict = match text(policy, "/spec/mtls/mode") {
        "STRICT" => true,
        "" | "UNSET" => is_strict(objects, namespace(policy)),
        _ => false,
    };
    let ports = policy.pointer("/spec/portLevelMtls").and_then(Value::as_object);
    let modes: Vec<_> = ports.into_iter().flatten().map(|(_, tls)| text(tls, "/mode")).collect();
    let own = || Effect::Own(format!("{}/converted_peer_authentication_{}", namespace(policy), name(policy)));
    match strict {
        true if modes.iter().any(|mode| matches!(*mode, "PERMISSIVE" | "DISABLE")) => own(),
        true => Effect::Strict,
        false if modes.contains(&"STRICT") => own(),
        false => Effect::Open,
    }
}
