//! The kinds that controllers write or compare, and requests for them. Objects
//! are JSON here: what is compared is what the API server stores, and no model
//! of ours knows all of it.

use std::fmt;
use std::time::Duration;

use http::{Request, header};
use serde_json::Value;
use tokio::time::timeout;

use crate::api::Kind;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `v1/Namespace`.
    Namespace,
    /// `v1/ConfigMap`.
    ConfigMap,
    /// `v1/ServiceAccount`.
    ServiceAccount,
    /// `v1/Service`.
    Service,
    /// `apps/v1/Deployment`.
    Deployment,
    /// `autoscaling/v2/HorizontalPodAutoscaler`.
    HorizontalPodAutoscaler,
    /// `policy/v1/PodDisruptionBudget`.
    PodDisruptionBudget,
    /// `gateway.networking.k8s.io/v1/GatewayClass`.
    GatewayClass,
    /// `gateway.networking.k8s.io/v1/Gateway`.
    Gateway,
    /// `gateway.networking.k8s.io/v1/ListenerSet`.
    ListenerSet,
    /// `v1/Event`.
    Event,
    /// `networking.istio.io/v1/ServiceEntry`.
    ServiceEntry,
    /// `networking.istio.io/v1/WorkloadEntry`.
    WorkloadEntry,
    /// `networking.istio.io/v1/VirtualService`.
    VirtualService,
    /// `networking.istio.io/v1/DestinationRule`.
    DestinationRule,
    /// `networking.istio.io/v1/Gateway`.
    IstioGateway,
    /// `security.istio.io/v1/AuthorizationPolicy`.
    AuthorizationPolicy,
    /// `security.istio.io/v1/RequestAuthentication`.
    RequestAuthentication,
    /// `security.istio.io/v1/PeerAuthentication`.
    PeerAuthentication,
    /// `telemetry.istio.io/v1/Telemetry`.
    Telemetry,
    /// `gateway.networking.k8s.io/v1/HTTPRoute`.
    HTTPRoute,
    /// `gateway.networking.k8s.io/v1/GRPCRoute`.
    GRPCRoute,
    /// `gateway.networking.k8s.io/v1/TCPRoute`.
    TCPRoute,
    /// `gateway.networking.k8s.io/v1/TLSRoute`.
    TLSRoute,
    /// `gateway.networking.k8s.io/v1/BackendTLSPolicy`.
    BackendTLSPolicy,
    /// `networking.k8s.io/v1/Ingress`.
    Ingress,
}

