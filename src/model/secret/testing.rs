//! Certificates and Secrets for tests.

use std::sync::Arc;

use jiff::Timestamp;
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::X509Builder;
use openssl::x509::extension::SubjectAlternativeName;
use serde_json::json;

use crate::api::secret::Secret;
use crate::api::{Kind, Object};

/// A key on a curve.
pub fn ec(curve: Nid) -> PKey<Private> {
    PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap()).unwrap()
}

/// A key as most have it.
pub fn key() -> PKey<Private> {
    ec(Nid::X9_62_PRIME256V1)
}

/// An RSA key.
pub fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

/// A key in PEM.
pub fn pem(key: &PKey<Private>) -> String {
    String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap()
}

/// Days from now.
pub fn days(days: i64) -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() + days * 24 * 3600).unwrap()
}

/// A certificate in PEM that signed itself, for names, good for some time.
pub fn certificate(key: &PKey<Private>, names: &[&str], (from, until): (Timestamp, Timestamp)) -> String {
    let mut builder = X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(from.as_second()).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(until.as_second()).unwrap()).unwrap();
    if !names.is_empty() {
        let mut all = SubjectAlternativeName::new();
        for name in names {
            match name.parse::<std::net::IpAddr>() {
                Ok(_) => all.ip(name),
                Err(_) => all.dns(name),
            };
        }
        let all = all.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(all).unwrap();
    }
    let digest = if key.id() == Id::ED25519 { MessageDigest::null() } else { MessageDigest::sha256() };
    builder.sign(key, digest).unwrap();
    String::from_utf8(builder.build().to_pem().unwrap()).unwrap()
}

/// A certificate for a name, and its key.
pub fn pair(name: &str) -> (String, String) {
    let key = key();
    (certificate(&key, &[name], (days(-1), days(90))), pem(&key))
}

/// A Secret of these entries.
pub fn secret(namespace: &str, name: &str, entries: &[(&str, &str)]) -> Arc<Secret> {
    let encoded = |text: &str| openssl::base64::encode_block(text.as_bytes());
    let data: serde_json::Map<_, _> =
        entries.iter().map(|(name, value)| ((*name).to_owned(), encoded(value).into())).collect();
    let object = json!({"metadata": {"namespace": namespace, "name": name}, "type": "Opaque", "data": data});
    match Kind::Secret.decode_json(&object.to_string()) {
        Ok(Object::Secret(secret)) => secret,
        other => panic!("{other:?}"),
    }
}
