//! A control plane over TLS, and clients of sockets.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use http::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use openssl::pkey::PKey;
use openssl::ssl::{AlpnError, Ssl, SslAcceptor, SslMethod, select_next_proto};
use openssl::x509::X509;
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixStream};
use tokio_openssl::SslStream;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};

use super::own_certificate;
use crate::agent::upstream::{Roots, Upstream};

/// A control plane's port, and the files that a pod has to reach it.
pub(super) struct ControlPlane {
    /// How it is reached.
    pub(super) upstream: Upstream,
    /// The pod's token.
    pub(super) token: PathBuf,
    /// The roots it is trusted by.
    pub(super) roots: PathBuf,
    _folder: TempDir,
    _server: tokio_util::task::AbortOnDropHandle<()>,
}

/// Serves on a port of its own, under the name `localhost`.
pub(super) async fn control_plane(routes: Routes) -> ControlPlane {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = own_certificate("localhost");
    let (token, roots) = (folder.path().join("token"), folder.path().join("root-cert.pem"));
    std::fs::write(&token, "first\n").unwrap();
    std::fs::write(&roots, &certificate).unwrap();
    let mut acceptor = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate(&X509::from_pem(certificate.as_bytes()).unwrap()).unwrap();
    acceptor.set_private_key(&PKey::private_key_from_pem(key.as_bytes()).unwrap()).unwrap();
    acceptor.set_alpn_select_callback(|_, offered| select_next_proto(b"\x02h2", offered).ok_or(AlpnError::NOACK));
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = routes.prepare().into_axum_router();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = SslStream::new(Ssl::new(acceptor.context()).unwrap(), stream).unwrap();
            let router = router.clone();
            tokio::spawn(async move {
                if Pin::new(&mut stream).accept().await.is_ok() {
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                        .await;
                }
            });
        }
    });
    let mut headers = HeaderMap::new();
    headers.insert("clusterid", "east".parse().unwrap());
    let upstream = Upstream {
        address: format!("127.0.0.1:{port}"),
        server_name: Some("localhost".into()),
        roots: Some(Roots::File(roots.clone())),
        token_file: token.clone(),
        headers,
    };
    ControlPlane { upstream, token, roots, _folder: folder, _server: tokio_util::task::AbortOnDropHandle::new(server) }
}

/// A client of a socket.
pub(super) async fn connect(path: &Path) -> Channel {
    let path = path.to_path_buf();
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://agent").connect_with_connector(connector).await.unwrap()
}
