//! Equal messages, equal bytes.
//!
//! The version of a resource is a hash of its bytes, equal on every replica.
//! Protobuf leaves the order of a map's entries open, and envoy-types keeps
//! them in `HashMap`s, whose order differs each time. So the entries of encoded
//! maps are put in the order of their keys, at any depth, inside `Any`s too.
//! `build/table.rs` works out from the descriptors where there can be maps.
//!
//! An order changes no length. The bytes are therefore rearranged where they
//! are, and only a map that is out of order is copied. What does not parse, and
//! what is in an `Any` of a type that is not in the table, stays as it is.

use std::ops::Range;

/// A field through which a map can be reached.
struct Field {
    number: u32,
    is_map: bool,
    /// The message in it, or in the map's values: an index, [`ANY`] or
    /// [`NOTHING`].
    inside: u16,
}

/// A `google.protobuf.Any`, whose bytes are of a type that it names.
const ANY: u16 = u16::MAX;
/// No map.
const NOTHING: u16 = u16::MAX - 1;

// NAMES in order, the end of each one's part of FIELDS, FIELDS by number.
include!(concat!(env!("OUT_DIR"), "/canonical_table.rs"));

/// Deeper than any message that could be decoded.
const DEPTH: usize = 256;

/// An encoded message with the entries of its maps in order. `full_name` is
/// that of its type, such as `envoy.config.cluster.v3.Cluster`.
pub fn canonical(full_name: &str, encoded: &[u8]) -> Vec<u8> {
    let mut bytes = encoded.to_vec();
    canonicalize(full_name, &mut bytes);
    bytes
}

/// [`canonical`], in place.
pub fn canonicalize(full_name: &str, encoded: &mut [u8]) {
    if let Some(message) = index(full_name) {
        Walk::default().message(encoded, message, DEPTH);
    }
}

fn index(full_name: &str) -> Option<u16> {
    match NAMES.binary_search(&full_name) {
        Ok(index) => u16::try_from(index).ok(),
        Err(_) => (full_name == "google.protobuf.Any").then_some(ANY),
    }
}

fn fields(message: u16) -> &'static [Field] {
    let message = usize::from(message);
    let start = message.checked_sub(1).map_or(0, |before| ENDS[before]);
    &FIELDS[usize::from(start)..usize::from(ENDS[message])]
}

/// A field of the table, found in a message.
struct Item {
    field: &'static Field,
    /// From its tag to its end.
    whole: Range<usize>,
    /// Without tag and length.
    content: Range<usize>,
    key: Key,
}

/// The key of a map's entry. A key that was left out is zero and empty, and
/// equals one that was not.
#[derive(Clone, Default)]
struct Key {
    number: u64,
    text: Range<usize>,
}

#[derive(Default)]
struct Walk {
    /// Of the messages that the walk is in, outermost first.
    items: Vec<Item>,
    scratch: Vec<u8>,
}

impl Walk {
    fn inside(&mut self, bytes: &mut [u8], inside: u16, depth: usize) {
        match inside {
            NOTHING => {}
            ANY => self.any(bytes, depth),
            message => self.message(bytes, message, depth),
        }
    }

    fn message(&mut self, bytes: &mut [u8], message: u16, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else { return };
        if message == ANY {
            return self.any(bytes, depth);
        }
        let base = self.items.len();
        // Nothing is touched before it is known that all of it parses.
        if self.find(bytes, fields(message)).is_some() {
            let mut in_order = true;
            for at in base..self.items.len() {
                self.item(bytes, at, depth);
                in_order = in_order && self.follows(bytes, base, at);
            }
            if !in_order {
                self.reorder(bytes, base);
            }
        }
        self.items.truncate(base);
    }

    /// Puts in order what is inside an item, and learns its key.
    fn item(&mut self, bytes: &mut [u8], at: usize, depth: usize) {
        let Item { field, content, .. } = &self.items[at];
        let (field, content) = (*field, content.clone());
        if !field.is_map {
            return self.inside(&mut bytes[content], field.inside, depth);
        }
        if let Some((key, value)) = entry(bytes, content) {
            self.items[at].key = key;
            if let Some(value) = value {
                self.inside(&mut bytes[value], field.inside, depth);
            }
        }
    }

    /// Whether an item is where it belongs, if all before it are: encoders
    /// write the entries of a map one after the other.
    fn follows(&self, bytes: &[u8], base: usize, at: usize) -> bool {
        let (item, before) = (&self.items[at], &self.items[base..at]);
        let of_its_map = |other: &Item| other.field.number == item.field.number;
        match before.last() {
            _ if !item.field.is_map => true,
            Some(last) if of_its_map(last) => order(bytes, last) <= order(bytes, item),
            _ => !before.iter().any(of_its_map),
        }
    }

