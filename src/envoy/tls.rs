//! Transport sockets: the mutual TLS of HBONE, the sockets between clusters
//! and internal listeners, and what other TLS is made of.

pub mod server;

use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, GrpcService, TransportSocket, api_config_source,
};
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::internal_upstream_transport::MetadataValueSource;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, SubjectAltNameMatcher,
    TlsParameters, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::metadata::v3::{MetadataKind, metadata_kind};
use prost::{Message, Name};

use super::encode::{any, boolean, duration};
use crate::credential::{CA_SUFFIX, Part, Provider, sds_name};

/// The metadata of an endpoint that says where its connection really goes.
pub const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";

/// Resources that come over the stream everything else comes over; `wait` says
/// whether Envoy waits for them without end.
pub fn ads(wait: bool) -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        initial_fetch_timeout: if wait { duration(std::time::Duration::ZERO) } else { None },
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

/// The agent beside the proxy, which has the workload's certificate.
fn agent() -> ConfigSource {
    let grpc = EnvoyGrpc { cluster_name: "sds-grpc".into(), ..Default::default() };
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        initial_fetch_timeout: duration(std::time::Duration::ZERO),
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(ApiConfigSource {
            api_type: api_config_source::ApiType::Grpc.into(),
            transport_api_version: ApiVersion::V3.into(),
            set_node_on_first_message_only: true,
            grpc_services: vec![GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(grpc)),
                ..Default::default()
            }],
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn secret(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.into(), sds_config: Some(agent()) }
}

/// A credential that the control plane has, by the name that it is asked for
/// with. Envoy waits for a while and goes on without, as for files: one Secret
/// that is not there must not keep the rest of a listener from working.
pub fn credential(name: impl Into<String>) -> SdsSecretConfig {
    SdsSecretConfig { name: name.into(), sds_config: Some(ads(false)) }
}

/// The same by what users call it; `None` if it means nothing.
pub fn named_credential(user: &str, part: Part) -> Option<SdsSecretConfig> {
    let (name, provider) = sds_name(user);
    match (provider, part) {
        (Provider::ControlPlane, Part::Certificate) => Some(credential(name)),
        (Provider::ControlPlane, Part::Authority) => Some(credential(name + CA_SUFFIX)),
        (Provider::Workload, Part::Certificate) => Some(secret(WORKLOAD)),
        (Provider::Workload, Part::Authority) => Some(secret(ROOTS)),
        (Provider::Nobody, _) => None,
    }
}

/// The workload's own certificate, as agents call it.
const WORKLOAD: &str = "default";
/// The roots of the mesh, as agents call them.
const ROOTS: &str = "ROOTCA";

/// Files of the proxy, which the agent reads. Envoy waits for a while and then
/// goes on without: one cluster whose files are not there must not keep a
/// waypoint from starting.
pub fn file_secret(name: String) -> SdsSecretConfig {
    SdsSecretConfig { name, sds_config: Some(ConfigSource { initial_fetch_timeout: None, ..agent() }) }
}

/// Matches a certificate that has this name, of whatever kind it is.
pub fn any_name(name: &str) -> impl Iterator<Item = SubjectAltNameMatcher> {
    [SanType::Dns, SanType::Uri, SanType::Email, SanType::IpAddress].into_iter().map(move |kind| {
        SubjectAltNameMatcher {
            san_type: kind.into(),
            matcher: Some(StringMatcher {
                match_pattern: Some(MatchPattern::Exact(name.into())),
                ..Default::default()
            }),
            ..Default::default()
        }
    })
}

/// A transport socket.
pub fn named<M: Message + Name>(name: &str, config: &M) -> TransportSocket {
    TransportSocket { name: name.into(), config_type: Some(ConfigType::TypedConfig(any(config))) }
}

/// The TLS of the mesh, of either side: the workload's own certificate, and a
/// peer whose SPIFFE identity is one of these. Only matchers with a type are
/// given; Envoy looks at no others once there is one.
fn of_mesh(
    identities: impl IntoIterator<Item = MatchPattern>,
    protocols: &[&str],
    minimum: TlsProtocol,
) -> CommonTlsContext {
    let matchers = identities.into_iter().map(|identity| SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(StringMatcher { match_pattern: Some(identity), ..Default::default() }),
        ..Default::default()
    });
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: matchers.collect(),
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret(ROOTS)),
        ..Default::default()
    };
    CommonTlsContext {
        alpn_protocols: protocols.iter().map(ToString::to_string).collect(),
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: minimum.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![secret(WORKLOAD)],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        ..Default::default()
    }
}

/// That of HBONE, with whoever proves to be of one of these trust domains.
fn hbone(trust_domains: &[&str]) -> CommonTlsContext {
    let identities = trust_domains.iter().map(|domain| MatchPattern::Prefix(format!("spiffe://{domain}/")));
    of_mesh(identities, &["h2"], TlsProtocol::TlSv13)
}

/// Takes HBONE from whoever proves to be of one of these trust domains.
pub fn downstream_hbone(trust_domains: &[&str]) -> TransportSocket {
    let context = DownstreamTlsContext {
        common_tls_context: Some(hbone(trust_domains)),
        require_client_certificate: boolean(true),
        ..Default::default()
    };
    named("tls", &context)
}

/// Opens HBONE to whoever proves to be of one of these trust domains.
pub fn upstream_hbone(trust_domains: &[&str]) -> TransportSocket {
    let context = UpstreamTlsContext { common_tls_context: Some(hbone(trust_domains)), ..Default::default() };
    named("tls", &context)
}

/// Opens the mutual TLS of sidecars, to whoever proves to be one of these.
/// Without any it is anybody of the mesh, as in Istio.
pub fn upstream_mutual(sni: &str, identities: &[String], http2: bool) -> TransportSocket {
    let protocols: &[&str] = if http2 { &["istio", "h2"] } else { &["istio"] };
    let identities = identities.iter().cloned().map(MatchPattern::Exact);
    let common = of_mesh(identities, protocols, TlsProtocol::TlSv12);
    let context = UpstreamTlsContext { common_tls_context: Some(common), sni: sni.into(), ..Default::default() };
    named("envoy.transport_sockets.tls", &context)
}

/// Plain bytes.
pub fn raw_buffer() -> TransportSocket {
    named("raw_buffer", &RawBuffer {})
}

/// Leads to an internal listener, with metadata of the endpoint that was
/// chosen. `inner` is what is spoken inside.
pub fn internal(host_metadata: &[&str], inner: TransportSocket) -> TransportSocket {
    let host = || MetadataKind { kind: Some(metadata_kind::Kind::Host(metadata_kind::Host {})) };
    let passed = host_metadata.iter().map(|name| MetadataValueSource { kind: Some(host()), name: (*name).into() });
    let context = InternalUpstreamTransport { passthrough_metadata: passed.collect(), transport_socket: Some(inner) };
    named("envoy.transport_sockets.internal_upstream", &context)
}
