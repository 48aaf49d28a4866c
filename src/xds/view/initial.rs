//! What a client holds from an earlier stream, compared with a layer while the
//! list is being read.
//!
//! A ztunnel that reconnects lists all it holds, in no order, and nearly all of
//! it is what the layer has. That is ticked off, a bit for each resource; of the
//! list itself nothing is kept but where it differs.

use std::str::Utf8Error;
use std::sync::Arc;

use super::{Edits, Layer, Views};
use crate::xds::resource::{Resource, ResourceType, Version, name_hash};

/// The hash of the name and the version of each resource of a layer, in its
/// order. They are together, where to look one up is to wait for memory once:
/// a thousand ztunnels ask for all of them after a restart.
#[derive(Debug)]
pub struct Prints(Box<[(u64, Version)]>);

impl Prints {
    /// Those of a layer.
    pub(super) fn of(layer: &Layer) -> Self {
        let chunks = layer.chunks.leaves();
        Self(chunks.flat_map(|chunk| (0..chunk.len()).map(|at| (chunk.hash(at), chunk.version(at)))).collect())
    }

    /// The number of the resource. Equal hashes of both name and content are
    /// one resource; to look at names would be to visit all frames.
    fn find(&self, hash: u64, version: Version) -> Option<usize> {
        // Hashes spread evenly, so each tells about where it is.
        let guess = ((u128::from(hash) * self.0.len() as u128) >> 64) as usize;
        let (before, after) = self.0.split_at(guess);
        let from = match before.iter().rev().take_while(|(other, _)| *other >= hash).count() {
            0 => guess + after.iter().take_while(|(other, _)| *other < hash).count(),
            back => guess - back,
        };
        let same = self.0[from..].iter().take_while(|(other, _)| *other == hash);
        same.enumerate().find(|(_, (_, other))| *other == version).map(|(at, _)| from + at)
    }
}

/// `initial_resource_versions`, as far as they were read.
#[derive(Debug)]
pub struct InitialVersions {
    ty: ResourceType,
    layer: Layer,
    prints: Arc<Prints>,
    /// For each resource of the layer, whether it was listed in its version.
    same: Box<[bool]>,
    /// What was listed in a version or by a name that the layer has not.
    others: Edits,
    len: usize,
}

impl InitialVersions {
    /// An empty list of a type, to be compared with views.
    pub fn new(ty: ResourceType, views: &Views) -> Self {
        let layer = views.layer(ty).clone();
        let same = vec![false; layer.len()].into();
        Self { ty, layer, prints: views.prints(ty).clone(), same, others: Edits::default(), len: 0 }
    }

    /// The type of the resources.
    pub fn ty(&self) -> ResourceType {
        self.ty
    }

    /// How many entries were read.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no entry was read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an entry, a name and a version in the client's words. A name that
    /// comes twice counts once as what the layer has not: to send something
    /// again is safe. Errors if the name is no text.
    pub fn add(&mut self, name: &[u8], version: &[u8]) -> Result<(), Utf8Error> {
        self.len += 1;
        match Version::parse(version).and_then(|version| self.find(name_hash(name), version)) {
            Some(at) => self.same[at] = true,
            None => self.others.upsert(Resource::stub(self.ty, std::str::from_utf8(name)?, version)),
        }
        Ok(())
    }

    /// The number of a resource that subscribers are sent.
    fn find(&self, hash: u64, version: Version) -> Option<usize> {
        let at = self.prints.find(hash, version)?;
        (self.is_all() || self.layer.carries(self.ty, hash, version)).then_some(at)
    }

    /// Whether subscribers of the type are sent all of the layer.
    fn is_all(&self) -> bool {
        self.layer.count(self.ty) == self.layer.len()
    }

    /// All that was listed, as a layer. It shares as much as it can with the
    /// one it was compared with, if a client that wants everything is to have
    /// that; then it also has what subscribers are not sent.
    pub fn into_layer(self, everything: bool) -> Layer {
        let (all, mut edits) = (self.is_all(), Edits::default());
        // The usual case: the client has almost everything, so start from the
        // shared layer and note the differences.
        let shared = everything && self.len >= self.layer.count(self.ty) / 2;
        let mut same = self.same.iter();
        for chunk in self.layer.chunks.leaves() {
            for (at, same) in (0..chunk.len()).zip(&mut same) {
                match (shared, same) {
                    (true, true) | (false, false) => {}
                    (true, false) if all || self.ty.carries(&chunk.resource(at)) => edits.remove(chunk.name(at)),
                    (true, false) => {}
                    (false, true) => edits.upsert(chunk.resource(at)),
                }
            }
        }
        edits.append(self.others);
        let mut layer = if shared { self.layer } else { Layer::default() };
        layer.apply(edits);
        layer
    }
}
