//! The life of a waypoint: what is made for a Gateway, what becomes of it, and
//! what statuses say.

use std::time::{Duration, Instant};

use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::{eventually, eventually_within};
use serde_json::{Value, json};

use crate::mesh::{Namespace, shared};
use crate::outage::spare;

const GATEWAY: &str = "gateway.networking.k8s.io/v1";

pub fn gateway(name: &str, class: &str) -> Value {
    json!({
        "apiVersion": GATEWAY, "kind": "Gateway", "metadata": { "name": name },
        "spec": { "gatewayClassName": class, "listeners": [{ "name": "mesh", "port": 15008, "protocol": "HBONE" }] },
    })
}

fn version(kind: &str) -> &'static str {
    match kind {
        "Deployment" => "apps/v1",
        "HorizontalPodAutoscaler" => "autoscaling/v2",
        "PodDisruptionBudget" => "policy/v1",
        "Gateway" | "GatewayClass" | "ListenerSet" | "HTTPRoute" | "BackendTLSPolicy" => GATEWAY,
        "ServiceEntry" | "VirtualService" | "DestinationRule" => "networking.istio.io/v1",
        "Ingress" => "networking.k8s.io/v1",
        "AuthorizationPolicy" => "security.istio.io/v1",
        _ => "v1",
    }
}

impl Namespace {
    /// An object of this namespace, once it is as it should be.
    pub async fn until(&self, kind: &str, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{kind} {name}: {what}"), || async {
            let object =
                self.api.get(version(kind), kind, &self.name, name).await.map_err(|refused| refused.message)?;
            if good(&object) { Ok(object) } else { Err(object.to_string()) }
        })
        .await
    }

    async fn version_of(&self, kind: &str, name: &str) -> Value {
        let object = self.api.get(version(kind), kind, &self.name, name).await.unwrap();
        object["metadata"]["resourceVersion"].clone()
    }
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.and_then(|all| all.iter().find(|one| one["type"] == kind)).unwrap_or(&Value::Null)
}

pub fn is(object: &Value, kind: &str, status: &str, reason: &str) -> bool {
    let condition = condition(object, kind);
    condition["status"] == status && condition["reason"] == reason
}

/// The classes are there, accepted, and come back.
pub async fn classes() {
    let mesh = shared().await;
    for name in ["istio", "istio-waypoint", "istio-mesh"] {
        let class = eventually(&format!("class {name} is accepted"), || async {
            let class = mesh.api().get(GATEWAY, "GatewayClass", "", name).await.map_err(|refused| refused.message)?;
            if is(&class, "Accepted", "True", "Accepted") { Ok(class) } else { Err(class.to_string()) }
        })
        .await;
        let features = class["status"]["supportedFeatures"].as_array().map_or(0, Vec::len);
        assert!(features > 0, "{class}");
    }
}

