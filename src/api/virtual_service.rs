//! `VirtualService`: how requests for some hosts are routed.
//! <https://istio.io/latest/docs/reference/config/networking/virtual-service/>

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::duration::duration;
use super::intern::interned;
use super::meta::{Labels, Meta, nullable};
use super::unknown::{Unknown, keeps_unknown, keeps_unknown_below};

type Texts = Box<[Arc<str>]>;

/// Routes for some hosts.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct VirtualService {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// The hosts and their routes.
    #[serde(deserialize_with = "nullable")]
    pub spec: VirtualServiceSpec,
    /// Paths of fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// `virtualService.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualServiceSpec {
    /// The hosts, possibly short names or with a leading `*`; none for a
    /// delegate.
    #[serde(deserialize_with = "nullable")]
    pub hosts: Texts,
    /// Gateways, as `namespace/name`, and `mesh`; none means `mesh`.
    #[serde(deserialize_with = "nullable")]
    pub gateways: Texts,
    /// Rules for HTTP; the first that matches counts.
    #[serde(deserialize_with = "nullable")]
    pub http: Box<[HttpRoute]>,
    /// Rules for TLS that is passed through.
    #[serde(deserialize_with = "nullable")]
    pub tls: Box<[TlsRoute]>,
    /// Rules for everything else.
    #[serde(deserialize_with = "nullable")]
    pub tcp: Box<[TcpRoute]>,
    /// The namespaces that see it: names, `.`, `*` or `~`; none is the mesh's
    /// default.
    #[serde(deserialize_with = "nullable")]
    pub export_to: Texts,
}

/// A rule for HTTP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct HttpRoute {
    /// Its name in logs.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// When it applies; any may match, and none means always.
    #[serde(rename = "match", deserialize_with = "nullable")]
    pub matches: Vec<HttpMatchRequest>,
    /// Where requests go.
    #[serde(deserialize_with = "nullable")]
    pub route: Vec<HttpRouteDestination>,
    /// An answer that sends the client elsewhere.
    pub redirect: Option<HttpRedirect>,
    /// An answer in place.
    pub direct_response: Option<HttpDirectResponse>,
    /// The virtual service that has the rest of the rule.
    pub delegate: Option<Delegate>,
    /// What becomes of path and authority.
    pub rewrite: Option<HttpRewrite>,
    /// The time for a request with all retries.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// When to try again.
    pub retries: Option<HttpRetry>,
    /// Faults to inject.
    pub fault: Option<HttpFaultInjection>,
    /// Where copies of requests go, in the older singular form.
    pub mirror: Option<Destination>,
    /// Where copies of requests go.
    #[serde(deserialize_with = "nullable")]
    pub mirrors: Vec<HttpMirrorPolicy>,
    /// The share of `mirror` in whole percents, the older form.
    #[serde(alias = "mirror_percent")]
    pub mirror_percent: Option<u32>,
    /// The share of `mirror`.
    pub mirror_percentage: Option<Percent>,
    /// What browsers may do from other origins.
    pub cors_policy: Option<CorsPolicy>,
    /// Changes of headers.
    pub headers: Option<Headers>,
    /// How requests of a session are kept at one endpoint. There is no such field;
    /// the Gateway API's rules say it.
    #[serde(skip)]
    pub session: Option<Session>,
    /// Fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// What says which session a request is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// A cookie.
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// The path it is for.
        path: Arc<str>,
        /// How long clients keep it; none is until they end.
        lifetime: Option<Duration>,
    },
    /// A header, of answers and then of requests.
    Header {
        /// Its name.
        name: Arc<str>,
    },
}

