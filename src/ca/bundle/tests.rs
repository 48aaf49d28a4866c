use std::collections::BTreeMap;

use openssl::nid::Nid;
use openssl::symm::Cipher;

use super::*;
use crate::ca::files::{CA_CERT, CA_KEY, CERT_CHAIN, FilesError, ROOT_CERT};
use crate::ca::testing::{self, bytes, ec_key, later, made, now, rsa_key};

fn plugged(kind: &str) -> CaFiles {
    CaFiles::from_dir(&made(kind).path().join("cacerts")).unwrap().unwrap()
}

#[track_caller]
fn refused(files: &CaFiles, at: Timestamp, why: &str) {
    let error = CaBundle::verified(files, at).unwrap_err().to_string();
    assert!(error.contains(why), "{error:?} does not say {why:?}");
}

#[test]
fn both_layouts_and_key_kinds_are_one_bundle() {
    for kind in ["ec", "rsa"] {
        let dir = made(kind);
        for layout in ["cacerts", "cert-manager"] {
            let files = CaFiles::from_dir(&dir.path().join(layout)).unwrap().unwrap();
            let bundle = CaBundle::verified(&files, now()).unwrap();
            assert_eq!(bundle.intermediates().len(), 1, "{kind} {layout}: the root is not an intermediate");
            assert_eq!(bundle.roots().len(), 1);
            assert!(bundle.is_from(&files));
            assert!(
                bundle.not_after() == bundle.certificate_not_after() && bundle.not_after() < bundle.root_not_after()
            );
        }
    }
    assert!(CaFiles::from_dir(tempfile::tempdir().unwrap().path()).unwrap().is_none());
}

#[test]
fn a_partial_layout_names_what_is_missing() {
    let all = BTreeMap::from([CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT].map(|name| (name.to_owned(), bytes("x"))));
    for missing in all.keys() {
        let mut files = all.clone();
        // Present but empty counts as missing, but nothing may be between the
        // signer and the root: a self-signed root is stored like that.
        files.insert(missing.clone(), Bytes::new());
        if missing == CERT_CHAIN {
            assert!(CaFiles::from_map("dir", &files).unwrap().unwrap().chain.is_empty());
            files.remove(missing);
        }
        let error = CaFiles::from_map("Secret istio-system/cacerts", &files).unwrap_err();
        assert!(matches!(&error, FilesError::Partial { missing: name, .. } if name == missing), "{error}");
        assert!(error.to_string().contains("istio-system/cacerts"));
    }
    let mut both = all.clone();
    both.extend(["tls.crt", "tls.key", "ca.crt"].map(|name| (name.to_owned(), bytes("y"))));
    assert_eq!(CaFiles::from_map("dir", &both).unwrap().unwrap().cert, bytes("y"), "as in istiod");
    let only = BTreeMap::from([("tls.crt".to_owned(), bytes("x"))]);
    let error = CaFiles::from_map("dir", &only).unwrap_err().to_string();
    assert!(error.contains("lacks ca.crt, tls.key"), "{error}");
}

#[test]
fn keys_are_read_in_every_pem_form() {
    let (rsa, ec) = (rsa_key(2048), testing::p256());
    for (form, pem) in [
        ("PKCS#1", rsa.rsa().unwrap().private_key_to_pem().unwrap()),
        ("PKCS#8", rsa.private_key_to_pem_pkcs8().unwrap()),
        ("SEC1", ec.ec_key().unwrap().private_key_to_pem().unwrap()),
        ("PKCS#8 EC", ec.private_key_to_pem_pkcs8().unwrap()),
        ("Ed25519", PKey::generate_ed25519().unwrap().private_key_to_pem_pkcs8().unwrap()),
    ] {
        assert!(private_key(&pem).is_ok(), "{form}");
    }
    for (what, pem) in [
        ("weak RSA", rsa_key(1024).private_key_to_pem_pkcs8().unwrap()),
        ("P-224", ec_key(Nid::SECP224R1).private_key_to_pem_pkcs8().unwrap()),
        ("secp256k1", ec_key(Nid::SECP256K1).private_key_to_pem_pkcs8().unwrap()),
        ("encrypted", ec.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"secret").unwrap()),
        ("garbage", b"garbage".to_vec()),
    ] {
        assert!(private_key(&pem).is_err(), "{what}");
    }
}

#[test]
fn what_a_peer_would_not_believe_is_refused_with_a_reason() {
    let (good, other) = (plugged("ec"), plugged("ec"));
    refused(&CaFiles { key: other.key.clone(), ..good.clone() }, now(), "does not belong");
    refused(&CaFiles { root: other.root.clone(), ..good.clone() }, now(), "no valid chain");
    refused(&CaFiles { cert: bytes("nothing"), ..good.clone() }, now(), "the signing certificate is not PEM");
    refused(&CaFiles { root: bytes(""), ..good.clone() }, now(), "the root bundle is not PEM");
    refused(&good, later(800 * 24 * 3600), "the signing certificate is valid from");
    refused(&good, later(-10 * 24 * 3600), "the signing certificate is valid from");

    let dir = made("ec");
    let read = |name: &str| Bytes::from(std::fs::read(dir.path().join(name)).unwrap());
    let leaf = CaFiles {
        cert: read("leaf/cert.pem"),
        key: read("leaf/key.pem"),
        chain: read("cacerts/cert-chain.pem"),
        root: read("root/root-cert.pem"),
        crl: None,
    };
    refused(&leaf, now(), "not a CA");
}

