//! What is written back to objects: bad ones say what is wrong with them, and
//! those beside them are good.

use fairway_integration_tests::api::Api;
use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::{cluster, eventually};
use serde_json::{Value, json};

use crate::gateways::{condition, gateway, is};
use crate::mesh::{Namespace, shared};
use crate::outage::spare;

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "labels": { "istio.io/use-waypoint": "w" } },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80 }] },
    })
}

fn http_route(name: &str, parent: &str, backend: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": name },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": parent }],
            "rules": [{ "backendRefs": [{ "name": backend, "port": 80 }] }],
        },
    })
}

fn virtual_service(name: &str, host: &str, regex: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": { "name": name },
        "spec": {
            "hosts": [host],
            "http": [{ "match": [{ "uri": { "regex": regex } }], "route": [{ "destination": { "host": host } }] }],
        },
    })
}

fn policy(name: &str, target: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": { "name": name },
        "spec": {
            "targetRefs": [{ "group": "", "kind": "Service", "name": target }],
            "rules": [{ "to": [{ "operation": { "methods": ["GET"] } }] }],
        },
    })
}

/// The entry of a controller in a route's status.
fn parent<'a>(route: &'a Value, controller: &str) -> &'a Value {
    let parents = route["status"]["parents"].as_array();
    parents.and_then(|all| all.iter().find(|one| one["controllerName"] == controller)).unwrap_or(&Value::Null)
}

/// Whether our entry has a condition, for the route as it is now.
pub fn route_is(route: &Value, kind: &str, status: &str, reason: &str) -> bool {
    let entry = parent(route, OURS);
    let found = entry["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == kind));
    found.is_some_and(|one| {
        one["status"] == status
            && one["reason"] == reason
            && one["observedGeneration"] == route["metadata"]["generation"]
    })
}

const OURS: &str = "istio.io/gateway-controller";

/// An Ingress says where it is reached while it is ours; what others say of
/// theirs is left alone.
pub async fn ingresses() {
    let mesh = shared().await;
    let ns = mesh.namespace("ingresses").await;
    let front = mesh
        .api()
        .apply(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "istio-ingressgateway", "namespace": "istio-system" },
            "spec": {
                "type": "LoadBalancer", "selector": { "istio": "ingressgateway" }, "externalIPs": ["192.0.2.7"],
                "ports": [{ "name": "http", "port": 80 }],
            },
        }))
        .await;
    let addresses = |hosts: Value| json!({ "loadBalancer": { "ingress": hosts } });
    let balancer = json!([{ "ip": "192.0.2.8" }, { "hostname": "lb.example.com" }]);
    mesh.api().patch_status(&front, addresses(balancer)).await.unwrap();
    let ingress = |name: &str, class: &str| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": { "name": name, "annotations": { "kubernetes.io/ingress.class": class } },
            "spec": { "defaultBackend": { "service": { "name": "a", "port": { "number": 80 } } } },
        })
    };
    let theirs = ns.apply(ingress("theirs", "nginx")).await;
    let elsewhere = addresses(json!([{ "ip": "192.0.2.1" }]));
    ns.api.patch_status(&theirs, elsewhere.clone()).await.unwrap();
    ns.apply(ingress("ours", "istio")).await;
    let reached = addresses(json!([{ "ip": "192.0.2.7" }, { "ip": "192.0.2.8" }, { "hostname": "lb.example.com" }]));
    ns.until("Ingress", "ours", "says where it is reached", |one| one["status"] == reached).await;
    mesh.api().patch_status(&front, addresses(json!([{ "ip": "192.0.2.9" }]))).await.unwrap();
    let moved = addresses(json!([{ "ip": "192.0.2.7" }, { "ip": "192.0.2.9" }]));
    ns.until("Ingress", "ours", "has moved", |one| one["status"] == moved).await;
    ns.apply(ingress("ours", "nginx")).await;
    ns.until("Ingress", "ours", "is somebody else's", |one| one["status"]["loadBalancer"] == json!({})).await;
    ns.until("Ingress", "theirs", "is left alone", |one| one["status"] == elsewhere).await;
}

