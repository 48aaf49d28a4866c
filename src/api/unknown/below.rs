//! A deserializer for an object that notes the paths of the fields which the
//! structs of its spec lack. It changes nothing of what they are given.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{KEEPS_ITS_OWN, Unknown};

/// Where something is in an object.
enum Place<'a> {
    Object,
    Field(&'a Place<'a>, &'a str),
    Value(&'a Place<'a>, &'a str),
    Element(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object => Ok(()),
            Self::Field(Self::Object, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Value(parent, key) => write!(f, "{parent}[{key}]"),
            Self::Element(parent, at) => write!(f, "{parent}[{at}]"),
        }
    }
}

/// Something of serde's that is at a place of an object.
pub(in crate::api) struct Below<'a, T> {
    inner: T,
    place: &'a Place<'a>,
    unknown: &'a RefCell<Unknown>,
}

impl<'a, D> Below<'a, D> {
    /// A deserializer for a whole object.
    pub(in crate::api) fn object(inner: D, unknown: &'a RefCell<Unknown>) -> Self {
        Self { inner, place: &Place::Object, unknown }
    }
}

impl<'a, T> Below<'a, T> {
    fn with<U>(&self, inner: U) -> Below<'a, U> {
        Below { inner, place: self.place, unknown: self.unknown }
    }
}

macro_rules! passed_on {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        }
    )* };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Below<'_, D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.with(Known { visitor, fields: Some(fields), noted: name != KEEPS_ITS_OWN });
        self.inner.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.with(Known { visitor, fields: None, noted: false });
        self.inner.deserialize_map(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.with(Known { visitor, fields: None, noted: false });
        self.inner.deserialize_seq(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.with(Known { visitor, fields: None, noted: false });
        self.inner.deserialize_option(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.with(Known { visitor, fields: None, noted: false });
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple_struct(name, len, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, visitor)
    }

    passed_on! {
        deserialize_any deserialize_ignored_any deserialize_identifier deserialize_bool deserialize_i8 deserialize_i16
        deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_unit
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// A visitor, or what has the fields it visits.
struct Known<V> {
    visitor: V,
    /// The fields of a struct.
    fields: Option<&'static [&'static str]>,
    /// Whether those that are not among them are noted.
    noted: bool,
}

macro_rules! visited {
    ($($method:ident $of:ty,)*) => { $(
        fn $method<E: Error>(self, value: $of) -> Result<V::Value, E> {
            self.inner.visitor.$method(value)
        }
    )* };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Below<'_, Known<V>> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        let Known { visitor, fields, noted } = self.inner;
        let (place, unknown) = (self.place, self.unknown);
        visitor.visit_map(Below { inner: Fields { map, fields, noted, at: At::Nowhere }, place, unknown })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        let elements = Elements { seq, next: 0 };
        self.inner.visitor.visit_seq(Below { inner: elements, place: self.place, unknown: self.unknown })
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        let Self { inner, place, unknown } = self;
        inner.visitor.visit_some(Below { inner: deserializer, place, unknown })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        let Self { inner, place, unknown } = self;
        inner.visitor.visit_newtype_struct(Below { inner: deserializer, place, unknown })
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visitor.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visitor.visit_unit()
    }

    visited! {
        visit_bool bool,
        visit_i64 i64,
        visit_u64 u64,
        visit_f64 f64,
        visit_str &str,
        visit_borrowed_str &'de str,
        visit_string String,
    }
}

/// The elements of a list.
struct Elements<A> {
    seq: A,
    next: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Below<'_, Elements<A>> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        let place = Place::Element(self.place, self.inner.next);
        self.inner.next += 1;
        self.inner.seq.next_element_seed(Below { inner: seed, place: &place, unknown: self.unknown })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.seq.size_hint()
    }
}

/// The fields of a struct or the pairs of a map.
struct Fields<A> {
    map: A,
    fields: Option<&'static [&'static str]>,
    noted: bool,
    /// Whose value is next.
    at: At,
}

enum At {
    /// Nothing that is looked at.
    Nowhere,
    /// A field.
    Field(&'static str),
    /// A pair of a map, by its key.
    Value(String),
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Below<'_, Fields<A>> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Fields { map, fields, noted, at } = &mut self.inner;
        map.next_key_seed(Key { seed, fields: *fields, noted: *noted, at, place: self.place, unknown: self.unknown })
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        let place = match &self.inner.at {
            At::Nowhere => return self.inner.map.next_value_seed(seed),
            At::Field(name) => Place::Field(self.place, name),
            At::Value(key) => Place::Value(self.place, key),
        };
        self.inner.map.next_value_seed(Below { inner: seed, place: &place, unknown: self.unknown })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.map.size_hint()
    }
}

/// The name of a field or the key of a pair: what its seed makes of it.
struct Key<'a, K> {
    seed: K,
    fields: Option<&'static [&'static str]>,
    noted: bool,
    at: &'a mut At,
    place: &'a Place<'a>,
    unknown: &'a RefCell<Unknown>,
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<'_, K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<K::Value, D::Error> {
        match self.fields {
            Some(_) => deserializer.deserialize_identifier(self),
            None => deserializer.deserialize_str(self),
        }
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for Key<'_, K> {
    type Value = K::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<K::Value, E> {
        let whole = matches!(self.place, Place::Object);
        match self.fields.map(|fields| fields.iter().find(|field| ***field == *name)) {
            None => self.at.value(name),
            // The rest of an object is the API server's.
            Some(Some(_)) if whole && name != "spec" => *self.at = At::Nowhere,
            Some(Some(field)) => *self.at = At::Field(field),
            Some(None) => {
                *self.at = At::Nowhere;
                if self.noted && !(whole && ["apiVersion", "kind", "status"].contains(&name)) {
                    self.unknown.borrow_mut().add(Place::Field(self.place, name).to_string());
                }
            }
        }
        self.seed.deserialize(StrDeserializer::new(name))
    }
}

impl At {
    /// Comes to a pair of a map. The pairs of one share a buffer.
    fn value(&mut self, key: &str) {
        match self {
            Self::Value(buffer) => {
                buffer.clear();
                buffer.push_str(key);
            }
            Self::Nowhere | Self::Field(_) => *self = Self::Value(key.to_owned()),
        }
    }
}

/// What reads a value.
impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Below<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        let Self { inner, place, unknown } = self;
        inner.deserialize(Below { inner: deserializer, place, unknown })
    }
}
