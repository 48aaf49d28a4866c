//! Resources as JSON for people. It is protobuf's JSON with one difference:
//! bytes of the length of an IP address are shown as one.

use std::net::IpAddr;
use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, Kind, ReflectMessage, Value};
use serde_json::{Map, Value as Json};

use crate::xds::resource::{Resource, ResourceType};

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(fairway_proto::DESCRIPTORS).ok());

/// The message of a resource. Fields that have their default are left out.
pub fn resource(ty: ResourceType, resource: &Resource) -> Json {
    let name = ty.type_url().rsplit('/').next().unwrap_or_default();
    let descriptor = POOL.as_ref().and_then(|pool| pool.get_message_by_name(name));
    let decoded = descriptor.and_then(|descriptor| DynamicMessage::decode(descriptor, resource.message(ty)).ok());
    decoded.map_or(Json::Null, |decoded| message(&decoded))
}

fn message(message: &DynamicMessage) -> Json {
    let mut fields = Map::new();
    let mut all: Vec<_> = message.fields().collect();
    all.sort_by_key(|(field, _)| field.number());
    for (field, field_value) in all {
        fields.insert(field.json_name().to_string(), value(field_value, &field.kind()));
    }
    if message.descriptor().full_name().starts_with("google.protobuf.") && fields.len() == 1 {
        // A wrapper stands for what it wraps.
        return fields.remove("value").unwrap_or(Json::Null);
    }
    Json::Object(fields)
}

fn value(of: &Value, kind: &Kind) -> Json {
    match of {
        Value::Bool(flag) => Json::from(*flag),
        Value::I32(number) => Json::from(*number),
        Value::I64(number) => Json::from(*number),
        Value::U32(number) => Json::from(*number),
        Value::U64(number) => Json::from(*number),
        Value::F32(number) => Json::from(*number),
        Value::F64(number) => Json::from(*number),
        Value::String(text) => Json::from(text.as_str()),
        Value::Bytes(bytes) => Json::from(bytes_text(bytes)),
        Value::EnumNumber(number) => match kind {
            Kind::Enum(descriptor) => {
                descriptor.get_value(*number).map_or(Json::from(*number), |name| Json::from(name.name()))
            }
            _ => Json::from(*number),
        },
        Value::Message(inner) => message(inner),
        Value::List(list) => list.iter().map(|one| value(one, kind)).collect(),
        Value::Map(map) => {
            let kind = match kind {
                Kind::Message(entry) if entry.is_map_entry() => entry.map_entry_value_field().kind(),
                other => other.clone(),
            };
            let mut entries: Vec<_> = map.iter().map(|(key, one)| (key_text(key), value(one, &kind))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(entries.into_iter().collect())
        }
    }
}

fn key_text(key: &prost_reflect::MapKey) -> String {
    match key {
        prost_reflect::MapKey::String(text) => text.clone(),
        other => format!("{other:?}"),
    }
}

fn bytes_text(bytes: &[u8]) -> String {
    let address = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    };
    address.map_or_else(|| openssl::base64::encode_block(bytes), |address| address.to_string())
}
