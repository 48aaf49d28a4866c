//! The wire format of protobuf, borrowed from the bytes.
//! <https://protobuf.dev/programming-guides/encoding/>

use prost::encoding::{WireType, decode_key, decode_varint};

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A number or truth value.
    Varint(u64),
    /// A text, a message, or bytes.
    Bytes(&'a [u8]),
    /// A number of fixed size. No field that is read has one.
    Fixed,
}

/// What these bytes are is not protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf")]
pub struct Malformed;

/// The first field: its number, its value, and how long it is altogether. `None`
/// if it is malformed or not all there.
#[inline]
pub fn first(bytes: &[u8]) -> Option<(u32, Value<'_>, usize)> {
    // Nearly all are short and of the first fifteen numbers.
    if let [key @ 8..0x80, length @ 0..0x80, rest @ ..] = bytes
        && key & 7 == WireType::LengthDelimited as u8
    {
        let length = usize::from(*length);
        return Some((u32::from(key >> 3), Value::Bytes(rest.get(..length)?), 2 + length));
    }
    let mut rest = bytes;
    let (number, wire_type) = decode_key(&mut rest).ok()?;
    let value = match wire_type {
        WireType::Varint => Value::Varint(decode_varint(&mut rest).ok()?),
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            Value::Bytes(rest.split_off(..length)?)
        }
        WireType::SixtyFourBit => rest.split_off(..8).map(|_| Value::Fixed)?,
        WireType::ThirtyTwoBit => rest.split_off(..4).map(|_| Value::Fixed)?,
        // Neither Kubernetes nor xDS has groups.
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    Some((number, value, bytes.len() - rest.len()))
}

/// The fields of a complete message in their order, with their numbers. After an
/// error there are no more.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields of a message.
    pub fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// Takes the next field if it has this number.
    pub fn next_if(&mut self, number: u32) -> Option<Result<Value<'a>, Malformed>> {
        let mut ahead = self.clone();
        match ahead.next()? {
            Ok((other, _)) if other != number => None,
            Ok((_, value)) => {
                *self = ahead;
                Some(Ok(value))
            }
            Err(error) => {
                *self = ahead;
                Some(Err(error))
            }
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((number, value, length)) = first(self.0) else {
            self.0 = &[];
            return Some(Err(Malformed));
        };
        self.0 = &self.0[length..];
        Some(Ok((number, value)))
    }
}

/// Reads where a field of variable length begins that may not be there
/// completely: its number, the length of its value, and that of what precedes
/// it, in bytes. None means that more is needed.
pub fn head(bytes: &[u8]) -> Result<Option<(u32, usize, usize)>, Malformed> {
    // A key has at most 5 bytes and a length at most 10.
    let short = bytes.len() < 15;
    let mut rest = bytes;
    let mut read = || {
        let (number, wire_type) = decode_key(&mut rest).ok()?;
        let length = decode_varint(&mut rest).ok()?;
        (wire_type == WireType::LengthDelimited).then_some((number, usize::try_from(length).ok()?))
    };
    match read() {
        Some((number, length)) => Ok(Some((number, length, bytes.len() - rest.len()))),
        None if short => Ok(None),
        None => Err(Malformed),
    }
}

#[cfg(test)]
mod tests;
