//! The gRPC servers.

use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::ca::service::CertificateService;
use crate::xds::reflection::{self, Served};
use crate::xds::server::XdsServer;

/// How connections are kept and bounded.
#[derive(Clone, Copy)]
pub(super) struct Keepalive {
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) max_streams: u32,
}

impl Keepalive {
    /// Serves connections until drained.
    pub(super) async fn serve<C>(
        self,
        connections: impl Stream<Item = std::io::Result<C>> + Send + 'static,
        routes: Routes,
        drain: CancellationToken,
    ) -> anyhow::Result<()>
    where
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        C::ConnectInfo: Clone + Send + Sync + 'static,
    {
        let server = Server::builder()
            .http2_keepalive_interval(Some(self.interval))
            .http2_keepalive_timeout(Some(self.timeout))
            .max_concurrent_streams(self.max_streams)
            .add_routes(routes);
        Ok(server.serve_with_incoming_shutdown(connections, drain.cancelled_owned()).await?)
    }
}

/// The services of a port.
pub(super) async fn routes(
    xds: XdsServer,
    certificates: Option<CertificateService>,
    served: Served,
) -> anyhow::Result<Routes> {
    let (_, health) = reflection::health().await;
    let mut routes = Routes::new(xds)
        .add_service(health)
        .add_service(reflection::v1(served)?)
        .add_service(reflection::v1alpha(served)?);
    if let Some(certificates) = certificates {
        routes = routes.add_service(certificates.into_server());
    }
    Ok(routes.prepare())
}

/// The plaintext services as pages of the health port, where istiod puts them
/// when `--grpcAddr` is empty.
pub(super) async fn plaintext_routes(xds: &XdsServer) -> anyhow::Result<axum::Router> {
    let routes = routes(xds.clone(), None, Served::Discovery).await?.into_axum_router();
    Ok(routes.layer(axum::middleware::from_fn(plain_peer)))
}

/// Tells the services that the connection is plaintext.
async fn plain_peer(mut request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
    let address = request.extensions().get::<axum::extract::ConnectInfo<std::net::SocketAddr>>().map(|info| info.0);
    request.extensions_mut().insert(crate::ca::authenticate::Peer { address, ..Default::default() });
    next.run(request).await
}