/// When a rule for HTTP applies. All fields must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct HttpMatchRequest {
    /// Its name in logs.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The path.
    pub uri: Option<StringMatch>,
    /// The scheme.
    pub scheme: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// The authority.
    pub authority: Option<StringMatch>,
    /// Headers by name, or claims of a token.
    #[serde(deserialize_with = "nullable")]
    pub headers: BTreeMap<Arc<str>, StringMatch>,
    /// The port the client asked for; 0 is any.
    #[serde(deserialize_with = "nullable")]
    pub port: u32,
    /// Labels of the client's workload.
    pub source_labels: Labels,
    /// The gateways it is for, instead of the virtual service's.
    #[serde(deserialize_with = "nullable")]
    pub gateways: Texts,
    /// Query parameters by name.
    #[serde(deserialize_with = "nullable")]
    pub query_params: BTreeMap<Arc<str>, StringMatch>,
    /// Whether the case of the path does not matter.
    #[serde(deserialize_with = "nullable")]
    pub ignore_uri_case: bool,
    /// Headers, or claims, that must not match.
    #[serde(deserialize_with = "nullable")]
    pub without_headers: BTreeMap<Arc<str>, StringMatch>,
    /// The namespace of the client's workload; empty is any.
    #[serde(deserialize_with = "interned")]
    pub source_namespace: Arc<str>,
    /// The name in statistics.
    #[serde(deserialize_with = "nullable")]
    pub stat_prefix: Arc<str>,
    /// Fields this version does not know. A match must not become wider because
    /// a condition in it was not understood.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// How a text must be.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum StringMatch {
    /// Nothing is said: the text must be there.
    #[default]
    Any,
    /// Equal to this.
    Exact(Arc<str>),
    /// Beginning with this.
    Prefix(Arc<str>),
    /// Matched as a whole by this RE2 expression.
    Regex(Arc<str>),
    /// In a way this version does not know, named here, or in several ways.
    Unknown(Arc<str>),
}

impl<'de> Deserialize<'de> for StringMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(remote = "Self", default)]
        struct Raw {
            exact: Option<Arc<str>>,
            prefix: Option<Arc<str>>,
            regex: Option<Arc<str>>,
            #[serde(skip)]
            unknown: Unknown,
        }
        keeps_unknown!(Raw);
        let Raw { exact, prefix, regex, unknown } = nullable(deserializer)?;
        let known = [
            exact.is_some().then_some("exact"),
            prefix.is_some().then_some("prefix"),
            regex.is_some().then_some("regex"),
        ];
        let names: Vec<_> = known.into_iter().flatten().chain(unknown.names()).collect();
        Ok(match (exact, prefix, regex) {
            _ if names.is_empty() => Self::Any,
            (Some(text), None, None) if names.len() == 1 => Self::Exact(text),
            (None, Some(text), None) if names.len() == 1 => Self::Prefix(text),
            (None, None, Some(text)) if names.len() == 1 => Self::Regex(text),
            _ => Self::Unknown(names.join(", ").into()),
        })
    }
}

/// A destination with its share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpRouteDestination {
    /// The destination.
    #[serde(deserialize_with = "nullable")]
    pub destination: Destination,
    /// Its share of requests, relative to the others.
    #[serde(deserialize_with = "nullable")]
    pub weight: i32,
    /// Changes of headers for this destination.
    pub headers: Option<Headers>,
}

/// Where something goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Destination {
    /// A host of the registry, possibly a short name.
    #[serde(deserialize_with = "nullable")]
    pub host: Arc<str>,
    /// A subset of a destination rule; empty is all of the host.
    #[serde(deserialize_with = "nullable")]
    pub subset: Arc<str>,
    /// The port; not needed if the host has only one.
    pub port: Option<PortSelector>,
}

/// A port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct PortSelector {
    /// The number.
    #[serde(deserialize_with = "nullable")]
    pub number: u32,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Headers {
    /// Of the request.
    #[serde(deserialize_with = "nullable")]
    pub request: HeaderOperations,
    /// Of the response.
    #[serde(deserialize_with = "nullable")]
    pub response: HeaderOperations,
}

