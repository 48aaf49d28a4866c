//! A layer in the making.

use super::{Edits, Layer};
use crate::xds::resource::Resource;

/// Edits are made in portions of about so many bytes: each portion visits most
/// of a large layer, and until then a resource is held twice.
const PORTION: usize = 64 << 20;

/// A layer with edits that are yet to be made.
#[derive(Debug, Default)]
pub struct Draft {
    layer: Layer,
    edits: Edits,
    /// The bytes of the edits.
    size: usize,
    /// Whether subscribers could notice what was changed since `finish`.
    changed: bool,
}

impl Draft {
    /// Adds or replaces a resource.
    pub fn upsert(&mut self, resource: Resource) {
        let (frame, facts) = resource.parts();
        self.size += frame.len() + facts.len();
        self.edits.upsert(resource);
        if self.size > PORTION {
            self.apply();
        }
    }

    /// Removes the resource of a name.
    pub fn remove(&mut self, name: &str) {
        self.edits.remove(name);
    }

    /// The layer with all edits made, if it is another than the last time.
    pub fn finish(&mut self) -> Option<Layer> {
        self.apply();
        std::mem::take(&mut self.changed).then(|| self.layer.clone())
    }

    fn apply(&mut self) {
        self.size = 0;
        self.changed |= self.layer.apply(std::mem::take(&mut self.edits));
    }
}
