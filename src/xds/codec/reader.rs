//! gRPC messages of a request body.
//!
//! tonic's own reader keeps the largest buffer a stream ever needed, which
//! after a reconnect is megabytes per ztunnel for as long as it stays
//! connected, and it reserves what a length prefix merely announces. This one
//! grows with the bytes that arrive and keeps nothing between messages.

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
    buffer: BytesMut,
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
        Self { body, buffer: BytesMut::new(), limit, places: PollSemaphore::new(places), place: None }
    }

    /// The next message, or `None` when the client has closed its side.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            match self.message() {
                Ok(None) => ready!(self.poll_place(cx)),
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None if self.buffer.is_empty() => return Poll::Ready(None),
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
        let announced = self.buffer.get(1..PREFIX).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes);
        let Some(length) = announced.map(|length| length as usize).filter(|length| *length >= LARGE) else {
            self.place = None;
            return Poll::Ready(());
        };
        match &mut self.place {
            None => {
                // The semaphore is never closed.
                let permit = ready!(self.places.poll_acquire(cx));
                self.place = Some(Place { permit, patience: Box::pin(tokio::time::sleep(PATIENCE)) });
                // Room for all of it at once, rather than a copy whenever it
                // doubles. It costs no memory before something is written there.
                self.buffer.reserve((PREFIX + length).saturating_sub(self.buffer.len()));
            }
            Some(place) => {
                if place.permit.is_some() && place.patience.as_mut().poll(cx).is_ready() {
                    place.permit = None;
                }
            }
        }
        Poll::Ready(())
    }

    /// Takes a message off the buffer if it is complete.
    fn message(&mut self) -> Result<Option<Bytes>, Status> {
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
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = if self.buffer.len() == length {
            std::mem::take(&mut self.buffer).freeze()
        } else {
            // Two messages in one buffer: copying the tail frees the buffer
            // together with the message.
            let tail = BytesMut::from(&self.buffer[length..]);
            self.buffer.truncate(length);
            std::mem::replace(&mut self.buffer, tail).freeze()
        };
        Ok(Some(message))
    }
}
