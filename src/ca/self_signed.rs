//! A root of our own, for meshes that plug none in: what istiod would have
//! made, except that the key is on P-256 unless RSA is asked for. A P-256 key
//! signs ten times faster, and every data plane verifies it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectKeyIdentifier};
use openssl::x509::{X509Builder, X509NameBuilder, X509NameRef};

use super::bundle::{CaBundle, pem};
use super::files::CaFiles;
use super::handover::same_key;
use super::identity::TrustDomain;
use super::issue::{BACKDATE, p256_key, serial};
use super::{asn1_time, timestamp};

/// The key of a new root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RootKey {
    /// ECDSA on P-256.
    #[default]
    P256,
    /// RSA of so many bits (`CITADEL_SELF_SIGNED_CA_RSA_KEY_SIZE`).
    Rsa(u32),
}

/// How a self-signed root is made and when it is renewed.
#[derive(Clone, Copy, Debug)]
pub struct RootPolicy {
    /// The key of a new root.
    pub key: RootKey,
    /// How long a root lives (`CITADEL_SELF_SIGNED_CA_CERT_TTL`).
    pub ttl: Duration,
    /// The part of the lifetime, in percent, in which a root is renewed
    /// (`CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE`).
    pub grace_percent: u8,
}

impl Default for RootPolicy {
    fn default() -> Self {
        Self { key: RootKey::P256, ttl: Duration::from_secs(3650 * 24 * 3600), grace_percent: 20 }
    }
}

/// A new root for a trust domain.
pub fn create(trust_domain: &TrustDomain, policy: RootPolicy, now: Timestamp) -> Result<CaFiles, ErrorStack> {
    let key = match policy.key {
        RootKey::P256 => p256_key()?,
        RootKey::Rsa(bits) => PKey::from_rsa(Rsa::generate(bits)?)?,
    };
    // istiod's: the organisation is the trust domain, and nothing else. The
    // field holds 64 characters (RFC 5280, A.1), a trust domain up to 255.
    let mut name = X509NameBuilder::new()?;
    let organization: String = trust_domain.as_str().chars().take(64).collect();
    name.append_entry_by_text("O", &organization)?;
    sign_itself(&key, &name.build(), policy.ttl, now)
}

/// The same root for another lifetime. Its key and name stay, so everything
/// signed before verifies with the new certificate, and everything signed
/// after with the old one: no peer notices. Roots that somebody has put beside it
/// stay there.
pub fn renewed(bundle: &CaBundle, policy: RootPolicy, now: Timestamp) -> Result<CaFiles, ErrorStack> {
    let mut files = sign_itself(&bundle.key, bundle.certificate().subject_name(), policy.ttl, now)?;
    let others = bundle.roots().iter().filter(|root| !same_key(root, bundle.certificate()));
    let others: String = others.map(|root| pem(root)).collect::<Result<_, _>>()?;
    files.root = [files.root.as_ref(), others.as_bytes()].concat().into();
    Ok(files)
}

/// Whether the root is in the last part of its lifetime.
pub fn needs_renewal(bundle: &CaBundle, policy: RootPolicy, now: Timestamp) -> Result<bool, ErrorStack> {
    let not_before = timestamp(bundle.certificate().not_before())?;
    let lifetime = bundle.certificate_not_after().duration_since(not_before);
    let grace = lifetime / 100 * i32::from(policy.grace_percent.min(100));
    Ok(bundle.certificate_not_after().duration_since(now) < grace)
}

fn sign_itself(
    key: &PKeyRef<Private>,
    name: &X509NameRef,
    ttl: Duration,
    now: Timestamp,
) -> Result<CaFiles, ErrorStack> {
    let not_after = SignedDuration::try_from(ttl).ok().and_then(|ttl| now.checked_add(ttl).ok());
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    builder.set_serial_number(serial()?.as_ref())?;
    builder.set_subject_name(name)?;
    builder.set_issuer_name(name)?;
    // As far back as the leaves: peers and replicas whose clocks are behind
    // must believe both.
    builder.set_not_before(asn1_time(now.checked_sub(BACKDATE).unwrap_or(now))?.as_ref())?;
    builder.set_not_after(asn1_time(not_after.unwrap_or(Timestamp::MAX))?.as_ref())?;
    builder.set_pubkey(key)?;
    builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
    builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
    let key_id = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
    builder.append_extension(key_id)?;
    builder.sign(key, MessageDigest::sha256())?;
    let cert = pem(&builder.build())?;
    Ok(CaFiles {
        root: cert.clone().into(),
        cert: cert.into(),
        key: key.private_key_to_pem_pkcs8()?.into(),
        chain: bytes::Bytes::new(),
        crl: None,
    })
}

#[cfg(test)]
mod tests;
