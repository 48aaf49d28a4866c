//! The threads that serve gRPC connections.
//!
//! A connection belongs to one thread for as long as it lives, with a runtime
//! of its own: what wakes it is local, and its streams are never moved between
//! cores. A change that goes to a thousand streams is then two wakes from
//! another thread and a thousand pushes to a queue. All else (watches, pages,
//! signing) runs elsewhere and shares the cores by the kernel's fairness, so
//! that neither holds the other up.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use futures::Stream;
use futures::future::{BoxFuture, FutureExt};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::transport::server::Connected;
use tower::Service as _;

use crate::ca::authenticate::Peer;
use crate::ca::listener;
use crate::ca::service::CertificateService;
use crate::ca::serving::ServingCertificate;
use crate::xds::reflection::Served;
use crate::xds::server::{Goodbye, StreamBody, Xds, XdsServer};

use super::listen;

/// How many connections wait for a thread to take them.
const BACKLOG: usize = 64;
/// How much of a stream is given to HTTP/2 at a time: enough to keep a socket
/// busy, and a bound on how long a large response keeps others waiting.
const SEND_BUFFER: usize = 256 << 10;

/// How much a client may send before it was read, on all of its streams: the
/// most that a thousand clients who come back at once make us hold for each.
const RECEIVE_WINDOW: u32 = 128 << 10;

/// How connections are kept and bounded.
#[derive(Clone, Copy)]
pub(super) struct Keepalive {
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) max_streams: u32,
}

/// What is served on a port.
#[derive(Clone)]
pub(super) struct Port {
    pub(super) name: &'static str,
    pub(super) xds: Xds,
    pub(super) certificates: Option<Arc<CertificateService>>,
    /// The certificate of a port with TLS.
    pub(super) tls: Option<Arc<ServingCertificate>>,
    pub(super) keepalive: Keepalive,
}

impl Port {
    /// Serves a port until drained, and its connections until they end.
    pub(super) async fn serve(self, bound: TcpListener, drain: CancellationToken) -> anyhow::Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (mut takers, mut ends) = (Vec::new(), Vec::new());
        for number in 0..threads {
            let (taker, share) = mpsc::channel(BACKLOG);
            let (end, ended) = tokio::sync::oneshot::channel();
            let (port, drain) = (self.clone(), drain.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            // Its end is noticed below, as is a panic, which drops `end`.
            std::thread::Builder::new().name(format!("{}-{number}", self.name)).spawn(move || {
                let result = runtime.block_on(port.take(share, drain));
                // Nobody waits once the process gives up.
                let _ = end.send(result);
            })?;
            takers.push(taker);
            ends.push(ended);
        }
        let ended = |result: Result<anyhow::Result<()>, _>| {
            result.unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of {} panicked", self.name)))
        };
        tokio::select! {
            () = listener::share(bound, takers) => {}
            () = drain.cancelled() => {}
            (result, ..) = futures::future::select_all(&mut ends) => {
                ended(result)?;
                anyhow::bail!("a thread of {} ended before it was told to", self.name);
            }
        }
        for end in ends {
            ended(end.await)?;
        }
        Ok(())
    }

    /// Serves this thread's share of the connections.
    async fn take(self, share: mpsc::Receiver<std::net::TcpStream>, drain: CancellationToken) -> anyhow::Result<()> {
        let served = match self.certificates {
            Some(_) => Served::DiscoveryAndCertificates,
            None => Served::Discovery,
        };
        let xds = self.xds.server();
        let routes = listen::routes(xds.clone(), self.certificates.as_ref(), served).await?.into_axum_router();
        let edge = Edge { xds, routes, keepalive: self.keepalive };
        match self.tls {
            None => edge.serve(listener::plain(share), drain).await,
            Some(certificate) => edge.serve(listener::tls(share, certificate), drain).await,
        }
        Ok(())
    }
}

/// The services of a port on one thread.
#[derive(Clone)]
struct Edge {
    xds: XdsServer,
    routes: Router,
    keepalive: Keepalive,
}

impl Edge {
    async fn serve<C>(self, connections: impl Stream<Item = std::io::Result<C>>, drain: CancellationToken)
    where
        C: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer> + Unpin + Send + 'static,
    {
        let tasks = TaskTracker::new();
        let mut connections = pin!(connections);
        loop {
            let connection = tokio::select! {
                connection = connections.next() => connection,
                () = drain.cancelled() => None,
            };
            match connection {
                Some(Ok(connection)) => _ = tasks.spawn(self.clone().connection(connection)),
                Some(Err(error)) => tracing::debug!(%error, "connection failed"),
                None => break,
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Serves a connection until it ends, or the last call on it after drain.
    async fn connection<C>(self, io: C)
    where
        C: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer> + Unpin + Send + 'static,
    {
        let Keepalive { interval, timeout, max_streams } = self.keepalive;
        let peer = io.connect_info();
        let address = peer.address;
        let (closing, goodbye) = (self.xds.closing(), Goodbye::default());
        let leaving = goodbye.said();
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(interval))
            .keep_alive_timeout(timeout)
            .max_concurrent_streams(max_streams)
            .max_send_buf_size(SEND_BUFFER)
            .initial_stream_window_size(RECEIVE_WINDOW)
            .initial_connection_window_size(RECEIVE_WINDOW)
            .serve_connection(TokioIo::new(io), Calls { edge: self, peer, goodbye });
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = async { tokio::select! { () = closing => {}, () = leaving => {} } } => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(?address, %error, "connection ended");
        }
    }
}

/// The calls on one connection.
struct Calls {
    edge: Edge,
    peer: Peer,
    goodbye: Goodbye,
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        request.extensions_mut().insert(self.goodbye.clone());
        if XdsServer::serves(request.uri().path()) {
            // Straight to the socket: a router around the body would be asked
            // for each of its frames too.
            let call = self.edge.xds.clone().open(request);
            return async move {
                let refused = |status: Status| status.into_http::<axum::body::Body>().map(ReplyBody::Other);
                Ok(call.await.map_or_else(refused, |response| response.map(ReplyBody::Stream)))
            }
            .boxed();
        }
        let mut routes = self.edge.routes.clone();
        async move {
            let Ok(response) = routes.call(request.map(axum::body::Body::new)).await;
            Ok(response.map(ReplyBody::Other))
        }
        .boxed()
    }
}

/// The body of a reply.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are streams")]
enum ReplyBody {
    Stream(StreamBody<Incoming>),
    Other(axum::body::Body),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Stream(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Other(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Stream(body) => body.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Stream(body) => body.size_hint(),
            Self::Other(body) => body.size_hint(),
        }
    }
}
