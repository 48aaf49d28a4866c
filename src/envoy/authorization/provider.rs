//! External authorizers, which decide in place of a CUSTOM policy.
//! <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshConfig-ExtensionProvider>

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService, HeaderValue, HttpUri};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz, HttpService,
};
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as NetworkExtAuthz;
use envoy_types::pb::envoy::r#type::matcher::v3::{ListStringMatcher, MetadataMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, StatusCode};

use crate::api::extension_provider::{self as api, ExtensionProvider};
use crate::envoy::encode::duration;

use super::Request;
use super::matcher::{self, Pattern, is_header_name};

/// How long an authorizer may take where nothing else is said, as in Istio.
const TIMEOUT: Duration = Duration::from_secs(600);
/// No timeout that Envoy takes is as long.
const MOST: Duration = Duration::from_secs(1 << 32);

/// An `extensionProvider` of the mesh configuration that can authorize.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provider {
    /// The name that policies use.
    pub name: Arc<str>,
    /// `hostname` or `namespace/hostname`.
    pub service: Arc<str>,
    /// The service's port.
    pub port: u32,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Whether requests pass when it cannot be asked.
    pub fail_open: bool,
    /// The status when it cannot be asked; empty is 403.
    pub status_on_error: Arc<str>,
    /// Whether routes are looked up again after it changed headers.
    pub clear_route_cache: bool,
    /// Whether it gets the request's body.
    pub request_body: Option<RequestBody>,
    /// How it is asked.
    pub protocol: Protocol,
}

impl Provider {
    /// A provider of the mesh configuration, if it is one that authorizes.
    pub fn new(given: &ExtensionProvider) -> Option<Self> {
        let body = |body: &Option<api::RequestBody>| {
            body.as_ref().map(|body| RequestBody {
                max_request_bytes: body.max_request_bytes,
                allow_partial_message: body.allow_partial_message,
                pack_as_bytes: body.pack_as_bytes,
            })
        };
        let name = given.name.clone();
        match &given.provider {
            api::Provider::EnvoyExtAuthzGrpc(grpc) => Some(Self {
                name,
                service: grpc.service.clone(),
                port: grpc.port,
                timeout: grpc.timeout,
                fail_open: grpc.fail_open,
                status_on_error: grpc.status_on_error.clone(),
                clear_route_cache: grpc.clear_route_cache,
                request_body: body(&grpc.include_request_body_in_check),
                protocol: Protocol::Grpc,
            }),
            api::Provider::EnvoyExtAuthzHttp(http) => Some(Self {
                name,
                service: http.service.clone(),
                port: http.port,
                timeout: http.timeout,
                fail_open: http.fail_open,
                status_on_error: http.status_on_error.clone(),
                clear_route_cache: http.clear_route_cache,
                request_body: body(&http.include_request_body_in_check),
                protocol: Protocol::Http(HttpCheck {
                    path_prefix: http.path_prefix.clone(),
                    include_request_headers: match http.include_request_headers_in_check.is_empty() {
                        true => http.include_headers_in_check.clone(),
                        false => http.include_request_headers_in_check.clone(),
                    },
                    include_additional_headers: http
                        .include_additional_headers_in_check
                        .iter()
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect(),
                    headers_to_upstream_on_allow: http.headers_to_upstream_on_allow.clone(),
                    headers_to_downstream_on_deny: http.headers_to_downstream_on_deny.clone(),
                    headers_to_downstream_on_allow: http.headers_to_downstream_on_allow.clone(),
                }),
            }),
            _ => None,
        }
    }
}

/// `includeRequestBodyInCheck`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestBody {
    /// The most bytes of it.
    pub max_request_bytes: u32,
    /// Whether a longer one is cut rather than refused.
    pub allow_partial_message: bool,
    /// Whether it is sent as bytes.
    pub pack_as_bytes: bool,
}

/// How an authorizer is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Protocol {
    /// `envoyExtAuthzGrpc`.
    #[default]
    Grpc,
    /// `envoyExtAuthzHttp`.
    Http(HttpCheck),
}

