//! The difference between two layers.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use super::chunk::Chunk;
use super::trie::Trie;
use crate::xds::resource::Resource;

/// One difference between two layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the new layer has it.
    Added(Resource),
    /// Both have it, with different content or keys.
    Updated {
        /// What the old layer has.
        old: Resource,
        /// What the new layer has.
        new: Resource,
    },
    /// Only the old layer has it.
    Removed(Resource),
}

/// What differs between two tries of chunks, ordered by hash and name.
pub(super) fn differences<'a>(
    new: &'a Trie<Chunk>,
    old: &'a Trie<Chunk>,
) -> impl Iterator<Item = Difference> + use<'a> {
    new.differing(old)
        .into_iter()
        .flat_map(move |(ours, theirs)| Merge { new: Cursor::new(new, ours), old: Cursor::new(old, theirs) })
}

/// Walks the resources of some chunks.
struct Cursor<'a> {
    chunks: &'a Trie<Chunk>,
    numbers: Range<usize>,
    chunk: Option<&'a Arc<Chunk>>,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(chunks: &'a Trie<Chunk>, numbers: Range<usize>) -> Self {
        Self { chunks, numbers, chunk: None, at: 0 }
    }

    /// The chunk and the number of the next resource.
    fn peek(&mut self) -> Option<(&'a Chunk, usize)> {
        while self.chunk.is_none_or(|chunk| self.at >= chunk.len()) {
            self.chunk = Some(self.chunks.at(self.numbers.next()?)?);
            self.at = 0;
        }
        Some((self.chunk?, self.at))
    }

    fn take(&mut self) -> Option<Resource> {
        let (chunk, at) = self.peek()?;
        self.at += 1;
        Some(chunk.resource(at))
    }
}

struct Merge<'a> {
    new: Cursor<'a>,
    old: Cursor<'a>,
}

impl Iterator for Merge<'_> {
    type Item = Difference;

    fn next(&mut self) -> Option<Difference> {
        loop {
            let order = match (self.new.peek(), self.old.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((new, ours)), Some((old, theirs))) => {
                    let order = new.hash(ours).cmp(&old.hash(theirs));
                    let order = order.then_with(|| new.name_bytes(ours).cmp(old.name_bytes(theirs)));
                    // Most of two chunks is the same; that is seen without
                    // touching reference counts.
                    if order == Ordering::Equal && new.same(ours, old, theirs) {
                        self.new.at += 1;
                        self.old.at += 1;
                        continue;
                    }
                    order
                }
            };
            return Some(match order {
                Ordering::Less => Difference::Added(self.new.take()?),
                Ordering::Greater => Difference::Removed(self.old.take()?),
                Ordering::Equal => Difference::Updated { old: self.old.take()?, new: self.new.take()? },
            });
        }
    }
}
