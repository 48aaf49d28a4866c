//! What happens to an application in its life.

use fairway_integration_tests::eventually;
use fairway_integration_tests::expected::converged_in;
use fairway_integration_tests::kubelet::Kubelet;
use serde_json::json;

use crate::mesh::{authorization_policy, shared};

/// A Deployment is created, rolled and scaled; real controllers make its pods.
pub async fn roll() {
    let mesh = shared().await;
    let ns = mesh.namespace("roll").await;
    let ztunnel = mesh.ztunnel().await;
    let _kubelet = Kubelet::start(ns.api.clone(), &ns.name, "node-a");
    ns.service("web", "web").await;
    let deployment = |image: &str, replicas: usize| {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": { "app": "web" } },
                "template": {
                    "metadata": { "labels": { "app": "web" },
                                  "annotations": { "ambient.istio.io/redirection": "enabled" } },
                    "spec": { "containers": [{ "name": "web", "image": image }] },
                },
            },
        })
    };
    let service = ns.service_name("web");
    let endpoints = async |replicas: usize| {
        ztunnel
            .until(&format!("{replicas} healthy endpoints"), |table| {
                let of_ns = table.workloads.values().filter(|one| one.namespace == ns.name);
                let all: Vec<_> = of_ns.map(|one| (one.name.clone(), one.status())).collect();
                let healthy = all.iter().filter(|(_, status)| *status as i32 == 0).count();
                if healthy == replicas && all.len() == replicas { Ok(()) } else { Err(format!("{all:?}")) }
            })
            .await;
        ztunnel.read(|table| {
            for one in table.workloads.values().filter(|one| one.namespace == ns.name) {
                assert_eq!(one.workload_name, "web", "the Deployment's name, not the ReplicaSet's");
                assert_eq!(one.services.keys().collect::<Vec<_>>(), [&service]);
            }
            table.workloads.keys().filter(|uid| uid.contains(&ns.name)).cloned().collect::<Vec<_>>()
        })
    };
    ns.apply(deployment("web:1", 3)).await;
    let first = endpoints(3).await;

    let before = ztunnel.read(|table| table.now());
    ns.apply(deployment("web:2", 3)).await;
    ztunnel
        .until("the first pods are gone", |table| {
            let left: Vec<_> = first.iter().filter(|uid| table.workloads.contains_key(*uid)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    let second = endpoints(3).await;
    assert!(second.iter().all(|uid| !first.contains(uid)));
    ztunnel.read(|table| {
        let removed = table.removed_since(before);
        assert!(second.iter().all(|uid| !removed.contains(uid)), "no pod that lives was withdrawn");
        assert!(!removed.contains(&service), "the service was not withdrawn");
        let touched = table.touched_since(before);
        assert!(!touched.contains(&service), "a service does not change with its pods");
    });

    ns.apply(deployment("web:2", 1)).await;
    endpoints(1).await;
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
}

/// A namespace is deleted with everything in it.
pub async fn namespace_deleted() {
    let mesh = shared().await;
    let ns = mesh.namespace("gone").await;
    let ztunnel = mesh.ztunnel().await;
    let _kubelet = Kubelet::start(ns.api.clone(), &ns.name, "node-a");
    for name in ["a", "b", "c"] {
        ns.pod(name, json!({ "app": name })).await;
        ns.service(name, name).await;
        ns.apply(authorization_policy(name, name, "ALLOW", "cluster.local/ns/x/sa/y")).await;
    }
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
    let before = ztunnel.read(|table| table.now());
    ns.api.delete(&ns.object()).await;
    let of_ns = |name: &String| name.contains(&ns.name);
    ztunnel
        .until("nothing is left of the namespace", |table| {
            let names = table.workloads.keys().chain(table.services.keys()).chain(table.policies.keys());
            let left: Vec<_> = names.filter(|name| of_ns(name)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    eventually("the namespace is gone", || async {
        match ns.api.get("v1", "Namespace", "", &ns.name).await {
            Err(refused) if refused.code == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let removed = ns.own(ztunnel.read(|table| table.removed_since(before)));
    assert_eq!(removed.len(), 9, "{removed:?}");
}
