//! One stream: a response body that reads the requests it answers.
//!
//! Everything happens when the transport has room for another frame. So a
//! client that stops reading stops its own stream: its requests are not read,
//! views pass it by, and it costs one chunk and a handle to what it was sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use futures::FutureExt;
use http_body::{Body, Frame};
use tokio::time::Sleep;
use tonic::Status;
use tracing::{debug, info, warn};

use super::connections::Registration;
use super::fanout::{Fanout, Listener, Opener};
use super::inquiry::{Answering, Asked, Inquiry};
use super::{Connected, Shared, clip, closing, jitter, salt};
use crate::ca::listener::MAX_RECORD;
use crate::credential::Want;
use crate::spans;
use crate::xds::codec::reader::{Reader, RequestBody};
use crate::xds::codec::request::Request;
use crate::xds::codec::response::Encoder;
use crate::xds::demand::Held;
use crate::xds::resource::ResourceType;
use crate::xds::stream::{Contents, Received, Reply, Response, Stream, Variant};
use crate::xds::view::Views;

/// How many requests are read before a response is considered. Enough for the
/// first requests of all types, and a bound on what a flood of them costs.
const BATCH: usize = 16;

/// From here on the administrator should know: a ztunnel that refuses the
/// first response never becomes ready.
const LARGE: usize = 190 << 20;

/// The body of one stream.
pub struct StreamBody<B> {
    shared: Arc<Shared>,
    variant: Variant,
    stream: Stream,
    requests: Reader<B>,
    /// The request that is being read; in a box because most of the time there
    /// is none.
    request: Option<Box<Request>>,
    /// Whether the client has closed its side.
    half_closed: bool,
    views: Arc<Views>,
    listener: Listener,
    /// In a box, for the same reason.
    sending: Option<Box<Sending>>,
    /// When the stream is to end.
    age: Option<Pin<Box<Sleep>>>,
    /// Whether that is because the process is to end.
    draining: bool,
    connected: Connected,
    /// Present once it asks for secrets; in a box, as few do.
    opening: Option<Box<Opening>>,
    /// Present while a question about the control plane is being answered.
    answering: Option<Box<Answering>>,
    /// Present once the client has introduced itself.
    registration: Option<Registration>,
    /// What it has not judged yet of what is traced.
    traced: Vec<spans::Push>,
    ended: bool,
}

/// What a stream that asks for secrets has.
struct Opening {
    opener: Opener,
    /// Has looked up what it needs.
    held: Option<Held<Want>>,
}

/// What is to be written next.
enum Next {
    Response(Response),
    /// An answer, as it is written.
    Answer(Bytes),
    /// The end of the stream, with OK.
    End,
}

/// A response that is being written.
struct Sending {
    /// None for an answer, which is complete.
    encoder: Option<Encoder>,
    /// What the encoder has handed over and HTTP/2 was not given yet.
    rest: Bytes,
    started: Instant,
}

/// A frame of HTTP/2 that is a record of TLS with its head of nine bytes: one
/// write to the socket instead of two.
const FRAME: usize = MAX_RECORD - 9;

impl Sending {
    fn next_frame(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            self.rest = self.encoder.as_mut()?.next_chunk()?;
        }
        Some(self.rest.split_to(self.rest.len().min(FRAME)))
    }
}

impl<B: RequestBody> StreamBody<B> {
    pub(super) fn new(
        shared: Arc<Shared>,
        fanout: Arc<Fanout>,
        variant: Variant,
        requests: Reader<B>,
        connected: Connected,
    ) -> Self {
        // Up to half more than configured, so that a replica does not lose all
        // the clients at once that came to it at once.
        let age = shared.options.max_age.map(|age| Box::pin(tokio::time::sleep(age.mul_f64(1.0 + jitter() / 2.0))));
        Self {
            variant,
            stream: Stream::new(variant, salt()),
            requests,
            request: None,
            half_closed: false,
            views: fanout.views(),
            listener: Listener::new(fanout),
            sending: None,
            age,
            draining: false,
            connected,
            opening: None,
            answering: None,
            registration: None,
            traced: Vec::new(),
            ended: false,
            shared,
        }
    }

