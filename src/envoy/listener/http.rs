//! What the mesh configuration says about HTTP: paths, and the headers that
//! proxies set or leave out.
//! <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#ProxyConfig-ProxyHeaders>
//!
//! `gatewayTopology` (trusted proxies in front, client certificates they pass
//! on) is about gateways alone: in front of a waypoint there are only ztunnels,
//! which add no header.

#[cfg(test)]
mod tests;

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation, header_mutation};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::http1_protocol_options::HeaderKeyFormat;
use envoy_types::pb::envoy::config::core::v3::http1_protocol_options::header_key_format::HeaderFormat;
use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, Http1ProtocolOptions, TypedExtensionConfig,
};
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{
    HeaderMutation as HeaderMutationFilter, Mutations,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails, PathWithEscapedSlashesAction, ServerHeaderTransformation, SetCurrentClientCertDetails,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
};
use envoy_types::pb::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;

use super::http_filter;
use crate::api::mesh::{GatewayTopology, MeshConfig, ProxyHeaders};
use crate::envoy::encode::{any, boolean};
use crate::envoy::{gateway_topology, proxy_headers};
use crate::model::Settings;
use crate::proxy::Scope;

/// What there is to go by for HTTP that a proxy reads.
#[derive(Clone, Copy)]
pub struct HttpSettings<'a> {
    /// The mesh's configuration.
    pub mesh: &'a MeshConfig,
    /// The headers that the proxy sets: its own configuration's, or the mesh's.
    pub headers: &'a ProxyHeaders,
    /// What is in front of it, likewise.
    pub topology: &'a GatewayTopology,
    /// Whether HTTP/1.0 is taken.
    pub http10: bool,
}

impl<'a> HttpSettings<'a> {
    /// Those of the proxies of a scope.
    pub fn of(scope: &'a Scope, mesh: &'a MeshConfig, settings: &Settings) -> Self {
        Self {
            mesh,
            headers: proxy_headers(scope, mesh),
            topology: gateway_topology(scope, mesh),
            http10: settings.http10 || scope.capabilities().http10,
        }
    }

    /// Whether Envoy's own headers for debugging are there.
    pub fn debug_headers(&self) -> bool {
        self.headers.envoy_debug_headers.disabled != Some(true)
    }
}

/// Headers of every manager of HTTP, also of that which only carries it.
pub fn with_proxy_headers(mut manager: HttpConnectionManager, headers: &ProxyHeaders) -> HttpConnectionManager {
    if headers.server.disabled == Some(true) {
        manager.server_name = String::new();
        manager.server_header_transformation = ServerHeaderTransformation::PassThrough.into();
    } else if !headers.server.value.is_empty() {
        manager.server_name = headers.server.value.to_string();
    }
    if headers.request_id.disabled == Some(true) {
        manager.generate_request_id = boolean(false);
    }
    manager
}

/// What the settings say about HTTP that is read.
pub fn with_settings(manager: HttpConnectionManager, settings: HttpSettings<'_>) -> HttpConnectionManager {
    let HttpSettings { mesh, headers, http10, .. } = settings;
    let mut manager = with_proxy_headers(manager, headers);
    manager.append_x_forwarded_port = headers.x_forwarded_port.enabled == Some(true);
    if headers.preserve_http1_header_case == Some(true) {
        let formatter = TypedExtensionConfig {
            name: "preserve_case".into(),
            typed_config: Some(any(&PreserveCaseFormatterConfig::default())),
        };
        let header_key_format =
            Some(HeaderKeyFormat { header_format: Some(HeaderFormat::StatefulFormatter(formatter)) });
        manager.http_protocol_options = Some(Http1ProtocolOptions { header_key_format, ..Default::default() });
    }
    if http10 {
        manager.http_protocol_options.get_or_insert_default().accept_http_10 = true;
    }
    match &*mesh.path_normalization.normalization {
        "NONE" => manager.normalize_path = boolean(false),
        "MERGE_SLASHES" => manager.merge_slashes = true,
        "DECODE_AND_MERGE_SLASHES" => {
            manager.merge_slashes = true;
            manager.path_with_escaped_slashes_action = PathWithEscapedSlashesAction::UnescapeAndForward.into();
        }
        // Also what is not known: policies match paths, so these are not to be
        // taken as they come.
        _ => {}
    }
    manager
}

/// What the settings say about HTTP at a gateway, whose clients are not trusted:
/// what they say of where they come from, and of certificates, is replaced by
/// what the gateway sees, but for what trusted proxies in front of it added.
pub fn at_gateway(manager: HttpConnectionManager, settings: HttpSettings<'_>) -> HttpConnectionManager {
    let topology = settings.topology;
    let details = forwarded(&topology.forward_client_cert_details).unwrap_or(ForwardClientCertDetails::SanitizeSet);
    let sets = matches!(details, ForwardClientCertDetails::AppendForward | ForwardClientCertDetails::SanitizeSet);
    let current =
        SetCurrentClientCertDetails { subject: boolean(true), cert: true, dns: true, uri: true, ..Default::default() };
    HttpConnectionManager {
        use_remote_address: boolean(true),
        xff_num_trusted_hops: topology.num_trusted_proxies,
        forward_client_cert_details: details.into(),
        set_current_client_cert_details: sets.then_some(current),
        ..with_settings(manager, settings)
    }
}

/// What becomes of `x-forwarded-client-cert` where the certificate is seen.
pub fn forwarded_client_certificate(headers: &ProxyHeaders) -> ForwardClientCertDetails {
    forwarded(&headers.forwarded_client_cert).unwrap_or(ForwardClientCertDetails::AppendForward)
}

fn forwarded(name: &str) -> Option<ForwardClientCertDetails> {
    Some(match name {
        "SANITIZE" => ForwardClientCertDetails::Sanitize,
        "FORWARD_ONLY" => ForwardClientCertDetails::ForwardOnly,
        "APPEND_FORWARD" => ForwardClientCertDetails::AppendForward,
        "SANITIZE_SET" => ForwardClientCertDetails::SanitizeSet,
        "ALWAYS_FORWARD_ONLY" => ForwardClientCertDetails::AlwaysForwardOnly,
        _ => return None,
    })
}

/// Tells the service who the caller is, in `x-forwarded-client-cert`, in place
/// of whatever the caller says there.
pub fn client_identity() -> HttpFilter {
    let value = "By=%FILTER_STATE(io.istio.local_principal:PLAIN)%;URI=%FILTER_STATE(io.istio.peer_principal:PLAIN)%";
    let header = HeaderValue { key: "x-forwarded-client-cert".into(), value: value.into(), ..Default::default() };
    let append = HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    let mutation = HeaderMutation { action: Some(header_mutation::Action::Append(append)) };
    let mutations = Mutations { request_mutations: vec![mutation], ..Default::default() };
    http_filter(
        "istio.waypoint.xfcc_client_identity",
        &HeaderMutationFilter { mutations: Some(mutations), ..Default::default() },
    )
}
