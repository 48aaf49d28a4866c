//! The names of fields that a model does not know, where leaving one out would
//! make something wider than its author wrote.

mod below;

use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

pub(super) use below::Below;

/// The names of fields that are not known, in order; of an object as a whole,
/// the paths of such fields. There are hardly ever any, hence the narrow pointer.
///
/// A struct has one as its field `unknown`, skips it, derives `Deserialize` with
/// `#[serde(remote = "Self")]`, and is named in `keeps_unknown!`. It is still
/// asked for as a struct, with the names of its fields, which `#[serde(flatten)]`
/// would hide from whoever wants to know them (see [`super::schema`]); and what is
/// not known is skipped, not copied.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(clippy::box_collection, reason = "there is one in each of many objects, and hardly any has something in it")]
pub struct Unknown(Option<Box<BTreeSet<String>>>);

/// How many names are kept. Whoever has more knows what is wrong.
const MOST: usize = 20;

impl Unknown {
    /// Whether all fields are known.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|names| names.iter().map(String::as_str))
    }

    /// Keeps one more, if there are not [`MOST`] already.
    fn add(&mut self, name: String) {
        let names = self.0.get_or_insert_default();
        if names.len() < MOST {
            names.insert(name);
        }
    }
}

/// Implements `Deserialize` for structs with a field `unknown`; see [`Unknown`].
macro_rules! keeps_unknown {
    ($($model:ty),+) => { $(
        impl<'de> serde::Deserialize<'de> for $model {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let mut unknown = $crate::api::unknown::Unknown::default();
                // The one that is derived, which is not of the trait.
                let model = Self::deserialize($crate::api::unknown::Noting::new(deserializer, &mut unknown))?;
                Ok(Self { unknown, ..model })
            }
        }
    )+ };
}
pub(super) use keeps_unknown;

/// Implements `Deserialize` for objects with a field `unknown`, which gets the
/// paths of all fields that are not known, wherever they are in the spec. Structs
/// that keep their own are left out: whoever reads those says what becomes of
/// them. Objects derive `Deserialize` as the structs of [`Unknown`] do.
macro_rules! keeps_unknown_below {
    ($($object:ty),+) => { $(
        impl<'de> serde::Deserialize<'de> for $object {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let unknown = std::cell::RefCell::default();
                // The one that is derived, which is not of the trait.
                let object = Self::deserialize($crate::api::unknown::Below::object(deserializer, &unknown))?;
                Ok(Self { unknown: unknown.into_inner(), ..object })
            }
        }
    )+ };
}
pub(super) use keeps_unknown_below;

/// What a struct that keeps its own names calls itself, so that nobody else
/// keeps them, too.
const KEEPS_ITS_OWN: &str = "a struct that keeps what it does not know";

/// A deserializer for a struct that notes the fields which the struct lacks.
pub(super) struct Noting<'a, D> {
    inner: D,
    unknown: &'a mut Unknown,
}

impl<'a, D> Noting<'a, D> {
    pub(super) fn new(inner: D, unknown: &'a mut Unknown) -> Self {
        Self { inner, unknown }
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Noting<'_, D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_struct(KEEPS_ITS_OWN, fields, Struct { visitor, fields, unknown: self.unknown })
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(visitor)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }

    // A struct asks for nothing else.
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The visitor of a struct.
struct Struct<'a, V> {
    visitor: V,
    fields: &'static [&'static str],
    unknown: &'a mut Unknown,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Struct<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Fields { map, fields: self.fields, unknown: self.unknown })
    }
}

/// The fields that are known.
struct Fields<'a, A> {
    map: A,
    fields: &'static [&'static str],
    unknown: &'a mut Unknown,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let mut seed = Some(seed);
        loop {
            let key = Key { seed: &mut seed, fields: self.fields, unknown: self.unknown };
            match self.map.next_key_seed(key)? {
                None => return Ok(None),
                Some(None) => _ = self.map.next_value::<IgnoredAny>()?,
                Some(known) => return Ok(known),
            }
        }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// A key: what its seed makes of it if it is known.
struct Key<'a, K> {
    seed: &'a mut Option<K>,
    fields: &'static [&'static str],
    unknown: &'a mut Unknown,
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<'_, K> {
    type Value = Option<K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for Key<'_, K> {
    type Value = Option<K::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        match self.seed.take_if(|_| self.fields.contains(&name)) {
            Some(seed) => seed.deserialize(StrDeserializer::new(name)).map(Some),
            None => {
                self.unknown.add(name.to_owned());
                Ok(None)
            }
        }
    }
}
