//! The Kubernetes API as plain JSON, so that what the tests read of it does
//! not pass through anybody's idea of a pod.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tower::ServiceExt;

use crate::ztunnel::{self, Tls};

/// Plural and scope of the kinds the tests touch.
const KINDS: &[(&str, &str, bool)] = &[
    ("Namespace", "namespaces", false),
    ("Node", "nodes", false),
    ("Pod", "pods", true),
    ("Event", "events", true),
    ("Service", "services", true),
    ("ServiceAccount", "serviceaccounts", true),
    ("Secret", "secrets", true),
    ("ConfigMap", "configmaps", true),
    ("Deployment", "deployments", true),
    ("HorizontalPodAutoscaler", "horizontalpodautoscalers", true),
    ("PodDisruptionBudget", "poddisruptionbudgets", true),
    ("ReplicaSet", "replicasets", true),
    ("DaemonSet", "daemonsets", true),
    ("Lease", "leases", true),
    ("EndpointSlice", "endpointslices", true),
    ("ClusterRole", "clusterroles", false),
    ("ClusterRoleBinding", "clusterrolebindings", false),
    ("CustomResourceDefinition", "customresourcedefinitions", false),
    ("AuthorizationPolicy", "authorizationpolicies", true),
    ("PeerAuthentication", "peerauthentications", true),
    ("ServiceEntry", "serviceentries", true),
    ("VirtualService", "virtualservices", true),
    ("DestinationRule", "destinationrules", true),
    ("HTTPRoute", "httproutes", true),
    ("ReferenceGrant", "referencegrants", true),
    ("Role", "roles", true),
    ("RoleBinding", "rolebindings", true),
    ("WorkloadEntry", "workloadentries", true),
    ("Gateway", "gateways", true),
    ("GatewayClass", "gatewayclasses", false),
    ("ListenerSet", "listenersets", true),
    ("Ingress", "ingresses", true),
    ("IngressClass", "ingressclasses", false),
    ("BackendTLSPolicy", "backendtlspolicies", true),
];

const TIMEOUT: Duration = Duration::from_secs(20);

/// Access to a Kubernetes API as one user.
#[derive(Clone)]
pub struct Api {
    channel: Channel,
    token: String,
    address: SocketAddr,
    roots: String,
}

/// An answer that is not a success.
#[derive(Debug)]
pub struct Refused {
    /// The HTTP status; 0 if there was no answer.
    pub code: u16,
    /// What the API server says.
    pub message: String,
}

impl Api {
    /// Access with a token.
    pub fn new(address: SocketAddr, roots: String, token: &str) -> Self {
        let tls = Tls { roots: roots.clone(), server_name: address.ip().to_string() };
        Self { channel: ztunnel::lazy_channel(address, tls), token: token.into(), address, roots }
    }

    /// The same access over a connection of its own, for a watch that must not
    /// wait behind answers.
    pub fn apart(&self) -> Self {
        Self::new(self.address, self.roots.clone(), &self.token)
    }

    /// One request with its answer in JSON.
    pub async fn request(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Refused> {
        self.send(method, path, "application/json", body).await
    }

    /// One request with its answer in plain text.
    pub async fn request_text(&self, method: &str, path: &str) -> Result<String, Refused> {
        self.exchange(method, path, "", None).await
    }

    async fn send(&self, method: &str, path: &str, media: &str, body: Option<Value>) -> Result<Value, Refused> {
        let answer = self.exchange(method, path, media, body).await?;
        serde_json::from_str(&answer).map_err(|error| Refused { code: 0, message: format!("{error}: {answer}") })
    }

    /// One request with its answer as text, for whoever does not want it read.
    pub async fn exchange(
        &self,
        method: &str,
        path: &str,
        media: &str,
        body: Option<Value>,
    ) -> Result<String, Refused> {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = self.prepare(method, path, media, body);
        let exchange = async {
            let answer = self.channel.clone().oneshot(request).await.map_err(|error| format!("{error:?}"))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
            Ok((head.status, String::from_utf8_lossy(&body).into_owned()))
        };
        let answer = tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| Err("no answer".to_string()));
        match answer {
            Ok((status, body)) if status.is_success() => Ok(body),
            Ok((status, body)) => {
                Err(Refused { code: status.as_u16(), message: format!("{method} {path}: {status} {body}") })
            }
            Err(message) => Err(Refused { code: 0, message: format!("{method} {path}: {message}") }),
        }
    }

