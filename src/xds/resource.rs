//! A resource as it travels: encoded once, shared by every stream.
//!
//! This module is the only place that frames a resource; `types` holds THE table
//! of xDS types. This one refuses to know what a message means; it only knows that the
//! inside of an `Address` can be sent on its own as a `Workload`.

mod pieces;
mod types;

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};
use rapidhash::v3::rapidhash_v3;

pub(super) use pieces::Pieces;
pub use pieces::{Body, Piece};
use types::Projection;
pub use types::{Family, ResourceType};

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
pub struct Version(pub(super) u64);

/// What a key says about the resource it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Relation {
    /// It is another name of the resource.
    Alias,
    /// It names what is of no use without the resource.
    Related,
    /// It is the node the resource runs on.
    Node,
}

/// One encoded resource. Equal resources have the same name, content and keys.
///
/// A handle to pieces of shared buffers, made when a layer is asked for it.
#[derive(Clone)]
pub struct Resource {
    version: Version,
    /// The whole `resources` field of a `DeltaDiscoveryResponse`. The `Any` is
    /// the last field inside and has number 2 like `resources` itself, so the
    /// end of this frame is the `resources` field of a `DiscoveryResponse`.
    /// Without an `Any` it stands for something that only a client has.
    frame: Bytes,
    /// The type it is stored as, and its keys, as far as they are not in the
    /// frame: see [`facts`].
    facts: Bytes,
    /// The message, if that is in pieces: the frame ends before it then.
    rest: Option<Arc<Pieces>>,
}

/// Where the parts of a frame begin.
struct Layout {
    /// The fields of the `Resource` message.
    body: usize,
    /// The `Any`; the frame's end if there is none.
    any: usize,
    /// The message; it runs to the frame's end.
    value: usize,
}

/// Field 1 with a length: `Any.type_url`, `Resource.version`, `Address.workload`.
pub(super) const FIELD_1: u8 = 0x0a;
/// Field 2 with a length: `resources`, `Resource.resource`, `Any.value`.
pub(super) const FIELD_2: u8 = 0x12;
/// Field 3 with a length: `Resource.name`.
const FIELD_3: u8 = 0x1a;
/// Field 4 with a length: `Resource.aliases`.
const FIELD_4: u8 = 0x22;

/// Orders resources: the same on every replica and in every build.
pub(super) fn name_hash(name: impl AsRef<[u8]>) -> u64 {
    rapidhash_v3(name.as_ref())
}

impl Resource {
    /// Frames an encoded message. `ty` is the type it is stored as, so never a
    /// type that is a projection of another.
    pub fn new(ty: ResourceType, name: &str, message: &[u8], keys: &Keys) -> Self {
        let version = Version(rapidhash_v3(message));
        let mut frame = head(ty, name, version, message.len(), message.len());
        frame.put_slice(message);
        let facts = facts(ty, keys, &frame);
        Self { version, frame: frame.freeze(), facts, rest: None }
    }

    /// Frames a message whose version is given, as part of it must not be told
    /// from that.
    pub(super) fn of_version(ty: ResourceType, name: &str, version: Version, message: &[u8]) -> Self {
        let mut frame = head(ty, name, version, message.len(), message.len());
        frame.put_slice(message);
        let facts = facts(ty, &Keys::default(), &frame);
        Self { version, frame: frame.freeze(), facts, rest: None }
    }

    /// Frames a message that may be in pieces, and is found by its name alone.
    pub fn of(ty: ResourceType, name: &str, message: impl Into<Body>) -> Self {
        let pieces = match message.into() {
            Body::Whole(message) => return Self::new(ty, name, &message, &Keys::default()),
            Body::Pieces(pieces) => Pieces::new(pieces),
        };
        let version = Version(pieces.hash());
        let frame = head(ty, name, version, pieces.len(), 0);
        let facts = facts(ty, &Keys::default(), &frame);
        Self { version, frame: frame.freeze(), facts, rest: Some(Arc::new(pieces)) }
    }

