//! What a certificate says. A workload's has exactly one name, its SPIFFE ID,
//! however the request was worded; no certificate outlives its issuers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use openssl::asn1::Asn1Integer;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, PKeyRef, Private};
use openssl::sha::sha256;
use openssl::sign::Signer;
use openssl::x509::extension::{AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage};
use openssl::x509::{X509, X509Builder, X509Extension, X509Ref};

use super::asn1_time;
use super::bundle::CaBundle;
use super::csr::Csr;
use super::der;
use super::identity::SpiffeId;
use super::p256;

/// How far certificates are dated back, for peers whose clocks are behind.
pub(super) const BACKDATE: SignedDuration = SignedDuration::from_mins(2);

/// How long workload certificates live.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// When the request names none (`DEFAULT_WORKLOAD_CERT_TTL`).
    pub default: Duration,
    /// The longest a request may name (`MAX_WORKLOAD_CERT_TTL`).
    pub max: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { default: Duration::from_secs(24 * 3600), max: Duration::from_secs(90 * 24 * 3600) }
    }
}

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request asks for too much time.
    #[error("requested TTL {requested} s is greater than the max allowed TTL {max} s")]
    Ttl {
        /// Seconds asked for.
        requested: i64,
        /// Seconds allowed.
        max: u64,
    },
    /// A certificate between the signing key and the root has ended.
    #[error("the signing certificate or one of its issuers expired at {0}")]
    Expired(Timestamp),
    /// OpenSSL failed where it should not.
    #[error("OpenSSL failed")]
    OpenSsl(#[from] ErrorStack),
}

/// A name a server is dialled by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerName {
    /// A DNS name.
    Dns(Arc<str>),
    /// An address dialled without a name.
    Ip(IpAddr),
}

impl ServerName {
    /// An address if the text is one, else a DNS name.
    pub fn new(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Dns(text.into()), Self::Ip)
    }
}

impl CaBundle {
    /// The certificate for a workload as the wire wants it: the leaf, each
    /// intermediate, and the root bundle last, one PEM text each. `ttl` is in
    /// seconds; zero and below mean the default.
    pub fn workload_chain(
        &self,
        csr: &Csr,
        identity: &SpiffeId,
        ttl: i64,
        lifetimes: Lifetimes,
        now: Timestamp,
    ) -> Result<Vec<String>, IssueError> {
        let ttl = requested_ttl(ttl, lifetimes)?;
        let name = der::element(URI_NAME, &[identity.to_string().as_bytes()]);
        let leaf = self.leaf(&csr.key, &name, &self.template.workload, ttl, now)?;
        let mut chain = Vec::with_capacity(self.intermediates().len() + 2);
        chain.push(der::pem(&leaf));
        chain.extend(self.intermediates().iter().cloned());
        chain.push(self.root_pem().to_string());
        Ok(chain)
    }

    /// When a workload's certificate ends that is issued now, for a TTL as in a
    /// request.
    pub(super) fn workload_end(&self, ttl: i64, lifetimes: Lifetimes, now: Timestamp) -> Result<Timestamp, IssueError> {
        Ok(validity(requested_ttl(ttl, lifetimes)?, self.not_after(), now)?.1)
    }

    /// A certificate and a fresh key for a server of the control plane.
    pub fn serving_pair(
        &self,
        names: &[ServerName],
        ttl: Duration,
        now: Timestamp,
    ) -> Result<(X509, PKey<Private>), IssueError> {
        let key = p256_key()?;
        let mut list = vec![];
        for name in names {
            list.extend(match name {
                ServerName::Dns(name) => der::element(DNS_NAME, &[name.as_bytes()]),
                ServerName::Ip(IpAddr::V4(address)) => der::element(IP_NAME, &[&address.octets()]),
                ServerName::Ip(IpAddr::V6(address)) => der::element(IP_NAME, &[&address.octets()]),
            });
        }
        let cert = self.leaf(&key.public_key_to_der()?, &list, &self.template.serving, ttl, now)?;
        Ok((X509::from_der(&cert)?, key))
    }

