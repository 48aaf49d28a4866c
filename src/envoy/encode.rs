//! Messages into bytes, and the small wrappers that Envoy's messages are made
//! of.
//!
//! Versions are hashes of content, and the maps of envoy-types have no order,
//! so every message goes through [`canonical`] on its way.

use std::time::Duration;

use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration as WireDuration, UInt32Value};
use fairway_proto::canonical;
use prost::Name;

/// An encoded message.
pub type Message = Vec<u8>;

/// A message as an `Any`. Equal messages give equal bytes.
pub fn any<M: prost::Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: bytes(message) }
}

/// An encoded message. Equal messages give equal bytes.
pub fn bytes<M: prost::Message + Name>(message: &M) -> Message {
    let mut encoded = message.encode_to_vec();
    canonical::canonicalize(&M::full_name(), &mut encoded);
    encoded
}

/// An encoded message without maps of its own. Those of messages inside `Any`s
/// are in order because they were encoded here.
pub fn ordered<M: prost::Message>(message: &M) -> Message {
    message.encode_to_vec()
}

/// A number that may be absent.
pub fn uint32(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// A boolean that may be absent.
pub fn boolean(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// A duration.
pub fn duration(value: Duration) -> Option<WireDuration> {
    let seconds = i64::try_from(value.as_secs()).unwrap_or(i64::MAX);
    Some(WireDuration { seconds, nanos: value.subsec_nanos().cast_signed() })
}

#[cfg(test)]
mod tests;
