//! What is known of tokens, for a minute at most. A token is shown with every
//! request, and to ask for it once a minute is as safe as to ask once an hour
//! is not.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use openssl::sha::Sha256;
use tokio::time::Instant;

use super::jwt::Claims;

/// How long an answer is believed: a deleted pod's token works so long, and a
/// withdrawn key's.
const REMEMBERED: Duration = Duration::from_secs(60);
/// One entry is some 300 bytes; a mesh has a token for each proxy.
const MAX_ENTRIES: usize = 50_000;
/// How often a full table is swept.
const SWEEP: Duration = Duration::from_secs(1);

/// Stands for a token, so that no memory dump of the table yields one.
pub(super) type TokenHash = [u8; 32];

/// The hash of a token.
pub(super) fn token_hash(token: &str) -> TokenHash {
    let mut hash = Sha256::new();
    hash.update(token.as_bytes());
    hash.finish()
}

/// How long an answer about a token with these claims is remembered: never
/// past its end.
pub(super) fn lifetime(claims: &Claims, now: Timestamp) -> Duration {
    let left = claims.exp.unwrap_or_default() - now.as_second() as f64;
    Duration::from_secs_f64(left.clamp(0.0, REMEMBERED.as_secs_f64()))
}

/// Answers about tokens.
pub(super) struct Remembered<T> {
    entries: HashMap<TokenHash, Entry<T>>,
    /// When the entries that have run out were last taken away.
    swept: Instant,
}

struct Entry<T> {
    answer: T,
    until: Instant,
}

impl<T: Clone> Remembered<T> {
    /// Nothing is known.
    pub(super) fn new() -> Self {
        Self { entries: HashMap::new(), swept: Instant::now() }
    }

    /// What is known of a token.
    pub(super) fn get(&self, token: &TokenHash) -> Option<T> {
        let now = Instant::now();
        self.entries.get(token).filter(|entry| now < entry.until).map(|entry| entry.answer.clone())
    }

    /// Remembers an answer for a while.
    pub(super) fn insert(&mut self, token: TokenHash, answer: T, lifetime: Duration) {
        let now = Instant::now();
        let Self { entries, swept } = self;
        // Now and then, not for every token: what a flood of them costs must
        // not grow with the table.
        if now.duration_since(*swept) >= REMEMBERED || (entries.len() >= MAX_ENTRIES && now > *swept + SWEEP) {
            entries.retain(|_, entry| now < entry.until);
            *swept = now;
        }
        // A full table means fifty thousand tokens in a minute: go on without
        // remembering.
        if entries.len() < MAX_ENTRIES {
            entries.insert(token, Entry { answer, until: now + lifetime });
        }
    }

    /// Forgets an answer, if it is still this one.
    pub(super) fn forget(&mut self, token: &TokenHash, is_meant: impl FnOnce(&T) -> bool) {
        if self.entries.get(token).is_some_and(|entry| is_meant(&entry.answer)) {
            self.entries.remove(token);
        }
    }
}

#[cfg(test)]
mod tests;
