//! One allocation for each text that many objects share: namespaces, node
//! names, label keys and values.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rapidhash::RapidHashSet;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

struct Pool {
    texts: RapidHashSet<Arc<str>>,
    /// Size at which texts that nobody holds any more are dropped.
    sweep_at: usize,
}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

/// The shared copy of a text.
pub fn intern(text: &str) -> Arc<str> {
    // Held for one hash lookup; decoding threads are few.
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = pool.get_or_insert_with(|| Pool { texts: RapidHashSet::default(), sweep_at: 4096 });
    if let Some(shared) = pool.texts.get(text) {
        return shared.clone();
    }
    if pool.texts.len() >= pool.sweep_at {
        pool.texts.retain(|text| Arc::strong_count(text) > 1);
        pool.sweep_at = (pool.texts.len() * 2).max(4096);
    }
    let shared: Arc<str> = text.into();
    pool.texts.insert(shared.clone());
    shared
}

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
