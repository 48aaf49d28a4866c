//! The Gateway API's `BackendTLSPolicy`: TLS towards the pods of a service.
//! <https://gateway-api.sigs.k8s.io/api-types/backendtlspolicy/>

use std::sync::Arc;

use serde::Deserialize;

use super::intern::interned;
use super::meta::{Meta, nullable};
use super::route::LocalObjectReference;

/// How TLS is spoken with services.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct BackendTLSPolicy {
    /// Name and namespace.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// What was asked for.
    #[serde(deserialize_with = "nullable")]
    pub spec: BackendTlsPolicySpec,
}

/// `backendTLSPolicy.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsPolicySpec {
    /// The services, in the namespace of the policy.
    #[serde(deserialize_with = "nullable")]
    pub target_refs: Box<[BackendTarget]>,
    /// How servers prove who they are.
    #[serde(deserialize_with = "nullable")]
    pub validation: BackendValidation,
}

/// A service, or a port of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTarget {
    /// The API group; empty is the core group.
    #[serde(deserialize_with = "interned")]
    pub group: Arc<str>,
    /// The kind.
    #[serde(deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// The name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The name of the port; empty is all.
    #[serde(deserialize_with = "interned")]
    pub section_name: Arc<str>,
}

/// How servers prove who they are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendValidation {
    /// Who vouches for them, in the namespace of the policy.
    #[serde(deserialize_with = "nullable")]
    pub ca_certificate_refs: Box<[LocalObjectReference]>,
    /// Instead of those, `System`: whom the proxy's system believes.
    #[serde(rename = "wellKnownCACertificates", deserialize_with = "interned")]
    pub well_known: Arc<str>,
    /// The server name that is sent, and that certificates are for unless names
    /// are given.
    #[serde(deserialize_with = "nullable")]
    pub hostname: Arc<str>,
    /// Names of which a certificate has to have one.
    #[serde(deserialize_with = "nullable")]
    pub subject_alt_names: Box<[SubjectAltName]>,
}

/// A name in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SubjectAltName {
    /// `Hostname` or `URI`.
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// The name, of the type `Hostname`.
    #[serde(deserialize_with = "nullable")]
    pub hostname: Arc<str>,
    /// The name, of the type `URI`.
    #[serde(deserialize_with = "nullable")]
    pub uri: Arc<str>,
}
