//! Random changes, compared with the second opinion all along.

use fairway_integration_tests::api::Api;
use fairway_integration_tests::expected::converged;
use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::kubelet::{pod_ip, running};
use fairway_integration_tests::ztunnel::{self, Ztunnel};
use serde_json::{Value, json};

use crate::mesh::{Namespace, authorization_policy, peer_authentication, pod};
use crate::outage::spare;

/// Unless FAIRWAY_SOAK says how many.
const OPERATIONS: u64 = 300;
/// Unless FAIRWAY_SEED says which.
const SEED: u64 = 0x5eed;

/// A generator whose run can be repeated.
struct Random(u64);

impl Random {
    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const APPS: &[&str] = &["a", "b", "c"];
const NODES: &[&str] = &["soak-1", "soak-2"];
const MODES: &[&str] = &["STRICT", "PERMISSIVE", "DISABLE", "UNSET"];

/// One random change. Returns what it was.
async fn change(random: &mut Random, api: &Api, namespaces: &mut Vec<Namespace>) -> String {
    let at = random.below(namespaces.len());
    let ns = &namespaces[at];
    let app = random.one(APPS);
    let number = random.below(6);
    let named = |kind: &str, version: &str, name: &str| json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name, "namespace": ns.name } });
    let place = ns.name.clone();
    match random.below(20) {
        0..=4 => {
            let name = format!("pod-{number}");
            let existing = api.get("v1", "Pod", &ns.name, &name).await;
            match existing {
                Err(_) => {
                    let labels = json!({ "app": app, "v": random.one(&["1", "2"]) });
                    let created = ns.apply(pod(&name, random.one(NODES), "default", labels)).await;
                    if random.below(4) > 0 {
                        api.patch_status(&created, running(&pod_ip(), true)).await.unwrap();
                    }
                    format!("create pod {place}/{name} of {app}")
                }
                Ok(existing) => match random.below(6) {
                    0 => {
                        api.delete(&existing).await;
                        format!("delete pod {place}/{name}")
                    }
                    1 => {
                        api.patch(&existing, json!({ "metadata": { "labels": { "app": app } } })).await;
                        format!("label pod {place}/{name} {app}")
                    }
                    2 => {
                        let value = if random.below(3) > 0 { json!("enabled") } else { json!(null) };
                        let annotation = json!({ "ambient.istio.io/redirection": value });
                        api.patch(&existing, json!({ "metadata": { "annotations": annotation } })).await;
                        format!("redirect pod {place}/{name}: {value}")
                    }
                    3 => {
                        let phase = random.one(&["Succeeded", "Failed", "Running"]);
                        let mut status = running(&pod_ip(), true);
                        status["phase"] = json!(phase);
                        api.patch_status(&existing, status).await.unwrap();
                        format!("pod {place}/{name} {phase}")
                    }
                    _ => {
                        let ip = existing["status"]["podIP"].as_str().map_or_else(pod_ip, String::from);
                        let ready = random.below(2) == 0;
                        api.patch_status(&existing, running(&ip, ready)).await.unwrap();
                        format!("pod {place}/{name} ready: {ready}")
                    }
                },
            }
        }
        5..=7 => {
            let name = format!("service-{number}");
            if random.below(3) == 0 {
                api.delete(&named("Service", "v1", &name)).await;
                return format!("delete service {place}/{name}");
            }
            let target = [json!(8080), json!("http"), json!("absent"), json!(9000)][random.below(4)].clone();
            let mut service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                "spec": { "ports": [{ "name": "http", "port": 80 + number, "targetPort": target }] },
            });
            if random.below(5) > 0 {
                service["spec"]["selector"] = json!({ "app": app });
            }
            ns.apply(service).await;
            format!("service {place}/{name} for {app} → {target}")
        }
        8..=10 => {
            let name = format!("policy-{}", number % 4);
            if random.below(3) == 0 {
                api.delete(&named("AuthorizationPolicy", "security.istio.io/v1", &name)).await;
                return format!("delete policy {place}/{name}");
            }
            let selector = if random.below(4) == 0 { "" } else { app };
            let action = random.one(&["ALLOW", "DENY", "AUDIT"]);
            let principal = random.one(&["cluster.local/ns/x/sa/y", "*", "*/sa/y"]);
            ns.apply(authorization_policy(&name, selector, action, principal)).await;
            format!("policy {place}/{name} {action} for {selector:?}")
        }
        11 | 12 => {
            // The root namespace now and then.
            let root = random.below(4) == 0;
            let place = if root { "istio-system".to_string() } else { place };
            let name = format!("mtls-{}", number % 3);
            let selector = if root || random.below(2) == 0 { "" } else { app };
            let mode = random.one(MODES);
            let ports = match selector {
                "" => json!(null),
                _ => json!({ "8080": { "mode": random.one(&MODES[..3]) } }),
            };
            let mut object = peer_authentication(&name, selector, mode, ports);
            object["metadata"]["namespace"] = json!(place);
            if random.below(3) == 0 {
                api.delete(&object).await;
                return format!("delete mtls {place}/{name}");
            }
            // As a user who replaces it: apply would keep a selector.
            api.delete(&object).await;
            api.apply(object).await;
            format!("mtls {place}/{name} {mode} for {selector:?}")
        }
        13 => {
            let name = format!("entry-{}", number % 3);
            if random.below(3) == 0 {
                api.delete(&named("ServiceEntry", "networking.istio.io/v1", &name)).await;
                return format!("delete entry {place}/{name}");
            }
            let endpoints: Vec<_> =
                (0..=random.below(3)).map(|i| json!({ "address": format!("192.0.2.{i}") })).collect();
            ns.apply(json!({
                "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
                "metadata": { "name": name, "labels": { "app": app } },
                // Two entries may claim one host.
                "spec": { "hosts": [format!("host-{}.example.com", number % 2)], "addresses": [format!("198.51.100.{number}")],
                          "ports": [{ "name": "http", "number": 80, "protocol": "HTTP" }],
                          "resolution": "STATIC", "endpoints": endpoints },
            }))
            .await;
            format!("entry {place}/{name}")
        }
        14 => {
            let name = format!("vm-{}", number % 2);
            if random.below(3) == 0 {
                api.delete(&named("WorkloadEntry", "networking.istio.io/v1", &name)).await;
                return format!("delete vm {place}/{name}");
            }
            ns.apply(json!({
                "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": { "name": name },
                "spec": { "address": format!("192.0.2.{}", 100 + number), "labels": { "app": app }, "ports": { "http": 8000 + number } },
            }))
            .await;
            format!("vm {place}/{name} of {app}")
        }
        15 => {
            let name = random.one(NODES);
            let zone = random.one(&["z1", "z2"]);
            api.apply(json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": { "name": name, "labels": { "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": zone } },
            }))
            .await;
            format!("node {name} in {zone}")
        }
        16 => {
            let value = random.one(&["ambient", "none"]);
            api.patch(&ns.object(), json!({ "metadata": { "labels": { "istio.io/dataplane-mode": value } } })).await;
            format!("namespace {place} {value}")
        }
        17 => {
            let name = format!("slice-{}", number % 2);
            let ready = random.below(2) == 0;
            ns.apply(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": { "name": name, "labels": { "kubernetes.io/service-name": format!("service-{number}") } },
                "ports": [{ "name": "http", "port": 7000 + number, "protocol": "TCP" }],
                "endpoints": [
                    { "addresses": [format!("203.0.113.{number}")], "conditions": { "ready": ready } },
                    { "addresses": ["10.244.99.1"], "targetRef": { "kind": "Pod", "name": format!("pod-{number}"), "namespace": place } },
                ],
            }))
            .await;
            format!("slice {place}/{name}")
        }
        18 if namespaces.len() > 1 => {
            let ns = namespaces.swap_remove(at);
            // Its pods have no kubelet that would let them go.
            for mut pod in api.list("v1", "Pod", &ns.name).await {
                (pod["apiVersion"], pod["kind"]) = (json!("v1"), json!("Pod"));
                api.delete(&pod).await;
            }
            api.delete(&ns.object()).await;
            format!("delete namespace {place}")
        }
        _ => {
            namespaces.push(Namespace::new(api, "soak").await);
            "new namespace".into()
        }
    }
}