    /// Waits for what changes the state, up to the next response. An error is
    /// how the stream ends; with OK it does after the client closed its side and
    /// was answered.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, Status>> {
        self.listener.listen(cx);
        if self.listener.closing() && !self.draining {
            // All of them at once would be a burst for whoever takes them over.
            self.draining = true;
            self.age = Some(Box::pin(tokio::time::sleep(self.shared.options.drain.mul_f64(jitter()))));
        }
        let aged = self.age.as_mut().is_some_and(|age| age.poll_unpin(cx).is_ready());
        let leaves = self.registration.as_ref().is_some_and(|registration| registration.connection.leaves());
        if aged || leaves {
            // The next stream would else come over the same connection.
            self.connected.goodbye.say();
            return Poll::Ready(Err(closing()));
        }
        let mut more = true;
        for _ in 0..BATCH {
            // One question at a time.
            more = self.answering.is_none() && self.poll_request(cx)?.is_ready() && !self.half_closed;
            if !more {
                break;
            }
        }
        if let Some(answering) = &mut self.answering {
            let server = (self.views.revision, &*self.shared.options.control_plane);
            if let Poll::Ready(answer) = answering.poll(cx, self.variant, server) {
                self.answering = None;
                return Poll::Ready(answer.map(Next::Answer));
            }
        }
        if let Some(views) = self.listener.newer(&self.views) {
            self.views = views;
        }
        if self.stream.asks_for_secrets() {
            self.look_up_secrets(cx);
        }
        match self.stream.next(&self.views) {
            Some(response) => Poll::Ready(Ok(Next::Response(response))),
            // It has asked all it wanted, and is answered first.
            None if self.half_closed && self.answering.is_none() && self.views.knows(self.stream.scope()) => {
                Poll::Ready(Ok(Next::End))
            }
            None => {
                if let Some(registration) = &self.registration {
                    registration.connection.settle(&self.stream, &self.views);
                }
                if more {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }

    /// Has the stream know of the newest secrets, and others of what it needs.
    fn look_up_secrets(&mut self, cx: &Context<'_>) {
        let Self { stream, listener, opening, shared, connected, registration, .. } = self;
        let opening = opening.get_or_insert_with(|| Box::new(Opening { opener: Opener::new(listener), held: None }));
        let caller = stream.node().and_then(|node| connected.identity(node)).cloned();
        let renewed = stream.renew_secrets(&opening.opener.vault(cx), caller.as_ref());
        if let Some(wants) = renewed.wants {
            // The new demand is there before the old one goes.
            opening.held = (!wants.is_empty()).then(|| shared.secrets.asked.hold(wants));
        }
        if let Some((name, reason)) = renewed.denied.first() {
            let connection = registration.as_ref().map(|registration| &*registration.connection.id);
            let more = renewed.denied.len() - 1;
            shared.metrics.secrets_denied.inc_by(renewed.denied.len() as i64);
            warn!(connection, name = clip(name), more, reason, "a secret is not for this proxy");
        }
    }

    /// Applies one request, if there is one.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if self.half_closed {
            return Poll::Pending;
        }
        let Self { requests, request, variant, views, .. } = self;
        let read = |bytes: &[u8], last| {
            let request = request.get_or_insert_with(|| Box::new(Request::new(*variant)));
            request.read(bytes, last, views)
        };
        let Some(message) = ready!(requests.poll_message(cx, read)) else {
            self.half_closed = true;
            return Poll::Ready(Ok(()));
        };
        message?;
        Poll::Ready(self.request.take().map_or(Ok(()), |request| self.apply(*request)))
    }

    fn apply(&mut self, request: Request) -> Result<(), Status> {
        let asked = Asked::read(&request);
        let received = match request {
            Request::Delta(request) => self.stream.on_delta_request(request)?,
            Request::Sotw(request) => self.stream.on_sotw_request(request)?,
        };
        let connection = match &mut self.registration {
            Some(registration) => &registration.connection,
            // The first request introduces the node; nothing was sent yet.
            none => {
                let node = self.stream.node().ok_or_else(|| Status::internal("a request without a node"))?;
                self.shared.authorize(self.connected.caller.as_ref(), node)?;
                let address = self.connected.peer.address;
                let (scope, waker) = (self.stream.scope(), self.listener.waker());
                let registration = Registration::new(&self.shared, node.clone(), scope, address, waker);
                &none.insert(registration).connection
            }
        };
        if let Some(asked) = asked {
            return self.inquire(asked);
        }
        let metrics = &self.shared.metrics;
        match received {
            Received::UnknownType(type_url) => {
                debug!(connection = %connection.id, type_url = clip(&type_url), "unknown resource type ignored");
            }
            Received::Request { ty, reply } => {
                match &reply {
                    Reply::Nothing => {}
                    Reply::Ack => {
                        judged(&mut self.traced, ty, &connection.node.name, None);
                        if self.shared.verdicts.open() && ty != ResourceType::Secret {
                            self.stream.verdict(ty, None).into_iter().for_each(|one| self.shared.verdicts.tell(one));
                        }
                    }
                    Reply::Stale => metrics.expired_nonce(ty),
                    Reply::Nack(error) => {
                        metrics.reject(ty);
                        // A secret is its owner's alone: nothing else is made of it,
                        // and what is said of it may have parts of it.
                        let error_shown = if ty == ResourceType::Secret { "of a secret" } else { clip(error) };
                        judged(&mut self.traced, ty, &connection.node.name, Some(error_shown));
                        warn!(connection = %connection.id, ty = ty.label(), error = error_shown, "NACK");
                        let verdict = self.stream.verdict(ty, Some(error.clone()));
                        let verdict = verdict.filter(|_| ty != ResourceType::Secret);
                        verdict.into_iter().for_each(|one| self.shared.verdicts.tell(one));
                    }
                }
                connection.update(self.stream.progress());
            }
        }
        Ok(())
    }

