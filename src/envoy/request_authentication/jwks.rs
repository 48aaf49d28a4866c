//! Sets of keys (RFC 7517): whether Envoy will find any in a text.

use serde_json::Value;

/// A set that has no keys, hence verifies no token.
pub const NONE: &str = r#"{"keys":[]}"#;

/// Whether a text is a set with at least one key of a type that Envoy knows.
/// It skips the others.
pub fn check(text: &str) -> Result<(), &'static str> {
    let set: Value = serde_json::from_str(text).map_err(|_| "it is not JSON")?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("it has no list of keys")?;
    if keys.iter().any(is_key) { Ok(()) } else { Err("it has no key of a known type") }
}

fn is_key(key: &Value) -> bool {
    let member = |name: &str| key.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    match key.get("kty").and_then(Value::as_str) {
        Some("RSA") => member("n") && member("e"),
        Some("EC") => member("crv") && member("x") && member("y"),
        Some("OKP") => member("crv") && member("x"),
        Some("oct") => member("k"),
        _ => false,
    }
}
