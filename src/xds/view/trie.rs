//! A persistent sequence of leaves by the leading bits of a hash.
//!
//! Two levels of shared arrays, so that replacing one leaf copies two short
//! ones, whatever the number of leaves. Hashes spread evenly, which is all the
//! balancing there is: the number of leaves is a power of two that follows the
//! number of items.

use std::ops::Range;
use std::sync::Arc;

/// How many bits of a leaf's number are its place on a page.
const PAGE_BITS: u32 = 6;

type Page<L> = Arc<[Arc<L>]>;

/// Leaves by the leading `bits` bits of a hash; none at all if empty.
#[derive(Debug)]
pub(super) struct Trie<L> {
    pages: Arc<[Page<L>]>,
    bits: u32,
}

impl<L> Clone for Trie<L> {
    fn clone(&self) -> Self {
        Self { pages: self.pages.clone(), bits: self.bits }
    }
}

impl<L> Default for Trie<L> {
    fn default() -> Self {
        Self { pages: Arc::default(), bits: 0 }
    }
}

impl<L> Trie<L> {
    /// A trie of exactly 2^`bits` leaves, in order.
    pub(super) fn new(bits: u32, leaves: Vec<Arc<L>>) -> Self {
        debug_assert_eq!(leaves.len(), 1 << bits);
        let pages = leaves.chunks(1 << PAGE_BITS).map(Arc::from).collect();
        Self { pages, bits }
    }

    /// The number of bits of a leaf's number.
    pub(super) fn bits(&self) -> u32 {
        self.bits
    }

    /// The number of the leaf for a hash, if there were 2^`bits` leaves.
    pub(super) fn place(bits: u32, hash: u64) -> usize {
        // A shift by 64 overflows.
        hash.checked_shr(64 - bits).unwrap_or(0) as usize
    }

    /// The leaf for a hash; `None` if there are none.
    pub(super) fn leaf(&self, hash: u64) -> Option<&L> {
        self.at(Self::place(self.bits, hash)).map(|leaf| &**leaf)
    }

    /// The leaf of a number.
    pub(super) fn at(&self, number: usize) -> Option<&Arc<L>> {
        self.pages.get(number >> PAGE_BITS)?.get(number & ((1 << PAGE_BITS) - 1))
    }

    /// How many leaves there are.
    pub(super) fn len(&self) -> usize {
        if self.pages.is_empty() { 0 } else { 1 << self.bits }
    }

    /// All leaves, in the order of their hashes.
    pub(super) fn leaves(&self) -> impl Iterator<Item = &Arc<L>> {
        self.pages.iter().flat_map(|page| page.iter())
    }

    /// Replaces leaves; the numbers ascend.
    pub(super) fn replace(&mut self, leaves: Vec<(usize, L)>) {
        if leaves.is_empty() {
            return;
        }
        let mut leaves = leaves.into_iter().peekable();
        let pages = Arc::make_mut(&mut self.pages);
        while let Some((number, leaf)) = leaves.next() {
            let at = number >> PAGE_BITS;
            let page = Arc::make_mut(&mut pages[at]);
            page[number & ((1 << PAGE_BITS) - 1)] = Arc::new(leaf);
            while let Some((number, leaf)) = leaves.next_if(|(number, _)| number >> PAGE_BITS == at) {
                page[number & ((1 << PAGE_BITS) - 1)] = Arc::new(leaf);
            }
        }
    }

    /// Whether both are the same, found without looking at leaves.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pages, &other.pages) || (self.len() == 0 && other.len() == 0)
    }

    /// The leaves in which the two may differ, as ranges of numbers that stand
    /// for the same hashes.
    pub(super) fn differing(&self, other: &Self) -> Vec<(Range<usize>, Range<usize>)> {
        if self.same_as(other) {
            return Vec::new();
        }
        if self.bits != other.bits || self.len() != other.len() {
            return vec![(0..self.len(), 0..other.len())];
        }
        let mut ranges = Vec::new();
        for (page, (ours, theirs)) in self.pages.iter().zip(other.pages.iter()).enumerate() {
            if Arc::ptr_eq(ours, theirs) {
                continue;
            }
            for (at, (ours, theirs)) in ours.iter().zip(theirs.iter()).enumerate() {
                if !Arc::ptr_eq(ours, theirs) {
                    let number = page << PAGE_BITS | at;
                    ranges.push((number..number + 1, number..number + 1));
                }
            }
        }
        ranges
    }
}

/// The number of bits for so many items: between a quarter of `most` and `most`
/// to a leaf on average. `now` is kept as long as it fits, so that a number
/// that goes up and down does not rebuild everything each time.
pub(super) fn fitting(now: u32, items: usize, most: usize) -> u32 {
    let mut bits = now;
    while items > most << bits {
        bits += 1;
    }
    while bits > 0 && items < (most << bits) / 8 {
        bits -= 1;
    }
    bits
}
