//! What most tests share, a cluster with a control plane, and what they do
//! with a cluster: namespaces of their own with pods and services.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use fairway_integration_tests::api::Api;
use fairway_integration_tests::cluster::Cluster;
use fairway_integration_tests::eventually;
use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::kubelet::{pod_ip, running};
use fairway_integration_tests::runner;
use fairway_integration_tests::ztunnel::{self, Ztunnel};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// A cluster and a control plane with all rights.
pub struct Mesh {
    pub cluster: Cluster,
    pub fairway: Fairway,
}

static SHARED: OnceCell<Mesh> = OnceCell::const_new();

/// The cluster of all tests that break nothing.
pub async fn shared() -> &'static Mesh {
    let mesh = SHARED.get_or_init(|| async {
        let cluster = Cluster::start().await;
        let fairway = Fairway::start(&Options::new(&cluster.kubeconfig())).await;
        Mesh { cluster, fairway }
    });
    let mesh = mesh.await;
    runner::show_on_failure("shared fairway", mesh.fairway.log_path().into());
    mesh.fairway.assert_running();
    mesh
}

/// Ends what is shared.
pub async fn stop() {
    if let Some(mesh) = SHARED.get() {
        mesh.fairway.kill().await;
        mesh.cluster.stop().await;
    }
}

impl Mesh {
    /// The administrator's access to the cluster.
    pub fn api(&self) -> &Api {
        &self.cluster.api
    }

    /// A ztunnel of the shared control plane.
    pub async fn ztunnel(&self) -> Ztunnel {
        Ztunnel::ready(ztunnel::Options::plaintext(self.fairway.grpc)).await
    }

    /// A namespace for one test.
    pub async fn namespace(&self, prefix: &str) -> Namespace {
        Namespace::new(self.api(), prefix).await
    }
}

/// A namespace for one test.
pub struct Namespace {
    pub api: Api,
    pub name: String,
}

impl Namespace {
    pub async fn new(api: &Api, prefix: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("{prefix}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        api.apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })).await;
        // Without it no pod is admitted. Its controller may be slow to come
        // back from an outage.
        api.apply(json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default", "namespace": name },
        }))
        .await;
        Self { api: api.clone(), name }
    }

    /// The Namespace object.
    pub fn object(&self) -> Value {
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.name } })
    }

    /// The name of a pod's workload.
    pub fn uid(&self, pod: &str) -> String {
        format!("Kubernetes//Pod/{}/{pod}", self.name)
    }

    /// The name of a Service in the address table.
    pub fn service_name(&self, service: &str) -> String {
        format!("{0}/{service}.{0}.svc.cluster.local", self.name)
    }

    /// Those of the resources that are of this namespace. Of others nothing
    /// may be expected: Kubernetes' controllers still clean up after tests
    /// that have ended.
    pub fn own(&self, names: BTreeSet<String>) -> BTreeSet<String> {
        let parts = |name: &str| name.split('/').any(|part| part == self.name);
        names.into_iter().filter(|name| parts(name)).collect()
    }

    /// Creates an object here.
    pub async fn apply(&self, mut object: Value) -> Value {
        object["metadata"]["namespace"] = json!(self.name);
        self.api.apply(object).await
    }

    /// A pod that runs and is ready.
    pub async fn pod(&self, name: &str, labels: Value) -> Value {
        let pod = self.apply(pod(name, "node-a", "default", labels)).await;
        self.api.patch_status(&pod, running(&pod_ip(), true)).await.unwrap()
    }

    /// A Service for pods labelled `app`, port 80 to 8080.
    pub async fn service(&self, name: &str, app: &str) -> Value {
        self.apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "selector": { "app": app }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
        }))
        .await
    }

    /// A service account.
    pub async fn service_account(&self, name: &str) -> Value {
        self.apply(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } })).await
    }
}

/// A pod for a node that is not there yet.
pub fn pod(name: &str, node: &str, account: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels },
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "containers": [{
                "name": "app", "image": "app",
                "ports": [{ "name": "http", "containerPort": 8080 }, { "name": "dns", "containerPort": 53, "protocol": "UDP" }],
            }],
        },
    })
}

/// What enrols a pod: the CNI's annotation.
pub fn redirected() -> Value {
    json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": "enabled" } } })
}

/// An AuthorizationPolicy for pods labelled `app`; empty is all of the
/// namespace.
pub fn authorization_policy(name: &str, app: &str, action: &str, principal: &str) -> Value {
    let mut policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": { "name": name },
        "spec": { "action": action, "rules": [{ "from": [{ "source": { "principals": [principal] } }] }] },
    });
    if !app.is_empty() {
        policy["spec"]["selector"] = json!({ "matchLabels": { "app": app } });
    }
    policy
}

/// A PeerAuthentication for pods labelled `app`; empty is all of the
/// namespace.
pub fn peer_authentication(name: &str, app: &str, mode: &str, ports: Value) -> Value {
    let mut policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": { "name": name },
        "spec": { "mtls": { "mode": mode } },
    });
    if !app.is_empty() {
        policy["spec"]["selector"] = json!({ "matchLabels": { "app": app } });
    }
    if ports.is_object() {
        policy["spec"]["portLevelMtls"] = ports;
    }
    policy
}

/// The ztunnel pod of a node, with its service account.
pub async fn ztunnel_pod(api: &Api, node: &str) -> Value {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "ztunnel", "namespace": "istio-system" },
    });
    api.apply(account).await;
    let mut ztunnel = pod(&format!("ztunnel-{node}"), node, "ztunnel", json!({ "app": "ztunnel" }));
    ztunnel["metadata"]["namespace"] = json!("istio-system");
    let ztunnel = api.apply(ztunnel).await;
    match ztunnel["status"]["podIP"].as_str() {
        Some(_) => ztunnel,
        None => api.patch_status(&ztunnel, running(&pod_ip(), true)).await.unwrap(),
    }
}

/// The root that pods find in their namespace.
pub async fn root_certificate(api: &Api, namespace: &str) -> String {
    eventually("the root's ConfigMap", || async {
        let map = api.get("v1", "ConfigMap", namespace, "istio-ca-root-cert").await;
        let map = map.map_err(|refused| refused.message)?;
        map["data"]["root-cert.pem"].as_str().map(String::from).ok_or_else(|| format!("{map}"))
    })
    .await
}

/// How a caller reaches a control plane over TLS.
pub async fn over_tls(cluster: &Cluster, fairway: &Fairway, token: Option<String>) -> ztunnel::Options {
    let roots = root_certificate(&cluster.api, "istio-system").await;
    ztunnel::Options {
        address: fairway.secure_grpc,
        tls: Some(ztunnel::Tls::istiod(roots)),
        token,
        ..ztunnel::Options::plaintext(fairway.secure_grpc)
    }
}
