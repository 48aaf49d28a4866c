//! When something may be tried again: each attempt makes the next one wait,
//! and longer each time, until it has been calm for a while. So an error has
//! time to go away, and somebody who undoes what we write is not fought
//! without end.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::source::kube::backoff::Backoff;

/// After this time, an attempt no longer makes the next one wait.
const CALM: Duration = Duration::from_secs(60);

/// What is due, and when each of it may be attempted.
pub struct Due<K> {
    due: BTreeSet<K>,
    attempts: BTreeMap<K, Attempts>,
    /// The first and the longest wait.
    waits: (Duration, Duration),
}

struct Attempts {
    backoff: Backoff,
    last: Instant,
    next: Instant,
}

impl<K: Ord + Clone> Due<K> {
    /// Nothing is due. After an attempt, the next one waits `first`, then
    /// longer, and `most` in the end.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { due: BTreeSet::new(), attempts: BTreeMap::new(), waits: (first, most) }
    }

    /// Has something attempted as soon as it may be.
    pub fn insert(&mut self, key: K) {
        self.due.insert(key);
    }

    /// It is as it should be.
    pub fn remove(&mut self, key: &K) {
        self.due.remove(key);
    }

    /// Everything is as it should be.
    pub fn clear(&mut self) {
        self.due.clear();
    }

    /// What is to be attempted next, and when, at `earliest` and not if it is
    /// `busy`.
    pub fn next(&self, earliest: Instant, busy: impl Fn(&K) -> bool) -> Option<(Instant, K)> {
        let at = |key: &K| self.attempts.get(key).map_or(earliest, |attempts| attempts.next.max(earliest));
        let mut next: Option<(Instant, &K)> = None;
        for key in self.due.iter().filter(|key| !busy(key)) {
            let one = (at(key), key);
            // None is earlier, and of those the first is meant: much may be due.
            if one.0 == earliest {
                next = Some(one);
                break;
            }
            next = Some(next.map_or(one, |known| known.min(one)));
        }
        next.map(|(at, key)| (at, key.clone()))
    }

    /// Notes an attempt, whatever came of it.
    pub fn attempted(&mut self, key: K) {
        let now = Instant::now();
        let (first, most) = self.waits;
        let new = || Attempts { backoff: Backoff::new(first, most), last: now, next: now };
        let attempts = self.attempts.entry(key).or_insert_with(new);
        if now >= attempts.last + CALM {
            attempts.backoff.reset();
        }
        attempts.last = now;
        attempts.next = now + attempts.backoff.delay();
    }

    /// Somebody wants something else of it than before: earlier attempts no
    /// longer make the next one wait.
    pub fn renew(&mut self, key: &K) {
        self.attempts.remove(key);
    }

    /// Forgets what has been calm.
    pub fn forget_calm(&mut self) {
        let now = Instant::now();
        self.attempts.retain(|_, attempts| now < attempts.last + CALM);
    }
}

impl<K: Ord + Clone> Extend<K> for Due<K> {
    fn extend<I: IntoIterator<Item = K>>(&mut self, keys: I) {
        self.due.extend(keys);
    }
}