    /// Something a client says it holds and that we do not have.
    pub(super) fn stub(ty: ResourceType, name: &str, version: &[u8]) -> Self {
        // A version that is none of ours only has to differ from all of ours.
        let version = Version::parse(version).unwrap_or(Version(0));
        let mut frame = BytesMut::new();
        put_key(&mut frame, FIELD_2, field_len(name.len()) + field_len(VERSION_DIGITS));
        put_field(&mut frame, FIELD_3, name.as_bytes());
        put_field(&mut frame, FIELD_1, version.to_string().as_bytes());
        let facts = facts(ty, &Keys::default(), &frame);
        Self { version, frame: frame.freeze(), facts, rest: None }
    }

    /// The resource that a layer keeps in these pieces of its buffers.
    pub(super) fn stored(version: Version, frame: Bytes, facts: Bytes, rest: Option<Arc<Pieces>>) -> Self {
        Self { version, frame, facts, rest }
    }

    /// What a layer keeps of it: its frame, and the rest.
    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        (&self.frame, &self.facts)
    }

    /// The message, if it is in pieces and not in the frame.
    pub(super) fn rest(&self) -> Option<&Arc<Pieces>> {
        self.rest.as_ref()
    }

    /// The `resources` field of a `DeltaDiscoveryResponse`, as it is kept.
    pub(super) fn frames(&self) -> impl Iterator<Item = Bytes> {
        let rest = self.rest.iter().flat_map(|rest| rest.iter().cloned());
        std::iter::once(self.frame.clone()).chain(rest)
    }

    /// The length of all that [`frames`](Self::frames) has.
    pub(super) fn frame_len(&self) -> usize {
        self.frame.len() + self.rest_len()
    }

    /// The length of a message that is not in the frame.
    fn rest_len(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    pub(super) fn is_stub(&self) -> bool {
        self.layout().any == self.frame.len()
    }

    /// The name clients subscribe to.
    pub fn name(&self) -> &str {
        frame_name(&self.frame)
    }

    /// The content version clients echo when they reconnect.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Differs between resources of one name that are not equal.
    pub fn fingerprint(&self) -> u64 {
        self.version.0 ^ rapidhash_v3(&self.facts)
    }

    /// The type it is stored as.
    pub fn ty(&self) -> ResourceType {
        stored_type(&self.facts)
    }

    /// Other names of this very resource.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        self.keys(Relation::Alias)
    }

    /// Names of resources that are of no use without this one.
    pub fn related(&self) -> impl Iterator<Item = &str> {
        self.keys(Relation::Related)
    }

    /// The Kubernetes node it runs on.
    pub fn node(&self) -> Option<&str> {
        self.keys(Relation::Node).next()
    }

    /// The keys of one relation.
    pub(super) fn keys(&self, relation: Relation) -> impl Iterator<Item = &str> {
        relations(&self.frame, &self.facts).filter(move |(found, _)| *found == relation).map(|(_, key)| key)
    }

    /// The encoded message itself, as a type that [`carries`] the resource
    /// sends it.
    ///
    /// [`carries`]: ResourceType::carries
    pub fn message(&self, ty: ResourceType) -> Bytes {
        if let Some(rest) = &self.rest {
            // For people only: what is sent is not put together.
            return rest.iter().map(|piece| &**piece).collect::<Vec<_>>().concat().into();
        }
        match (ty.projection(), self.inner()) {
            (Projection::First, Some(inner)) => self.frame.slice_ref(inner),
            _ => self.frame.slice(self.layout().value..),
        }
    }

    /// The exact number of bytes that [`write`](Self::write) appends.
    pub fn encoded_len(&self, ty: ResourceType, framing: Framing) -> usize {
        let Layout { body, any, .. } = self.layout();
        let content = match ty.projection() {
            Projection::Whole => self.frame.len() - any + self.rest_len(),
            Projection::First => field_len(self.projected_any_len(ty)),
        };
        let identity = any - body;
        match framing {
            Framing::Sotw => content,
            Framing::Delta => field_len(identity + content),
            Framing::DeltaWithAliases => field_len(identity + self.aliases_len() + content),
        }
    }

    /// Appends the `resources` field that carries this resource as `ty`.
    pub fn write(&self, ty: ResourceType, framing: Framing, out: &mut BytesMut) {
        if let Some(frames) = self.shared_frames(ty, framing) {
            return frames.for_each(|frame| out.put_slice(&frame));
        }
        let Layout { body, any, .. } = self.layout();
        let identity = &self.frame[body..any];
        let content = match ty.projection() {
            Projection::Whole => self.frame.len() - any + self.rest_len(),
            Projection::First => field_len(self.projected_any_len(ty)),
        };
        match framing {
            Framing::Sotw => {}
            Framing::Delta => {
                put_key(out, FIELD_2, identity.len() + content);
                out.put_slice(identity);
            }
            Framing::DeltaWithAliases => {
                put_key(out, FIELD_2, identity.len() + self.aliases_len() + content);
                out.put_slice(identity);
                for alias in self.aliases() {
                    put_field(out, FIELD_4, alias.as_bytes());
                }
            }
        }
        match ty.projection() {
            Projection::Whole => {
                out.put_slice(&self.frame[any..]);
                self.rest.iter().flat_map(|rest| rest.iter()).for_each(|piece| out.put_slice(piece));
            }
            Projection::First => put_any(out, ty, self.inner().unwrap_or_default()),
        }
    }

    /// The bytes [`write`](Self::write) would append, if they exist already.
    pub fn shared_frames(&self, ty: ResourceType, framing: Framing) -> Option<impl Iterator<Item = Bytes>> {
        let frame = match (ty.projection(), framing) {
            (Projection::First, _) => return None,
            (Projection::Whole, Framing::DeltaWithAliases) if self.aliases().next().is_some() => return None,
            (Projection::Whole, Framing::Delta | Framing::DeltaWithAliases) => self.frame.clone(),
            (Projection::Whole, Framing::Sotw) => self.frame.slice(self.layout().any..),
        };
        let rest = self.rest.iter().flat_map(|rest| rest.iter().cloned());
        Some(std::iter::once(frame).chain(rest))
    }

    fn layout(&self) -> Layout {
        let body = field_start(&self.frame);
        let any = body + field_len(self.name().len()) + field_len(VERSION_DIGITS);
        let mut value = any;
        if any < self.frame.len() {
            // Past the type URL, which is the first field of the `Any`.
            value += field_start(&self.frame[any..]);
            value += field_len(self.ty().type_url().len());
            value += field_start(&self.frame[value..]);
        }
        Layout { body, any, value }
    }

    /// The message inside field 1, if there is nothing else.
    fn inner(&self) -> Option<&[u8]> {
        first_field(&self.frame[self.layout().value..])
    }

    fn projected_any_len(&self, ty: ResourceType) -> usize {
        field_len(ty.type_url().len()) + field_len(self.inner().unwrap_or_default().len())
    }

    fn aliases_len(&self) -> usize {
        self.aliases().map(|alias| field_len(alias.len())).sum()
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
            && self.is_stub() == other.is_stub()
            && self.facts == other.facts
            && self.name() == other.name()
    }
}

