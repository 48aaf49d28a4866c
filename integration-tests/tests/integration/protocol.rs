//! The rules of the stream itself, under changes from a real cluster.

use std::collections::BTreeSet;

use fairway_integration_tests::expected::converged_in;
use fairway_integration_tests::ztunnel::{Options, Ztunnel};
use serde_json::json;
use tonic::Code;

use crate::mesh::{over_tls, shared, ztunnel_pod};

/// A client that does not acknowledge gets nothing more, and then the last
/// state without the steps that led to it.
pub async fn one_response_until_acknowledged() {
    let mesh = shared().await;
    let ns = mesh.namespace("slow").await;
    let (slow, witness) = (mesh.ztunnel().await, mesh.ztunnel().await);
    slow.hold_acks(true).await;
    ns.service("first", "app").await;
    let sees = async |ztunnel: &Ztunnel, service: &str, there: bool| {
        let name = ns.service_name(service);
        ztunnel
            .until(&format!("{name} is there: {there}"), |table| match table.services.contains_key(&name) == there {
                true => Ok(()),
                false => Err("not so".into()),
            })
            .await;
    };
    sees(&witness, "first", true).await;
    let transient = ns.service("transient", "app").await;
    sees(&witness, "transient", true).await;
    ns.api.delete(&transient).await;
    sees(&witness, "transient", false).await;
    ns.service("last", "app").await;
    sees(&witness, "last", true).await;
    slow.assert_correct();
    slow.hold_acks(false).await;
    sees(&slow, "last", true).await;
    let touched = slow.read(|table| table.touched_since(0));
    // Unless it was what the one response of the time carried.
    let name = ns.service_name("transient");
    let carried = slow.read(|table| table.history.iter().filter(|delta| delta.updated.contains_key(&name)).count());
    assert!(carried == 0, "a state that had passed was sent: {touched:?}");
    converged_in(&ns.api, &slow, &[&ns.name]).await;
}