/// What is made for a Gateway, is repaired, and goes with it.
pub async fn waypoint() {
    let mesh = shared().await;
    let ns = mesh.namespace("waypoint").await;
    let object = ns.apply(gateway("w", "istio-waypoint")).await;
    let ours = |object: &Value, uid: &Value| {
        let owner = &object["metadata"]["ownerReferences"][0];
        owner["uid"] == *uid && owner["controller"] == true
    };
    let uid = object["metadata"]["uid"].clone();
    for kind in ["ServiceAccount", "Deployment", "Service"] {
        let made = ns.until(kind, "w", "is made", |made| ours(made, &uid)).await;
        assert_eq!(made["metadata"]["labels"]["gateway.istio.io/managed"], "istio.io-mesh-controller");
    }
    let service = ns.until("Service", "w", "has an address", |one| one["spec"]["clusterIP"].is_string()).await;
    let status = ns.until("Gateway", "w", "waits for a proxy", |one| is(one, "Programmed", "False", "Pending")).await;
    assert!(is(&status, "Accepted", "True", "Accepted"), "{status}");
    assert_eq!(status["metadata"]["annotations"]["gateway.istio.io/controller-version"], "5");
    let host = format!("w.{}.svc.cluster.local", ns.name);
    let addresses = json!([
        { "type": "IPAddress", "value": service["spec"]["clusterIP"] }, { "type": "Hostname", "value": host },
    ]);
    assert_eq!(status["status"]["addresses"], addresses);
    let listener = &status["status"]["listeners"][0];
    assert_eq!((&listener["name"], &listener["attachedRoutes"]), (&json!("mesh"), &json!(0)));

    // When all is as it should be, nothing is written. The Deployment's own
    // controller writes its status.
    let versions = async || {
        let mut versions = vec![];
        for kind in ["ServiceAccount", "Service", "Gateway"] {
            versions.push(ns.version_of(kind, "w").await);
        }
        let deployment = ns.api.get("apps/v1", "Deployment", &ns.name, "w").await.unwrap();
        versions.push(deployment["metadata"]["generation"].clone());
        versions
    };
    let before = versions().await;
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        assert_eq!(versions().await, before);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // A pod of it is ready, wherever it is connected.
    let deployment =
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "w", "namespace": ns.name } });
    for change in [
        json!({ "spec": { "template": { "spec": { "serviceAccountName": "default" } } } }),
        json!({ "metadata": { "labels": { "gateway.istio.io/managed": null } } }),
    ] {
        ns.api.patch(&deployment, change).await;
        ns.until("Deployment", "w", "is repaired", |one| {
            one["spec"]["template"]["spec"]["serviceAccountName"] == "w"
                && one["metadata"]["labels"]["gateway.istio.io/managed"] == "istio.io-mesh-controller"
        })
        .await;
    }
    ns.api.delete(&deployment).await;
    ns.until("Deployment", "w", "is made again", |one| ours(one, &uid)).await;

    let mut gone = gateway("w", "istio-waypoint");
    gone["metadata"]["namespace"] = json!(ns.name);
    ns.api.delete(&gone).await;
    for kind in ["ServiceAccount", "Deployment", "Service"] {
        goes(&ns, kind, "w").await;
    }
}

/// How long Kubernetes may take to collect what a Gateway has left behind: a
/// cluster that has just begun hears of new kinds after half a minute, and tries
/// again after a time that grows.
const COLLECTED: Duration = Duration::from_secs(150);

