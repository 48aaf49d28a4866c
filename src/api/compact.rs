//! Values that every pod has one of, without an allocation for each.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

/// An object's UID, which is a UUID wherever Kubernetes makes it.
#[derive(Clone, PartialEq, Eq)]
pub enum Uid {
    /// A UUID in its usual lower-case form.
    Uuid([u8; 16]),
    /// Any other text.
    Text(Arc<str>),
}

impl Uid {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }
}

impl Default for Uid {
    fn default() -> Self {
        Self::Text(Arc::default())
    }
}

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        uuid(text).map_or_else(|| Self::Text(text.into()), Self::Uuid)
    }
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 36 {
        return None;
    }
    let (mut bytes, mut digits) = ([0; 16], 0);
    for (at, byte) in text.bytes().enumerate() {
        match DASHES.contains(&at) {
            true if byte == b'-' => {}
            true => return None,
            false => {
                bytes[digits / 2] = bytes[digits / 2] << 4 | digit(byte)?;
                digits += 1;
            }
        }
    }
    Some(bytes)
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Uuid(bytes) => {
                for (at, byte) in bytes.iter().enumerate() {
                    if matches!(at, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an object says is an IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// It is one.
    Ip(IpAddr),
    /// It is not; perhaps empty.
    Text(Arc<str>),
}

impl Default for Address {
    fn default() -> Self {
        Self::Text(Arc::default())
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Text(text.into()), Self::Ip)
    }
}

/// The addresses of one object, in order. Mostly that is one of IPv4, which
/// takes no more room than the handle to a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// One of IPv4.
    V4(Ipv4Addr),
    /// Any others, or none.
    Others(Box<[Address]>),
}

impl Addresses {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Address> {
        let (one, others) = match self {
            Self::V4(one) => (Some(Address::Ip((*one).into())), &[] as &[Address]),
            Self::Others(others) => (None, &**others),
        };
        one.into_iter().chain(others.iter().cloned())
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self::Others(Box::default())
    }
}

impl From<Vec<Address>> for Addresses {
    fn from(addresses: Vec<Address>) -> Self {
        match addresses[..] {
            [Address::Ip(IpAddr::V4(one))] => Self::V4(one),
            _ => Self::Others(addresses.into()),
        }
    }
}

/// Something that is made from a text; `null` is the default.
struct FromText<T>(std::marker::PhantomData<T>);

impl<'de, T: Default + for<'a> From<&'a str>> Visitor<'de> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(text.into())
    }

    fn visit_none<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(FromText(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(FromText(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests;
