//! Fetching a set of keys over HTTP.

#[cfg(test)]
mod tests;

use std::error::Error;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_openssl::client::legacy::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslMethod, SslVersion};
use openssl::x509::X509;
use tokio::net::TcpStream;
use tower::Service;

use crate::model::key_set::KeySource;

use super::{Guard, Options, document};

/// The longest answer that is read.
const LONGEST: usize = 1 << 20;
/// How often a redirect is followed.
const REDIRECTS: usize = 3;
/// The longest that a fetch may take, whatever a rule says.
const MOST: Duration = Duration::from_secs(30);

/// Fetches keys.
#[derive(Clone)]
pub struct Fetcher {
    client: Client<HttpsConnector<Connector>, Empty<Bytes>>,
}

impl Fetcher {
    /// One that asks only whom the guard lets it, and believes only servers
    /// with a certificate of the system's roots or of the further ones.
    pub fn new(options: &Options<'_>) -> Result<Self, ErrorStack> {
        let mut tls = SslConnector::builder(SslMethod::tls_client())?;
        tls.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        if let Ok(extra) = std::fs::read(options.extra_roots) {
            for root in X509::stack_from_pem(&extra)? {
                tls.cert_store_mut().add_cert(root)?;
            }
        }
        let connector = HttpsConnector::with_connector(Connector { guard: Arc::new(options.guard.clone()) }, tls)?;
        // Nothing is asked again soon.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { client })
    }

    /// The keys at a source, or why they cannot be had.
    pub async fn keys(&self, source: KeySource, timeout: Duration) -> Result<Arc<str>, String> {
        let fetch = async {
            let uri = match &source {
                KeySource::Uri(uri) => uri.to_string(),
                KeySource::Issuer(issuer) => {
                    let issuer = issuer.trim_end_matches('/');
                    document::jwks_uri(&self.get(&format!("{issuer}/.well-known/openid-configuration")).await?)?
                }
            };
            document::keys(&self.get(&uri).await?)
        };
        let limited = tokio::time::timeout(timeout.min(MOST), fetch).await;
        limited.unwrap_or_else(|_| Err("there is no answer in time".into()))
    }

    async fn get(&self, uri: &str) -> Result<Bytes, String> {
        let mut uri = checked(uri)?;
        for _ in 0..=REDIRECTS {
            let request = Request::get(&uri).header(header::ACCEPT, "application/json");
            let request = request.header(header::USER_AGENT, "fairway").body(Empty::new());
            let request = request.map_err(|_| "the URI cannot be asked")?;
            let response = self.client.request(request).await.map_err(|error| innermost(&error))?;
            let status = response.status();
            if status.is_redirection() {
                uri = redirect(&uri, response.headers())?;
                continue;
            }
            if !status.is_success() {
                return Err(format!("the answer is {}", status.as_u16()));
            }
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            return Ok(body.map_err(|_| "the answer is too long or breaks off")?.to_bytes());
        }
        Err("there are too many redirects".into())
    }
}

fn checked(uri: &str) -> Result<Uri, String> {
    let parsed: Option<Uri> = uri.parse().ok();
    let web = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    parsed.filter(web).ok_or_else(|| "where keys are is no http or https URL".into())
}

/// Where a redirect leads: to another host, or elsewhere at the same.
fn redirect(from: &Uri, headers: &HeaderMap) -> Result<Uri, String> {
    let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or("a redirect leads nowhere")?;
    let to = match (location.starts_with('/') && !location.starts_with("//"), from.scheme_str(), from.authority()) {
        (true, Some(scheme), Some(authority)) => checked(&format!("{scheme}://{authority}{location}"))?,
        _ => checked(location)?,
    };
    if from.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
        return Err("a redirect leads from https to http".into());
    }
    Ok(to)
}

/// What an error is about in the end, without what is different each time.
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Opens connections to addresses that the guard lets through.
#[derive(Clone)]
struct Connector {
    guard: Arc<Guard>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, Box<dyn Error + Send + Sync>>> + Send>>;

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let guard = self.guard.clone();
        Box::pin(async move { Ok(TokioIo::new(connect(&guard, &uri).await?)) })
    }
}

async fn connect(guard: &Guard, uri: &Uri) -> Result<TcpStream, String> {
    let host = uri.host().ok_or("the URI has no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => {
            let found = tokio::net::lookup_host((host, port)).await;
            found.map_err(|_| format!("{host} cannot be looked up"))?.collect()
        }
    };
    let mut why = format!("{host} has no address");
    // One address that is refused is enough: names that also lead elsewhere are
    // how such guards are got around.
    for address in &addresses {
        guard.check(address.ip())?;
    }
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => why = format!("{host} cannot be reached: {}", error.kind()),
        }
    }
    Err(why)
}
