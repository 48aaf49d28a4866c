//! Objects that cannot be read cost themselves only.

use fairway_integration_tests::eventually;
use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::ztunnel::{self, Ztunnel};
use serde_json::json;

use crate::mesh::Namespace;
use crate::outage::spare;

/// A ServiceEntry of the wrong shape, let in by a schema that checks nothing:
/// a later version's, say. Its neighbours are served, its last good state
/// stays, and somebody is told.
pub async fn service_entry() {
    let cluster = spare().await;
    let ns = Namespace::new(&cluster.api, "shape").await;
    let entry = |name: &str, ports: serde_json::Value| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": { "name": name },
            "spec": { "hosts": [format!("{name}.example.com")], "resolution": "STATIC", "ports": ports },
        })
    };
    let ports = || json!([{ "name": "http", "number": 80, "protocol": "HTTP" }]);
    ns.apply(entry("good", ports())).await;
    ns.apply(entry("turns-bad", ports())).await;

    // Served versions are all the same schema to us.
    let name = "serviceentries.networking.istio.io";
    let strict = cluster.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", name).await.unwrap();
    let mut loose = strict["spec"]["versions"].clone();
    for version in loose.as_array_mut().unwrap() {
        version["schema"] =
            json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
    }
    cluster.api.patch(&crd(name), json!({ "spec": { "versions": loose } })).await;

    let fairway = Fairway::start(&Options::new(&cluster.kubeconfig()).flag("--read-only")).await;
    let ztunnel = Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
    let bad = || json!([{ "name": "http", "number": { "not": "a number" } }]);
    // The new schema takes a moment to be the one that validates.
    eventually("the API server takes an object of the wrong shape", || async {
        let mut object = entry("always-bad", bad());
        object["metadata"]["namespace"] = json!(ns.name);
        match cluster.api.create(object).await {
            Err(refused) if refused.code != 409 => Err(refused.message),
            _ => Ok(()),
        }
    })
    .await;
    ns.apply(entry("turns-bad", bad())).await;
    ns.apply(entry("later", ports())).await;
    let key = |name: &str| format!("{}/{name}.example.com", ns.name);
    ztunnel
        .until("the later neighbour is served", |table| match table.services.contains_key(&key("later")) {
            true => Ok(()),
            false => Err(format!("{:?}", table.services.keys())),
        })
        .await;
    ztunnel.read(|table| {
        assert!(table.services.contains_key(&key("good")));
        assert!(table.services.contains_key(&key("turns-bad")), "its last good state stays");
        assert!(!table.services.contains_key(&key("always-bad")));
    });
    for name in ["always-bad", "turns-bad"] {
        eventually(&format!("{name} is reported"), || async {
            let log = fairway.log();
            if log.contains(name) { Ok(()) } else { Err("the log does not name it") }
        })
        .await;
    }
    // It is read again as soon as it can be.
    ns.apply(entry("always-bad", ports())).await;
    ztunnel
        .until("the repaired object is served", |table| match table.services.contains_key(&key("always-bad")) {
            true => Ok(()),
            false => Err("not yet".into()),
        })
        .await;
    cluster.api.patch(&crd(name), json!({ "spec": { "versions": strict["spec"]["versions"] } })).await;
    ztunnel.assert_correct();
}

fn crd(name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": name },
    })
}

/// A mesh configuration that is no YAML: objects are served, and the next
/// good one counts.
pub async fn mesh_config() {
    let cluster = spare().await;
    let ns = Namespace::new(&cluster.api, "meshconfig").await;
    let config = async |mesh: &str| {
        ns.apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "istio" }, "data": { "mesh": mesh },
        }))
        .await
    };
    config("trustDomain: [\n  - {").await;
    let options = Options::new(&cluster.kubeconfig()).env("POD_NAMESPACE", &ns.name).flag("--read-only");
    ns.pod("app", json!({ "app": "app" })).await;
    // One that begins with a broken one tells nobody anything: with the defaults it
    // would tell another trust domain than that of certificates.
    let fairway = Fairway::launch(&options);
    eventually("it says why it is not ready", || async {
        match fairway.get(fairway.http, "/ready").await {
            Ok((503, page)) if page.contains(&format!("cannot be read: ConfigMap {}/istio: data.mesh", ns.name)) => {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(tokio::net::TcpStream::connect(fairway.grpc).await.is_err(), "nobody is served");
    config("trustDomain: example.org").await;
    fairway.until_ready().await;
    let ztunnel = Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
    let trust_domain = async |wanted: &str| {
        let uid = ns.uid("app");
        ztunnel
            .until(&format!("the trust domain is {wanted:?}"), |table| {
                let workload = table.workloads.get(&uid).ok_or("the pod is not there")?;
                if workload.trust_domain == wanted { Ok(()) } else { Err(workload.trust_domain.clone()) }
            })
            .await;
    };
    trust_domain("example.org").await;
    // A broken one does not undo it.
    config("trustDomain: [\n  - {").await;
    ns.service("marker", "app").await;
    let marker = ns.service_name("marker");
    ztunnel
        .until("the marker is there", |table| match table.services.contains_key(&marker) {
            true => Ok(()),
            false => Err("not yet".into()),
        })
        .await;
    trust_domain("example.org").await;
    fairway.assert_running();
}