/// Changes of the headers of a message.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HeaderOperations {
    /// Headers whose value is replaced.
    #[serde(deserialize_with = "nullable")]
    pub set: BTreeMap<Arc<str>, Arc<str>>,
    /// Headers that get another value.
    #[serde(deserialize_with = "nullable")]
    pub add: BTreeMap<Arc<str>, Arc<str>>,
    /// Headers that are taken away.
    #[serde(deserialize_with = "nullable")]
    pub remove: Vec<Arc<str>>,
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRedirect {
    /// The new path.
    #[serde(deserialize_with = "nullable")]
    pub uri: Arc<str>,
    /// What replaces the prefix that matched; Gateway API only.
    #[serde(deserialize_with = "nullable")]
    pub prefix_rewrite: Arc<str>,
    /// The new authority; empty is the same.
    #[serde(deserialize_with = "nullable")]
    pub authority: Arc<str>,
    /// The new port.
    pub port: Option<u32>,
    /// `FROM_PROTOCOL_DEFAULT` (also when empty) or `FROM_REQUEST_PORT`.
    #[serde(deserialize_with = "interned")]
    pub derive_port: Arc<str>,
    /// The new scheme; empty is the same.
    #[serde(deserialize_with = "nullable")]
    pub scheme: Arc<str>,
    /// The status; 0 is 301.
    #[serde(deserialize_with = "nullable")]
    pub redirect_code: u32,
}

/// An answer in place.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpDirectResponse {
    /// The status.
    #[serde(deserialize_with = "nullable")]
    pub status: u32,
    /// The body.
    pub body: Option<HttpBody>,
}

/// A body.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpBody {
    /// As a text.
    pub string: Option<Arc<str>>,
    /// As bytes.
    #[serde(deserialize_with = "base64")]
    pub bytes: Option<Arc<[u8]>>,
}

/// The virtual service that has the rest of a rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Delegate {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Its namespace; empty is that of the root.
    #[serde(deserialize_with = "interned")]
    pub namespace: Arc<str>,
}

/// What becomes of path and authority.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRewrite {
    /// What replaces the part of the path that matched.
    #[serde(deserialize_with = "nullable")]
    pub uri: Arc<str>,
    /// The new authority.
    #[serde(deserialize_with = "nullable")]
    pub authority: Arc<str>,
    /// A substitution in the path.
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// A substitution.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RegexRewrite {
    /// An RE2 expression.
    #[serde(rename = "match", deserialize_with = "nullable")]
    pub pattern: Arc<str>,
    /// What replaces it; `\1` is the first group.
    #[serde(deserialize_with = "nullable")]
    pub rewrite: Arc<str>,
}

/// When to try again.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRetry {
    /// How often; 0 is never.
    #[serde(deserialize_with = "nullable")]
    pub attempts: i32,
    /// The time for one attempt.
    #[serde(deserialize_with = "duration")]
    pub per_try_timeout: Option<Duration>,
    /// Envoy's conditions and HTTP statuses, with commas; empty is the default.
    #[serde(deserialize_with = "nullable")]
    pub retry_on: Arc<str>,
    /// Whether other localities are tried.
    pub retry_remote_localities: Option<bool>,
    /// Whether hosts that failed are not tried again.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// The base of the interval between attempts.
    #[serde(deserialize_with = "duration")]
    pub backoff: Option<Duration>,
}

/// Faults to inject.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpFaultInjection {
    /// Delays.
    pub delay: Option<Delay>,
    /// Answers in place.
    pub abort: Option<Abort>,
}

/// Delays to inject.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delay {
    /// The share of requests in whole percents, the older form.
    #[serde(deserialize_with = "nullable")]
    pub percent: u32,
    /// The share of requests.
    pub percentage: Option<Percent>,
    /// How long.
    #[serde(deserialize_with = "duration")]
    pub fixed_delay: Option<Duration>,
}

/// Errors to inject.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Abort {
    /// The share of requests.
    pub percentage: Option<Percent>,
    /// The HTTP status.
    pub http_status: Option<u32>,
    /// The name of a gRPC status.
    pub grpc_status: Option<Arc<str>>,
}

/// A place for copies of requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpMirrorPolicy {
    /// The destination.
    #[serde(deserialize_with = "nullable")]
    pub destination: Destination,
    /// The share of requests; all if not given.
    pub percentage: Option<Percent>,
}

/// A share in percents, from 0.0 to 100.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Percent {
    /// The percents.
    #[serde(deserialize_with = "nullable")]
    pub value: f64,
}