    fn any(&mut self, bytes: &mut [u8], depth: usize) {
        let Some((name, value)) = named(bytes) else { return };
        if let Some(message) = index(name) {
            self.message(&mut bytes[value], message, depth);
        }
    }

    /// Adds the items of a message. `None` if it does not parse.
    fn find(&mut self, bytes: &[u8], fields: &'static [Field]) -> Option<()> {
        let mut reader = Reader { bytes, at: 0 };
        while reader.at < bytes.len() {
            let start = reader.at;
            let record = reader.record()?;
            let Content::Bytes(content) = record.content else { continue };
            if let Ok(found) = fields.binary_search_by_key(&record.number, |field| field.number) {
                self.items.push(Item { field: &fields[found], whole: start..reader.at, content, key: Key::default() });
            }
        }
        Some(())
    }

    /// Puts all entries of a map where the first of them is, in order.
    fn reorder(&mut self, bytes: &mut [u8], base: usize) {
        let found = self.items[base..].iter().filter(|item| item.field.is_map);
        let mut sorted: Vec<&Item> = found.clone().collect();
        // Of entries with one key the last counts, so they stay as they are.
        sorted.sort_by(|a, b| (a.field.number, order(bytes, a)).cmp(&(b.field.number, order(bytes, b))));
        let Some(start) = found.clone().map(|item| item.whole.start).min() else { return };

        self.scratch.clear();
        let (mut at, mut written) = (start, Vec::new());
        for item in found {
            self.scratch.extend_from_slice(&bytes[at..item.whole.start]);
            at = item.whole.end;
            let number = item.field.number;
            if !written.contains(&number) {
                written.push(number);
                let from = sorted.partition_point(|other| other.field.number < number);
                let entries = sorted[from..].iter().take_while(|other| other.field.number == number);
                entries.for_each(|entry| self.scratch.extend_from_slice(&bytes[entry.whole.clone()]));
            }
        }
        bytes[start..at].copy_from_slice(&self.scratch);
    }
}

/// What entries of one map are ordered by.
fn order<'a>(bytes: &'a [u8], item: &Item) -> (u64, &'a [u8]) {
    (item.key.number, &bytes[item.key.text.clone()])
}

/// The key of a map's entry, and where its value is if that has a length.
fn entry(bytes: &[u8], entry: Range<usize>) -> Option<(Key, Option<Range<usize>>)> {
    let (mut key, mut value) = (Key::default(), None);
    let mut reader = Reader { bytes: &bytes[..entry.end], at: entry.start };
    while reader.at < entry.end {
        let record = reader.record()?;
        match (record.number, record.content) {
            (1, Content::Number(number)) => key.number = number,
            (1, Content::Bytes(text)) => key.text = text,
            (2, Content::Bytes(content)) => value = Some(content),
            _ => {}
        }
    }
    Some((key, value))
}

/// The name of the type in an `Any`, and where its bytes are.
fn named(any: &[u8]) -> Option<(&str, Range<usize>)> {
    let (mut type_url, mut value) = (None, None);
    let mut reader = Reader { bytes: any, at: 0 };
    while reader.at < any.len() {
        let record = reader.record()?;
        match (record.number, record.content) {
            (1, Content::Bytes(content)) => type_url = Some(content),
            (2, Content::Bytes(content)) => value = Some(content),
            _ => {}
        }
    }
    let type_url = std::str::from_utf8(&any[type_url?]).ok()?;
    Some((type_url.rsplit('/').next()?, value?))
}

/// One field as it was written.
struct Record {
    number: u32,
    content: Content,
}

enum Content {
    /// A number of any width.
    Number(u64),
    /// The range of what has a length.
    Bytes(Range<usize>),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next field. `None` if there is none, or none that can be read;
    /// groups are not.
    fn record(&mut self) -> Option<Record> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok()?;
        let content = match tag & 7 {
            0 => Content::Number(self.varint()?),
            1 => Content::Number(u64::from_le_bytes(self.bytes[self.take(8)?].try_into().ok()?)),
            2 => {
                let length = self.varint()?;
                Content::Bytes(self.take(length)?)
            }
            5 => Content::Number(u32::from_le_bytes(self.bytes[self.take(4)?].try_into().ok()?).into()),
            _ => return None,
        };
        Some(Record { number, content })
    }

    fn take(&mut self, length: u64) -> Option<Range<usize>> {
        let end = self.at.checked_add(usize::try_from(length).ok()?).filter(|end| *end <= self.bytes.len())?;
        let start = std::mem::replace(&mut self.at, end);
        Some(start..end)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
