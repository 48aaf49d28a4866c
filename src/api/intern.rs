//! Interned texts of objects.

use std::fmt;
use std::sync::Arc;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

use crate::intern::intern;

/// For `#[serde(deserialize_with)]`: an interned text; `null` is empty.
pub(super) fn interned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    deserializer.deserialize_option(Text).map(|shared| shared.0)
}

/// An interned text, read without a copy of its own.
pub(super) struct Interned(pub(super) Arc<str>);

impl<'de> Deserialize<'de> for Interned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(Text)
    }
}

struct Text;

impl<'de> Visitor<'de> for Text {
    type Value = Interned;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Interned, E> {
        Ok(Interned(intern(text)))
    }

    fn visit_none<E>(self) -> Result<Interned, E> {
        Ok(Interned(intern("")))
    }

    fn visit_unit<E>(self) -> Result<Interned, E> {
        Ok(Interned(intern("")))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Interned, D::Error> {
        deserializer.deserialize_str(self)
    }
}
