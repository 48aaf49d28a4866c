//! A right that is taken away.

use fairway_integration_tests::eventually;
use fairway_integration_tests::expected::converged_in;
use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::ztunnel::{self, Ztunnel};
use serde_json::{Value, json};

use crate::mesh::Namespace;
use crate::outage::spare;

const NAME: &str = "fairway-limited";

/// A control plane that may read everything but one kind.
fn role(without: &str) -> Value {
    let kinds = [
        ("", "namespaces"),
        ("", "nodes"),
        ("", "pods"),
        ("", "services"),
        ("", "configmaps"),
        ("", "secrets"),
        ("discovery.k8s.io", "endpointslices"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("networking.istio.io", "*"),
        ("security.istio.io", "*"),
        ("telemetry.istio.io", "*"),
        ("gateway.networking.k8s.io", "*"),
        ("networking.k8s.io", "*"),
    ];
    let kinds = kinds.into_iter().filter(|(_, kind)| *kind != without);
    let mut rules: Vec<_> = kinds
        .map(|(group, kind)| json!({ "apiGroups": [group], "resources": [kind], "verbs": ["get", "list", "watch"] }))
        .collect();
    let reviews = json!({ "apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"] });
    rules.push(reviews);
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": NAME },
        "rules": rules,
    })
}

/// Without the right to read Services, what is known of them stays; other
/// kinds go on; it shows; and all is caught up when the right is back.
pub async fn taken_away_and_given_back() {
    let cluster = spare().await;
    let api = &cluster.api;
    let ns = Namespace::new(api, "rbac").await;
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": NAME, "namespace": "istio-system" },
    });
    api.apply(account).await;
    api.apply(role("")).await;
    api.apply(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": NAME },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME },
        "subjects": [{ "kind": "ServiceAccount", "name": NAME, "namespace": "istio-system" }],
    }))
    .await;
    let kubeconfig = cluster.kubeconfig_of("istio-system", NAME).await;
    let fairway = Fairway::start(&Options::new(&kubeconfig).flag("--read-only")).await;
    let ztunnel = Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
    ns.pod("a", json!({ "app": "a" })).await;
    ns.service("kept", "a").await;
    converged_in(api, &ztunnel, &[&ns.name]).await;

    let kept = async || {
        let page: Vec<Value> = serde_json::from_str(&fairway.page("/debug/configz?kind=Service").await).unwrap();
        let named = |one: &&Value| one["metadata"]["name"] == "kept" && one["metadata"]["namespace"] == *ns.name;
        page.iter().find(named).cloned().expect("the service is in force")
    };
    let written = kept().await;
    assert_eq!((&written["inForce"], &written["spec"]["selector"]), (&json!(true), &json!({ "app": "a" })));
    let custom: Vec<Value> = serde_json::from_str(&fairway.page("/debug/configz").await).unwrap();
    assert!(custom.iter().all(|one| one.get("problem").is_none()), "it may read all kinds: {custom:?}");

    let before = ztunnel.read(|table| table.now());
    api.apply(role("services")).await;
    // Rights are looked at when a watch begins; this ends all watches.
    cluster.kill_apiserver().await;
    cluster.start_apiserver().await;
    eventually("the missing right shows", || async {
        let log = fairway.log();
        let syncz = fairway.get(fairway.monitoring, "/debug/syncz").await;
        if log.contains("services") && log.to_lowercase().contains("forbidden") { Ok(()) } else { Err(syncz) }
    })
    .await;
    let unread = kept().await;
    assert_eq!((&unread["inForce"], unread.get("spec")), (&json!(true), None));
    assert!(unread["problem"].as_str().unwrap_or_default().contains("forbidden"), "{unread}");
    ns.pod("b", json!({ "app": "a" })).await;
    ztunnel
        .until("another kind goes on", |table| match table.workloads.get(&ns.uid("b")) {
            Some(workload) if workload.services.contains_key(&ns.service_name("kept")) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    ns.service("new", "a").await;
    // A new client gets what is known, too.
    let other = Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
    assert!(other.read(|table| table.services.contains_key(&ns.service_name("kept"))));
    let removed = ns.own(ztunnel.read(|table| table.removed_since(before)));
    assert!(removed.is_empty(), "withdrawn for want of a right: {removed:?}");

    api.apply(role("")).await;
    converged_in(api, &ztunnel, &[&ns.name]).await;
    let removed = ns.own(ztunnel.read(|table| table.removed_since(before)));
    assert!(removed.is_empty(), "withdrawn: {removed:?}");
}
