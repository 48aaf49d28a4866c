//! Objects in the API server's protobuf, made from JSON by the same tables.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value as Json;

use super::{MAGIC, Message, Value, schema};
use crate::api::Kind;

/// The message of an object; what is of the wrong type becomes a text that is
/// not UTF-8.
pub fn message(kind: Kind, object: &Json) -> Vec<u8> {
    encode(schema::of(kind).expect("a kind that has protobuf"), object)
}

/// A status message.
pub fn status(status: &Json) -> Vec<u8> {
    encode(&schema::STATUS, status)
}

/// The metadata of a list.
pub fn list_meta(meta: &Json) -> Vec<u8> {
    encode(&schema::LIST_META, meta)
}

/// A message in the envelope that objects come in.
pub fn envelope(message: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    // Type and version of the object, which nobody reads.
    put_bytes(&mut out, 1, b"\x0a\x02v1");
    put_bytes(&mut out, 2, message);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

/// Appends a field of bytes.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, number: u32, value: i64) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value as u64, out);
}

fn encode(message: &Message, object: &Json) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, name, value) in message.0 {
        // A field nobody reads, of a type nobody knows.
        put_number(&mut out, 1000 + number, 7);
        if let Value::Inline(message) = value {
            put_bytes(&mut out, *number, &encode(message, object));
            continue;
        }
        match object.get(*name) {
            Some(json) => put(&mut out, *number, *value, json),
            // As Kubernetes does.
            None if matches!(value, Value::Text) => put_bytes(&mut out, *number, b""),
            None => {}
        }
    }
    out
}

fn put(out: &mut Vec<u8>, number: u32, value: Value, json: &Json) {
    let text = |json: &Json| json.as_str().map_or(vec![0xff], |text| text.as_bytes().to_vec());
    let int = |json: &Json| json.as_i64().expect("a number");
    match value {
        Value::Text => put_bytes(out, number, &text(json)),
        Value::Bytes => {
            let decoded = openssl::base64::decode_block(json.as_str().expect("base64"));
            put_bytes(out, number, &decoded.expect("base64"));
        }
        Value::Int => put_number(out, number, int(json)),
        Value::Bool => put_number(out, number, json.as_bool().expect("a truth value").into()),
        Value::Time => {
            let time: jiff::Timestamp = json.as_str().expect("a time").parse().expect("a time");
            let mut message = Vec::new();
            put_number(&mut message, 1, time.as_second());
            put_number(&mut message, 2, 0);
            put_bytes(out, number, &message);
        }
        Value::IntOrString => {
            let mut message = Vec::new();
            put_number(&mut message, 1, json.is_string().into());
            put_number(&mut message, 2, json.as_i64().unwrap_or(0));
            put_bytes(&mut message, 3, json.as_str().unwrap_or("").as_bytes());
            put_bytes(out, number, &message);
        }
        Value::Message(message) | Value::Inline(message) => put_bytes(out, number, &encode(message, json)),
        Value::List(element) => {
            json.as_array().expect("a list").iter().for_each(|json| put(out, number, *element, json));
        }
        Value::Map(element) => {
            for (key, value) in json.as_object().expect("a map") {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                put(&mut entry, 2, *element, value);
                put_bytes(out, number, &entry);
            }
        }
    }
}
