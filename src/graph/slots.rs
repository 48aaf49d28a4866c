//! Rows by key in one array, each at a place of its own for as long as it
//! lives. There is a row for each row of the world, so every byte counts: a
//! hash map of whole rows leaves up to half of its room unused, and here that
//! is four bytes for each row instead of fifty.

use std::hash::{BuildHasher, Hash};
use std::sync::LazyLock;

use hashbrown::HashTable;
use rapidhash::fast::SeedableState;

/// Rows `T` with keys `K`, found by key or by number.
pub(super) struct Slots<K, T> {
    rows: Vec<Option<(K, T)>>,
    free: Vec<u32>,
    /// Numbers of rows, by the hash of their keys.
    numbers: HashTable<u32>,
}

static HASHER: LazyLock<SeedableState<'static>> = LazyLock::new(SeedableState::random);

impl<K: Eq + Hash, T> Slots<K, T> {
    pub(super) fn new() -> Self {
        Self { rows: Vec::new(), free: Vec::new(), numbers: HashTable::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The number of the row with this key.
    pub(super) fn find(&self, key: &K) -> Option<u32> {
        self.numbers.find(HASHER.hash_one(key), |number| self.key(*number) == Some(key)).copied()
    }

    /// The row with this key.
    pub(super) fn get(&self, key: &K) -> Option<&T> {
        self.at(self.find(key)?)
    }

    /// The key of a row.
    pub(super) fn key(&self, number: u32) -> Option<&K> {
        self.row(number).map(|(key, _)| key)
    }

    /// The row of this number with its key.
    pub(super) fn row(&self, number: u32) -> Option<(&K, &T)> {
        self.rows.get(number as usize)?.as_ref().map(|(key, row)| (key, row))
    }

    /// The row of this number.
    pub(super) fn at(&self, number: u32) -> Option<&T> {
        self.row(number).map(|(_, row)| row)
    }

    /// The row of this number.
    pub(super) fn at_mut(&mut self, number: u32) -> Option<&mut T> {
        self.rows.get_mut(number as usize)?.as_mut().map(|(_, row)| row)
    }

    /// All rows, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &T)> {
        self.rows.iter().flatten().map(|(key, row)| (key, row))
    }

    /// Adds a row, whose key is not there yet, and returns its number.
    pub(super) fn insert(&mut self, key: K, row: T) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.rows.push(None);
            (self.rows.len() - 1) as u32
        });
        let hash = HASHER.hash_one(&key);
        self.rows[number as usize] = Some((key, row));
        let rows = &self.rows;
        let rehash = |number: &u32| rows[*number as usize].as_ref().map_or(0, |(key, _)| HASHER.hash_one(key));
        self.numbers.insert_unique(hash, number, rehash);
        number
    }

    /// Takes the row with this key away, and returns its number with it, which
    /// may be another's then.
    pub(super) fn remove(&mut self, key: &K) -> Option<(u32, T)> {
        let rows = &self.rows;
        let same = |number: &u32| rows[*number as usize].as_ref().is_some_and(|(other, _)| other == key);
        let (number, _) = self.numbers.find_entry(HASHER.hash_one(key), same).ok()?.remove();
        self.free.push(number);
        self.rows[number as usize].take().map(|(_, row)| (number, row))
    }

    /// Gives back what a cold start leaves: growing doubles, so nearly half of
    /// the room may be unused.
    pub(super) fn settle(&mut self) {
        if self.rows.capacity() > self.rows.len() + self.rows.len() / 4 + 1024 {
            self.rows.shrink_to(self.rows.len() + self.rows.len() / 16);
        }
    }
}
