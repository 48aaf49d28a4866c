//! The one place that holds the key material in use, and decides whether new
//! material may take its place.
//!
//! Peers trust the roots they were told of. Material that shares none of them
//! is refused; with other material a handover changes to the new issuer when
//! everybody believes it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use openssl::error::ErrorStack;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bundle::{BundleError, CaBundle, certificates, valid_from};
use super::files::{CaFiles, FilesError};
use super::handover::{Handover, Pace, RootReport, Step, has, root_id, same_key};
use super::holders::{Holders, IssuerReport};
use super::previous::{Previous, PreviousStore, State};
use super::root_store::{self, RootStore};
use super::self_signed::RootPolicy;

/// How often it is looked whether the time for a step has come.
const POLL: Duration = Duration::from_secs(2);
/// How often certificates that have ended are forgotten.
const SWEEP: SignedDuration = SignedDuration::from_mins(10);

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
    Gone(String),
    /// Nobody would trust what it signs.
    #[error(
        "no workload has been told of any root in the new root bundle; ship a bundle with the old and the new root first"
    )]
    Roots,
    /// OpenSSL failed where it should not.
    #[error("OpenSSL failed")]
    OpenSsl(#[from] ErrorStack),
}

/// What a source held: nothing, material, or why it cannot be read.
type Seen = Result<Option<[u8; 32]>, String>;

/// What was last seen of a source of key material: what has not changed is not
/// looked at again, and so refused once, unless it becomes valid later.
#[derive(Debug, Default)]
pub struct Watched {
    seen: Option<Seen>,
    again: Option<Timestamp>,
}

/// The key material in use.
#[derive(Debug)]
pub struct Authority {
    current: watch::Sender<Arc<CaBundle>>,
    // Held while a step is taken, by whoever follows a source.
    handover: Mutex<Handover>,
    holders: Holders,
    rejected: AtomicU64,
    refusal: watch::Sender<Option<Refusal>>,
}

/// The last key material that was refused.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    at: Timestamp,
    /// Why.
    pub reason: String,
}

/// What is shown of an authority.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where a change of the root is.
    pub step: Step,
    /// The same in words.
    pub explanation: String,
    /// Why the newest key material is not used at all.
    pub refused: Option<Refusal>,
    /// When the signing certificate or one above it ends.
    signer_expires: Timestamp,
    roots: Vec<RootReport>,
    /// Whose certificates are in use, of those issued by this process.
    pub issuers: Vec<IssuerReport>,
}

impl Authority {
    /// Starts with verified material.
    pub fn new(bundle: CaBundle, pace: Pace) -> Self {
        let bundle = Arc::new(bundle);
        Self {
            current: watch::Sender::new(bundle.clone()),
            handover: Mutex::new(Handover::new(bundle, pace, Timestamp::now())),
            holders: Holders::default(),
            rejected: AtomicU64::new(0),
            refusal: watch::Sender::new(None),
        }
    }

    /// The material in use now. Use one answer for the whole of a response:
    /// the next call may return another.
    pub fn bundle(&self) -> Arc<CaBundle> {
        self.current.borrow().clone()
    }

    /// The newest material, which may not be in use yet.
    pub fn newest(&self) -> Arc<CaBundle> {
        self.lock().given().clone()
    }

