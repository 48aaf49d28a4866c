//! The Gateway API's gateways, their classes, and what adds listeners to them.
//! <https://gateway-api.sigs.k8s.io/reference/spec/>

use std::sync::Arc;

use serde::Deserialize;

use super::intern::interned;
use super::meta::{Labels, Meta, nullable};
use super::route::ParentReference;

/// A gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Gateway {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// What was asked for.
    #[serde(deserialize_with = "nullable")]
    pub spec: GatewaySpec,
    /// What is.
    #[serde(deserialize_with = "nullable")]
    pub status: GatewayStatus,
}

/// `gateway.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// The class.
    #[serde(deserialize_with = "interned")]
    pub gateway_class_name: Arc<str>,
    /// The listeners.
    #[serde(deserialize_with = "nullable")]
    pub listeners: Box<[Listener]>,
    /// Addresses asked for; the status may not repeat them.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Box<[GatewayAddress]>,
    /// For what is made for the gateway.
    pub infrastructure: Option<Infrastructure>,
    /// Who may add listeners; nobody if absent.
    pub allowed_listeners: Option<AllowedListeners>,
    /// What holds for all TLS of the gateway.
    pub tls: Option<GatewayTls>,
}

/// Who may add listeners to a gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllowedListeners {
    /// By namespace; none if absent.
    pub namespaces: Option<RouteNamespaces>,
}

/// What holds for all TLS of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GatewayTls {
    /// Towards clients.
    pub frontend: Option<FrontendTls>,
    /// Towards backends.
    pub backend: Option<BackendTls>,
}

/// TLS towards clients.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendTls {
    /// For ports that are not listed.
    #[serde(deserialize_with = "nullable")]
    pub default: FrontendTlsConfig,
    /// For some ports.
    #[serde(deserialize_with = "nullable")]
    pub per_port: Box<[PortTls]>,
}

/// TLS towards clients on one port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PortTls {
    /// The port.
    #[serde(deserialize_with = "nullable")]
    pub port: u16,
    /// What holds there.
    #[serde(deserialize_with = "nullable")]
    pub tls: FrontendTlsConfig,
}

/// What is asked of clients.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct FrontendTlsConfig {
    /// Certificates; none if absent.
    pub validation: Option<FrontendValidation>,
}

/// Which certificates of clients are believed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendValidation {
    /// Who vouches for them.
    #[serde(deserialize_with = "nullable")]
    pub ca_certificate_refs: Box<[SecretReference]>,
    /// `AllowValidOnly` (also when empty) or `AllowInsecureFallback`.
    #[serde(deserialize_with = "interned")]
    pub mode: Arc<str>,
}

/// TLS towards backends.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTls {
    /// The certificate that backends are shown.
    pub client_certificate_ref: Option<SecretReference>,
}

/// A Secret, or something else that holds certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SecretReference {
    /// The API group; empty is the core group.
    #[serde(deserialize_with = "interned")]
    pub group: Arc<str>,
    /// The kind; `Secret` when empty.
    #[serde(deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// The namespace; empty is that of the object.
    #[serde(deserialize_with = "interned")]
    pub namespace: Arc<str>,
    /// The name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
}

/// What goes onto everything made for a gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Infrastructure {
    /// Labels.
    pub labels: Option<Labels>,
    /// Annotations, all of them.
    pub annotations: Option<Labels>,
}

/// A listener of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// Its name.
    #[serde(deserialize_with = "interned")]
    pub name: Arc<str>,
    /// The host it is for, possibly with a leading `*.`; empty is any.
    #[serde(deserialize_with = "nullable")]
    pub hostname: Arc<str>,
    /// Its port; 0 is that of the protocol, in a `ListenerSet`.
    #[serde(deserialize_with = "nullable")]
    pub port: u16,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `HBONE`, …
    #[serde(deserialize_with = "interned")]
    pub protocol: Arc<str>,
    /// What is done about TLS.
    pub tls: Option<ListenerTls>,
    /// Who may attach to it.
    #[serde(deserialize_with = "nullable")]
    pub allowed_routes: AllowedRoutes,
}

/// TLS of a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerTls {
    /// `Terminate` (also when empty) or `Passthrough`.
    #[serde(deserialize_with = "interned")]
    pub mode: Arc<str>,
    /// The certificates that are presented.
    #[serde(deserialize_with = "nullable")]
    pub certificate_refs: Box<[SecretReference]>,
    /// Options of the implementation.
    pub options: Labels,
}

/// Who may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    /// By namespace.
    #[serde(deserialize_with = "nullable")]
    pub namespaces: RouteNamespaces,
    /// By kind; those of the protocol if there are none.
    #[serde(deserialize_with = "nullable")]
    pub kinds: Box<[RouteGroupKind]>,
}

/// A kind of routes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteGroupKind {
    /// The API group; that of the Gateway API if absent.
    pub group: Option<Arc<str>>,
    /// The kind.
    #[serde(deserialize_with = "interned")]
    pub kind: Arc<str>,
}

/// The namespaces that may attach to a listener, or to a gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteNamespaces {
    /// `Same` (also when empty), `All`, `Selector` or `None`.
    #[serde(deserialize_with = "interned")]
    pub from: Arc<str>,
    /// For `Selector`.
    pub selector: Option<LabelSelector>,
}

/// Kubernetes' label selector.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must be equal.
    pub match_labels: Labels,
    /// Further requirements.
    #[serde(deserialize_with = "nullable")]
    pub match_expressions: Box<[Requirement]>,
}

/// A requirement on one label.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// The label.
    #[serde(deserialize_with = "interned")]
    pub key: Arc<str>,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[serde(deserialize_with = "interned")]
    pub operator: Arc<str>,
    /// For `In` and `NotIn`.
    #[serde(deserialize_with = "nullable")]
    pub values: Box<[Arc<str>]>,
}

impl LabelSelector {
    /// Whether labels meet every requirement. An operator that is not known
    /// matches nothing.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.select(labels)
            && self.match_expressions.iter().all(|requirement| {
                let value = labels.get(&requirement.key);
                let listed = value.is_some_and(|value| requirement.values.iter().any(|other| **other == *value));
                match &*requirement.operator {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
    }
}

/// `gateway.status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GatewayStatus {
    /// Where the gateway is reached.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Box<[GatewayAddress]>,
}

/// An address of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GatewayAddress {
    /// `IPAddress` (also when empty) or `Hostname`.
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// The address.
    #[serde(deserialize_with = "nullable")]
    pub value: Arc<str>,
}

/// Listeners that are added to a gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ListenerSet {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// What was asked for.
    #[serde(deserialize_with = "nullable")]
    pub spec: ListenerSetSpec,
}

/// `listenerSet.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerSetSpec {
    /// The gateway.
    #[serde(deserialize_with = "nullable")]
    pub parent_ref: ParentReference,
    /// The listeners.
    #[serde(deserialize_with = "nullable")]
    pub listeners: Box<[Listener]>,
}

/// A class of gateways.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GatewayClass {
    /// Name, labels and annotations.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// Who implements it.
    #[serde(deserialize_with = "nullable")]
    pub spec: GatewayClassSpec,
}

/// `gatewayClass.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassSpec {
    /// The controller's name.
    #[serde(deserialize_with = "interned")]
    pub controller_name: Arc<str>,
}
