//! How ztunnel reaches the control plane: TLS 1.3, HTTP/2, a name that the
//! certificate must have, and a token.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::Service;

use super::Options;

/// What it takes to trust a server.
#[derive(Clone)]
pub struct Tls {
    /// The roots, in PEM.
    pub roots: String,
    /// The name it is dialled by.
    pub server_name: String,
}

impl Tls {
    /// The name ztunnels dial a control plane by.
    pub fn istiod(roots: String) -> Self {
        Self { roots, server_name: "istiod.istio-system.svc".into() }
    }
}

/// A connection to a control plane.
pub async fn channel(options: &Options) -> Result<Channel, tonic::Status> {
    let endpoint = endpoint(options.address);
    let channel = match options.tls.clone() {
        None => endpoint.connect().await,
        Some(tls) => endpoint.connect_with_connector(connector(options.address, tls)).await,
    };
    channel.map_err(|error| tonic::Status::unavailable(format!("{error:?}")))
}

/// A connection that is made when it is needed, and made again.
pub(crate) fn lazy_channel(address: SocketAddr, tls: Tls) -> Channel {
    // The API server ends watches that fall behind, and a window of 64 KiB is a
    // dozen pods.
    endpoint(address)
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(5 << 20)
        .connect_with_connector_lazy(connector(address, tls))
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
}

fn connector(
    address: SocketAddr,
    tls: Tls,
) -> impl Service<Uri, Response = TokioIo<SslStream<TcpStream>>, Error = std::io::Error, Future: Send> + Send + 'static
{
    tower::service_fn(move |_: Uri| {
        let tls = tls.clone();
        async move { handshake(address, &tls).await.map(TokioIo::new) }
    })
}

/// Adds the headers that go with a token.
pub fn authorize(options: &Options, metadata: &mut MetadataMap) {
    if let Some(token) = &options.token {
        // A token that is no header value could not have been sent either.
        metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
        metadata.insert("clusterid", "Kubernetes".parse().unwrap());
    }
}

async fn handshake(address: SocketAddr, tls: &Tls) -> Result<SslStream<TcpStream>, std::io::Error> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_ciphersuites("TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256")?;
    builder.set_groups_list("P-256:P-384")?;
    builder.set_alpn_protos(b"\x02h2")?;
    let mut roots = X509StoreBuilder::new()?;
    for root in X509::stack_from_pem(tls.roots.as_bytes())? {
        roots.add_cert(root)?;
    }
    builder.set_cert_store(roots.build());
    builder.set_verify(SslVerifyMode::PEER);
    let ssl = builder.build().configure()?.into_ssl(&tls.server_name)?;
    let mut stream = SslStream::new(ssl, stream)?;
    Pin::new(&mut stream).connect().await.map_err(std::io::Error::other)?;
    if stream.ssl().selected_alpn_protocol() != Some(b"h2") {
        return Err(std::io::Error::other("the server did not choose h2"));
    }
    Ok(stream)
}
