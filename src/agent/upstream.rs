//! How the control plane is reached: its address, what its certificate must
//! be, and the token that says who is calling.
//!
//! Roots and token are files that Kubernetes changes, so both are read again
//! for every connection and call.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{HeaderMap, Uri};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Who may have issued the control plane's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Those the system trusts.
    System,
    /// Those in a file.
    File(PathBuf),
}

/// A service of the control plane.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// `host:port`.
    pub address: String,
    /// The name its certificate must have; the host if not given.
    pub server_name: Option<String>,
    /// Whom to trust; nobody is asked for a certificate without.
    pub roots: Option<Roots>,
    /// The file with the token.
    pub token_file: PathBuf,
    /// What else calls carry.
    pub headers: HeaderMap,
}

/// Why the control plane cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The address is none.
    #[error("{0:?} is not host:port")]
    Address(String),
    /// Nothing answers.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that is needed cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file of roots has none, or is broken.
    #[error("{} has no usable certificates", .0.display())]
    Roots(PathBuf),
    /// The file of the token has none.
    #[error("{} has no token", .0.display())]
    Token(PathBuf),
    /// OpenSSL failed where it should not.
    #[error("OpenSSL failed")]
    OpenSsl(#[from] openssl::error::ErrorStack),
    /// The server is not who it should be, or speaks something else.
    #[error("TLS handshake with {name} failed: {reason}")]
    Handshake {
        /// The name that is expected.
        name: String,
        /// Why.
        reason: String,
    },
}

/// What can be read and written, encrypted or not.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl Upstream {
    /// The host and the port of the address.
    fn host_and_port(&self) -> Result<(String, u16), UpstreamError> {
        let authority: Option<http::uri::Authority> = self.address.parse().ok();
        let parts = authority.and_then(|authority| {
            let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_string();
            Some((host, authority.port_u16()?)).filter(|(host, _)| !host.is_empty())
        });
        parts.ok_or_else(|| UpstreamError::Address(self.address.clone()))
    }

    /// Refuses an address that could never be called.
    pub fn check(&self) -> Result<(), UpstreamError> {
        self.host_and_port().map(|_| ())
    }

    /// The address of a call.
    pub fn uri(&self, path: &str) -> Result<Uri, UpstreamError> {
        let scheme = if self.roots.is_some() { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(self.address.as_str()).path_and_query(path).build();
        uri.map_err(|_| UpstreamError::Address(self.address.clone()))
    }

    /// What goes with a call. A token never goes over a connection that anyone
    /// on the way could read.
    pub fn call_headers(&self) -> Result<HeaderMap, UpstreamError> {
        let mut headers = self.headers.clone();
        if self.roots.is_some() {
            let path = &self.token_file;
            let token =
                std::fs::read_to_string(path).map_err(|source| UpstreamError::File { path: path.clone(), source })?;
            let token = token.trim();
            let mut value =
                HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| UpstreamError::Token(path.clone()))?;
            if token.is_empty() {
                return Err(UpstreamError::Token(path.clone()));
            }
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Box<dyn Connection>, UpstreamError> {
        let (host, port) = self.host_and_port()?;
        let failed = |source| UpstreamError::Connect { address: self.address.clone(), source };
        let timed_out = |_| failed(std::io::Error::new(std::io::ErrorKind::TimedOut, "timed out"));
        let stream = TcpStream::connect((host.as_str(), port));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, stream).await.map_err(timed_out)?.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let Some(roots) = &self.roots else { return Ok(Box::new(stream)) };
        let name = self.server_name.clone().unwrap_or(host);
        let handshake = handshake(stream, &name, roots);
        Ok(Box::new(tokio::time::timeout(CONNECT_TIMEOUT, handshake).await.map_err(timed_out)??))
    }
}

async fn handshake(stream: TcpStream, name: &str, roots: &Roots) -> Result<SslStream<TcpStream>, UpstreamError> {
    // The builder begins with the system's roots.
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_alpn_protos(b"\x02h2")?;
    builder.set_verify(SslVerifyMode::PEER);
    if let Roots::File(path) = roots {
        let pem = std::fs::read(path).map_err(|source| UpstreamError::File { path: path.clone(), source })?;
        let roots = X509::stack_from_pem(&pem).unwrap_or_default();
        if roots.is_empty() {
            return Err(UpstreamError::Roots(path.clone()));
        }
        let mut store = X509StoreBuilder::new()?;
        for root in roots {
            store.add_cert(root)?;
        }
        builder.set_cert_store(store.build());
    }
    let ssl = builder.build().configure()?.into_ssl(name)?;
    let mut stream = SslStream::new(ssl, stream)?;
    let failed = |reason: String| UpstreamError::Handshake { name: name.to_string(), reason };
    if let Err(error) = Pin::new(&mut stream).connect().await {
        // What OpenSSL verified says more than that it did not like it.
        let verified = stream.ssl().verify_result();
        return Err(failed(match verified == openssl::x509::X509VerifyResult::OK {
            true => error.to_string(),
            false => verified.error_string().to_string(),
        }));
    }
    if stream.ssl().selected_alpn_protocol() != Some(b"h2") {
        return Err(failed("the server does not speak HTTP/2".into()));
    }
    Ok(stream)
}

/// Headers of names and values from the environment. What is no header is
/// returned by name.
pub fn headers<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> (HeaderMap, Vec<String>) {
    let (mut headers, mut broken) = (HeaderMap::new(), Vec::new());
    for (name, value) in pairs {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(value)) => _ = headers.insert(name, value),
            _ => broken.push(name.to_string()),
        }
    }
    (headers, broken)
}

/// An error and what caused it, in one line. Some libraries repeat a cause in
/// their own text; it is said once.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |error| error.source()) {
        let text = cause.to_string();
        if !texts.last().is_some_and(|last| last.ends_with(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}
