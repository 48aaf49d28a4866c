//! Files in pieces of about a megabyte, each of which ends where a document
//! does. So one large file is work for every core, and no file is ever in
//! memory as a whole.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// How much is read at a time.
const PIECE: usize = 1 << 20;

/// The pieces of a file.
pub struct Pieces {
    file: File,
    size: usize,
    /// What was read and not given out.
    held: Vec<u8>,
    line: usize,
    ended: bool,
}

/// A piece of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// How many lines are before it.
    pub lines_before: usize,
    /// Its text.
    pub text: String,
    /// Whether it is the last of its file.
    pub last: bool,
}

impl Pieces {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of_size(path, PIECE)
    }

    fn of_size(path: &Path, size: usize) -> Result<Self> {
        Ok(Self { file: File::open(path)?, size, held: Vec::new(), line: 0, ended: false })
    }

    /// The next piece; an empty file has one, too.
    pub fn next(&mut self) -> Result<Option<Piece>> {
        if self.ended {
            return Ok(None);
        }
        // On an error there is no more.
        self.ended = true;
        loop {
            let seen = self.held.len();
            let read = self.file.by_ref().take(self.size as u64).read_to_end(&mut self.held)?;
            if read < self.size {
                return self.piece(self.held.len(), true);
            }
            // A line break that was the last byte may turn out to be before a
            // marker.
            if let Some(at) = last_marker(&self.held, seen.saturating_sub(LONGEST)) {
                self.ended = false;
                return self.piece(at, false);
            }
        }
    }

    fn piece(&mut self, end: usize, last: bool) -> Result<Option<Piece>> {
        let rest = self.held.split_off(end);
        let bytes = std::mem::replace(&mut self.held, rest);
        let lines_before = self.line;
        self.line += bytes.iter().filter(|byte| **byte == b'\n').count();
        let text = String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidData, "is not UTF-8"))?;
        Ok(Some(Piece { lines_before, text, last }))
    }
}

/// The line break before a marker of documents, the marker, and what makes it
/// certain that it is one.
const MARKER: [&[u8]; 4] = [b"\n---\n", b"\n--- ", b"\n---\t", b"\n---\r\n"];

/// How many bytes of a marker may have been seen before the rest of it.
const LONGEST: usize = 5;

/// Where the last marker in some bytes begins, if one does behind `from`.
fn last_marker(bytes: &[u8], from: usize) -> Option<usize> {
    let breaks = bytes[from..].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let mut places = breaks.map(|(at, _)| from + at);
    places.find(|at| MARKER.iter().any(|marker| bytes[*at..].starts_with(marker))).map(|at| at + 1)
}

#[cfg(test)]
mod tests;
