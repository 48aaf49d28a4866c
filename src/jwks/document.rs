//! What is fetched: sets of keys (RFC 7517) and OpenID configurations.
//!
//! Of a set only what verifiers read is kept, in a fixed order, for two
//! reasons. What is not a key must not become readable by those who can say
//! where keys are; and a set that only looks different must not be sent again.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Map, Value};

/// More than any issuer has in rotation.
const MOST_KEYS: usize = 100;
/// The longest set. It becomes part of the configuration of each service.
const LONGEST: usize = 64 << 10;

/// The members of a key that verifiers read, none of which is private. `k` is
/// the one of keys that both sides share.
const MEMBERS: [&str; 10] = ["kty", "kid", "use", "alg", "crv", "n", "e", "x", "y", "k"];

/// The keys of a set.
pub(super) fn keys(body: &[u8]) -> Result<Arc<str>, String> {
    let set: Value = serde_json::from_slice(body).map_err(|_| "what is there is no JSON")?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("what is there is no set of keys")?;
    if keys.len() > MOST_KEYS {
        return Err(format!("there are more than {MOST_KEYS} keys"));
    }
    let signing = |key: &&Map<String, Value>| key.get("use").is_none_or(|usage| usage == "sig");
    let keys = keys.iter().filter_map(Value::as_object).filter(signing);
    let mut keys: Vec<Map<String, Value>> = keys
        .map(|key| {
            let members = MEMBERS.iter().filter_map(|name| Some(((*name).to_owned(), key.get(*name)?.clone())));
            members.filter(|(_, value)| value.is_string()).collect()
        })
        .collect();
    if keys.is_empty() {
        return Err("there is no key for signatures".into());
    }
    keys.sort_by_cached_key(|key| (key.get("kid").map(Value::to_string), Value::Object(key.clone()).to_string()));
    let text = serde_json::json!({ "keys": keys }).to_string();
    if text.len() > LONGEST { Err("the keys are too long".into()) } else { Ok(text.into()) }
}

/// Where an OpenID configuration says that keys are.
pub(super) fn jwks_uri(body: &[u8]) -> Result<String, String> {
    let configuration: Value = serde_json::from_slice(body).map_err(|_| "the OpenID configuration is no JSON")?;
    let uri = configuration.get("jwks_uri").and_then(Value::as_str);
    Ok(uri.ok_or("the OpenID configuration has no jwks_uri")?.to_owned())
}
