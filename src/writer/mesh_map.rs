//! Whether the mesh's ConfigMap could be read once. Later, one that breaks leaves
//! the last good one in force.

use crate::api::kinds::{DecodeError, Object};
use crate::api::{Change, Kind, ObjectKey};

/// What sources have said of the ConfigMap so far.
pub(super) struct MeshMap {
    key: ObjectKey,
    /// A version of it that can be read.
    readable: bool,
    /// Why its newest version cannot be.
    error: Option<DecodeError>,
}

impl MeshMap {
    /// Nothing has been said of it.
    pub(super) fn new(key: ObjectKey) -> Self {
        Self { key, readable: false, error: None }
    }

    /// Takes what is said of any object.
    pub(super) fn note(&mut self, change: &Change) {
        let is_it = |object: &Object| object.kind() == Kind::ConfigMap && object.meta().key() == self.key;
        match change {
            Change::Put(object) if is_it(object) => self.readable = true,
            Change::Delete(Kind::ConfigMap, key) if *key == self.key => self.readable = false,
            Change::Reset(Kind::ConfigMap, objects) => self.readable = objects.iter().any(is_it),
            Change::Unreadable(Kind::ConfigMap, key, error) if *key == self.key => self.error.clone_from(error),
            Change::Put(_) | Change::Delete(..) | Change::Reset(..) | Change::Unreadable(..) => {}
        }
    }

    /// Why it could never be read, if it is there.
    pub(super) fn unreadable(&self) -> Option<String> {
        let error = self.error.as_ref().filter(|_| !self.readable)?;
        Some(format!("ConfigMap {}: {error}", self.key))
    }
}
