//! Istio's `Gateway`: what proxies at the edge of the mesh listen for.
//! <https://istio.io/latest/docs/reference/config/networking/gateway/>

use std::sync::Arc;

use serde::Deserialize;

use super::intern::interned;
use super::meta::{Labels, Meta, nullable};
use super::unknown::{Unknown, keeps_unknown};

type Texts = Box<[Arc<str>]>;

/// A gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct IstioGateway {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// The proxies and their ports.
    #[serde(deserialize_with = "nullable")]
    pub spec: IstioGatewaySpec,
}

/// `gateway.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct IstioGatewaySpec {
    /// Labels of the pods of the proxies; none is all gateways.
    pub selector: Labels,
    /// What they listen for.
    #[serde(deserialize_with = "nullable")]
    pub servers: Box<[Server]>,
    /// Fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A port, and the hosts that it is for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct Server {
    /// The port; nothing can be done without it.
    pub port: Option<Port>,
    /// The address to listen on; empty is all.
    #[serde(deserialize_with = "nullable")]
    pub bind: Arc<str>,
    /// Hosts, possibly with a namespace and a slash before them.
    #[serde(deserialize_with = "nullable")]
    pub hosts: Texts,
    /// What becomes of TLS.
    pub tls: Option<Box<ServerTlsSettings>>,
    /// Its name in statistics.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A port of a server.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Port {
    /// The number.
    #[serde(deserialize_with = "nullable")]
    pub number: u16,
    /// `HTTP`, `HTTPS`, `GRPC`, `HTTP2`, `TLS`, `TCP` and the like.
    #[serde(deserialize_with = "interned")]
    pub protocol: Arc<str>,
    /// Its name.
    #[serde(deserialize_with = "interned")]
    pub name: Arc<str>,
}

/// What becomes of TLS on a server's port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct ServerTlsSettings {
    /// Whether plain HTTP is sent to HTTPS.
    #[serde(deserialize_with = "nullable")]
    pub https_redirect: bool,
    /// `PASSTHROUGH` (also when empty), `SIMPLE`, `MUTUAL`,
    /// `AUTO_PASSTHROUGH`, `ISTIO_MUTUAL` or `OPTIONAL_MUTUAL`.
    #[serde(deserialize_with = "interned")]
    pub mode: Arc<str>,
    /// A file with the certificate.
    #[serde(deserialize_with = "nullable")]
    pub server_certificate: Arc<str>,
    /// A file with its key.
    #[serde(deserialize_with = "nullable")]
    pub private_key: Arc<str>,
    /// A file with those who vouch for clients.
    #[serde(deserialize_with = "nullable")]
    pub ca_certificates: Arc<str>,
    /// A file with a revocation list.
    #[serde(deserialize_with = "nullable")]
    pub ca_crl: Arc<str>,
    /// A Secret with all of these.
    #[serde(deserialize_with = "nullable")]
    pub credential_name: Arc<str>,
    /// Secrets, one for each kind of key.
    #[serde(deserialize_with = "nullable")]
    pub credential_names: Texts,
    /// A Secret or ConfigMap with those who vouch for clients.
    #[serde(deserialize_with = "nullable")]
    pub ca_cert_credential_name: Arc<str>,
    /// Files, one pair for each kind of key.
    #[serde(deserialize_with = "nullable")]
    pub tls_certificates: Box<[TlsCertificate]>,
    /// Names of which a client's certificate must have one.
    #[serde(deserialize_with = "nullable")]
    pub subject_alt_names: Texts,
    /// Hashes of keys of which a client's must be one.
    #[serde(deserialize_with = "nullable")]
    pub verify_certificate_spki: Texts,
    /// Hashes of certificates of which a client's must be one.
    #[serde(deserialize_with = "nullable")]
    pub verify_certificate_hash: Texts,
    /// `TLS_AUTO` (also when empty), `TLSV1_0` to `TLSV1_3`.
    #[serde(deserialize_with = "interned")]
    pub min_protocol_version: Arc<str>,
    /// The same.
    #[serde(deserialize_with = "interned")]
    pub max_protocol_version: Arc<str>,
    /// Cipher suites, in OpenSSL's names.
    #[serde(deserialize_with = "nullable")]
    pub cipher_suites: Texts,
    /// Curves, in order of preference.
    #[serde(deserialize_with = "nullable")]
    pub ecdh_curves: Texts,
    /// Whether a client's certificate may be by anybody.
    pub insecure_skip_verify: Option<bool>,
    /// Fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A certificate in files.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsCertificate {
    /// A file with the certificate.
    #[serde(deserialize_with = "nullable")]
    pub server_certificate: Arc<str>,
    /// A file with its key.
    #[serde(deserialize_with = "nullable")]
    pub private_key: Arc<str>,
    /// A file with those who vouch for clients.
    #[serde(deserialize_with = "nullable")]
    pub ca_certificates: Arc<str>,
}

keeps_unknown!(IstioGatewaySpec, Server, ServerTlsSettings);
