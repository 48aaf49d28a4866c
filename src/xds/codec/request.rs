//! Discovery requests, read straight from their fields.
//!
//! The number of names, versions and the size of the node are bounded here, so
//! that a message costs a small multiple of its own length.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::google::rpc::Status as RpcStatus;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use tonic::Status;

use crate::xds::resource::name_hash;
use crate::xds::stream::subscription::MAX_NAMES;

/// How large the node of a request may be.
const MAX_NODE: usize = 1 << 20;
/// How much of a rejection is kept: one that names thousands of resources says
/// nothing more at its end.
const MAX_REJECTION: usize = 4096;
/// How many resources a reconnecting client may list.
const MAX_VERSIONS: usize = 2_000_000;

/// A `DeltaDiscoveryRequest`.
#[derive(Debug, Default)]
pub struct DeltaRequest {
    /// The client; required in the first request of a stream.
    pub node: Option<WireNode>,
    /// The type it is about.
    pub type_url: String,
    /// Names to subscribe to.
    pub subscribe: Vec<Arc<str>>,
    /// Names to unsubscribe from.
    pub unsubscribe: Vec<Arc<str>>,
    /// What the client holds from an earlier stream.
    pub initial_versions: InitialVersions,
    /// The response it answers.
    pub response_nonce: String,
    /// Why that response was rejected.
    pub rejection: Option<Rejection>,
}

/// A `DiscoveryRequest`.
#[derive(Debug, Default)]
pub struct SotwRequest {
    /// The client; required in the first request of a stream.
    pub node: Option<WireNode>,
    /// The type it is about.
    pub type_url: String,
    /// All names subscribed to.
    pub resource_names: Vec<Arc<str>>,
    /// The response it answers.
    pub response_nonce: String,
    /// Why that response was rejected.
    pub rejection: Option<Rejection>,
}

/// The `error_detail` of a request: a NACK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejection {
    /// The client's words, at most a few kilobytes of them.
    pub message: String,
}

/// `initial_resource_versions`, kept as slices of the message it came in.
#[derive(Debug, Default)]
pub struct InitialVersions {
    message: Bytes,
    /// Ordered by hash and name, as layers are; each name once.
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    name: (u32, u32),
    version: (u32, u32),
}

/// A resource that a client says it holds.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The hash of its name.
    pub hash: u64,
    name: &'a [u8],
    /// Its version, in the client's words.
    pub version: &'a [u8],
}

impl<'a> Listed<'a> {
    /// Its name, for those who only compare it.
    pub fn name_bytes(&self) -> &'a [u8] {
        self.name
    }

    /// Its name.
    pub fn name(&self) -> &'a str {
        // Was checked when the message was read.
        std::str::from_utf8(self.name).unwrap_or_default()
    }
}

impl DeltaRequest {
    /// Reads a message.
    pub fn decode(message: Bytes) -> Result<Self, Status> {
        let mut request = Self::default();
        let mut entries = Vec::new();
        for field in fields(&message, 0..message.len()) {
            let (number, range) = field?;
            let value = &message[range.clone()];
            match number {
                1 => request.node = Some(node(value)?),
                2 => request.type_url = text(value)?.to_owned(),
                3 => push_name(&mut request.subscribe, value)?,
                4 => push_name(&mut request.unsubscribe, value)?,
                5 if entries.len() == MAX_VERSIONS => return Err(too_many("initial_resource_versions")),
                5 => entries.push(entry(&message, range)?),
                6 => request.response_nonce = text(value)?.to_owned(),
                7 => request.rejection = Some(rejection(value)?),
                _ => {}
            }
        }
        request.initial_versions = InitialVersions::new(message, entries);
        Ok(request)
    }
}

impl SotwRequest {
    /// Reads a message.
    pub fn decode(message: Bytes) -> Result<Self, Status> {
        let mut request = Self::default();
        for field in fields(&message, 0..message.len()) {
            let (number, range) = field?;
            let value = &message[range];
            match number {
                2 => request.node = Some(node(value)?),
                3 => push_name(&mut request.resource_names, value)?,
                4 => request.type_url = text(value)?.to_owned(),
                5 => request.response_nonce = text(value)?.to_owned(),
                6 => request.rejection = Some(rejection(value)?),
                _ => {}
            }
        }
        Ok(request)
    }
}

