//! Who holds certificates of which issuer, as far as this process has issued
//! them: what somebody who changes the issuer wants to know.
//!
//! One entry is 12 bytes for each certificate in use, and some 150 for each
//! identity. Nothing but pages and metrics depends on it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::bundle::CaBundle;
use super::handover::{fingerprint, subject};
use super::identity::SpiffeId;

/// How many workloads a page names for each issuer.
const SHOWN: usize = 500;
/// More issuers than this are not told apart.
const MAX_ISSUERS: u16 = 1000;

/// Certificates in use.
#[derive(Debug, Default)]
pub struct Holders {
    // Held for one look-up, by the few threads that sign.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    issuers: BTreeMap<u16, Issuer>,
    held: BTreeMap<SpiffeId, Vec<Held>>,
    /// When the last of all ends.
    last_end: Timestamp,
}

#[derive(Debug)]
struct Issuer {
    fingerprint: String,
    subject: String,
}

/// A certificate.
#[derive(Debug)]
struct Held {
    /// Tells who has it from others with the same identity.
    holder: u32,
    /// When it ends, in seconds of Unix time.
    ends: u32,
    issuer: u16,
}

/// What is shown of an issuer.
#[derive(Debug, Serialize)]
pub struct IssuerReport {
    subject: String,
    fingerprint: String,
    /// Whether it is the one that signs.
    pub signs: bool,
    /// How many of its certificates are in use.
    pub certificates: usize,
    /// When the last of them ends.
    last_ends: Option<Timestamp>,
    /// Whose they are, unless it is the one that signs.
    workloads: Vec<String>,
    /// How many more there are.
    more_workloads: usize,
}

impl Holders {
    /// A certificate was issued. Whoever held one for the same identity holds
    /// this one now.
    pub fn issued(&self, bundle: &CaBundle, identity: &SpiffeId, holder: u32, ends: Timestamp) {
        let mut table = self.lock();
        table.last_end = table.last_end.max(ends);
        let issuer = table.issuer(bundle);
        let held = Held { holder, ends: seconds(ends), issuer };
        let Some(all) = table.held.get_mut(identity) else {
            table.held.insert(identity.clone(), vec![held]);
            return;
        };
        match all.iter_mut().find(|one| one.holder == holder) {
            Some(one) => *one = held,
            None => all.push(held),
        }
    }

    /// When the last certificate ends that was issued.
    pub fn last_end(&self) -> Timestamp {
        self.lock().last_end
    }

    /// Forgets certificates that have ended.
    pub fn sweep(&self, now: Timestamp) {
        let (mut table, now) = (self.lock(), seconds(now));
        table.held.retain(|_, all| {
            all.retain(|one| one.ends > now);
            !all.is_empty()
        });
        let used: std::collections::BTreeSet<u16> = table.held.values().flatten().map(|one| one.issuer).collect();
        table.issuers.retain(|number, _| used.contains(number));
    }

    /// The issuers whose certificates are in use, the one that signs first.
    pub fn report(&self, bundle: &CaBundle, now: Timestamp) -> Vec<IssuerReport> {
        let (table, now, signs) = (self.lock(), seconds(now), fingerprint(bundle.certificate()));
        let report = |(number, issuer): (&u16, &Issuer)| {
            let signs = issuer.fingerprint == signs;
            let of_issuer = |one: &&Held| one.issuer == *number && one.ends > now;
            let (mut certificates, mut last, mut workloads, mut more) = (0, 0, Vec::new(), 0);
            for (identity, all) in &table.held {
                let ends = all.iter().filter(of_issuer).map(|one| one.ends);
                let (count, end) = ends.fold((0, 0), |(count, end), ends| (count + 1, ends.max(end)));
                certificates += count;
                last = last.max(end);
                match () {
                    () if count == 0 || signs => {}
                    () if workloads.len() < SHOWN => workloads.push(identity.to_string()),
                    () => more += 1,
                }
            }
            IssuerReport {
                subject: issuer.subject.clone(),
                fingerprint: issuer.fingerprint.clone(),
                signs,
                certificates,
                last_ends: Timestamp::from_second(last.into()).ok().filter(|_| certificates > 0),
                workloads,
                more_workloads: more,
            }
        };
        let mut issuers: Vec<_> = table.issuers.iter().map(report).collect();
        issuers.sort_by_key(|issuer| !issuer.signs);
        issuers
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The number of the issuer of a bundle.
    fn issuer(&mut self, bundle: &CaBundle) -> u16 {
        let known = self.issuers.iter().find(|(_, issuer)| issuer.fingerprint == bundle.issuer_fingerprint());
        if let Some((number, _)) = known {
            return *number;
        }
        let number = (0..MAX_ISSUERS).find(|number| !self.issuers.contains_key(number)).unwrap_or(MAX_ISSUERS);
        let issuer =
            Issuer { fingerprint: bundle.issuer_fingerprint().to_owned(), subject: subject(bundle.certificate()) };
        self.issuers.insert(number, issuer);
        number
    }
}

/// Until 2106; what ends later ends then.
fn seconds(time: Timestamp) -> u32 {
    u32::try_from(time.as_second().max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