/// Bad objects and their neighbours, then all of them mended.
pub async fn bad_objects() {
    let mesh = shared().await;
    let ns = mesh.namespace("status").await;
    ns.apply(gateway("w", "istio-waypoint")).await;
    ns.apply(service("a")).await;
    ns.apply(service("b")).await;
    let bad_route = ns.apply(http_route("bad", "a", "missing")).await;
    ns.apply(http_route("good", "b", "a")).await;
    ns.apply(virtual_service("bad", "a", "/a(?=b)")).await;
    ns.apply(virtual_service("good", "b", "/a.*")).await;
    ns.apply(policy("bad", "missing")).await;
    ns.apply(policy("good", "b")).await;

    let route = ns
        .until("HTTPRoute", "bad", "names its backend", |one| {
            route_is(one, "ResolvedRefs", "False", "BackendNotFound") && route_is(one, "Accepted", "True", "Accepted")
        })
        .await;
    assert!(parent(&route, OURS).to_string().contains("spec.rules[0].backendRefs[0]"), "{route}");
    ns.until("HTTPRoute", "good", "is good", |one| {
        route_is(one, "ResolvedRefs", "True", "ResolvedRefs")
            && route_is(one, "Accepted", "True", "Accepted")
            && route_is(one, "ResolvedWaypoints", "True", "ResolvedWaypoints")
    })
    .await;
    let said = ns
        .until("VirtualService", "bad", "names its field", |one| {
            condition(one, "Accepted")["status"] == "False"
                && condition(one, "Accepted")["message"].to_string().contains("spec.http[0].match[0].uri")
        })
        .await;
    assert_eq!(condition(&said, "Accepted")["observedGeneration"], said["metadata"]["generation"]);
    ns.until("VirtualService", "good", "is good", |one| is(one, "Accepted", "True", "Accepted")).await;
    ns.until("AuthorizationPolicy", "bad", "misses its target", |one| {
        is(one, "WaypointAccepted", "False", "TargetNotFound")
    })
    .await;
    ns.until("AuthorizationPolicy", "good", "is bound", |one| is(one, "WaypointAccepted", "True", "Accepted")).await;

    // Somebody else has something to say too.
    let theirs = json!({
        "parentRef": { "group": "", "kind": "Service", "name": "a" }, "controllerName": "example.com/other",
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    });
    let both = json!({ "parents": [theirs, parent(&route, OURS)] });
    ns.api.patch_status(&bad_route, both).await.unwrap();
    let mut with_theirs = virtual_service("bad", "a", "/a.*");
    with_theirs["metadata"]["namespace"] = json!(ns.name);
    let other = json!({ "type": "theirs", "status": "True" });
    let conditions = json!({ "conditions": [other, condition(&said, "Accepted")] });
    ns.api.patch_status(&with_theirs, conditions).await.unwrap();

    ns.apply(http_route("bad", "a", "b")).await;
    ns.apply(with_theirs).await;
    ns.apply(policy("bad", "a")).await;
    let route =
        ns.until("HTTPRoute", "bad", "is mended", |one| route_is(one, "ResolvedRefs", "True", "ResolvedRefs")).await;
    assert_eq!(parent(&route, "example.com/other"), &theirs);
    let mended = ns
        .until("VirtualService", "bad", "is mended", |one| {
            is(one, "Accepted", "True", "Accepted")
                && condition(one, "Accepted")["observedGeneration"] == one["metadata"]["generation"]
        })
        .await;
    assert_eq!(condition(&mended, "theirs"), &other);
    ns.until("AuthorizationPolicy", "bad", "is bound", |one| is(one, "WaypointAccepted", "True", "Accepted")).await;
}

/// Gives an account what the chart gives, with the leases of a namespace.
async fn grant(api: &Api, ns: &Namespace, account: &str) {
    let folder = cluster::repository().join("charts/fairway/files");
    let role = |file: &str| -> Value {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        fairway::api::yaml(&text).unwrap()
    };
    let subjects = json!([{ "kind": "ServiceAccount", "name": account, "namespace": ns.name }]);
    let reference = |kind: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "fairway" });
    ns.service_account(account).await;
    api.apply(role("cluster-role.yaml")).await;
    ns.apply(role("role.yaml")).await;
    api.apply(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "fairway" },
        "roleRef": reference("ClusterRole"), "subjects": subjects,
    }))
    .await;
    ns.apply(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "fairway" },
        "roleRef": reference("Role"), "subjects": subjects,
    }))
    .await;
}

/// The chart's rights are enough for all that is written.
pub async fn with_the_rights_of_the_chart() {
    let cluster = spare().await;
    let ns = Namespace::new(&cluster.api, "rights").await;
    grant(&cluster.api, &ns, "fairway").await;
    let kubeconfig = cluster.kubeconfig_of(&ns.name, "fairway").await;
    // With its own namespace it has leases that nobody held before.
    let fairway = Fairway::start(&Options::new(&kubeconfig).env("POD_NAMESPACE", &ns.name)).await;
    ns.apply(gateway("w", "istio-waypoint")).await;
    ns.apply(service("a")).await;
    ns.apply(http_route("route", "a", "a")).await;
    ns.apply(virtual_service("v", "a", "/a.*")).await;
    ns.apply(policy("p", "a")).await;
    ns.until("HTTPRoute", "route", "is good", |one| route_is(one, "Accepted", "True", "Accepted")).await;
    ns.until("VirtualService", "v", "is good", |one| is(one, "Accepted", "True", "Accepted")).await;
    ns.until("AuthorizationPolicy", "p", "is bound", |one| is(one, "WaypointAccepted", "True", "Accepted")).await;
    ns.until("Service", "a", "is bound", |one| is(one, "istio.io/WaypointBound", "True", "WaypointAccepted")).await;
    ns.until("Gateway", "w", "waits for a proxy", |one| is(one, "Programmed", "False", "Pending")).await;
    eventually("root certificates", || async {
        ns.api.get("v1", "ConfigMap", &ns.name, "istio-ca-root-cert").await.map_err(|refused| refused.message)
    })
    .await;
    let log = fairway.log().to_lowercase();
    assert!(!log.contains("forbidden"), "{log}");
}
