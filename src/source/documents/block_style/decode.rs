//! serde's view of a document in block style. Where the full parser would have
//! to guess a type, or where text and type do not obviously agree, the document
//! is [`Unusual`].

use std::fmt;

use serde::Deserializer;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::{Reader, Unusual, Value, is_word};

/// Decodes a document in block style.
pub fn decode<'a, T>(text: &'a str, decode: impl FnOnce(Node<'a, '_>) -> Result<T, Unusual>) -> Result<T, Unusual> {
    let mut reader = Reader::new(text)?;
    let value = reader.document()?;
    let decoded = decode(Node { reader: &mut reader, value })?;
    match reader.column {
        None => Ok(decoded),
        Some(_) => Err(Unusual),
    }
}

/// A value, to be read by serde.
pub struct Node<'a, 'r> {
    reader: &'r mut Reader<'a>,
    value: Value<'a>,
}

impl de::Error for Unusual {
    fn custom<T: fmt::Display>(_: T) -> Self {
        // The full parser finds the error again, and says it better.
        Self
    }
}

impl fmt::Display for Unusual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not in plain block style")
    }
}

impl std::error::Error for Unusual {}

impl<'a> Node<'a, '_> {
    fn is_null(&self) -> bool {
        matches!(self.value, Value::Empty | Value::Plain("~" | "null" | "Null" | "NULL"))
    }

    /// A number in its usual form.
    fn number<T: std::str::FromStr>(&self) -> Result<T, Unusual> {
        match self.value {
            Value::Plain(text) if is_decimal(text.strip_prefix('-').unwrap_or(text)) => text.parse().or(Err(Unusual)),
            _ => Err(Unusual),
        }
    }
}

fn is_decimal(digits: &str) -> bool {
    digits == "0"
        || (digits.len() <= 18 && digits.bytes().all(|c| c.is_ascii_digit()) && digits.starts_with(|c| c != '0'))
}

/// What each of these types asks for is tried in its usual form only.
macro_rules! numbers {
    ($($deserialize:ident $visit:ident $type:ty),+) => { $(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
            visitor.$visit(self.number::<$type>()?)
        }
    )+ };
}

impl<'de> Deserializer<'de> for Node<'de, '_> {
    type Error = Unusual;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.value {
            Value::Quoted(text) => visitor.visit_borrowed_str(text),
            Value::Mapping(_) | Value::NoEntries => self.deserialize_map(visitor),
            Value::Sequence(_) | Value::NoItems => self.deserialize_seq(visitor),
            Value::Plain(text) if is_decimal(text) => visitor.visit_u64(self.number()?),
            Value::Plain(text) if text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') && !is_word(text) => {
                visitor.visit_borrowed_str(text)
            }
            Value::Empty | Value::Text(_) | Value::Plain(_) => Err(Unusual),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.value {
            Value::Plain("true") => visitor.visit_bool(true),
            Value::Plain("false") => visitor.visit_bool(false),
            _ => Err(Unusual),
        }
    }

    numbers! {
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.value {
            Value::Quoted(text) => visitor.visit_borrowed_str(text),
            // Who asks for text gets it, be it a number or a time.
            Value::Plain(text) if !self.is_null() => visitor.visit_borrowed_str(text),
            _ => Err(Unusual),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Unusual> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.value {
            Value::NoItems => visitor.visit_seq(de::value::SeqDeserializer::new(std::iter::empty::<()>())),
            Value::Sequence(column) => self.reader.nested(|reader| {
                let value = visitor.visit_seq(Items { reader, column })?;
                // Whoever stops reading early knows something we do not.
                reader.item(column)?.map_or(Ok(value), |_| Err(Unusual))
            }),
            _ => Err(Unusual),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.value {
            Value::NoEntries => visitor.visit_map(de::value::MapDeserializer::new(std::iter::empty::<((), ())>())),
            Value::Mapping(column) => self.reader.nested(|reader| {
                let first = reader.keys.len();
                let value = visitor.visit_map(Entries { reader, column, first, value: Value::Empty })?;
                if reader.entry(column, first)?.is_some() {
                    return Err(Unusual);
                }
                reader.keys.truncate(first);
                Ok(value)
            }),
            _ => Err(Unusual),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unusual> {
        self.deserialize_map(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        self.reader.skip(self.value)?;
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum
    }
}

struct Items<'a, 'r> {
    reader: &'r mut Reader<'a>,
    column: usize,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Unusual;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Unusual> {
        match self.reader.item(self.column)? {
            Some(value) => seed.deserialize(Node { reader: self.reader, value }).map(Some),
            None => Ok(None),
        }
    }
}

struct Entries<'a, 'r> {
    reader: &'r mut Reader<'a>,
    column: usize,
    first: usize,
    value: Value<'a>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Unusual;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unusual> {
        let Some((key, value)) = self.reader.entry(self.column, self.first)? else { return Ok(None) };
        self.value = value;
        seed.deserialize(de::value::BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Unusual> {
        seed.deserialize(Node { reader: self.reader, value: self.value })
    }
}
