//! Rows by a key of their own choosing, kept from the list of changes.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;

use rapidhash::{RapidHashMap, RapidHashSet};

use super::table::{RowChange, read_hash};
use super::{Key, Value};

/// An index of a table of `K → V`, its own key type erased.
pub(super) trait AnyIndex<K, V>: Send {
    fn apply(&mut self, node: u32, slot: u32, changes: &[RowChange<K, V>], touched: &mut Vec<u64>);
    fn settle(&mut self);
    fn as_any(&self) -> &dyn Any;
}

type Keys<G, K, V> = Box<dyn Fn(&K, &V, &mut Vec<G>) + Send>;

pub(super) struct IndexTable<G, K, V> {
    keys: Keys<G, K, V>,
    rows: RapidHashMap<G, Members<K>>,
    /// Index keys whose rows this commit changed.
    changed: RapidHashSet<G>,
}

/// Most index keys have one row; a set for each would cost more than the rows.
enum Members<K> {
    One(K),
    Many(BTreeSet<K>),
}

impl<G: Key, K: Key, V: Value> IndexTable<G, K, V> {
    pub(super) fn new(keys: impl Fn(&K, &V, &mut Vec<G>) + Send + 'static) -> Self {
        Self { keys: Box::new(keys), rows: RapidHashMap::default(), changed: RapidHashSet::default() }
    }

    /// The keys of the rows found by `key`, in order.
    pub(super) fn get<'a>(&'a self, key: &G) -> impl Iterator<Item = &'a K> + use<'a, G, K, V> {
        let (one, many) = match self.rows.get(key) {
            None => (None, None),
            Some(Members::One(key)) => (Some(key), None),
            Some(Members::Many(keys)) => (None, Some(keys)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    pub(super) fn contains(&self, key: &G) -> bool {
        self.rows.contains_key(key)
    }

    pub(super) fn changed(&self) -> impl Iterator<Item = &G> {
        self.changed.iter()
    }

    fn insert(&mut self, group: G, key: &K) {
        match self.rows.get_mut(&group) {
            None => {
                self.rows.insert(group, Members::One(key.clone()));
            }
            Some(Members::Many(keys)) => {
                keys.insert(key.clone());
            }
            Some(Members::One(other)) if other == key => {}
            Some(members @ Members::One(_)) => {
                let old = std::mem::replace(members, Members::Many(BTreeSet::new()));
                if let (Members::One(other), Members::Many(keys)) = (old, members) {
                    keys.extend([other, key.clone()]);
                }
            }
        }
    }

    fn remove(&mut self, group: &G, key: &K) {
        let empty = match self.rows.get_mut(group) {
            Some(Members::One(other)) => other == key,
            Some(Members::Many(keys)) => {
                keys.remove(key);
                keys.is_empty()
            }
            None => false,
        };
        if empty {
            self.rows.remove(group);
        }
    }
}

impl<G: Key, K: Key, V: Value> AnyIndex<K, V> for IndexTable<G, K, V> {
    fn apply(&mut self, node: u32, slot: u32, changes: &[RowChange<K, V>], touched: &mut Vec<u64>) {
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for change in changes {
            old.clear();
            new.clear();
            if let Some(value) = &change.old {
                (self.keys)(&change.key, value, &mut old);
            }
            if let Some(value) = &change.new {
                (self.keys)(&change.key, value, &mut new);
            }
            for group in old.iter().filter(|group| !new.contains(group)) {
                self.remove(group, &change.key);
            }
            for group in &new {
                if !old.contains(group) {
                    self.insert(group.clone(), &change.key);
                }
            }
            self.changed.extend(old.drain(..).chain(new.drain(..)));
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
    fn apply(&mut self, _: u32, _: u32, changes: &[RowChange<K, V>], _: &mut Vec<u64>) {
        for change in changes {
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
