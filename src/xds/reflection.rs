//! Server reflection and health, so that grpcurl and buf can list, describe
//! and call the services, and expand the resources inside an `Any`.

use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tonic_reflection::server::v1alpha::{
    ServerReflection as ServerReflectionAlpha, ServerReflectionServer as ServerReflectionServerAlpha,
};
use tonic_reflection::server::{Builder, Error};

use super::server::XdsServer;

/// The services a server has besides the aggregated discovery service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Only discovery.
    Discovery,
    /// Discovery and certificate signing.
    DiscoveryAndCertificates,
}

/// The reflection service.
pub fn v1(served: Served) -> Result<ServerReflectionServer<impl ServerReflection>, Error> {
    builder(served).with_service_name("grpc.reflection.v1.ServerReflection").build_v1()
}

/// The reflection service that older clients know, grpcurl among them.
pub fn v1alpha(served: Served) -> Result<ServerReflectionServerAlpha<impl ServerReflectionAlpha>, Error> {
    builder(served).with_service_name("grpc.reflection.v1alpha.ServerReflection").build_v1alpha()
}

/// The health service, which reports the discovery service as serving until the
/// reporter is told otherwise.
pub async fn health() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_serving::<XdsServer>().await;
    (reporter, service)
}

/// Naming services is a filter, so all of them have to be named.
fn builder(served: Served) -> Builder<'static> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(fairway_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(super::server::NAME)
        .with_service_name("grpc.health.v1.Health");
    match served {
        Served::Discovery => builder,
        Served::DiscoveryAndCertificates => builder.with_service_name("istio.v1.auth.IstioCertificateService"),
    }
}

#[cfg(test)]
mod tests;
