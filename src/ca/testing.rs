//! What the tests of this module share.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyParam;
use openssl::x509::{X509, X509Extension, X509PurposeId, X509ReqBuilder, X509StoreContext};
use tempfile::TempDir;

use super::bundle::CaBundle;
use super::files::CaFiles;
use super::handover::Pace;
use super::identity::{SpiffeId, TrustDomain, TrustDomains};
use super::self_signed::{self, RootPolicy};

/// What `certs/make.sh` makes.
pub(super) fn made(kind: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/certs/make.sh");
    let made = Command::new(script).arg(dir.path()).arg(kind).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    dir
}

/// A little after now: material made a moment ago is valid, whatever the
/// fractions of a second.
pub(super) fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() + 1).unwrap()
}

pub(super) fn later(seconds: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() + seconds).unwrap()
}

pub(super) fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

pub(super) fn trust_domains() -> Arc<TrustDomains> {
    Arc::new(TrustDomains::new(trust_domain(), vec!["old.example".parse().unwrap()]))
}

pub(super) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

/// Steps without waiting.
pub(super) const AT_ONCE: Pace = Pace { lifetime: Duration::ZERO, spread: Duration::ZERO };

/// A fresh self-signed root.
pub(super) fn root() -> CaFiles {
    self_signed::create(&trust_domain(), RootPolicy::default(), Timestamp::now()).unwrap()
}

pub(super) fn root_bundle() -> CaBundle {
    CaBundle::verified(&root(), now()).unwrap()
}

pub(super) fn made_bundle(kind: &str) -> CaBundle {
    let files = CaFiles::from_dir(&made(kind).path().join("cacerts")).unwrap().unwrap();
    CaBundle::verified(&files, now()).unwrap()
}

pub(super) fn ec_key(curve: Nid) -> PKey<Private> {
    PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap()).unwrap()
}

pub(super) fn p256() -> PKey<Private> {
    ec_key(Nid::X9_62_PRIME256V1)
}

pub(super) fn rsa_key(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

pub(super) fn csr_with(key: &PKey<Private>, extensions: Vec<X509Extension>) -> String {
    let mut builder = X509ReqBuilder::new().unwrap();
    builder.set_pubkey(key).unwrap();
    let mut stack = Stack::new().unwrap();
    for extension in extensions {
        stack.push(extension).unwrap();
    }
    builder.add_extensions(&stack).unwrap();
    let digest = if key.id() == Id::ED25519 { MessageDigest::null() } else { MessageDigest::sha256() };
    builder.sign(key, digest).unwrap();
    String::from_utf8(builder.build().to_pem().unwrap()).unwrap()
}

pub(super) fn csr(key: &PKey<Private>) -> String {
    csr_with(key, vec![])
}

/// Verifies a chain as it came over the wire, as a peer would: the last
/// element holds the roots, only the first certificate of each other counts.
#[track_caller]
pub(super) fn verify(chain: &[String], purpose: X509PurposeId, at: Timestamp) -> X509 {
    let (roots, path) = chain.split_last().unwrap();
    let mut store = X509StoreBuilder::new().unwrap();
    for root in X509::stack_from_pem(roots.as_bytes()).unwrap() {
        store.add_cert(root).unwrap();
    }
    let mut parameters = X509VerifyParam::new().unwrap();
    parameters.set_time(at.as_second());
    parameters.set_purpose(purpose).unwrap();
    store.set_param(&parameters).unwrap();
    let mut untrusted = Stack::new().unwrap();
    for pem in path {
        let certs = X509::stack_from_pem(pem.as_bytes()).unwrap();
        assert_eq!(certs.len(), 1, "one certificate per element");
        untrusted.push(certs.into_iter().next().unwrap()).unwrap();
    }
    let leaf = X509::from_pem(path[0].as_bytes()).unwrap();
    let mut context = X509StoreContext::new().unwrap();
    let error = context
        .init(&store.build(), &leaf, &untrusted, |context| {
            context.verify_cert()?;
            Ok(context.error())
        })
        .unwrap();
    assert_eq!(error.error_string(), "ok");
    leaf
}

/// Every name in a certificate, with its kind.
pub(super) fn names(cert: &X509) -> Vec<String> {
    let names = cert.subject_alt_names();
    names
        .iter()
        .flatten()
        .map(|name| match (name.uri(), name.dnsname(), name.ipaddress()) {
            (Some(uri), ..) => format!("URI:{uri}"),
            (_, Some(dns), _) => format!("DNS:{dns}"),
            (.., Some(ip)) => format!("IP:{}", ip.iter().map(u8::to_string).collect::<Vec<_>>().join(".")),
            _ => "other".into(),
        })
        .collect()
}

pub(super) fn text(cert: &X509) -> String {
    String::from_utf8(cert.to_text().unwrap()).unwrap()
}

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
