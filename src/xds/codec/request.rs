//! Discovery requests, read straight from their fields while they arrive.
//!
//! The number of names, versions and the size of the node are bounded here, so
//! that a message costs a small multiple of its own length, and one that lists
//! what we have costs next to nothing.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::google::rpc::Status as RpcStatus;
use prost::Message;
use smallvec::SmallVec;
use tonic::Status;

use crate::wire::{self, Fields, Value};
use crate::xds::resource::ResourceType;
use crate::xds::stream::Variant;
use crate::xds::stream::subscription::MAX_NAMES;
use crate::xds::view::{InitialVersions, TOGETHER, Views};

/// How large the node of a request may be.
const MAX_NODE: usize = 1 << 20;
/// How much of a rejection is kept: one that names thousands of resources says
/// nothing more at its end.
const MAX_REJECTION: usize = 4096;
/// How many resources a reconnecting client may list.
const MAX_VERSIONS: usize = 2_000_000;

/// A request of either variant, as far as it was read.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the larger one")]
pub enum Request {
    /// Of the incremental variant.
    Delta(DeltaRequest),
    /// Of the state of the world.
    Sotw(SotwRequest),
}

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
    /// What the client holds from an earlier stream, if it lists anything.
    pub initial_versions: Option<InitialVersions>,
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
    /// Whether the client has accepted something, of this stream or of one before.
    pub holds: bool,
}

/// The `error_detail` of a request: a NACK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejection {
    /// The client's words, at most a few kilobytes of them.
    pub message: String,
}

impl Request {
    /// A request of which nothing was read.
    pub fn new(variant: Variant) -> Self {
        match variant {
            Variant::Delta => Self::Delta(DeltaRequest::default()),
            Variant::Sotw => Self::Sotw(SotwRequest::default()),
        }
    }

    /// Reads on. Says how much of `bytes` it is done with: all, if these are
    /// the last ones. What a client lists is compared with `views`.
    pub fn read(&mut self, bytes: &[u8], last: bool, views: &Views) -> Result<usize, Status> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match field(rest) {
                Some((number, value, size)) => match self {
                    Self::Delta(request) if number == VERSIONS => match request.versions(rest, last, views)? {
                        0 => break,
                        size => at += size,
                    },
                    Self::Delta(request) => {
                        request.field(number, value)?;
                        at += size;
                    }
                    Self::Sotw(request) => {
                        request.field(number, value)?;
                        at += size;
                    }
                },
                // It may go on; whether it is malformed is seen at its end.
                None if !last => break,
                None => return Err(malformed()),
            }
        }
        Ok(at)
    }
}

/// The number of `initial_resource_versions`.
const VERSIONS: u32 = 5;

impl DeltaRequest {
    fn field(&mut self, number: u32, value: &[u8]) -> Result<(), Status> {
        match number {
            1 => self.node = Some(node(value)?),
            2 => self.type_url(value)?,
            3 => push_name(&mut self.subscribe, value)?,
            4 => push_name(&mut self.unsubscribe, value)?,
            6 => self.response_nonce = text(value)?.to_owned(),
            7 => self.rejection = Some(rejection(value)?),
            _ => {}
        }
        Ok(())
    }

    fn type_url(&mut self, value: &[u8]) -> Result<(), Status> {
        let type_url = text(value)?;
        if self.initial_versions.is_some() && type_url != self.type_url {
            return Err(malformed());
        }
        self.type_url = type_url.to_owned();
        Ok(())
    }

    /// Reads the entries of `initial_resource_versions` with which the rest of
    /// the message begins, up to some dozens. Says how long they are: 0 if they
    /// cannot be understood before all of the message is there.
    fn versions(&mut self, rest: &[u8], last: bool, views: &Views) -> Result<usize, Status> {
        // The usual order of fields is that of their numbers.
        if self.type_url.is_empty() {
            if !last {
                return Ok(0);
            }
            for field in fields(rest) {
                if let (2, value) = field? {
                    self.type_url(value)?;
                }
            }
        }
        let (mut entries, mut size) = (SmallVec::<[&[u8]; TOGETHER]>::new(), 0);
        while entries.len() < TOGETHER
            && let Some((VERSIONS, entry, length)) = field(&rest[size..])
        {
            entries.push(entry);
            size += length;
        }
        let mut others = SmallVec::<[&[u8]; TOGETHER]>::new();
        if self.initial_versions.is_none() {
            // A request of any other type will be ignored.
            let ty = ResourceType::from_type_url(&self.type_url);
            self.initial_versions = ty.map(|ty| InitialVersions::new(ty, views));
        }
        match &mut self.initial_versions {
            Some(versions) if versions.len() + entries.len() > MAX_VERSIONS => {
                return Err(too_many("initial_resource_versions"));
            }
            Some(versions) => versions.tick(&entries, |entry| others.push(entry)),
            None => others = entries,
        }
        for entry in others {
            let (mut name, mut version) = (&[][..], &[][..]);
            for field in fields(entry) {
                match field? {
                    (1, value) => name = value,
                    (2, value) => version = value,
                    _ => {}
                }
            }
            if let Some(versions) = &mut self.initial_versions {
                versions.add(name, version).map_err(|_| malformed())?;
            }
        }
        Ok(size)
    }
}

impl SotwRequest {
    fn field(&mut self, number: u32, value: &[u8]) -> Result<(), Status> {
        match number {
            // A version, which means nothing but that there is one.
            1 => self.holds = !value.is_empty(),
            2 => self.node = Some(node(value)?),
            3 => push_name(&mut self.resource_names, value)?,
            4 => self.type_url = text(value)?.to_owned(),
            5 => self.response_nonce = text(value)?.to_owned(),
            6 => self.rejection = Some(rejection(value)?),
            _ => {}
        }
        Ok(())
    }
}

/// The fields of a complete message, as those of [`field`].
fn fields(message: &[u8]) -> impl Iterator<Item = Result<(u32, &[u8]), Status>> {
    Fields::new(message).map(|field| field.map(|(number, value)| wanted(number, value)).map_err(|_| malformed()))
}

/// The number and the value of the first field, and the size of all of it.
fn field(bytes: &[u8]) -> Option<(u32, &[u8], usize)> {
    let (number, value, size) = wire::first(bytes)?;
    let (number, value) = wanted(number, value);
    Some((number, value, size))
}

/// A field that is not length-delimited is of no use here: its number is 0.
fn wanted(number: u32, value: Value<'_>) -> (u32, &[u8]) {
    match value {
        Value::Bytes(bytes) => (number, bytes),
        Value::Varint(_) | Value::Fixed => (0, &[]),
    }
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