/// What browsers may do from other origins.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsPolicy {
    /// Origins, the older form; used if there is no other.
    #[serde(deserialize_with = "nullable")]
    pub allow_origin: Vec<Arc<str>>,
    /// Origins.
    #[serde(deserialize_with = "nullable")]
    pub allow_origins: Vec<StringMatch>,
    /// Methods.
    #[serde(deserialize_with = "nullable")]
    pub allow_methods: Vec<Arc<str>>,
    /// Request headers.
    #[serde(deserialize_with = "nullable")]
    pub allow_headers: Vec<Arc<str>>,
    /// Response headers that scripts may read.
    #[serde(deserialize_with = "nullable")]
    pub expose_headers: Vec<Arc<str>>,
    /// How long the answer to a preflight holds.
    #[serde(deserialize_with = "duration")]
    pub max_age: Option<Duration>,
    /// Whether cookies and the like may be sent.
    pub allow_credentials: Option<bool>,
    /// `UNSPECIFIED` (also when empty), `FORWARD` or `IGNORE`.
    #[serde(deserialize_with = "interned")]
    pub unmatched_preflights: Arc<str>,
}

/// A rule for TLS that is passed through.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TlsRoute {
    /// When it applies; any may match.
    #[serde(rename = "match", deserialize_with = "nullable")]
    pub matches: Vec<TlsMatchAttributes>,
    /// Where connections go.
    #[serde(deserialize_with = "nullable")]
    pub route: Vec<RouteDestination>,
}

/// When a rule for TLS applies. All fields must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct TlsMatchAttributes {
    /// Server names, of which any may match.
    #[serde(deserialize_with = "nullable")]
    pub sni_hosts: Texts,
    /// Ranges of destination addresses, of which any may match.
    #[serde(deserialize_with = "nullable")]
    pub destination_subnets: Texts,
    /// The port the client asked for; 0 is any.
    #[serde(deserialize_with = "nullable")]
    pub port: u32,
    /// Labels of the client's workload.
    pub source_labels: Labels,
    /// The gateways it is for, instead of the virtual service's.
    #[serde(deserialize_with = "nullable")]
    pub gateways: Texts,
    /// The namespace of the client's workload; empty is any.
    #[serde(deserialize_with = "interned")]
    pub source_namespace: Arc<str>,
    /// Fields this version does not know; see [`HttpMatchRequest::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A rule for TCP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TcpRoute {
    /// When it applies; any may match, and none means always.
    #[serde(rename = "match", deserialize_with = "nullable")]
    pub matches: Vec<L4MatchAttributes>,
    /// Where connections go.
    #[serde(deserialize_with = "nullable")]
    pub route: Vec<RouteDestination>,
}

/// When a rule for TCP applies. All fields must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct L4MatchAttributes {
    /// Ranges of destination addresses, of which any may match.
    #[serde(deserialize_with = "nullable")]
    pub destination_subnets: Texts,
    /// The port the client asked for; 0 is any.
    #[serde(deserialize_with = "nullable")]
    pub port: u32,
    /// A range of source addresses, which Istio does not look at.
    #[serde(deserialize_with = "nullable")]
    pub source_subnet: Arc<str>,
    /// Labels of the client's workload.
    pub source_labels: Labels,
    /// The gateways it is for, instead of the virtual service's.
    #[serde(deserialize_with = "nullable")]
    pub gateways: Texts,
    /// The namespace of the client's workload; empty is any.
    #[serde(deserialize_with = "interned")]
    pub source_namespace: Arc<str>,
    /// Fields this version does not know; see [`HttpMatchRequest::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A destination of connections with its share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteDestination {
    /// The destination.
    #[serde(deserialize_with = "nullable")]
    pub destination: Destination,
    /// Its share of connections, relative to the others.
    #[serde(deserialize_with = "nullable")]
    pub weight: i32,
}

/// Bytes as protobuf's JSON has them: base64 in either alphabet, padded or not.
fn base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<[u8]>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let mut text = text.trim_end_matches('=').replace('-', "+").replace('_', "/");
    text.push_str(["", "", "==", "="][text.len() % 4]);
    let bytes = openssl::base64::decode_block(&text).map_err(|_| serde::de::Error::custom("is not base64"))?;
    Ok(Some(bytes.into()))
}

keeps_unknown!(HttpRoute, HttpMatchRequest, TlsMatchAttributes, L4MatchAttributes);
keeps_unknown_below!(VirtualService);
