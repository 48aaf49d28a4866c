//! Envoy's way to the control plane: a socket that forwards ADS streams, over
//! TLS and with a token, which a stock Envoy cannot read from a file.
//!
//! Frames are passed on as they are, in both directions independently, so that
//! HTTP/2's own flow control is all there is between Envoy and the control
//! plane. Every stream has a connection of its own, as with pilot-agent: its
//! end is the stream's end, and Envoy, which comes back with what it holds, may
//! then be served by another replica.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::{Body, Frame};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::upstream::{Upstream, UpstreamError, chain};

/// The service that is forwarded, and no other.
const SERVICE: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";

/// How often the connection is tried, and how long an answer may take. A
/// control plane that is gone without a word is noticed, and Envoy reconnects.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// How much may be under way to Envoy.
const WINDOW: u32 = 1 << 20;

/// Serves a socket for as long as it runs.
pub async fn serve(listener: UnixListener, upstream: Arc<Upstream>) -> anyhow::Result<()> {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let upstream = upstream.clone();
                connections.spawn(async move {
                    let service = hyper::service::service_fn(move |request| forward(upstream.clone(), request));
                    let connection = server::Builder::new(TokioExecutor::new())
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = connection.await {
                        tracing::debug!(error = chain(&error), "Envoy's connection ended");
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

type Answer = Response<Either<Relay, Empty<Bytes>>>;

/// Forwards a stream, or says why it cannot be.
async fn forward(upstream: Arc<Upstream>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    if !request.uri().path().starts_with(SERVICE) {
        return Ok(refusal(&Status::unimplemented("only ADS is forwarded")));
    }
    match open(&upstream, request).await {
        Ok(response) => Ok(response.map(Either::Left)),
        Err(error) => {
            let reason = chain(error.as_ref());
            tracing::warn!(address = upstream.address, error = reason, "no xDS stream");
            Ok(refusal(&Status::unavailable(reason)))
        }
    }
}

/// An answer that is only an error.
fn refusal(status: &Status) -> Answer {
    status.clone().into_http::<Empty<Bytes>>().map(Either::Right)
}

type OpenError = Box<dyn std::error::Error + Send + Sync>;

async fn open(upstream: &Upstream, request: Request<Incoming>) -> Result<Response<Relay>, OpenError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let uri = upstream.uri(path)?;
    let headers = outgoing(&parts.headers, upstream)?;
    let io = TokioIo::new(upstream.connect().await?);
    let (mut sender, connection) = client::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(io)
        .await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = chain(&error), "the connection to the control plane ended");
        }
    }));
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let mut ended = Ended { method: path[SERVICE.len()..].to_string(), status: None };
    // A refusal has no body: its status stands in the headers.
    let over = match Status::from_header_map(&parts.headers) {
        Some(status) => {
            ended.status = Some(status);
            true
        }
        None => {
            tracing::info!(address = upstream.address, method = ended.method, "xDS stream open");
            false
        }
    };
    Ok(Response::from_parts(parts, Relay { body, ended, _connection: connection, over }))
}

/// The headers of a call: Envoy's as far as gRPC knows them, and ours.
fn outgoing(from: &HeaderMap, upstream: &Upstream) -> Result<HeaderMap, UpstreamError> {
    let mut headers = HeaderMap::new();
    for (name, value) in from {
        let grpcs = name.as_str().starts_with("grpc-") || name.as_str() == "user-agent";
        if grpcs && name != HOST {
            headers.append(name, value.clone());
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.extend(upstream.call_headers()?);
    Ok(headers)
}

/// What the control plane sends, passed on. It holds the connection, which
/// ends with it.
struct Relay {
    body: Incoming,
    ended: Ended,
    _connection: AbortOnDropHandle<()>,
    over: bool,
}

/// Says how a stream ended when it does, whoever ended it.
struct Ended {
    method: String,
    status: Option<Status>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let method = &self.method;
        match &self.status {
            Some(status) if status.code() == tonic::Code::Ok => {
                tracing::info!(method, "the control plane ended the xDS stream")
            }
            Some(status) => {
                tracing::warn!(method, code = ?status.code(), reason = status.message(), "the control plane ended the xDS stream");
            }
            None => tracing::info!(method, "Envoy ended the xDS stream"),
        }
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let frame = match futures::ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => trailers(&Status::unavailable(chain(&error))),
            None => trailers(&Status::unavailable("the control plane ended the stream without a status")),
        };
        if let Some(trailers) = frame.trailers_ref() {
            this.ended.status = Status::from_header_map(trailers);
            this.over = true;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}

/// A broken connection as gRPC says it, so that Envoy logs more than a reset.
fn trailers(status: &Status) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    // A message that is no header value is left out.
    let _ = status.add_header(&mut trailers);
    Frame::trailers(trailers)
}