impl Eq for Resource {}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name(), self.version)
    }
}

/// The name in a frame.
pub(super) fn frame_name(frame: &[u8]) -> &str {
    // Made from a text by `Resource::new` or `Resource::stub`.
    std::str::from_utf8(frame_name_bytes(frame)).unwrap_or_default()
}

/// The name in a frame, for those who only compare it: as bytes names have the
/// same order.
pub(super) fn frame_name_bytes(frame: &[u8]) -> &[u8] {
    let field = &frame[field_start(frame)..];
    let mut rest = &field[1..];
    let length = decode_varint(&mut rest).unwrap_or_default() as usize;
    &rest[..length]
}

/// The type that the facts of a resource begin with.
fn stored_type(facts: &[u8]) -> ResourceType {
    ResourceType::ALL[facts[0] as usize]
}

/// Says that a key is in the frame, beside the relation.
const IN_FRAME: u8 = 0x80;

/// The keys of a resource.
fn relations<'a>(frame: &'a [u8], facts: &'a [u8]) -> impl Iterator<Item = (Relation, &'a str)> {
    let mut rest = &facts[1..];
    std::iter::from_fn(move || {
        let (relation, tail) = rest.split_first()?;
        rest = tail;
        let length = decode_varint(&mut rest).ok()? as usize;
        let key = if relation & IN_FRAME != 0 {
            let from = decode_varint(&mut rest).ok()? as usize;
            frame.get(from..from + length)?
        } else {
            rest.split_off(..length)?
        };
        let relation = [Relation::Alias, Relation::Related, Relation::Node][(relation & !IN_FRAME) as usize];
        Some((relation, std::str::from_utf8(key).ok()?))
    })
}

