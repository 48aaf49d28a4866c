//! The Gateway API's routes, and the grants that let them refer to other
//! namespaces. <https://gateway-api.sigs.k8s.io/reference/spec/>

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::duration::duration;
use super::intern::{Interned, interned};
use super::meta::{Meta, nullable};
use super::unknown::{Unknown, keeps_unknown};
use crate::intern::intern;

type Texts = Box<[Arc<str>]>;

/// The Gateway API's group.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// A route for HTTP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HTTPRoute {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// Parents, hosts and rules.
    #[serde(deserialize_with = "nullable")]
    pub spec: RouteSpec<HttpRouteRule>,
}

/// A route for gRPC.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GRPCRoute {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// Parents, hosts and rules.
    #[serde(deserialize_with = "nullable")]
    pub spec: RouteSpec<GrpcRouteRule>,
}

/// A route for TCP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TCPRoute {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// Parents and rules.
    #[serde(deserialize_with = "nullable")]
    pub spec: RouteSpec<L4RouteRule>,
}

/// A route for TLS, by server name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TLSRoute {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// Parents, server names and rules.
    #[serde(deserialize_with = "nullable")]
    pub spec: RouteSpec<L4RouteRule>,
}

/// The `spec` of a route.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, bound = "R: Deserialize<'de>")]
pub struct RouteSpec<R> {
    /// What it is attached to.
    #[serde(deserialize_with = "nullable")]
    pub parent_refs: Box<[ParentReference]>,
    /// Hostnames, possibly with a leading `*.`; none is any.
    #[serde(deserialize_with = "nullable")]
    pub hostnames: Texts,
    /// The rules.
    #[serde(deserialize_with = "nullable")]
    pub rules: Box<[R]>,
}

impl<R> Default for RouteSpec<R> {
    fn default() -> Self {
        Self { parent_refs: Box::default(), hostnames: Box::default(), rules: Box::default() }
    }
}

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentReference {
    /// The API group; empty is the core group, and that of gateways if absent.
    #[serde(deserialize_with = "gateway_group")]
    pub group: Arc<str>,
    /// The kind; `Gateway` if absent.
    #[serde(deserialize_with = "gateway_kind")]
    pub kind: Arc<str>,
    /// The namespace; empty is that of the route.
    #[serde(deserialize_with = "interned")]
    pub namespace: Arc<str>,
    /// The name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The listener or the port by name; empty is any.
    #[serde(deserialize_with = "interned")]
    pub section_name: Arc<str>,
    /// The port; none is any.
    pub port: Option<u16>,
}

impl Default for ParentReference {
    fn default() -> Self {
        let none: Arc<str> = "".into();
        Self {
            group: intern(GROUP),
            kind: intern("Gateway"),
            namespace: none.clone(),
            name: none.clone(),
            section_name: none,
            port: None,
        }
    }
}

/// A rule for HTTP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct HttpRouteRule {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// When it applies; any may match, and none means always.
    #[serde(deserialize_with = "nullable")]
    pub matches: Box<[HttpRouteMatch]>,
    /// What is done with requests.
    #[serde(deserialize_with = "nullable")]
    pub filters: Box<[RouteFilter]>,
    /// Where requests go.
    #[serde(deserialize_with = "nullable")]
    pub backend_refs: Box<[BackendRef]>,
    /// Times.
    #[serde(deserialize_with = "nullable")]
    pub timeouts: HttpRouteTimeouts,
    /// When to try again.
    pub retry: Option<HttpRouteRetry>,
    /// How requests of a session are kept at one endpoint.
    pub session_persistence: Option<SessionPersistence>,
    /// Fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// How requests of a session are kept at one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct SessionPersistence {
    /// The name of the cookie or header; empty is up to us.
    #[serde(deserialize_with = "nullable")]
    pub session_name: Arc<str>,
    /// How old a session may become.
    #[serde(deserialize_with = "duration")]
    pub absolute_timeout: Option<Duration>,
    /// How long a session may be unused.
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Option<Duration>,
    /// `Cookie` (also when empty) or `Header`.
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// What the cookie is like.
    #[serde(deserialize_with = "nullable")]
    pub cookie_config: CookieConfig,
    /// Fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// What a cookie is like.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieConfig {
    /// `Session` (also when empty) or `Permanent`.
    #[serde(deserialize_with = "interned")]
    pub lifetime_type: Arc<str>,
}

/// When a rule for HTTP applies. All fields must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct HttpRouteMatch {
    /// The path; any if absent.
    pub path: Option<HttpPathMatch>,
    /// Headers.
    #[serde(deserialize_with = "nullable")]
    pub headers: Box<[ValueMatch]>,
    /// Query parameters.
    #[serde(deserialize_with = "nullable")]
    pub query_params: Box<[ValueMatch]>,
    /// The method; empty is any.
    #[serde(deserialize_with = "interned")]
    pub method: Arc<str>,
    /// Fields this version does not know. A match must not become wider because
    /// a condition in it was not understood.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// How a path must be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpPathMatch {
    /// `PathPrefix` (also when empty), `Exact` or `RegularExpression`.
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// The value; `/` if absent.
    pub value: Option<Arc<str>>,
}

