//! A resource as it travels: encoded once, shared by every stream.
//!
//! This module holds THE table of xDS types and is the only place that frames
//! a resource. It refuses to know what a message means; it only knows that the
//! inside of an `Address` can be sent on its own as a `Workload`.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};
use rapidhash::v3::rapidhash_v3;

use super::view::LayerKind;

/// A type of resource that can be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// L4 authorization policies for ztunnel.
    Authorization,
    /// Workloads and services for ztunnel.
    Address,
    /// The workloads alone, for the peer metadata of Envoys.
    Workload,
}

/// One row of the table of types.
struct Row {
    type_url: &'static str,
    /// The value of the `type` label of metrics.
    label: &'static str,
    /// Make before break: additions go out in ascending rank, so that nothing
    /// refers to what has not arrived; removals in descending rank.
    rank: u8,
    layer: LayerKind,
    projection: Projection,
    /// Whether ztunnels are sent what runs on their node without asking.
    node_local: bool,
}

/// Which part of a stored message a type sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Projection {
    /// The message as it is stored.
    Whole,
    /// Only messages made of field 1 alone, and of those the inner message.
    First,
}

/// How a resource is laid out in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `DeltaDiscoveryResponse.resources`.
    Delta,
    /// The same, listing the other names the resource answers to.
    DeltaWithAliases,
    /// `DiscoveryResponse.resources`.
    Sotw,
}

impl ResourceType {
    /// Every type, in the order of their ranks.
    pub const ALL: [Self; 3] = [Self::Authorization, Self::Address, Self::Workload];

    /// THE table of xDS types.
    const fn row(self) -> Row {
        match self {
            // A policy must arrive before the address that refers to it:
            // ztunnel ignores references it cannot resolve, which fails open.
            Self::Authorization => Row {
                type_url: "type.googleapis.com/istio.security.Authorization",
                label: "Authorization",
                rank: 0,
                layer: LayerKind::Authorizations,
                projection: Projection::Whole,
                node_local: false,
            },
            Self::Address => Row {
                type_url: "type.googleapis.com/istio.workload.Address",
                label: "Address",
                rank: 1,
                layer: LayerKind::Addresses,
                projection: Projection::Whole,
                node_local: true,
            },
            Self::Workload => Row {
                type_url: "type.googleapis.com/istio.workload.Workload",
                label: "Workload",
                rank: 1,
                layer: LayerKind::Addresses,
                projection: Projection::First,
                node_local: false,
            },
        }
    }

    /// The type a request or response names, or `None` if it is not served.
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.type_url() == type_url)
    }

    /// The type URL as it appears on the wire.
    pub const fn type_url(self) -> &'static str {
        self.row().type_url
    }

    /// The short name used in metrics, logs and debug pages.
    pub const fn label(self) -> &'static str {
        self.row().label
    }

    /// The make-before-break rank: lower ranks are referred to by higher ones.
    pub const fn rank(self) -> u8 {
        self.row().rank
    }

    /// The layer of a view this type is served from.
    pub const fn layer(self) -> LayerKind {
        self.row().layer
    }

    /// Whether ztunnels are sent the resources of their node without asking.
    pub const fn node_local(self) -> bool {
        self.row().node_local
    }

    /// Whether subscribers of this type are sent the resource.
    pub fn carries(self, resource: &Resource) -> bool {
        self.layer() == resource.ty.layer()
            && match self.row().projection {
                Projection::Whole => true,
                Projection::First => resource.inner.is_some() || resource.is_stub(),
            }
    }
}

impl serde::Serialize for ResourceType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

/// A Kubernetes object a resource was made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Origin {
    /// The kind, such as `Pod`.
    pub kind: &'static str,
    /// The namespace, empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

/// The keys besides its name under which a resource can be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Other names of this very resource, such as `network/ip`.
    pub aliases: Box<[Arc<str>]>,
    /// Names of resources that are of no use without this one: for a workload
    /// the `namespace/hostname` of each of its services.
    pub related: Box<[Arc<str>]>,
    /// The Kubernetes node it runs on.
    pub node: Option<Arc<str>>,
}

/// A hash of the encoded message, equal on every replica and in every build.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(u64);