/// Waits until what was made for a Gateway has gone with it.
pub async fn goes(ns: &Namespace, kind: &str, name: &str) {
    eventually_within(COLLECTED, &format!("{kind} goes with its Gateway"), || async {
        match ns.api.get(version(kind), kind, &ns.name, name).await {
            Err(refused) if refused.code == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// What a user adds to the objects of a Gateway is there, once and for all; what
/// cannot be added is said.
pub async fn overlays() {
    let mesh = shared().await;
    let ns = mesh.namespace("overlays").await;
    ns.apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "mine" },
        "data": {
            // Not as the API server stores amounts.
            "deployment": "spec: {template: {spec: {containers: [{name: istio-proxy, resources: {limits: {cpu: 2, memory: 2048Mi}, requests: {cpu: 1000m}}}]}}}",
            "service": "metadata: {annotations: {example.com/a: b}}",
            "horizontalPodAutoscaler": "spec: {minReplicas: 2, maxReplicas: 4, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}",
            "podDisruptionBudget": "spec: {minAvailable: 50%}",
        },
    }))
    .await;
    let with_parameters = |name: &str, parameters: &str| {
        let mut gateway = gateway(name, "istio-waypoint");
        gateway["spec"]["infrastructure"] =
            json!({ "parametersRef": { "group": "", "kind": "ConfigMap", "name": parameters } });
        gateway
    };
    ns.apply(with_parameters("w", "mine")).await;
    let scaler = ns.until("HorizontalPodAutoscaler", "w", "is made", |_| true).await;
    let wanted = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "w" });
    assert_eq!((&scaler["spec"]["scaleTargetRef"], &scaler["spec"]["minReplicas"]), (&wanted, &json!(2)));
    let budget = ns.until("PodDisruptionBudget", "w", "is made", |_| true).await;
    assert_eq!(budget["spec"]["minAvailable"], "50%");
    assert_eq!(budget["spec"]["selector"]["matchLabels"]["gateway.networking.k8s.io/gateway-name"], "w");
    let service = ns.until("Service", "w", "is made", |_| true).await;
    assert_eq!(service["metadata"]["annotations"]["example.com/a"], "b");
    let deployment = ns.until("Deployment", "w", "is made", |_| true).await;
    let resources = &deployment["spec"]["template"]["spec"]["containers"][0]["resources"];
    let stored = json!({ "limits": { "cpu": "2", "memory": "2Gi" }, "requests": { "cpu": "1", "memory": "128Mi" } });
    assert_eq!(*resources, stored);

    // When all is as it should be, nothing is written.
    let written = async || {
        let mut entries = vec![];
        for kind in ["Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"] {
            let object = ns.api.get(version(kind), kind, &ns.name, "w").await.unwrap();
            let all = object["metadata"]["managedFields"].as_array().unwrap().clone();
            entries.extend(all.into_iter().filter(|entry| entry["manager"] == "istio.io/gateway-controller"));
        }
        entries
    };
    let settled = eventually("all is settled", || async {
        let before = written().await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        if written().await == before { Ok(before) } else { Err("still written") }
    })
    .await;
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        assert_eq!(written().await, settled);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // A change is noticed at once, and what only an overlay had made goes with it.
    let changed = Instant::now();
    ns.apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "mine" },
        "data": { "service": "metadata: {annotations: {example.com/a: c}}", "podDisruptionBudget": "spec: {minAvailable: 30%}" },
    }))
    .await;
    ns.until("Service", "w", "is changed", |one| one["metadata"]["annotations"]["example.com/a"] == "c").await;
    ns.until("PodDisruptionBudget", "w", "is changed", |one| one["spec"]["minAvailable"] == "30%").await;
    eventually("the scaler is gone", || async {
        match ns.api.get("autoscaling/v2", "HorizontalPodAutoscaler", &ns.name, "w").await {
            Err(refused) if refused.code == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(changed.elapsed() < Duration::from_secs(20), "{:?}", changed.elapsed());

    ns.apply(with_parameters("other", "nothing")).await;
    let said = ns.until("Gateway", "other", "says why", |one| is(one, "Accepted", "False", "InvalidParameters")).await;
    assert!(condition(&said, "Accepted")["message"].as_str().unwrap().contains("nothing"), "{said}");
    assert_eq!(ns.api.get("apps/v1", "Deployment", &ns.name, "other").await.unwrap_err().code, 404);
}

/// A Deployment that somebody else made is left alone, and so is a class.
pub async fn of_others() {
    let mesh = shared().await;
    let ns = mesh.namespace("foreign").await;
    let theirs = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "w" },
        "spec": {
            "replicas": 0,
            "selector": { "matchLabels": { "app": "theirs" } },
            "template": {
                "metadata": { "labels": { "app": "theirs" } },
                "spec": { "containers": [{ "name": "theirs", "image": "theirs" }] },
            },
        },
    });
    ns.apply(theirs).await;
    let before = ns.until("Deployment", "w", "has settled", |one| one["status"]["observedGeneration"] == 1).await;
    ns.apply(gateway("w", "istio-waypoint")).await;
    let said = |one: &Value| {
        let message = condition(one, "Programmed")["message"].as_str().unwrap_or_default().to_owned();
        message.contains("Deployment") && message.contains("does not belong to this Gateway")
    };
    ns.until("Gateway", "w", "says what is in the way", said).await;
    let after = ns.api.get("apps/v1", "Deployment", &ns.name, "w").await.unwrap();
    assert_eq!(after["spec"], before["spec"]);
    assert_eq!(after["metadata"]["ownerReferences"], Value::Null);

    // Nor is there anything for a Gateway of a class or revision of others.
    let mut other = gateway("other", "istio-waypoint");
    other["metadata"]["labels"] = json!({ "istio.io/rev": "canary" });
    ns.apply(other).await;
    ns.apply(gateway("third", "somebody-else")).await;
    ns.apply(gateway("last", "istio-waypoint")).await;
    ns.until("Service", "last", "is made", |one| one["spec"]["clusterIP"].is_string()).await;
    for name in ["other", "third"] {
        assert_eq!(ns.api.get("v1", "Service", &ns.name, name).await.unwrap_err().code, 404);
        let gateway = ns.api.get(GATEWAY, "Gateway", &ns.name, name).await.unwrap();
        assert_eq!(gateway["metadata"]["annotations"], Value::Null, "{gateway}");
    }
}

