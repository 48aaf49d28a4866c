//! Rows by a key of their own choosing, kept from the list of changes.

use std::any::Any;
use std::sync::Arc;

use rapidhash::{RapidHashMap, RapidHashSet};

use super::slots::Slots;
use super::table::{RowChange, read_hash};
use super::{Key, Value};

/// What a commit did to the rows of a table.
pub(super) struct Changed<'a, K, V> {
    /// The rows as they are now.
    pub(super) rows: &'a Slots<K, Arc<V>>,
    /// Those that are not what they were.
    pub(super) changes: &'a [RowChange<K, V>],
    /// Those that are what they were, at another number.
    pub(super) moved: &'a [RowChange<K, V>],
}

/// An index of a table of `K → V`, its own key type erased.
pub(super) trait AnyIndex<K, V>: Send {
    fn apply(&mut self, node: u32, slot: u32, changed: &Changed<'_, K, V>, touched: &mut Vec<u64>);
    fn settle(&mut self);
    fn as_any(&self) -> &dyn Any;
}

type Keys<G, K, V> = Box<dyn Fn(&K, &V, &mut Vec<G>) + Send>;

pub(super) struct IndexTable<G, K, V> {
    keys: Keys<G, K, V>,
    rows: RapidHashMap<G, Members>,
    /// Index keys whose rows this commit changed.
    changed: RapidHashSet<G>,
}

/// The numbers of rows, in the order of their keys: four bytes for a row, where
/// a key would be many. Most index keys have one row, which needs no list.
enum Members {
    One(u32),
    Many(Vec<u32>),
}

/// So many rows are put where they belong one by one. More of them are sorted
/// with the others.
const FEW: usize = 8;

impl<G: Key, K: Key, V: Value> IndexTable<G, K, V> {
    pub(super) fn new(keys: impl Fn(&K, &V, &mut Vec<G>) + Send + 'static) -> Self {
        Self { keys: Box::new(keys), rows: RapidHashMap::default(), changed: RapidHashSet::default() }
    }

    /// The numbers of the rows found by `key`, in the order of the rows' keys.
    pub(super) fn get(&self, key: &G) -> &[u32] {
        match self.rows.get(key) {
            None => &[],
            Some(Members::One(number)) => std::slice::from_ref(number),
            Some(Members::Many(numbers)) => numbers,
        }
    }

    pub(super) fn contains(&self, key: &G) -> bool {
        self.rows.contains_key(key)
    }

    pub(super) fn changed(&self) -> impl Iterator<Item = &G> {
        self.changed.iter()
    }

    fn insert(&mut self, group: G, new: &[u32], rows: &Slots<K, Arc<V>>) {
        let mut numbers = match self.rows.remove(&group) {
            None => Vec::new(),
            Some(Members::One(number)) => vec![number],
            Some(Members::Many(numbers)) => numbers,
        };
        if new.len() <= FEW {
            for &number in new {
                let key = rows.key(number);
                if let Err(at) = numbers.binary_search_by(|other| rows.key(*other).cmp(&key)) {
                    numbers.insert(at, number);
                }
            }
        } else {
            numbers.extend(new);
            numbers.sort_by(|a, b| rows.key(*a).cmp(&rows.key(*b)));
            numbers.dedup();
        }
        let members = if let [one] = numbers[..] { Members::One(one) } else { Members::Many(numbers) };
        self.rows.insert(group, members);
    }

    fn remove(&mut self, group: &G, gone: &RapidHashSet<u32>) {
        let empty = match self.rows.get_mut(group) {
            Some(Members::One(number)) => gone.contains(number),
            Some(Members::Many(numbers)) => {
                numbers.retain(|number| !gone.contains(number));
                numbers.is_empty()
            }
            None => false,
        };
        if empty {
            self.rows.remove(group);
        }
    }
}

impl<G: Key, K: Key, V: Value> AnyIndex<K, V> for IndexTable<G, K, V> {
    fn apply(&mut self, node: u32, slot: u32, changed: &Changed<'_, K, V>, touched: &mut Vec<u64>) {
        let mut gone = RapidHashMap::<G, RapidHashSet<u32>>::default();
        let mut added = RapidHashMap::<G, Vec<u32>>::default();
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let changes = changed.changes.iter().map(|change| (change, true));
        for (change, differs) in changes.chain(changed.moved.iter().map(|moved| (moved, false))) {
            if let Some(value) = &change.old {
                (self.keys)(&change.key, value, &mut old);
            }
            if let Some(value) = &change.new {
                (self.keys)(&change.key, value, &mut new);
            }
            let (from, to) = change.numbers;
            let moved = from != to;
            if let Some(number) = from {
                for group in old.iter().filter(|group| moved || !new.contains(group)) {
                    gone.entry(group.clone()).or_default().insert(number);
                }
            }
            if let Some(number) = to {
                for group in new.iter().filter(|group| moved || !old.contains(group)) {
                    added.entry(group.clone()).or_default().push(number);
                }
            }
            if differs {
                self.changed.extend(old.drain(..).chain(new.drain(..)));
            }
            old.clear();
            new.clear();
        }
        // First, because a number that is free may be another row's already.
        for (group, numbers) in &gone {
            self.remove(group, numbers);
        }
        for (group, numbers) in added {
            self.insert(group, &numbers, changed.rows);
        }
        touched.extend(self.changed.iter().map(|group| read_hash(node, slot, group)));
    }

    fn settle(&mut self) {
        self.changed.clear();
        self.changed.shrink_to(4096);
    }

    fn as_any(&self) -> &dyn Any
    where
        Self: 'static,
    {
        self
    }
}

type OneKey<G, K, V> = Box<dyn Fn(&K, &V) -> Option<G> + Send>;

/// How many rows have each key: an index for those who only ask whether there
/// are any, at four bytes for a key and none for a row.
pub(super) struct Counts<G, K, V> {
    key: OneKey<G, K, V>,
    counts: RapidHashMap<G, u32>,
    /// Keys that this commit has added or taken away, perhaps only for a while.
    changed: RapidHashSet<G>,
}

impl<G: Key, K: Key, V: Value> Counts<G, K, V> {
    pub(super) fn new(key: impl Fn(&K, &V) -> Option<G> + Send + 'static) -> Self {
        Self { key: Box::new(key), counts: RapidHashMap::default(), changed: RapidHashSet::default() }
    }

    pub(super) fn contains(&self, key: &G) -> bool {
        self.counts.contains_key(key)
    }

    pub(super) fn changed(&self) -> impl Iterator<Item = &G> {
        self.changed.iter()
    }
}

impl<G: Key, K: Key, V: Value> AnyIndex<K, V> for Counts<G, K, V> {
    fn apply(&mut self, _: u32, _: u32, changed: &Changed<'_, K, V>, _: &mut Vec<u64>) {
        for change in changed.changes {
            let key = |row: &Option<Arc<V>>| row.as_ref().and_then(|row| (self.key)(&change.key, row));
            let (old, new) = (key(&change.old), key(&change.new));
            if old == new {
                continue;
            }
            if let Some(new) = new {
                let count = self.counts.entry(new.clone()).or_insert(0);
                *count += 1;
                if *count == 1 {
                    self.changed.insert(new);
                }
            }
            if let Some(old) = old
                && let Some(count) = self.counts.get_mut(&old)
            {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&old);
                    self.changed.insert(old);
                }
            }
        }
    }

    fn settle(&mut self) {
        self.changed.clear();
        self.changed.shrink_to(4096);
    }

    fn as_any(&self) -> &dyn Any
    where
        Self: 'static,
    {
        self
    }
}
