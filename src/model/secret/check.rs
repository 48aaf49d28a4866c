//! Whether what an object holds can be used. What Envoy would refuse is found
//! here, where it can be said of the object, rather than by each proxy: an
//! Envoy that is sent a key that is not the certificate's keeps what it had, and
//! one that has nothing yet serves nothing, without a word to its owner.
//!
//! Findings name entries and say what is wrong with them, never what is in
//! them.

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use memchr::memmem;
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::ocsp::OcspResponse;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private};
use openssl::x509::{X509, X509Crl, X509Ref};
use rapidhash::v3::rapidhash_v3;

use super::Trusted;
use crate::api::secret::{Entry, Secret};
use crate::graph::Severity;

/// A certificate and its key, which belong together.
#[derive(Clone, PartialEq)]
pub struct Certificate {
    /// The certificate and its intermediates, in PEM.
    pub chain: Bytes,
    /// The key, in PEM.
    pub key: Bytes,
    /// What the authority says of the certificate, in DER.
    pub staple: Option<Bytes>,
    /// The names that it is for.
    pub names: Box<[Arc<str>]>,
    /// From when it is good.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Differs between certificates. Made of what is public.
    pub version: u64,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, until, version, .. } = self;
        let mut shown = f.debug_struct("Certificate");
        shown.field("names", names).field("until", until).field("version", version).finish_non_exhaustive()
    }
}

/// The certificates of authorities.
#[derive(Clone, PartialEq)]
pub struct Authority {
    /// The certificates, in PEM.
    pub certificates: Bytes,
    /// What they have revoked, in PEM.
    pub crl: Option<Bytes>,
    /// Differs between authorities.
    pub version: u64,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Why something cannot be used, or should not be for long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// A CamelCase reason.
    pub reason: &'static str,
    /// The same for a person.
    pub message: String,
}

impl Flaw {
    /// A flaw.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// Whether there is nothing that can be used.
    pub fn is_fatal(&self) -> bool {
        !matches!(self.reason, EXPIRED | NOT_YET_VALID | EXPIRES | OTHER_HOST)
    }

    /// How bad it is for whoever refers to it.
    pub fn severity(&self) -> Severity {
        if self.is_fatal() { Severity::Error } else { Severity::Warning }
    }
}

/// A certificate is no longer good. It is served all the same, as with istiod:
/// a proxy without it would do nothing at all.
pub const EXPIRED: &str = "CertificateExpired";
/// A certificate is not good yet.
pub const NOT_YET_VALID: &str = "CertificateNotYetValid";
/// A certificate will not be good for long.
pub const EXPIRES: &str = "CertificateExpires";
/// A certificate is for other hosts than it is used for.
pub const OTHER_HOST: &str = "CertificateForOtherHosts";

/// The days before its end on which a certificate is talked about.
const NOTICE: [i64; 3] = [1, 7, 30];

impl Certificate {
    /// What the time says of it.
    pub fn age(&self, now: Timestamp) -> Option<Flaw> {
        let date = |time: Timestamp| format!("{time:.0}");
        if now > self.until {
            return Some(Flaw::new(EXPIRED, format!("the certificate has expired on {}", date(self.until))));
        }
        if now < self.from {
            return Some(Flaw::new(NOT_YET_VALID, format!("the certificate is not valid before {}", date(self.from))));
        }
        let left = self.until.as_second() - now.as_second();
        let days = NOTICE.into_iter().find(|days| left < days * 24 * 3600)?;
        // One that is made for some weeks is renewed later than others.
        let lifetime = self.until.as_second() - self.from.as_second();
        let soon = left < lifetime / 3;
        soon.then(|| {
            let within = if days == 1 { "a day".to_owned() } else { format!("{days} days") };
            Flaw::new(EXPIRES, format!("the certificate expires within {within}, on {}", date(self.until)))
        })
    }

    /// Whether it is for a host, which may be a wildcard itself.
    pub fn covers(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            // A wildcard stands for one label.
            Some(domain) => **name == *host || parent.is_some_and(|parent| parent == domain && !host.starts_with("*.")),
            None => **name == *host,
        })
    }
}

