//! From one issuer to the next without a handshake that fails: which key
//! signs, and which roots the mesh is told of.
//!
//! A workload believes the roots that came with its own certificate, and
//! learns of others when it renews that. So a new root goes through steps:
//!
//! * **STAGE**: it is told to everybody, and the old issuer goes on signing
//!   until each certificate in use came with the new root;
//! * **SIGN**: the new issuer signs. The old root stays in what everybody is
//!   told until each certificate it vouches for has ended, whether the
//!   operator has taken it away or not;
//! * **RETIRE**: nothing is left of the old root, and it can go from the
//!   operator's files too.
//!
//! An issuer under a root that everybody has signs at once: that is a new
//! intermediate, or a root renewed with the same key.
//!
//! What others have issued, and this process before it was restarted, is not
//! known. Such certificates are taken to live as long as those that are issued
//! when nobody asks for another lifetime, and other replicas to learn of new
//! files within [`Pace::spread`].

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use openssl::error::ErrorStack;
use openssl::x509::{X509, X509Ref};
use serde::Serialize;

use super::authority::ReplaceError;
use super::bundle::{CaBundle, pem};
use super::previous::{Previous, State};
use super::timestamp;

/// How long the steps take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long certificates live of which nothing is known
    /// (`DEFAULT_WORKLOAD_CERT_TTL`).
    pub lifetime: Duration,
    /// By how much replicas may differ in when they learn of new key material:
    /// kubelets project a changed Secret within two minutes.
    pub spread: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(24 * 3600), spread: Duration::from_secs(300) }
    }
}

impl Pace {
    pub(super) fn after(self, now: Timestamp) -> Timestamp {
        let wait = SignedDuration::try_from(self.lifetime.saturating_add(self.spread)).unwrap_or(SignedDuration::MAX);
        now.checked_add(wait).unwrap_or(Timestamp::MAX)
    }
}

/// Where a change of the root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Step {
    /// Nothing is going on.
    Settled,
    /// The new root is told, the old issuer signs.
    Stage,
    /// The new issuer signs, certificates of the old root are in use.
    Sign,
    /// Nothing is left of an old root, and it can go.
    Retire,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Settled, Self::Stage, Self::Sign, Self::Retire];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Settled => "SETTLED",
            Self::Stage => "STAGE",
            Self::Sign => "SIGN",
            Self::Retire => "RETIRE",
        }
    }
}

/// What signs and what is told.
#[derive(Debug)]
pub(super) struct Handover {
    pace: Pace,
    /// The newest key material.
    given: Arc<CaBundle>,
    /// What is used of it and of what was given before.
    current: Arc<CaBundle>,
    roots: Vec<Root>,
    /// The last change to an issuer under another root: the root before, and
    /// when that was.
    changed: Option<(X509, Timestamp)>,
    /// When the last certificate ends that was issued before this process began,
    /// if somebody has noted that.
    ends: Timestamp,
}

/// A root that is told.
#[derive(Debug)]
struct Root {
    cert: X509,
    published: Timestamp,
    /// From when each certificate in use came with it.
    trusted: Timestamp,
    /// Until when certificates it vouches for may be in use.
    needed: Option<Timestamp>,
    /// Whether it was seen to sign, here.
    signed: bool,
}

/// What is shown of a root.
#[derive(Debug, Serialize)]
pub struct RootReport {
    subject: String,
    fingerprint: String,
    expires: Option<Timestamp>,
    signs: bool,
    /// Whether it is in the newest key material, or only still told.
    given: bool,
    told_since: Timestamp,
    trusted_by_all: bool,
    /// If it is not yet.
    trusted_by_all_at: Option<Timestamp>,
    /// Until then certificates that it vouches for may be in use.
    needed_until: Option<Timestamp>,
}

impl Handover {
    pub(super) fn new(bundle: Arc<CaBundle>, pace: Pace, now: Timestamp) -> Self {
        let root = |cert: &X509| {
            let signs = same_key(cert, bundle.root());
            // Whoever started before us has told the root that signs, or else
            // there is nothing better. How long the others have been told, and
            // whether they have signed, is not known.
            let trusted = if signs { Timestamp::MIN } else { pace.after(now) };
            Root { cert: cert.clone(), published: now, trusted, needed: Some(pace.after(now)), signed: signs }
        };
        let roots = bundle.roots().iter().map(root).collect();
        Self { pace, given: bundle.clone(), current: bundle, roots, changed: None, ends: Timestamp::MIN }
    }

