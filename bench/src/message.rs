//! Delta discovery responses, walked while their bytes pass by.
//!
//! A client that only has to acknowledge needs a nonce and a type. It counts
//! resources besides, and keeps messages whole only while they are small or
//! somebody wants to check them.

use anyhow::{bail, ensure};

use crate::mesh::{MARK, MARK_DIGITS};

/// Messages up to this length are kept, to find the marks of changes in them.
const SMALL: usize = 64 << 10;

/// Fields of `DeltaDiscoveryResponse`.
const RESOURCES: u64 = 2;
const TYPE_URL: u64 = 4;
const NONCE: u64 = 5;
const REMOVED: u64 = 6;

/// What a message says, as far as it was looked at.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The type of its resources.
    pub type_url: Vec<u8>,
    /// What an acknowledgement must name.
    pub nonce: Vec<u8>,
    /// How many resources it has.
    pub resources: usize,
    /// How many names it removes.
    pub removed: usize,
    /// All of it without the gRPC prefix, if it was kept.
    pub bytes: Vec<u8>,
    /// The numbers of the changes whose marks are in it, in order, if they were
    /// looked for while it passed by.
    pub marks: Vec<usize>,
}

/// Reads messages from pieces of any size.
pub struct Walker {
    /// Whether to keep messages of any size.
    keep: bool,
    /// What looks for marks in messages of any size.
    scanner: Option<Scanner>,
    message: Message,
    /// The gRPC prefix, as far as it is known.
    prefix: [u8; 5],
    prefix_len: usize,
    /// Bytes of the message still to come.
    left: usize,
    place: Place,
}

/// Where in a message the next byte is.
enum Place {
    Tag(u64, u32),
    Length { field: u64, value: u64, shift: u32 },
    Value { field: u64, left: usize },
}

const START: Place = Place::Tag(0, 0);

impl Walker {
    /// A walker at the beginning of a stream.
    pub fn new(keep: bool) -> Self {
        Self { keep, scanner: None, message: Message::default(), prefix: [0; 5], prefix_len: 0, left: 0, place: START }
    }

    /// One that looks for marks.
    pub fn scanning(keep: bool) -> Self {
        Self { scanner: Some(Scanner::default()), ..Self::new(keep) }
    }

    /// Reads a piece and reports each message that it completes.
    pub fn read(
        &mut self,
        mut bytes: &[u8],
        mut complete: impl FnMut(Message) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            if self.prefix_len < 5 {
                let taken = bytes.len().min(5 - self.prefix_len);
                self.prefix[self.prefix_len..][..taken].copy_from_slice(&bytes[..taken]);
                self.prefix_len += taken;
                bytes = &bytes[taken..];
                if self.prefix_len < 5 {
                    return Ok(());
                }
                let [compressed, length @ ..] = self.prefix;
                ensure!(compressed == 0, "message is compressed");
                self.left = u32::from_be_bytes(length) as usize;
                self.place = START;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(self.left));
            (bytes, self.left) = (rest, self.left - part.len());
            let length = [self.prefix[1], self.prefix[2], self.prefix[3], self.prefix[4]];
            if self.keep || u32::from_be_bytes(length) as usize <= SMALL {
                self.message.bytes.extend_from_slice(part);
            }
            if let Some(scanner) = &mut self.scanner {
                scanner.scan(part, &mut self.message.marks);
            }
            self.walk(part)?;
            if self.left == 0 {
                self.prefix_len = 0;
                if let Some(scanner) = &mut self.scanner {
                    scanner.seam.clear();
                    self.message.marks.sort_unstable();
                    self.message.marks.dedup();
                }
                complete(std::mem::take(&mut self.message))?;
            }
        }
        Ok(())
    }

    fn walk(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        while let [first, rest @ ..] = bytes {
            match &mut self.place {
                Place::Tag(value, shift) => {
                    *value |= u64::from(first & 0x7f) << *shift;
                    *shift += 7;
                    bytes = rest;
                    if first & 0x80 == 0 {
                        ensure!(*value & 7 == 2, "field {} is not of a known form", *value >> 3);
                        self.place = Place::Length { field: *value >> 3, value: 0, shift: 0 };
                    }
                }
                Place::Length { field, value, shift } => {
                    ensure!(*shift < 63, "length of field {field} is too long");
                    *value |= u64::from(first & 0x7f) << *shift;
                    *shift += 7;
                    bytes = rest;
                    if first & 0x80 == 0 {
                        let (field, left) = (*field, *value as usize);
                        match field {
                            RESOURCES => self.message.resources += 1,
                            REMOVED => self.message.removed += 1,
                            _ => {}
                        }
                        self.place = if left == 0 { START } else { Place::Value { field, left } };
                    }
                }
                Place::Value { field, left } => {
                    let (part, after) = bytes.split_at(bytes.len().min(*left));
                    match *field {
                        TYPE_URL => self.message.type_url.extend_from_slice(part),
                        NONCE => self.message.nonce.extend_from_slice(part),
                        _ => {}
                    }
                    (*left, bytes) = (*left - part.len(), after);
                    if *left == 0 {
                        self.place = START;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The length of a mark.
const WHOLE: usize = MARK.len() + MARK_DIGITS;

/// Looks for marks in pieces of a message.
#[derive(Default)]
struct Scanner {
    /// The end of what has passed, which may be the beginning of a mark.
    seam: Vec<u8>,
}

impl Scanner {
    fn scan(&mut self, part: &[u8], found: &mut Vec<usize>) {
        let begun = self.seam.len();
        self.seam.extend_from_slice(&part[..part.len().min(WHOLE - 1)]);
        found.extend(marks(&self.seam).filter(|(at, _)| *at < begun).map(|(_, number)| number));
        found.extend(marks(part).map(|(_, number)| number));
        if part.len() >= WHOLE - 1 {
            self.seam.clear();
            self.seam.extend_from_slice(&part[part.len() - (WHOLE - 1)..]);
        } else {
            self.seam.drain(..self.seam.len().saturating_sub(WHOLE - 1));
        }
    }
}

/// Where complete marks are, and their numbers.
fn marks(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    memchr::memmem::find_iter(bytes, MARK).filter_map(|at| {
        let digits = bytes.get(at + MARK.len()..at + WHOLE)?;
        Some((at, std::str::from_utf8(digits).ok()?.parse().ok()?))
    })
}

impl Message {
    /// The `DeltaDiscoveryRequest` that accepts it.
    pub fn ack(&self) -> Vec<u8> {
        let mut request = Vec::with_capacity(8 + self.type_url.len() + self.nonce.len());
        for (tag, value) in [(0x12, &self.type_url), (0x32, &self.nonce)] {
            request.extend([tag, value.len() as u8]);
            request.extend_from_slice(value);
        }
        request
    }

    /// The numbers of the changes whose marks are in a small message, each
    /// once.
    pub fn changes(&self) -> anyhow::Result<Vec<usize>> {
        let mut found = Vec::new();
        let mut rest = self.bytes.as_slice();
        while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK.as_bytes()) {
            let digits = rest.get(at + MARK.len()..at + MARK.len() + MARK_DIGITS);
            match digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()) {
                Some(number) => found.push(number),
                None => bail!("a mark without a number"),
            }
            rest = &rest[at + MARK.len()..];
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