/// How a header or a query parameter must be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct ValueMatch {
    /// `Exact` (also when empty) or `RegularExpression`.
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// The name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The value.
    #[serde(deserialize_with = "nullable")]
    pub value: Arc<str>,
    /// Fields this version does not know; see [`HttpRouteMatch::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// Times of a rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteTimeouts {
    /// For a request with all retries; zero is none.
    #[serde(deserialize_with = "duration")]
    pub request: Option<Duration>,
    /// For one attempt; zero is none.
    #[serde(deserialize_with = "duration")]
    pub backend_request: Option<Duration>,
}

/// When to try again.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpRouteRetry {
    /// HTTP statuses.
    #[serde(deserialize_with = "nullable")]
    pub codes: Box<[u32]>,
    /// How often.
    pub attempts: Option<i32>,
    /// The least time between attempts.
    #[serde(deserialize_with = "duration")]
    pub backoff: Option<Duration>,
}

/// Where requests or connections go.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct BackendRef {
    /// The API group; empty is the core group.
    #[serde(deserialize_with = "interned")]
    pub group: Arc<str>,
    /// The kind; `Service` if absent.
    #[serde(deserialize_with = "service_kind")]
    pub kind: Arc<str>,
    /// The namespace; empty is that of the route.
    #[serde(deserialize_with = "interned")]
    pub namespace: Arc<str>,
    /// The name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The port, which a `Service` needs.
    pub port: Option<u16>,
    /// The share, relative to the others; 1 if absent.
    #[serde(deserialize_with = "one")]
    pub weight: u32,
    /// What is done with requests for this backend.
    #[serde(deserialize_with = "nullable")]
    pub filters: Box<[RouteFilter]>,
}

impl Default for BackendRef {
    fn default() -> Self {
        let none: Arc<str> = "".into();
        Self {
            group: none.clone(),
            kind: intern("Service"),
            namespace: none.clone(),
            name: none,
            port: None,
            weight: 1,
            filters: Box::default(),
        }
    }
}

/// What is done with requests: a kind, and the field of that kind.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteFilter {
    /// `RequestHeaderModifier`, `RequestRedirect` and so on.
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// Changes of request headers.
    pub request_header_modifier: Option<HeaderFilter>,
    /// Changes of response headers.
    pub response_header_modifier: Option<HeaderFilter>,
    /// Copies of requests.
    pub request_mirror: Option<RequestMirrorFilter>,
    /// An answer that sends the client elsewhere.
    pub request_redirect: Option<RequestRedirectFilter>,
    /// Changes of path and host.
    pub url_rewrite: Option<UrlRewriteFilter>,
    /// What browsers may do from other origins.
    pub cors: Option<CorsFilter>,
    /// An extension.
    pub extension_ref: Option<LocalObjectReference>,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HeaderFilter {
    /// Headers whose value is replaced.
    #[serde(deserialize_with = "nullable")]
    pub set: Box<[HttpHeader]>,
    /// Headers that get another value.
    #[serde(deserialize_with = "nullable")]
    pub add: Box<[HttpHeader]>,
    /// Headers that are taken away.
    #[serde(deserialize_with = "nullable")]
    pub remove: Texts,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpHeader {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Its value.
    #[serde(deserialize_with = "nullable")]
    pub value: Arc<str>,
}

/// Copies of requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestMirrorFilter {
    /// Where they go.
    #[serde(deserialize_with = "nullable")]
    pub backend_ref: BackendRef,
    /// The share in whole percents.
    pub percent: Option<u32>,
    /// The share; all if neither is given.
    pub fraction: Option<Fraction>,
}

/// A share.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Fraction {
    /// The part.
    #[serde(deserialize_with = "nullable")]
    pub numerator: u32,
    /// The whole; 100 if absent.
    #[serde(deserialize_with = "hundred")]
    pub denominator: u32,
}

impl Default for Fraction {
    fn default() -> Self {
        Self { numerator: 0, denominator: 100 }
    }
}

/// An answer that sends the client elsewhere. What is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRedirectFilter {
    /// The new scheme.
    #[serde(deserialize_with = "interned")]
    pub scheme: Arc<str>,
    /// The new host.
    #[serde(deserialize_with = "nullable")]
    pub hostname: Arc<str>,
    /// The new path.
    pub path: Option<HttpPathModifier>,
    /// The new port; that of the new scheme if absent.
    pub port: Option<u16>,
    /// The status; 302 if absent.
    pub status_code: Option<u32>,
}

/// Changes of path and host. What is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct UrlRewriteFilter {
    /// The new host.
    #[serde(deserialize_with = "nullable")]
    pub hostname: Arc<str>,
    /// The new path.
    pub path: Option<HttpPathModifier>,
}

/// A new path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// In place of all of it.
    pub replace_full_path: Option<Arc<str>>,
    /// In place of the prefix that matched.
    pub replace_prefix_match: Option<Arc<str>>,
}

