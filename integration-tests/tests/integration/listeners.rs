//! Gateways of the class `istio`: what is made for them, and what they, what
//! adds listeners to them, and the routes that are attached to them say.

use serde_json::{Value, json};

use crate::gateways::{goes, is};
use crate::mesh::shared;
use crate::status::route_is;

const GATEWAY: &str = "gateway.networking.k8s.io/v1";

fn gateway(name: &str, listeners: Value) -> Value {
    json!({
        "apiVersion": GATEWAY, "kind": "Gateway", "metadata": { "name": name },
        "spec": { "gatewayClassName": "istio", "listeners": listeners },
    })
}

fn http_route(name: &str, parent: Value, host: &str) -> Value {
    json!({
        "apiVersion": GATEWAY, "kind": "HTTPRoute", "metadata": { "name": name },
        "spec": {
            "parentRefs": [parent], "hostnames": [host],
            "rules": [{ "backendRefs": [{ "name": "backend", "port": 80 }] }],
        },
    })
}

fn backend() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "backend" },
        "spec": { "selector": { "app": "backend" }, "ports": [{ "name": "http", "port": 80 }] },
    })
}

/// The status of a listener.
fn listener<'a>(object: &'a Value, name: &str) -> &'a Value {
    let listeners = object["status"]["listeners"].as_array();
    listeners.and_then(|all| all.iter().find(|one| one["name"] == name)).unwrap_or(&Value::Null)
}

/// What is made for a Gateway, and what it says when a load balancer and a pod
/// of it are there.
pub async fn life() {
    let mesh = shared().await;
    let ns = mesh.namespace("edge").await;
    let listeners = json!([
        { "name": "http", "port": 80, "protocol": "HTTP" },
        { "name": "passthrough", "port": 443, "protocol": "TLS", "hostname": "a.example.com", "tls": { "mode": "Passthrough" } },
    ]);
    ns.apply(gateway("g", listeners)).await;
    for kind in ["ServiceAccount", "Deployment", "Service"] {
        let made = ns.until(kind, "g-istio", "is made", |_| true).await;
        assert_eq!(made["metadata"]["labels"]["gateway.istio.io/managed"], "istio.io-gateway-controller");
        assert_eq!(made["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"], "g");
    }
    let service = ns.until("Service", "g-istio", "has ports", |one| one["spec"]["clusterIP"].is_string()).await;
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    let ports: Vec<_> = service["spec"]["ports"].as_array().unwrap().iter().map(|one| one["port"].clone()).collect();
    assert_eq!(ports, [json!(15021), json!(80), json!(443)]);
    let waits = |one: &Value| is(one, "Programmed", "False", "AddressNotAssigned");
    let said = ns.until("Gateway", "g", "waits for its load balancer", waits).await;
    assert!(is(&said, "Accepted", "True", "Accepted"), "{said}");
    assert_eq!(said["status"]["addresses"], Value::Null);

    let service =
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "g-istio", "namespace": ns.name } });
    let balancer = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.10" }] } });
    ns.api.patch_status(&service, balancer).await.unwrap();
    let addressed = |one: &Value| one["status"]["addresses"] == json!([{ "type": "IPAddress", "value": "192.0.2.10" }]);
    let said = ns.until("Gateway", "g", "has an address", addressed).await;
    assert!(is(&said, "Programmed", "False", "Pending"), "nobody answers yet: {said}");

    // A Gateway goes with what was made for it.
    let gone = json!({ "apiVersion": GATEWAY, "kind": "Gateway", "metadata": { "name": "g", "namespace": ns.name } });
    ns.api.delete(&gone).await;
    goes(&ns, "Deployment", "g-istio").await;
}

