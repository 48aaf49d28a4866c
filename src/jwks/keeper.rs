//! Keeps the keys that are wanted: fetches them when they are, again when they
//! grow old, and sooner when that fails.
//!
//! Keys that cannot be fetched again stay in use for a week, as with istiod:
//! an issuer that cannot be reached must not lock everybody out. After that a
//! key that was withdrawn could still be in use, so they are dropped.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::model::key_set::{Fetched, KeySet, KeySource};

use super::Metrics;

/// What is wanted, with the time that fetching it may take.
pub type Wanted = BTreeMap<KeySource, Duration>;

/// How many are fetched at a time.
const AT_ONCE: usize = 8;
/// After what time a fetch that failed is tried again: this, then twice that.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest such time.
const LAST_RETRY: Duration = Duration::from_secs(300);
/// How long keys are used that cannot be fetched again.
const STALE: Duration = Duration::from_secs(7 * 24 * 3600);
/// More are not kept, however many policies there are.
const MOST: usize = 1000;

/// One set of keys.
struct Kept {
    timeout: Duration,
    /// The keys, and since when they have been there.
    keys: Option<(Arc<str>, Instant)>,
    problem: Option<Arc<str>>,
    failures: u32,
    /// When they are to be fetched; `None` while they are.
    due: Option<Instant>,
}

/// Keeps what is wanted until nobody can want anything any more.
pub async fn keep<F, R>(
    fetch: F,
    refresh: Duration,
    mut wanted: watch::Receiver<Arc<Wanted>>,
    fetched: watch::Sender<Fetched>,
    metrics: Metrics,
) where
    F: Fn(KeySource, Duration) -> R,
    R: Future<Output = Result<Arc<str>, String>> + Send + 'static,
{
    let mut kept: BTreeMap<KeySource, Kept> = BTreeMap::new();
    let mut running = JoinSet::new();
    want(&mut kept, &wanted.borrow_and_update().clone());
    loop {
        let now = Instant::now();
        for (source, one) in &mut kept {
            if running.len() < AT_ONCE && one.due.is_some_and(|due| due <= now) {
                one.due = None;
                let (source, fetching) = (source.clone(), fetch(source.clone(), one.timeout));
                running.spawn(async move { (source, fetching.await) });
            }
        }
        let full = running.len() >= AT_ONCE;
        let next = kept.values().filter_map(|one| one.due).min().filter(|_| !full);
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                want(&mut kept, &wanted.borrow_and_update().clone());
                fetched.send_if_modified(|known| {
                    let gone: Vec<_> = known.keys().filter(|source| !kept.contains_key(source)).cloned().collect();
                    gone.iter().for_each(|source| _ = known.remove(source));
                    !gone.is_empty()
                });
            }
            Some(done) = running.join_next() => {
                // A fetch that panicked stays without a time; it would again.
                let Ok((source, result)) = done else { continue };
                let count = if result.is_ok() { &metrics.succeeded } else { &metrics.failed };
                count.inc();
                let Some(one) = kept.get_mut(&source) else { continue };
                one.note(&source, result, refresh, Instant::now());
                let set = one.set();
                fetched.send_if_modified(|known| {
                    let modified = known.get(&source) != Some(&set);
                    known.insert(source, set);
                    modified
                });
            }
            () = at(next) => {}
        }
    }
}

/// Until a time; for ever if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Keeps what is wanted, and nothing else.
fn want(kept: &mut BTreeMap<KeySource, Kept>, wanted: &Wanted) {
    kept.retain(|source, _| wanted.contains_key(source));
    for (source, timeout) in wanted {
        if kept.len() >= MOST && !kept.contains_key(source) {
            tracing::warn!(%source, "there are too many sets of keys; this one is not fetched");
            continue;
        }
        let due = Some(Instant::now());
        let new = || Kept { timeout: *timeout, keys: None, problem: None, failures: 0, due };
        kept.entry(source.clone()).or_insert_with(new).timeout = *timeout;
    }
}

impl Kept {
    fn note(&mut self, source: &KeySource, result: Result<Arc<str>, String>, refresh: Duration, now: Instant) {
        let wait = match result {
            Ok(keys) => {
                tracing::debug!(%source, "keys were fetched");
                self.keys = Some((keys, now));
                (self.failures, self.problem) = (0, None);
                refresh
            }
            Err(why) => {
                tracing::warn!(%source, reason = why, "keys cannot be fetched");
                self.problem = Some(why.into());
                self.keys.take_if(|(_, since)| now.duration_since(*since) >= STALE);
                let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(LAST_RETRY);
                self.failures += 1;
                wait
            }
        };
        self.due = Some(now + wait);
    }

    fn set(&self) -> KeySet {
        KeySet { keys: self.keys.as_ref().map(|(keys, _)| keys.clone()), problem: self.problem.clone() }
    }
}
