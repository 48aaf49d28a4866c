//! Verified key material: a signing certificate, its key, the way to a root
//! and the roots of the mesh.
//!
//! A [`CaBundle`] exists only if a peer would believe what it signs: the key
//! belongs to the certificate, the certificate may sign, and OpenSSL finds a
//! valid chain to one of the roots. Everything the signing path needs is
//! parsed and encoded here, once.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use openssl::ec::EcKey;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, PKeyRef, Private};
use openssl::stack::{Stack, StackRef};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509KeyUsage, X509PurposeId, X509Ref, X509StoreContext, X509StoreContextRef};

use super::files::CaFiles;
use super::issue::{self, Template};
use super::{handover, timestamp};

/// What peers verify at least, as OpenSSL counts it: neither SHA-1 below a root nor
/// RSA of less than 2048 bits. BoringSSL, rustls and Go refuse both.
const STRENGTH: i32 = 2;
/// More certificates than this in one file is a mistake.
const MAX_CERTIFICATES: usize = 64;

/// Key material that was found fit to sign.
pub struct CaBundle {
    pub(super) cert: X509,
    pub(super) key: PKey<Private>,
    /// The same key, if it is on P-256.
    pub(super) p256: Option<EcKey<Private>>,
    pub(super) digest: MessageDigest,
    pub(super) not_after: Timestamp,
    pub(super) template: Template,
    /// Signing certificate and intermediates, without the roots.
    pub(super) intermediates: Vec<X509>,
    intermediate_pems: Vec<String>,
    /// The end of the path from the signing certificate.
    root: X509,
    issuer_fingerprint: Arc<str>,
    roots: Vec<X509>,
    root_pem: Arc<str>,
    crl: Option<Bytes>,
    cert_not_after: Timestamp,
    root_not_after: Timestamp,
    fingerprint: [u8; 32],
}

/// Why key material cannot sign for a mesh.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file is not PEM, or has nothing in it.
    #[error("{what} is not PEM: {reason}")]
    Pem {
        /// Which file.
        what: &'static str,
        /// What OpenSSL says, without any of the content.
        reason: String,
    },
    /// A key too weak, or of a kind no data plane verifies.
    #[error("the signing key {0}")]
    Key(String),
    /// Certificate and key do not belong together.
    #[error("the signing key does not belong to the signing certificate")]
    Mismatch,
    /// The certificate may not sign certificates.
    #[error("the signing certificate is not a CA: {0}")]
    NotCa(String),
    /// The certificate's time is not now.
    #[error("the {what} certificate is valid from {not_before} until {not_after}, which is not now")]
    Validity {
        /// Which certificate.
        what: &'static str,
        /// Start of validity.
        not_before: Timestamp,
        /// End of validity.
        not_after: Timestamp,
    },
    /// OpenSSL finds no valid path to a root of the bundle.
    #[error("no valid chain from the signing certificate to a root in the root bundle: {reason} (at depth {depth})")]
    Chain {
        /// What OpenSSL says.
        reason: &'static str,
        /// How far from the signing certificate.
        depth: u32,
    },
    /// OpenSSL failed where it should not.
    #[error("OpenSSL failed")]
    OpenSsl(#[from] ErrorStack),
}

