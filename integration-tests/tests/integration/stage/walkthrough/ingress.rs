//! The way into the application from outside of the mesh: through a gateway that
//! the user has installed, and through one that the control plane has made. What
//! a waypoint decides about requests counts for theirs too, if the service says
//! so. <https://istio.io/latest/docs/ambient/usage/waypoint/#ingress>

use std::net::Ipv4Addr;

use fairway_integration_tests::{eventually, runner};

use super::{Answer, DENIED, OK, Scene, spiffe};

const INGRESSGATEWAY: &str = include_str!("../../../../stage/walkthrough/ingressgateway.yaml");
const BOOKINFO_GATEWAY: &str = include_str!("../../../../stage/walkthrough/bookinfo-gateway.yaml");
const BOOKINFO_ROUTE: &str = include_str!("../../../../stage/walkthrough/bookinfo-route.yaml");
const PRODUCTPAGE_METHODS: &str = include_str!("../../../../stage/walkthrough/productpage-methods-outside.yaml");

const NAMESPACE: &str = "istio-system";
const LABEL: &str = "app=istio-ingressgateway";
const GATEWAY: &str = "gateway.networking.k8s.io/v1";
const ISTIO: &str = "networking.istio.io/v1";

/// A load balancer of the cluster, seen by those outside.
pub struct Outside {
    address: Ipv4Addr,
}

impl Outside {
    async fn curl(&self, arguments: &[&str], path: &str) -> Answer {
        let mut command = tokio::process::Command::new("curl");
        command.args(["-sS", "-m", "10", "-w", "\n%{http_code}"]).args(arguments).kill_on_drop(true);
        let output = command.arg(format!("http://{}{path}", self.address)).output().await.unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = printed.rsplit_once('\n').unwrap_or(("", ""));
        let complaint = String::from_utf8_lossy(&output.stderr);
        Answer { curl: output.status.code().unwrap_or(-1), status: status.into(), body: format!("{body}{complaint}") }
    }

    async fn get(&self, path: &str) -> Answer {
        self.curl(&[], path).await
    }

    /// Waits until it leads to the application.
    async fn leads_in(&self) {
        eventually("productpage answers those outside", || async {
            let answer = self.get("/productpage").await;
            let its = answer.body.contains("\"who\":\"productpage-v1-");
            if answer.status == OK && its { Ok(()) } else { Err(answer) }
        })
        .await;
    }
}

/// A gateway of the user's own chart serves what selects its labels. There is no
/// mesh yet: what it sends is plain.
pub async fn opened(scene: &Scene) -> Outside {
    let stage = scene.stage;
    stage.apply(INGRESSGATEWAY).await;
    stage.apply(BOOKINFO_GATEWAY).await;
    scene.condition(ISTIO, "Gateway", "bookinfo-gateway", "Accepted", "True").await;
    scene.condition(ISTIO, "VirtualService", "bookinfo", "Accepted", "True").await;
    let pod = stage.ready_pod(NAMESPACE, LABEL).await;
    runner::show_on_failure("the ingress gateway", stage.pod_log(NAMESPACE, &pod).unwrap());
    let outside = Outside { address: stage.load_balancer_ip(NAMESPACE, "istio-ingressgateway").await };
    outside.leads_in().await;
    let answer = outside.get("/admin").await;
    assert_eq!(answer.status, "404", "{answer:?}");
    assert!(scene.accesses().await.is_empty(), "no ztunnel has a part in it");
    outside
}

