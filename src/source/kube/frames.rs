//! Answers that are read while they arrive: watches, which do not end, and
//! lists, which may be larger than what is made of them.

use std::ops::Range;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use http_body_util::{BodyDataStream, BodyExt};
use kube::client::Body;
use tokio::time::timeout;

use crate::api::protobuf;
use crate::wire;

use super::failure::Failure;

/// How many bytes are taken at a time, if so many are there: a burst of events
/// becomes few commits.
const BATCH: usize = 1 << 20;
/// Longer frames are refused. An object in etcd has 1.5 MB at most.
const MAX_FRAME: usize = 32 << 20;

/// How an answer is divided.
#[derive(Clone, Copy, Debug)]
pub enum Framing {
    /// Lines, as of a watch in JSON.
    Lines,
    /// Pieces that follow their length in four bytes, as of a watch in
    /// protobuf.
    Lengths,
    /// The fields of one list in protobuf.
    List(ListPart),
}

/// Where in a list in protobuf the reader is.
#[derive(Clone, Copy, Debug)]
pub enum ListPart {
    /// Before the list.
    Head,
    /// So many bytes before the end of its fields.
    Fields(usize),
}

/// The frames of a body, read into one buffer that is used again and again.
pub struct Frames {
    body: BodyDataStream<Body>,
    buffer: Vec<u8>,
    /// Where the next frame begins.
    start: usize,
    /// How far behind that there is no end of a line.
    searched: usize,
    framing: Framing,
    /// How the body ended, if it did.
    end: Option<Result<(), Failure>>,
}

impl Frames {
    /// The frames of a body.
    pub fn new(body: Body, framing: Framing) -> Self {
        Self { body: body.into_data_stream(), buffer: Vec::new(), start: 0, searched: 0, framing, end: None }
    }

    /// Waits for frames, and takes all that are there already. False is the
    /// end.
    pub async fn wait(&mut self, patience: Duration) -> Result<bool, Failure> {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.is_empty() {
            self.buffer.shrink_to(2 * BATCH);
        }
        loop {
            let ready = self.ready()?;
            if ready && (self.end.is_some() || self.buffer.len() >= BATCH) {
                return Ok(true);
            }
            if let Some(end) = self.end.take() {
                // What is left is half a frame; it comes again.
                return end.map(|()| false);
            }
            let chunk = match ready {
                false => timeout(patience, self.body.next()).await.map_err(|_| Failure::Silent(patience))?,
                true => match self.body.next().now_or_never() {
                    Some(chunk) => chunk,
                    None => return Ok(true),
                },
            };
            match chunk {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => self.end = Some(Err(Failure::unreachable(error))),
                None => self.end = Some(self.complete()),
            }
        }
    }

    /// The next of the frames that are there.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, Failure> {
        let Some((frame, next)) = self.find()? else { return Ok(None) };
        if let Framing::List(ListPart::Fields(left)) = &mut self.framing {
            *left -= next - self.start;
        }
        (self.start, self.searched) = (next, 0);
        Ok(Some(&self.buffer[frame]))
    }

    /// Whether there is a frame, or one that is too long.
    fn ready(&mut self) -> Result<bool, Failure> {
        if self.find()?.is_some() {
            return Ok(true);
        }
        match self.buffer.len() - self.start > MAX_FRAME {
            true => Err(Failure::Garbled(format!("a piece of it has more than {MAX_FRAME} bytes"))),
            false => Ok(false),
        }
    }

    /// Where the next frame is, and where the one after it begins.
    fn find(&mut self) -> Result<Option<(Range<usize>, usize)>, Failure> {
        let start = self.start;
        let rest = &self.buffer[start..];
        match &mut self.framing {
            Framing::Lines => {
                let Some(length) = memchr::memchr(b'\n', &rest[self.searched..]) else {
                    self.searched = rest.len();
                    return Ok(None);
                };
                let end = start + self.searched + length;
                Ok(Some((start..end, end + 1)))
            }
            Framing::Lengths => {
                let Some((length, frame)) = rest.split_first_chunk() else { return Ok(None) };
                let end = start + 4 + u32::from_be_bytes(*length) as usize;
                Ok((end - start - 4 <= frame.len()).then_some((start + 4..end, end)))
            }
            Framing::List(ListPart::Head) => {
                let Some((head, length)) = protobuf::list_body(rest).map_err(garbled)? else { return Ok(None) };
                self.framing = Framing::List(ListPart::Fields(length));
                self.start += head;
                self.find()
            }
            Framing::List(ListPart::Fields(left)) => {
                let rest = &rest[..rest.len().min(*left)];
                let Some((_, length, head)) = wire::head(rest).map_err(garbled)? else { return Ok(None) };
                let end = head.saturating_add(length);
                match end <= *left {
                    true => Ok((end <= rest.len()).then(|| (start..start + end, start + end))),
                    false => Err(garbled(protobuf::Error::Malformed)),
                }
            }
        }
    }

    /// Whether the end of the body is the end of what it says. A watch may end
    /// anywhere; half a list is none.
    fn complete(&self) -> Result<(), Failure> {
        match self.framing {
            Framing::List(ListPart::Fields(left)) if left <= self.buffer.len() - self.start => Ok(()),
            Framing::List(_) => Err(Failure::Unreachable("the answer is not complete".into())),
            Framing::Lines | Framing::Lengths => Ok(()),
        }
    }
}

fn garbled(error: impl Into<protobuf::Error>) -> Failure {
    Failure::Garbled(error.into().to_string())
}
