//! The OpenAPI schema of a kind, as its model has it: a deserializer that has one
//! of everything, and writes down what it is asked for.
//!
//! There is nothing to keep beside a model: a field that it learns to read is in
//! the schema. What the model does not read is not in it and is kept, so every
//! object is open; and values are not judged, only their types.

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json, json};

use super::Kind;

/// What API servers want said of an object that may have other fields, too.
const OPEN: &str = "x-kubernetes-preserve-unknown-fields";

/// A text that is also a duration and base64, so that no model refuses it.
const TEXT: &str = "0s";

/// Why there is no schema: the model does not take what it was given.
type Error = serde::de::value::Error;

/// The schema of a whole object of a kind. It is structural, which a definition of
/// the kind needs:
/// <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>
pub fn of(kind: Kind) -> Result<Json, Error> {
    let mut schema = Json::Null;
    kind.decode(Asked(&mut schema))?;
    if let Some(properties) = schema.get_mut("properties").and_then(Json::as_object_mut) {
        properties.entry("status").or_insert_with(|| json!({ "type": "object", OPEN: true }));
    }
    // At the top there are no fields but those of every object.
    schema.as_object_mut().and_then(|schema| schema.shift_remove(OPEN));
    Ok(schema)
}

/// The schema of a model that is part of an object, or a text in one.
pub(super) fn of_model<'de, T: serde::Deserialize<'de>>() -> Result<Json, Error> {
    let mut schema = Json::Null;
    T::deserialize(Asked(&mut schema))?;
    Ok(schema)
}

/// Whoever asks is told something of the type it asks for, which is noted here.
struct Asked<'a>(&'a mut Json);

impl Asked<'_> {
    fn note(self, schema: Json) {
        *self.0 = schema;
    }
}

/// Methods that have a value of one type.
macro_rules! of_type {
    ($($method:ident = $visit:ident($($value:expr)?) $schema:tt;)+) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.note(json!($schema));
            visitor.$visit($($value)?)
        }
    )+ };
}

impl<'de> serde::Deserializer<'de> for Asked<'_> {
    type Error = Error;

    of_type! {
        deserialize_any = visit_unit() { OPEN: true };
        deserialize_ignored_any = visit_unit() { OPEN: true };
        deserialize_bool = visit_bool(false) { "type": "boolean" };
        deserialize_i64 = visit_i64(1) { "type": "integer" };
        deserialize_u64 = visit_u64(1) { "type": "integer" };
        deserialize_f64 = visit_f64(1.0) { "type": "number" };
        deserialize_str = visit_borrowed_str(TEXT) { "type": "string" };
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        // Serde has the older spellings of fields among them.
        let older = |field: &str| field.contains('_') && fields.contains(&&*camel_case(field));
        // And the API server has its own schema of an object's metadata.
        let known = |field: &str| field == "metadata" && fields.contains(&"spec");
        let names = fields.iter().copied().filter(|field| !older(field) && !known(field));
        let mut object = Each { names, properties: Map::new(), name: "" };
        let value = visitor.visit_map(&mut object)?;
        self.note(json!({ "type": "object", "properties": object.properties, OPEN: true }));
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut object = Each { names: std::iter::once(TEXT), properties: Map::new(), name: "" };
        let value = visitor.visit_map(&mut object)?;
        self.note(match object.properties.shift_remove(TEXT) {
            Some(values) => json!({ "type": "object", "additionalProperties": values }),
            None => json!({ "type": "object", OPEN: true }),
        });
        Ok(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut items = Json::Null;
        let value = visitor.visit_seq(Once(Some(&mut items)))?;
        self.note(json!({ "type": "array", "items": items }));
        Ok(value)
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    // No model asks for these; one that does is told of nothing it could take
    // apart, and its field is open.
    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

/// The fields of an object, one after the other.
struct Each<I> {
    names: I,
    properties: Map<String, Json>,
    name: &'static str,
}

impl<'de, I: Iterator<Item = &'static str>> MapAccess<'de> for &mut Each<I> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.names.next() else { return Ok(None) };
        self.name = name;
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Asked(self.properties.entry(self.name).or_insert(Json::Null)))
    }
}

/// The only element of a list.
struct Once<'a>(Option<&'a mut Json>);

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|element| seed.deserialize(Asked(element))).transpose()
    }
}

/// `some_name` as `someName`.
fn camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut name, part| {
        let mut letters = part.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name + letters.as_str()
    })
}
