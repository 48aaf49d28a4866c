//! The JSON of a message: <https://protobuf.dev/programming-guides/json/>.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MapKey, ReflectMessage, Value};
use serde_json::{Map, Number, Value as Json};

/// How many `Any`s within each other are written out. Envoy's API needs a few
/// for each level of a matcher.
const DEPTH: usize = 64;

/// A message.
pub(super) fn message(pool: &DescriptorPool, message: &DynamicMessage) -> Json {
    Printer { pool, depth: DEPTH }.message(message)
}

#[derive(Clone, Copy)]
struct Printer<'a> {
    pool: &'a DescriptorPool,
    depth: usize,
}

impl Printer<'_> {
    fn message(self, message: &DynamicMessage) -> Json {
        self.well_known(message).unwrap_or_else(|| Json::Object(self.fields(message)))
    }

    /// The fields that are set, in the order of the `.proto` file.
    fn fields(self, message: &DynamicMessage) -> Map<String, Json> {
        let mut fields: Vec<_> = message.fields().collect();
        // A path ends with the field's place in its message.
        fields.sort_by_key(|(field, _)| field.path().last().copied());
        fields.iter().map(|(field, value)| (field.name().to_string(), self.value(value, &field.kind()))).collect()
    }

    /// The messages that have a JSON of their own.
    fn well_known(self, message: &DynamicMessage) -> Option<Json> {
        let descriptor = message.descriptor();
        let field = |number| message.get_field_by_number(number);
        Some(match descriptor.full_name().strip_prefix("google.protobuf.")? {
            "Any" => self.any(field(1)?.as_str()?, field(2)?.as_bytes()?),
            "Duration" => message.transcode_to::<prost_types::Duration>().ok()?.to_string().into(),
            "Timestamp" => message.transcode_to::<prost_types::Timestamp>().ok()?.to_string().into(),
            "Struct" | "ListValue" => {
                let only = descriptor.get_field(1)?;
                self.value(&message.get_field(&only), &only.kind())
            }
            "Value" => match message.fields().next() {
                Some((set, value)) => self.value(value, &set.kind()),
                None => Json::Null,
            },
            "FieldMask" => {
                let paths = field(1)?;
                let paths: Vec<&str> = paths.as_list()?.iter().filter_map(Value::as_str).collect();
                paths.join(",").into()
            }
            "BoolValue" | "BytesValue" | "StringValue" | "DoubleValue" | "FloatValue" | "Int32Value" | "Int64Value"
            | "UInt32Value" | "UInt64Value" => {
                let only = descriptor.get_field(1)?;
                self.value(&message.get_field(&only), &only.kind())
            }
            _ => return None,
        })
    }

    fn any(self, type_url: &str, encoded: &[u8]) -> Json {
        let mut fields = Map::new();
        if type_url.is_empty() && encoded.is_empty() {
            return Json::Object(fields);
        }
        fields.insert("@type".into(), type_url.into());
        let name = type_url.rsplit('/').next().unwrap_or(type_url);
        let descriptor = self.pool.get_message_by_name(name).filter(|_| self.depth > 0);
        match descriptor.and_then(|descriptor| DynamicMessage::decode(descriptor, encoded).ok()) {
            Some(message) => {
                let inner = Self { depth: self.depth - 1, ..self };
                match inner.well_known(&message) {
                    Some(value) => fields.extend([("value".to_string(), value)]),
                    None => fields.extend(inner.fields(&message)),
                }
            }
            None => fields.extend([("value".to_string(), BASE64.encode(encoded).into())]),
        }
        Json::Object(fields)
    }

    fn value(self, value: &Value, kind: &Kind) -> Json {
        match value {
            Value::Bool(flag) => Json::from(*flag),
            Value::I32(number) => Json::from(*number),
            Value::U32(number) => Json::from(*number),
            // JSON readers keep 53 bits of a number.
            Value::I64(number) => Json::from(number.to_string()),
            Value::U64(number) => Json::from(number.to_string()),
            // Through text: as it is written, and not as the nearest double.
            Value::F32(number) => float(number.to_string().parse().unwrap_or_else(|_| f64::from(*number))),
            Value::F64(number) => float(*number),
            Value::String(text) => Json::from(text.as_str()),
            Value::Bytes(bytes) => Json::from(BASE64.encode(bytes)),
            Value::EnumNumber(number) => enumeration(*number, kind),
            Value::Message(inner) => self.message(inner),
            Value::List(list) => list.iter().map(|one| self.value(one, kind)).collect(),
            Value::Map(map) => {
                let kind = match kind {
                    Kind::Message(entry) if entry.is_map_entry() => entry.map_entry_value_field().kind(),
                    other => other.clone(),
                };
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(key, _)| *key);
                entries.into_iter().map(|(key, one)| (key_text(key), self.value(one, &kind))).collect()
            }
        }
    }
}

fn float(number: f64) -> Json {
    match Number::from_f64(number) {
        Some(number) => Json::Number(number),
        None if number.is_nan() => "NaN".into(),
        None if number > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

fn enumeration(number: i32, kind: &Kind) -> Json {
    match kind {
        Kind::Enum(kind) if kind.full_name() == "google.protobuf.NullValue" => Json::Null,
        Kind::Enum(kind) => kind.get_value(number).map_or(number.into(), |value| value.name().into()),
        _ => number.into(),
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}