/// One encoded resource. Equal resources have the same name, content and keys.
#[derive(Clone)]
pub struct Resource {
    ty: ResourceType,
    name: Arc<str>,
    version: Version,
    /// The whole `resources` field of a `DeltaDiscoveryResponse`. The `Any` is
    /// the last field inside and has number 2 like `resources` itself, so the
    /// end of this frame is the `resources` field of a `DiscoveryResponse`.
    frame: Bytes,
    /// Where the fields of the `Resource` message begin in the frame.
    body: u32,
    /// Where the `Any` begins in the frame.
    any: u32,
    /// Where the message begins; it runs to the frame's end.
    value: u32,
    /// Where the message inside its field 1 begins, if it is nothing else.
    inner: Option<u32>,
    keys: Keys,
    origin: Arc<[Origin]>,
}

/// Field 1 with a length: `Any.type_url`, `Resource.version`, `Address.workload`.
const FIELD_1: u8 = 0x0a;
/// Field 2 with a length: `resources`, `Resource.resource`, `Any.value`.
const FIELD_2: u8 = 0x12;
/// Field 3 with a length: `Resource.name`.
const FIELD_3: u8 = 0x1a;
/// Field 4 with a length: `Resource.aliases`.
const FIELD_4: u8 = 0x22;

impl Resource {
    /// Frames an encoded message. `ty` is the type it is stored as, so never a
    /// type that is a projection of another.
    pub fn new(ty: ResourceType, name: impl Into<Arc<str>>, message: &[u8], keys: Keys, origin: Arc<[Origin]>) -> Self {
        debug_assert_eq!(ty.row().projection, Projection::Whole);
        let name = name.into();
        let version = Version(rapidhash_v3(message));
        let any_body = field_len(ty.type_url().len()) + field_len(message.len());
        let length = field_len(name.len()) + field_len(VERSION_DIGITS) + field_len(any_body);
        let mut frame = BytesMut::with_capacity(field_len(length));
        put_key(&mut frame, FIELD_2, length);
        let body = frame.len() as u32;
        put_field(&mut frame, FIELD_3, name.as_bytes());
        put_field(&mut frame, FIELD_1, version.to_string().as_bytes());
        let any = frame.len() as u32;
        put_any(&mut frame, ty, message);
        let value = (frame.len() - message.len()) as u32;
        let inner = first_field(message).map(|inner| (frame.len() - inner.len()) as u32);
        Self { ty, name, version, frame: frame.freeze(), body, any, value, inner, keys, origin }
    }

    /// Something a client says it holds and that we do not have.
    pub(super) fn stub(ty: ResourceType, name: Arc<str>, version: &[u8]) -> Self {
        let (frame, keys, origin) = (Bytes::new(), Keys::default(), Arc::default());
        // A version that is none of ours only has to differ from all of ours.
        let version = Version::parse(version).unwrap_or(Version(0));
        Self { ty, name, version, frame, body: 0, any: 0, value: 0, inner: None, keys, origin }
    }

    pub(super) fn is_stub(&self) -> bool {
        self.frame.is_empty()
    }

    /// The name clients subscribe to.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The content version clients echo when they reconnect.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The keys it can be found under besides its name.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The objects it was made from.
    pub fn origin(&self) -> &Arc<[Origin]> {
        &self.origin
    }

    /// The encoded message itself, as a type that [`carries`] the resource
    /// sends it.
    ///
    /// [`carries`]: ResourceType::carries
    pub fn message(&self, ty: ResourceType) -> Bytes {
        if let (Projection::First, Some(inner)) = (ty.row().projection, self.inner) {
            return self.frame.slice(inner as usize..);
        }
        self.frame.slice(self.value as usize..)
    }

    /// The exact number of bytes that [`write`](Self::write) appends.
    pub fn encoded_len(&self, ty: ResourceType, framing: Framing) -> usize {
        let any = match ty.row().projection {
            Projection::Whole => self.frame.len() - self.any as usize,
            Projection::First => field_len(self.projected_any_len(ty)),
        };
        let identity = (self.any - self.body) as usize;
        match framing {
            Framing::Sotw => any,
            Framing::Delta => field_len(identity + any),
            Framing::DeltaWithAliases => field_len(identity + self.aliases_len() + any),
        }
    }