/// What is only said of `envoyExtAuthzHttp`. Headers may be `x*` or `*x`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpCheck {
    /// Put before the request's path.
    pub path_prefix: Arc<str>,
    /// `includeRequestHeadersInCheck`, or the older `includeHeadersInCheck`.
    pub include_request_headers: Box<[Arc<str>]>,
    /// `includeAdditionalHeadersInCheck`.
    pub include_additional_headers: Box<[(Arc<str>, Arc<str>)]>,
    /// `headersToUpstreamOnAllow`.
    pub headers_to_upstream_on_allow: Box<[Arc<str>]>,
    /// `headersToDownstreamOnDeny`.
    pub headers_to_downstream_on_deny: Box<[Arc<str>]>,
    /// `headersToDownstreamOnAllow`.
    pub headers_to_downstream_on_allow: Box<[Arc<str>]>,
}

/// A provider whose settings Envoy will take, at a cluster that exists.
pub struct Usable<'a> {
    provider: &'a Provider,
    status: Option<HttpStatus>,
    cluster: String,
}

/// Finds a provider, or says why there is none to be used.
pub fn usable<'a>(request: &Request<'a>, name: &str) -> Result<Usable<'a>, String> {
    if name.is_empty() {
        return Err("a CUSTOM action needs a provider".into());
    }
    let mut named = request.providers.iter().filter(|provider| *provider.name == *name);
    let Some(provider) = named.next() else {
        return Err(format!("the mesh configuration has no authorizer {name:?}"));
    };
    if named.next().is_some() {
        return Err(format!("the mesh configuration has several authorizers {name:?}"));
    }
    check(provider).map_err(|why| format!("authorizer {name:?}: {why}"))?;
    let status = status(&provider.status_on_error).map_err(|why| format!("authorizer {name:?}: {why}"))?;
    let port = u16::try_from(provider.port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("authorizer {name:?}: port {} is out of range", provider.port))?;
    let cluster = (request.cluster)(&provider.service, port)
        .ok_or_else(|| format!("authorizer {name:?}: there is no service {:?} with port {port}", provider.service))?;
    Ok(Usable { provider, status, cluster })
}

fn check(provider: &Provider) -> Result<(), String> {
    if provider.request_body.is_some_and(|body| body.max_request_bytes == 0) {
        return Err("includeRequestBodyInCheck.maxRequestBytes must not be zero".into());
    }
    if provider.timeout.is_some_and(|timeout| timeout.is_zero() || timeout >= MOST) {
        return Err("timeout is out of range".into());
    }
    let Protocol::Http(http) = &provider.protocol else { return Ok(()) };
    let path = &http.path_prefix;
    if !path.is_empty() && (!path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control())) {
        return Err(format!("pathPrefix {path:?} is not a path"));
    }
    let lists = [
        ("includeRequestHeadersInCheck", &http.include_request_headers),
        ("headersToUpstreamOnAllow", &http.headers_to_upstream_on_allow),
        ("headersToDownstreamOnDeny", &http.headers_to_downstream_on_deny),
        ("headersToDownstreamOnAllow", &http.headers_to_downstream_on_allow),
    ];
    for (field, headers) in lists {
        if let Some(header) = headers.iter().find(|header| matches!(&***header, "" | "*")) {
            return Err(format!("{field}: {header:?} is not a header, or one with a wildcard at an end"));
        }
    }
    for (name, value) in &http.include_additional_headers {
        if !is_header_name(name) || value.contains(['\0', '\r', '\n']) {
            return Err(format!("includeAdditionalHeadersInCheck: {name:?} cannot be sent"));
        }
    }
    Ok(())
}

fn status(text: &str) -> Result<Option<HttpStatus>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let code = text.parse::<i32>().ok().and_then(|code| StatusCode::try_from(code).ok());
    match code {
        None | Some(StatusCode::Empty) => Err(format!("statusOnError {text:?} is not a status that Envoy knows")),
        Some(code) => Ok(Some(HttpStatus { code: code.into() })),
    }
}

