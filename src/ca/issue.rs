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
use openssl::pkey::{HasPublic, PKey, PKeyRef, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Extension, X509NameBuilder, X509Ref};

use super::asn1_time;
use super::bundle::{CaBundle, pem};
use super::csr::Csr;
use super::identity::SpiffeId;

/// How far certificates are dated back, for peers whose clocks are behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(2);

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
        let mut names = SubjectAlternativeName::new();
        // RFC 5280, 4.2.1.6: critical, because the subject is empty.
        names.critical().uri(&identity.to_string());
        let leaf = self.leaf(&csr.key, &names, &self.workload_extensions, ttl, now)?;
        let mut chain = Vec::with_capacity(self.intermediates().len() + 2);
        chain.push(pem(&leaf)?);
        chain.extend(self.intermediates().iter().cloned());
        chain.push(self.root_pem().to_string());
        Ok(chain)
    }

    /// A certificate and a fresh key for a server of the control plane.
    pub fn serving_pair(
        &self,
        names: &[ServerName],
        ttl: Duration,
        now: Timestamp,
    ) -> Result<(X509, PKey<Private>), IssueError> {
        let key = p256_key()?;
        let mut extension = SubjectAlternativeName::new();
        extension.critical();
        for name in names {
            match name {
                ServerName::Dns(name) => extension.dns(name),
                ServerName::Ip(address) => extension.ip(&address.to_string()),
            };
        }
        let cert = self.leaf(&key, &extension, &self.serving_extensions, ttl, now)?;
        Ok((cert, key))
    }

    fn leaf<K: HasPublic>(
        &self,
        key: &PKeyRef<K>,
        names: &SubjectAlternativeName,
        extensions: &[X509Extension],
        ttl: Duration,
        now: Timestamp,
    ) -> Result<X509, IssueError> {
        let (not_before, not_after) = validity(ttl, self.not_after(), now)?;
        let mut builder = unsigned(&self.cert, key, not_before, not_after)?;
        let names = names.build(&builder.x509v3_context(None, None))?;
        builder.append_extension(names)?;
        let key_id = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
        builder.append_extension(key_id)?;
        for extension in extensions {
            builder.append_extension2(extension)?;
        }
        builder.sign(&self.key, self.digest)?;
        Ok(builder.build())
    }
}

/// A leaf without a name, signed only to see whether its chain verifies.
pub(super) fn probe(
    issuer: &X509Ref,
    issuer_key: &PKeyRef<Private>,
    digest: MessageDigest,
    now: Timestamp,
) -> Result<X509, ErrorStack> {
    let key = p256_key()?;
    let mut builder = unsigned(issuer, &key, now, now + SignedDuration::from_mins(1))?;
    for extension in workload_extensions(issuer)? {
        builder.append_extension(extension)?;
    }
    builder.sign(issuer_key, digest)?;
    Ok(builder.build())
}

/// The extensions that are the same in every workload certificate of an
/// issuer; made once, because OpenSSL parses the issuer to make them.
pub(super) fn workload_extensions(issuer: &X509Ref) -> Result<Vec<X509Extension>, ErrorStack> {
    leaf_extensions(issuer, ExtendedKeyUsage::new().client_auth().server_auth().build()?)
}

/// The same for the control plane's own servers, which are never clients.
pub(super) fn serving_extensions(issuer: &X509Ref) -> Result<Vec<X509Extension>, ErrorStack> {
    leaf_extensions(issuer, ExtendedKeyUsage::new().server_auth().build()?)
}

fn leaf_extensions(issuer: &X509Ref, usage: X509Extension) -> Result<Vec<X509Extension>, ErrorStack> {
    let mut extensions = vec![
        KeyUsage::new().critical().digital_signature().key_encipherment().build()?,
        usage,
        BasicConstraints::new().critical().build()?,
    ];
    // An issuer without a key id has none to be pointed at.
    if issuer.subject_key_id().is_some() {
        let builder = X509Builder::new()?;
        extensions.push(AuthorityKeyIdentifier::new().keyid(true).build(&builder.x509v3_context(Some(issuer), None))?);
    }
    Ok(extensions)
}

fn unsigned<K: HasPublic>(
    issuer: &X509Ref,
    key: &PKeyRef<K>,
    not_before: Timestamp,
    not_after: Timestamp,
) -> Result<X509Builder, ErrorStack> {
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    builder.set_serial_number(serial()?.as_ref())?;
    builder.set_issuer_name(issuer.subject_name())?;
    builder.set_subject_name(X509NameBuilder::new()?.build().as_ref())?;
    builder.set_not_before(asn1_time(not_before)?.as_ref())?;
    builder.set_not_after(asn1_time(not_after)?.as_ref())?;
    builder.set_pubkey(key)?;
    Ok(builder)
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