/// The application has joined the mesh: the gateway opens tunnels to its pods, as
/// itself. It was not restarted, nor was it told so by its user.
pub async fn joined(scene: &Scene, outside: &Outside) {
    let gateway = Some(format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/istio-ingressgateway"));
    eventually("the gateway opens a tunnel", || async {
        let answer = outside.get("/productpage").await;
        assert_eq!(answer.status, OK, "{answer:?}");
        let accesses = scene.accesses().await;
        let mut inbound = accesses.iter().filter(|it| !it.outbound && it.pod.1.starts_with("productpage-v1-"));
        if inbound.any(|it| it.peer == gateway && it.error.is_none()) { Ok(()) } else { Err(accesses) }
    })
    .await;
}

/// The policy for connections names the gateway.
pub async fn let_in(outside: &Outside) {
    let answer = outside.get("/productpage").await;
    assert_eq!(answer.status, OK, "{answer:?}");
}

/// Requests of a gateway go to the waypoint when the service says so, and its
/// policies are for them too.
pub async fn through_waypoint(scene: &Scene, outside: &Outside) {
    let stage = scene.stage;
    let past_it = passed_waypoint_by(scene).await;
    stage.kubectl("label service productpage istio.io/ingress-use-waypoint=true").await;
    // So far it lets in nobody but sleep.
    eventually("the waypoint refuses the gateway", || async {
        let answer = outside.get("/productpage").await;
        if answer.status == "403" && answer.body == DENIED { Ok(()) } else { Err(answer) }
    })
    .await;
    stage.apply(PRODUCTPAGE_METHODS).await;
    outside.leads_in().await;
    let answer = outside.curl(&["-X", "DELETE"], "/productpage").await;
    assert_eq!((answer.status.as_str(), answer.body.as_str()), ("403", DENIED), "{answer:?}");
    assert_eq!(passed_waypoint_by(scene).await, past_it, "nobody else has reached the pod since");
}

/// How many connections to productpage its waypoint has not opened.
async fn passed_waypoint_by(scene: &Scene) -> usize {
    let waypoint = Some(spiffe("productpage-waypoint"));
    let accesses = scene.accesses().await;
    let inbound = accesses.iter().filter(|it| !it.outbound && it.pod.1.starts_with("productpage-v1-"));
    inbound.filter(|it| it.peer != waypoint && it.error.is_none()).count()
}

/// A Gateway of the Gateway API gets its proxies from the control plane, and an
/// address from the cluster; what its routes lead to is the same.
pub async fn by_gateway_api(scene: &Scene) {
    let (stage, api) = (scene.stage, &scene.stage.cluster.api);
    stage.apply(BOOKINFO_ROUTE).await;
    scene.condition(GATEWAY, "Gateway", "bookinfo", "Accepted", "True").await;
    let pod = stage.ready_pod("default", "gateway.networking.k8s.io/gateway-name=bookinfo").await;
    runner::show_on_failure("the gateway of the Gateway API", stage.pod_log("default", &pod).unwrap());
    let gateway = scene.condition(GATEWAY, "Gateway", "bookinfo", "Programmed", "True").await;
    for (version, kind) in [("v1", "ServiceAccount"), ("apps/v1", "Deployment"), ("v1", "Service")] {
        let object = api.get(version, kind, "default", "bookinfo-istio").await.unwrap();
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], gateway["metadata"]["uid"], "{object}");
    }
    let outside = Outside { address: stage.load_balancer_ip("default", "bookinfo-istio").await };
    assert_eq!(gateway["status"]["addresses"][0]["value"], outside.address.to_string(), "{gateway}");
    outside.leads_in().await;
    eventually("the route says that it is attached", || async {
        let route = api.get(GATEWAY, "HTTPRoute", "default", "bookinfo").await.map_err(|refused| refused.message)?;
        let parent = &route["status"]["parents"][0];
        let conditions = parent["conditions"].as_array().cloned().unwrap_or_default();
        let holds = |kind: &str| conditions.iter().any(|one| one["type"] == kind && one["status"] == "True");
        match holds("Accepted") && holds("ResolvedRefs") && parent["parentRef"]["name"] == "bookinfo" {
            true => Ok(()),
            false => Err(route["status"].to_string()),
        }
    })
    .await;
    eventually("the listener counts the route", || async {
        let gateway = api.get(GATEWAY, "Gateway", "default", "bookinfo").await.map_err(|refused| refused.message)?;
        let listeners = &gateway["status"]["listeners"];
        if listeners[0]["attachedRoutes"] == 1 { Ok(()) } else { Err(listeners.to_string()) }
    })
    .await;
    // The path is exact, and the waypoint is behind this gateway too.
    for (arguments, path, status) in [(&[][..], "/static", "404"), (&["-X", "DELETE"], "/productpage", "403")] {
        let answer = outside.curl(arguments, path).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

/// The application leaves the mesh while the gateway leads to it, and then the
/// gateways go.
pub async fn closed(scene: &Scene, outside: &Outside) {
    let stage = scene.stage;
    stage.kubectl("label service productpage istio.io/ingress-use-waypoint-").await;
    outside.leads_in().await;
    for yaml in [BOOKINFO_ROUTE, BOOKINFO_GATEWAY] {
        stage.delete(yaml).await;
    }
    // Without it, the proxy listens to nothing.
    eventually("nobody answers those outside", || async {
        let answer = outside.get("/productpage").await;
        if answer.curl != 0 || answer.status == "404" { Ok(()) } else { Err(answer) }
    })
    .await;
    stage.delete(INGRESSGATEWAY).await;
    scene.gone("bookinfo-istio").await;
    let pods = [("default", "gateway.networking.k8s.io/gateway-name=bookinfo"), (NAMESPACE, LABEL)];
    for (namespace, label) in pods {
        scene.pods_end(namespace, label).await;
    }
}
