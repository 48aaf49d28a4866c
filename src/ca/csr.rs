//! Certificate signing requests: untrusted bytes, of which only the public
//! key and the proof of its possession are used. Names, extensions and
//! attributes of a request are never read.

mod usual;

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKeyRef, Public};
use openssl::x509::X509Req;

use super::der;

/// The largest request that is looked at. An RSA-8192 request has 3 KiB.
pub const MAX_CSR: usize = 64 << 10;

/// The public key of a request whose signature was verified.
pub struct Csr {
    /// The SubjectPublicKeyInfo, byte for byte as OpenSSL verified it.
    pub(super) key: Vec<u8>,
}

/// Why a signing request is refused. The text may go to the caller: it says
/// nothing but what is wrong with the caller's own bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CsrError {
    /// More bytes than any request needs.
    #[error("CSR has {0} bytes, more than {MAX_CSR}")]
    Size(usize),
    /// Not one PEM certificate request and nothing else.
    #[error("CSR is not exactly one PEM block of type CERTIFICATE REQUEST")]
    Pem,
    /// The PEM block holds something other than one DER request.
    #[error("CSR is not a valid PKCS#10 request")]
    Der,
    /// A key that is too weak, too costly, or of an unknown kind.
    #[error("CSR key is {0}")]
    Key(String),
    /// The request is not signed by the key in it.
    #[error("CSR signature does not verify")]
    Signature,
}

impl Csr {
    /// The request in a PEM text.
    pub fn parse(text: &str) -> Result<Self, CsrError> {
        if text.len() > MAX_CSR {
            return Err(CsrError::Size(text.len()));
        }
        let der = only_pem_block(text).ok_or(CsrError::Pem)?;
        if let Some(key) = usual::key(&der) {
            return Ok(Self { key: key.to_vec() });
        }
        Self::parse_fully(&der)
    }

    /// Whatever it may be, as OpenSSL sees it.
    fn parse_fully(der: &[u8]) -> Result<Self, CsrError> {
        let request = X509Req::from_der(der).map_err(refuse(CsrError::Der))?;
        // DER has one encoding for each value: if it differs, the input had
        // trailing bytes or was not DER.
        if request.to_der().map_err(refuse(CsrError::Der))? != der {
            return Err(CsrError::Der);
        }
        let key = request.public_key().map_err(refuse(CsrError::Der))?;
        // Before the signature, whose cost grows with the key.
        check_key(&key)?;
        match request.verify(&key) {
            Ok(true) => Ok(Self { key: public_key_info(der).ok_or(CsrError::Der)?.to_vec() }),
            Ok(false) => Err(CsrError::Signature),
            Err(error) => Err(refuse(CsrError::Signature)(error)),
        }
    }
}

/// Where a request that OpenSSL parsed has its key: behind version and subject.
fn public_key_info(request: &[u8]) -> Option<&[u8]> {
    let request = der::elements(request).next()?;
    let info = der::elements(request.content).next()?;
    der::elements(info.content).nth(2).filter(|key| key.tag == der::SEQUENCE).map(|key| key.whole)
}

/// Drops OpenSSL's own words, which are not for the caller.
fn refuse(refusal: CsrError) -> impl FnOnce(ErrorStack) -> CsrError {
    |_| refusal
}

/// The DER of a text that is one PEM block. OpenSSL's own reader skips what is
/// around the block and would accept a second one behind it.
fn only_pem_block(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_ascii();
    let body = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"].iter().find_map(|label| {
        text.strip_prefix("-----BEGIN ")?
            .strip_prefix(label)?
            .strip_prefix("-----")?
            .strip_suffix("-----")?
            .strip_suffix(label)?
            .strip_suffix("-----END ")
    })?;
    let base64: String = body.split_ascii_whitespace().collect();
    // This also refuses what a second block would bring: dashes and colons.
    if !base64.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'=')) {
        return None;
    }
    openssl::base64::decode_block(&base64).ok().filter(|der| !der.is_empty())
}

fn check_key(key: &PKeyRef<Public>) -> Result<(), CsrError> {
    let refuse_key = |what: String| Err(CsrError::Key(what));
    match key.id() {
        Id::RSA => match key.bits() {
            2048..=8192 => Ok(()),
            bits => refuse_key(format!("RSA of {bits} bits, not 2048 to 8192")),
        },
        Id::EC => match key.ec_key().ok().and_then(|key| key.group().curve_name()) {
            Some(Nid::X9_62_PRIME256V1 | Nid::SECP384R1 | Nid::SECP521R1) => Ok(()),
            Some(curve) => {
                refuse_key(format!("on curve {}, not P-256, P-384 or P-521", curve.short_name().unwrap_or("?")))
            }
            None => refuse_key("on a curve without a name, not P-256, P-384 or P-521".into()),
        },
        Id::ED25519 => Ok(()),
        _ => refuse_key("neither RSA, EC nor Ed25519".into()),
    }
}

#[cfg(test)]
mod tests;
