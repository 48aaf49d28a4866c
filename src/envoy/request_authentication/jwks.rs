//! Sets of keys (RFC 7517): whether Envoy will find any in a text. It rejects
//! the whole listener for a set without a key that it can use, and skips keys
//! that it cannot use beside one that it can.

use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use serde_json::Value;

/// A set that verifies no token. It has to have a key, so it has one that
/// nobody holds: a point whose first coordinate is the SHA-256 hash of
/// [`NOBODY`], so that not even we can know its logarithm.
pub const NONE: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"nobody","x":"jnD0c-CHdSHbguLxRt_QFNY_g8IwbbLvfiO_mXRtCHY","y":"4AZ2-kL9s9doAKKGFujsSAchWk6aMhfsPRlsAbHSJjg"}]}"#;

/// The text that the point comes from, with the first number that gives one.
#[cfg(test)]
pub const NOBODY: &str = "fairway: no one holds the key to this point, 2";

/// Whether a text is a set with at least one key that Envoy can use.
pub fn check(text: &str) -> Result<(), &'static str> {
    let set: Value = serde_json::from_str(text).map_err(|_| "it is not JSON")?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("it has no list of keys")?;
    if keys.iter().any(|key| is_usable(key).is_some()) { Ok(()) } else { Err("it has no key that can be used") }
}

fn is_usable(key: &Value) -> Option<()> {
    let text = |name: &str| match key.get(name) {
        None => Some(""),
        Some(value) => value.as_str(),
    };
    let (kind, algorithm) = (text("kty")?, text("alg")?);
    text("kid")?;
    let bytes = |name: &str| base64url(text(name)?);
    let algorithms: &[&str] = match kind {
        "RSA" => {
            let (modulus, exponent) = (bytes("n")?, bytes("e")?);
            let odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
            let sizes = (128..=1024).contains(&modulus.len()) && (1..=4).contains(&exponent.len());
            (sizes && odd(&modulus) && odd(&exponent) && exponent != [1]).then_some(())?;
            &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
        }
        "EC" => {
            let (curve, algorithm): (_, &[&str]) = match text("crv")? {
                "P-256" => (Nid::X9_62_PRIME256V1, &["ES256"]),
                "P-384" => (Nid::SECP384R1, &["ES384"]),
                "P-521" => (Nid::SECP521R1, &["ES512"]),
                _ => return None,
            };
            let number = |name: &str| BigNum::from_slice(&bytes(name)?).ok();
            let group = EcGroup::from_curve_name(curve).ok()?;
            EcKey::from_public_key_affine_coordinates(&group, &*number("x")?, &*number("y")?).ok()?;
            algorithm
        }
        "OKP" => {
            (text("crv")? == "Ed25519" && bytes("x")?.len() == 32).then_some(())?;
            &["EdDSA"]
        }
        "oct" => {
            (!bytes("k")?.is_empty()).then_some(())?;
            &["HS256", "HS384", "HS512"]
        }
        _ => return None,
    };
    (algorithm.is_empty() || algorithms.contains(&algorithm)).then_some(())
}

fn base64url(text: &str) -> Option<Vec<u8>> {
    let plain = text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'));
    let mut standard = text.replace('-', "+").replace('_', "/");
    standard.extend(std::iter::repeat_n('=', (4 - text.len() % 4) % 4));
    if plain && !text.is_empty() { openssl::base64::decode_block(&standard).ok() } else { None }
}
