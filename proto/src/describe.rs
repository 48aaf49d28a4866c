//! Messages as JSON and YAML for people: what is served to Envoys, in the form
//! in which Envoy's documentation and its `/config_dump` show it. That is
//! protobuf's JSON with the names of the `.proto` files, fields in the order of
//! those files, and what is in an `Any` written out.
//!
//! This takes the descriptors of all of Envoy's API, some 20 MB in memory. They
//! lie in the binary and are decoded when the first message is shown, and they
//! are gone again when nobody holds [`load`]'s result any more.

mod json;
mod yaml;

use std::sync::{Arc, Mutex, PoisonError, Weak};

use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value as Json;

pub use yaml::yaml;

/// Of everything that may be shown: Envoy's API, and ours beside it.
const DESCRIBED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/described.bin"));

/// Why a message cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A build went wrong.
    #[error("the descriptors do not decode")]
    Descriptors(#[source] prost_reflect::DescriptorError),
    /// No file has this message.
    #[error("no message is called {0}")]
    Unknown(String),
    /// The bytes are not of this message.
    #[error("no {name}")]
    Decode {
        /// The message they should be of.
        name: String,
        /// What is wrong with them.
        #[source]
        source: prost::DecodeError,
    },
}

/// The descriptors, decoded. Whoever shows many messages holds this meanwhile:
/// without it each decodes them anew, which takes tens of milliseconds.
pub fn load() -> Result<Arc<DescriptorPool>, Error> {
    // Locked while decoding, so that it is done once at a time.
    static LOADED: Mutex<Weak<DescriptorPool>> = Mutex::new(Weak::new());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = loaded.upgrade() {
        return Ok(pool);
    }
    let pool = Arc::new(DescriptorPool::decode(DESCRIBED).map_err(Error::Descriptors)?);
    *loaded = Arc::downgrade(&pool);
    Ok(pool)
}

/// An encoded message as JSON. `full_name` is that of its type, such as
/// `envoy.config.cluster.v3.Cluster`, or a type URL. Fields that have their
/// default are left out, maps are in the order of their keys, and an `Any` of a
/// type nobody knows shows its bytes in base64.
pub fn to_json(full_name: &str, encoded: &[u8]) -> Result<Json, Error> {
    let pool = load()?;
    let name = full_name.rsplit('/').next().unwrap_or(full_name);
    let descriptor = pool.get_message_by_name(name).ok_or_else(|| Error::Unknown(name.into()))?;
    let decoded = DynamicMessage::decode(descriptor, encoded);
    let message = decoded.map_err(|source| Error::Decode { name: name.into(), source })?;
    Ok(json::message(&pool, &message))
}

#[cfg(test)]
mod tests;
