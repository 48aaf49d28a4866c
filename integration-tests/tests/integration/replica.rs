//! More than one control plane, and one after another.

use fairway_integration_tests::child::exited_with;
use fairway_integration_tests::eventually;
use fairway_integration_tests::expected::converged_in;
use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::ztunnel::{self, Ztunnel};
use serde_json::json;

use crate::mesh::{Namespace, authorization_policy, shared};

async fn populated(ns: &Namespace) {
    for name in ["a", "b", "c"] {
        ns.pod(name, json!({ "app": name, "x": "1", "y": "2", "z": "3" })).await;
        ns.service(name, name).await;
        ns.service(&format!("all-{name}"), name).await;
        ns.apply(authorization_policy(name, name, "DENY", "cluster.local/ns/x/sa/y")).await;
    }
}

/// Two replicas give every name the same version: a client can go from one to
/// the other for free.
pub async fn versions_agree() {
    let mesh = shared().await;
    let ns = mesh.namespace("replica").await;
    populated(&ns).await;
    let second = Fairway::start(&Options::new(&mesh.cluster.kubeconfig()).flag("--read-only")).await;
    let one = mesh.ztunnel().await;
    let other = Ztunnel::ready(ztunnel::Options::plaintext(second.grpc)).await;
    converged_in(&ns.api, &one, &[&ns.name]).await;
    converged_in(&ns.api, &other, &[&ns.name]).await;
    // Everything, not only of this namespace; other tests may be changing it.
    eventually("the versions of two replicas agree", || async {
        let (one, other) = (one.retained(), other.retained());
        if one == other { Ok(()) } else { Err(format!("{one:?}\n{other:?}")) }
    })
    .await;

    other.disconnect().await;
    let point = other.connect(mesh.fairway.grpc).await;
    let resent = ns.own(other.read(|table| table.touched_since(point)));
    assert!(resent.is_empty(), "the other replica sent what the client had: {resent:?}");
    other.assert_correct();
    assert!(exited_with(second.terminate().await, 0), "SIGTERM is a normal end");
}

/// A restart costs a client nothing.
pub async fn restart_resends_nothing() {
    let mesh = shared().await;
    let ns = mesh.namespace("restart").await;
    populated(&ns).await;
    let options = Options::new(&mesh.cluster.kubeconfig()).flag("--read-only");
    let fairway = Fairway::start(&options).await;
    let ztunnel = Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
    ztunnel.disconnect().await;
    fairway.kill().await;
    let fairway = Fairway::start(&options).await;
    let point = ztunnel.connect(fairway.grpc).await;
    let resent = ns.own(ztunnel.read(|table| table.touched_since(point)));
    assert!(resent.is_empty(), "sent again after a restart: {resent:?}");
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
}
