//! What the API server says in protobuf is what it says in JSON.

use std::collections::BTreeMap;

use fairway::api::protobuf::{self, Message};
use fairway::api::{Kind, Object, ObjectKey};
use fairway::wire::{Fields, Value as Wire};
use fairway_integration_tests::api::Api;
use fairway_integration_tests::eventually;
use serde_json::{Value, json};

use crate::mesh::shared;

/// Objects of every kind that has protobuf, with as many fields as a real API
/// server lets them have, are the same in both encodings. This is what checks
/// the field numbers.
pub async fn protobuf_is_json() {
    let mesh = shared().await;
    let ns = mesh.namespace("encoding").await;
    ns.api
        .apply(json!({ "apiVersion": "v1", "kind": "Node", "metadata": {
            "name": "encoding", "labels": { "topology.kubernetes.io/region": "r" },
        } }))
        .await;
    let labels = json!({ "app": "x", "empty": "", "example.org/long": "value" });
    let pod = ns
        .apply(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "pod", "labels": labels,
                "annotations": { "ambient.istio.io/redirection": "enabled", "example.org/x": "ö" },
            },
            "spec": {
                "nodeName": "node-a", "serviceAccountName": "default", "hostNetwork": true,
                "containers": [
                    { "name": "a", "image": "i", "ports": [
                        { "name": "http", "containerPort": 8080 }, { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                    ] },
                    { "name": "b", "image": "i" },
                ],
                "initContainers": [
                    { "name": "c", "image": "i", "restartPolicy": "Always", "ports": [{ "name": "mesh", "containerPort": 15000 }] },
                ],
            },
        }))
        .await;
    let status = json!({
        "phase": "Running", "podIP": "10.250.0.9", "podIPs": [{ "ip": "10.250.0.9" }, { "ip": "fd00:250::9" }],
        "conditions": [{ "type": "Initialized", "status": "True" }, { "type": "Ready", "status": "True" }],
    });
    ns.api.patch_status(&pod, status).await.unwrap();
    ns.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "service", "labels": labels },
        "spec": {
            "selector": { "app": "x" }, "publishNotReadyAddresses": true, "internalTrafficPolicy": "Local",
            "trafficDistribution": "PreferClose",
            "ports": [
                { "name": "number", "port": 80, "targetPort": 8080, "appProtocol": "http" },
                { "name": "name", "port": 53, "targetPort": "dns", "protocol": "UDP" },
                { "name": "same", "port": 82 },
            ],
        },
    }))
    .await;
    ns.apply(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "headless" },
        "spec": { "clusterIP": "None", "selector": { "app": "y" }, "ports": [{ "port": 1 }] } }))
        .await;
    ns.apply(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "by-hand", "labels": { "kubernetes.io/service-name": "headless" } },
        "endpoints": [
            { "addresses": ["192.0.2.1"], "conditions": { "ready": false },
              "targetRef": { "kind": "Pod", "namespace": ns.name, "name": "pod", "uid": pod["metadata"]["uid"] } },
            { "addresses": ["192.0.2.2"] },
        ],
        "ports": [{ "name": "one", "port": 1, "protocol": "TCP" }, { "name": "any" }],
    }))
    .await;

    let name = format!("{}-class", ns.name);
    ns.api
        .apply(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": { "name": name },
            "spec": { "controller": "example.com/controller" },
        }))
        .await;
    let backend = json!({ "service": { "name": "service", "port": { "name": "number" } } });
    let bucket = json!({ "resource": { "apiGroup": "example.com", "kind": "Bucket", "name": "bucket" } });
    ns.apply(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": { "name": "ingress", "annotations": { "kubernetes.io/ingress.class": "other" } },
        "spec": {
            "defaultBackend": bucket,
            "tls": [{ "hosts": ["a.example.com", "b.example.com"], "secretName": "secret" }, { "secretName": "any" }],
            "rules": [
                { "host": "a.example.com", "http": { "paths": [
                    { "path": "/a", "pathType": "Prefix", "backend": backend },
                    { "path": "/b", "pathType": "Exact", "backend": { "service": { "name": "x", "port": { "number": 80 } } } },
                ] } },
                { "host": "b.example.com" },
                { "http": { "paths": [{ "pathType": "ImplementationSpecific", "backend": bucket }] } },
            ],
        },
    }))
    .await;
    ns.apply(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": "classed" },
        "spec": { "ingressClassName": name, "defaultBackend": backend },
    }))
    .await;
    let balanced = ns
        .apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "balanced" },
            "spec": { "type": "LoadBalancer", "externalIPs": ["192.0.2.1", "192.0.2.2"], "ports": [{ "port": 1 }] },
        }))
        .await;
    let status = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.3" }, { "hostname": "lb.example.com" }] } });
    ns.api.patch_status(&balanced, status).await.unwrap();
    ns.apply(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "elsewhere" },
        "spec": { "type": "ExternalName", "externalName": "example.com" } }))
        .await;

    for kind in Kind::ALL.iter().copied().filter(|kind| Message::of(*kind).is_some()) {
        let info = kind.info();
        let root = if info.group.is_empty() { "/api" } else { "/apis/" };
        let path = format!("{root}{}/{}/{}", info.group, info.versions[0], info.plural);
        // Other tests change objects meanwhile.
        eventually(&format!("{} agree", info.plural), || async {
            let (one, other) = (in_json(&ns.api, kind, &path).await, in_protobuf(&ns.api, kind, &path).await);
            assert!(!one.is_empty(), "there are no {}", info.plural);
            match one == other {
                true => Ok(()),
                false => {
                    let differs = one.iter().find(|(key, object)| other.get(key) != Some(object));
                    Err(format!("{differs:?}\n{:?}", differs.and_then(|(key, _)| other.get(key))))
                }
            }
        })
        .await;
    }
}

type Objects = BTreeMap<ObjectKey, (u64, Object)>;

fn keyed(objects: impl Iterator<Item = Object>) -> Objects {
    objects.map(|object| (object.meta().key(), (object.meta().resource_version.0, object))).collect()
}

async fn in_json(api: &Api, kind: Kind, path: &str) -> Objects {
    let list: Value = api.request("GET", path, None).await.unwrap();
    let items = list["items"].as_array().unwrap().iter();
    keyed(items.map(|item| kind.decode_json(&item.to_string()).unwrap()))
}

async fn in_protobuf(api: &Api, kind: Kind, path: &str) -> Objects {
    let list = api.bytes(path, "application/vnd.kubernetes.protobuf").await;
    let fields = Fields::new(protobuf::unwrap(&list).unwrap());
    keyed(fields.filter_map(|field| match field.unwrap() {
        (2, Wire::Bytes(item)) => Some(kind.decode_protobuf(item).unwrap()),
        _ => None,
    }))
}
