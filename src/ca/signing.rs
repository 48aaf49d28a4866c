//! Threads that sign, and nothing else.
//!
//! A signature and what belongs to it cost 0.1 ms with P-256 keys, 3 ms with
//! RSA-4096, and ten thousand proxies may want theirs in the same minute. On
//! the threads that carry xDS, each would be a pause in somebody's push. So
//! requests wait for threads of their own, of which there are half as many as
//! cores: under a wave of renewals certificates take longer, because they are
//! renewed hours before they end, and changes of the mesh do not. For the same
//! reason these threads are nicer than all others: a push that has to be written
//! takes the core from a signature, not the other way round.
//!
//! tokio's blocking pool would do as well, but for every request it wakes a
//! thread, and has as many as there are requests. Threads that take the next
//! request from a queue sleep only when it is empty.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

/// By how much these threads are nicer. On Linux that is a thread's own, and a
/// thread this nice gets a tenth of a core that another one wants.
const NICE: i32 = 10;

/// How many requests wait for a thread, beside those that wait for a place.
const QUEUE: usize = 16;

type Job = Box<dyn FnOnce() + Send>;

/// The threads. They end when the last handle is gone.
#[derive(Clone)]
pub struct Signing {
    jobs: mpsc::Sender<Job>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SigningError {
    /// The work panicked.
    #[error("signing panicked")]
    Panicked,
    /// No thread could be started.
    #[error("no thread signs")]
    NoThread,
}

impl Signing {
    /// As many threads as leave half of the machine to others.
    pub fn new() -> Self {
        Self::with_threads(std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)))
    }

    fn with_threads(threads: usize) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let queue = queue.clone();
            let work = move || {
                if let Err(error) = rustix::process::nice(NICE) {
                    tracing::debug!(%error, "signing competes with pushes on equal terms");
                }
                // Held while waiting: one thread waits for requests, the rest
                // for the lock.
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                while let Some(job) = next() {
                    // The caller learns of a panic because its answer is gone.
                    let _ = std::panic::catch_unwind(AssertUnwindSafe(job));
                }
            };
            if let Err(error) = std::thread::Builder::new().name(format!("signing-{number}")).spawn(work) {
                tracing::error!(%error, "cannot start a thread that signs");
            }
        }
        Self { jobs }
    }

    /// Does a piece of work on one of the threads. Whoever stops waiting has
    /// left the line: the work is not done, unless it has begun.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, SigningError> {
        let (answer, answered) = oneshot::channel();
        let job = move || {
            if !answer.is_closed() {
                // Nobody may be left to hear it.
                let _ = answer.send(work());
            }
        };
        self.jobs.send(Box::new(job)).await.map_err(|_| SigningError::NoThread)?;
        answered.await.map_err(|_| SigningError::Panicked)
    }
}

impl Default for Signing {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