impl CaBundle {
    /// The bundle that files hold, if it can sign at this time.
    pub fn verified(files: &CaFiles, now: Timestamp) -> Result<Self, BundleError> {
        let cert = certificates("the signing certificate", &files.cert)?.swap_remove(0);
        let key = private_key(&files.key)?;
        let chain = if files.chain.is_empty() { vec![] } else { certificates("the certificate chain", &files.chain)? };
        let roots = certificates("the root bundle", &files.root)?;

        if !cert.public_key()?.public_eq(&key) {
            return Err(BundleError::Mismatch);
        }
        check_validity("signing", &cert, now)?;
        let path = path_to_root(&cert, &key, chain, &roots, now)?;

        let mut not_after = Timestamp::MAX;
        for issuer in &path {
            not_after = not_after.min(timestamp(issuer.not_after())?);
        }
        let root_not_after = path.last().map_or(Ok(not_after), |root| timestamp(root.not_after()))?;
        // The end of the path is a root, which every peer already has.
        let intermediates = &path[..path.len() - 1];
        let intermediate_pems = intermediates.iter().map(|cert| pem(cert)).collect::<Result<_, _>>()?;
        Ok(Self {
            digest: digest(&key),
            cert_not_after: timestamp(cert.not_after())?,
            root_not_after,
            not_after,
            template: Template::new(&cert, &key, digest(&key), now)?
                .ok_or(BundleError::NotCa("its certificates cannot be taken apart".into()))?,
            intermediates: intermediates.to_vec(),
            intermediate_pems,
            root: path.last().unwrap_or(&cert).clone(),
            issuer_fingerprint: handover::fingerprint(&cert).into(),
            root_pem: pems(&roots)?,
            roots,
            crl: files.crl.clone(),
            fingerprint: files.fingerprint(),
            p256: p256_key(&key),
            cert,
            key,
        })
    }

    /// The same signer with other roots for the mesh.
    pub(super) fn with_roots(&self, roots: Vec<X509>) -> Result<Self, ErrorStack> {
        Ok(Self {
            digest: self.digest,
            cert_not_after: self.cert_not_after,
            root_not_after: self.root_not_after,
            not_after: self.not_after,
            template: self.template.clone(),
            intermediates: self.intermediates.clone(),
            intermediate_pems: self.intermediate_pems.clone(),
            root: self.root.clone(),
            issuer_fingerprint: self.issuer_fingerprint.clone(),
            root_pem: pems(&roots)?,
            roots,
            crl: self.crl.clone(),
            fingerprint: self.fingerprint,
            p256: self.p256.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
        })
    }

    /// Files that it could be made from. The key is among them.
    pub(super) fn files(&self) -> Result<CaFiles, ErrorStack> {
        Ok(CaFiles {
            cert: pem(&self.cert)?.into(),
            key: self.key.private_key_to_pem_pkcs8()?.into(),
            chain: self.intermediate_pems.concat().into(),
            root: pem(&self.root)?.into(),
            crl: self.crl.clone(),
        })
    }

    /// The PEM certificates between a leaf and the roots, nearest first.
    pub fn intermediates(&self) -> &[String] {
        &self.intermediate_pems
    }

    /// The roots of the mesh as one PEM file.
    pub fn root_pem(&self) -> &Arc<str> {
        &self.root_pem
    }

    /// The roots of the mesh.
    pub fn roots(&self) -> &[X509] {
        &self.roots
    }

    /// The revocation list to publish, as the operator gave it.
    pub fn crl(&self) -> Option<&Bytes> {
        self.crl.as_ref()
    }

    /// The signing certificate.
    pub fn certificate(&self) -> &X509Ref {
        &self.cert
    }

    /// Tells the signing certificate from others.
    pub(super) fn issuer_fingerprint(&self) -> &str {
        &self.issuer_fingerprint
    }

    /// The root at the end of the signer's chain.
    pub(super) fn root(&self) -> &X509Ref {
        &self.root
    }

    /// When the signing certificate ends.
    pub fn certificate_not_after(&self) -> Timestamp {
        self.cert_not_after
    }

    /// When the root at the end of the signer's chain ends.
    pub fn root_not_after(&self) -> Timestamp {
        self.root_not_after
    }

    /// When the first certificate of the signer's chain ends; no leaf lives
    /// longer.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether it brings a new root to a mesh that was `told` of others, of which it
    /// has some: so that the change can be made in steps.
    pub fn introduces_root(&self, told: &[u8]) -> bool {
        let told = X509::stack_from_pem(told).unwrap_or_default();
        !handover::has(&told, &self.root) && self.roots.iter().any(|root| handover::has(&told, root))
    }

