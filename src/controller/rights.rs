//! What Fairway may do in a cluster: what its tables of watched and of written
//! kinds need, no more and no less. The chart's roles are this, written down; a
//! test compares them.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::api::Kind;
use crate::status::ROWS;

/// Rights to a kind: group, plural and verbs.
type Right = (&'static str, &'static str, &'static [&'static str]);

const READ: &[&str] = &["list", "watch"];
/// What a controller needs for objects of its own that it looks up.
const OWN: &[&str] = &["create", "get", "list", "patch", "watch"];

/// The same where it also takes back what it made.
const OPTIONAL: &[&str] = &["create", "delete", "get", "list", "patch", "watch"];

/// What is written anywhere in the cluster, and what is read for that.
const WRITTEN: &[Right] = &[
    // Root certificates, in every namespace, and parameters of Gateways.
    ("", "configmaps", OWN),
    // What Gateways are deployed as.
    ("", "serviceaccounts", OWN),
    ("", "services", OWN),
    ("apps", "deployments", OWN),
    ("autoscaling", "horizontalpodautoscalers", OPTIONAL),
    ("policy", "poddisruptionbudgets", OPTIONAL),
    ("gateway.networking.k8s.io", "gatewayclasses", &["create"]),
    ("gateway.networking.k8s.io", "gatewayclasses/status", &["patch"]),
    ("gateway.networking.k8s.io", "gateways", &["patch"]),
    ("gateway.networking.k8s.io", "gateways/status", &["patch"]),
    ("gateway.networking.k8s.io", "listenersets/status", &["patch"]),
    // Addresses of ServiceEntries, beside what their statuses say.
    ("networking.istio.io", "serviceentries", &["get"]),
    ("networking.istio.io", "serviceentries/status", &["patch"]),
    // What proxies reject.
    ("", "events", &["create", "get", "patch"]),
    // Who callers are, and what they may do.
    ("authentication.k8s.io", "tokenreviews", &["create"]),
    ("authorization.k8s.io", "subjectaccessreviews", &["create"]),
    // What the Secrets hold that something refers to.
    ("", "secrets", &["get"]),
];

/// What is written in the namespace of the control plane.
const WRITTEN_AT_HOME: &[Right] = &[
    // The root's key, and those of others to begin with.
    ("", "secrets", &["create", "get", "update"]),
    // Who leads, of all revisions.
    ("", "configmaps", &["create", "get", "update"]),
    // Who leads, and how many streams each replica has.
    ("coordination.k8s.io", "leases", &["create", "delete", "get", "list", "update"]),
];

/// The rules of the ClusterRole.
pub fn cluster_role() -> Vec<Value> {
    let watched = Kind::ALL.iter().map(|kind| kind.info());
    let watched = watched.map(|info| (info.group.to_owned(), info.plural.to_owned(), READ));
    let statuses = ROWS.iter().map(|row| row.kind.info()).flat_map(|info| {
        let status = format!("{}/status", info.plural);
        let get: &[&str] = &["get"];
        [(info.group.to_owned(), info.plural.to_owned(), get), (info.group.to_owned(), status, &["patch"])]
    });
    rules(watched.chain(statuses).chain(owned(WRITTEN)))
}

/// The rules of the Role in the namespace of the control plane.
pub fn role() -> Vec<Value> {
    rules(owned(WRITTEN_AT_HOME))
}

fn owned(rights: &'static [Right]) -> impl Iterator<Item = (String, String, &'static [&'static str])> {
    rights.iter().map(|(group, plural, verbs)| ((*group).to_owned(), (*plural).to_owned(), *verbs))
}

/// One rule for all kinds of a group with the same verbs, in order.
fn rules(rights: impl Iterator<Item = (String, String, &'static [&'static str])>) -> Vec<Value> {
    let mut verbs: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    for (group, plural, more) in rights {
        verbs.entry((group, plural)).or_default().extend(more);
    }
    let mut rules: BTreeMap<(String, BTreeSet<&str>), Vec<String>> = BTreeMap::new();
    for ((group, plural), verbs) in verbs {
        rules.entry((group, verbs)).or_default().push(plural);
    }
    let rule = |((group, verbs), resources): (_, Vec<String>)| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
    rules.into_iter().map(rule).collect()
}
