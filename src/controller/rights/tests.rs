//! The chart grants what the tables need: `UPDATE_GOLDEN=1 cargo test` writes
//! it down.

use std::path::Path;

use fairway_proto::describe;
use serde_json::{Value, json};

use super::{cluster_role, role};

#[track_caller]
fn check(file: &str, kind: &str, rules: Vec<Value>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/fairway/files").join(file);
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": "fairway" }, "rules": rules,
    });
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, describe::yaml(&role)).expect("writable");
    }
    let written: Value = crate::api::yaml(&std::fs::read_to_string(&path).expect("readable")).expect("YAML");
    assert_eq!(written, role, "{}", path.display());
}

#[test]
fn the_chart_grants_what_the_tables_need() {
    check("cluster-role.yaml", "ClusterRole", cluster_role());
    check("role.yaml", "Role", role());
}

#[test]
fn nothing_is_granted_wholesale() {
    for rule in cluster_role().into_iter().chain(role()) {
        assert!(!rule.to_string().contains('*'), "{rule}");
        let verbs = rule["verbs"].as_array().expect("verbs");
        assert!(verbs.iter().all(|verb| verb != "escalate" && verb != "bind"), "{rule}");
        // Nothing is deleted but what an overlay had us make, and what replicas
        // say of themselves.
        let ours = ["horizontalpodautoscalers", "poddisruptionbudgets", "leases"].map(Value::from);
        let resources = rule["resources"].as_array().expect("resources");
        let all_ours = resources.iter().all(|resource| ours.contains(resource));
        assert!(all_ours || verbs.iter().all(|verb| verb != "delete"), "{rule}");
    }
}
