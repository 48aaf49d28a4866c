//! A piece of a layer: the resources of a range of hashes, in one buffer.

use std::cmp::Ordering;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use bytes::Bytes;

use crate::xds::resource::{Pieces, Resource, Version, frame_name, frame_name_bytes};

/// What becomes of one name.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) hash: u64,
    pub(super) to: To,
}

/// What a name stands for from now on.
#[derive(Clone, Debug)]
pub(super) enum To {
    Resource(Resource),
    Nothing(Box<str>),
}

impl Edit {
    pub(super) fn name(&self) -> &str {
        match &self.to {
            To::Resource(resource) => resource.name(),
            To::Nothing(name) => name,
        }
    }
}

/// Resources by the hash of their names, then by name.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// The frames one after another: as they are, a piece of a delta response,
    /// if there are no messages in pieces.
    frames: Bytes,
    facts: Bytes,
    entries: Box<[Entry]>,
    /// The messages that are in pieces, with the numbers of their resources.
    /// Few are.
    rests: Box<[(u32, Arc<Pieces>)]>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    version: Version,
    /// Where the frame and the facts end; they begin where those before end.
    frame_end: u32,
    facts_end: u32,
}

/// A resource that an edit replaced or took away, and what came instead.
pub(super) struct Replaced {
    pub(super) old: Option<Resource>,
    pub(super) new: Option<Resource>,
}

impl Chunk {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All frames, as they are sent.
    pub(super) fn frames(&self) -> impl Iterator<Item = Bytes> {
        let mut from = 0;
        let rests = self.rests.iter().flat_map(move |(at, rest)| {
            let before = self.frames.slice(from..self.place(*at as usize).0.end);
            from = self.place(*at as usize).0.end;
            std::iter::once(before).chain(rest.iter().cloned())
        });
        let behind = self.rests.last().map_or(0, |(at, _)| self.place(*at as usize).0.end);
        rests.chain((behind < self.frames.len()).then(|| self.frames.slice(behind..)))
    }

    pub(super) fn hash(&self, at: usize) -> u64 {
        self.entries[at].hash
    }

    pub(super) fn version(&self, at: usize) -> Version {
        self.entries[at].version
    }

    pub(super) fn name(&self, at: usize) -> &str {
        frame_name(&self.frames[self.place(at).0])
    }

    /// Whether a resource, known to have the same name, equals one of another
    /// chunk.
    pub(super) fn same(&self, at: usize, other: &Self, theirs: usize) -> bool {
        let ((frame, facts), (other_frame, other_facts)) = (self.place(at), other.place(theirs));
        // The length of a frame tells what is there from what a client names.
        self.version(at) == other.version(theirs)
            && frame.len() == other_frame.len()
            && self.facts[facts] == other.facts[other_facts]
    }

    /// The bytes of the name, to be compared.
    pub(super) fn name_bytes(&self, at: usize) -> &[u8] {
        frame_name_bytes(&self.frames[self.place(at).0])
    }

    /// The resource of that number.
    pub(super) fn resource(&self, at: usize) -> Resource {
        let (frame, facts) = self.place(at);
        let rest = self.rest(at).cloned();
        Resource::stored(self.entries[at].version, self.frames.slice(frame), self.facts.slice(facts), rest)
    }

    fn rest(&self, at: usize) -> Option<&Arc<Pieces>> {
        let found = self.rests.binary_search_by_key(&at, |(of, _)| *of as usize).ok()?;
        Some(&self.rests[found].1)
    }

    /// The numbers of the resources whose names have these hashes, which are
    /// few. All hashes of the chunk begin with the same `bits` bits.
    pub(super) fn with_hashes(&self, bits: u32, hashes: RangeInclusive<u64>) -> Range<usize> {
        let hash = *hashes.start();
        // Hashes spread evenly, so the other bits tell about where this one is.
        // To halve the chunk again and again would be to wait for memory as often.
        let part = u128::from(hash.checked_shl(bits).unwrap_or(0));
        let guess = ((part * self.len() as u128) >> 64) as usize;
        let (before, after) = self.entries.split_at(guess);
        let from = match before.iter().rev().take_while(|entry| entry.hash >= hash).count() {
            0 => guess + after.iter().take_while(|entry| entry.hash < hash).count(),
            back => guess - back,
        };
        let same = self.entries[from..].iter().take_while(|entry| hashes.contains(&entry.hash)).count();
        from..from + same
    }

    /// The number of the resource of this name.
    pub(super) fn find(&self, bits: u32, hash: u64, name: &str) -> Option<usize> {
        self.with_hashes(bits, hash..=hash).find(|at| self.name_bytes(*at) == name.as_bytes())
    }