    /// Whether it was made from these files.
    pub fn is_from(&self, files: &CaFiles) -> bool {
        self.fingerprint == files.fingerprint()
    }

    /// Whether both were made from the same files, whatever their roots are now.
    pub(super) fn same_files(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// The roots in the form a TLS end verifies against.
    pub fn trust_store(&self) -> Result<X509Store, ErrorStack> {
        trust_store(&self.roots)
    }
}

impl fmt::Debug for CaBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaBundle")
            .field("subject", &self.cert.subject_name())
            .field("key", &"redacted")
            .field("intermediates", &self.intermediates.len())
            .field("roots", &self.roots.len())
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn pems(certs: &[X509]) -> Result<Arc<str>, ErrorStack> {
    let text: String = certs.iter().map(|cert| pem(cert)).collect::<Result<_, _>>()?;
    Ok(text.into())
}

/// One certificate as text.
pub(super) fn pem(cert: &X509Ref) -> Result<String, ErrorStack> {
    // PEM is ASCII by construction.
    Ok(String::from_utf8_lossy(&cert.to_pem()?).into_owned())
}

/// From when on all of some files' certificates are valid, as far as they can be
/// read.
pub(super) fn valid_from(files: &CaFiles) -> Option<Timestamp> {
    let certificates = [&files.cert, &files.chain, &files.root];
    let certificates = certificates.into_iter().filter_map(|content| X509::stack_from_pem(content).ok()).flatten();
    certificates.filter_map(|cert| timestamp(cert.not_before()).ok()).max()
}

/// The certificates of a PEM file: at least one.
pub(super) fn certificates(what: &'static str, content: &[u8]) -> Result<Vec<X509>, BundleError> {
    let bad = |reason: String| BundleError::Pem { what, reason };
    let found = X509::stack_from_pem(content).map_err(|error| bad(reason(&error)))?;
    match found.len() {
        0 => Err(bad("there is no certificate in it".into())),
        1..=MAX_CERTIFICATES => Ok(found),
        count => Err(bad(format!("{count} certificates are more than {MAX_CERTIFICATES}"))),
    }
}

/// A private key in any of the PEM forms: PKCS#1, PKCS#8 or SEC1.
pub(super) fn private_key(content: &[u8]) -> Result<PKey<Private>, BundleError> {
    // The callback answers the password prompt OpenSSL would else put on the
    // terminal for an encrypted key.
    let key = PKey::private_key_from_pem_callback(content, |_| Ok(0))
        .map_err(|error| BundleError::Pem { what: "the signing key", reason: reason(&error) })?;
    match key.id() {
        Id::RSA if key.bits() < 2048 => Err(BundleError::Key(format!("is RSA of {} bits, not 2048", key.bits()))),
        Id::RSA | Id::ED25519 => Ok(key),
        Id::EC => match key.ec_key()?.group().curve_name() {
            Some(Nid::X9_62_PRIME256V1 | Nid::SECP384R1 | Nid::SECP521R1) => Ok(key),
            _ => Err(BundleError::Key("is not on P-256, P-384 or P-521".into())),
        },
        _ => Err(BundleError::Key("is neither RSA, EC nor Ed25519".into())),
    }
}

/// OpenSSL's own words, which never quote the input.
fn reason(error: &ErrorStack) -> String {
    error.errors().last().and_then(|error| error.reason()).unwrap_or("unknown error").to_owned()
}

/// The hash a key signs with: as strong as the key, SHA-256 at least.
fn digest(key: &PKeyRef<Private>) -> MessageDigest {
    match key.id() {
        // EdDSA hashes by itself.
        Id::ED25519 => MessageDigest::null(),
        Id::EC if key.bits() > 384 => MessageDigest::sha512(),
        Id::EC if key.bits() > 256 => MessageDigest::sha384(),
        _ => MessageDigest::sha256(),
    }
}

fn p256_key(key: &PKeyRef<Private>) -> Option<EcKey<Private>> {
    let key = key.ec_key().ok()?;
    (key.group().curve_name() == Some(Nid::X9_62_PRIME256V1)).then_some(key)
}

pub(super) fn check_validity(what: &'static str, cert: &X509Ref, now: Timestamp) -> Result<(), BundleError> {
    let (not_before, not_after) = (timestamp(cert.not_before())?, timestamp(cert.not_after())?);
    if not_before <= now && now < not_after {
        Ok(())
    } else {
        Err(BundleError::Validity { what, not_before, not_after })
    }
}

/// The certificates from the signer to a root, both included, as a peer finds
/// them: it is a leaf signed for the occasion that OpenSSL is asked to verify,
/// so that whatever would make it refuse a real one (not a CA, path length,
/// expired, wrong key usage) is found here.
fn path_to_root(
    cert: &X509Ref,
    key: &PKeyRef<Private>,
    chain: Vec<X509>,
    roots: &[X509],
    now: Timestamp,
) -> Result<Vec<X509>, BundleError> {
    if cert.key_usage().is_some_and(|usage| !usage.contains(X509KeyUsage::KEY_CERT_SIGN)) {
        return Err(BundleError::NotCa("its key usage lacks keyCertSign".into()));
    }
    let probe = issue::probe(cert, key, digest(key), now)?;
    let mut untrusted = Stack::new()?;
    untrusted.push(cert.to_owned())?;
    for cert in chain {
        untrusted.push(cert)?;
    }
    let anchored = |flags, purpose| verified(&probe, &untrusted, roots, now, flags, purpose);
    // Certificates of workloads are shown by clients and by servers.
    let found =
        |flags| anchored(flags, X509PurposeId::SSL_SERVER).and_then(|_| anchored(flags, X509PurposeId::SSL_CLIENT));
    // Peers also take what leads to an intermediate among the roots, but whoever
    // has only the root needs the way there.
    found(X509VerifyFlags::empty()).or_else(|error| found(X509VerifyFlags::PARTIAL_CHAIN).map_err(|_| error))
}

/// The path of a leaf to one of these roots, without the leaf.
fn verified(
    leaf: &X509Ref,
    untrusted: &StackRef<X509>,
    roots: &[X509],
    now: Timestamp,
    flags: X509VerifyFlags,
    purpose: X509PurposeId,
) -> Result<Vec<X509>, BundleError> {
    let mut parameters = X509VerifyParam::new()?;
    parameters.set_time(now.as_second());
    parameters.set_purpose(purpose)?;
    parameters.set_flags(flags)?;
    parameters.set_auth_level(STRENGTH);
    let mut store = X509StoreBuilder::new()?;
    for root in roots {
        store.add_cert(root.clone())?;
    }
    store.set_param(&parameters)?;
    let verify = |context: &mut X509StoreContextRef| {
        let verified = context.verify_cert()?;
        let path: Vec<X509> = match context.chain() {
            Some(chain) if verified => chain.iter().skip(1).map(|cert| cert.to_owned()).collect(),
            _ => vec![],
        };
        Ok((path, context.error(), context.error_depth()))
    };
    let (path, error, depth) = X509StoreContext::new()?.init(&store.build(), leaf, untrusted, verify)?;
    match path.is_empty() {
        false => Ok(path),
        true if error.as_raw() == INVALID_CA && depth <= 1 => Err(BundleError::NotCa(error.error_string().into())),
        true => Err(BundleError::Chain { reason: error.error_string(), depth }),
    }
}

/// `X509_V_ERR_INVALID_CA`, which the crate does not name.
const INVALID_CA: i32 = 79;

pub(super) fn trust_store(roots: &[X509]) -> Result<X509Store, ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    for root in roots {
        store.add_cert(root.clone())?;
    }
    // As Envoy and ztunnel do it: an intermediate among the roots is enough.
    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
    Ok(store.build())
}

#[cfg(test)]
mod tests;
