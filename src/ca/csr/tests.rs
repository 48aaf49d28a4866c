use openssl::ec::EcKey;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509ReqBuilder;
use proptest::prelude::*;

use super::*;
use crate::ca::testing::{csr, ec_key, p256, rsa_key};

#[track_caller]
fn refused(text: &str, why: &str) {
    match Csr::parse(text) {
        Ok(_) => panic!("accepted, expected {why:?}"),
        Err(error) => assert!(error.to_string().contains(why), "{error} does not say {why:?}"),
    }
}

#[test]
fn every_key_a_proxy_uses_is_accepted() {
    let keys: [(&str, PKey<Private>); 6] = [
        ("P-256", p256()),
        ("P-384", ec_key(Nid::SECP384R1)),
        ("P-521", ec_key(Nid::SECP521R1)),
        ("RSA 2048", rsa_key(2048)),
        ("RSA 3072", rsa_key(3072)),
        ("Ed25519", PKey::generate_ed25519().unwrap()),
    ];
    for (name, key) in keys {
        let parsed = Csr::parse(&csr(&key)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(parsed.key, key.public_key_to_der().unwrap(), "{name}");
    }
}

#[test]
fn weak_and_unknown_keys_are_refused() {
    refused(&csr(&rsa_key(512)), "RSA of 512 bits");
    refused(&csr(&rsa_key(1024)), "RSA of 1024 bits");
    refused(&csr(&ec_key(Nid::SECP224R1)), "secp224r1");
    refused(&csr(&ec_key(Nid::SECP256K1)), "secp256k1");
    refused(&csr(&PKey::from_dsa(openssl::dsa::Dsa::generate(1024).unwrap()).unwrap()), "neither RSA");
}

/// A 16384-bit key takes minutes to make, and need not be one: strength is
/// checked before the signature.
#[test]
fn a_costly_key_is_refused_before_its_signature_is_verified() {
    let mut modulus = vec![0xff_u8; 16384 / 8];
    modulus[16384 / 8 - 1] = 1;
    let big = openssl::rsa::Rsa::from_public_components(
        openssl::bn::BigNum::from_slice(&modulus).unwrap(),
        openssl::bn::BigNum::from_u32(65537).unwrap(),
    );
    let mut builder = X509ReqBuilder::new().unwrap();
    builder.set_pubkey(&PKey::from_rsa(big.unwrap()).unwrap()).unwrap();
    builder.sign(&p256(), MessageDigest::sha256()).unwrap();
    refused(&String::from_utf8(builder.build().to_pem().unwrap()).unwrap(), "RSA of 16384 bits");
}

#[test]
fn the_key_must_have_signed() {
    let mut builder = X509ReqBuilder::new().unwrap();
    builder.set_pubkey(&p256()).unwrap();
    builder.sign(&p256(), MessageDigest::sha256()).unwrap();
    refused(&String::from_utf8(builder.build().to_pem().unwrap()).unwrap(), "signature does not verify");
}

#[test]
fn exactly_one_block_and_nothing_else() {
    let good = csr(&p256());
    assert!(Csr::parse(&format!("\n {good}\r\n")).is_ok());
    assert!(Csr::parse(&good.replace('\n', "\r\n")).is_ok());
    assert!(Csr::parse(&good.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")).is_ok());

    let not_pem = "exactly one PEM block";
    refused("", not_pem);
    refused("garbage", not_pem);
    refused("-----BEGIN CERTIFICATE REQUEST-----", not_pem);
    refused("-----BEGIN CERTIFICATE REQUEST----------END CERTIFICATE REQUEST-----", not_pem);
    refused(&format!("{good}{good}"), not_pem);
    refused(&format!("{good}x"), not_pem);
    refused(&format!("x{good}"), not_pem);
    refused(&good.replace("CERTIFICATE REQUEST", "CERTIFICATE"), not_pem);
    refused(&good.replacen("REQUEST-----\n", "REQUEST-----\nProc-Type: 4,ENCRYPTED\n", 1), not_pem);
    refused(&"A".repeat(1 << 20), "more than 65536");
    refused(&format!("{good}{}", " ".repeat(MAX_CSR)), "more than 65536");

    let mut der = only_pem_block(&good).unwrap();
    der.push(0);
    let pem = |der: &[u8]| {
        let body = openssl::base64::encode_block(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    };
    refused(&pem(&der), "not a valid PKCS#10");
    refused(&pem(b"\x30\x80\x00\x00"), "not a valid PKCS#10");
}

proptest! {
    #[test]
    fn random_text_never_panics(text in any::<String>(), body in "[A-Za-z0-9+/=\n]{0,400}") {
        prop_assert!(Csr::parse(&text).is_err());
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----");
        prop_assert!(Csr::parse(&pem).is_err());
    }

    #[test]
    fn a_damaged_request_is_refused(place in 0.0..1.0_f64, bit in 0..8_u8) {
        let good = csr(&p256());
        let mut der = only_pem_block(&good).unwrap();
        let place = (place * der.len() as f64) as usize;
        der[place] ^= 1_u8 << bit;
        let body = openssl::base64::encode_block(&der);
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----");
        prop_assert!(Csr::parse(&pem).is_err());
    }
}

/// A request as agents make it: a subject, and extensions it asks for.
fn usual_requests() -> Vec<Vec<u8>> {
    let request = |organization: &str, extensions: bool| {
        let key = p256();
        let mut builder = X509ReqBuilder::new().unwrap();
        builder.set_pubkey(&key).unwrap();
        let mut name = openssl::x509::X509NameBuilder::new().unwrap();
        if !organization.is_empty() {
            name.append_entry_by_text("O", organization).unwrap();
        }
        builder.set_subject_name(&name.build()).unwrap();
        if extensions {
            let mut names = openssl::x509::extension::SubjectAlternativeName::new();
            let names = names.uri("spiffe://cluster.local/ns/a/sa/b").build(&builder.x509v3_context(None)).unwrap();
            let mut stack = openssl::stack::Stack::new().unwrap();
            stack.push(names).unwrap();
            builder.add_extensions(&stack).unwrap();
        }
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        builder.build().to_der().unwrap()
    };
    vec![request("", false), request("", true), request("istio", false), request("cluster.local", true)]
}

#[test]
fn the_usual_request_is_read_without_openssl() {
    for request in usual_requests() {
        let key = usual::key(&request).expect("it is the usual one");
        assert_eq!(key, Csr::parse_fully(&request).unwrap().key);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is changed: what is taken for the usual request is one to
    /// OpenSSL, too.
    #[test]
    fn a_request_read_without_openssl_is_one_that_openssl_accepts(
        which in 0..4_usize,
        changes in proptest::collection::vec((any::<u16>(), any::<u8>(), 0..3_u8), 1..4),
        unsigned in any::<bool>(),
    ) {
        static REQUESTS: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(usual_requests);
        let mut request = REQUESTS[which].clone();
        // Changes in the first bytes are caught by lengths, so spare those.
        let from = if unsigned { 0 } else { 4 };
        for (place, value, how) in changes {
            let place = from + usize::from(place) % (request.len() - from);
            match how {
                0 => request[place] = value,
                1 => request.insert(place, value),
                _ => drop(request.remove(place)),
            }
        }
        if let Some(key) = usual::key(&request) {
            let full = Csr::parse_fully(&request);
            prop_assert_eq!(full.map(|csr| csr.key).ok(), Some(key.to_vec()));
        }
    }

    /// The same for requests whose signature is right: what is signed is
    /// changed before.
    #[test]
    fn a_changed_request_with_a_good_signature_is_one_to_openssl(
        which in 0..4_usize,
        changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..3),
    ) {
        static REQUESTS: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(usual_requests);
        static KEY: std::sync::LazyLock<(EcKey<Private>, Vec<u8>)> = std::sync::LazyLock::new(|| {
            let key = p256();
            (key.ec_key().unwrap(), key.public_key_to_der().unwrap())
        });
        let parts = |bytes: &[u8]| der::elements(bytes).map(|part| part.whole.to_vec()).collect::<Vec<_>>();
        let request = der::elements(&REQUESTS[which]).next().unwrap().content.to_vec();
        let info = der::elements(&request).next().unwrap();
        let mut fields = parts(info.content);
        fields[2] = KEY.1.clone();
        for (place, value) in changes {
            // The version, the subject or the attributes.
            let field = &mut fields[[0, 1, 3][usize::from(place) % 3]];
            let at = usize::from(place) / 3 % field.len();
            field[at] = value;
        }
        let fields: Vec<_> = fields.iter().map(Vec::as_slice).collect();
        let info = der::element(der::SEQUENCE, &fields);
        let signature = crate::ca::p256::sign(&KEY.0, &info).unwrap();
        let signature = der::element(der::BIT_STRING, &[&[0], &signature]);
        let request = der::element(der::SEQUENCE, &[&info, crate::ca::p256::ECDSA_WITH_SHA256, &signature]);
        if let Some(key) = usual::key(&request) {
            let full = Csr::parse_fully(&request);
            prop_assert_eq!(full.map(|csr| csr.key).ok(), Some(key.to_vec()));
        }
    }
}