/// After a reconnect a client gets what changed, what is new, and the names
/// of what is gone; nothing else.
pub async fn reconnect_sends_what_changed() {
    let mesh = shared().await;
    let ns = mesh.namespace("reconnect").await;
    let ztunnel = mesh.ztunnel().await;
    let witness = mesh.ztunnel().await;
    let pod = ns.pod("changed", json!({ "app": "a" })).await;
    ns.pod("same", json!({ "app": "b" })).await;
    let gone = ns.service("gone", "c").await;
    ns.service("stays", "c").await;
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;

    ztunnel.disconnect().await;
    ns.api.patch(&pod, json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": "enabled" } } })).await;
    ns.api.delete(&gone).await;
    ns.service("new", "c").await;
    converged_in(&ns.api, &witness, &[&ns.name]).await;

    let point = ztunnel.connect(mesh.fairway.grpc).await;
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
    ztunnel.read(|table| {
        assert_eq!(ns.own(table.removed_since(point)), BTreeSet::from([ns.service_name("gone")]));
        let touched = BTreeSet::from([ns.uid("changed"), ns.service_name("gone"), ns.service_name("new")]);
        assert_eq!(ns.own(table.touched_since(point)), touched);
    });
}

/// On demand: the pods of the node come unasked, everything else by name, and
/// what is not there is said to be not there.
pub async fn on_demand() {
    let mesh = shared().await;
    let ns = mesh.namespace("demand").await;
    let node = format!("{}-node", ns.name);
    let mut local = crate::mesh::pod("local", &node, "default", json!({ "app": "local" }));
    local["metadata"]["namespace"] = json!(ns.name);
    let local = ns.api.apply(local).await;
    let status = fairway_integration_tests::kubelet::running(&fairway_integration_tests::kubelet::pod_ip(), true);
    ns.api.patch_status(&local, status).await.unwrap();
    let remote = ns.pod("remote", json!({ "app": "app" })).await;
    let service = ns.service("app", "app").await;
    let witness = mesh.ztunnel().await;
    converged_in(&ns.api, &witness, &[&ns.name]).await;

    let options = Options { on_demand: true, node, ..Options::plaintext(mesh.fairway.grpc) };
    let ztunnel = Ztunnel::ready(options).await;
    ztunnel
        .until("the node's own pod is there", |table| {
            table.workloads.get(&ns.uid("local")).map(|_| ()).ok_or_else(|| format!("{:?}", table.workloads.keys()))
        })
        .await;
    assert_eq!(ztunnel.read(|table| table.workloads.len() + table.services.len()), 1, "nothing else was asked for");

    let answered = async |key: &str, wanted: &[String]| {
        ztunnel.demand(&[key]);
        ztunnel
            .until(&format!("{key} is answered"), |table| {
                // ztunnel waits for the very string it asked for.
                table.updated_at(key).or(table.removed_at(key)).ok_or_else(|| format!("{:?}", table.history.last()))
            })
            .await;
        ztunnel.read(|table| {
            for name in wanted {
                assert!(
                    table.workloads.contains_key(name) || table.services.contains_key(name),
                    "{key} was answered without {name}: {:?}",
                    table.history.last()
                );
            }
        });
    };
    let vip = format!("/{}", service["spec"]["clusterIP"].as_str().unwrap());
    answered(&vip, &[ns.service_name("app"), ns.uid("remote")]).await;
    let ip = format!("/{}", remote["status"]["podIP"].as_str().unwrap());
    answered(&ip, &[ns.uid("remote")]).await;
    answered("/203.0.113.9", &[]).await;

    // What was demanded is kept up to date.
    ns.api.patch(&remote, crate::mesh::redirected()).await;
    ztunnel
        .until("the demanded pod turned to HBONE", |table| {
            let tunnel = table.workloads.get(&ns.uid("remote")).map(|one| one.tunnel_protocol);
            if tunnel == Some(1) { Ok(()) } else { Err(format!("{tunnel:?}")) }
        })
        .await;
}

/// As in production: TLS, the root from the ConfigMap, a token bound to the
/// pod.
pub async fn as_in_production() {
    let mesh = shared().await;
    let ns = mesh.namespace("tls").await;
    ns.pod("a", json!({ "app": "a" })).await;
    let pod = ztunnel_pod(mesh.api(), "node-a").await;
    let token = mesh.cluster.token("istio-system", "ztunnel", &["istio-ca"], Some(&pod), 3600).await;
    let options = over_tls(&mesh.cluster, &mesh.fairway, Some(token)).await;
    let ztunnel = Ztunnel::ready(options).await;
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
}

/// Over TLS nobody gets a byte without a token for us, and nobody speaks for
/// a node of another namespace.
pub async fn refused_without_token() {
    let mesh = shared().await;
    let ns = mesh.namespace("refused").await;
    let pod = ns.pod("app", json!({ "app": "app" })).await;
    let right = mesh.cluster.token(&ns.name, "default", &["istio-ca"], Some(&pod), 3600).await;
    let other = mesh.cluster.token(&ns.name, "default", &["another"], Some(&pod), 3600).await;
    let api = mesh.cluster.token(&ns.name, "default", &[], Some(&pod), 3600).await;
    let cases = [
        ("no token", None, Code::Unauthenticated),
        ("a token for somebody else", Some(other), Code::Unauthenticated),
        ("a token for the API server", Some(api), Code::Unauthenticated),
        ("garbage", Some("garbage".to_string()), Code::Unauthenticated),
        ("the token of an application", Some(right), Code::PermissionDenied),
    ];
    for (what, token, code) in cases {
        let options = over_tls(&mesh.cluster, &mesh.fairway, token).await;
        let ztunnel = Ztunnel::start(options);
        let seen = ztunnel
            .until(&format!("{what} is refused"), |table| {
                table.last_error.as_ref().map(|error| error.code()).ok_or_else(|| "no error".into())
            })
            .await;
        assert_eq!(seen, code, "{what}");
        assert!(ztunnel.read(|table| table.history.is_empty()), "{what}: something was sent");
    }
}
