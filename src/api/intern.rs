//! One allocation for what many objects have in common: namespaces, node
//! names, label keys and values, and whole sets of labels, which the pods of
//! one template share.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use rapidhash::RapidHashSet;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

/// The shared copies of one kind of value.
pub(super) struct Pool<T: ?Sized>(Mutex<Option<Shared<T>>>);

struct Shared<T: ?Sized> {
    values: RapidHashSet<Arc<T>>,
    /// Size at which values that nobody holds any more are dropped.
    sweep_at: usize,
}

/// The least number of values that is worth a sweep.
const SWEEP: usize = 4096;

static TEXTS: Pool<str> = Pool::new();

impl<T: ?Sized + Eq + Hash> Pool<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The shared copy of a value, made by `make` if there is none yet.
    pub(super) fn shared(&self, value: &T, make: impl FnOnce(&T) -> Arc<T>) -> Arc<T> {
        // Held for one hash lookup; decoding threads are few.
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = pool.get_or_insert_with(|| Shared { values: RapidHashSet::default(), sweep_at: SWEEP });
        if let Some(shared) = pool.values.get(value) {
            return shared.clone();
        }
        if pool.values.len() >= pool.sweep_at {
            pool.values.retain(|value| Arc::strong_count(value) > 1);
            pool.sweep_at = (pool.values.len() * 2).max(SWEEP);
        }
        let shared = make(value);
        pool.values.insert(shared.clone());
        shared
    }
}

/// The shared copy of a text.
pub fn intern(text: &str) -> Arc<str> {
    TEXTS.shared(text, |text| text.into())
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
