//! The gRPC services.

use std::sync::Arc;

use tonic::service::Routes;

use crate::ca::service::CertificateService;
use crate::xds::reflection::{self, Served};
use crate::xds::server::{Xds, XdsServer};

/// The services of a port.
pub(super) async fn routes(
    xds: XdsServer,
    certificates: Option<&Arc<CertificateService>>,
    served: Served,
) -> anyhow::Result<Routes> {
    let (_, health) = reflection::health().await;
    let mut routes = Routes::new(xds)
        .add_service(health)
        .add_service(reflection::v1(served)?)
        .add_service(reflection::v1alpha(served)?);
    if let Some(certificates) = certificates {
        routes = routes.add_service(CertificateService::server(certificates));
    }
    Ok(routes.prepare())
}

/// The plaintext services as pages of the health port, where istiod puts them
/// when `--grpcAddr` is empty.
pub(super) async fn plaintext_routes(xds: &Xds) -> anyhow::Result<axum::Router> {
    let routes = routes(xds.server(), None, Served::Discovery).await?.into_axum_router();
    Ok(routes.layer(axum::middleware::from_fn(plain_peer)))
}

/// Tells the services that the connection is plaintext.
async fn plain_peer(mut request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
    let address = request.extensions().get::<axum::extract::ConnectInfo<std::net::SocketAddr>>().map(|info| info.0);
    request.extensions_mut().insert(crate::ca::authenticate::Peer { address, ..Default::default() });
    next.run(request).await
}
