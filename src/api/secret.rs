//! `Secret`: certificates with their keys, and the certificates of authorities.
//! <https://kubernetes.io/docs/concepts/configuration/secret/>
//!
//! Of the data only the entries are read that Istio gives a meaning; all others
//! are dropped while they are being decoded. What is kept is never shown: `Debug`
//! and errors name entries and say nothing of what is in them.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::intern::interned;
use super::meta::Meta;

/// A secret.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Secret {
    /// Name and labels.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// What it is for, by convention.
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// What is in it.
    pub data: SecretData,
    /// The same as people write it in files. The API server has it in `data`.
    #[serde(rename = "stringData")]
    pub text: SecretText,
}

impl Secret {
    /// An entry that is there and not empty.
    pub fn get(&self, entry: Entry) -> Option<&Bytes> {
        let found = self.text.0.get(entry).or_else(|| self.data.0.get(entry));
        found.filter(|value| !value.is_empty())
    }

    /// Whether an entry is there, if only empty.
    pub fn has(&self, entry: Entry) -> bool {
        self.text.0.get(entry).or_else(|| self.data.0.get(entry)).is_some()
    }
}

/// An entry of the data that has a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// The certificate and its intermediates, of Istio's layout.
    Cert,
    /// Its key.
    Key,
    /// Who is trusted.
    CaCert,
    /// What they have revoked.
    Crl,
    /// The certificate and its intermediates, of Kubernetes' layout.
    TlsCert,
    /// Its key.
    TlsKey,
    /// What the authority says of the certificate.
    TlsOcspStaple,
    /// Who is trusted.
    TlsCaCert,
    /// What they have revoked.
    TlsCrl,
}

impl Entry {
    const ALL: [Self; 9] = [
        Self::Cert,
        Self::Key,
        Self::CaCert,
        Self::Crl,
        Self::TlsCert,
        Self::TlsKey,
        Self::TlsOcspStaple,
        Self::TlsCaCert,
        Self::TlsCrl,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cert => "cert",
            Self::Key => "key",
            Self::CaCert => "cacert",
            Self::Crl => "crl",
            Self::TlsCert => "tls.crt",
            Self::TlsKey => "tls.key",
            Self::TlsOcspStaple => "tls.ocsp-staple",
            Self::TlsCaCert => "ca.crt",
            Self::TlsCrl => "ca.crl",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|entry| entry.name() == name)
    }
}

/// The entries that are kept, few and in their order.
#[derive(Clone, Default, PartialEq)]
struct Entries(Box<[(Entry, Bytes)]>);

impl Entries {
    fn get(&self, entry: Entry) -> Option<&Bytes> {
        self.0.iter().find(|(other, _)| *other == entry).map(|(_, value)| value)
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(entry, _)| entry.name())).finish()
    }
}

/// What is in a secret, as the API server has it: base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecretData(Entries);

/// What is in a secret, as people write it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecretText(Entries);

impl<'de> Deserialize<'de> for SecretData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(EntriesVisitor { encoded: true }).map(Self)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(EntriesVisitor { encoded: false }).map(Self)
    }
}

struct EntriesVisitor {
    /// Whether texts are base64.
    encoded: bool,
}

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_none<E>(self) -> Result<Entries, E> {
        Ok(Entries::default())
    }

    fn visit_unit<E>(self) -> Result<Entries, E> {
        Ok(Entries::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entries, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            let Some(entry) = name else {
                map.next_value::<serde::de::IgnoredAny>()?;
                continue;
            };
            let value = match map.next_value::<Content>()? {
                Content::Raw(bytes) => bytes,
                Content::Text(text) if !self.encoded => text.into_bytes(),
                Content::Text(text) => base64(&text)
                    // Never with the text itself.
                    .ok_or_else(|| A::Error::custom(format_args!("entry {} is not base64", entry.name())))?,
                Content::Wrong => {
                    return Err(A::Error::custom(format_args!("entry {} is not a text", entry.name())));
                }
            };
            entries.push((entry, Bytes::from(value)));
        }
        entries.sort_by_key(|(entry, _)| *entry);
        entries.dedup_by_key(|(entry, _)| *entry);
        Ok(Entries(entries.into()))
    }
}

/// The name of an entry, if it has a meaning.
struct Name(Option<Entry>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                Ok(Name(Entry::of(text)))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

/// What is in an entry. Errors of a deserializer may quote what they do not
/// expect, so nothing is unexpected here.
enum Content {
    Text(String),
    Raw(Vec<u8>),
    Wrong,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Content, E> {
                Ok(Content::Raw(bytes.to_owned()))
            }

            fn visit_none<E>(self) -> Result<Content, E> {
                Ok(Content::Raw(Vec::new()))
            }

            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::Raw(Vec::new()))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Content, E> {
                Ok(Content::Wrong)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Content, E> {
                Ok(Content::Wrong)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Content, E> {
                Ok(Content::Wrong)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Content, E> {
                Ok(Content::Wrong)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
                deserializer.deserialize_any(self)
            }
        }

        deserializer.deserialize_option(ContentVisitor)
    }
}

/// Decodes base64 in which lines may end.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    // OpenSSL's decoder takes padding anywhere for zeros.
    let body = text.trim_end_matches('=');
    let padded = text.len().is_multiple_of(4) && text.len() - body.len() <= 2 && !body.contains('=');
    padded.then(|| openssl::base64::decode_block(&text).ok())?
}
