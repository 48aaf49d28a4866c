//! Which resources a key leads to: pairs of hashes, of the key and of the
//! resource's name. Whoever follows one looks at the resource to be sure, so a
//! collision costs a look and nothing else, and the first half of a hash will
//! do: of a million names a hundred share theirs with another.

use std::ops::RangeInclusive;
use std::sync::Arc;

use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

use super::trie::{Trie, fitting};
use crate::xds::resource::Relation;

/// How many pairs are in a leaf at most, on average.
const MOST: usize = 256;

/// Of the hash of a key and the hash of a name, the first 32 bits of each.
pub(super) type Pair = (u32, u32);

/// Pairs by key, then by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pairs: Trie<Box<[Pair]>>,
    len: usize,
}

/// The hash of a key.
pub(super) fn key_hash(relation: Relation, key: &str) -> u64 {
    static SECRETS: [RapidSecrets; 3] = [RapidSecrets::seed(1), RapidSecrets::seed(2), RapidSecrets::seed(3)];
    rapidhash_v3_seeded(key.as_bytes(), &SECRETS[relation as usize])
}

/// The pair of two hashes.
pub(super) fn pair(key: u64, name: u64) -> Pair {
    ((key >> 32) as u32, (name >> 32) as u32)
}

/// The hashes that begin with such a half.
fn beginning(half: u32) -> RangeInclusive<u64> {
    let first = u64::from(half) << 32;
    first..=first | u64::from(u32::MAX)
}

fn place(bits: u32, pair: &Pair) -> usize {
    Trie::<Box<[Pair]>>::place(bits, *beginning(pair.0).start())
}

impl Index {
    /// Ranges of hashes that the names have which a key leads to.
    pub(super) fn names(&self, key: u64) -> impl Iterator<Item = RangeInclusive<u64>> {
        let leaf = self.pairs.leaf(key).map_or(&[] as &[Pair], |leaf| leaf);
        let (key, _) = pair(key, 0);
        let from = leaf.partition_point(|pair| pair.0 < key);
        leaf[from..].iter().take_while(move |pair| pair.0 == key).map(|pair| beginning(pair.1))
    }

    /// Adds and takes away pairs. A pair may be there several times, as names
    /// that collide share it.
    pub(super) fn apply(&mut self, mut gone: Vec<Pair>, mut new: Vec<Pair>) {
        gone.sort_unstable();
        new.sort_unstable();
        // Most of what a resource led to it still leads to.
        cancel(&mut gone, &mut new);
        if gone.is_empty() && new.is_empty() {
            return;
        }
        let len = self.len + new.len() - gone.len();
        let bits = fitting(self.pairs.bits(), len, MOST);
        if bits != self.pairs.bits() || self.pairs.len() == 0 {
            let all = self.pairs.leaves().flat_map(|leaf| leaf.iter().copied());
            let all = merged(all, &gone, &new);
            let mut rest = &all[..];
            let leaves = (0..1usize << bits).map(|number| {
                let here = rest.partition_point(|pair| place(bits, pair) <= number);
                let (leaf, tail) = rest.split_at(here);
                rest = tail;
                Arc::new(leaf.into())
            });
            self.pairs = Trie::new(bits, leaves.collect());
        } else {
            let place = |pair: &Pair| place(bits, pair);
            let (mut gone, mut new) = (&gone[..], &new[..]);
            let mut leaves = Vec::new();
            while let Some(number) = gone.first().into_iter().chain(new.first()).map(place).min() {
                let (gone_here, gone_rest) = gone.split_at(gone.partition_point(|pair| place(pair) <= number));
                let (new_here, new_rest) = new.split_at(new.partition_point(|pair| place(pair) <= number));
                (gone, new) = (gone_rest, new_rest);
                let old = self.pairs.at(number).into_iter().flat_map(|leaf| leaf.iter().copied());
                leaves.push((number, merged(old, gone_here, new_here).into()));
            }
            self.pairs.replace(leaves);
        }
        self.len = len;
    }
}

/// Takes what two sorted lists have in common out of both.
fn cancel(a: &mut Vec<Pair>, b: &mut Vec<Pair>) {
    let (mut only_a, mut only_b) = (Vec::new(), Vec::new());
    let (mut ours, mut theirs) = (a.drain(..).peekable(), b.drain(..).peekable());
    loop {
        match (ours.peek(), theirs.peek()) {
            (Some(x), Some(y)) if x == y => _ = (ours.next(), theirs.next()),
            (Some(x), Some(y)) if x < y => only_a.extend(ours.next()),
            (_, Some(_)) => only_b.extend(theirs.next()),
            (Some(_), None) => only_a.extend(ours.next()),
            (None, None) => break,
        }
    }
    drop((ours, theirs));
    (*a, *b) = (only_a, only_b);
}

/// A sorted list without some pairs and with others.
fn merged(old: impl Iterator<Item = Pair>, gone: &[Pair], new: &[Pair]) -> Vec<Pair> {
    let (mut gone, mut new) = (gone.iter().copied().peekable(), new.iter().copied().peekable());
    let mut all = Vec::with_capacity(old.size_hint().0 + new.len());
    for pair in old {
        if gone.next_if_eq(&pair).is_some() {
            continue;
        }
        while let Some(before) = new.next_if(|new| *new < pair) {
            all.push(before);
        }
        all.push(pair);
    }
    all.extend(new);
    all
}
