//! The last callers who were refused a certificate, and why. A caller is told
//! an id and nothing else; whoever may look at this page finds the reason by
//! it.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::authenticate::{Caller, Peer};

/// How many are remembered of callers who have proved who they are, and of those
/// who have not: some 300 bytes each.
const REMEMBERED: usize = 512;
/// Reasons may quote what a caller wrote.
const MAX_REASON: usize = 512;

/// A caller that was refused. There is nothing in it that opens anything:
/// reasons quote names and times of tokens, never tokens.
#[derive(Clone, Debug, Serialize)]
pub struct Denied {
    /// What the caller was told.
    pub id: String,
    at: Timestamp,
    /// Where it came from.
    peer: Option<String>,
    /// Who it had proved to be, if that was not the reason.
    caller: Vec<String>,
    /// The pod of its token.
    pod: Option<String>,
    /// What the caller was told beside the id.
    message: &'static str,
    reason: String,
}

/// The last of them; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Denials {
    // Held to add or copy entries.
    last: Arc<Mutex<Last>>,
}

/// Strangers, of whom there may be many, push out strangers only.
#[derive(Debug, Default)]
struct Last {
    known: VecDeque<Denied>,
    strangers: VecDeque<Denied>,
}

impl Denials {
    /// Notes a refusal. Returns its id.
    pub fn note(&self, peer: &Peer, caller: Option<&Caller>, message: &'static str, reason: &dyn Display) -> String {
        let id = id();
        let mut reason = reason.to_string();
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        let denied = Denied {
            id: id.clone(),
            at: Timestamp::now(),
            peer: peer.address.map(|address| address.to_string()),
            caller: caller.iter().flat_map(|caller| &caller.identities).map(ToString::to_string).collect(),
            pod: caller.and_then(|caller| caller.pod.as_ref()).map(|pod| pod.name.to_string()),
            message,
            reason,
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = if caller.is_some() { &mut last.known } else { &mut last.strangers };
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(denied);
        id
    }

    /// All of them, the newest first; or the one with an id.
    pub fn list(&self, id: Option<&str>) -> Vec<Denied> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let all = last.known.iter().rev().chain(last.strangers.iter().rev());
        let mut found: Vec<_> = all.filter(|denied| id.is_none_or(|id| denied.id == id)).cloned().collect();
        found.sort_by_key(|denied| std::cmp::Reverse(denied.at));
        found
    }
}

/// Ties what a caller was told to a line in the log and an entry here.
fn id() -> String {
    let mut bytes = [0; 4];
    // Without randomness nothing can be signed either; the id is then zero.
    let _ = openssl::rand::rand_bytes(&mut bytes);
    format!("{:08x}", u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests;