impl InitialVersions {
    fn new(message: Bytes, mut entries: Vec<Entry>) -> Self {
        if entries.is_empty() {
            // Do not keep the message alive for nothing.
            return Self::default();
        }
        let name = |entry: &Entry| &message[entry.name.0 as usize..entry.name.1 as usize];
        // Of the entries of one map key the last one counts, hence the place.
        let order = |a: &Entry, b: &Entry| a.hash.cmp(&b.hash).then_with(|| name(a).cmp(name(b)));
        entries.sort_unstable_by(|a, b| order(a, b).then(b.name.0.cmp(&a.name.0)));
        entries.dedup_by(|other, last| other.hash == last.hash && name(other) == name(last));
        Self { message, entries }
    }

    /// How many resources are listed.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no resource is listed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is listed, in the order of layers.
    pub fn iter(&self) -> impl Iterator<Item = Listed<'_>> {
        self.entries.iter().map(|entry| Listed {
            hash: entry.hash,
            name: &self.message[entry.name.0 as usize..entry.name.1 as usize],
            version: &self.message[entry.version.0 as usize..entry.version.1 as usize],
        })
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for InitialVersions {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(versions: I) -> Self {
        let (mut message, mut entries) = (String::new(), Vec::new());
        for (name, version) in versions {
            let start = message.len() as u32;
            message.push_str(name);
            let middle = message.len() as u32;
            message.push_str(version);
            let hash = name_hash(name);
            entries.push(Entry { hash, name: (start, middle), version: (middle, message.len() as u32) });
        }
        Self::new(message.into(), entries)
    }
}

/// The length-delimited fields of a message; all others are skipped.
fn fields(message: &[u8], within: Range<usize>) -> impl Iterator<Item = Result<(u32, Range<usize>), Status>> {
    let (mut at, end) = (within.start, within.end);
    std::iter::from_fn(move || {
        while at < end {
            match field(&message[at..end]) {
                Some((number, Some(length), size)) => {
                    at += size;
                    return Some(Ok((number, at - length..at)));
                }
                Some((_, None, size)) => at += size,
                None => {
                    at = end;
                    return Some(Err(malformed()));
                }
            }
        }
        None
    })
}

/// The number of the first field, the length of its value if it has one, and
/// the size of all of it.
fn field(bytes: &[u8]) -> Option<(u32, Option<usize>, usize)> {
    let mut rest = bytes;
    let (number, wire_type) = decode_key(&mut rest).ok()?;
    let (value, skip) = match wire_type {
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            (Some(length), length)
        }
        WireType::Varint => {
            decode_varint(&mut rest).ok()?;
            (None, 0)
        }
        WireType::SixtyFourBit => (None, 8),
        WireType::ThirtyTwoBit => (None, 4),
        // Groups are not part of any version of this protocol.
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    let size = (bytes.len() - rest.len()).checked_add(skip)?;
    (size <= bytes.len()).then_some((number, value, size))
}

fn entry(message: &[u8], range: Range<usize>) -> Result<Entry, Status> {
    // Messages are far smaller than 4 GiB: gRPC lengths have 32 bits.
    let mut entry = Entry { hash: name_hash(""), name: (0, 0), version: (0, 0) };
    for field in fields(message, range) {
        let (number, range) = field?;
        let place = (range.start as u32, range.end as u32);
        match number {
            1 => {
                entry.hash = name_hash(text(&message[range])?);
                entry.name = place;
            }
            2 => entry.version = place,
            _ => {}
        }
    }
    Ok(entry)
}

fn node(bytes: &[u8]) -> Result<WireNode, Status> {
    if bytes.len() > MAX_NODE {
        return Err(Status::invalid_argument("the node is too large"));
    }
    WireNode::decode(bytes).map_err(|_| malformed())
}

fn rejection(bytes: &[u8]) -> Result<Rejection, Status> {
    let mut message = RpcStatus::decode(bytes).map_err(|_| malformed())?.message;
    message.truncate(message.floor_char_boundary(MAX_REJECTION));
    message.shrink_to_fit();
    Ok(Rejection { message })
}

fn push_name(names: &mut Vec<Arc<str>>, bytes: &[u8]) -> Result<(), Status> {
    if names.len() == MAX_NAMES {
        return Err(too_many("names"));
    }
    names.push(text(bytes)?.into());
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, Status> {
    std::str::from_utf8(bytes).map_err(|_| malformed())
}

fn malformed() -> Status {
    Status::invalid_argument("malformed discovery request")
}

fn too_many(what: &str) -> Status {
    Status::resource_exhausted(format!("too many {what} in one request"))
}