impl Usable<'_> {
    /// The HTTP filter, which asks where `enabled` matches.
    pub fn http(&self, enabled: MetadataMatcher) -> ExtAuthz {
        let Provider { protocol, request_body, fail_open, clear_route_cache, .. } = self.provider;
        let (services, allowed_headers) = match protocol {
            Protocol::Grpc => (Services::GrpcService(self.grpc_service()), None),
            Protocol::Http(http) => {
                (Services::HttpService(self.http_service(http)), headers(&http.include_request_headers))
            }
        };
        ExtAuthz {
            services: Some(services),
            transport_api_version: ApiVersion::V3.into(),
            failure_mode_allow: *fail_open,
            clear_route_cache: *clear_route_cache,
            status_on_error: self.status,
            with_request_body: request_body.map(|body| BufferSettings {
                max_request_bytes: body.max_request_bytes,
                allow_partial_message: body.allow_partial_message,
                pack_as_bytes: body.pack_as_bytes,
            }),
            filter_enabled_metadata: Some(enabled),
            allowed_headers,
            ..Default::default()
        }
    }

    /// The network filter, or `None` if the authorizer only knows requests.
    pub fn network(&self, enabled: MetadataMatcher) -> Option<NetworkExtAuthz> {
        match self.provider.protocol {
            Protocol::Http(_) => None,
            Protocol::Grpc => Some(NetworkExtAuthz {
                stat_prefix: "tcp.".into(),
                grpc_service: Some(self.grpc_service()),
                failure_mode_allow: self.provider.fail_open,
                transport_api_version: ApiVersion::V3.into(),
                filter_enabled_metadata: Some(enabled),
                ..Default::default()
            }),
        }
    }

    fn hostname(&self) -> &str {
        self.provider.service.rsplit_once('/').map_or(&*self.provider.service, |(_, hostname)| hostname)
    }

    fn grpc_service(&self) -> GrpcService {
        let target =
            EnvoyGrpc { cluster_name: self.cluster.clone(), authority: self.hostname().into(), ..Default::default() };
        GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)),
            timeout: duration(self.provider.timeout.unwrap_or(TIMEOUT)),
            ..Default::default()
        }
    }

    fn http_service(&self, http: &HttpCheck) -> HttpService {
        let mut to_add: Vec<_> = http.include_additional_headers.iter().collect();
        to_add.sort_unstable();
        let to_add = to_add.into_iter().map(|(key, value)| HeaderValue {
            key: key.to_string(),
            value: value.to_string(),
            ..Default::default()
        });
        let request = AuthorizationRequest { headers_to_add: to_add.collect(), ..Default::default() };
        let response = AuthorizationResponse {
            allowed_upstream_headers: headers(&http.headers_to_upstream_on_allow),
            allowed_client_headers: headers(&http.headers_to_downstream_on_deny),
            allowed_client_headers_on_success: headers(&http.headers_to_downstream_on_allow),
            ..Default::default()
        };
        HttpService {
            server_uri: Some(HttpUri {
                // Envoy wants one, and asks the cluster.
                uri: format!("http://{}", self.hostname()),
                timeout: duration(self.provider.timeout.unwrap_or(TIMEOUT)),
                http_upstream_type: Some(HttpUpstreamType::Cluster(self.cluster.clone())),
            }),
            path_prefix: http.path_prefix.to_string(),
            authorization_request: (!request.headers_to_add.is_empty()).then_some(request),
            authorization_response: (response != AuthorizationResponse::default()).then_some(response),
            ..Default::default()
        }
    }
}

fn headers(names: &[Arc<str>]) -> Option<ListStringMatcher> {
    let pattern = |name: &Arc<str>| {
        let matcher = match Pattern::new(name) {
            Pattern::Suffix(text) => matcher::suffix(text),
            Pattern::Prefix(text) => matcher::prefix(text),
            Pattern::Presence | Pattern::Exact(_) => matcher::exact(&**name),
        };
        StringMatcher { ignore_case: true, ..matcher }
    };
    (!names.is_empty()).then(|| ListStringMatcher { patterns: names.iter().map(pattern).collect() })
}
