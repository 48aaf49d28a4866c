//! The Gateway API's kinds, as far as waypoint attachment reads them.
//! <https://gateway-api.sigs.k8s.io/reference/spec/>

use std::sync::Arc;

use serde::Deserialize;

use super::intern::interned;
use super::meta::{Labels, Meta, nullable};

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
    /// Its port.
    #[serde(deserialize_with = "nullable")]
    pub port: u16,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `HBONE`, …
    #[serde(deserialize_with = "interned")]
    pub protocol: Arc<str>,
    /// Who may attach to it.
    #[serde(deserialize_with = "nullable")]
    pub allowed_routes: AllowedRoutes,
}

/// Who may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    /// By namespace.
    #[serde(deserialize_with = "nullable")]
    pub namespaces: RouteNamespaces,
}

/// The namespaces that may attach to a listener.
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