    /// A signed certificate in DER (RFC 5280, 4.1). `key` is a
    /// SubjectPublicKeyInfo, `names` a list of GeneralNames.
    fn leaf(
        &self,
        key: &[u8],
        names: &[u8],
        extensions: &[u8],
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Vec<u8>, IssueError> {
        let (not_before, not_after) = validity(ttl, self.not_after(), now)?;
        let validity = der::element(der::SEQUENCE, &[&der::time(not_before), &der::time(not_after)]);
        let names = der::element(der::SEQUENCE, &[names]);
        let names = der::element(der::OCTET_STRING, &[&names]);
        let names = der::element(der::SEQUENCE, &[SUBJECT_ALT_NAME_CRITICAL, &names]);
        let key_id = der::element(der::OCTET_STRING, &[&key_id(key)]);
        let key_id = der::element(der::OCTET_STRING, &[&key_id]);
        let key_id = der::element(der::SEQUENCE, &[SUBJECT_KEY_ID, &key_id]);
        let extensions = der::element(der::SEQUENCE, &[extensions, &key_id, &names]);
        let extensions = der::element(EXTENSIONS, &[&extensions]);
        let serial = serial()?.to_bn()?.to_vec();
        // A leading zero keeps the number positive.
        let sign: &[u8] = if serial.first().is_none_or(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
        let serial = der::element(der::INTEGER, &[sign, &serial]);
        let Template { algorithm, issuer, .. } = &self.template;
        let unsigned = der::element(
            der::SEQUENCE,
            &[VERSION_3, &serial, algorithm, issuer, &validity, NO_SUBJECT, key, &extensions],
        );
        let signature = der::element(der::BIT_STRING, &[&[0], &self.signature(&unsigned)?]);
        Ok(der::element(der::SEQUENCE, &[&unsigned, algorithm, &signature]))
    }

    fn signature(&self, unsigned: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        if let Some(key) = &self.p256 {
            return p256::sign(key, unsigned);
        }
        let mut signer = match self.key.id() {
            // EdDSA hashes by itself.
            Id::ED25519 => Signer::new_without_digest(&self.key)?,
            _ => Signer::new(self.digest, &self.key)?,
        };
        signer.sign_oneshot_to_vec(unsigned)
    }
}

/// `[0] { INTEGER 2 }`.
const VERSION_3: &[u8] = &[0xa0, 3, der::INTEGER, 1, 2];
const NO_SUBJECT: &[u8] = &[der::SEQUENCE, 0];
/// `[3]`, the tag of the extensions in a certificate.
const EXTENSIONS: u8 = 0xa3;
/// The tags of names: RFC 5280, 4.2.1.6.
const DNS_NAME: u8 = 0x82;
const URI_NAME: u8 = 0x86;
const IP_NAME: u8 = 0x87;
/// OID 2.5.29.17 and TRUE: the names are critical because the subject is empty.
const SUBJECT_ALT_NAME_CRITICAL: &[u8] = &[0x06, 3, 0x55, 0x1d, 0x11, 0x01, 1, 0xff];
/// OID 2.5.29.14.
const SUBJECT_KEY_ID: &[u8] = &[0x06, 3, 0x55, 0x1d, 0x0e];

/// The first 160 bits of the key's SHA-256: RFC 7093, 2, method 1. Nobody
/// compares a leaf's id with a hash of theirs.
fn key_id(public_key_info: &[u8]) -> [u8; 20] {
    let info = der::elements(public_key_info).next();
    let key = info.and_then(|info| der::elements(info.content).nth(1)).map_or(public_key_info, |key| key.content);
    // The first byte of a bit string counts its unused bits.
    let hash = sha256(key.get(1..).unwrap_or_default());
    std::array::from_fn(|i| hash[i])
}

/// The parts that are the same in every leaf of an issuer, in DER.
#[derive(Clone)]
pub(super) struct Template {
    algorithm: Vec<u8>,
    issuer: Vec<u8>,
    /// The extensions of workload certificates, but for names and key id.
    workload: Vec<u8>,
    /// The same for the control plane's own servers, which are never clients.
    serving: Vec<u8>,
}

impl Template {
    /// The parts of certificates that OpenSSL put together.
    pub(super) fn new(
        issuer: &X509Ref,
        key: &PKeyRef<Private>,
        digest: MessageDigest,
        now: Timestamp,
    ) -> Result<Option<Self>, ErrorStack> {
        let workload = probe(issuer, key, digest, now)?.to_der()?;
        let serving = signed_once(issuer, key, digest, serving_usage()?, now)?.to_der()?;
        Ok(template(&workload, &serving))
    }
}

fn template(workload: &[u8], serving: &[u8]) -> Option<Template> {
    fn fields(certificate: &[u8]) -> Option<Vec<der::Element<'_>>> {
        let certificate = der::elements(certificate).next()?;
        let unsigned = der::elements(certificate.content).next()?;
        Some(der::elements(unsigned.content).collect())
    }
    let extensions = |fields: &[der::Element<'_>]| {
        let field = fields.iter().find(|field| field.tag == EXTENSIONS)?;
        Some(der::elements(field.content).next()?.content.to_vec())
    };
    let (workload, serving) = (fields(workload)?, fields(serving)?);
    Some(Template {
        algorithm: workload.get(2)?.whole.to_vec(),
        issuer: workload.get(3)?.whole.to_vec(),
        workload: extensions(&workload)?,
        serving: extensions(&serving)?,
    })
}

/// A workload's leaf without a name, signed only to see whether its chain
/// verifies.
pub(super) fn probe(
    issuer: &X509Ref,
    key: &PKeyRef<Private>,
    digest: MessageDigest,
    now: Timestamp,
) -> Result<X509, ErrorStack> {
    let usage = ExtendedKeyUsage::new().client_auth().server_auth().build()?;
    signed_once(issuer, key, digest, usage, now)
}

fn serving_usage() -> Result<X509Extension, ErrorStack> {
    ExtendedKeyUsage::new().server_auth().build()
}

fn signed_once(
    issuer: &X509Ref,
    issuer_key: &PKeyRef<Private>,
    digest: MessageDigest,
    usage: X509Extension,
    now: Timestamp,
) -> Result<X509, ErrorStack> {
    let (key, soon) = (p256_key()?, now.checked_add(SignedDuration::from_mins(1)).unwrap_or(now));
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    builder.set_serial_number(serial()?.as_ref())?;
    builder.set_issuer_name(issuer.subject_name())?;
    builder.set_not_before(asn1_time(now)?.as_ref())?;
    builder.set_not_after(asn1_time(soon)?.as_ref())?;
    builder.set_pubkey(&key)?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().key_encipherment().build()?)?;
    builder.append_extension(usage)?;
    builder.append_extension(BasicConstraints::new().critical().build()?)?;
    // An issuer without a key id has none to be pointed at.
    if issuer.subject_key_id().is_some() {
        let key_id = AuthorityKeyIdentifier::new().keyid(true).build(&builder.x509v3_context(Some(issuer), None))?;
        builder.append_extension(key_id)?;
    }
    builder.sign(issuer_key, digest)?;
    Ok(builder.build())
}

