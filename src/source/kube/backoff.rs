//! How long to wait before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Delays that double from one attempt to the next. Each is drawn from the
/// upper half of its range, so that replicas which failed together do not come
/// back together.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays from `first` to `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The delay before the next attempt.
    pub fn delay(&mut self) -> Duration {
        let delay = jittered(self.next);
        self.next = (self.next * 2).min(self.most);
        delay
    }

    /// Begins again: an attempt has succeeded.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random duration between half of `most` and `most`.
pub fn jittered(most: Duration) -> Duration {
    // Every `RandomState` has keys of its own, which makes it a source of
    // randomness that is good enough to spread load.
    let random = RandomState::new().hash_one(()) >> 32;
    most.mul_f64(0.5 + random as f64 / u32::MAX as f64 / 2.0)
}
