//! Ambient mode from its first pod to its last, as the guides tell it: an
//! application joins the mesh, connections are authorised, a waypoint is put in
//! front of a service, requests are authorised, traffic is shifted; and all of it
//! is undone. Those outside of the mesh come in through gateways meanwhile.
//! <https://istio.io/latest/docs/ambient/getting-started/>

mod ingress;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fairway_integration_tests::child::free_address;
use fairway_integration_tests::stage::{Access, Stage, is_ready};
use fairway_integration_tests::{cluster, eventually, runner};
use serde_json::Value;

use super::shared;

const BOOKINFO: &str = include_str!("../../../stage/walkthrough/bookinfo.yaml");
const PRODUCTPAGE_VIEWER: &str = include_str!("../../../stage/walkthrough/productpage-viewer.yaml");
const PRODUCTPAGE_WAYPOINT: &str = include_str!("../../../stage/walkthrough/productpage-waypoint.yaml");
const PRODUCTPAGE_METHODS: &str = include_str!("../../../stage/walkthrough/productpage-methods.yaml");
const REVIEWS_WAYPOINT: &str = include_str!("../../../stage/walkthrough/reviews-waypoint.yaml");

/// A label of each pod.
const PODS: [&str; 7] =
    ["app=productpage", "app=details", "app=ratings", "version=v2", "version=v3", "app=sleep", "app=notsleep"];
const PRODUCTPAGE: &str = "http://productpage:9080/";
const DENIED: &str = "RBAC: access denied";
/// HTTP's 200.
const OK: &str = "200";

/// The clients, by name of their pods.
struct Scene {
    stage: &'static Stage,
    sleep: String,
    notsleep: String,
}

/// The answer to a request.
#[derive(Debug)]
struct Answer {
    /// How curl ended: 0, or why there was no answer.
    curl: i32,
    status: String,
    body: String,
}

impl Scene {
    async fn curl(&self, pod: &str, arguments: &[&str]) -> Answer {
        let mut command = vec!["curl", "-sS", "-m", "10", "-w", "\n%{http_code}"];
        command.extend(arguments);
        let output = self.stage.exec("default", pod, &command).await;
        let (body, status) = output.stdout.rsplit_once('\n').unwrap_or(("", ""));
        Answer { curl: output.code, status: status.into(), body: format!("{body}{}", output.stderr) }
    }

    /// A GET that sleep sends.
    async fn get(&self, url: &str) -> Answer {
        self.curl(&self.sleep, &[url]).await
    }

    /// Connections of the application's pods that the ztunnels have seen.
    async fn accesses(&self) -> Vec<Access> {
        self.stage.ztunnels().await.iter().flat_map(|ztunnel| ztunnel.accesses()).collect()
    }

    /// Whether all pods of the application are behind HBONE for every ztunnel.
    async fn captured(&self, wanted: bool) {
        let pods: BTreeSet<String> = self.application().into_iter().collect();
        for ztunnel in self.stage.ztunnels().await {
            ztunnel
                .client()
                .until(&format!("HBONE is {wanted} for all"), |table| {
                    let of_app = table.workloads.values().filter(|one| pods.contains(&one.name));
                    let wrong = of_app.clone().filter(|one| (one.tunnel_protocol == 1) != wanted);
                    let wrong: Vec<_> = wrong.map(|one| one.name.clone()).collect();
                    let all = of_app.count() == pods.len();
                    if wrong.is_empty() && all { Ok(()) } else { Err(format!("{wrong:?}, all are there: {all}")) }
                })
                .await;
        }
    }