/// A random positive serial number of 128 bits.
pub(super) fn serial() -> Result<Asn1Integer, ErrorStack> {
    let mut bytes = [0; 16];
    openssl::rand::rand_bytes(&mut bytes)?;
    BigNum::from_slice(&bytes)?.to_asn1_integer()
}

/// A fresh key on the one curve that every data plane can verify.
pub(super) fn p256_key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

fn requested_ttl(seconds: i64, lifetimes: Lifetimes) -> Result<Duration, IssueError> {
    match u64::try_from(seconds) {
        Err(_) | Ok(0) => Ok(lifetimes.default),
        Ok(wanted) if wanted > lifetimes.max.as_secs() => {
            Err(IssueError::Ttl { requested: seconds, max: lifetimes.max.as_secs() })
        }
        Ok(wanted) => Ok(Duration::from_secs(wanted)),
    }
}

/// From when until when a certificate is valid.
///
/// ztunnel refreshes at half the distance between the two, backdating
/// included, and at once if that is past. A quarter of the lifetime is
/// therefore the most a certificate is dated back.
fn validity(ttl: Duration, issuers_end: Timestamp, now: Timestamp) -> Result<(Timestamp, Timestamp), IssueError> {
    let wanted = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
    let not_after = now.checked_add(wanted).unwrap_or(Timestamp::MAX).min(issuers_end);
    let left = not_after.duration_since(now);
    if left < SignedDuration::from_secs(1) {
        return Err(IssueError::Expired(issuers_end));
    }
    let not_before = now.checked_sub(BACKDATE.min(left / 4)).unwrap_or(now);
    Ok((not_before, not_after))
}

#[cfg(test)]
mod tests;
