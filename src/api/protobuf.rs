//! Kubernetes' protobuf encoding, as input of the same serde models that read
//! JSON and YAML.
//!
//! The API server stores and encodes its own kinds in protobuf; JSON costs it
//! four times as much, and us twice. A [`Message`] says which field numbers
//! carry what a model reads, so a kind has one model and one line of numbers
//! for each message here. Everything else is skipped without being looked at.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>

mod de;
mod schema;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use serde::Deserialize;

use super::kinds::{DecodeError, Kind, Object};
use crate::wire::{self, Fields, Value as Wire};

pub use de::Error;

/// The fields of a message that are read: number, name in JSON, and type.
pub struct Message(pub(super) &'static [(u32, &'static str, Value)]);

/// The type of a field.
#[derive(Clone, Copy)]
pub(super) enum Value {
    Text,
    /// Bytes, which JSON has in base64.
    Bytes,
    Int,
    Bool,
    /// `metav1.Time`, read as seconds since the epoch.
    Time,
    /// A number or a text.
    IntOrString,
    Message(&'static Message),
    /// A message whose fields JSON has among those of the message around it.
    Inline(&'static Message),
    List(&'static Value),
    /// From text to a text or bytes.
    Map(&'static Value),
}

/// What the encoding of an object begins with.
const MAGIC: &[u8] = b"k8s\0";

impl Message {
    /// The message of objects of a kind; none is for kinds that the API server
    /// has in JSON only.
    pub fn of(kind: Kind) -> Option<&'static Self> {
        schema::of(kind)
    }

    /// Reads a message.
    pub fn read<'de, T: Deserialize<'de>>(&'static self, bytes: &'de [u8]) -> Result<T, Error> {
        T::deserialize(self.deserializer(bytes))
    }

    fn deserializer<'de>(&'static self, bytes: &'de [u8]) -> de::Deserializer<'de, 'de> {
        de::Deserializer::new(self, bytes)
    }
}

impl Kind {
    /// Decodes an object from its message. As in [`Kind::decode_json`], the
    /// field is searched only if there is an error.
    pub fn decode_protobuf(self, bytes: &[u8]) -> Result<Object, DecodeError> {
        let Some(message) = Message::of(self) else {
            return Err(DecodeError { field: String::new(), reason: "the kind has no protobuf encoding".into() });
        };
        self.decode(message.deserializer(bytes)).or_else(|_| self.decode_tracked(message.deserializer(bytes)))
    }
}

/// The least that can be read of an object that does not decode.
pub fn decode_meta<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Option<T> {
    let (_, meta) = Fields::new(bytes).find_map(|field| field.ok().filter(|(number, _)| *number == 1))?;
    let Wire::Bytes(meta) = meta else { return None };
    schema::META.read(meta).ok()
}

/// Reads the metadata of a list.
pub fn list_meta<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Error> {
    schema::LIST_META.read(bytes)
}

/// Reads what the API server says when it does not do what it is asked.
pub fn status<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Error> {
    schema::STATUS.read(bytes)
}

/// The message inside the envelope that objects come in.
pub fn unwrap(bytes: &[u8]) -> Result<&[u8], Error> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(Error::Envelope)?;
    match field(envelope, 2)? {
        Some(Wire::Bytes(raw)) => Ok(raw),
        _ => Err(Error::Envelope),
    }
}

/// The last field of a number in a message.
pub fn field(message: &[u8], number: u32) -> Result<Option<Wire<'_>>, Error> {
    let mut found = None;
    for field in Fields::new(message) {
        let (other, value) = field?;
        if other == number {
            found = Some(value);
        }
    }
    Ok(found)
}

/// Where the items of a list are in a document that may not be complete yet:
/// the length of what comes before them, and that of themselves, in bytes. None
/// means that more is needed.
pub fn list_body(document: &[u8]) -> Result<Option<(usize, usize)>, Error> {
    let magic = document.len().min(MAGIC.len());
    let Some(envelope) = document.strip_prefix(&MAGIC[..magic]) else { return Err(Error::Envelope) };
    let mut rest = envelope;
    while !rest.is_empty() {
        let Some((number, length, head)) = wire::head(rest)? else { return Ok(None) };
        if number == 2 {
            return Ok(Some((document.len() - rest.len() + head, length)));
        }
        let Some(after) = rest.get(head.saturating_add(length)..) else { return Ok(None) };
        rest = after;
    }
    Ok(None)
}
