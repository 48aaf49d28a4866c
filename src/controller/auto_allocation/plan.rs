//! Who gets which address: a function of what all entries want and have. It is
//! worked out step by step, as a change costs what it changes.
//!
//! What is in a status stays, whoever wrote it, unless somebody has the address
//! who comes first: a user who chose it, or else the older entry. What is
//! missing is taken at a place that depends on names alone, so that an entry
//! that is made again gets what it had, if nobody else has it now.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::api::ObjectKey;
use crate::api::istio::AllocatedAddress;
use crate::model::auto_allocation::{Entry, Pools};

use super::range::Range;

/// Who has an address, who comes first being less: whether it is in a status,
/// not chosen by a user; the age of the entry and its name; the number of the
/// host.
type Claim = (bool, u32, ObjectKey, usize);

/// What an address is used for.
#[derive(Default)]
struct Use {
    /// What objects say.
    claims: BTreeSet<Claim>,
    /// The entry that is to get it.
    promised: Option<ObjectKey>,
}

struct Held {
    entry: Arc<Entry>,
    /// What its status should say.
    wanted: Vec<AllocatedAddress>,
    /// What of that it does not say yet.
    promised: Vec<(Arc<str>, IpAddr)>,
}

/// Who has which address, and who is to get which.
pub struct Plan {
    ranges: [Range; 2],
    held: BTreeMap<ObjectKey, Held>,
    uses: HashMap<IpAddr, Use>,
    /// The entries for which there were not enough addresses.
    unserved: BTreeSet<ObjectKey>,
}

impl Plan {
    /// Nobody has any.
    pub fn new(pools: &Pools) -> Self {
        Self { ranges: Range::of(pools), held: BTreeMap::new(), uses: HashMap::new(), unserved: BTreeSet::new() }
    }

    /// What is planned for an entry: what it was when that was planned, and what
    /// its status should say. Nothing if it says that, or is gone.
    pub fn due(&self, key: &ObjectKey) -> Option<(Arc<Entry>, Vec<AllocatedAddress>)> {
        let held = self.held.get(key)?;
        (!same(&held.entry.allocated, &held.wanted)).then(|| (held.entry.clone(), held.wanted.clone()))
    }

    /// The entries for which there are not enough addresses.
    pub fn unserved(&self) -> &BTreeSet<ObjectKey> {
        &self.unserved
    }

    /// Takes entries that are new, changed or gone. Returns those for which
    /// something else may be planned than before.
    pub fn update(
        &mut self,
        changes: impl IntoIterator<Item = (ObjectKey, Option<Arc<Entry>>)>,
    ) -> BTreeSet<ObjectKey> {
        let mut touched = BTreeSet::new();
        let mut given_up = Vec::new();
        for (key, entry) in changes {
            let old = self.held.remove(&key);
            let (mut promised, mut wanted) = (Vec::new(), Vec::new());
            if let Some(old) = old {
                for (address, claim) in claims(&key, &old.entry) {
                    self.change(address, |used| _ = used.claims.remove(&claim), &mut touched);
                    given_up.push(address);
                }
                (promised, wanted) = (old.promised, old.wanted);
            }
            match entry {
                Some(entry) => {
                    for (address, claim) in claims(&key, &entry) {
                        self.change(address, |used| _ = used.claims.insert(claim), &mut touched);
                    }
                    self.held.insert(key.clone(), Held { entry, wanted, promised });
                }
                None => {
                    self.unserved.remove(&key);
                    for (_, address) in promised {
                        self.change(address, |used| used.promised = None, &mut touched);
                        given_up.push(address);
                    }
                }
            }
            touched.insert(key);
        }
        let oldest_first = |plan: &Self, keys: &BTreeSet<ObjectKey>| {
            let keys = keys.iter().filter_map(|key| Some((plan.held.get(key)?.entry.created, key.clone())));
            keys.collect::<BTreeSet<_>>()
        };
        let mut freed = given_up.iter().any(|address| !self.uses.contains_key(address));
        for (_, key) in oldest_first(self, &touched) {
            freed |= self.assign(&key);
        }
        if freed && !self.unserved.is_empty() {
            let waiting = self.unserved.clone();
            for (_, key) in oldest_first(self, &waiting) {
                self.assign(&key);
            }
            touched.extend(waiting);
        }
        touched
    }