    /// Has a question answered.
    fn inquire(&mut self, asked: Asked) -> Result<(), Status> {
        // It has the answer.
        if self.stream.is_own_nonce(&asked.nonce) {
            return Ok(());
        }
        let caller = self.connected.caller.clone().filter(|_| self.connected.peer.encrypted);
        let (Some(caller), Some(answers)) = (caller, self.shared.answers.get()) else {
            return Err(Status::unauthenticated("authentication required"));
        };
        let inquiry = Inquiry { type_url: asked.type_url, names: asked.names, caller };
        let nonce = self.stream.own_nonce().to_string();
        self.answering = Some(Box::new(Answering::new(&**answers, inquiry, nonce)));
        Ok(())
    }

    fn start(&mut self, response: Response) -> Result<(), Status> {
        let started = Instant::now();
        let encoder = Encoder::new(response, &self.shared.options.control_plane)
            .inspect_err(|_| _ = self.shared.metrics.internal_errors.inc())?;
        if encoder.encoded_len() > LARGE {
            let (ty, bytes) = (encoder.response().ty.label(), encoder.encoded_len());
            warn!(ty, bytes, "a response comes near to the 200 MiB that ztunnel accepts");
        }
        self.sending = Some(Box::new(Sending { encoder: Some(encoder), rest: Bytes::new(), started }));
        Ok(())
    }

    /// Accounts for a response that was handed over completely.
    fn finish(&mut self, sending: &Sending) {
        let Some(encoder) = &sending.encoder else { return };
        if spans::on() {
            self.traced.extend(traced(encoder, sending.started));
        }
        self.shared.metrics.pushed(encoder.response(), encoder.encoded_len(), sending.started.elapsed());
        if let Some(registration) = &self.registration {
            registration.connection.update(self.stream.progress());
        }
    }

    fn trailers(&mut self, status: Status) -> Frame<Bytes> {
        self.ended = true;
        let mut trailers = http::HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("13"));
        }
        match self.registration.take() {
            Some(mut registration) => registration.ended = Some(status),
            None => info!(address = ?self.connected.peer.address, %status, "xDS stream refused"),
        }
        Frame::trailers(trailers)
    }
}

/// What is to be told of a response that has been sent, if anything is. The first
/// of a type comes of the client, not of a change, and secrets have revisions of
/// their own.
fn traced(encoder: &Encoder, started: Instant) -> Option<spans::Push> {
    let response = encoder.response();
    if response.first || response.ty == ResourceType::Secret {
        return None;
    }
    let (of, sending) = (spans::follow(response.views.revision)?, started.elapsed());
    let resources = match &response.contents {
        Contents::Whole(layer) => layer.len(),
        listed => listed.listed().len(),
    };
    let (ty, removed, bytes) = (response.ty.label(), response.removed.len(), encoder.encoded_len());
    Some(spans::Push { of, ty, begun: SystemTime::now() - sending, sending, resources, removed, bytes })
}

/// Tells what a client makes of a response, if that is traced.
fn judged(traced: &mut Vec<spans::Push>, ty: ResourceType, proxy: &str, error: Option<&str>) {
    // One of each type at most.
    if let Some(at) = traced.iter().position(|push| push.ty == ty.label()) {
        spans::judged(traced.swap_remove(at), proxy, error);
    }
}

impl<B: RequestBody> Body for StreamBody<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        while !this.ended {
            if let Some(sending) = &mut this.sending {
                if let Some(chunk) = sending.next_frame() {
                    return Poll::Ready(Some(Ok(Frame::data(chunk))));
                }
                if let Some(sent) = this.sending.take() {
                    this.finish(&sent);
                }
            }
            let outcome = match ready!(this.poll_response(cx)) {
                Ok(Next::Response(response)) => this.start(response),
                Ok(Next::Answer(rest)) => {
                    this.sending = Some(Box::new(Sending { encoder: None, rest, started: Instant::now() }));
                    Ok(())
                }
                Ok(Next::End) => Err(Status::ok("")),
                Err(status) => Err(status),
            };
            if let Err(status) = outcome {
                return Poll::Ready(Some(Ok(this.trailers(status))));
            }
        }
        Poll::Ready(None)
    }
}
