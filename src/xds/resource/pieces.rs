//! Messages in pieces. The listener of a waypoint has a part for each of its
//! services and is sent as a whole whenever one of them changes; what has not
//! changed is then neither copied nor hashed again, but handed over as it is.

use std::sync::Arc;

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};
use rapidhash::RapidHashMap;
use rapidhash::v3::rapidhash_v3;

/// A part of an encoded message, with a hash of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    hash: u64,
    bytes: Bytes,
}

/// An encoded message, as those who make one hand it over.
#[derive(Clone, Debug)]
pub enum Body {
    /// In one piece.
    Whole(Vec<u8>),
    /// In pieces, of which only some differ from those of the message before.
    Pieces(Vec<Piece>),
}

impl From<Vec<u8>> for Body {
    fn from(message: Vec<u8>) -> Self {
        Self::Whole(message)
    }
}

impl From<Vec<Piece>> for Body {
    fn from(pieces: Vec<Piece>) -> Self {
        Self::Pieces(pieces)
    }
}

impl Piece {
    /// A part of a message.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { hash: rapidhash_v3(&bytes), bytes }
    }

    /// A field of a message: a message, a text or bytes.
    pub fn field(number: u32, value: &[u8]) -> Self {
        Self::opening(number, value, 0)
    }

    /// The beginning of a field of a message, of which so many bytes follow in
    /// other pieces.
    pub fn opening(number: u32, value: &[u8], following: usize) -> Self {
        let mut field = Vec::with_capacity(value.len() + 8);
        encode_key(number, WireType::LengthDelimited, &mut field);
        encode_varint((value.len() + following) as u64, &mut field);
        field.extend_from_slice(value);
        Self::new(field)
    }

    /// The last so many of its bytes, which both share.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn end(&self, len: usize) -> Self {
        Self::new(self.bytes.slice(self.bytes.len() - len..))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A hash of them.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// A message in pieces.
#[derive(Debug)]
pub(in crate::xds) struct Pieces {
    pieces: Box<[Piece]>,
    len: usize,
}

/// What is at least so long is handed to a socket by itself.
const LARGE: usize = 32 << 10;
/// Smaller pieces are joined to more than this and less than that.
const LEAST: usize = 16 << 10;
const MOST: usize = 128 << 10;
/// From the least length on, every so-manieth piece is the last of those that
/// are joined.
const LAST: u64 = 4;

impl Pieces {
    pub(super) fn new(pieces: Vec<Piece>) -> Self {
        Self { len: pieces.iter().map(|piece| piece.bytes.len()).sum(), pieces: pieces.into() }
    }

    pub(in crate::xds) fn len(&self) -> usize {
        self.len
    }

    /// The pieces in order.
    pub(in crate::xds) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter().map(|piece| &piece.bytes)
    }

    /// A hash of the message, which says nothing of how it would be hashed in
    /// one piece.
    pub(super) fn hash(&self) -> u64 {
        hash(&self.pieces)
    }

    /// The same message in pieces that are worth to be sent by themselves. Those
    /// that `old` has too are shared with it: which pieces are joined depends on
    /// nothing but what they are, so a change of one leaves all but its
    /// neighbours as they were.
    pub(in crate::xds) fn joined(&self, old: Option<&Self>) -> Arc<Self> {
        let known = old.into_iter().flat_map(|old| old.pieces.iter()).map(|piece| (piece.hash, piece));
        let known: RapidHashMap<u64, &Piece> = known.collect();
        let join = |run: &[Piece]| match run {
            [one] => one.clone(),
            run => {
                let hash = hash(run);
                let len = run.iter().map(|piece| piece.bytes.len()).sum();
                let shared = known.get(&hash).filter(|piece| piece.bytes.len() == len);
                shared.map(|piece| (*piece).clone()).unwrap_or_else(|| {
                    let mut bytes = Vec::with_capacity(len);
                    run.iter().for_each(|piece| bytes.extend_from_slice(&piece.bytes));
                    Piece { hash, bytes: bytes.into() }
                })
            }
        };
        let (mut joined, mut from, mut len) = (Vec::new(), 0, 0);
        for (at, piece) in self.pieces.iter().enumerate() {
            let large = piece.bytes.len() >= LARGE;
            if large && from < at {
                joined.push(join(&self.pieces[from..at]));
                from = at;
            }
            len += piece.bytes.len();
            if large || len >= MOST || (len >= LEAST && piece.hash % LAST == 0) {
                joined.push(join(&self.pieces[from..=at]));
                (from, len) = (at + 1, 0);
            }
        }
        if from < self.pieces.len() {
            joined.push(join(&self.pieces[from..]));
        }
        Arc::new(Self { pieces: joined.into(), len: self.len })
    }
}

fn hash(pieces: &[Piece]) -> u64 {
    let numbers = pieces.iter().flat_map(|piece| [piece.hash, piece.bytes.len() as u64]);
    rapidhash_v3(&numbers.flat_map(u64::to_le_bytes).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;
