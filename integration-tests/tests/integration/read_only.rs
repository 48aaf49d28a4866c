//! A control plane beside another, to be compared with it.

use std::collections::BTreeMap;
use std::time::Duration;

use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::ztunnel;

use crate::outage::spare;

/// With `--read-only` nothing is written, whatever is missing.
pub async fn nothing_is_written() {
    let cluster = spare().await;
    let state = async || {
        // What other tests have deleted goes away while we look.
        let namespaces = cluster.api.list("v1", "Namespace", "").await;
        let going = |name: &serde_json::Value| {
            let meta = namespaces.iter().map(|one| &one["metadata"]).find(|meta| meta["name"] == *name);
            meta.is_none_or(|meta| !meta["deletionTimestamp"].is_null())
        };
        let mut state = BTreeMap::new();
        let kinds = [
            ("v1", "Secret"),
            ("v1", "ConfigMap"),
            ("coordination.k8s.io/v1", "Lease"),
            ("v1", "Namespace"),
            ("v1", "Service"),
            ("v1", "ServiceAccount"),
        ];
        for (version, kind) in kinds {
            for object in cluster.api.list(version, kind, "").await {
                let meta = &object["metadata"];
                let namespace = if kind == "Namespace" { &meta["name"] } else { &meta["namespace"] };
                if going(namespace) {
                    continue;
                }
                // The API server's own heartbeat.
                if meta["name"].as_str().unwrap().starts_with("apiserver-") {
                    continue;
                }
                state.insert(format!("{kind} {}/{}", meta["namespace"], meta["name"]), meta["resourceVersion"].clone());
            }
        }
        state
    };
    let before = state().await;
    let fairway = Fairway::start(&Options::new(&cluster.kubeconfig()).flag("--read-only")).await;
    let ztunnel = ztunnel::Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
    // Time to do what it should not do.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(state().await, before);
    ztunnel.assert_correct();
}
