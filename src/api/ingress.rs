//! Kubernetes' `Ingress`, and the classes that say whose an Ingress is.
//! <https://kubernetes.io/docs/concepts/services-networking/ingress/>

use std::sync::Arc;

use serde::Deserialize;

use super::intern::interned;
use super::meta::{Meta, nullable};

/// An Ingress.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Ingress {
    /// Name, labels and the like; an annotation may name the class.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// What it asks for.
    #[serde(deserialize_with = "nullable")]
    pub spec: IngressSpec,
}

/// `ingress.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressSpec {
    /// The class; empty if there is none.
    #[serde(deserialize_with = "interned")]
    pub ingress_class_name: Arc<str>,
    /// Where requests go that no rule is for.
    pub default_backend: Option<IngressBackend>,
    /// Hosts with TLS.
    #[serde(deserialize_with = "nullable")]
    pub tls: Box<[IngressTls]>,
    /// Where requests go.
    #[serde(deserialize_with = "nullable")]
    pub rules: Box<[IngressRule]>,
}

/// Hosts with TLS.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressTls {
    /// The hosts; none is all.
    #[serde(deserialize_with = "nullable")]
    pub hosts: Box<[Arc<str>]>,
    /// The Secret with their certificate.
    #[serde(deserialize_with = "nullable")]
    pub secret_name: Arc<str>,
}

/// Where requests for a host go.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressRule {
    /// The host, possibly with a leading `*.`; empty is any.
    #[serde(deserialize_with = "nullable")]
    pub host: Arc<str>,
    /// By path; none is as if there were no path.
    pub http: Option<IngressHttp>,
}

/// Paths of a host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressHttp {
    /// The paths.
    #[serde(deserialize_with = "nullable")]
    pub paths: Box<[IngressPath]>,
}

/// A path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressPath {
    /// The path.
    #[serde(deserialize_with = "nullable")]
    pub path: Arc<str>,
    /// How it matches: `Exact`, `Prefix`, or `ImplementationSpecific` (also when
    /// empty).
    #[serde(deserialize_with = "interned")]
    pub path_type: Arc<str>,
    /// Where requests go.
    #[serde(deserialize_with = "nullable")]
    pub backend: IngressBackend,
}

/// Where requests go: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressBackend {
    /// A Service in the namespace of the Ingress.
    pub service: Option<IngressService>,
    /// Some other object there.
    pub resource: Option<IngressResource>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressService {
    /// The Service.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The port.
    #[serde(deserialize_with = "nullable")]
    pub port: IngressPort,
}

/// A port, by one of the two.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressPort {
    /// By name.
    #[serde(deserialize_with = "interned")]
    pub name: Arc<str>,
    /// By number; 0 is none.
    #[serde(deserialize_with = "nullable")]
    pub number: u16,
}

/// An object that is no Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressResource {
    /// Its kind.
    #[serde(deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
}

/// A class of Ingresses.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressClass {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// Whose it is.
    #[serde(deserialize_with = "nullable")]
    pub spec: IngressClassSpec,
}

/// `ingressClass.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IngressClassSpec {
    /// The controller.
    #[serde(deserialize_with = "interned")]
    pub controller: Arc<str>,
}
