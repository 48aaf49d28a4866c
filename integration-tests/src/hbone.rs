//! Both ends of HBONE as a ztunnel speaks it: HTTP/2 CONNECT over mutual TLS.
//! <https://istio.io/latest/docs/ambient/architecture/hbone/>

mod server;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::identity::Identity;

pub use server::{Asked, Carry, Server, serve};

/// Longer than any answer takes.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection to a waypoint, as one identity. Many tunnels share it, as
/// those of one ztunnel and workload do.
#[derive(Clone)]
pub struct Client {
    /// The identity of the other end.
    pub peer: String,
    sender: http2::SendRequest<Empty<Bytes>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Answer {
    /// What an [`Echo`](crate::echo::Echo) says it was asked.
    pub fn echo(&self) -> Value {
        let broken = |error| panic!("{} {:?} is not of an echo: {error}", self.status, self.body);
        serde_json::from_str(&self.body).unwrap_or_else(broken)
    }

    /// Who answered.
    pub fn who(&self) -> String {
        self.echo()["who"].as_str().unwrap().to_owned()
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Client {
    /// Connects.
    pub async fn connect(identity: &Identity, waypoint: SocketAddr) -> Result<Self, String> {
        Self::over(identity, TcpStream::connect(waypoint).await.map_err(|error| error.to_string())?).await
    }

    /// The same over a connection that is there already.
    pub async fn over(identity: &Identity, stream: TcpStream) -> Result<Self, String> {
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (stream, peer) = identity.connect(stream).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        let shaken = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| format!("{error:?}"))?;
        // It ends when the last sender and the last tunnel are gone.
        tokio::spawn(connection);
        Ok(Self { peer, sender })
    }

    /// Opens a tunnel to an address and port of the mesh.
    pub async fn tunnel(&self, destination: &str) -> Result<TokioIo<Upgraded>, String> {
        let mut sender = self.sender.clone();
        let connect = async {
            sender.ready().await.map_err(|error| format!("{error:?}"))?;
            let request = Request::connect(destination).body(Empty::new()).unwrap();
            let response = sender.send_request(request).await.map_err(|error| format!("CONNECT: {error:?}"))?;
            if response.status() != StatusCode::OK {
                return Err(format!("CONNECT {destination}: {}", response.status()));
            }
            hyper::upgrade::on(response).await.map(TokioIo::new).map_err(|error| format!("tunnel: {error:?}"))
        };
        tokio::time::timeout(LIMIT, connect).await.map_err(|_| format!("CONNECT {destination}: no answer"))?
    }

    /// An HTTP/1.1 connection through a tunnel of its own.
    pub async fn http(&self, destination: &str) -> Result<Http, String> {
        let tunnel = self.tunnel(destination).await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(tunnel)).await.map_err(|error| format!("{error:?}"))?;
        tokio::spawn(async move {
            if let Ok(parts) = connection.without_shutdown().await {
                close(parts.io.into_inner()).await;
            }
        });
        Ok(Http { sender })
    }

    /// Sends a request through a tunnel of its own.
    pub async fn send(&self, destination: &str, request: Request<()>) -> Result<Answer, String> {
        self.http(destination).await?.send(request).await
    }

    /// Sends a GET with these headers.
    pub async fn get(&self, destination: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        self.send(destination, request("GET", path, headers)).await
    }
}

/// Ends a tunnel as ztunnel does, one direction after the other. Envoy ends a
/// connection on which most tunnels are reset within a second.
async fn close(mut tunnel: TokioIo<Upgraded>) {
    let end = async {
        tunnel.shutdown().await?;
        tokio::io::copy(&mut tunnel, &mut tokio::io::sink()).await
    };
    // Whoever does not end it in turn is left.
    let _ = tokio::time::timeout(LIMIT, end).await;
}

/// A request without a body, for a host that nobody looks at.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        builder = builder.header("host", "service.example");
    }
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

/// An HTTP/1.1 connection that can be used again.
pub struct Http {
    sender: http1::SendRequest<Empty<Bytes>>,
}

impl Http {
    /// One over a connection of its own, without any tunnel.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self, String> {
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| format!("{error:?}"))?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Whether the other end keeps the connection.
    pub async fn usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request.
    pub async fn send(&mut self, request: Request<()>) -> Result<Answer, String> {
        let ask = async {
            let request = request.map(|()| Empty::new());
            answer(self.sender.send_request(request).await.map_err(|error| format!("{error:?}"))?).await
        };
        tokio::time::timeout(LIMIT, ask).await.map_err(|_| "no answer".to_owned())?
    }
}

async fn answer(response: Response<hyper::body::Incoming>) -> Result<Answer, String> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| format!("{}: {error:?}", parts.status))?.to_bytes();
    Ok(Answer { status: parts.status, headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned() })
}
