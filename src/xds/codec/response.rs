//! Responses, produced chunk by chunk while the transport has room.
//!
//! The length is known before the first byte: resources are framed already and
//! layers know their size. So a response of any size costs its reader's stream
//! one chunk plus a handle to the shared layer.

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::io::Write as _;
use tonic::Status;

use crate::xds::resource::{Framing, Resource, field_len, put_field, put_key};
use crate::xds::stream::{Contents, Response};

/// How much is copied together before it is handed to the transport. Larger
/// resources are handed over uncopied.
const CHUNK: usize = 32 * 1024;
/// What is shorter is copied rather than handed over by itself.
const SMALL: usize = 4 * 1024;
/// Room behind a chunk, for the resource that completes it.
const MARGIN: usize = 4 * 1024;

/// A response on its way to the wire.
pub struct Encoder {
    response: Response,
    /// The fields before the resources, with the gRPC prefix, and room for
    /// what follows.
    head: BytesMut,
    /// The length of the whole message, prefix included.
    length: usize,
    position: Position,
    /// What is complete: frames that were too large to copy, and what was copied
    /// before them.
    ready: VecDeque<Bytes>,
}

/// How far the message has been produced.
enum Position {
    Head,
    /// In a whole layer, at this chunk.
    Layer(usize),
    /// In the pieces of a step.
    Step(usize),
    /// In a list of resources.
    Resources(usize),
    Removed(usize),
    End,
}

/// The tags of the fields of a response, which differ between the variants.
struct Tags {
    version: u8,
    type_url: u8,
    nonce: u8,
    control_plane: u8,
    removed: u8,
}

const fn tag(number: u8) -> u8 {
    number << 3 | 2
}

const fn tags(framing: Framing) -> Tags {
    let (version, type_url, nonce) = (tag(1), tag(4), tag(5));
    match framing {
        Framing::Delta | Framing::DeltaWithAliases => {
            Tags { version, type_url, nonce, control_plane: tag(7), removed: tag(6) }
        }
        // A state of the world has no removals; the tag is never written.
        Framing::Sotw => Tags { version, type_url, nonce, control_plane: tag(6), removed: 0 },
    }
}

impl Encoder {
    /// Prepares a response. `control_plane` identifies this server. Errors if
    /// gRPC cannot frame a message of that length.
    pub fn new(response: Response, control_plane: &str) -> Result<Self, Status> {
        let tags = tags(response.framing);
        // Decimal digits of a revision, and a nonce of two numbers and a dash.
        let (mut revision, mut nonce) = (SmallVec::<[u8; 20]>::new(), SmallVec::<[u8; 40]>::new());
        let written =
            write!(revision, "{}", response.views.revision).and_then(|()| write!(nonce, "{}", response.nonce));
        written.map_err(|error| Status::internal(error.to_string()))?;
        let type_url = response.ty.type_url();
        let identifier = field_len(control_plane.len());
        let head =
            field_len(revision.len()) + field_len(type_url.len()) + field_len(nonce.len()) + field_len(identifier);

        let resources = match &response.contents {
            Contents::Whole(layer) => layer.encoded_len(response.ty, response.framing),
            Contents::Step(step) => step.encoded_len(),
            Contents::Some(resources) => {
                resources.iter().map(|resource| resource.encoded_len(response.ty, response.framing)).sum()
            }
        };
        let removed: usize = response.removed.iter().map(|name| field_len(name.len())).sum();
        let length = head + resources + removed;
        let prefix = u32::try_from(length).map_err(|_| Status::internal("response exceeds 4 GiB"))?;

        let length = length + 5;
        let mut head = BytesMut::with_capacity(length.min(CHUNK + MARGIN));
        head.put_u8(0);
        head.put_u32(prefix);
        put_field(&mut head, tags.version, &revision);
        put_field(&mut head, tags.type_url, type_url.as_bytes());
        put_field(&mut head, tags.nonce, &nonce);
        // ControlPlane has one field, `identifier`.
        put_key(&mut head, tags.control_plane, identifier);
        put_field(&mut head, tag(1), control_plane.as_bytes());
        Ok(Self { response, head, length, position: Position::Head, ready: VecDeque::new() })
    }

