//! An API server that is not there, or not yet complete. These tests break
//! the cluster, so they have one of their own and run one after another.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fairway_integration_tests::cluster::Cluster;
use fairway_integration_tests::eventually;
use fairway_integration_tests::expected::{converged, converged_in, converged_within};
use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::ztunnel::{self, Ztunnel};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::mesh::{Namespace, authorization_policy, redirected};

/// How soon everything has to be as it should after a fault has ended.
const RECOVERY: Duration = Duration::from_secs(10);

static SPARE: OnceCell<Cluster> = OnceCell::const_new();

/// A cluster without a control plane, for tests of the lane "outage".
pub async fn spare() -> &'static Cluster {
    SPARE.get_or_init(Cluster::start).await
}

/// Ends it.
pub async fn stop() {
    if let Some(cluster) = SPARE.get() {
        cluster.stop().await;
    }
}

async fn read_only(cluster: &Cluster) -> Fairway {
    Fairway::start(&Options::new(&cluster.kubeconfig()).flag("--read-only")).await
}

/// Without the CRDs of Istio and of the Gateway API it is ready all the same;
/// when they come, it reads them.
pub async fn crds_added_late() {
    // One that never had them: taking definitions away again can keep an API
    // server busy for minutes.
    let cluster = &Cluster::start_without_crds().await;
    let ns = Namespace::new(&cluster.api, "crds").await;
    ns.pod("a", json!({ "app": "a" })).await;
    let fairway = read_only(cluster).await;
    let ztunnel = Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
    converged_in(&cluster.api, &ztunnel, &[&ns.name]).await;
    cluster.install_crds().await;
    ns.apply(authorization_policy("p", "a", "DENY", "cluster.local/ns/x/sa/y")).await;
    ns.apply(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": { "name": "e" },
        "spec": { "hosts": ["e.example.com"], "resolution": "DNS",
                  "ports": [{ "name": "http", "number": 80, "protocol": "HTTP" }] },
    }))
    .await;
    converged_in(&cluster.api, &ztunnel, &[&ns.name]).await;
    assert!(ztunnel.read(|table| table.policies.contains_key(&format!("{}/p", ns.name))));
    drop(fairway);
    cluster.stop().await;
}

/// The API server is killed: nothing is withdrawn, new clients are served;
/// it comes back: what changed is caught up.
pub async fn api_server_killed() {
    let cluster = spare().await;
    let ns = Namespace::new(&cluster.api, "outage").await;
    let mut pods = vec![];
    for name in ["a", "b", "c"] {
        pods.push(ns.pod(name, json!({ "app": name })).await);
        ns.service(name, name).await;
        ns.apply(authorization_policy(name, name, "DENY", "cluster.local/ns/x/sa/y")).await;
    }
    let fairway = read_only(cluster).await;
    let ztunnel = Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
    converged(&cluster.api, &ztunnel).await;
    let before = ztunnel.read(|table| table.now());

    cluster.kill_apiserver().await;
    // Long enough for every watch to have noticed, and to have failed to come
    // back so often that it is in no hurry any more.
    let deadline = Instant::now() + Duration::from_secs(8);
    let mut waited = vec![];
    while Instant::now() < deadline {
        let started = Instant::now();
        let other = Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
        waited.push(started.elapsed());
        assert_eq!(other.retained(), ztunnel.retained(), "a new client is told something else");
        assert_eq!(fairway.ready_status().await, 200, "an outage is no reason to send clients away");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Other tests have their share of the machine.
    waited.sort();
    let (most, longest) = (waited[waited.len() * 9 / 10], waited[waited.len() - 1]);
    assert!(most < Duration::from_secs(1) && longest < Duration::from_secs(2), "new clients waited {waited:?}");
    let touched = ns.own(ztunnel.read(|table| table.touched_since(before)));
    assert!(touched.is_empty(), "the outage itself is no change: {touched:?}");

    cluster.start_apiserver().await;
    ns.api.patch(&pods[0], redirected()).await;
    ns.api.delete(&pods[1]).await;
    ns.service("new", "c").await;
    converged_within(RECOVERY, &cluster.api, &ztunnel, &[]).await;
    ztunnel.read(|table| {
        assert_eq!(ns.own(table.removed_since(before)), BTreeSet::from([ns.uid("b")]), "only what is gone");
        assert_eq!(table.connections, 1, "the stream was not interrupted");
    });
}

/// Without an API server from the start there is nothing to say: not ready,
/// and not a byte to anybody.
pub async fn absent_at_start() {
    let cluster = spare().await;
    let ns = Namespace::new(&cluster.api, "absent").await;
    ns.pod("a", json!({ "app": "a" })).await;
    cluster.kill_apiserver().await;
    let fairway = Fairway::launch(&Options::new(&cluster.kubeconfig()).flag("--read-only"));
    let ztunnel = Ztunnel::start(ztunnel::Options::plaintext(fairway.grpc));
    eventually("it says that it is not ready", || async {
        fairway.assert_running();
        match fairway.ready_status().await {
            503 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        assert_eq!(fairway.ready_status().await, 503);
        ztunnel.read(|table| assert!(table.history.is_empty(), "something was sent: {:?}", table.history));
        fairway.assert_running();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.start_apiserver().await;
    fairway.until_ready().await;
    ztunnel.until_ready().await;
    converged(&cluster.api, &ztunnel).await;
    ztunnel.read(|table| {
        let first = table.history.iter().find(|delta| delta.type_url == ztunnel::ADDRESS).unwrap();
        assert!(first.updated.contains_key(&ns.uid("a")), "the first answer is complete");
    });
}