    /// How the resource of that number compares with a name.
    fn compare(&self, at: usize, hash: u64, name: &str) -> Ordering {
        self.entries[at].hash.cmp(&hash).then_with(|| self.name_bytes(at).cmp(name.as_bytes()))
    }

    /// The chunk after some edits, in the order of hashes and names, each name
    /// once. Tells what they replace, as long as it differs.
    pub(super) fn edited(&self, edits: &[Edit], mut replaced: impl FnMut(Replaced)) -> Option<Self> {
        let added = edits.iter().filter_map(|edit| match &edit.to {
            To::Resource(resource) => Some(resource.parts()),
            To::Nothing(_) => None,
        });
        let (frames, facts) = added.fold((self.frames.len(), self.facts.len()), |(frames, facts), parts| {
            (frames + parts.0.len(), facts + parts.1.len())
        });
        let mut to = Builder {
            frames: Vec::with_capacity(frames),
            facts: Vec::with_capacity(facts),
            entries: Vec::with_capacity(self.len() + edits.len()),
            rests: Vec::new(),
        };
        let (mut at, mut changed) = (0, false);
        for edit in edits {
            let from = at;
            while at < self.len() && self.compare(at, edit.hash, edit.name()) == Ordering::Less {
                at += 1;
            }
            to.copy(self, from..at);
            let old = (at < self.len() && self.compare(at, edit.hash, edit.name()) == Ordering::Equal).then_some(at);
            let old_resource = old.map(|at| self.resource(at));
            let new = match &edit.to {
                To::Resource(resource) => Some(resource),
                To::Nothing(_) => None,
            };
            if old_resource.as_ref() == new {
                continue;
            }
            changed = true;
            if let Some(new) = new {
                let rest = new.rest().map(|rest| rest.joined(old.and_then(|at| self.rest(at)).map(|old| &**old)));
                to.push(edit.hash, new, rest);
            }
            at += usize::from(old.is_some());
            replaced(Replaced { old: old_resource, new: new.cloned() });
        }
        to.copy(self, at..self.len());
        changed.then(|| to.build())
    }

    fn place(&self, at: usize) -> (Range<usize>, Range<usize>) {
        let (frames, facts) = self.begin(at);
        let Entry { frame_end, facts_end, .. } = self.entries[at];
        (frames..frame_end as usize, facts..facts_end as usize)
    }

    fn begin(&self, at: usize) -> (usize, usize) {
        let before = at.checked_sub(1).map(|before| self.entries[before]);
        before.map_or((0, 0), |entry| (entry.frame_end as usize, entry.facts_end as usize))
    }
}

/// A chunk in the making.
#[derive(Default)]
pub(super) struct Builder {
    frames: Vec<u8>,
    facts: Vec<u8>,
    entries: Vec<Entry>,
    rests: Vec<(u32, Arc<Pieces>)>,
}

impl Builder {
    /// Appends a range of another chunk.
    pub(super) fn copy(&mut self, from: &Chunk, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let ((frames, facts), last) = (from.begin(range.start), from.entries[range.end - 1]);
        let number = |at: u32| (at as usize - range.start + self.entries.len()) as u32;
        let rests = from.rests.iter().filter(|(at, _)| range.contains(&(*at as usize)));
        self.rests.extend(rests.map(|(at, rest)| (number(*at), rest.clone())));
        let (frames_shift, facts_shift) = (self.frames.len(), self.facts.len());
        self.frames.extend_from_slice(&from.frames[frames..last.frame_end as usize]);
        self.facts.extend_from_slice(&from.facts[facts..last.facts_end as usize]);
        self.entries.extend(from.entries[range].iter().map(|entry| Entry {
            frame_end: (entry.frame_end as usize - frames + frames_shift) as u32,
            facts_end: (entry.facts_end as usize - facts + facts_shift) as u32,
            ..*entry
        }));
    }

    /// Appends a resource, with the pieces that its message is to be kept in if
    /// it is in pieces.
    fn push(&mut self, hash: u64, resource: &Resource, rest: Option<Arc<Pieces>>) {
        let (frame, facts) = resource.parts();
        self.rests.extend(rest.map(|rest| (self.entries.len() as u32, rest)));
        self.frames.extend_from_slice(frame);
        self.facts.extend_from_slice(facts);
        self.entries.push(Entry {
            hash,
            version: resource.version(),
            frame_end: self.frames.len() as u32,
            facts_end: self.facts.len() as u32,
        });
    }

    pub(super) fn build(self) -> Chunk {
        // Exactly as much memory as is needed: there are many, for long.
        let exact = |bytes: Vec<u8>| Bytes::from(bytes.into_boxed_slice());
        Chunk {
            frames: exact(self.frames),
            facts: exact(self.facts),
            entries: self.entries.into(),
            rests: self.rests.into(),
        }
    }
}
