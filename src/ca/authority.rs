//! The one place that holds the key material in use, and decides whether new
//! material may take its place.
//!
//! Peers trust the roots they were told of. Material whose roots leave one of
//! them out would break connections between the workloads renewed before and
//! after, so it is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use openssl::x509::X509;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bundle::{BundleError, CaBundle};
use super::files::{CaFiles, FilesError};
use super::root_store::{self, RootStore};
use super::self_signed::RootPolicy;

/// How often a directory is read for new material. Reading a handful of small
/// files and comparing hashes is cheap, and sees every way to change them:
/// symlink swaps, renames, network file systems that tell nobody.
const POLL: Duration = Duration::from_secs(2);

/// Which changes of the root bundle are taken at run time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RootChange {
    /// The new roots must contain every old one.
    #[default]
    Grow,
    /// The new roots must share one with the old ones, so that a retired root
    /// can leave (`ISTIO_MULTIROOT_MESH`).
    Overlap,
}

/// Why new key material is not used.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// The directory could not be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// It cannot sign.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The files are gone.
    #[error("{0} has no key material any more")]
    Gone(PathBuf),
    /// Workloads would stop trusting each other.
    #[error(
        "the new root bundle leaves out roots that workloads trust now; ship a bundle with the old and the new root first"
    )]
    Roots,
}

/// What a directory held: nothing, material, or why it cannot be read.
type Seen = Result<Option<[u8; 32]>, String>;

/// The key material in use.
#[derive(Debug)]
pub struct Authority {
    current: watch::Sender<Arc<CaBundle>>,
    change: RootChange,
    rejected: AtomicU64,
}

impl Authority {
    /// Starts with verified material.
    pub fn new(bundle: CaBundle, change: RootChange) -> Self {
        Self { current: watch::Sender::new(Arc::new(bundle)), change, rejected: AtomicU64::new(0) }
    }

    /// The material in use now. Use one answer for the whole of a response:
    /// the next call may return another.
    pub fn bundle(&self) -> Arc<CaBundle> {
        self.current.borrow().clone()
    }

    /// Tells of every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<CaBundle>> {
        self.current.subscribe()
    }

    /// How often new material was refused.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Uses other material from now on, or says why not and changes nothing.
    pub fn replace(&self, bundle: CaBundle) -> Result<(), ReplaceError> {
        let mut refused = false;
        self.current.send_if_modified(|current| {
            let known = |root: &X509, roots: &[X509]| roots.iter().any(|other| same_key(root, other));
            let kept = |root: &X509| known(root, bundle.roots());
            refused = !match self.change {
                RootChange::Grow => current.roots().iter().all(kept),
                RootChange::Overlap => current.roots().iter().any(kept),
            };
            if !refused {
                *current = Arc::new(bundle);
            }
            !refused
        });
        if refused { Err(ReplaceError::Roots) } else { Ok(()) }
    }

    /// Takes over what a directory of plugged-in material holds, until
    /// cancelled.
    pub async fn follow_dir(&self, dir: &Path, stop: CancellationToken) {
        let mut seen = None;
        while stop.run_until_cancelled(tokio::time::sleep(POLL)).await.is_some() {
            self.look_at(dir, &mut seen, Timestamp::now());
        }
    }

    /// Takes over what a directory holds, if it is not what was `seen` last
    /// time. Bad material is reported once and the old kept.
    fn look_at(&self, dir: &Path, seen: &mut Option<Seen>, now: Timestamp) {
        let read = CaFiles::from_dir(dir);
        let found = read.as_ref().map(|files| files.as_ref().map(CaFiles::fingerprint)).map_err(ToString::to_string);
        if seen.as_ref() == Some(&found) {
            return;
        }
        *seen = Some(found);
        match read.map_err(ReplaceError::from).and_then(|files| self.take(dir, files, now)) {
            Ok(false) => {}
            Ok(true) => tracing::info!(dir = %dir.display(), "using new CA key material"),
            Err(error) => self.report(&error),
        }
    }

    /// Follows a self-signed root that another replica renews, and renews it
    /// when it is time, until cancelled.
    pub async fn follow_store(
        &self,
        store: &dyn RootStore,
        policy: RootPolicy,
        interval: Duration,
        stop: CancellationToken,
    ) {
        // Replicas start together; what is left of the clock spreads their
        // checks, so that the first to renew is seen by the others.
        let jitter = interval.mul_f64(f64::from(Timestamp::now().subsec_millisecond().unsigned_abs()) / 10_000.0);
        while stop.run_until_cancelled(tokio::time::sleep(interval + jitter)).await.is_some() {
            match root_store::refreshed(store, &self.bundle(), policy, Timestamp::now()).await {
                Ok(None) => {}
                Ok(Some(bundle)) => match self.replace(bundle) {
                    Ok(()) => tracing::info!("using the renewed self-signed root"),
                    Err(error) => self.report(&error),
                },
                Err(error) => self.report(&error),
            }
        }
    }

    /// Whether the files were new.
    fn take(&self, dir: &Path, files: Option<CaFiles>, now: Timestamp) -> Result<bool, ReplaceError> {
        let files = files.ok_or_else(|| ReplaceError::Gone(dir.to_owned()))?;
        if self.bundle().is_from(&files) {
            return Ok(false);
        }
        self.replace(CaBundle::verified(&files, now)?)?;
        Ok(true)
    }

    fn report(&self, error: &dyn std::error::Error) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(error = %Sources(error), "keeping the old CA key material");
    }
}

/// A renewed root has another certificate but the same name and key, which is
/// all that a peer's verification depends on.
fn same_key(a: &X509, b: &X509) -> bool {
    let names = matches!(a.subject_name().try_cmp(b.subject_name()), Ok(std::cmp::Ordering::Equal));
    names && matches!((a.public_key(), b.public_key()), (Ok(a), Ok(b)) if a.public_eq(&b))
}

/// An error with everything that caused it, on one line.
pub(super) struct Sources<'a>(pub(super) &'a dyn std::error::Error);

impl std::fmt::Display for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
