//! The TLS that a gateway speaks to its clients.
//! <https://istio.io/latest/docs/reference/config/networking/gateway/#ServerTLSSettings>
//!
//! Whatever would let more clients in than was asked for is refused as a whole:
//! there is no port then. What only chooses among safe ways is left out, and
//! said.

mod ciphers;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket, data_source};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsParameters,
};

use super::{ROOTS, WORKLOAD, any_name, credential, file_secret, named, secret};
use crate::api::mesh::{MeshConfig, TlsDefaults};
use crate::credential::{Asked, CA_SUFFIX, Part};
use crate::envoy::encode::boolean;
use crate::model::gateway::{ClientCa, ServerCertificate, ServerTls, TlsMode, TlsVersion};
use crate::model::secret::Flaw;

/// The TLS of a server, and what is not as it was asked for.
pub struct Terminated {
    /// The socket.
    pub socket: TransportSocket,
    /// What was left out: a field below `tls`, and why.
    pub problems: Vec<(&'static str, Flaw)>,
}

/// The TLS of a server on which it ends. `http` says that HTTP is what is
/// inside. What cannot be done has no socket: the field, and why.
pub fn downstream(tls: &ServerTls, http: bool, mesh: &MeshConfig) -> Result<Terminated, (&'static str, Flaw)> {
    let mut problems = Vec::new();
    let certificates = certificates(tls)?;
    let validation = match tls.mode {
        TlsMode::Mutual | TlsMode::OptionalMutual | TlsMode::IstioMutual => Some(validation(tls)?),
        TlsMode::Simple | TlsMode::Passthrough | TlsMode::AutoPassthrough => {
            // Nobody is asked for a certificate that could have a name, and
            // Envoy refuses the names without an authority.
            if !tls.subject_alt_names.is_empty() {
                let message = "clients have no certificates in mode SIMPLE, so names are not compared";
                problems.push(("subjectAltNames", Flaw::new("UnsupportedValue", message)));
            }
            None
        }
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: alpn(tls, http),
            tls_params: parameters(tls, mesh, &mut problems),
            tls_certificate_sds_secret_configs: certificates,
            validation_context_type: validation.map(ValidationContextType::CombinedValidationContext),
            ..Default::default()
        }),
        require_client_certificate: boolean(matches!(tls.mode, TlsMode::Mutual | TlsMode::IstioMutual)),
        ..Default::default()
    };
    Ok(Terminated { socket: named("envoy.transport_sockets.tls", &context), problems })
}

/// The protocols that clients may choose from. Without HTTP, a client that
/// offers any of these is as well off as one that offers none.
fn alpn(tls: &ServerTls, http: bool) -> Vec<String> {
    let peers: &[&str] = if tls.mode == TlsMode::IstioMutual && !http { &["istio-peer-exchange"] } else { &[] };
    peers.iter().chain(&["h2", "http/1.1"]).map(ToString::to_string).collect()
}

/// What is presented.
fn certificates(tls: &ServerTls) -> Result<Vec<SdsSecretConfig>, (&'static str, Flaw)> {
    if tls.mode == TlsMode::IstioMutual {
        return Ok(vec![secret(WORKLOAD)]);
    }
    if tls.certificates.is_empty() {
        return Err(("credentialName", Flaw::new("NoCertificate", "there is no certificate to present")));
    }
    let one = |certificate: &ServerCertificate| match certificate {
        ServerCertificate::Secret(name) => by_name(name, Part::Certificate, "credentialName"),
        ServerCertificate::Files { certificate, private_key } => {
            if certificate.is_empty() || private_key.is_empty() {
                let message = "serverCertificate and privateKey are not both there";
                return Err(("serverCertificate", Flaw::new("NoCertificate", message)));
            }
            Ok(file_secret(format!("file-cert:{certificate}~{private_key}")))
        }
    };
    tls.certificates.iter().map(one).collect()
}

/// Whose certificates are accepted.
fn validation(tls: &ServerTls) -> Result<CombinedCertificateValidationContext, (&'static str, Flaw)> {
    let authority = match (&tls.client_ca, tls.mode) {
        (_, TlsMode::IstioMutual) => secret(ROOTS),
        (Some(ClientCa::Secret(name)), _) => by_name(name, Part::Authority, "caCertCredentialName")?,
        (Some(ClientCa::File(file)), _) if !file.is_empty() => file_secret(format!("file-root:{file}")),
        // Envoy would take any certificate for want of somebody to ask.
        _ => return Err(("caCertificates", Flaw::new("NoAuthority", "nobody vouches for clients' certificates"))),
    };
    let texts = |texts: &[Arc<str>]| texts.iter().map(ToString::to_string).collect();
    let crl = (!tls.crl_file.is_empty()).then(|| DataSource {
        specifier: Some(data_source::Specifier::Filename(tls.crl_file.to_string())),
        ..Default::default()
    });
    let mut context = CertificateValidationContext {
        match_typed_subject_alt_names: tls.subject_alt_names.iter().flat_map(|name| any_name(name)).collect(),
        verify_certificate_spki: texts(&tls.verify_certificate_spki),
        verify_certificate_hash: texts(&tls.verify_certificate_hash),
        crl,
        ..Default::default()
    };
    if let Some(hash) = tls.verify_certificate_spki.iter().find(|hash| !is_sha256_in_base64(hash)) {
        let message = format!("{hash:?} is not a SHA-256 hash in base64");
        return Err(("verifyCertificateSpki", Flaw::new("UnsupportedValue", message)));
    }
    if let Some(hash) = tls.verify_certificate_hash.iter().find(|hash| !is_sha256_in_hexadecimal(hash)) {
        let message = format!("{hash:?} is not a SHA-256 hash in hexadecimal");
        return Err(("verifyCertificateHash", Flaw::new("UnsupportedValue", message)));
    }
    if tls.accept_untrusted {
        context.trust_chain_verification = TrustChainVerification::AcceptUntrusted.into();
    }
    Ok(CombinedCertificateValidationContext {
        default_validation_context: Some(context),
        validation_context_sds_secret_config: Some(authority),
        ..Default::default()
    })
}

