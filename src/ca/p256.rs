//! ECDSA on P-256 with SHA-256, which nearly every key in a mesh is for.
//!
//! OpenSSL 3 finds a decoder, a key manager and a digest by name each time a
//! key is read or used through its general interface, which costs several times
//! as much as the signature. The functions here hand it the numbers directly.

use std::sync::LazyLock;

use openssl::bn::BigNumContext;
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::ecdsa::{EcdsaSig, EcdsaSigRef};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{Private, Public};
use openssl::sha::Sha256;

use super::der;

/// `SEQUENCE { ecdsa-with-SHA256 }`: RFC 5758, 3.2.
pub(super) const ECDSA_WITH_SHA256: &[u8] = &[0x30, 10, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// What a SubjectPublicKeyInfo with a point that is not compressed begins with:
/// RFC 5480, 2.1.
const KEY_INFO: &[u8] = &[
    0x30,
    89,
    0x30,
    19,
    0x06,
    7,
    0x2a,
    0x86,
    0x48,
    0xce,
    0x3d,
    2,
    1,
    0x06,
    8,
    0x2a,
    0x86,
    0x48,
    0xce,
    0x3d,
    3,
    1,
    7,
    der::BIT_STRING,
    66,
    0,
];
/// The length of such a point, and its first byte.
const POINT: (usize, u8) = (65, 4);

static GROUP: LazyLock<Result<EcGroup, ErrorStack>> = LazyLock::new(|| EcGroup::from_curve_name(Nid::X9_62_PRIME256V1));

/// The key in a SubjectPublicKeyInfo, if it is on P-256 in the usual form. A
/// point that is not on the curve is none.
pub(super) fn public_key(info: &[u8]) -> Option<EcKey<Public>> {
    let group = GROUP.as_ref().ok()?;
    let point = info.strip_prefix(KEY_INFO).filter(|point| (point.len(), point[0]) == POINT)?;
    let mut numbers = BigNumContext::new().ok()?;
    let point = EcPoint::from_bytes(group, point, &mut numbers).ok()?;
    EcKey::from_public_key(group, &point).ok()
}

/// Whether a signature in DER is the key's for a message. One that is not in
/// DER is none.
pub(super) fn verifies(key: &EcKey<Public>, message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
    let read = EcdsaSig::from_der(signature)?;
    Ok(read.to_der()? == signature && verifies_numbers(key, message, &read)?)
}

/// Whether a signature is the key's for a message.
pub(super) fn verifies_numbers(
    key: &EcKey<Public>,
    message: &[u8],
    signature: &EcdsaSigRef,
) -> Result<bool, ErrorStack> {
    signature.verify(&hash(message), key)
}

/// The signature of a message, in DER.
pub(super) fn sign(key: &EcKey<Private>, message: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    EcdsaSig::sign(&hash(message), key)?.to_der()
}

fn hash(message: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(message);
    hash.finish()
}
