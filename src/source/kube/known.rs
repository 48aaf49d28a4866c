//! What has been said of a kind: which objects there are, in which version.
//! The objects themselves are in the graph.
//!
//! Resource versions of a kind are numbers that only grow
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>),
//! also across the deletion of an object and its return. So one number decides
//! what a watch says that is news of an object, and one decides whether a list is.
//! What a list says that is news counts, whatever version it has: a backup may have
//! brought an old state back, at a version of the list that nobody has seen yet.

use rapidhash::RapidHashMap;

use crate::api::{Change, Kind, Meta, Object, ObjectKey};

/// The objects of a kind that were said to be there.
pub struct Known {
    kind: Kind,
    /// The newest version seen of anything; watches continue from here.
    pub newest: u64,
    objects: RapidHashMap<ObjectKey, Seen>,
    /// The number of the list that is being read, or was last.
    list: u32,
}

struct Seen {
    version: u64,
    /// The last list with the object.
    list: u32,
}

impl Known {
    /// Nothing is known.
    pub fn new(kind: Kind) -> Self {
        Self { kind, newest: 0, objects: RapidHashMap::default(), list: 0 }
    }

    /// Whether no objects are known.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether this would be news of an object. Versions that are not numbers
    /// (0) cannot be compared and always are.
    fn is_news(&self, key: &ObjectKey, version: u64) -> bool {
        version == 0 || self.objects.get(key).is_none_or(|seen| seen.version < version)
    }

    /// An object was created or changed.
    pub fn put(&mut self, object: Object) -> Option<Change> {
        let (key, version) = (object.meta().key(), object.meta().resource_version.0);
        self.newest = self.newest.max(version);
        self.is_news(&key, version).then(|| {
            self.objects.insert(key, Seen { version, list: self.list });
            Change::Put(object)
        })
    }

    /// An object was deleted; `meta` is its last state.
    pub fn delete(&mut self, meta: &Meta) -> Option<Change> {
        let (key, version) = (meta.key(), meta.resource_version.0);
        self.newest = self.newest.max(version);
        // The last state may have the version of the state before.
        let newer = self.objects.get(&key).is_some_and(|seen| version != 0 && seen.version > version);
        (!newer && self.objects.remove(&key).is_some()).then_some(Change::Delete(self.kind, key))
    }

    /// An object that is there cannot be read: its last good version stays.
    pub fn keep(&mut self, key: &ObjectKey) {
        if let Some(seen) = self.objects.get_mut(key) {
            seen.list = self.list;
        }
    }

    /// A list begins.
    pub fn begin(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// An object is in the list. Returns it if it is another state of it than that
    /// which is known.
    pub fn listed(&mut self, object: Object) -> Option<Change> {
        let (key, version) = (object.meta().key(), object.meta().resource_version.0);
        self.keep(&key);
        let same = version != 0 && self.objects.get(&key).is_some_and(|seen| seen.version == version);
        (!same).then_some(Change::Put(object))
    }

    /// How many of the objects that are known are not in the list, if it would
    /// leave less than a tenth of what there was, whatever is new in it.
    pub fn lost(&self, news: &[Change]) -> Option<usize> {
        let missing = self.objects.values().filter(|seen| seen.list != self.list).count();
        let new = news.iter().filter(|change| match change {
            Change::Put(object) => !self.objects.contains_key(&object.meta().key()),
            Change::Delete(..) | Change::Reset(..) | Change::Unreadable(..) => false,
        });
        (missing * 10 > (self.objects.len() + new.count()) * 9).then_some(missing)
    }

    /// How many objects are known.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// The list is complete, at a version, and `news` is what was new in it.
    /// Returns the difference to what was known. `keep_all`: the list has
    /// objects without a name, which may be any of those it lacks.
    pub fn finish(&mut self, news: Vec<Change>, version: u64, keep_all: bool) -> Vec<Change> {
        let (kind, list) = (self.kind, self.list);
        let mut changes = Vec::new();
        if !keep_all {
            let gone = self.objects.extract_if(|_, seen| seen.list != list);
            changes.extend(gone.map(|(key, _)| Change::Delete(kind, key)));
        }
        for change in &news {
            match change {
                Change::Put(object) => {
                    let version = object.meta().resource_version.0;
                    self.objects.insert(object.meta().key(), Seen { version, list });
                }
                Change::Delete(_, key) => drop(self.objects.remove(key)),
                Change::Reset(..) | Change::Unreadable(..) => {}
            }
        }
        self.newest = version;
        changes.extend(news);
        changes
    }

    /// Versions begin again: the cluster was restored or rebuilt. Which
    /// objects there are stays known, so that the next list can be compared.
    pub fn forget_versions(&mut self) {
        self.newest = 0;
        self.objects.values_mut().for_each(|seen| seen.version = 0);
    }
}