impl Resource {
    /// The kind of objects with a status of ours.
    pub const fn of(kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::Service => Self::Service,
            Kind::ServiceEntry => Self::ServiceEntry,
            Kind::WorkloadEntry => Self::WorkloadEntry,
            Kind::VirtualService => Self::VirtualService,
            Kind::DestinationRule => Self::DestinationRule,
            Kind::IstioGateway => Self::IstioGateway,
            Kind::AuthorizationPolicy => Self::AuthorizationPolicy,
            Kind::RequestAuthentication => Self::RequestAuthentication,
            Kind::PeerAuthentication => Self::PeerAuthentication,
            Kind::Telemetry => Self::Telemetry,
            Kind::HTTPRoute => Self::HTTPRoute,
            Kind::GRPCRoute => Self::GRPCRoute,
            Kind::TCPRoute => Self::TCPRoute,
            Kind::TLSRoute => Self::TLSRoute,
            Kind::BackendTLSPolicy => Self::BackendTLSPolicy,
            Kind::Ingress => Self::Ingress,
            _ => return None,
        })
    }

    /// The kind as objects name it.
    pub const fn kind(self) -> &'static str {
        self.names().1
    }

    /// The group and version as objects name them.
    pub const fn api_version(self) -> &'static str {
        self.names().0
    }

    const fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Namespace => ("v1", "Namespace", "namespaces"),
            Self::ConfigMap => ("v1", "ConfigMap", "configmaps"),
            Self::ServiceAccount => ("v1", "ServiceAccount", "serviceaccounts"),
            Self::Service => ("v1", "Service", "services"),
            Self::Deployment => ("apps/v1", "Deployment", "deployments"),
            Self::HorizontalPodAutoscaler => ("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
            Self::PodDisruptionBudget => ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::GatewayClass => ("gateway.networking.k8s.io/v1", "GatewayClass", "gatewayclasses"),
            Self::Gateway => ("gateway.networking.k8s.io/v1", "Gateway", "gateways"),
            Self::ListenerSet => ("gateway.networking.k8s.io/v1", "ListenerSet", "listenersets"),
            Self::Event => ("v1", "Event", "events"),
            Self::ServiceEntry => ("networking.istio.io/v1", "ServiceEntry", "serviceentries"),
            Self::WorkloadEntry => ("networking.istio.io/v1", "WorkloadEntry", "workloadentries"),
            Self::VirtualService => ("networking.istio.io/v1", "VirtualService", "virtualservices"),
            Self::DestinationRule => ("networking.istio.io/v1", "DestinationRule", "destinationrules"),
            Self::IstioGateway => ("networking.istio.io/v1", "Gateway", "gateways"),
            Self::AuthorizationPolicy => ("security.istio.io/v1", "AuthorizationPolicy", "authorizationpolicies"),
            Self::RequestAuthentication => ("security.istio.io/v1", "RequestAuthentication", "requestauthentications"),
            Self::PeerAuthentication => ("security.istio.io/v1", "PeerAuthentication", "peerauthentications"),
            Self::Telemetry => ("telemetry.istio.io/v1", "Telemetry", "telemetries"),
            Self::HTTPRoute => ("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes"),
            Self::GRPCRoute => ("gateway.networking.k8s.io/v1", "GRPCRoute", "grpcroutes"),
            Self::TCPRoute => ("gateway.networking.k8s.io/v1", "TCPRoute", "tcproutes"),
            Self::TLSRoute => ("gateway.networking.k8s.io/v1", "TLSRoute", "tlsroutes"),
            Self::Ingress => ("networking.k8s.io/v1", "Ingress", "ingresses"),
            Self::BackendTLSPolicy => ("gateway.networking.k8s.io/v1", "BackendTLSPolicy", "backendtlspolicies"),
        }
    }

    /// The path of the kind's objects, in one namespace or, if that is empty,
    /// in all.
    pub fn path(self, namespace: &str) -> String {
        let (version, _, plural) = self.names();
        let root = if version.contains('/') { "/apis" } else { "/api" };
        match namespace {
            "" => format!("{root}/{version}/{plural}"),
            namespace => format!("{root}/{version}/namespaces/{namespace}/{plural}"),
        }
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Its kind.
    pub resource: Resource,
    /// Its namespace; empty if the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Reference {
    /// The object of that name.
    pub fn new(resource: Resource, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { resource, namespace: namespace.into(), name: name.into() }
    }

    /// The one that an object is.
    pub fn of(resource: Resource, object: &Value) -> Self {
        let text = |field| object["metadata"][field].as_str().unwrap_or_default();
        Self::new(resource, text("namespace"), text("name"))
    }

    fn path(&self) -> String {
        format!("{}/{}", self.resource.path(&self.namespace), self.name)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.is_empty() {
            true => write!(f, "{} {}", self.resource.kind(), self.name),
            false => write!(f, "{} {}/{}", self.resource.kind(), self.namespace, self.name),
        }
    }
}

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It is created; one that is there is left alone.
    Create,
    /// Fields are applied.
    Apply,
    /// Fields of the status are applied.
    ApplyStatus,
    /// The status is changed by a JSON patch.
    PatchStatus,
    /// It is deleted, if it is still the one that is meant.
    Delete,
}

/// Something to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// What is written.
    pub object: Reference,
    /// How.
    pub manner: Manner,
    /// The fields.
    pub body: Value,
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The API server does not do it, or cannot be reached.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// There was no answer in time.
    #[error("no answer in {} s", PATIENCE.as_secs())]
    Late,
    /// The request is none, because of a name in it.
    #[error("not a request: {0}")]
    Malformed(#[from] http::Error),
}

impl RequestError {
    /// The HTTP status of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            Self::Kube(_) | Self::Late | Self::Malformed(_) => None,
        }
    }
}

/// Reads an object; none if there is no such object.
pub async fn get(client: &kube::Client, object: &Reference) -> Result<Option<Value>, RequestError> {
    match send(client, "GET", object.path(), "application/json", Vec::new()).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists a part of the objects of a kind, with a query.
pub async fn list(client: &kube::Client, path: &str, query: &str) -> Result<Value, RequestError> {
    send(client, "GET", format!("{path}?{query}"), "application/json", Vec::new()).await
}

/// Writes, and returns the object as it is then, or that it is deleted. What others own of the same
/// fields is taken from them: whoever leads is who decides.
pub async fn write(client: &kube::Client, write: &Write, manager: &str) -> Result<Value, RequestError> {
    let body = write.body.to_string().into_bytes();
    let manager = manager.replace('/', "%2F");
    match write.manner {
        Manner::Create => {
            let path = format!("{}?fieldManager={manager}", write.object.resource.path(&write.object.namespace));
            send(client, "POST", path, "application/json", body).await
        }
        Manner::Delete => send(client, "DELETE", write.object.path(), "application/json", body).await,
        Manner::PatchStatus => {
            let path = format!("{}/status?fieldManager={manager}", write.object.path());
            send(client, "PATCH", path, "application/json-patch+json", body).await
        }
        Manner::Apply | Manner::ApplyStatus => {
            let part = if write.manner == Manner::ApplyStatus { "/status" } else { "" };
            let path = format!("{}{part}?fieldManager={manager}&force=true", write.object.path());
            send(client, "PATCH", path, "application/apply-patch+yaml", body).await
        }
    }
}

async fn send(
    client: &kube::Client,
    method: &str,
    uri: String,
    media: &str,
    body: Vec<u8>,
) -> Result<Value, RequestError> {
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, media)
        .body(body)?;
    match timeout(PATIENCE, client.request(request)).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(RequestError::Late),
    }
}