    /// Names of the application's pods.
    fn application(&self) -> Vec<String> {
        let labels = ["app=productpage", "app=details", "app=ratings", "app=reviews", "app=sleep", "app=notsleep"];
        let pods = labels.iter().flat_map(|label| self.stage.pods("default", label));
        pods.map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits for a condition of an object.
    async fn condition(&self, version: &str, kind: &str, name: &str, condition: &str, status: &str) -> Value {
        eventually(&format!("{kind} {name}: {condition}={status}"), || async {
            let object = self.stage.cluster.api.get(version, kind, "default", name).await;
            let object = object.map_err(|refused| refused.message)?;
            let found = conditions(&object).into_iter().find(|one| one["type"] == condition);
            match found.filter(|one| one["status"] == status) {
                Some(_) => Ok(object),
                None => Err(object["status"].to_string()),
            }
        })
        .await
    }

    /// Waits until the waypoint of a Gateway is there in every respect.
    async fn waypoint(&self, name: &str, service: &str) {
        self.stage.kubectl(&format!("label service {service} istio.io/use-waypoint={name}")).await;
        let (gateway, api) = ("gateway.networking.k8s.io/v1", &self.stage.cluster.api);
        self.condition(gateway, "Gateway", name, "Accepted", "True").await;
        let label = format!("gateway.networking.k8s.io/gateway-name={name}");
        let pod = self.stage.ready_pod("default", &label).await;
        runner::show_on_failure(name, self.stage.pod_log("default", &pod).unwrap());
        let gateway = self.condition(gateway, "Gateway", name, "Programmed", "True").await;
        assert_ne!(gateway["status"]["addresses"][0]["value"], Value::Null, "{gateway}");
        for (version, kind) in [("v1", "ServiceAccount"), ("apps/v1", "Deployment"), ("v1", "Service")] {
            let object = api.get(version, kind, "default", name).await.unwrap();
            assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], gateway["metadata"]["uid"], "{object}");
        }
        self.condition("v1", "Service", service, "istio.io/WaypointBound", "True").await;
        let service = format!("default/{service}.default.svc.cluster.local");
        for ztunnel in self.stage.ztunnels().await {
            let has = |table: &fairway_integration_tests::ztunnel::table::Table| match table.services.get(&service) {
                Some(service) if service.waypoint.is_some() => Ok(()),
                other => Err(format!("{other:?}")),
            };
            ztunnel.client().until("the service has its waypoint", has).await;
        }
    }

    /// Waits until what was made for a Gateway is gone.
    async fn gone(&self, name: &str) {
        for (version, kind) in [("apps/v1", "Deployment"), ("v1", "Service"), ("v1", "ServiceAccount")] {
            eventually(&format!("{kind} {name} goes with its Gateway"), || async {
                match self.stage.cluster.api.get(version, kind, "default", name).await {
                    Err(refused) if refused.code == 404 => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
    }

    /// Waits until no pod has a label. Envoy is given the time to end its
    /// connections.
    async fn pods_end(&self, namespace: &str, label: &str) {
        self.stage
            .wait_for_within(Duration::from_secs(60), &format!("pods with {label} end"), |stage| {
                match stage.pods(namespace, label).len() {
                    0 => Ok(()),
                    left => Err(format!("{left} left")),
                }
            })
            .await;
    }
}

fn conditions(object: &Value) -> Vec<Value> {
    object["status"]["conditions"].as_array().cloned().unwrap_or_default()
}

/// A SPIFFE ID of the application's namespace.
fn spiffe(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

/// What the ztunnels know of the application's namespace: workloads, services
/// with their waypoints, and policies.
async fn known(stage: &Stage) -> BTreeSet<String> {
    let ztunnels = stage.ztunnels().await;
    ztunnels[0].client().read(|table| {
        let workloads = table.workloads.values().filter(|one| one.namespace == "default").map(|one| one.uid.clone());
        let services = table.services.values().filter(|one| one.namespace == "default");
        let services = services.map(|one| format!("{}: {:?}", one.hostname, one.waypoint));
        let policies = table.policies.values().filter(|one| one.namespace == "default").map(|one| one.name.clone());
        workloads.chain(services).chain(policies).collect()
    })
}

pub async fn bookinfo() {
    let stage = shared().await;
    stage.apply(BOOKINFO).await;
    for label in PODS {
        stage.ready_pod("default", label).await;
    }
    stage
        .wait_for("three versions of reviews", |stage| {
            let pods = stage.pods("default", "app=reviews");
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            if (pods.len(), ready) == (3, 3) { Ok(()) } else { Err(format!("{ready} of {}", pods.len())) }
        })
        .await;
    let (sleep, notsleep) =
        (stage.ready_pod("default", "app=sleep").await, stage.ready_pod("default", "app=notsleep").await);
    let scene = Scene { stage, sleep, notsleep };
    let before = plaintext(&scene).await;
    let outside = ingress::opened(&scene).await;
    joined(&scene).await;
    ingress::joined(&scene, &outside).await;
    certified(&scene).await;
    connections_authorised(&scene).await;
    ingress::let_in(&outside).await;
    requests_authorised(&scene).await;
    ingress::through_waypoint(&scene, &outside).await;
    ingress::by_gateway_api(&scene).await;
    shifted(&scene).await;
    operated(&scene).await;
    undone(&scene, &outside, &before).await;
}

/// The application works without a mesh, which knows it all the same.
async fn plaintext(scene: &Scene) -> BTreeSet<String> {
    scene.captured(false).await;
    // A pod that is ready is not at once behind its Service's address.
    eventually("productpage answers", || async {
        let answer = scene.get(PRODUCTPAGE).await;
        let its = answer.body.contains("\"who\":\"productpage-v1-");
        if answer.status == OK && its { Ok(()) } else { Err(answer) }
    })
    .await;
    assert!(scene.accesses().await.is_empty(), "no ztunnel has a part in it");
    known(scene.stage).await
}

/// The namespace joins the mesh: no pod is restarted, and all traffic is
/// mutual TLS between the pods' identities.
async fn joined(scene: &Scene) {
    let pods = scene.application();
    scene.stage.kubectl("label namespace default istio.io/dataplane-mode=ambient").await;
    scene.captured(true).await;
    for client in [&scene.sleep, &scene.notsleep] {
        let answer = scene.curl(client, &[PRODUCTPAGE]).await;
        assert_eq!(answer.status, OK, "{answer:?}");
    }
    assert_eq!(scene.application(), pods);
    let accesses = scene.accesses().await;
    let seen = |outbound: bool, pod: &str, peer: &str| {
        let mut of_pod = accesses.iter().filter(|it| it.outbound == outbound && it.pod.1.starts_with(pod));
        let found = of_pod.any(|it| it.peer == Some(spiffe(peer)) && it.error.is_none());
        assert!(found, "{pod} and {peer}: {accesses:#?}");
    };
    for (client, account) in [(&scene.sleep, "sleep"), (&scene.notsleep, "notsleep")] {
        seen(true, client, "bookinfo-productpage");
        seen(false, "productpage-v1-", account);
    }
    // Nobody has sent anything else.
    let plain = accesses.iter().filter(|access| access.peer.is_none());
    assert_eq!(plain.count(), 0, "{accesses:#?}");
}

/// The certificate of sleep is its own, for a day, by the mesh's own root, which
/// every namespace has.
async fn certified(scene: &Scene) {
    let mut certificate = None;
    for ztunnel in scene.stage.ztunnels().await {
        certificate = certificate.or(ztunnel.certificate(&spiffe("sleep")).await);
    }
    let certificate = certificate.unwrap();
    let lifetime = certificate.not_before().diff(certificate.not_after()).unwrap();
    // A little of it lies in the past.
    let seconds = i64::from(lifetime.days) * 86_400 + i64::from(lifetime.secs);
    assert!((86_400..87_000).contains(&seconds), "{seconds}");
    let issuer: Vec<_> = certificate.issuer_name().entries().map(|one| one.data().as_slice().to_vec()).collect();
    assert_eq!(issuer, [b"cluster.local"]);
    for namespace in ["default", "istio-system", "kube-system"] {
        let map = scene.stage.cluster.api.get("v1", "ConfigMap", namespace, "istio-ca-root-cert").await.unwrap();
        let root = openssl::x509::X509::from_pem(map["data"]["root-cert.pem"].as_str().unwrap().as_bytes()).unwrap();
        assert!(certificate.verify(&root.public_key().unwrap()).unwrap(), "{namespace}");
    }
}

/// Only sleep may open connections.
async fn connections_authorised(scene: &Scene) {
    scene.stage.apply(PRODUCTPAGE_VIEWER).await;
    protected(scene, "default/productpage-viewer").await;
    let answer = scene.get(PRODUCTPAGE).await;
    assert_eq!(answer.status, OK, "{answer:?}");
    let answer = scene.curl(&scene.notsleep, &[PRODUCTPAGE]).await;
    // The connection is closed, without a word: 52 and 56 are curl's for that.
    assert!(matches!(answer.curl, 52 | 56), "{answer:?}");
    let accesses = scene.accesses().await;
    let refused = accesses.iter().filter(|it| !it.outbound && it.error.is_some());
    let refused: Vec<_> = refused.map(|it| it.peer.clone().unwrap_or_default()).collect();
    assert_eq!(refused, [spiffe("notsleep")]);
}

/// Waits until productpage's own ztunnel enforces a policy.
async fn protected(scene: &Scene, policy: &str) {
    for ztunnel in scene.stage.ztunnels().await {
        ztunnel
            .client()
            .until(&format!("{policy} protects productpage"), |table| {
                let mut workloads = table.workloads.values();
                let workload = workloads.find(|one| one.name.starts_with("productpage-v1-")).ok_or("no workload")?;
                let there = table.policies.contains_key(policy);
                match workload.authorization_policies.iter().any(|name| name == policy) && there {
                    true => Ok(()),
                    false => Err(format!("{:?}", workload.authorization_policies)),
                }
            })
            .await;
    }
}

/// A waypoint reads requests: sleep may GET, and nobody else anything.
async fn requests_authorised(scene: &Scene) {
    scene.stage.apply(PRODUCTPAGE_WAYPOINT).await;
    scene.waypoint("productpage-waypoint", "productpage").await;
    // Now the policy for connections names the waypoint.
    eventually("requests through the waypoint", || async {
        let answer = scene.get(PRODUCTPAGE).await;
        if answer.status == OK && answer.body.contains("x-request-id") { Ok(()) } else { Err(answer) }
    })
    .await;
    // Both ways are mutual TLS: sleep to the waypoint, the waypoint to the pod.
    let through = |outbound: bool, access: &Access| {
        access.outbound == outbound && access.peer == Some(spiffe("productpage-waypoint")) && access.error.is_none()
    };
    let accesses = scene.accesses().await;
    assert!(accesses.iter().any(|it| through(true, it) && it.pod.1 == scene.sleep), "{accesses:#?}");
    assert!(accesses.iter().any(|it| through(false, it) && it.pod.1.starts_with("productpage-v1-")), "{accesses:#?}");

    scene.stage.apply(PRODUCTPAGE_METHODS).await;
    eventually("DELETE is refused", || async {
        let answer = scene.curl(&scene.sleep, &["-X", "DELETE", PRODUCTPAGE]).await;
        if answer.status == "403" && answer.body == DENIED { Ok(()) } else { Err(answer) }
    })
    .await;
    let answer = scene.get(PRODUCTPAGE).await;
    assert_eq!(answer.status, OK, "{answer:?}");
    let answer = scene.curl(&scene.notsleep, &[PRODUCTPAGE]).await;
    assert_eq!((answer.status.as_str(), answer.body.as_str()), ("403", DENIED), "{answer:?}");
    // No ztunnel ever hears of it.
    let policies = |ztunnel: &fairway_integration_tests::stage::NodeProxy| {
        ztunnel.client().read(|table| table.policies.keys().cloned().collect::<Vec<_>>())
    };
    for ztunnel in scene.stage.ztunnels().await {
        assert!(!policies(&ztunnel).contains(&"default/productpage-methods".to_owned()));
    }
}

/// A second waypoint sends nine of ten requests to one version.
async fn shifted(scene: &Scene) {
    const REQUESTS: usize = 150;
    scene.stage.apply(REVIEWS_WAYPOINT).await;
    scene.waypoint("reviews-waypoint", "reviews").await;
    eventually("the route is there", || async {
        let answer = scene.curl(&scene.sleep, &["-i", "http://reviews:9080/"]).await;
        if answer.status == OK && answer.body.contains("x-shift: 90-10") { Ok(()) } else { Err(answer) }
    })
    .await;
    let url = format!("http://reviews:9080/reviews/[1-{REQUESTS}]");
    let said = scene.stage.exec("default", &scene.sleep, &["curl", "-sS", "-m", "25", "-w", "\n", &url]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let mut counts = BTreeMap::<String, usize>::new();
    for line in said.stdout.lines() {
        let answer: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let version = answer["who"].as_str().unwrap_or_default().split('-').nth(1).unwrap_or_default().to_owned();
        *counts.entry(version).or_default() += 1;
    }
    let of = |version: &str| counts.get(version).copied().unwrap_or_default();
    // Fewer or more come up once in a million times.
    assert!((115..=149).contains(&of("v1")) && of("v1") + of("v2") == REQUESTS, "{counts:?}");
}

/// What an operator asks with grpcurl and reads on the debug pages.
async fn operated(scene: &Scene) {
    let istiod = scene.stage.service_ip("istio-system", "istiod").await;
    let ask = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(cluster::tool("FAIRWAY_GRPCURL", ".cache/bin/grpcurl"));
        command.args(["-plaintext", "-max-time", "10"]).args(arguments).kill_on_drop(true);
        let output = command.output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let address = format!("{istiod}:15010");
    let services = ask(&[&address, "list"]).await;
    assert!(services.contains("envoy.service.discovery.v3.AggregatedDiscoveryService"), "{services}");
    let request = r#"{"node": {"id": "ztunnel~127.0.0.1~me.istio-system~istio-system.svc.cluster.local"}, "typeUrl": "type.googleapis.com/istio.workload.Address"}"#;
    let method = "envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
    let table = ask(&["-d", request, &address, method]).await;
    assert!(table.contains("productpage.default.svc.cluster.local"), "{table}");

    // Debug pages are only for the pod itself.
    let port = free_address().port();
    let forward = ["port-forward", "-n", "istio-system", "deploy/istiod", &format!("{port}:15014")];
    let page = async {
        eventually("a page through kubectl port-forward", || async {
            let url = format!("http://127.0.0.1:{port}/debug/syncz");
            let curl = tokio::process::Command::new("curl").args(["-sSf", "-m", "5", &url]).output().await;
            let curl = curl.map_err(|error| error.to_string())?;
            if curl.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&curl.stderr).into_owned()) }
        })
        .await;
    };
    tokio::select! {
        () = page => {}
        ended = scene.stage.cluster.kubectl_with(&forward, "") => panic!("it ended: {ended:?}"),
    }
    eventually("all proxies are in sync", || async {
        let proxies = proxies(scene.stage).await?;
        let envoys = proxies.iter().filter(|it| it["types"]["LDS"].is_object()).count();
        let synced = |proxy: &Value| {
            proxy["types"].as_object().is_some_and(|types| types.values().all(|it| it["status"] == "SYNCED"))
        };
        // Two waypoints and two gateways, beside two ztunnels.
        match proxies.len() == 6 && envoys == 4 && proxies.iter().all(synced) {
            true => Ok(()),
            false => Err(format!("{proxies:?}")),
        }
    })
    .await;
}

/// The streams that the control plane has, as its debug page shows them to
/// callers in its own pod.
async fn proxies(stage: &Stage) -> Result<Vec<Value>, String> {
    let istiod = stage.ready_pod("istio-system", "app=istiod").await;
    let command = ["curl", "-sS", "-m", "10", "http://127.0.0.1:15014/debug/syncz"];
    let page = stage.exec("istio-system", &istiod, &command).await.stdout;
    serde_json::from_str(&page).map_err(|error| format!("{error}: {page}"))
}

/// Everything is taken back, and nothing stays.
async fn undone(scene: &Scene, outside: &ingress::Outside, before: &BTreeSet<String>) {
    let stage = scene.stage;
    for service in ["productpage", "reviews"] {
        stage.kubectl(&format!("label service {service} istio.io/use-waypoint-")).await;
    }
    for yaml in [PRODUCTPAGE_METHODS, PRODUCTPAGE_WAYPOINT, REVIEWS_WAYPOINT] {
        stage.delete(yaml).await;
    }
    stage.kubectl("label namespace default istio.io/dataplane-mode-").await;
    scene.captured(false).await;
    ingress::closed(scene, outside).await;
    for name in ["productpage-waypoint", "reviews-waypoint"] {
        scene.gone(name).await;
        scene.pods_end("default", &format!("gateway.networking.k8s.io/gateway-name={name}")).await;
    }
    eventually("the mesh is as it was before", || async {
        let now = known(stage).await;
        let differ: Vec<_> = now.symmetric_difference(before).cloned().collect();
        if differ.is_empty() { Ok(()) } else { Err(format!("{differ:?}")) }
    })
    .await;
    for service in ["productpage", "reviews"] {
        eventually("a service without a waypoint is bound to none", || async {
            let object = stage.cluster.api.get("v1", "Service", "default", service).await.map_err(|it| it.message)?;
            let bound: Vec<_> =
                conditions(&object).into_iter().filter(|it| it["type"] == "istio.io/WaypointBound").collect();
            if bound.is_empty() { Ok(()) } else { Err(format!("{bound:?}")) }
        })
        .await;
    }
    let at = scene.accesses().await.len();
    for (client, method) in [(&scene.sleep, "DELETE"), (&scene.notsleep, "GET")] {
        let answer = scene.curl(client, &["-X", method, PRODUCTPAGE]).await;
        assert_eq!(answer.status, OK, "{answer:?}");
    }
    assert_eq!(scene.accesses().await.len(), at, "no ztunnel has a part in it any more");
    eventually("no proxy is left but ztunnels", || async {
        let left = proxies(stage).await?;
        if left.len() == 2 { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    for ztunnel in stage.ztunnels().await {
        ztunnel.client().assert_correct();
    }
    stage.delete(BOOKINFO).await;
}
