//! One allocation for what many have in common: namespaces, node names, label
//! keys and values, whole sets of labels, which the pods of one template share,
//! and names that the proxies of one Gateway all ask for.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use rapidhash::RapidHashSet;

/// The shared copies of one kind of value.
pub(crate) struct Pool<T: ?Sized>(Mutex<Option<Shared<T>>>);

struct Shared<T: ?Sized> {
    values: RapidHashSet<Arc<T>>,
    /// Size at which values that nobody holds any more are dropped.
    sweep_at: usize,
}

/// The least number of values that is worth a sweep.
const SWEEP: usize = 4096;

static TEXTS: Pool<str> = Pool::new();

impl<T: ?Sized + Eq + Hash> Pool<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The shared copy of a value, made by `make` if there is none yet.
    pub(crate) fn shared(&self, value: &T, make: impl FnOnce(&T) -> Arc<T>) -> Arc<T> {
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

/// A value that is part of the keys of many rows. Its hash is worked out once,
/// and it is compared only with what is not the very same.
pub struct Hashed<T>(Arc<(u64, T)>);

impl<T: Hash> From<T> for Hashed<T> {
    fn from(value: T) -> Self {
        Self(Arc::new((rapidhash::fast::SeedableState::fixed().hash_one(&value), value)))
    }
}

impl<T: serde::Serialize> serde::Serialize for Hashed<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.1.serialize(serializer)
    }
}

impl<T> Clone for Hashed<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Hashed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T: PartialEq> PartialEq for Hashed<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || *self.0 == *other.0
    }
}

impl<T: Eq> Eq for Hashed<T> {}

/// As the values themselves, so that an order is the same on every replica.
impl<T: Ord> Ord for Hashed<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { (**self).cmp(other) }
    }
}

impl<T: Ord> PartialOrd for Hashed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Hash for Hashed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.0);
    }
}

impl<T: fmt::Debug> fmt::Debug for Hashed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests;
