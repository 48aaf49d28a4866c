//! What a file says, in few bytes for each object: the objects themselves are
//! the graph's, here is another handle to them.

use std::hash::BuildHasher;

use rapidhash::fast::GlobalState;

use crate::api::{Kind, Object, ObjectKey};

/// Stands for kind and key of an object. Two may have the same, rarely.
pub type KeyHash = u64;

/// The hash of a kind and a key.
pub fn key_hash(kind: Kind, key: &ObjectKey) -> KeyHash {
    GlobalState::new().hash_one((kind, &*key.namespace, &*key.name))
}

/// Objects, each there once.
#[derive(Clone, Default)]
pub struct Objects(Box<[(KeyHash, Object)]>);

impl Objects {
    /// What is said in this order: the last of two with one key counts.
    pub fn new(objects: Vec<Object>) -> Self {
        let hashed = |object: Object| (key_hash(object.kind(), &object.meta().key()), object);
        let mut objects: Vec<_> = objects.into_iter().map(hashed).collect();
        // Stable, and from behind, so that the last comes first among equals.
        objects.reverse();
        objects.sort_by(|(one, a), (other, b)| one.cmp(other).then_with(|| order(a).cmp(&order(b))));
        objects.dedup_by(|(one, a), (other, b)| one == other && order(a) == order(b));
        Self(objects.into())
    }

    /// The number of objects.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All objects, with the hashes of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &(KeyHash, Object)> {
        self.0.iter()
    }

    /// The object with a key.
    pub fn get(&self, kind: Kind, key: &ObjectKey) -> Option<&Object> {
        let hash = key_hash(kind, key);
        let from = self.0.partition_point(|(other, _)| *other < hash);
        let candidates = self.0[from..].iter().take_while(|(other, _)| *other == hash);
        candidates.map(|(_, object)| object).find(|object| order(object) == (kind, &*key.namespace, &*key.name))
    }
}

fn order(object: &Object) -> (Kind, &str, &str) {
    (object.kind(), &object.meta().namespace, &object.meta().name)
}
