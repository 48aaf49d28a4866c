//! Tells the streams of one runtime that there is something new.
//!
//! One task of each runtime waits for new views. It wakes the streams of its
//! own runtime, which costs a push to a local queue for each; to wake a task of
//! another thread's runtime would cost a system call.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use rapidhash::RapidHashMap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::xds::secret::Vault;
use crate::xds::view::Views;

/// What the streams of one runtime look at when they are woken.
pub(super) struct Fanout {
    // Locked to copy one handle, by threads that hardly ever meet here.
    views: Mutex<Arc<Views>>,
    revision: AtomicU64,
    vault: Mutex<Arc<Vault>>,
    closing: AtomicBool,
    streams: Listeners,
    /// Those that ask for secrets, which are few.
    openers: Listeners,
    connections: Listeners,
}

/// Those who are woken together.
#[derive(Default)]
struct Listeners {
    // Locked to add or take away one entry, and to wake all.
    wakers: Mutex<RapidHashMap<u64, Arc<AtomicWaker>>>,
    numbers: AtomicU64,
}

impl Listeners {
    fn add(&self) -> (u64, Arc<AtomicWaker>) {
        let (waker, number) = (Arc::<AtomicWaker>::default(), self.numbers.fetch_add(1, Ordering::Relaxed));
        self.lock().insert(number, waker.clone());
        (number, waker)
    }

    fn remove(&self, number: u64) {
        self.lock().remove(&number);
    }

    fn wake(&self) {
        self.lock().values().for_each(|waker| waker.wake());
    }

    fn lock(&self) -> MutexGuard<'_, RapidHashMap<u64, Arc<AtomicWaker>>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fanout {
    /// Follows the views that are published until they end. When that is so, or
    /// `drain` is cancelled, streams are to close; until they have, they go on to
    /// be told what is new. Needs a runtime to run on.
    pub(super) fn follow(
        mut views: watch::Receiver<Arc<Views>>,
        mut vault: watch::Receiver<Arc<Vault>>,
        drain: CancellationToken,
    ) -> Arc<Self> {
        let current = views.borrow_and_update().clone();
        let fanout = Arc::new(Self {
            revision: AtomicU64::new(current.revision),
            views: Mutex::new(current),
            vault: Mutex::new(vault.borrow_and_update().clone()),
            closing: AtomicBool::new(false),
            streams: Listeners::default(),
            openers: Listeners::default(),
            connections: Listeners::default(),
        });
        let weak = Arc::downgrade(&fanout);
        tokio::spawn(async move {
            let mut closing = false;
            loop {
                let (open, more) = tokio::select! {
                    changed = views.changed() => (changed.is_ok(), changed.is_ok()),
                    Ok(()) = vault.changed() => {
                        let Some(fanout) = Weak::upgrade(&weak) else { return };
                        *fanout.lock_vault() = vault.borrow_and_update().clone();
                        fanout.openers.wake();
                        continue;
                    }
                    () = drain.cancelled(), if !closing => (false, true),
                };
                // Nobody is left to be told.
                let Some(fanout) = Weak::upgrade(&weak) else { return };
                if open {
                    fanout.publish(views.borrow_and_update().clone());
                } else {
                    closing = true;
                    fanout.closing.store(true, Ordering::Release);
                    fanout.connections.wake();
                }
                fanout.streams.wake();
                if !more {
                    return;
                }
            }
        });
        fanout
    }

    /// The newest views.
    pub(super) fn views(&self) -> Arc<Views> {
        self.lock_views().clone()
    }

    fn publish(&self, views: Arc<Views>) {
        let revision = views.revision;
        *self.lock_views() = views;
        self.revision.store(revision, Ordering::Release);
    }

    /// The secrets now.
    pub(super) fn vault(&self) -> Arc<Vault> {
        self.lock_vault().clone()
    }

    fn lock_vault(&self) -> MutexGuard<'_, Arc<Vault>> {
        self.vault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_views(&self) -> MutexGuard<'_, Arc<Views>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

/// Tells a connection that it is to close. To look costs next to nothing, as
/// connections do whenever they are woken.
pub struct Closing {
    fanout: Arc<Fanout>,
    waker: Arc<AtomicWaker>,
    number: u64,
}

impl Closing {
    pub(super) fn new(fanout: Arc<Fanout>) -> Self {
        let (number, waker) = fanout.connections.add();
        Self { fanout, waker, number }
    }
}

impl Future for Closing {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.fanout.closing() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.fanout.connections.remove(self.number);
    }
}

/// A stream's place among those that are woken.
pub(super) struct Listener {
    fanout: Arc<Fanout>,
    waker: Arc<AtomicWaker>,
    number: u64,
}

impl Listener {
    pub(super) fn new(fanout: Arc<Fanout>) -> Self {
        let (number, waker) = fanout.streams.add();
        Self { fanout, waker, number }
    }

    /// Has the stream look at itself.
    pub(super) fn waker(&self) -> Arc<AtomicWaker> {
        self.waker.clone()
    }

    /// Has the task woken from now on. To be called before looking at anything.
    pub(super) fn listen(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// Whether streams are to close.
    pub(super) fn closing(&self) -> bool {
        self.fanout.closing()
    }

    /// The newest views, if they are others than `known`.
    pub(super) fn newer(&self, known: &Views) -> Option<Arc<Views>> {
        (self.fanout.revision.load(Ordering::Acquire) != known.revision).then(|| self.fanout.views())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.fanout.streams.remove(self.number);
    }
}

/// A stream's place among those that are woken when secrets change.
pub(super) struct Opener {
    fanout: Arc<Fanout>,
    waker: Arc<AtomicWaker>,
    number: u64,
}

impl Opener {
    pub(super) fn new(listener: &Listener) -> Self {
        let fanout = listener.fanout.clone();
        let (number, waker) = fanout.openers.add();
        Self { fanout, waker, number }
    }

    /// The secrets now; the task is woken when there are others.
    pub(super) fn vault(&self, cx: &Context<'_>) -> Arc<Vault> {
        self.waker.register(cx.waker());
        self.fanout.vault()
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.fanout.openers.remove(self.number);
    }
}