    /// Goes on with what was known before a restart: `previous` signed, and was
    /// told to be followed by `given` at a time, which everybody knows `until` then.
    /// `ends` is when the last certificate ends that it has issued.
    pub(super) fn resume(
        previous: CaBundle,
        given: CaBundle,
        pace: Pace,
        [staged, until, ends]: [Timestamp; 3],
        now: Timestamp,
    ) -> Result<Self, ReplaceError> {
        let mut handover = Self::new(Arc::new(previous), pace, staged);
        // It was accepted then; since, the old root may have left the files.
        handover.given = Arc::new(given);
        handover.settle(until, staged)?;
        handover.ends = ends;
        handover.settle(Timestamp::MIN, now)?;
        Ok(handover)
    }

    /// Has a root told that signed until a time, and is needed at least `until`
    /// another.
    pub(super) fn recall(
        &mut self,
        cert: X509,
        [signed, until]: [Timestamp; 2],
        now: Timestamp,
    ) -> Result<(), ReplaceError> {
        let needed = Some(self.pace.after(signed).max(until));
        match self.position(&cert) {
            Some(at) => (self.roots[at].needed, self.roots[at].signed) = (needed, true),
            None => {
                let cert = cert.clone();
                self.roots.push(Root { cert, published: signed, trusted: Timestamp::MIN, needed, signed: true });
            }
        }
        self.changed = Some((cert, signed));
        self.settle(Timestamp::MIN, now)
    }

    /// What is in use.
    pub(super) fn current(&self) -> &Arc<CaBundle> {
        &self.current
    }

    /// How long the steps take.
    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// The newest key material.
    pub(super) fn given(&self) -> &Arc<CaBundle> {
        &self.given
    }

    /// There is new key material. `last_end` is when the last certificate ends
    /// that was issued here.
    pub(super) fn offer(&mut self, bundle: CaBundle, last_end: Timestamp, now: Timestamp) -> Result<(), ReplaceError> {
        // The files of another mesh look just like this.
        if !bundle.roots().iter().any(|cert| self.position(cert).is_some()) {
            return Err(ReplaceError::Roots);
        }
        self.given = Arc::new(bundle);
        self.settle(last_end, now)
    }

    /// Takes the steps whose time has come.
    pub(super) fn settle(&mut self, last_end: Timestamp, now: Timestamp) -> Result<(), ReplaceError> {
        let last_end = last_end.max(self.ends);
        let wait = self.pace.after(now).max(last_end);
        for cert in self.given.clone().roots() {
            match self.position(cert) {
                // It may have been renewed.
                Some(at) => self.roots[at].cert = cert.clone(),
                None => {
                    let root = Root { cert: cert.clone(), published: now, trusted: wait, needed: None, signed: false };
                    self.roots.push(root);
                }
            }
        }
        let mut signer = self.current.clone();
        // One that has ended while it was told is no better.
        let can_sign = self.given.not_after() > now;
        let must = self.current.not_after() <= now;
        if !self.uses_given() && can_sign && (must || self.is_trusted(self.given.root(), now)) {
            signer = self.given.clone();
            if !same_key(self.current.root(), signer.root())
                && let Some(old) = self.position(self.current.root())
            {
                self.roots[old].needed = Some(wait);
                self.changed = Some((self.roots[old].cert.clone(), now));
            }
        }
        if let Some(at) = self.position(signer.root()) {
            (self.roots[at].signed, self.roots[at].trusted) = (true, Timestamp::MIN);
        }
        let given = self.given.clone();
        self.roots.retain(|root| {
            let needed = root.needed.is_some_and(|needed| needed > now);
            needed || has(given.roots(), &root.cert) || same_key(signer.root(), &root.cert)
        });
        let kept = self.roots.iter().filter(|root| !has(given.roots(), &root.cert)).map(|root| root.cert.clone());
        let told: Vec<X509> = given.roots().iter().cloned().chain(kept).collect();
        let signer = if same_certificates(signer.roots(), &told) { signer } else { Arc::new(signer.with_roots(told)?) };
        let unchanged = signer.same_files(&self.current) && same_certificates(signer.roots(), self.current.roots());
        if !unchanged {
            self.current = signer;
        }
        Ok(())
    }

    /// Where it is.
    pub(super) fn step(&self, now: Timestamp) -> Step {
        if !self.uses_given() {
            return Step::Stage;
        }
        let mut old = self.roots.iter().filter(|root| root.signed && !same_key(&root.cert, self.current.root()));
        match old.clone().any(|root| root.needed.is_some_and(|needed| needed > now)) {
            true => Step::Sign,
            false if old.any(|_| true) => Step::Retire,
            false => Step::Settled,
        }
    }

