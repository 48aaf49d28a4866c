//! One allocation for what many have in common: namespaces, node names, label
//! keys and values, whole sets of labels, which the pods of one template share,
//! and names that the proxies of one Gateway all ask for.

use std::hash::Hash;
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

#[cfg(test)]
mod tests;