    /// What a GET answers in a media type, whatever that is.
    pub async fn bytes(&self, path: &str, media: &str) -> Vec<u8> {
        let mut request = self.prepare("GET", path, "", String::new());
        request.headers_mut().insert("accept", media.parse().unwrap());
        let exchange = async {
            let answer = self.channel.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.headers()["content-type"], media, "{path}");
            answer.into_body().collect().await.unwrap().to_bytes().into()
        };
        tokio::time::timeout(TIMEOUT, exchange).await.unwrap()
    }

    /// A GET whose answer does not end, such as a watch.
    pub async fn stream(&self, path: &str) -> Result<tonic::body::Body, Refused> {
        self.stream_as(path, "application/json").await
    }

    /// The same in another encoding.
    pub async fn stream_as(&self, path: &str, media: &'static str) -> Result<tonic::body::Body, Refused> {
        let refused = |code, message| Refused { code, message: format!("GET {path}: {message}") };
        let mut request = self.prepare("GET", path, "", String::new());
        request.headers_mut().insert("accept", http::HeaderValue::from_static(media));
        let answer = self.channel.clone().oneshot(request).await.map_err(|error| refused(0, format!("{error:?}")))?;
        match answer.status() {
            status if status.is_success() => Ok(answer.into_body()),
            status => Err(refused(status.as_u16(), status.to_string())),
        }
    }

    fn prepare(&self, method: &str, path: &str, media: &str, body: String) -> http::Request<tonic::body::Body> {
        http::Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", media)
            .body(tonic::body::Body::new(http_body_util::Full::from(body)))
            .unwrap()
    }

    /// An object.
    pub async fn get(&self, version: &str, kind: &str, namespace: &str, name: &str) -> Result<Value, Refused> {
        self.request("GET", &path(version, kind, namespace, name), None).await
    }

    /// Who holds a lock that is a ConfigMap; nobody if the name is empty.
    pub async fn holder(&self, namespace: &str, lock: &str) -> String {
        let Ok(map) = self.get("v1", "ConfigMap", namespace, lock).await else { return String::new() };
        let record = map["metadata"]["annotations"]["control-plane.alpha.kubernetes.io/leader"].as_str();
        let record: Value = serde_json::from_str(record.expect("it is a lock")).expect("JSON");
        record["holderIdentity"].as_str().expect("a name").to_owned()
    }

    /// All objects of a kind; in one namespace, or in all if it is empty. A
    /// kind that is not installed has none. An API server that has just
    /// started and says so is asked again.
    pub async fn list(&self, version: &str, kind: &str, namespace: &str) -> Vec<Value> {
        let path = path(version, kind, namespace, "");
        let what = format!("list {kind}");
        let list = crate::eventually(&what, || async {
            match self.request("GET", &path, None).await {
                Err(Refused { code: 404, .. }) => Ok(json!({ "items": [] })),
                answer => answer,
            }
        });
        match list.await["items"].take() {
            Value::Array(items) => items,
            other => panic!("{kind}: items are {other}"),
        }
    }

    /// Creates or changes an object, as a user with kubectl: server-side
    /// apply. What others have to prepare first is waited for.
    pub async fn apply(&self, object: Value) -> Value {
        let path = format!("{}?fieldManager=tests&force=true", path_of(&object));
        crate::eventually(&format!("apply {path}"), || async {
            let answer = self.send("PATCH", &path, "application/apply-patch+yaml", Some(object.clone())).await;
            match answer {
                Err(refused) if refused.code == 422 || refused.code == 400 => panic!("{}", refused.message),
                answer => answer,
            }
        })
        .await
    }

    /// Creates an object; whatever is refused is returned.
    pub async fn create(&self, object: Value) -> Result<Value, Refused> {
        let path = path_of(&object);
        let collection = path.rsplit_once('/').unwrap().0.to_string();
        self.request("POST", &collection, Some(object)).await
    }

    /// Merges a patch into an object.
    pub async fn patch(&self, object: &Value, patch: Value) -> Value {
        self.try_patch(object, patch).await.unwrap_or_else(|refused| panic!("{}", refused.message))
    }

    /// Merges a patch into an object that may be gone.
    pub async fn try_patch(&self, object: &Value, patch: Value) -> Result<Value, Refused> {
        self.send("PATCH", &path_of(object), "application/merge-patch+json", Some(patch)).await
    }

    /// Merges a patch into an object's status.
    pub async fn patch_status(&self, object: &Value, status: Value) -> Result<Value, Refused> {
        let path = format!("{}/status", path_of(object));
        self.send("PATCH", &path, "application/merge-patch+json", Some(json!({ "status": status }))).await
    }

    /// Deletes a pod that has ended, as kubelets do: exactly this one, and at
    /// once.
    pub async fn delete_ended(&self, pod: &Value) -> Result<(), Refused> {
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
            "preconditions": { "uid": pod["metadata"]["uid"] },
        });
        match self.request("DELETE", &path_of(pod), Some(options)).await {
            Ok(_) | Err(Refused { code: 404 | 409, .. }) => Ok(()),
            Err(refused) => Err(refused),
        }
    }

    /// Gives a pod to a node, as the scheduler does.
    pub async fn bind(&self, pod: &Value, node: &str) -> Result<(), Refused> {
        let name = &pod["metadata"]["name"];
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        self.request("POST", &format!("{}/binding", path_of(pod)), Some(binding)).await.map(|_| ())
    }

    /// A token of a pod's service account, bound to the pod, as kubelets have
    /// them made.
    pub async fn pod_token(&self, pod: &Value, audience: Option<&str>, seconds: u64) -> Result<String, Refused> {
        let metadata = &pod["metadata"];
        let (namespace, account) = (&metadata["namespace"], &pod["spec"]["serviceAccountName"]);
        let (namespace, account) = (namespace.as_str().unwrap_or_default(), account.as_str().unwrap_or("default"));
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "expirationSeconds": seconds,
                // Nobody in particular is the API server.
                "audiences": audience.into_iter().collect::<Vec<_>>(),
                "boundObjectRef": {
                    "kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"],
                },
            },
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.request("POST", &path, Some(request)).await?;
        answer["status"]["token"]
            .as_str()
            .map(String::from)
            .ok_or_else(|| Refused { code: 0, message: answer.to_string() })
    }

    /// Deletes an object without grace; one that is gone already is fine.
    pub async fn delete(&self, object: &Value) {
        let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0 });
        match self.request("DELETE", &path_of(object), Some(options)).await {
            Ok(_) | Err(Refused { code: 404, .. }) => {}
            Err(refused) => panic!("{}", refused.message),
        }
    }
}

fn path_of(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    path(text("/apiVersion"), text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

pub(crate) fn path(version: &str, kind: &str, namespace: &str, name: &str) -> String {
    let (_, plural, namespaced) =
        KINDS.iter().find(|(known, ..)| *known == kind).unwrap_or_else(|| panic!("add {kind} to KINDS"));
    let base = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let scope = if *namespaced && !namespace.is_empty() { format!("/namespaces/{namespace}") } else { String::new() };
    let name = if name.is_empty() { String::new() } else { format!("/{name}") };
    format!("{base}{scope}/{plural}{name}")
}