/// Services and ServiceEntries say whether they have the waypoint they ask for.
pub async fn bound() {
    const BOUND: &str = "istio.io/WaypointBound";
    let mesh = shared().await;
    let ns = mesh.namespace("bound").await;
    let labelled = |mut object: Value, waypoint: &str| {
        object["metadata"]["labels"] = json!({ "istio.io/use-waypoint": waypoint });
        object
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" },
        "spec": { "selector": { "app": "s" }, "ports": [{ "name": "http", "port": 80 }] },
    });
    let entry = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": { "name": "e" },
        "spec": { "hosts": ["e.example.com"], "resolution": "DNS",
                  "ports": [{ "name": "http", "number": 80, "protocol": "HTTP" }] },
    });
    ns.apply(labelled(service.clone(), "w")).await;
    ns.apply(labelled(entry, "w")).await;
    for (kind, name) in [("Service", "s"), ("ServiceEntry", "e")] {
        let object = ns.until(kind, name, "waits", |one| is(one, BOUND, "False", "WaypointIsNotReady")).await;
        assert_eq!(condition(&object, BOUND)["message"], format!("waypoint \"{}/w\" is not ready", ns.name));
    }
    ns.apply(gateway("w", "istio-waypoint")).await;
    for (kind, name) in [("Service", "s"), ("ServiceEntry", "e")] {
        let object = ns.until(kind, name, "is bound", |one| is(one, BOUND, "True", "WaypointAccepted")).await;
        let message = format!("Successfully attached to waypoint {}/w", ns.name);
        assert_eq!(condition(&object, BOUND)["message"], message);
    }
    ns.apply(labelled(service, "none")).await;
    ns.until("Service", "s", "no longer asks", |one| condition(one, BOUND).is_null()).await;
}

/// With `--read-only`, nothing is made for a Gateway, and nothing is said.
pub async fn read_only() {
    let cluster = spare().await;
    let ns = Namespace::new(&cluster.api, "silent").await;
    ns.apply(gateway("w", "istio-waypoint")).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "s", "labels": { "istio.io/use-waypoint": "w" } },
        "spec": { "ports": [{ "name": "http", "port": 80 }] },
    });
    ns.apply(service).await;
    let classes = async || cluster.api.list(GATEWAY, "GatewayClass", "").await;
    let classes_before = classes().await;
    let (gateway, service) = (ns.version_of("Gateway", "w").await, ns.version_of("Service", "s").await);
    let _fairway = Fairway::start(&Options::new(&cluster.kubeconfig()).flag("--read-only")).await;
    // Time to do what it should not do.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(ns.version_of("Gateway", "w").await, gateway);
    assert_eq!(ns.version_of("Service", "s").await, service);
    for kind in ["ServiceAccount", "Deployment", "Service"] {
        assert_eq!(ns.api.get(version(kind), kind, &ns.name, "w").await.unwrap_err().code, 404);
    }
    assert_eq!(classes().await, classes_before);
}