/// What browsers may do from other origins.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsFilter {
    /// Origins, possibly `*` or with a wildcard in the host.
    #[serde(deserialize_with = "nullable")]
    pub allow_origins: Texts,
    /// Whether cookies and the like may be sent.
    #[serde(deserialize_with = "nullable")]
    pub allow_credentials: bool,
    /// Methods, possibly `*`.
    #[serde(deserialize_with = "nullable")]
    pub allow_methods: Texts,
    /// Request headers, possibly `*`.
    #[serde(deserialize_with = "nullable")]
    pub allow_headers: Texts,
    /// Response headers that scripts may read, possibly `*`.
    #[serde(deserialize_with = "nullable")]
    pub expose_headers: Texts,
    /// How many seconds the answer to a preflight holds; 0 is not set.
    #[serde(deserialize_with = "nullable")]
    pub max_age: u32,
}

/// An object in the namespace of the route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LocalObjectReference {
    /// The API group; empty is the core group.
    #[serde(deserialize_with = "interned")]
    pub group: Arc<str>,
    /// The kind.
    #[serde(deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// The name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
}

/// A rule for gRPC.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct GrpcRouteRule {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// When it applies; any may match, and none means always.
    #[serde(deserialize_with = "nullable")]
    pub matches: Box<[GrpcRouteMatch]>,
    /// What is done with requests.
    #[serde(deserialize_with = "nullable")]
    pub filters: Box<[RouteFilter]>,
    /// Where requests go.
    #[serde(deserialize_with = "nullable")]
    pub backend_refs: Box<[BackendRef]>,
    /// How requests of a session are kept at one endpoint.
    pub session_persistence: Option<SessionPersistence>,
    /// Fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// When a rule for gRPC applies. All fields must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct GrpcRouteMatch {
    /// The method; any if absent.
    pub method: Option<GrpcMethodMatch>,
    /// Headers.
    #[serde(deserialize_with = "nullable")]
    pub headers: Box<[ValueMatch]>,
    /// Fields this version does not know; see [`HttpRouteMatch::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// How a gRPC method must be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct GrpcMethodMatch {
    /// `Exact` (also when empty) or `RegularExpression`.
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// The service; empty is any.
    #[serde(deserialize_with = "nullable")]
    pub service: Arc<str>,
    /// The method; empty is any.
    #[serde(deserialize_with = "nullable")]
    pub method: Arc<str>,
    /// Fields this version does not know; see [`HttpRouteMatch::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A rule for TCP or TLS.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L4RouteRule {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Where connections go.
    #[serde(deserialize_with = "nullable")]
    pub backend_refs: Box<[BackendRef]>,
}

/// Lets objects of other namespaces refer to objects of this one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrant {
    /// Name and namespace.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// Who may refer to what.
    #[serde(deserialize_with = "nullable")]
    pub spec: ReferenceGrantSpec,
}

/// `referenceGrant.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantSpec {
    /// Who may refer; any of these.
    #[serde(deserialize_with = "nullable")]
    pub from: Box<[ReferenceGrantFrom]>,
    /// To what; any of these.
    #[serde(deserialize_with = "nullable")]
    pub to: Box<[ReferenceGrantTo]>,
}

/// Who may refer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct ReferenceGrantFrom {
    /// The API group; empty is the core group.
    #[serde(deserialize_with = "interned")]
    pub group: Arc<str>,
    /// The kind.
    #[serde(deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// The namespace.
    #[serde(deserialize_with = "interned")]
    pub namespace: Arc<str>,
    /// Fields this version does not know. A grant must not become wider because
    /// a restriction in it was not understood.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// What may be referred to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct ReferenceGrantTo {
    /// The API group; empty is the core group.
    #[serde(deserialize_with = "interned")]
    pub group: Arc<str>,
    /// The kind.
    #[serde(deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// The name; empty is any.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Fields this version does not know; see [`ReferenceGrantFrom::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

impl ReferenceGrant {
    /// Whether objects of a group and kind in a namespace may refer to an
    /// object of this grant's namespace.
    pub fn allows(&self, from: (&str, &str), from_namespace: &str, to: (&str, &str), to_name: &str) -> bool {
        self.spec
            .from
            .iter()
            .any(|one| one.unknown.is_empty() && (&*one.group, &*one.kind) == from && *one.namespace == *from_namespace)
            && self.spec.to.iter().any(|one| {
                let named = one.name.is_empty() || *one.name == *to_name;
                one.unknown.is_empty() && (&*one.group, &*one.kind) == to && named
            })
    }
}

fn gateway_group<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map_or_else(|| intern(GROUP), |Interned(group)| group))
}

fn gateway_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map_or_else(|| intern("Gateway"), |Interned(kind)| kind))
}

fn service_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map_or_else(|| intern("Service"), |Interned(kind)| kind))
}

fn one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(1))
}

fn hundred<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(100))
}

keeps_unknown!(
    HttpRouteRule,
    SessionPersistence,
    HttpRouteMatch,
    ValueMatch,
    GrpcRouteRule,
    GrpcRouteMatch,
    GrpcMethodMatch,
    ReferenceGrantFrom,
    ReferenceGrantTo
);