/// A CA signed by another.
fn lower(upper: CaFiles, digest: MessageDigest) -> CaFiles {
    let (issuer, issuer_key) = (X509::from_pem(&upper.cert).unwrap(), private_key(&upper.key).unwrap());
    let key = testing::p256();
    let mut builder = openssl::x509::X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&issue::serial().unwrap()).unwrap();
    builder.set_issuer_name(issuer.subject_name()).unwrap();
    let mut name = openssl::x509::X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "lower").unwrap();
    builder.set_subject_name(&name.build()).unwrap();
    builder.set_not_before(issuer.not_before()).unwrap();
    builder.set_not_after(issuer.not_after()).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder
        .append_extension(openssl::x509::extension::BasicConstraints::new().critical().ca().build().unwrap())
        .unwrap();
    builder.sign(&issuer_key, digest).unwrap();
    CaFiles {
        cert: builder.build().to_pem().unwrap().into(),
        key: key.private_key_to_pem_pkcs8().unwrap().into(),
        ..upper
    }
}

#[test]
fn an_intermediate_that_may_not_have_another_below_it_is_refused() {
    // The script's intermediate has path length 0: a CA signed by it cannot
    // sign leaves.
    refused(&lower(plugged("ec"), MessageDigest::sha256()), now(), "path length");
}

#[test]
fn an_intermediate_too_weak_for_peers_is_refused() {
    let upper = testing::root();
    assert!(CaBundle::verified(&lower(upper.clone(), MessageDigest::sha256()), now()).is_ok());
    refused(&lower(upper, MessageDigest::sha1()), now(), "digest");
}

/// A self-signed CA for one purpose.
fn for_purpose(usage: &openssl::x509::extension::ExtendedKeyUsage) -> CaFiles {
    let (key, model) = (testing::p256(), X509::from_pem(&testing::root().cert).unwrap());
    let mut builder = openssl::x509::X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&issue::serial().unwrap()).unwrap();
    builder.set_issuer_name(model.subject_name()).unwrap();
    builder.set_subject_name(model.subject_name()).unwrap();
    builder.set_not_before(model.not_before()).unwrap();
    builder.set_not_after(model.not_after()).unwrap();
    builder.set_pubkey(&key).unwrap();
    let constraints = openssl::x509::extension::BasicConstraints::new().critical().ca().build().unwrap();
    builder.append_extension(constraints).unwrap();
    builder.append_extension(usage.build().unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let cert = Bytes::from(builder.build().to_pem().unwrap());
    let key = key.private_key_to_pem_pkcs8().unwrap().into();
    CaFiles { root: cert.clone(), cert, key, chain: Bytes::new(), crl: None }
}

/// Both ends of a connection show their certificates.
#[test]
fn a_ca_for_one_purpose_only_is_refused() {
    let usage = openssl::x509::extension::ExtendedKeyUsage::new;
    refused(&for_purpose(usage().client_auth()), now(), "purpose");
    refused(&for_purpose(usage().server_auth()), now(), "purpose");
    CaBundle::verified(&for_purpose(usage().client_auth().server_auth()), now()).unwrap();
}

/// Go's verifier, Envoy and ztunnel take an intermediate among the roots for an
/// anchor.
#[test]
fn an_intermediate_may_be_the_anchor() {
    let good = plugged("ec");
    let anchored = CaFiles { root: good.cert.clone(), chain: Bytes::new(), ..good.clone() };
    let bundle = CaBundle::verified(&anchored, now()).unwrap();
    assert!(bundle.intermediates().is_empty());
    // Whoever has been told of the root only needs the way there.
    let both = CaFiles { root: [good.cert.as_ref(), good.root.as_ref()].concat().into(), ..good };
    assert_eq!(CaBundle::verified(&both, now()).unwrap().intermediates().len(), 1);
}

#[test]
fn several_roots_are_all_handed_out() {
    let (good, other) = (plugged("ec"), plugged("rsa"));
    let both: Vec<u8> = [good.root.as_ref(), other.root.as_ref()].concat();
    let bundle = CaBundle::verified(&CaFiles { root: both.into(), ..good }, now()).unwrap();
    assert_eq!(bundle.roots().len(), 2);
    assert_eq!(bundle.root_pem().matches("BEGIN CERTIFICATE").count(), 2);
}

#[test]
fn debug_shows_no_key() {
    let files = plugged("ec");
    let bundle = CaBundle::verified(&files, now()).unwrap();
    let shown = format!("{files:?} {bundle:?}");
    assert!(shown.contains("redacted") && !shown.contains("BEGIN"), "{shown}");
    let secret = String::from_utf8(files.key.to_vec()).unwrap();
    assert!(!shown.contains(secret.lines().nth(1).unwrap()));
}

proptest::proptest! {
    #[test]
    fn random_files_never_panic(
        cert in proptest::collection::vec(proptest::num::u8::ANY, 0..64),
        body in "[A-Za-z0-9+/=\n-]{0,200}",
    ) {
        let pem = Bytes::from(format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"));
        let files = CaFiles { cert: pem.clone(), key: cert.into(), chain: pem.clone(), root: pem, crl: None };
        proptest::prop_assert!(CaBundle::verified(&files, Timestamp::UNIX_EPOCH).is_err());
    }
}