    /// The response that is being encoded.
    pub fn response(&self) -> &Response {
        &self.response
    }

    /// The number of bytes that all chunks together have.
    pub fn encoded_len(&self) -> usize {
        self.length
    }

    /// The next bytes of the message, or `None` after its end.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        let mut chunk = BytesMut::new();
        loop {
            if !self.ready.is_empty() || chunk.len() >= CHUNK {
                if !chunk.is_empty() {
                    self.ready.push_back(chunk.freeze());
                }
                return self.ready.pop_front();
            }
            self.position = match std::mem::replace(&mut self.position, Position::End) {
                Position::Head => {
                    chunk = std::mem::take(&mut self.head);
                    match &self.response.contents {
                        Contents::Whole(_) => Position::Layer(0),
                        // What fits in one write is better written at once.
                        Contents::Step(step) if step.encoded_len() > CHUNK => Position::Step(0),
                        Contents::Step(_) | Contents::Some(_) => Position::Resources(0),
                    }
                }
                Position::Layer(number) => self.put_layer(number, &mut chunk),
                Position::Step(at) => match &self.response.contents {
                    Contents::Step(step) if at < step.frames(CHUNK).len() => {
                        hand_over(&mut self.ready, &mut chunk, step.frames(CHUNK)[at].clone());
                        Position::Step(at + 1)
                    }
                    _ => Position::Removed(0),
                },
                Position::Resources(at) => match self.response.contents.listed().get(at) {
                    Some(resource) => {
                        let resource = resource.clone();
                        self.put(&resource, &mut chunk);
                        Position::Resources(at + 1)
                    }
                    None => Position::Removed(0),
                },
                Position::Removed(at) => match self.response.removed.get(at) {
                    Some(name) => {
                        put_field(&mut chunk, tags(self.response.framing).removed, name.as_bytes());
                        Position::Removed(at + 1)
                    }
                    None => Position::End,
                },
                Position::End => return (!chunk.is_empty()).then(|| chunk.freeze()),
            };
        }
    }

    /// Appends a chunk of a layer.
    fn put_layer(&mut self, number: usize, chunk: &mut BytesMut) -> Position {
        let Contents::Whole(layer) = &self.response.contents else { return Position::Removed(0) };
        let (ty, framing) = (self.response.ty, self.response.framing);
        if framing == Framing::Delta && ty.is_whole() {
            // As they are kept, so are they sent.
            let Some(frames) = layer.frames(number) else { return Position::Removed(0) };
            frames.for_each(|frames| hand_over(&mut self.ready, chunk, frames));
            return Position::Layer(number + 1);
        }
        let Some(resources) = layer.chunk(number) else { return Position::Removed(0) };
        for resource in resources {
            if ty.carries(&resource) {
                self.put(&resource, chunk);
            }
        }
        Position::Layer(number + 1)
    }

    fn put(&mut self, resource: &Resource, chunk: &mut BytesMut) {
        let (ty, framing) = (self.response.ty, self.response.framing);
        let length = resource.encoded_len(ty, framing);
        if length >= CHUNK {
            if let Some(frames) = resource.shared_frames(ty, framing) {
                frames.for_each(|frame| hand_over(&mut self.ready, chunk, frame));
            } else {
                let mut frame = BytesMut::with_capacity(length);
                resource.write(ty, framing, &mut frame);
                hand_over(&mut self.ready, chunk, frame.freeze());
            }
            return;
        }
        if chunk.capacity() - chunk.len() < length {
            // The last resource of a chunk goes beyond `CHUNK`; to have no room
            // for it would mean to copy the whole chunk.
            chunk.reserve(length.max((CHUNK + MARGIN).min(self.length)));
        }
        resource.write(ty, framing, chunk);
    }
}

/// Queues frames behind what was copied before them, unless they are short
/// enough to be copied too.
fn hand_over(ready: &mut VecDeque<Bytes>, copied: &mut BytesMut, frames: Bytes) {
    if frames.len() < SMALL {
        return copied.extend_from_slice(&frames);
    }
    if !copied.is_empty() {
        ready.push_back(copied.split().freeze());
    }
    ready.push_back(frames);
}

#[cfg(test)]
mod tests;