/// The type, then each key: its relation and its length, then where it is in
/// the frame or else the key itself. A workload's services and its node are
/// fields of it.
fn facts(ty: ResourceType, keys: &Keys, frame: &[u8]) -> Bytes {
    let aliases = keys.aliases.iter().map(|key| (Relation::Alias, key));
    let related = keys.related.iter().map(|key| (Relation::Related, key));
    let node = keys.node.iter().map(|key| (Relation::Node, key));
    let mut facts = vec![ty as u8];
    for (relation, key) in aliases.chain(related).chain(node) {
        let key = key.as_bytes();
        // The first place, so that equal resources have equal facts.
        let place = memchr::memmem::find(frame, key);
        facts.push(relation as u8 | if place.is_some() { IN_FRAME } else { 0 });
        encode_varint(key.len() as u64, &mut facts);
        match place {
            Some(place) => encode_varint(place as u64, &mut facts),
            None => facts.extend_from_slice(key),
        }
    }
    facts.into_boxed_slice().into()
}

/// Where the content of a length-delimited field begins.
fn field_start(field: &[u8]) -> usize {
    1 + field[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1
}

/// The length of a [`Version`] as text.
const VERSION_DIGITS: usize = 16;

impl Version {
    /// One that is made elsewhere.
    pub(super) const fn of(number: u64) -> Self {
        Self(number)
    }

    /// The hash itself.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Reads what [`Display`](fmt::Display) writes.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text: &[u8; VERSION_DIGITS] = text.try_into().ok()?;
        text.iter()
            .try_fold(0, |number, byte| {
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    b'a'..=b'f' => byte - b'a' + 10,
                    _ => return None,
                };
                Some(number << 4 | u64::from(digit))
            })
            .map(Self)
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

/// The frame of a message of a length, up to where that begins, with some room
/// behind it.
fn head(ty: ResourceType, name: &str, version: Version, message: usize, room: usize) -> BytesMut {
    debug_assert_eq!(ty.projection(), Projection::Whole);
    let any = field_len(field_len(ty.type_url().len()) + field_len(message));
    let length = field_len(name.len()) + field_len(VERSION_DIGITS) + any;
    let mut frame = BytesMut::with_capacity(field_len(length) - message + room);
    put_key(&mut frame, FIELD_2, length);
    put_field(&mut frame, FIELD_3, name.as_bytes());
    put_field(&mut frame, FIELD_1, version.to_string().as_bytes());
    put_any_head(&mut frame, ty, message);
    frame
}

/// The beginning of an `Any`, up to its value.
fn put_any_head(out: &mut BytesMut, ty: ResourceType, value: usize) {
    put_key(out, FIELD_2, field_len(ty.type_url().len()) + field_len(value));
    put_field(out, FIELD_1, ty.type_url().as_bytes());
    put_key(out, FIELD_2, value);
}

fn put_any(out: &mut BytesMut, ty: ResourceType, value: &[u8]) {
    put_any_head(out, ty, value.len());
    out.put_slice(value);
}

pub(super) fn put_key(out: &mut BytesMut, key: u8, length: usize) {
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
