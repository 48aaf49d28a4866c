//! Where facts come from: a folder of YAML or the Kubernetes API. Both say the
//! same thing, a stream of [`Event`]s, and know nothing of what objects mean.
//!
//! An object that does not decode costs itself only: its last good version
//! stays until the process ends, and a [`Problem`] says which object, which
//! field and why. A source that is lost withdraws nothing.

pub mod documents;
pub mod file;
pub mod kube;
pub mod originals;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::api::{Change, Kind};
use crate::credential::Place;

/// What a source tells the writer of the graph.
#[derive(Debug)]
pub enum Event {
    /// Facts that belong together: they enter one commit.
    Changes(Vec<Change>),
    /// Everything there is of these kinds has been said once.
    Synced(Vec<Kind>),
    /// Whether what is in these places has been said: true when it was looked
    /// for, false when nobody does any more.
    Sought(Vec<(Place, bool)>),
}

/// Where sources send events. It is bounded: a writer that falls behind slows
/// the sources down, and they in turn the API server's watches.
pub type Sender = mpsc::Sender<Event>;

/// The other end of [`Sender`].
pub type Receiver = mpsc::Receiver<Event>;

/// A channel for events.
pub fn channel() -> (Sender, Receiver) {
    mpsc::channel(256)
}

/// An object, document or watch that cannot be read at the moment.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Where it is: a kind with namespace and name, or a file with a line.
    pub place: String,
    /// The field, if it is about one.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

/// The problems sources have now, for logs, metrics and debug pages.
#[derive(Clone, Default)]
pub struct Problems {
    // Held for one map operation, never across an await.
    open: Arc<Mutex<BTreeMap<String, Problem>>>,
}

impl Problems {
    /// Notes a problem under a key, and logs it if it is new or different.
    pub fn open(&self, key: String, problem: Problem) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(&key) != Some(&problem) {
            tracing::warn!(place = problem.place, field = problem.field, reason = problem.reason, "cannot be read");
            open.insert(key, problem);
        }
    }

    /// Forgets a problem.
    pub fn close(&self, key: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = open.remove(key) {
            tracing::info!(place = problem.place, "can be read again");
        }
    }

    /// Whether there is a problem under a key.
    pub fn has(&self, key: &str) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Keeps, of the problems whose key begins with `prefix`, those in `keys`.
    pub fn retain(&self, prefix: &str, keys: &[String]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|key, _| !key.starts_with(prefix) || keys.contains(key));
    }

    /// All problems, in the order of their keys.
    pub fn list(&self) -> Vec<Problem> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
