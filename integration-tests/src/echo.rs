//! Backends that answer with what they were asked, so that a test sees what
//! reached whom.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use openssl::ssl::SslAcceptor;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::accept::each_connection;
use crate::tls;

/// How many requests are remembered: more than any test counts.
const KEPT: usize = 1000;

/// An application that answers HTTP/1.1 and HTTP/2 with JSON: `who`, `method`,
/// `path` and `headers`. The query changes what it does:
///
/// - `delay=MS`: answers later
/// - `status=CODE`: answers with this status
/// - `fail=N`: answers the first N requests for this path with 503
#[derive(Clone)]
pub struct Echo {
    who: Arc<str>,
    seen: Arc<Mutex<Vec<Value>>>,
    failed: Arc<Mutex<HashMap<String, u32>>>,
}

impl Echo {
    /// One that calls itself by this name.
    pub fn new(who: &str) -> Self {
        Self { who: who.into(), seen: Arc::default(), failed: Arc::default() }
    }

    /// What it was asked.
    pub fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap().clone()
    }

    fn note(&self, request: &Value) {
        let mut seen = self.seen.lock().unwrap();
        if seen.len() < KEPT {
            seen.push(request.clone());
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let headers = request.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()));
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        // HTTP/2 has the host in the URI.
        let authority = request.uri().authority().map(ToString::to_string);
        let host = request.headers().get("host").map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        let body = json!({
            "who": &*self.who,
            "method": request.method().as_str(),
            "path": path,
            "host": authority.or(host),
            "headers": headers.collect::<serde_json::Map<String, Value>>(),
        });
        self.note(&body);
        let query = |name: &str| {
            let pairs = request.uri().query().into_iter().flat_map(|query| query.split('&'));
            pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1.parse::<u32>().ok()
        };
        if let Some(delay) = query("delay") {
            tokio::time::sleep(Duration::from_millis(delay.into())).await;
        }
        let mut status = query("status").and_then(|status| StatusCode::from_u16(status as u16).ok());
        if let Some(failures) = query("fail") {
            let mut failed = self.failed.lock().unwrap();
            let count = failed.entry(path.to_owned()).or_default();
            if *count < failures {
                *count += 1;
                status = Some(StatusCode::SERVICE_UNAVAILABLE);
            }
        }
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = status.unwrap_or_default();
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        response
    }

    /// Answers on a connection until its end.
    pub async fn serve(&self, io: impl Read + Write + Unpin + Send + 'static) {
        let service = service_fn(|request| {
            let echo = self.clone();
            async move { Ok::<_, Infallible>(echo.answer(request).await) }
        });
        // How a connection ends is the caller's business.
        let _ = Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    }
}

/// A process of its own, as it were: it ends when it is dropped, with all its
/// connections.
pub struct Backend {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    /// Answers HTTP at an address.
    pub async fn http(address: SocketAddr, echo: &Echo) -> Self {
        let echo = echo.clone();
        Self::accept(address, move |stream| {
            let echo = echo.clone();
            async move { echo.serve(TokioIo::new(stream)).await }
        })
        .await
    }

    /// Answers HTTP inside of TLS at an address.
    pub async fn tls(address: SocketAddr, echo: &Echo, acceptor: SslAcceptor) -> Self {
        let (echo, acceptor) = (echo.clone(), Arc::new(acceptor));
        Self::accept(address, move |stream| {
            let (echo, acceptor) = (echo.clone(), acceptor.clone());
            async move {
                if let Some(stream) = tls::accept(&acceptor, stream).await {
                    echo.serve(TokioIo::new(stream)).await;
                }
            }
        })
        .await
    }

    /// Says its name and a line feed at once, then repeats what it is told: a
    /// protocol in which the server speaks first.
    pub async fn tcp(address: SocketAddr, who: &str) -> Self {
        let greeting = format!("{who}\n");
        Self::accept(address, move |mut stream| {
            let greeting = greeting.clone();
            async move {
                let (mut read, mut write) = stream.split();
                if write.write_all(greeting.as_bytes()).await.is_ok() {
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                }
            }
        })
        .await
    }

    /// Waits for a line and answers with its name and that line: a protocol
    /// that is not HTTP, in which the client speaks first.
    pub async fn line(address: SocketAddr, who: &str) -> Self {
        let who = who.to_owned();
        Self::accept(address, move |stream| {
            let who = who.clone();
            async move { answer_line(&who, stream).await }
        })
        .await
    }

    /// The same inside TLS, with a certificate that nobody has to trust.
    pub async fn tls_line(address: SocketAddr, who: &str) -> Self {
        let (who, acceptor) = (who.to_owned(), Arc::new(tls::self_signed()));
        Self::accept(address, move |stream| {
            let (who, acceptor) = (who.clone(), acceptor.clone());
            async move {
                if let Some(stream) = tls::accept(&acceptor, stream).await {
                    answer_line(&who, stream).await;
                }
            }
        })
        .await
    }

    async fn accept<F: Future<Output = ()> + Send + 'static>(
        address: SocketAddr,
        serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        Self { task: tokio::spawn(each_connection(listener, serve)) }
    }
}

async fn answer_line(who: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut line = vec![];
    while !line.ends_with(b"\n") {
        match stream.read_u8().await {
            Ok(byte) => line.push(byte),
            Err(_) => return,
        }
    }
    let answer = [format!("{who} ").as_bytes(), &line].concat();
    let _ = stream.write_all(&answer).await;
}