    /// Changes what an address is used for, and notes whom that concerns.
    fn change(&mut self, address: IpAddr, change: impl FnOnce(&mut Use), concerned: &mut BTreeSet<ObjectKey>) {
        let used = self.uses.entry(address).or_insert_with(|| {
            self.ranges.iter_mut().for_each(|range| range.take(address));
            Use::default()
        });
        change(used);
        concerned.extend(used.claims.iter().map(|(_, _, key, _)| key.clone()));
        concerned.extend(used.promised.clone());
        if used.claims.is_empty() && used.promised.is_none() {
            self.uses.remove(&address);
            self.ranges.iter_mut().for_each(|range| range.free(address));
        }
    }

    /// Works out what an entry is to have. Returns whether an address became
    /// free.
    fn assign(&mut self, key: &ObjectKey) -> bool {
        let Some(held) = self.held.get_mut(key) else { return false };
        let (entry, before) = (held.entry.clone(), std::mem::take(&mut held.promised));
        let (mut wanted, mut promised) = (Vec::new(), Vec::<(Arc<str>, IpAddr)>::new());
        let mut missing = false;
        let mut nobody = BTreeSet::new();
        for (_, address) in &before {
            self.change(*address, |used| used.promised = None, &mut nobody);
        }
        for (at, host) in entry.hosts.iter().enumerate() {
            let (mut has, mut seen) = ([false; 2], BTreeSet::new());
            for allocated in entry.allocated.iter().filter(|one| one.host == *host) {
                let Some(address) = parse(&allocated.value) else { continue };
                let claim = (true, entry.created, key.clone(), at);
                let first = self.uses.get(&address).and_then(|used| used.claims.first());
                if first != Some(&claim) || !seen.insert(address) {
                    continue;
                }
                wanted.push(allocated.clone());
                for (has, range) in has.iter_mut().zip(&self.ranges) {
                    *has |= range.is_of(address);
                }
            }
            for (has, range) in has.into_iter().zip(&mut self.ranges) {
                if has {
                    continue;
                }
                let is_free = |address: &IpAddr| !self.uses.contains_key(address);
                let known = before.iter().find(|(of, address)| of == host && range.is_of(*address) && is_free(address));
                let address = match known {
                    Some((_, address)) => Some(*address),
                    None => range.next(|| place(key, host), is_free),
                };
                let Some(address) = address else {
                    missing = true;
                    continue;
                };
                range.take(address);
                self.uses.insert(address, Use { claims: BTreeSet::new(), promised: Some(key.clone()) });
                wanted.push(AllocatedAddress { value: address.to_string().into(), host: host.clone() });
                promised.push((host.clone(), address));
            }
        }
        match missing {
            true => _ = self.unserved.insert(key.clone()),
            false => _ = self.unserved.remove(key),
        }
        let freed = before.iter().any(|(_, address)| !self.uses.contains_key(address));
        if let Some(held) = self.held.get_mut(key) {
            (held.wanted, held.promised) = (wanted, promised);
        }
        freed
    }
}

/// The addresses that an entry has: its user's, and those of hosts that want
/// some.
fn claims(key: &ObjectKey, entry: &Entry) -> Vec<(IpAddr, Claim)> {
    let chosen = entry.chosen.iter().map(|address| (*address, (false, entry.created, key.clone(), 0)));
    let allocated = entry.allocated.iter().filter_map(|one| {
        let at = entry.hosts.iter().position(|host| *host == one.host)?;
        Some((parse(&one.value)?, (true, entry.created, key.clone(), at)))
    });
    chosen.chain(allocated).collect()
}

fn parse(value: &str) -> Option<IpAddr> {
    value.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Where an address for a host is looked for first.
fn place(key: &ObjectKey, host: &str) -> u128 {
    let digest = openssl::sha::sha256(format!("{}/{}/{host}", key.namespace, key.name).as_bytes());
    digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Whether two lists say the same, in whatever order.
pub(super) fn same(one: &[AllocatedAddress], other: &[AllocatedAddress]) -> bool {
    let sorted = |list: &[AllocatedAddress]| {
        let mut list: Vec<_> = list.iter().map(|one| (one.host.clone(), one.value.clone())).collect();
        list.sort();
        list
    };
    one.len() == other.len() && sorted(one) == sorted(other)
}
