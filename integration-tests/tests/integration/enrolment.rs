//! How workloads enter the mesh, and how they look in the table.

use fairway_integration_tests::expected::converged_in;
use fairway_integration_tests::kubelet::{pod_ip, running};
use fairway_proto::workload::TunnelProtocol;
use serde_json::json;

use crate::mesh::{pod, redirected, shared};

/// The label of the namespace changes nothing; the CNI's annotation turns
/// exactly the annotated pods to HBONE.
pub async fn annotated_pods_only() {
    let mesh = shared().await;
    let ns = mesh.namespace("enrol").await;
    let ztunnel = mesh.ztunnel().await;
    let mut pods = vec![];
    for name in ["a", "b", "c"] {
        pods.push(ns.pod(name, json!({ "app": name })).await);
    }
    ns.service("a", "a").await;
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;

    let before = ztunnel.read(|table| table.now());
    ns.api.patch(&ns.object(), json!({ "metadata": { "labels": { "istio.io/dataplane-mode": "ambient" } } })).await;
    // A later change of the namespace that shows, so that the earlier one has
    // been seen.
    let distribution = json!({ "networking.istio.io/traffic-distribution": "PreferClose" });
    ns.api.patch(&ns.object(), json!({ "metadata": { "annotations": distribution } })).await;
    let service = ns.service_name("a");
    ztunnel
        .until("the service prefers close endpoints", |table| {
            let balancing = table.services[&service].load_balancing.as_ref();
            balancing.map(|_| ()).ok_or_else(|| "it does not".into())
        })
        .await;
    let touched = |from| Vec::from_iter(ns.own(ztunnel.read(|table| table.touched_since(from))));
    assert_eq!(touched(before), [service], "only the service changes");

    let before = ztunnel.read(|table| table.now());
    for pod in &pods[..2] {
        ns.api.patch(pod, redirected()).await;
    }
    let hbone = |name: &str| {
        let uid = ns.uid(name);
        ztunnel.read(|table| table.workloads[&uid].tunnel_protocol() == TunnelProtocol::Hbone)
    };
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
    assert!(hbone("a") && hbone("b") && !hbone("c"), "a and b are redirected, c is not");
    assert_eq!(touched(before), [ns.uid("a"), ns.uid("b")], "only redirected pods change");

    let before = ztunnel.read(|table| table.now());
    let off = json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": null } } });
    ns.api.patch(&pods[0], off).await;
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
    assert!(!hbone("a"), "a has left the mesh");
    assert_eq!(touched(before), [ns.uid("a")]);
}

/// Everything that can be a workload, compared with the second opinion.
pub async fn kinds_of_workloads() {
    let mesh = shared().await;
    let ns = mesh.namespace("kinds").await;
    let ztunnel = mesh.ztunnel().await;
    mesh.api()
        .apply(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "kinds-node", "labels": {
                "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z", "topology.istio.io/subzone": "s",
            } },
        }))
        .await;
    ns.service_account("client").await;
    for (name, phase) in [("runs", "Running"), ("pending", "Pending"), ("done", "Succeeded"), ("failed", "Failed")] {
        let pod = ns.apply(pod(name, "kinds-node", "client", json!({ "app": "app" }))).await;
        let mut status = running(&pod_ip(), phase == "Running");
        status["phase"] = json!(phase);
        ns.api.patch_status(&pod, status).await.unwrap();
    }
    // Without an address, a pod is no workload.
    ns.apply(pod("new", "kinds-node", "client", json!({ "app": "app" }))).await;
    let mut host = pod("host", "kinds-node", "client", json!({ "app": "app" }));
    host["spec"]["hostNetwork"] = json!(true);
    for port in host["spec"]["containers"][0]["ports"].as_array_mut().unwrap() {
        port["hostPort"] = port["containerPort"].clone();
    }
    let host = ns.apply(host).await;
    ns.api.patch_status(&host, running("10.243.7.7", true)).await.unwrap();
    let dual = ns.apply(pod("dual", "kinds-node", "client", json!({ "app": "app" }))).await;
    let mut status = running(&pod_ip(), true);
    status["podIPs"].as_array_mut().unwrap().push(json!({ "ip": "fd00::7" }));
    ns.api.patch_status(&dual, status).await.unwrap();

    ns.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "named" },
        "spec": { "selector": { "app": "app" }, "ports": [
            { "name": "http", "port": 80, "targetPort": "http" },
            { "name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP" },
            { "name": "absent", "port": 81, "targetPort": "absent" },
        ] },
    }))
    .await;
    ns.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "headless" },
        "spec": { "clusterIP": "None", "selector": { "app": "app" }, "ports": [{ "port": 9090 }] },
    }))
    .await;
    ns.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "external" },
        "spec": { "type": "ExternalName", "externalName": "example.com" },
    }))
    .await;
    // Endpoints written by hand: one is a pod, one is not.
    ns.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "manual" },
        "spec": { "ports": [{ "name": "db", "port": 5432, "targetPort": 5432 }] },
    }))
    .await;
    ns.apply(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "manual-1", "labels": { "kubernetes.io/service-name": "manual" } },
        "ports": [{ "name": "db", "port": 15432, "protocol": "TCP" }],
        "endpoints": [
            { "addresses": ["192.0.2.1"], "conditions": { "ready": true } },
            { "addresses": ["192.0.2.2"], "conditions": { "ready": false } },
            { "addresses": ["10.244.99.99"], "targetRef": { "kind": "Pod", "name": "runs", "namespace": ns.name } },
        ],
    }))
    .await;
    ns.apply(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": { "name": "vm", "annotations": { "ambient.istio.io/redirection": "enabled" } },
        "spec": { "address": "192.0.2.10", "labels": { "app": "app" }, "serviceAccount": "vm",
                  "locality": "r/z", "ports": { "http": 8888 } },
    }))
    .await;
    ns.apply(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": { "name": "static" },
        "spec": {
            "hosts": ["static.example.com"], "addresses": ["192.0.2.100", "198.51.100.0/24"],
            "ports": [{ "name": "tcp", "number": 443, "protocol": "TLS", "targetPort": 8443 }],
            "resolution": "STATIC",
            "endpoints": [{ "address": "192.0.2.20" }, { "address": "192.0.2.21", "ports": { "tcp": 9443 } }],
        },
    }))
    .await;
    ns.apply(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": { "name": "dns" },
        "spec": {
            "hosts": ["one.example.com", "two.example.com"], "resolution": "DNS",
            "ports": [{ "name": "http", "number": 80, "protocol": "HTTP" }],
        },
    }))
    .await;
    ns.apply(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": { "name": "pods" },
        "spec": {
            "hosts": ["pods.example.com"], "resolution": "STATIC", "workloadSelector": { "labels": { "app": "app" } },
            "ports": [{ "name": "http", "number": 8000, "protocol": "HTTP", "targetPort": 8001 }],
        },
    }))
    .await;
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
    // The second opinion must not have agreed to nothing.
    ztunnel.read(|table| {
        assert_eq!(table.workloads[&ns.uid("runs")].services.len(), 4, "named, headless, manual, pods");
        assert!(!table.workloads.contains_key(&ns.uid("done")) && !table.workloads.contains_key(&ns.uid("new")));
        assert_eq!(table.workloads[&ns.uid("dual")].addresses.len(), 2);
        assert!(!table.services.contains_key(&ns.service_name("external")));
        // The API server's own Service is a service like any other.
        assert!(table.services.contains_key("default/kubernetes.default.svc.cluster.local"));
    });
}
