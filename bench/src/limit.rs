//! The least a server of this stack can do: tonic, hyper and h2 around a body
//! that hands out prepared bytes, shared by all streams. It takes requests and
//! acknowledgements off the connection without looking at them, knows no protocol,
//! and is a process of its own, so that what it costs can be told apart.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::task::{Context as Cx, Poll, ready};

use anyhow::Context;
use bytes::Bytes;
use fairway_bench::certificate::self_signed;
use futures::Stream as _;
use futures::future::{Ready, ready as now};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use openssl::ssl::{Ssl, SslAcceptor, SslMethod, SslOptions, SslSessionCacheMode, select_next_proto};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_openssl::SslStream;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::http2::{Target, grpc};
use crate::mesh::{MARK, mark};
use crate::plane::{allow_open_files, end};

/// The size of what is handed to the transport at a time: Fairway's.
const CHUNK: usize = 32 * 1024;

/// A running limit server; dropping it ends it.
pub struct Limit {
    child: Child,
    input: Option<ChildStdin>,
    port: u16,
    folder: PathBuf,
}

impl Limit {
    /// Starts this program as a limit server that sends the given messages to
    /// every stream first, and those of `update` whenever it is told to.
    pub fn start(work: &Path, tls: bool, first: &[Vec<u8>], update: &[Vec<u8>]) -> anyhow::Result<Self> {
        let number = std::fs::read_dir(work)?.count();
        let folder = work.join(format!("limit-{number}"));
        std::fs::create_dir(&folder)?;
        for (name, messages) in [("first", first), ("update", update)] {
            let framed: Vec<u8> = messages.iter().flat_map(|message| grpc(message)).collect();
            std::fs::write(folder.join(name), framed)?;
        }
        // This program, even if another has been built in its place meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg("limit-server").arg(&folder).args(tls.then_some("--tls"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        allow_open_files(child.id());
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut limit = Self { child, input, port: 0, folder };
        let mut line = String::new();
        BufReader::new(output.context("no output")?).read_line(&mut line)?;
        limit.port = line.trim().parse().context("the limit server did not start")?;
        Ok(limit)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub fn target(&self, tls: bool) -> anyhow::Result<Target> {
        match tls {
            true => Target::tls(self.port, &std::fs::read(self.folder.join("cert.pem"))?, "localhost"),
            false => Ok(Target::plain(self.port)),
        }
    }

    /// Has it send an update with the mark of a change to all streams.
    pub fn push(&mut self, change: usize) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("no input")?;
        writeln!(input, "{change}")?;
        Ok(input.flush()?)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // It ends with its input.
        self.input = None;
        end(&mut self.child);
    }
}

/// Runs the server until its input ends.
pub async fn serve(folder: &Path, tls: bool) -> anyhow::Result<()> {
    let first = Bytes::from(std::fs::read(folder.join("first"))?);
    let update = Update::new(std::fs::read(folder.join("update"))?);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let acceptor = tls.then(|| acceptor(folder)).transpose()?;
    let (updates, newest) = watch::channel(Arc::<[Bytes]>::default());
    let canned = Canned { answer: first.clone() };
    let server = Server::builder().add_routes(Routes::new(Tiny { first, newest }).add_service(canned).prepare());
    println!("{port}");

    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Some(change) = line.ok().and_then(|line| line.trim().parse().ok()) else { break };
            updates.send_replace(update.marked(change));
        }
        let _ = ended.send(());
    });
    let serve = async {
        match acceptor {
            None => {
                let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
                server.serve_with_incoming(incoming).await
            }
            Some(acceptor) => server.serve_with_incoming(encrypted(listener, acceptor)).await,
        }
    };
    tokio::select! {
        result = serve => Ok(result?),
        _ = end => Ok(()),
    }
}

/// What is sent for each change.
struct Update {
    bytes: Bytes,
    /// Where the number of the change is in it.
    places: Vec<usize>,
}

impl Update {
    fn new(bytes: Vec<u8>) -> Self {
        Self { places: memchr::memmem::find_iter(&bytes, MARK).collect(), bytes: bytes.into() }
    }