/// Routes say where they are attached, and listeners how many are.
pub async fn routes() {
    let mesh = shared().await;
    let (ns, other) = (mesh.namespace("edge-routes").await, mesh.namespace("edge-other").await);
    ns.apply(backend()).await;
    other.apply(backend()).await;
    let listeners = json!([
        { "name": "one", "port": 80, "protocol": "HTTP", "hostname": "*.example.com" },
        { "name": "again", "port": 80, "protocol": "TCP" },
        { "name": "grpc", "port": 81, "protocol": "HTTP", "allowedRoutes": { "kinds": [{ "kind": "GRPCRoute" }] } },
        { "name": "tls", "port": 443, "protocol": "HTTPS", "tls": { "certificateRefs": [{ "name": "missing" }] } },
    ]);
    ns.apply(gateway("g", listeners)).await;
    ns.apply(http_route("good", json!({ "name": "g" }), "a.example.com")).await;
    ns.apply(http_route("host", json!({ "name": "g", "sectionName": "one" }), "a.example.org")).await;
    ns.apply(http_route("section", json!({ "name": "g", "sectionName": "gone" }), "a.example.com")).await;
    ns.apply(http_route("kind", json!({ "name": "g", "sectionName": "grpc" }), "a.example.com")).await;
    other.apply(http_route("namespace", json!({ "name": "g", "namespace": ns.name }), "a.example.com")).await;
    ns.until("HTTPRoute", "good", "is attached", |one| {
        route_is(one, "Accepted", "True", "Accepted") && route_is(one, "ResolvedRefs", "True", "ResolvedRefs")
    })
    .await;
    let denied = |reason: &'static str| move |one: &Value| route_is(one, "Accepted", "False", reason);
    ns.until("HTTPRoute", "host", "fits no listener", denied("NoMatchingListenerHostname")).await;
    ns.until("HTTPRoute", "section", "finds no listener", denied("NoMatchingParent")).await;
    ns.until("HTTPRoute", "kind", "is not taken", denied("NotAllowedByListeners")).await;
    other.until("HTTPRoute", "namespace", "is not let in", denied("NotAllowedByListeners")).await;
    let counted = |one: &Value| listener(one, "one")["attachedRoutes"] == 1;
    let said = ns.until("Gateway", "g", "counts its routes", counted).await;
    assert!(is(&said, "Accepted", "True", "ListenersNotValid"), "{said}");
    let conflict = &listener(&said, "again")["conditions"];
    let conflicted = conflict.as_array().unwrap().iter().find(|one| one["type"] == "Conflicted").unwrap();
    assert_eq!((&conflicted["status"], &conflicted["reason"]), (&json!("True"), &json!("ProtocolConflict")));

    let told = || async {
        let events = ns.api.list("v1", "Event", &ns.name).await;
        let of = |one: &&Value| one["involvedObject"]["name"] == "g" && one["reason"] == "InvalidCertificateRef";
        match events.iter().find(of) {
            Some(event) => Ok(event.clone()),
            None => Err(events),
        }
    };
    let event = fairway_integration_tests::eventually("an Event about the certificate", told).await;
    assert_eq!((&event["type"], &event["count"]), (&json!("Warning"), &json!(1)), "{event}");
    let message = event["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("listener tls: ") && message.contains("missing"), "{event}");

    ns.apply(http_route("host", json!({ "name": "g", "sectionName": "one" }), "b.example.com")).await;
    ns.until("HTTPRoute", "host", "is mended", |one| route_is(one, "Accepted", "True", "Accepted")).await;
    ns.until("Gateway", "g", "counts both", |one| listener(one, "one")["attachedRoutes"] == 2).await;
    // What is gone is no longer counted.
    let gone =
        json!({ "apiVersion": GATEWAY, "kind": "HTTPRoute", "metadata": { "name": "good", "namespace": ns.name } });
    ns.api.delete(&gone).await;
    ns.until("Gateway", "g", "counts what is left", counted).await;
}

/// Listeners are added by others, if the Gateway lets them.
pub async fn listener_sets() {
    let mesh = shared().await;
    let ns = mesh.namespace("edge-sets").await;
    ns.apply(backend()).await;
    let set = |name: &str, port: u16| {
        json!({
            "apiVersion": GATEWAY, "kind": "ListenerSet", "metadata": { "name": name },
            "spec": { "parentRef": { "name": "g" }, "listeners": [{ "name": "more", "port": port, "protocol": "HTTP" }] },
        })
    };
    let listeners = json!([{ "name": "http", "port": 80, "protocol": "HTTP" }]);
    ns.apply(gateway("g", listeners.clone())).await;
    ns.apply(set("added", 8080)).await;
    ns.apply(set("taken", 80)).await;
    let denied =
        |one: &Value| is(one, "Accepted", "False", "NotAllowed") && is(one, "Programmed", "False", "NotAllowed");
    ns.until("ListenerSet", "added", "is not let in", denied).await;
    let mut allowing = gateway("g", listeners);
    allowing["spec"]["allowedListeners"] = json!({ "namespaces": { "from": "Same" } });
    ns.apply(allowing).await;
    ns.until("ListenerSet", "added", "is let in", |one| is(one, "Accepted", "True", "Accepted")).await;
    ns.until("ListenerSet", "taken", "conflicts", |one| is(one, "Accepted", "False", "ListenersNotValid")).await;
    ns.until("Gateway", "g", "counts it", |one| one["status"]["attachedListenerSets"] == 1).await;
    ns.until("Service", "g-istio", "has its port", |one| one["spec"]["ports"].to_string().contains("8080")).await;
    let parent = json!({ "group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "added" });
    ns.apply(http_route("r", parent, "a.example.com")).await;
    ns.until("HTTPRoute", "r", "is attached", |one| route_is(one, "Accepted", "True", "Accepted")).await;
    ns.until("ListenerSet", "added", "counts it", |one| listener(one, "more")["attachedRoutes"] == 1).await;
}

/// TLS policies for backends say what they have an effect on.
pub async fn backend_tls() {
    let mesh = shared().await;
    let ns = mesh.namespace("edge-tls").await;
    ns.apply(backend()).await;
    ns.apply(gateway("g", json!([{ "name": "http", "port": 80, "protocol": "HTTP" }]))).await;
    ns.apply(http_route("r", json!({ "name": "g" }), "a.example.com")).await;
    let policy = |target: &str| {
        json!({
            "apiVersion": GATEWAY, "kind": "BackendTLSPolicy", "metadata": { "name": "p" },
            "spec": {
                "targetRefs": [{ "group": "", "kind": "Service", "name": target }],
                "validation": { "hostname": "a.example.com", "wellKnownCACertificates": "System" },
            },
        })
    };
    let reasons = |one: &Value| -> Vec<String> {
        let ancestors = one["status"]["ancestors"].as_array().cloned().unwrap_or_default();
        let line = |one: &Value| format!("{} {}", one["ancestorRef"]["name"], one["conditions"][0]["reason"]);
        ancestors.iter().map(line).collect()
    };
    ns.apply(policy("gone")).await;
    ns.until("BackendTLSPolicy", "p", "misses its target", |one| reasons(one) == [r#""gone" "TargetNotFound""#]).await;
    ns.apply(policy("backend")).await;
    let both = [r#""backend" "Accepted""#, r#""g" "Accepted""#];
    ns.until("BackendTLSPolicy", "p", "has an effect", |one| reasons(one) == both).await;
}
