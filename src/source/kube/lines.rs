//! The lines of an answer that does not end.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use http_body_util::{BodyDataStream, BodyExt};
use kube::client::Body;
use tokio::time::timeout;

use super::failure::Failure;

/// How many bytes are taken at a time, if so many are there: a burst of events
/// becomes few commits.
const BATCH: usize = 1 << 20;
/// Longer lines are refused. An object in etcd has 1.5 MB at most.
const MAX_LINE: usize = 32 << 20;

/// The lines of a body, read into one buffer that is used again and again.
pub struct Lines {
    body: BodyDataStream<Body>,
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Where the last complete line ends.
    complete: usize,
    /// How the body ended, if it did.
    end: Option<Result<(), Failure>>,
}

impl Lines {
    /// The lines of a body.
    pub fn new(body: Body) -> Self {
        Self { body: body.into_data_stream(), buffer: Vec::new(), start: 0, complete: 0, end: None }
    }

    /// Waits for lines, and takes all that are there already. False is the end.
    pub async fn wait(&mut self, patience: Duration) -> Result<bool, Failure> {
        self.buffer.drain(..self.complete);
        (self.start, self.complete) = (0, 0);
        if self.buffer.is_empty() {
            self.buffer.shrink_to(2 * BATCH);
        }
        while self.end.is_none() && (self.complete == 0 || self.buffer.len() < BATCH) {
            let chunk = match self.complete {
                0 => timeout(patience, self.body.next()).await.map_err(|_| Failure::Silent(patience))?,
                _ => match self.body.next().now_or_never() {
                    Some(chunk) => chunk,
                    None => break,
                },
            };
            match chunk {
                Some(Ok(bytes)) => {
                    if let Some(at) = memchr::memrchr(b'\n', &bytes) {
                        self.complete = self.buffer.len() + at + 1;
                    }
                    self.buffer.extend_from_slice(&bytes);
                    if self.complete == 0 && self.buffer.len() > MAX_LINE {
                        return Err(Failure::Garbled(format!("a line has more than {MAX_LINE} bytes")));
                    }
                }
                Some(Err(error)) => self.end = Some(Err(Failure::unreachable(error))),
                None => self.end = Some(Ok(())),
            }
        }
        match self.complete {
            // What is left is half a line; it comes again.
            0 => self.end.take().unwrap_or(Ok(())).map(|()| false),
            _ => Ok(true),
        }
    }

    /// The next of the lines that are there.
    pub fn next_line(&mut self) -> Option<Result<&str, Failure>> {
        let rest = &self.buffer[self.start..self.complete];
        let length = memchr::memchr(b'\n', rest)?;
        self.start += length + 1;
        Some(std::str::from_utf8(&rest[..length]).map_err(|error| Failure::Garbled(error.to_string())))
    }
}
