//! L4 policies. The client checks with every response that no workload names
//! a policy it does not have: that would let everything through.

use std::collections::BTreeSet;

use fairway_integration_tests::expected::converged_in;
use fairway_integration_tests::ztunnel::{ADDRESS, AUTHORIZATION};
use serde_json::json;

use crate::mesh::{authorization_policy, peer_authentication, shared};

/// AuthorizationPolicies come before the workloads that name them, and go
/// after.
pub async fn authorization_policies() {
    let mesh = shared().await;
    let ns = mesh.namespace("authz").await;
    let ztunnel = mesh.ztunnel().await;
    for name in ["a", "b"] {
        ns.pod(name, json!({ "app": name })).await;
    }
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;

    let name = |policy: &str| format!("{}/{policy}", ns.name);
    let named = |pod: &str| {
        let uid = ns.uid(pod);
        ztunnel.read(|table| table.workloads[&uid].authorization_policies.clone())
    };
    for round in 0..5 {
        let before = ztunnel.read(|table| table.now());
        let policy = ns.apply(authorization_policy("p", "a", "ALLOW", "cluster.local/ns/x/sa/y")).await;
        converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
        assert_eq!(named("a"), [name("p")]);
        ztunnel.read(|table| {
            let (policy, workload) = (table.updated_at(&name("p")), table.updated_at(&ns.uid("a")));
            assert!(policy < workload, "round {round}: the policy came {policy:?}, the workload {workload:?}");
            assert_eq!(table.history[policy.unwrap()].type_url, AUTHORIZATION);
            assert_eq!(table.history[workload.unwrap()].type_url, ADDRESS);
            assert!(!table.touched_since(before).contains(&ns.uid("b")), "b is none of its business");
        });

        // Other rules, same workloads: only the policy is sent.
        let before = ztunnel.read(|table| table.now());
        ns.apply(authorization_policy("p", "a", "DENY", "cluster.local/ns/x/sa/z")).await;
        converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
        let touched = ns.own(ztunnel.read(|table| table.touched_since(before)));
        assert_eq!(touched, BTreeSet::from([name("p")]));

        ns.api.delete(&policy).await;
        converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
        assert!(named("a").is_empty());
        ztunnel.read(|table| {
            let (policy, workload) = (table.removed_at(&name("p")), table.updated_at(&ns.uid("a")));
            assert!(workload < policy, "round {round}: the policy went {policy:?}, the workload {workload:?}");
        });
    }

    // A selector that moves from one workload to another.
    ns.apply(authorization_policy("p", "a", "ALLOW", "cluster.local/ns/x/sa/y")).await;
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
    ns.apply(authorization_policy("p", "b", "ALLOW", "cluster.local/ns/x/sa/y")).await;
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
    assert_eq!((named("a"), named("b")), (vec![], vec![name("p")]));

    // For the whole namespace no workload needs to know.
    let before = ztunnel.read(|table| table.now());
    ns.apply(authorization_policy("wide", "", "DENY", "cluster.local/ns/x/sa/y")).await;
    ns.apply(authorization_policy("audit", "a", "AUDIT", "cluster.local/ns/x/sa/y")).await;
    ns.apply(json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": { "name": "waypoint" },
        "spec": { "targetRefs": [{ "kind": "Service", "group": "", "name": "a" }], "rules": [{}] },
    }))
    .await;
    ns.apply(authorization_policy("last", "", "ALLOW", "cluster.local/ns/x/sa/y")).await;
    ztunnel
        .until("the last policy is there", |table| {
            table.policies.get(&name("last")).map(|_| ()).ok_or_else(|| "it is not".into())
        })
        .await;
    let touched = ns.own(ztunnel.read(|table| table.touched_since(before)));
    assert_eq!(touched, BTreeSet::from([name("last"), name("wide")]), "neither audit nor waypoint is for ztunnel");
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
}

/// PeerAuthentications of namespace, workload and port, through all modes.
pub async fn peer_authentications() {
    let mesh = shared().await;
    let ns = mesh.namespace("mtls").await;
    let ztunnel = mesh.ztunnel().await;
    for name in ["a", "b"] {
        ns.pod(name, json!({ "app": name })).await;
    }
    let strict = || "istio-system/istio_converted_static_strict".to_string();
    let own = || format!("{}/converted_peer_authentication_own", ns.name);
    let ports = |mode: &str| json!({ "8080": { "mode": mode } });
    // Modes of namespace, workload and port, and what a and b name then.
    let steps = [
        ("STRICT", None, vec![strict()], vec![strict()]),
        ("STRICT", Some(("PERMISSIVE", json!(null))), vec![], vec![strict()]),
        ("STRICT", Some(("UNSET", ports("PERMISSIVE"))), vec![own()], vec![strict()]),
        ("STRICT", Some(("UNSET", ports("DISABLE"))), vec![own()], vec![strict()]),
        ("PERMISSIVE", Some(("UNSET", ports("PERMISSIVE"))), vec![], vec![]),
        ("PERMISSIVE", Some(("UNSET", ports("STRICT"))), vec![own()], vec![]),
        ("UNSET", Some(("STRICT", ports("STRICT"))), vec![strict()], vec![]),
        ("UNSET", Some(("STRICT", ports("DISABLE"))), vec![own()], vec![]),
        ("STRICT", Some(("DISABLE", ports("STRICT"))), vec![own()], vec![strict()]),
        ("PERMISSIVE", None, vec![], vec![]),
    ];
    for (wide, workload, a, b) in steps {
        let step = format!("namespace {wide}, workload {workload:?}");
        ns.apply(peer_authentication("wide", "", wide, json!(null))).await;
        let object = match &workload {
            Some((mode, ports)) => ns.apply(peer_authentication("own", "a", mode, ports.clone())).await,
            None => json!(null),
        };
        converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
        ztunnel.read(|table| {
            assert_eq!(table.workloads[&ns.uid("a")].authorization_policies, a, "{step}: a");
            assert_eq!(table.workloads[&ns.uid("b")].authorization_policies, b, "{step}: b");
            // What the second opinion compares only for this namespace.
            assert!(table.policies.contains_key(&strict()), "{step}");
        });
        if object.is_object() {
            ns.api.delete(&object).await;
        }
    }
}
