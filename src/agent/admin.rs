//! Envoy's admin pages, asked from beside it.
//! <https://www.envoyproxy.io/docs/envoy/latest/operations/admin>

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// How long Envoy may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Why Envoy did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nothing listens.
    #[error("cannot connect to Envoy's admin port")]
    Connect(#[from] std::io::Error),
    /// What listens does not answer in HTTP.
    #[error("Envoy's admin port does not answer")]
    Http(#[from] hyper::Error),
    /// It takes too long.
    #[error("Envoy's admin port does not answer in time")]
    Timeout,
    /// It answers that it cannot.
    #[error("Envoy answers {0}")]
    Status(StatusCode),
}

/// A page that is being read, and its connection.
pub struct Page {
    /// The page.
    pub response: Response<Incoming>,
    /// The connection, which ends when it is dropped.
    pub connection: AbortOnDropHandle<()>,
}

/// Opens a page.
pub async fn open(admin: SocketAddr, method: Method, path: &str) -> Result<Page, AdminError> {
    let open = async {
        let stream = TokioIo::new(TcpStream::connect(admin).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whoever reads the page sees that it is cut short.
            let _ = connection.await;
        }));
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap_or_default();
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
        let response = sender.send_request(request).await?;
        match response.status() {
            StatusCode::OK => Ok(Page { response, connection }),
            other => Err(AdminError::Status(other)),
        }
    };
    tokio::time::timeout(TIMEOUT, open).await.map_err(|_| AdminError::Timeout)?
}

/// The text of a page.
pub async fn text(admin: SocketAddr, method: Method, path: &str) -> Result<String, AdminError> {
    let page = open(admin, method, path).await?;
    let body = tokio::time::timeout(TIMEOUT, page.response.into_body().collect()).await;
    let body = body.map_err(|_| AdminError::Timeout)??;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

/// Statistics of a page of `name: value` lines. Those that are no numbers are
/// left out.
pub fn stats(page: &str) -> impl Iterator<Item = (&str, u64)> {
    page.lines().filter_map(|line| {
        let (name, value) = line.rsplit_once(':')?;
        Some((name.trim(), value.trim().parse().ok()?))
    })
}
