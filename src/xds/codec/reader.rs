//! gRPC messages of a request body.
//!
//! tonic's own reader keeps the largest buffer a stream ever needed, which
//! after a reconnect is megabytes per ztunnel for as long as it stays
//! connected, and it reserves what a length prefix merely announces. This one
//! grows with the bytes that arrive and keeps nothing between messages.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
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
}

impl<B: RequestBody> Reader<B> {
    /// Reads messages of at most `limit` bytes.
    pub fn new(body: B, limit: usize) -> Self {
        Self { body, buffer: BytesMut::new(), limit }
    }

    /// The next message, or `None` when the client has closed its side.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            match self.message() {
                Ok(None) => {}
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