/// What proxies ask the control plane for; those of their own have other names.
fn by_name(name: &str, part: Part, field: &'static str) -> Result<SdsSecretConfig, (&'static str, Flaw)> {
    match (name, part) {
        ("default" | "builtin://", Part::Certificate) => return Ok(secret(WORKLOAD)),
        ("ROOTCA" | "builtin://-cacert", Part::Authority) => return Ok(secret(ROOTS)),
        _ => {}
    }
    // Any namespace will do: it is the name that is looked at.
    match Asked::parse(name, "any") {
        Some(asked) if asked.part == part => Ok(credential(name)),
        Some(_) if part == Part::Authority => Ok(credential(format!("{name}{CA_SUFFIX}"))),
        _ => {
            let message = format!("{name:?} is not the name of a credential");
            Err((field, Flaw::new("InvalidCredentialName", message)))
        }
    }
}

/// Versions and ciphers: the server's own, else those of the mesh, else none,
/// which leaves them to the proxy.
fn parameters(tls: &ServerTls, mesh: &MeshConfig, problems: &mut Vec<(&'static str, Flaw)>) -> Option<TlsParameters> {
    if tls.mode == TlsMode::IstioMutual {
        return None;
    }
    let version = |version: Option<TlsVersion>| version.map_or(TlsProtocol::TlsAuto, protocol);
    let minimum = match &*mesh.tls_defaults.min_protocol_version {
        "TLSV1_2" => TlsProtocol::TlSv12,
        "TLSV1_3" => TlsProtocol::TlSv13,
        _ => TlsProtocol::TlsAuto,
    };
    let choice = |own: &[Arc<str>], of_mesh: &[Arc<str>]| if own.is_empty() { of_mesh.to_vec() } else { own.to_vec() };
    let mut known = |field: &'static str, texts: Vec<Arc<str>>, known: Choice| {
        let mut seen = BTreeSet::new();
        let texts: Vec<String> = texts.iter().filter(|text| seen.insert(*text)).map(ToString::to_string).collect();
        let Chosen { known, unknown, unfit } = known(texts);
        for (why, texts) in [("not known to proxies", unknown), ("of no use beside the others", unfit)] {
            if !texts.is_empty() {
                let message = format!("{why}, hence left out: {}", texts.join(", "));
                problems.push((field, Flaw::new("UnsupportedValue", message)));
            }
        }
        known
    };
    let defaults = &mesh.tls_defaults;
    let parameters = TlsParameters {
        tls_minimum_protocol_version: tls.minimum.map_or(minimum, protocol).into(),
        tls_maximum_protocol_version: version(tls.maximum).into(),
        cipher_suites: known("cipherSuites", choice(&tls.cipher_suites, &defaults.cipher_suites), ciphers::suites),
        ecdh_curves: known("ecdhCurves", choice(&tls.ecdh_curves, &defaults.ecdh_curves), curves),
        ..Default::default()
    };
    (parameters != TlsParameters::default()).then_some(parameters)
}

/// The cipher suites and curves of the mesh that an Envoy takes, for
/// connections to servers: for any other it would refuse the cluster.
pub fn known(defaults: &TlsDefaults) -> (Vec<String>, Vec<String>) {
    let texts = |texts: &[Arc<str>]| texts.iter().map(ToString::to_string).collect();
    (ciphers::suites(texts(&defaults.cipher_suites)).known, curves(texts(&defaults.ecdh_curves)).known)
}

fn protocol(version: TlsVersion) -> TlsProtocol {
    match version {
        TlsVersion::V1_0 => TlsProtocol::TlSv10,
        TlsVersion::V1_1 => TlsProtocol::TlSv11,
        TlsVersion::V1_2 => TlsProtocol::TlSv12,
        TlsVersion::V1_3 => TlsProtocol::TlSv13,
    }
}

/// What Envoy takes of a list, and what it does not, for which it would refuse
/// the whole listener.
struct Chosen {
    known: Vec<String>,
    unknown: Vec<String>,
    /// Known by itself, and not to be had beside the others.
    unfit: Vec<String>,
}

type Choice = fn(Vec<String>) -> Chosen;

fn curves(texts: Vec<String>) -> Chosen {
    let all = ["X25519MLKEM768", "X25519", "P-256", "P-384", "P-521"];
    let (known, unknown) = texts.into_iter().partition(|text| all.contains(&&**text));
    Chosen { known, unknown, unfit: Vec::new() }
}

fn is_sha256_in_base64(text: &str) -> bool {
    let decoded = openssl::base64::decode_block(text);
    text.len() == 44 && decoded.is_ok_and(|hash| hash.len() == 32)
}

fn is_sha256_in_hexadecimal(text: &str) -> bool {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    digits.len() == 64 && digits.bytes().all(|c| c.is_ascii_hexdigit())
}
