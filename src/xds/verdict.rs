//! What clients make of what they were sent, for whoever made it. A rejection
//! is always told; an acceptance only while something is known to be rejected,
//! so that it costs nothing otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::resource::ResourceType;
use super::view::Views;
use crate::proxy::Scope;

/// How many verdicts may wait. More than that are lost, and told again by the
/// client's next answer.
const WAITING: usize = 1024;

/// What a client says of a response.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Whose configuration the client is sent, if it has one of its own.
    pub scope: Option<Scope>,
    /// The name of the client.
    pub proxy: Arc<str>,
    /// What the response was about.
    pub ty: ResourceType,
    /// Why it was rejected; none if it was accepted.
    pub error: Option<Arc<str>>,
    /// What the client accepted last on this stream.
    pub accepted: Option<Arc<Views>>,
    /// What it was sent.
    pub sent: Arc<Views>,
    /// Whether it came with nothing of this type, so that it has nothing to go
    /// on with.
    pub blank: bool,
}

/// Where clients' verdicts are told.
#[derive(Debug)]
pub struct Verdicts {
    sender: mpsc::Sender<Verdict>,
    open: Arc<AtomicBool>,
}

/// Where they are heard.
#[derive(Debug)]
pub struct Hearing {
    verdicts: mpsc::Receiver<Verdict>,
    open: Arc<AtomicBool>,
}

/// Both ends.
pub fn channel() -> (Verdicts, Hearing) {
    let (sender, verdicts) = mpsc::channel(WAITING);
    let open = Arc::<AtomicBool>::default();
    (Verdicts { sender, open: open.clone() }, Hearing { verdicts, open })
}

impl Verdicts {
    /// Whether somebody wants to hear of acceptances.
    pub(super) fn open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Tells a verdict.
    pub(super) fn tell(&self, verdict: Verdict) {
        // Nobody may be listening.
        let _ = self.sender.try_send(verdict);
    }
}

impl Hearing {
    /// The next verdict; for ever if nobody is left to tell any.
    pub async fn next(&mut self) -> Verdict {
        match self.verdicts.recv().await {
            Some(verdict) => verdict,
            None => std::future::pending().await,
        }
    }

    /// Says whether acceptances are to be told.
    pub fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }
}
