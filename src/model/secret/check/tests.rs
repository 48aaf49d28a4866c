use proptest::prelude::*;

use super::super::testing::{certificate as signed, days, ec, key, pair, pem, rsa, secret};
use super::*;

fn good() -> (Timestamp, Timestamp) {
    (days(-1), days(90))
}

#[track_caller]
fn check(entries: &[(&str, &str)], expected: Result<(), (&str, &str)>) {
    let found = certificate(&secret("ns", "n", entries));
    let found = found.as_ref().map(|_| ()).map_err(|flaw| (flaw.reason, &*flaw.message));
    assert_eq!(found, expected);
}

#[track_caller]
fn check_authority(entries: &[(&str, &str)], expected: Result<(), &str>) {
    let found = authority(&*secret("ns", "n", entries));
    assert_eq!(found.as_ref().map(|_| ()).map_err(|flaw| flaw.reason), expected);
}

#[test]
fn both_layouts_are_read() {
    let (cert, key) = pair("a.example.com");
    let (other, other_key) = pair("b.example.com");
    check(&[("tls.crt", &cert), ("tls.key", &key)], Ok(()));
    check(&[("cert", &cert), ("key", &key)], Ok(()));
    // Istio's own layout comes first, as there.
    let both = [("cert", &*cert), ("key", &key), ("tls.crt", &other), ("tls.key", &other_key)];
    check(&both, Ok(()));
    let found = certificate(&secret("ns", "n", &both)).unwrap();
    assert_eq!(found.chain, cert);
    // Half of one is none.
    check(&[("cert", &cert), ("tls.crt", &other), ("tls.key", &other_key)], Ok(()));
}

#[test]
fn what_cannot_be_used_is_told_apart() {
    let (cert, own) = pair("a.example.com");
    let (_, foreign) = pair("b.example.com");
    let of = |key: &PKey<Private>| (signed(key, &["a"], good()), pem(key));
    let missing = "neither tls.crt and tls.key nor cert and key are there";
    check(&[], Err(("NoCertificate", missing)));
    check(&[("other", "x")], Err(("NoCertificate", missing)));
    check(&[("tls.crt", &cert)], Err(("NoCertificate", "tls.crt and tls.key are not both there")));
    check(&[("cert", &cert), ("key", "")], Err(("NoCertificate", "cert and key are not both there")));
    let pair = |cert: &str, key: &str, expected| check(&[("tls.crt", cert), ("tls.key", key)], expected);
    pair("x", &own, Err(("InvalidCertificate", "tls.crt has no certificate in PEM")));
    pair(&own, &own, Err(("InvalidCertificate", "tls.crt has no certificate in PEM")));
    let body = cert.lines().nth(1).unwrap();
    let broken = cert.replacen(body, &format!("AAAA{}", &body[4..]), 1);
    pair(&broken, &own, Err(("InvalidCertificate", "tls.crt cannot be read")));
    pair(&format!("{cert}{broken}"), &own, Err(("InvalidCertificate", "tls.crt cannot be read")));
    pair(&cert, "x", Err(("InvalidKey", "tls.key has no private key in PEM")));
    pair(&cert, &cert, Err(("InvalidKey", "tls.key has no private key in PEM")));
    pair(&cert, &foreign, Err(("KeyMismatch", "tls.key is not the key of tls.crt")));
    let (small, small_key) = of(&rsa(1024));
    let message = "tls.crt has an RSA key of 1024 bits; 2048 are the least";
    pair(&small, &small_key, Err(("UnsupportedKey", message)));
    let (odd, odd_key) = of(&ec(Nid::SECP256K1));
    pair(&odd, &odd_key, Err(("UnsupportedKey", "tls.crt has a key on another curve than P-256, P-384 and P-521")));
    for key in [rsa(2048), ec(Nid::SECP384R1), ec(Nid::SECP521R1)] {
        let (cert, key) = of(&key);
        pair(&cert, &key, Ok(()));
    }
    check(
        &[("tls.crt", &cert), ("tls.key", &own), ("tls.ocsp-staple", "x")],
        Err(("InvalidOcspStaple", "tls.ocsp-staple is not one")),
    );
}

#[test]
fn nobody_is_asked_for_the_password_of_a_key() {
    let key = key();
    let cipher = openssl::symm::Cipher::aes_128_cbc();
    let cert = signed(&key, &["a"], good());
    for encrypted in [
        key.private_key_to_pem_pkcs8_passphrase(cipher, b"secret").unwrap(),
        key.ec_key().unwrap().private_key_to_pem_passphrase(cipher, b"secret").unwrap(),
    ] {
        let encrypted = String::from_utf8(encrypted).unwrap();
        check(&[("tls.crt", &cert), ("tls.key", &encrypted)], Err(("InvalidKey", "tls.key is encrypted")));
    }
}

#[test]
fn authorities_are_certificates_and_nothing_else() {
    let (ca, key) = pair("ca");
    check_authority(&[("ca.crt", &ca)], Ok(()));
    check_authority(&[("cacert", &ca)], Ok(()));
    check_authority(&[("cacert", &ca), ("ca.crt", "x")], Ok(()));
    check_authority(&[("tls.crt", &ca), ("tls.key", &key)], Err("NoAuthority"));
    check_authority(&[("ca.crt", "")], Err("NoAuthority"));
    check_authority(&[("ca.crt", "x")], Err("InvalidAuthority"));
    // It is given to all who ask, and so would the key be.
    check_authority(&[("ca.crt", &format!("{ca}{key}"))], Err("InvalidAuthority"));
    check_authority(&[("ca.crt", &format!("{key}{ca}"))], Err("InvalidAuthority"));
    check_authority(&[("ca.crt", &ca), ("ca.crl", "x")], Err("InvalidCrl"));
    // The other layout's is another's.
    check_authority(&[("ca.crt", &ca), ("crl", "x")], Ok(()));
}