    /// It with the number of a change in place of those it has. What is short is
    /// in one piece, which is written at once; of the rest no copy is made.
    fn marked(&self, change: usize) -> Arc<[Bytes]> {
        let mark = mark(change);
        if self.bytes.len() <= CHUNK {
            let mut bytes = self.bytes.to_vec();
            self.places.iter().for_each(|at| bytes[*at..at + mark.len()].copy_from_slice(mark.as_bytes()));
            return [bytes.into()].into();
        }
        let (mark, mut from, mut pieces) = (Bytes::from(mark), 0, Vec::new());
        for at in &self.places {
            pieces.extend([self.bytes.slice(from..*at), mark.clone()]);
            from = at + mark.len();
        }
        pieces.push(self.bytes.slice(from..));
        pieces.into()
    }
}

/// Connections after their TLS handshakes.
fn encrypted(listener: TcpListener, acceptor: SslAcceptor) -> ReceiverStream<std::io::Result<Encrypted>> {
    let (ready, connections) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (ssl, ready) = (Ssl::new(acceptor.context()), ready.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(Ok(mut stream)) = ssl.map(|ssl| SslStream::new(ssl, stream)) else { return };
                if Pin::new(&mut stream).accept().await.is_ok() {
                    let _ = ready.send(Ok(Encrypted(stream))).await;
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

/// Writes a self-signed certificate and serves with it.
fn acceptor(folder: &Path) -> anyhow::Result<SslAcceptor> {
    let (certificate, key) = self_signed("localhost")?;
    std::fs::write(folder.join("cert.pem"), certificate.to_pem()?)?;

    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    acceptor.set_max_proto_version(None)?;
    acceptor.set_certificate(&certificate)?;
    acceptor.set_private_key(&key)?;
    acceptor.set_options(SslOptions::NO_TICKET);
    acceptor.set_num_tickets(0)?;
    acceptor.set_session_cache_mode(SslSessionCacheMode::OFF);
    acceptor.set_alpn_select_callback(|_, offered| {
        select_next_proto(b"\x02h2", offered).ok_or(openssl::ssl::AlpnError::NOACK)
    });
    Ok(acceptor.build())
}

/// A TLS connection as tonic wants it.
struct Encrypted(SslStream<TcpStream>);

impl tonic::transport::server::Connected for Encrypted {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl tokio::io::AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Cx<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Cx<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The service.
#[derive(Clone)]
struct Tiny {
    first: Bytes,
    newest: watch::Receiver<Arc<[Bytes]>>,
}

impl NamedService for Tiny {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl tower::Service<Request<Body>> for Tiny {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Cx<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let updates = WatchStream::from_changes(self.newest.clone());
        let body = TinyBody { requests: request.into_body(), open: true, rest: [self.first.clone()].into(), updates };
        let mut response = Response::new(Body::new(body));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        now(Ok(response))
    }
}

/// One stream.
struct TinyBody {
    requests: Body,
    open: bool,
    rest: VecDeque<Bytes>,
    updates: WatchStream<Arc<[Bytes]>>,
}

impl http_body::Body for TinyBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        // Requests must be taken off the connection, whatever they say.
        while this.open {
            match Pin::new(&mut this.requests).poll_frame(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => this.open = false,
                Poll::Pending => break,
            }
        }
        while this.rest.front().is_some_and(Bytes::is_empty) {
            this.rest.pop_front();
        }
        let Some(next) = this.rest.front_mut() else {
            match ready!(Pin::new(&mut this.updates).poll_next(cx)) {
                Some(update) => this.rest.extend(update.iter().cloned()),
                None => return Poll::Ready(None),
            }
            return self.poll_frame(cx);
        };
        let chunk = next.split_to(next.len().min(CHUNK));
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}

/// Answers each call with the same message as soon as it is complete.
#[derive(Clone)]
struct Canned {
    answer: Bytes,
}

impl NamedService for Canned {
    const NAME: &'static str = "istio.v1.auth.IstioCertificateService";
}

impl tower::Service<Request<Body>> for Canned {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Cx<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.answer.clone();
        Box::pin(async move {
            // What is wrong with a request is wrong with its connection too.
            let _ = request.into_body().collect().await;
            let status = HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))]);
            let body = Full::new(answer).with_trailers(async move { Some(Ok(status)) });
            let mut response = Response::new(Body::new(body));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            Ok(response)
        })
    }
}
