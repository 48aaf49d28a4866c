//! gRPC messages of a request body.
//!
//! tonic's own reader collects each message, and keeps the largest buffer a
//! stream ever needed: megabytes per ztunnel that has reconnected. This one
//! hands over what has arrived, holds what its reader is not done with, and
//! keeps nothing between messages.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::PollSemaphore;
use tonic::Status;

/// The length of the prefix of a gRPC message.
const PREFIX: usize = 5;

/// The body of a request, as any HTTP stack has it.
pub trait RequestBody:
    Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + Send + 'static
{
}
impl<B> RequestBody for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + Send + 'static
{
}

/// Splits a request body into messages.
pub struct Reader<B> {
    body: B,
    /// What has arrived and was not taken yet.
    buffer: BytesMut,
    /// The message that is being read.
    message: Option<Message>,
    limit: usize,
    places: PollSemaphore,
    /// The place of the large message that is being read or was read last.
    place: Option<Place>,
}

/// A message from this size on needs a place. Nothing but the list of what a
/// reconnecting client holds is so large.
const LARGE: usize = 256 << 10;
/// How long a message may take to arrive until its place is somebody else's.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
struct Message {
    large: bool,
    /// How much of it is yet to be taken.
    left: usize,
}

struct Place {
    /// Gone when the message took too long.
    permit: Option<OwnedSemaphorePermit>,
    patience: Pin<Box<Sleep>>,
}

impl<B: RequestBody> Reader<B> {
    /// Reads messages of at most `limit` bytes. For a large one it takes one of
    /// `places` first: when a thousand clients come back at once, most of what
    /// they have to say should wait in their own buffers.
    pub fn new(body: B, limit: usize, places: Arc<Semaphore>) -> Self {
        Self { body, buffer: BytesMut::new(), message: None, limit, places: PollSemaphore::new(places), place: None }
    }

    /// Reads a message, or tells with `None` that the client has closed its
    /// side. `read` is given what has arrived of the message, and whether that
    /// is all that is left; it says how many of these bytes it is done with, and
    /// is given the others again when there are more.
    pub fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(&[u8], bool) -> Result<usize, Status>,
    ) -> Poll<Option<Result<(), Status>>> {
        loop {
            if self.message.is_none() {
                self.message = self.prefix()?;
            }
            ready!(self.poll_place(cx));
            if let Some(message) = &mut self.message {
                let arrived = self.buffer.len().min(message.left);
                let last = arrived == message.left;
                let done = read(&self.buffer[..arrived], last)?;
                self.buffer.advance(done);
                message.left -= done;
                if last {
                    self.message = None;
                    if self.buffer.is_empty() {
                        self.buffer = BytesMut::new();
                    }
                    return Poll::Ready(Some(Ok(())));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None if self.message.is_none() && self.buffer.is_empty() => return Poll::Ready(None),
                None => return Poll::Ready(Some(Err(Status::internal("the request ended within a message")))),
                Some(Err(error)) => return Poll::Ready(Some(Err(Status::from_error(error.into())))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// Waits for a place if what is being read is a large message.
    fn poll_place(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.message.is_none_or(|message| !message.large) {
            self.place = None;
            return Poll::Ready(());
        }
        match &mut self.place {
            None => {
                // The semaphore is never closed.
                let permit = ready!(self.places.poll_acquire(cx));
                self.place = Some(Place { permit, patience: Box::pin(tokio::time::sleep(PATIENCE)) });
            }
            Some(place) => {
                if place.permit.is_some() && place.patience.as_mut().poll(cx).is_ready() {
                    place.permit = None;
                }
            }
        }
        Poll::Ready(())
    }

    /// Takes the prefix of a message off the buffer, if it is there.
    fn prefix(&mut self) -> Result<Option<Message>, Status> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            // We advertise no encodings, so a conforming client never does this.
            return Err(Status::unimplemented("compressed requests are not supported"));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > self.limit {
            return Err(Status::resource_exhausted(format!("message of {length} bytes exceeds {}", self.limit)));
        }
        self.buffer.advance(PREFIX);
        Ok(Some(Message { large: length >= LARGE, left: length }))
    }
}