    /// Tells of every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<CaBundle>> {
        self.current.subscribe()
    }

    /// Who holds what was issued.
    pub fn holders(&self) -> &Holders {
        &self.holders
    }

    /// The newest material, if it was refused.
    pub fn refusals(&self) -> watch::Receiver<Option<Refusal>> {
        self.refusal.subscribe()
    }

    /// How often new material was refused.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Where a change of the root is.
    pub fn step(&self, now: Timestamp) -> Step {
        self.lock().step(now)
    }

    /// What there is to see.
    pub fn report(&self, now: Timestamp) -> Report {
        let bundle = self.bundle();
        let (step, explanation, roots) = {
            let handover = self.lock();
            (handover.step(now), handover.explanation(now), handover.roots(now))
        };
        Report {
            step,
            explanation,
            refused: self.refusal.borrow().clone(),
            signer_expires: bundle.not_after(),
            roots,
            issuers: self.holders.report(&bundle, now),
        }
    }

    /// Changes to other material as soon as that is safe, or says why it never
    /// is and changes nothing.
    pub fn replace(&self, bundle: CaBundle, now: Timestamp) -> Result<(), ReplaceError> {
        self.take_steps(now, |handover, last_end| handover.offer(bundle, last_end, now))?;
        self.accepted();
        Ok(())
    }

    /// What was refused last is not what there is any more.
    fn accepted(&self) {
        self.refusal.send_if_modified(|refusal| refusal.take().is_some());
    }

    /// Takes the steps whose time has come.
    fn advance(&self, now: Timestamp) -> Result<(), ReplaceError> {
        self.take_steps(now, |handover, last_end| handover.settle(last_end, now))
    }

    fn take_steps(
        &self,
        now: Timestamp,
        take: impl FnOnce(&mut Handover, Timestamp) -> Result<(), ReplaceError>,
    ) -> Result<(), ReplaceError> {
        let mut handover = self.lock();
        let before = handover.step(now);
        take(&mut handover, self.holders.last_end())?;
        let step = handover.step(now);
        if step != before {
            tracing::info!(step = step.name(), before = before.name(), "{}", handover.explanation(now));
        }
        let current = handover.current();
        self.current.send_if_modified(|used| {
            let changed = !Arc::ptr_eq(used, current);
            if changed {
                *used = current.clone();
            }
            changed
        });
        Ok(())
    }

    /// Goes on with a change that began before this process did. Returns whether
    /// that is about our key material; if the newest came while nobody was there to
    /// see it, the change begins now.
    pub fn resume(&self, previous: &Previous, now: Timestamp) -> Result<bool, ReplaceError> {
        let newest = self.newest();
        let (until, ends) = (previous.until, previous.ends);
        match &previous.state {
            State::Signs(files, staged) => {
                // What cannot sign any more does not sign on either.
                let Ok(before) = CaBundle::verified(files, now) else { return Ok(false) };
                let is_next = previous.next == root_id(newest.root())?;
                // What signs then is ours, or shares nothing with it.
                if same_key(before.root(), newest.root()) || !is_next && !has(newest.roots(), before.root()) {
                    return Ok(false);
                }
                let given = newest.with_roots(newest.roots().to_vec())?;
                let times = if is_next { [*staged, until, ends] } else { [now, Timestamp::MIN, ends] };
                self.take_steps(now, |handover, _| {
                    *handover = Handover::resume(before, given, handover.pace(), times, now)?;
                    Ok(())
                })?;
            }
            State::Signed(root, at) => {
                let roots = certificates("the root of the issuer before", root)?;
                if previous.over(self.pace()) <= now || has(&roots, newest.root()) {
                    return Ok(false);
                }
                self.take_steps(now, |handover, _| {
                    roots.into_iter().try_for_each(|root| handover.recall(root, [*at, until], now))
                })?;
            }
        }
        Ok(true)
    }

    /// What a self-signed root of before is to the newest material, if it signed under
    /// a root that was `told` and that the newest still has.
    pub fn follows(&self, before: &CaFiles, told: &[u8], now: Timestamp) -> Option<Previous> {
        let (newest, root) = (self.newest(), CaBundle::verified(before, now).ok()?);
        let told = certificates("the roots that were told", told).ok()?;
        let signed = has(&told, root.root()) && has(newest.roots(), root.root());
        let next = root_id(newest.root()).ok()?;
        let state = State::Signs(before.clone(), now);
        signed.then_some(Previous { next, state, until: Timestamp::MIN, ends: Timestamp::MIN })
    }

    /// How long the steps take.
    pub fn pace(&self) -> Pace {
        self.lock().pace()
    }

    /// Keeps what [`Authority::resume`] needs, until cancelled. `found` is what was
    /// kept before, and whether this process goes on with it; if not, it is removed
    /// when nobody can need it any more, with the key in it.
    pub async fn keep_previous(&self, store: &PreviousStore, found: Option<(Previous, bool)>, stop: CancellationToken) {
        let mut changes = self.subscribe();
        let mut kept = found.as_ref().is_some_and(|(_, resumed)| *resumed);
        let mut ends = Timestamp::MIN;
        let mut left = found.filter(|(_, resumed)| !resumed).map(|(previous, _)| previous);
        // What was found may be about another step.
        let mut changed = true;
        loop {
            // At once: who starts now has to find it.
            tokio::select! {
                () = stop.cancelled() => return,
                seen = changes.changed() => changed |= seen.is_ok(),
                () = tokio::time::sleep(POLL) => {}
            }
            let now = Timestamp::now();
            let previous = self.lock().previous(self.holders.last_end(), now);
            if left.as_ref().is_some_and(|left| left.over(self.pace()) <= now)
                && let Some(left) = left.take()
                && store.load().await.is_ok_and(|kept| kept.as_ref() == Some(&left))
            {
                kept = true;
            }
            let known = |previous: &Option<Previous>| match previous {
                Some(previous) => kept && previous.ends <= ends.saturating_add(SWEEP).unwrap_or(Timestamp::MAX),
                // What somebody else has noted is not for us to take away.
                None => !kept,
            };
            if !changed && previous.as_ref().is_ok_and(known) {
                continue;
            }
            let written = match &previous {
                Ok(None) if !kept => Ok(()),
                Ok(previous) => store.keep(previous.as_ref()).await.map_err(|error| Sources(&error).to_string()),
                Err(error) => Err(Sources(error).to_string()),
            };
            match written {
                Ok(()) => {
                    changed = false;
                    let now_kept = previous.ok().flatten();
                    kept = now_kept.is_some();
                    ends = now_kept.map_or(Timestamp::MIN, |previous| previous.ends);
                }
                Err(error) => tracing::warn!(error, "the issuer before cannot be kept; a restart would forget it"),
            }
        }
    }

    /// Takes steps in their time, until cancelled.
    pub async fn keep_pace(&self, stop: CancellationToken) {
        let mut swept = Timestamp::now();
        while stop.run_until_cancelled(tokio::time::sleep(POLL)).await.is_some() {
            let now = Timestamp::now();
            if let Err(error) = self.advance(now) {
                self.refuse(&error);
            }
            self.note_end(now);
            if now.duration_since(swept) > SWEEP {
                self.holders.sweep(now);
                swept = now;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Handover> {
        self.handover.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what a place, a directory or a Secret, holds, if it is not what
    /// was seen of it last time. Bad material is reported once and the old kept.
    pub fn look_at(
        &self,
        place: &str,
        read: Result<Option<CaFiles>, FilesError>,
        watched: &mut Watched,
        now: Timestamp,
    ) {
        let found = read.as_ref().map(|files| files.as_ref().map(CaFiles::fingerprint)).map_err(ToString::to_string);
        if watched.seen.as_ref() == Some(&found) && watched.again.is_none_or(|at| now < at) {
            return;
        }
        let valid_from = read.as_ref().ok().and_then(Option::as_ref).and_then(valid_from);
        *watched = Watched { seen: Some(found), again: None };
        match read.map_err(ReplaceError::from).and_then(|files| self.take(place, files, now)) {
            Ok(false) => {}
            Ok(true) => tracing::info!(place, step = self.step(now).name(), "new CA key material"),
            Err(error) => {
                watched.again = valid_from.filter(|at| *at > now);
                self.refuse(&error);
            }
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
        // istiod's way to say that a root is not renewed.
        if interval.is_zero() {
            stop.cancelled().await;
            return;
        }
        // Replicas start together; what is left of the clock spreads their
        // checks, so that the first to renew is seen by the others.
        let jitter = interval.mul_f64(f64::from(Timestamp::now().subsec_millisecond().unsigned_abs()) / 10_000.0);
        let mut own = self.newest();
        while stop.run_until_cancelled(tokio::time::sleep(interval + jitter)).await.is_some() {
            if !self.newest().same_files(&own) {
                // Somebody has plugged in another one.
                return;
            }
            match root_store::refreshed(store, &own, policy, Timestamp::now()).await {
                Ok(None) => {}
                Ok(Some(bundle)) => match self.replace(bundle, Timestamp::now()) {
                    Ok(()) => {
                        own = self.newest();
                        tracing::info!("the self-signed root has changed");
                    }
                    Err(error) => self.refuse(&error),
                },
                Err(error) => self.refuse(&error),
            }
        }
    }

    /// Whether the files were new.
    fn take(&self, place: &str, files: Option<CaFiles>, now: Timestamp) -> Result<bool, ReplaceError> {
        let files = files.ok_or_else(|| ReplaceError::Gone(place.to_owned()))?;
        if self.newest().is_from(&files) {
            self.accepted();
            return Ok(false);
        }
        self.replace(CaBundle::verified(&files, now)?, now)?;
        Ok(true)
    }

    /// Shows that nothing can be signed any more.
    fn note_end(&self, now: Timestamp) {
        let end = self.bundle().not_after();
        if end > now {
            return;
        }
        self.refusal.send_if_modified(|refusal| {
            let new = refusal.is_none();
            if new {
                let reason = format!("the signing certificate, or one above it, has ended at {end}: nothing is signed");
                tracing::error!(reason, "there is no CA key material to sign with");
                *refusal = Some(Refusal { at: now, reason });
            }
            new
        });
    }

    /// Notes that key material is not used.
    pub fn refuse(&self, error: &dyn std::error::Error) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        let reason = Sources(error).to_string();
        tracing::warn!(error = reason, "keeping the old CA key material");
        self.refusal.send_replace(Some(Refusal { at: Timestamp::now(), reason }));
    }
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