    /// Appends the `resources` field that carries this resource as `ty`.
    pub fn write(&self, ty: ResourceType, framing: Framing, out: &mut BytesMut) {
        if let Some(frame) = self.shared_frame(ty, framing) {
            return out.put_slice(&frame);
        }
        let identity = &self.frame[self.body as usize..self.any as usize];
        let any = match ty.row().projection {
            Projection::Whole => self.frame.len() - self.any as usize,
            Projection::First => field_len(self.projected_any_len(ty)),
        };
        match framing {
            Framing::Sotw => {}
            Framing::Delta => {
                put_key(out, FIELD_2, identity.len() + any);
                out.put_slice(identity);
            }
            Framing::DeltaWithAliases => {
                put_key(out, FIELD_2, identity.len() + self.aliases_len() + any);
                out.put_slice(identity);
                for alias in &self.keys.aliases {
                    put_field(out, FIELD_4, alias.as_bytes());
                }
            }
        }
        match ty.row().projection {
            Projection::Whole => out.put_slice(&self.frame[self.any as usize..]),
            Projection::First => put_any(out, ty, self.inner()),
        }
    }

    /// The bytes [`write`](Self::write) would append, if they exist already.
    pub fn shared_frame(&self, ty: ResourceType, framing: Framing) -> Option<Bytes> {
        match (ty.row().projection, framing) {
            (Projection::Whole, Framing::Delta) => Some(self.frame.clone()),
            (Projection::Whole, Framing::DeltaWithAliases) if self.keys.aliases.is_empty() => Some(self.frame.clone()),
            (Projection::Whole, Framing::Sotw) => Some(self.frame.slice(self.any as usize..)),
            (Projection::Whole, Framing::DeltaWithAliases) | (Projection::First, _) => None,
        }
    }

    fn inner(&self) -> &[u8] {
        self.inner.map_or(&[], |at| &self.frame[at as usize..])
    }

    fn projected_any_len(&self, ty: ResourceType) -> usize {
        field_len(ty.type_url().len()) + field_len(self.inner().len())
    }

    fn aliases_len(&self) -> usize {
        self.keys.aliases.iter().map(|alias| field_len(alias.len())).sum()
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
            && self.is_stub() == other.is_stub()
            && self.name == other.name
            && self.keys == other.keys
    }
}

// Being `Eq` also makes comparing two `Arc`s of one allocation free.
impl Eq for Resource {}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// The length of a [`Version`] as text.
const VERSION_DIGITS: usize = 16;

impl Version {
    /// Reads what [`Display`](fmt::Display) writes.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() == VERSION_DIGITS)?;
        u64::from_str_radix(text, 16).ok().map(Self)
    }

    /// Whether this is the version a client wrote.
    pub fn is(self, text: &[u8]) -> bool {
        // Parsed rather than formatted: this runs once per resource that a
        // reconnecting client lists.
        Self::parse(text) == Some(self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The message inside field 1, if the outer message is nothing but that field.
fn first_field(message: &[u8]) -> Option<&[u8]> {
    let mut rest = message.strip_prefix(&[FIELD_1])?;
    let length = decode_varint(&mut rest).ok()?;
    (length == rest.len() as u64).then_some(rest)
}

fn put_any(out: &mut BytesMut, ty: ResourceType, value: &[u8]) {
    put_key(out, FIELD_2, field_len(ty.type_url().len()) + field_len(value.len()));
    put_field(out, FIELD_1, ty.type_url().as_bytes());
    put_field(out, FIELD_2, value);
}

fn put_key(out: &mut BytesMut, key: u8, length: usize) {
    out.put_u8(key);
    encode_varint(length as u64, out);
}

/// Appends a length-delimited field whose number is below 16.
pub(super) fn put_field(out: &mut BytesMut, key: u8, value: &[u8]) {
    put_key(out, key, value.len());
    out.put_slice(value);
}

/// The length of a length-delimited field whose number is below 16.
pub(super) fn field_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

#[cfg(test)]
mod tests;