    /// What somebody who starts later has to know.
    pub(super) fn previous(&self, last_end: Timestamp, now: Timestamp) -> Result<Option<Previous>, ReplaceError> {
        let next = root_id(self.given.root())?;
        let ends = self.ends.max(last_end);
        Ok(match (self.step(now), &self.changed) {
            (Step::Stage, _) => {
                let root = self.position(self.given.root()).map(|at| &self.roots[at]);
                let (staged, until) = root.map_or((now, now), |root| (root.published, root.trusted));
                Some(Previous { next, state: State::Signs(self.current.files()?, staged), until, ends })
            }
            (Step::Sign, Some((root, at))) => {
                let until = self.position(root).and_then(|at| self.roots[at].needed).unwrap_or(now);
                Some(Previous { next, state: State::Signed(pem(root)?.into(), *at), until, ends })
            }
            _ => None,
        })
    }

    /// What is going on, in words.
    pub(super) fn explanation(&self, now: Timestamp) -> String {
        let root = |cert: &X509Ref| self.roots.iter().find(|root| same_key(&root.cert, cert));
        match self.step(now) {
            Step::Settled if self.current.not_after() <= now => {
                format!("the newest key material is in use, but has ended at {}", self.current.not_after())
            }
            Step::Settled => "the newest key material is in use".into(),
            Step::Stage if self.given.not_after() <= now => format!(
                "the new issuer has ended at {} before it could sign; the old one goes on until {}",
                self.given.not_after(),
                self.current.not_after()
            ),
            Step::Stage => {
                let at = root(self.given.root()).map_or(now, |root| root.trusted);
                format!(
                    "the root of the new issuer is told to everybody; the old issuer signs until {at}, when each \
                     certificate in use came with the new root"
                )
            }
            Step::Sign => {
                let ends = self.roots.iter().filter(|root| !same_key(&root.cert, self.current.root()));
                let end = ends.filter(|root| root.signed).filter_map(|root| root.needed).max().unwrap_or(now);
                format!(
                    "the new issuer signs; certificates of the old root may be in use until {end}, so it is still told"
                )
            }
            Step::Retire => "nothing is left of an old root, and it can go from the root bundle".into(),
        }
    }

    /// All roots that are told.
    pub(super) fn roots(&self, now: Timestamp) -> Vec<RootReport> {
        let report = |root: &Root| RootReport {
            subject: subject(&root.cert),
            fingerprint: fingerprint(&root.cert),
            expires: timestamp(root.cert.not_after()).ok(),
            signs: same_key(&root.cert, self.current.root()),
            given: has(self.given.roots(), &root.cert),
            told_since: root.published,
            trusted_by_all: root.trusted <= now,
            trusted_by_all_at: Some(root.trusted).filter(|at| *at > now),
            needed_until: root.needed.filter(|needed| *needed > now),
        };
        self.roots.iter().map(report).collect()
    }

    fn uses_given(&self) -> bool {
        self.current.same_files(&self.given)
    }

    fn is_trusted(&self, cert: &X509Ref, now: Timestamp) -> bool {
        self.roots.iter().any(|root| same_key(&root.cert, cert) && root.trusted <= now)
    }

    fn position(&self, cert: &X509Ref) -> Option<usize> {
        self.roots.iter().position(|root| same_key(&root.cert, cert))
    }
}

pub(super) fn has(roots: &[X509], cert: &X509Ref) -> bool {
    roots.iter().any(|root| same_key(root, cert))
}

/// A renewed root has another certificate but the same name and key, which is
/// all that a peer's verification depends on.
pub(super) fn same_key(a: &X509Ref, b: &X509Ref) -> bool {
    let names = matches!(a.subject_name().try_cmp(b.subject_name()), Ok(Ordering::Equal));
    names && matches!((a.public_key(), b.public_key()), (Ok(a), Ok(b)) if a.public_eq(&b))
}

/// Tells roots apart by what makes them equal to a peer.
pub(super) fn root_id(cert: &X509Ref) -> Result<String, ErrorStack> {
    let parts = [cert.subject_name().to_der()?, cert.public_key()?.public_key_to_der()?].concat();
    Ok(openssl::sha::sha256(&parts).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn same_certificates(a: &[X509], b: &[X509]) -> bool {
    let same = |(a, b): (&X509, &X509)| matches!((a.to_der(), b.to_der()), (Ok(a), Ok(b)) if a == b);
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// A certificate's name, for people.
pub(super) fn subject(cert: &X509Ref) -> String {
    let part = |entry: &openssl::x509::X509NameEntryRef| {
        let key = entry.object().nid().short_name().unwrap_or("?").to_owned();
        let value = entry.data().to_string().unwrap_or_default();
        format!("{key}={value}")
    };
    cert.subject_name().entries().map(part).collect::<Vec<_>>().join(", ")
}

/// SHA-256, as tools print it.
pub(super) fn fingerprint(cert: &X509Ref) -> String {
    let digest = cert.digest(openssl::hash::MessageDigest::sha256());
    digest.map(|digest| digest.iter().map(|byte| format!("{byte:02x}")).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
