//! A workload certificate: a key that never leaves this machine, and what the
//! CA says of it.

use std::fmt;
use std::time::Duration;

use fairway_proto::auth::IstioCertificateRequest;
use fairway_proto::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::stack::Stack;
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509Name, X509Req};
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;

use super::upstream::{Upstream, UpstreamError};

/// How long the CA may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Who the workload is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The trust domain.
    pub trust_domain: String,
    /// The namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust_domain, namespace, service_account } = self;
        write!(formatter, "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
    }
}

/// A certificate and its key, as Envoy reads them.
#[derive(Clone)]
pub struct Workload {
    /// The certificate, and the intermediates behind it, in PEM.
    pub chain: Vec<u8>,
    /// The key, in PEM.
    pub key: Vec<u8>,
    /// The roots of the mesh, in PEM.
    pub roots: Vec<u8>,
    /// The identity it was issued for.
    pub identity: String,
    /// When it ends.
    pub expires: Timestamp,
}

impl fmt::Debug for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, expires, .. } = self;
        formatter.debug_struct("Workload").field("identity", identity).field("expires", expires).finish_non_exhaustive()
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The CA cannot be called.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The connection failed.
    #[error("cannot connect to the CA")]
    Transport(#[from] tonic::transport::Error),
    /// The CA refused.
    #[error("the CA answered {code:?}: {message}")]
    Refused {
        /// Its code.
        code: tonic::Code,
        /// Its reason.
        message: String,
    },
    /// The CA's answer is not of use.
    #[error("the CA's answer cannot be used: {0}")]
    Answer(&'static str),
    /// OpenSSL failed where it should not.
    #[error("OpenSSL failed")]
    OpenSsl(#[from] ErrorStack),
}

/// Asks the CA for a certificate with a new key.
pub async fn request(upstream: &Upstream, identity: &Identity, ttl: Duration) -> Result<Workload, CertificateError> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let csr = String::from_utf8_lossy(&csr(&key, identity)?).into_owned();
    let headers = upstream.call_headers()?;
    // Once for each call: after a change of roots an old connection would
    // still be trusted, and the next call is hours away.
    let endpoint = Endpoint::from_shared(upstream.uri("/")?.to_string().replacen("https://", "http://", 1))?;
    let connecting = upstream.clone();
    let connector = tower::service_fn(move |_| {
        let upstream = connecting.clone();
        async move { upstream.connect().await.map(TokioIo::new) }
    });
    let channel = endpoint.timeout(CALL_TIMEOUT).connect_with_connector(connector).await?;
    let message = IstioCertificateRequest {
        csr,
        validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
        ..Default::default()
    };
    let mut request = tonic::Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await;
    let answer = answer
        .map_err(|status| CertificateError::Refused { code: status.code(), message: status.message().to_string() })?;
    workload(&key, &answer.into_inner().cert_chain)
}

/// A request for a certificate. The CA goes by the token, but some CAs want to
/// see the identity here too.
fn csr(key: &PKey<Private>, identity: &Identity) -> Result<Vec<u8>, ErrorStack> {
    let mut request = X509Req::builder()?;
    request.set_pubkey(key)?;
    request.set_subject_name(&X509Name::builder()?.build())?;
    let mut extensions = Stack::new()?;
    let name =
        SubjectAlternativeName::new().critical().uri(&identity.to_string()).build(&request.x509v3_context(None))?;
    extensions.push(name)?;
    request.add_extensions(&extensions)?;
    request.sign(key, MessageDigest::sha256())?;
    request.build().to_pem()
}

/// What a CA's answer is good for: certificates in PEM, the roots last.
pub(super) fn workload(key: &PKey<Private>, chain: &[String]) -> Result<Workload, CertificateError> {
    let [certificates @ .., roots] = chain else { return Err(CertificateError::Answer("it is empty")) };
    let [first, ..] = certificates else { return Err(CertificateError::Answer("it has no root")) };
    let leaf = X509::from_pem(first.as_bytes()).map_err(|_| CertificateError::Answer("its certificate is broken"))?;
    if !leaf.public_key()?.public_eq(key) {
        return Err(CertificateError::Answer("its certificate is for another key"));
    }
    if X509::stack_from_pem(roots.as_bytes()).unwrap_or_default().is_empty() {
        return Err(CertificateError::Answer("its roots are broken"));
    }
    let names = leaf.subject_alt_names();
    let identity = names.iter().flatten().find_map(|name| name.uri()).unwrap_or_default().to_string();
    Ok(Workload {
        chain: joined(certificates),
        key: key.private_key_to_pem_pkcs8()?,
        roots: roots.clone().into_bytes(),
        identity,
        expires: timestamp(leaf.not_after())?,
    })
}

fn joined(certificates: &[String]) -> Vec<u8> {
    let lines = certificates.iter().map(|pem| format!("{}\n", pem.trim_end()));
    lines.collect::<String>().into_bytes()
}

fn timestamp(time: &Asn1TimeRef) -> Result<Timestamp, CertificateError> {
    let epoch = Asn1Time::from_unix(0)?;
    let since = epoch.diff(time)?;
    let seconds = i64::from(since.days) * 86_400 + i64::from(since.secs);
    Timestamp::from_second(seconds).map_err(|_| CertificateError::Answer("its end is out of range"))
}
