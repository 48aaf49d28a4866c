//! Messages as serde sees them: maps from the names that fields have in JSON.

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::{Message, Value, field};
use crate::wire::{Fields, Malformed, Value as Wire};

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not protobuf.
    #[error("malformed protobuf")]
    Malformed,
    /// A text is not UTF-8.
    #[error("a text that is not UTF-8")]
    Text,
    /// There is no object in it.
    #[error("not an encoded Kubernetes object")]
    Envelope,
    /// The model does not accept it.
    #[error("{0}")]
    Model(String),
}

impl From<Malformed> for Error {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

impl serde::de::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Model(message.to_string())
    }
}

/// A value whose type and bytes are known.
pub struct Deserializer<'a, 'de> {
    value: Value,
    wire: Wire<'de>,
    /// What follows the value, and its number: the other elements of a list or
    /// a map are fields of the same number.
    more: Option<(&'a mut Fields<'de>, u32)>,
}

impl<'de> Deserializer<'_, 'de> {
    /// Reads a message.
    pub(super) fn new(message: &'static Message, bytes: &'de [u8]) -> Self {
        Self::element(Value::Message(message), Wire::Bytes(bytes))
    }

    fn element(value: Value, wire: Wire<'de>) -> Self {
        Self { value, wire, more: None }
    }

    fn text(wire: Wire<'de>) -> Result<&'de str, Error> {
        std::str::from_utf8(bytes(wire)?).map_err(|_| Error::Text)
    }
}

fn bytes(wire: Wire<'_>) -> Result<&[u8], Error> {
    match wire {
        Wire::Bytes(bytes) => Ok(bytes),
        Wire::Varint(_) | Wire::Fixed => Err(Error::Malformed),
    }
}

/// A number; negative ones have their sign extended to 64 bits.
fn number(wire: Wire<'_>) -> Result<i64, Error> {
    match wire {
        Wire::Varint(number) => Ok(number as i64),
        Wire::Bytes(_) | Wire::Fixed => Err(Error::Malformed),
    }
}

impl<'de> serde::Deserializer<'de> for Deserializer<'_, 'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Self { value, wire, more } = self;
        match value {
            Value::Text => visitor.visit_borrowed_str(Self::text(wire)?),
            Value::Bytes => visitor.visit_borrowed_bytes(bytes(wire)?),
            Value::Int => visitor.visit_i64(number(wire)?),
            Value::Bool => visitor.visit_bool(number(wire)? != 0),
            Value::Time => visitor.visit_i64(field(bytes(wire)?, 1)?.map_or(Ok(0), number)?),
            Value::IntOrString => {
                let message = bytes(wire)?;
                match field(message, 1)?.map_or(Ok(0), number)? {
                    0 => visitor.visit_i64(field(message, 2)?.map_or(Ok(0), number)?),
                    _ => visitor.visit_borrowed_str(field(message, 3)?.map_or(Ok(""), Self::text)?),
                }
            }
            Value::Message(message) | Value::Inline(message) => {
                visitor.visit_map(MessageAccess::new(message, bytes(wire)?))
            }
            Value::List(element) => {
                let mut run = Run { first: Some(wire), more };
                let seen = visitor.visit_seq(ListAccess { run: &mut run, element: *element })?;
                run.skip()?;
                Ok(seen)
            }
            Value::Map(element) => {
                let mut run = Run { first: Some(wire), more };
                let seen = visitor.visit_map(EntryAccess { run: &mut run, element: *element, value: None })?;
                run.skip()?;
                Ok(seen)
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // What is not there has no field.
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if matches!(self.value, Value::List(_) | Value::Map(_)) {
            Run { first: None, more: self.more }.skip()?;
        }
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct enum identifier
    }
}

/// The fields of a message that are in its table, as entries.
struct MessageAccess<'de> {
    fields: Fields<'de>,
    message: &'static Message,
    /// The field whose name was said.
    found: Option<(u32, Value, Wire<'de>)>,
    /// A message in it whose fields count as its own.
    inline: Option<Box<Self>>,
}

impl<'de> MessageAccess<'de> {
    fn new(message: &'static Message, bytes: &'de [u8]) -> Self {
        Self { fields: Fields::new(bytes), message, found: None, inline: None }
    }

    /// The name of the next field.
    fn next_name(&mut self) -> Result<Option<&'static str>, Error> {
        if let Some(inner) = &mut self.inline {
            if let Some(name) = inner.next_name()? {
                return Ok(Some(name));
            }
            self.inline = None;
        }
        for field in &mut self.fields {
            let (number, wire) = field?;
            let Some((_, name, value)) = self.message.0.iter().find(|(other, ..)| *other == number) else { continue };
            // Kubernetes encodes texts that are not set as empty ones, and
            // leaves them out of JSON.
            if matches!((value, wire), (Value::Text, Wire::Bytes([]))) {
                continue;
            }
            if let Value::Inline(message) = value {
                self.inline = Some(Box::new(Self::new(message, bytes(wire)?)));
                return self.next_name();
            }
            self.found = Some((number, *value, wire));
            return Ok(Some(name));
        }
        Ok(None)
    }
}

impl<'de> MapAccess<'de> for MessageAccess<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next_name()?.map(|name| seed.deserialize(BorrowedStrDeserializer::new(name))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        if let Some(inner) = &mut self.inline {
            return inner.next_value_seed(seed);
        }
        let (number, value, wire) = self.found.take().ok_or(Error::Malformed)?;
        seed.deserialize(Deserializer { value, wire, more: Some((&mut self.fields, number)) })
    }
}

/// Fields of one number that follow each other: the API server never
/// separates them.
struct Run<'a, 'de> {
    first: Option<Wire<'de>>,
    more: Option<(&'a mut Fields<'de>, u32)>,
}

impl<'de> Run<'_, 'de> {
    fn next(&mut self) -> Result<Option<Wire<'de>>, Error> {
        match (self.first.take(), &mut self.more) {
            (Some(first), _) => Ok(Some(first)),
            (None, Some((fields, number))) => Ok(fields.next_if(*number).transpose()?),
            (None, None) => Ok(None),
        }
    }

    fn skip(&mut self) -> Result<(), Error> {
        while self.next()?.is_some() {}
        Ok(())
    }
}

struct ListAccess<'r, 'a, 'de> {
    run: &'r mut Run<'a, 'de>,
    element: Value,
}

impl<'de> SeqAccess<'de> for ListAccess<'_, '_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(wire) = self.run.next()? else { return Ok(None) };
        seed.deserialize(Deserializer::element(self.element, wire)).map(Some)
    }
}

/// The entries of a map: messages of a key and a value.
struct EntryAccess<'r, 'a, 'de> {
    run: &'r mut Run<'a, 'de>,
    element: Value,
    value: Option<Wire<'de>>,
}

impl<'de> MapAccess<'de> for EntryAccess<'_, '_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(wire) = self.run.next()? else { return Ok(None) };
        let entry = bytes(wire)?;
        self.value = Some(field(entry, 2)?.unwrap_or(Wire::Bytes(&[])));
        let key = field(entry, 1)?.map_or(Ok(""), Deserializer::text)?;
        seed.deserialize(BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let value = self.value.take().ok_or(Error::Malformed)?;
        seed.deserialize(Deserializer::element(self.element, value))
    }
}