#[test]
fn time_is_told_of_what_is_good_otherwise() {
    let key = key();
    let now = Timestamp::from_second(Timestamp::now().as_second() + 60).unwrap();
    let of = |from, until| {
        let cert = signed(&key, &["a"], (days(from), days(until)));
        certificate(&secret("ns", "n", &[("tls.crt", &cert), ("tls.key", &pem(&key))])).unwrap()
    };
    let reason = |from, until| of(from, until).age(now).map(|flaw| flaw.reason);
    assert_eq!(reason(-10, -1), Some(EXPIRED));
    assert_eq!(reason(1, 90), Some(NOT_YET_VALID));
    assert_eq!(reason(-70, 20), Some(EXPIRES));
    assert_eq!(reason(-1, 90), None);
    assert_eq!(reason(-300, 40), None);
    assert_eq!(reason(-1, 6), None, "it is made for a week, and new");
    let message = |until| of(-80, until).age(now).unwrap().message;
    assert!(message(10).starts_with("the certificate expires within 30 days, on "), "{}", message(10));
    assert!(message(5).starts_with("the certificate expires within 7 days"), "{}", message(5));
    assert!(message(1).starts_with("the certificate expires within a day"), "{}", message(1));
    assert!(!Flaw::new(EXPIRED, "").is_fatal() && Flaw::new("KeyMismatch", "").is_fatal());
}

#[test]
fn a_certificate_covers_its_names() {
    let key = key();
    let names = ["A.example.com", "*.b.example.com", "10.0.0.1"];
    let cert = signed(&key, &names, good());
    let found = certificate(&secret("ns", "n", &[("cert", &cert), ("key", &pem(&key))])).unwrap();
    for host in ["a.example.com", "A.EXAMPLE.COM", "x.b.example.com", "*.b.example.com", "10.0.0.1"] {
        assert!(found.covers(host), "{host}");
    }
    for host in ["b.example.com", "x.y.b.example.com", "*.example.com", "example.com", "10.0.0.2", "*", ""] {
        assert!(!found.covers(host), "{host}");
    }
}

#[test]
fn versions_are_of_what_is_public() {
    let (key, other) = (key(), key());
    let cert = signed(&key, &["a"], good());
    let of =
        |cert: &str, key: &str| certificate(&secret("ns", "n", &[("cert", cert), ("key", key)])).map(|it| it.version);
    let pkcs1 = String::from_utf8(key.ec_key().unwrap().private_key_to_pem().unwrap()).unwrap();
    assert_eq!(of(&cert, &pem(&key)), of(&cert, &pkcs1), "it is the same key");
    assert_ne!(of(&cert, &pem(&key)), of(&signed(&key, &["b"], good()), &pem(&key)));
    assert_ne!(of(&cert, &pem(&key)), of(&signed(&other, &["a"], good()), &pem(&other)));
}

#[test]
fn nothing_that_is_shown_has_a_key_in_it() {
    let (cert, key) = pair("a.example.com");
    let body = key.lines().nth(1).unwrap();
    let secret = secret("ns", "n", &[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &cert)]);
    let found = certificate(&secret).unwrap();
    let shown = format!("{secret:?} {found:?} {:?}", authority(&*secret));
    let bytes = format!("{:?}", key.as_bytes());
    assert!(!shown.contains(body) && !shown.contains(&bytes[1..40]) && !shown.contains("PRIVATE"), "{shown}");
    let foreign =
        certificate(&super::super::testing::secret("ns", "n", &[("tls.crt", &cert), ("tls.key", &key[..90])]));
    let flaw = format!("{:?}", foreign.unwrap_err());
    assert!(!flaw.contains(&body[..20]), "{flaw}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// CVE-2022-23635 was a crafted message that ended istiod. Here what is in a
    /// Secret is somebody's text, whatever it is.
    #[test]
    fn no_content_is_too_strange(
        garbage in proptest::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        flip in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        static PAIR: std::sync::LazyLock<(String, String)> = std::sync::LazyLock::new(|| pair("a.example.com"));
        let (cert, key) = &*PAIR;
        let bent = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            bytes.truncate(cut.index(bytes.len()).max(1) + bytes.len() / 2);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        // DER inside of PEM, too.
        let der = openssl::base64::encode_block(&garbage);
        let wrapped = |kind: &str| format!("-----BEGIN {kind}-----\n{der}\n-----END {kind}-----\n");
        let garbage = String::from_utf8_lossy(&garbage).into_owned();
        let certs = [cert.clone(), bent(cert), garbage.clone(), wrapped("CERTIFICATE"), wrapped("X509 CRL")];
        let keys = [key.clone(), bent(key), garbage.clone(), wrapped("PRIVATE KEY"), wrapped("EC PRIVATE KEY")];
        for cert in &certs {
            for key in &keys {
                let entries = [("tls.crt", &**cert), ("tls.key", key), ("ca.crt", cert), ("ca.crl", &wrapped("X509 CRL"))];
                let secret = secret("ns", "n", &entries);
                // What is taken is a pair, whatever was done to it.
                if let Ok(found) = certificate(&secret) {
                    let leaf = X509::stack_from_pem(&found.chain).unwrap().remove(0);
                    let key = PKey::private_key_from_pem(&found.key).unwrap();
                    prop_assert!(leaf.public_key().unwrap().public_eq(&key));
                }
                let _ = authority(&*secret);
            }
        }
    }
}
