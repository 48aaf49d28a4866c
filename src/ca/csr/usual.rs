//! The request that proxies send: a P-256 key that signed with SHA-256, a plain
//! subject, at most the extensions that a workload asks for. OpenSSL need not
//! parse such a request, because there is nothing in it to be parsed
//! differently. All others, and all that are wrong, are OpenSSL's.

use crate::ca::{der, p256};

/// The key of a request, if it is the usual one and its signature verifies.
pub(super) fn key(request: &[u8]) -> Option<&[u8]> {
    let [request] = exactly(request)?;
    let [info, algorithm, signature] = exactly(sequence(&request)?)?;
    let [version, subject, key, attributes] = exactly(sequence(&info)?)?;
    let plain = version.whole == VERSION_1 && is_subject(&subject) && are_attributes(&attributes);
    if !plain || algorithm.whole != p256::ECDSA_WITH_SHA256 || signature.tag != der::BIT_STRING {
        return None;
    }
    // No bits of the last byte are unused.
    let signature = signature.content.strip_prefix(&[0])?;
    let verified = p256::verifies(&p256::public_key(key.whole)?, info.whole, signature);
    matches!(verified, Ok(true)).then_some(key.whole)
}

/// `INTEGER 0`: RFC 2986, 4.1.
const VERSION_1: &[u8] = &[der::INTEGER, 1, 0];
const OBJECT_IDENTIFIER: u8 = 0x06;
const SET: u8 = 0x31;
/// UTF8String and PrintableString.
const TEXTS: [u8; 2] = [0x0c, 0x13];
/// The arc of the attributes of names: RFC 5280, A.1. One more byte follows.
const NAME_ATTRIBUTE: &[u8] = &[0x55, 4];
/// `[0]`.
const ATTRIBUTES: u8 = 0xa0;
/// 1.2.840.113549.1.9.14: RFC 2985, 5.4.2.
const EXTENSION_REQUEST: &[u8] = &[OBJECT_IDENTIFIER, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 9, 14];

/// The elements in some bytes, if they are so many, with nothing between or
/// behind them, and each in its shortest form.
fn exactly<const N: usize>(bytes: &[u8]) -> Option<[der::Element<'_>; N]> {
    let found: [_; N] = der::elements(bytes).take(N + 1).collect::<Vec<_>>().try_into().ok()?;
    let length: usize = found.iter().map(|element| element.whole.len()).sum();
    (length == bytes.len() && found.iter().all(is_short)).then_some(found)
}

/// Whether the length has as few bytes as it can.
fn is_short(element: &der::Element<'_>) -> bool {
    let header = match element.content.len() {
        ..0x80 => 2,
        0x80..0x100 => 3,
        _ => 4,
    };
    element.whole.len() - element.content.len() == header
}

fn sequence<'a>(element: &der::Element<'a>) -> Option<&'a [u8]> {
    (element.tag == der::SEQUENCE).then_some(element.content)
}

/// A name of texts in ASCII, or none.
fn is_subject(name: &der::Element<'_>) -> bool {
    let is_relative = |set: der::Element<'_>| -> Option<bool> {
        let [pair] = exactly(set.content)?;
        let [id, value] = exactly(sequence(&pair)?)?;
        let known = id.tag == OBJECT_IDENTIFIER && matches!(id.content.strip_prefix(NAME_ATTRIBUTE), Some([..0x80]));
        let text = TEXTS.contains(&value.tag) && value.content.iter().all(|c| matches!(c, b' '..=b'~'));
        Some(set.tag == SET && is_short(&set) && known && text && !value.content.is_empty())
    };
    let mut length = 0;
    let mut parts = der::elements(name.content).inspect(|set| length += set.whole.len());
    let plain = parts.all(|set| is_relative(set) == Some(true));
    drop(parts);
    name.tag == der::SEQUENCE && plain && length == name.content.len()
}

/// No attributes, or the one that asks for extensions. What extensions those
/// are is as little looked at as by OpenSSL.
fn are_attributes(attributes: &der::Element<'_>) -> bool {
    let one = || {
        let [attribute] = exactly(attributes.content)?;
        let [id, values] = exactly(sequence(&attribute)?)?;
        let [extensions] = exactly(values.content)?;
        Some(id.whole == EXTENSION_REQUEST && values.tag == SET && extensions.tag == der::SEQUENCE)
    };
    attributes.tag == ATTRIBUTES && (attributes.content.is_empty() || one() == Some(true))
}