/// The certificate and key of a Secret.
pub fn certificate(secret: &Secret) -> Result<Certificate, Flaw> {
    let layouts = [(Entry::Cert, Entry::Key), (Entry::TlsCert, Entry::TlsKey)];
    let found = layouts.into_iter().find_map(|(cert, key)| Some((cert, secret.get(cert)?, key, secret.get(key)?)));
    let Some((cert_entry, chain, key_entry, key)) = found else {
        let half = layouts.into_iter().find(|(cert, key)| secret.has(*cert) || secret.has(*key));
        return Err(match half {
            Some((cert, key)) => {
                Flaw::new("NoCertificate", format!("{} and {} are not both there", cert.name(), key.name()))
            }
            None => Flaw::new("NoCertificate", "neither tls.crt and tls.key nor cert and key are there"),
        });
    };
    // Only Kubernetes' layout has one.
    let staple = if cert_entry == Entry::TlsCert { secret.get(Entry::TlsOcspStaple) } else { None };
    let leaf = leaf(chain).map_err(|what| Flaw::new("InvalidCertificate", format!("{} {what}", cert_entry.name())))?;
    let parsed = private_key(key).map_err(|what| Flaw::new("InvalidKey", format!("{} {what}", key_entry.name())))?;
    let invalid =
        |error: &ErrorStack| Flaw::new("InvalidCertificate", format!("{}: {}", cert_entry.name(), why(error)));
    let public = leaf.public_key().map_err(|error| invalid(&error))?;
    if !public.public_eq(&parsed) {
        let message = format!("{} is not the key of {}", key_entry.name(), cert_entry.name());
        return Err(Flaw::new("KeyMismatch", message));
    }
    supported(&public).map_err(|what| Flaw::new("UnsupportedKey", format!("{} {what}", cert_entry.name())))?;
    if staple.is_some_and(|staple| OcspResponse::from_der(staple).is_err()) {
        return Err(Flaw::new("InvalidOcspStaple", format!("{} is not one", Entry::TlsOcspStaple.name())));
    }
    let (from, until) = time(leaf.not_before())
        .and_then(|from| Ok((from, time(leaf.not_after())?)))
        .map_err(|error| invalid(&error))?;
    let version = rapidhash_v3(&[&chain[..], staple.map_or(&[][..], |staple| staple)].join(&b'\0'));
    let (chain, key, staple) = (chain.clone(), key.clone(), staple.cloned());
    Ok(Certificate { chain, key, staple, names: names(&leaf), from, until, version })
}

/// The authorities of a Secret or a ConfigMap.
pub fn authority(object: &impl Trusted) -> Result<Authority, Flaw> {
    let Some((certificates, crl)) = object.authority() else {
        return Err(Flaw::new("NoAuthority", "neither ca.crt nor cacert is there"));
    };
    leaf(certificates).map_err(|what| Flaw::new("InvalidAuthority", format!("the CA's certificate {what}")))?;
    // It is for everybody to read, and a key in it would be, too.
    if memmem::find(certificates, b"PRIVATE KEY-----").is_some() {
        return Err(Flaw::new("InvalidAuthority", "there is a private key among the CA's certificates"));
    }
    if crl.is_some_and(|crl| X509Crl::from_pem(crl).is_err()) {
        return Err(Flaw::new("InvalidCrl", "the revocation list is not one"));
    }
    let version = rapidhash_v3(&[certificates, crl.unwrap_or_default()].join(&b'\0'));
    let copy = Bytes::copy_from_slice;
    Ok(Authority { certificates: copy(certificates), crl: crl.map(copy), version })
}

/// The first of some certificates in PEM, all of which can be read.
fn leaf(pem: &[u8]) -> Result<X509, &'static str> {
    let certificates = X509::stack_from_pem(pem).map_err(|_| "cannot be read")?;
    certificates.into_iter().next().ok_or("has no certificate in PEM")
}

fn private_key(pem: &[u8]) -> Result<PKey<Private>, &'static str> {
    if memmem::find(pem, b"ENCRYPTED").is_some() {
        return Err("is encrypted");
    }
    // Without a callback OpenSSL would ask whoever sits at the terminal.
    PKey::private_key_from_pem_callback(pem, |_| Ok(0)).map_err(|_| "has no private key in PEM")
}

/// Whether Envoy takes a key.
fn supported(key: &PKeyRef<impl HasPublic>) -> Result<(), String> {
    const CURVES: [Nid; 3] = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1];
    match key.id() {
        Id::RSA if key.bits() < 2048 => Err(format!("has an RSA key of {} bits; 2048 are the least", key.bits())),
        Id::EC => match key.ec_key().ok().and_then(|key| key.group().curve_name()) {
            Some(curve) if CURVES.contains(&curve) => Ok(()),
            _ => Err("has a key on another curve than P-256, P-384 and P-521".into()),
        },
        _ => Ok(()),
    }
}

fn names(certificate: &X509Ref) -> Box<[Arc<str>]> {
    let names = certificate.subject_alt_names();
    let address = |bytes: &[u8]| match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    };
    let name = |name: &openssl::x509::GeneralNameRef| {
        let address = || name.ipaddress().and_then(address).map(|address| address.to_string());
        name.dnsname().map(str::to_ascii_lowercase).or_else(address)
    };
    names.iter().flatten().filter_map(name).map(Into::into).collect()
}

fn time(time: &Asn1TimeRef) -> Result<Timestamp, ErrorStack> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    let seconds = i64::from(since.days) * 86_400 + i64::from(since.secs);
    // Beyond what can be said of time at all.
    Ok(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}

/// What OpenSSL says, without the places in its code.
fn why(error: &ErrorStack) -> String {
    error.errors().iter().find_map(|error| error.reason()).unwrap_or("it cannot be read").to_owned()
}
