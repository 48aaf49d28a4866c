//! What a client holds from an earlier stream, compared with a layer while the
//! list is being read.
//!
//! A ztunnel that reconnects lists all it holds, in no order, and nearly all of
//! it is what the layer has. That is ticked off, a byte for each resource; of the
//! list itself nothing is kept but where it differs.

use std::io::Write as _;
use std::str::Utf8Error;
use std::sync::Arc;

use bytes::BytesMut;
use rapidhash::v3::rapidhash_v3;
use smallvec::SmallVec;

use super::{Edits, Layer, Views};
use crate::xds::resource::{FIELD_1, FIELD_2, Resource, ResourceType, put_field};

/// The entries with which a client lists the resources of a layer: hashes of
/// their bytes, as protobuf encodes a name and a version. To look one up is to
/// wait for memory once, and a thousand ztunnels do that for all of them after
/// a restart.
#[derive(Debug)]
pub struct Prints {
    hashes: Box<[u64]>,
    /// For each hash, which resource of the layer it stands for.
    places: Box<[u32]>,
    /// Where the hashes begin that begin with the same bits, and where the last
    /// of them end.
    begins: Box<[u32]>,
    bits: u32,
}

/// How many hashes have the same first bits, on average.
const NEAR: usize = 4;
/// How many entries are best ticked off together: as many as memory is waited
/// for at a time, and some more.
pub const TOGETHER: usize = 64;

/// The entry of a name and a version.
fn entry(name: &[u8], version: &[u8]) -> BytesMut {
    let mut entry = BytesMut::new();
    put_field(&mut entry, FIELD_1, name);
    put_field(&mut entry, FIELD_2, version);
    entry
}

impl Prints {
    /// Those of what a layer has of a type.
    pub(super) fn of(ty: ResourceType, layer: &Layer) -> Self {
        let (all, mut version) = (layer.count(ty) == layer.len(), Vec::new());
        let mut prints = Vec::with_capacity(layer.count(ty));
        let mut place = 0;
        for chunk in layer.chunks.leaves() {
            for at in 0..chunk.len() {
                if all || ty.carries(&chunk.resource(at)) {
                    version.clear();
                    // Memory takes all that is written.
                    let _ = write!(version, "{}", chunk.version(at));
                    prints.push((rapidhash_v3(&entry(chunk.name(at).as_bytes(), &version)), place));
                }
                place += 1;
            }
        }
        prints.sort_unstable();
        let bits = (prints.len() / NEAR).checked_ilog2().unwrap_or(0);
        let begin = |first: usize| prints.partition_point(|(hash, _)| Self::first(bits, *hash) < first) as u32;
        let begins = (0..=1 << bits).map(begin).collect();
        let (hashes, places): (Vec<_>, Vec<_>) = prints.into_iter().unzip();
        Self { hashes: hashes.into(), places: places.into(), begins, bits }
    }

    fn first(bits: u32, hash: u64) -> usize {
        hash.checked_shr(u64::BITS - bits).unwrap_or(0) as usize
    }

    /// The hashes that begin with the same bits.
    fn near(&self, hash: u64) -> std::ops::Range<usize> {
        let first = Self::first(self.bits, hash);
        self.begins[first] as usize..self.begins[first + 1] as usize
    }

    fn find(&self, hash: u64) -> Option<usize> {
        let near = self.near(hash);
        self.hashes[near.clone()].iter().position(|other| *other == hash).map(|at| near.start + at)
    }
}

/// `initial_resource_versions`, as far as they were read.
#[derive(Debug)]
pub struct InitialVersions {
    ty: ResourceType,
    layer: Layer,
    prints: Arc<Prints>,
    /// For each print, whether it was listed.
    same: Box<[bool]>,
    /// What was listed in a version or by a name that the layer has not.
    others: Edits,
    len: usize,
}

impl InitialVersions {
    /// An empty list of a type, to be compared with views.
    pub fn new(ty: ResourceType, views: &Views) -> Self {
        let prints = views.prints(ty).clone();
        let same = vec![false; prints.hashes.len()].into();
        Self { ty, layer: views.layer(ty, None).clone(), prints, same, others: Edits::default(), len: 0 }
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

    /// Ticks off entries, as they are encoded, of resources that the layer has
    /// in these versions; the others are for [`add`](Self::add). Equal hashes are
    /// one entry: to look at names would be to visit all frames.
    pub fn tick<'a>(&mut self, entries: &[&'a [u8]], mut others: impl FnMut(&'a [u8])) {
        let hashes: SmallVec<[u64; TOGETHER]> = entries.iter().map(|entry| rapidhash_v3(entry)).collect();
        // Looks at all places first: to wait for memory once for each entry is
        // most of the work, and these waits are at the same time.
        let near = |hash: &u64| self.prints.hashes.get(self.prints.near(*hash).start).copied().unwrap_or(0);
        std::hint::black_box(hashes.iter().map(near).fold(0, |all, one| all ^ one));
        for (entry, hash) in entries.iter().zip(hashes) {
            if !self.tick_one(hash) {
                others(entry);
            }
        }
    }

    fn tick_one(&mut self, hash: u64) -> bool {
        let found = self.prints.find(hash);
        if let Some(at) = found {
            self.same[at] = true;
            self.len += 1;
        }
        found.is_some()
    }

    /// Adds an entry, a name and a version in the client's words. A name that
    /// comes twice counts once as what the layer has not: to send something
    /// again is safe. Errors if the name is no text.
    pub fn add(&mut self, name: &[u8], version: &[u8]) -> Result<(), Utf8Error> {
        // Its fields may have come in another order.
        if self.tick_one(rapidhash_v3(&entry(name, version))) {
            return Ok(());
        }
        self.len += 1;
        let name = std::str::from_utf8(name)?;
        self.others.upsert(Resource::stub(self.ty, name, version));
        Ok(())
    }

    /// All that was listed, as a layer. It shares as much as it can with the
    /// one it was compared with, if a client that wants everything is to have
    /// that; then it also has what subscribers are not sent.
    pub fn into_layer(self, everything: bool) -> Layer {
        let mut edits = Edits::default();
        // The usual case: the client has almost everything, so start from the
        // shared layer and note the differences.
        let shared = everything && self.len >= self.layer.count(self.ty) / 2;
        // Subscribers are not sent the others.
        let mut listed = vec![None; self.layer.len()];
        self.same.iter().zip(&self.prints.places).for_each(|(same, place)| listed[*place as usize] = Some(*same));
        let mut listed = listed.into_iter();
        for chunk in self.layer.chunks.leaves() {
            for (at, listed) in (0..chunk.len()).zip(&mut listed) {
                match (shared, listed) {
                    (true, Some(false)) => edits.remove(chunk.name(at)),
                    (false, Some(true)) => edits.upsert(chunk.resource(at)),
                    _ => {}
                }
            }
        }
        edits.append(self.others);
        let mut layer = if shared { self.layer } else { Layer::default() };
        layer.apply(edits);
        layer
    }
}
