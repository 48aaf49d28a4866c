//! Just enough DER to put together a certificate of parts that exist.
//!
//! OpenSSL 3 decodes a public key anew, and encodes it twice, each time it is
//! put into a certificate: that is half of what a signing request costs. The
//! parts of a leaf are known or copied, so they are joined here instead.
//! OpenSSL still parses everything that comes from outside.

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// One element of a certificate, with and without its tag and length.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) whole: &'a [u8],
    pub(super) content: &'a [u8],
}

/// An element with the parts as its content.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let digits = &bytes[bytes.iter().take_while(|&&byte| byte == 0).count()..];
        out.push(0x80 | digits.len() as u8);
        out.extend_from_slice(digits);
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// The elements that follow each other in some bytes, up to the first that is
/// not well-formed.
pub(super) fn elements(mut rest: &[u8]) -> impl Iterator<Item = Element<'_>> {
    std::iter::from_fn(move || {
        let whole = rest;
        let (&tag, after) = whole.split_first()?;
        let (&first, after) = after.split_first()?;
        let (length, after) = match first {
            0..=0x7f => (usize::from(first), after),
            0x81..=0x84 => {
                let (digits, after) = after.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)), after)
            }
            _ => return None,
        };
        let (content, next) = after.split_at_checked(length)?;
        rest = next;
        Some(Element { tag, whole: &whole[..whole.len() - next.len()], content })
    })
}

/// A time as certificates write it: RFC 5280, 4.1.2.5.
pub(super) fn time(time: Timestamp) -> Vec<u8> {
    let zoned = time.to_zoned(TimeZone::UTC);
    let (tag, format) = match zoned.year() {
        1950..2050 => (UTC_TIME, "%y%m%d%H%M%SZ"),
        _ => (GENERALIZED_TIME, "%Y%m%d%H%M%SZ"),
    };
    element(tag, &[zoned.strftime(format).to_string().as_bytes()])
}

/// A certificate as text.
pub(super) fn pem(certificate: &[u8]) -> String {
    let base64 = openssl::base64::encode_block(certificate);
    let mut out = String::with_capacity(base64.len() + base64.len() / 64 + 60);
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        // base64 is ASCII, so every place is a boundary.
        let (line, next) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = next;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests;