/// Many random changes, a few at a time; after each few the client has to
/// know exactly what the API server holds, and at the end a new client too.
pub async fn random_changes() {
    let cluster = spare().await;
    let fairway = Fairway::start(&Options::new(&cluster.kubeconfig()).flag("--read-only")).await;
    let ztunnel = Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
    let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, operations) = (number("FAIRWAY_SEED", SEED), number("FAIRWAY_SOAK", OPERATIONS));
    println!("soak: FAIRWAY_SEED={seed}");
    let mut random = Random(seed);
    let mut namespaces = vec![];
    for _ in 0..2 {
        namespaces.push(Namespace::new(&cluster.api, "soak").await);
    }
    let mut done = vec![];
    for number in 1..=operations {
        done.push(change(&mut random, &cluster.api, &mut namespaces).await);
        if number % 10 != 0 {
            continue;
        }
        let context = Context(&done);
        if !ztunnel.read(|table| table.connected) {
            ztunnel.connect(fairway.grpc).await;
        }
        if ztunnel.read(|table| table.holding) {
            ztunnel.hold_acks(false).await;
        }
        converged(&cluster.api, &ztunnel).await;
        drop(context);
        done.clear();
        // The next changes find it away, slow, or neither.
        match random.below(4) {
            0 => ztunnel.disconnect().await,
            1 => ztunnel.hold_acks(true).await,
            _ => {}
        }
    }
    if !ztunnel.read(|table| table.connected) {
        ztunnel.connect(fairway.grpc).await;
    }
    ztunnel.hold_acks(false).await;
    converged(&cluster.api, &ztunnel).await;
    let other = Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
    converged(&cluster.api, &other).await;
    assert_eq!(other.retained(), ztunnel.retained(), "a new client gets the versions of the old one");
    // What the changes in the root namespace were is nobody else's business.
    for name in ["mtls-0", "mtls-1", "mtls-2"] {
        let mut object = peer_authentication(name, "", "UNSET", Value::Null);
        object["metadata"]["namespace"] = json!("istio-system");
        cluster.api.delete(&object).await;
    }
}

/// Says, if a comparison fails, what had been changed before.
struct Context<'a>(&'a [String]);

impl Drop for Context<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("soak: the last changes were:\n    {}", self.0.join("\n    "));
        }
    }
}
