//! The wire format of protobuf, borrowed from the bytes.
//! <https://protobuf.dev/programming-guides/encoding/>

use prost::encoding::{WireType, decode_key, decode_varint};

use super::Error;

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

/// The fields of a message in their order, with their numbers. After an error
/// there are no more.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields of a message.
    pub fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// Takes the next field if it has this number.
    pub fn next_if(&mut self, number: u32) -> Option<Result<Value<'a>, Error>> {
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

    fn read(&mut self) -> Result<(u32, Value<'a>), Error> {
        let (number, wire_type) = decode_key(&mut self.0).map_err(|_| Error::Malformed)?;
        let value = match wire_type {
            WireType::Varint => Value::Varint(self.varint()?),
            WireType::LengthDelimited => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            WireType::SixtyFourBit => self.take(8).map(|_| Value::Fixed)?,
            WireType::ThirtyTwoBit => self.take(4).map(|_| Value::Fixed)?,
            // Kubernetes has no groups.
            WireType::StartGroup | WireType::EndGroup => return Err(Error::Malformed),
        };
        Ok((number, value))
    }

    fn varint(&mut self) -> Result<u64, Error> {
        decode_varint(&mut self.0).map_err(|_| Error::Malformed)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Error> {
        let length = usize::try_from(length).map_err(|_| Error::Malformed)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Error::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Reads where a field of variable length begins that may not be there
/// completely: its number, the length of its value, and that of what precedes
/// it, in bytes. None means that more is needed.
pub fn head(bytes: &[u8]) -> Result<Option<(u32, usize, usize)>, Error> {
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
        None => Err(Error::Malformed),
    }
}
