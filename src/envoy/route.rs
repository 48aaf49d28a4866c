//! Envoy's routes from rules of a `VirtualService`, for waypoints and gateways.
//! The Gateway API's routes are lowered to the same rules first
//! ([`gateway_api`]).
//!
//! A waypoint's routes are inside its listener, so one that Envoy refuses would
//! cost all of them. Whatever Envoy checks is therefore checked here: what is
//! refused costs its rule, or only its match, and is a [`Problem`]. A match is
//! never made wider because a part of it cannot be expressed.
//! <https://istio.io/latest/docs/reference/config/networking/virtual-service/>,
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/route/v3/route_components.proto>

mod action;
pub mod delegate;
mod filters;
pub mod gateway_api;
mod hash;
mod headers;
mod matches;
pub mod regex;
mod retry;
pub mod session;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Decorator, DirectResponseAction, Route, RouteAction, RouteMatch};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use crate::api::Labels;
use crate::api::destination_rule::ConsistentHash;
use crate::api::virtual_service::{Destination, HttpMatchRequest, HttpRetry, HttpRoute, Session};
use crate::envoy::encode::duration;
use crate::model::gateway::GatewayKey;
use crate::model::gateway::istio::gateway_key;

pub use hash::hash_policy;
pub use regex::check as check_regex;

/// The cluster of a backend that is not valid. It is never defined, so that
/// requests for it are answered with an error.
pub const UNKNOWN_SERVICE: &str = "UnknownService";

/// What the routes of some rules depend on besides the rules.
pub struct RouteRequest<'a> {
    /// The path of the object in metadata, such as
    /// `/apis/networking.istio.io/v1/namespaces/NS/virtual-service/NAME`.
    pub config: &'a str,
    /// The name of the object in traces.
    pub name: &'a str,
    /// Whose rules about paths and failures apply.
    pub semantics: Semantics,
    /// The port that clients ask for.
    pub port: u16,
    /// Who asks.
    pub clients: Clients<'a>,
    /// Whether they ask by TLS.
    pub tls: bool,
    /// Whether `x-forwarded-host` is set where the host is rewritten.
    pub append_x_forwarded_host: bool,
    /// `defaultHttpRetryPolicy` of the mesh.
    pub default_retry: Option<&'a HttpRetry>,
    /// The cluster of a destination whose host is not empty.
    pub cluster_of: &'a dyn Fn(&Destination) -> ClusterRef,
}

/// Whose rules apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Semantics {
    /// A prefix is any prefix; a missing cluster is a 503.
    Istio,
    /// A prefix ends with a path segment; a missing cluster is a 500.
    GatewayApi,
    /// A prefix ends with a path segment; a missing cluster is a 503.
    Ingress,
}

/// Who asks, as far as rules of a VirtualService go by it.
#[derive(Clone, Copy, Debug)]
pub enum Clients<'a> {
    /// Workloads of the mesh, of which nothing but their identity is known.
    Mesh,
    /// Whoever comes to a gateway, which is what rules then mean by the client.
    Gateway {
        /// The gateway.
        gateway: &'a GatewayKey,
        /// The namespace of the object with the rules, where short names are.
        from: &'a Arc<str>,
        /// The namespace of the gateway's proxies.
        namespace: &'a Arc<str>,
        /// The labels of their pods.
        labels: &'a [(Arc<str>, Arc<str>)],
    },
}

impl Clients<'_> {
    /// Whether one of these names of gateways stands for them; none does.
    pub fn named(&self, gateways: &[Arc<str>]) -> bool {
        gateways.is_empty()
            || gateways.iter().any(|name| match self {
                Self::Mesh => &**name == "mesh",
                Self::Gateway { gateway, from, .. } => &**name != "mesh" && gateway_key(name, from) == **gateway,
            })
    }

    /// Whether they have these labels and are in this namespace, if one is
    /// given. Of workloads neither is known.
    pub fn have(&self, labels: &Labels, namespace: &str) -> bool {
        let here = match self {
            Self::Mesh => namespace.is_empty(),
            Self::Gateway { namespace: own, .. } => namespace.is_empty() || namespace == &***own,
        };
        here && self.labelled(labels)
    }

    /// Whether they have these labels. Those of workloads are not known.
    fn labelled(&self, wanted: &Labels) -> bool {
        match self {
            Self::Mesh => wanted.is_empty(),
            Self::Gateway { labels, .. } => {
                let has = |key: &str, value: &str| labels.iter().any(|(name, own)| &**name == key && &**own == value);
                wanted.iter().all(|(key, value)| has(key, value))
            }
        }
    }
}

/// Where a destination leads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterRef {
    /// The cluster.
    pub name: String,
    /// What makes requests go to the same endpoint.
    pub consistent_hash: Option<ConsistentHash>,
    /// The same where the endpoint is remembered.
    pub session: Option<Session>,
}

/// A part of a rule that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The index of the rule.
    pub rule: usize,
    /// The field, relative to the rule; empty is the rule itself.
    pub field: String,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl Problem {
    /// The path of the field, given that of the list of rules.
    pub fn path(&self, rules: &str) -> String {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        format!("{rules}[{}]{dot}{}", self.rule, self.field)
    }
}

/// Why a part of a rule is refused.
#[derive(Debug)]
struct Refusal {
    field: String,
    reason: &'static str,
    message: String,
}

impl Refusal {
    /// The same, seen from the field that contains it.
    fn within(mut self, field: &str) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{field}{dot}{}", self.field);
        self
    }
}

type Checked<T> = Result<T, Refusal>;

fn refuse<T>(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Checked<T> {
    Err(Refusal { field: field.into(), reason, message: message.into() })
}

/// The problems of one rule.
struct Findings<'a> {
    rule: usize,
    problems: &'a mut Vec<Problem>,
}

impl Findings<'_> {
    fn note(&mut self, Refusal { field, reason, message }: Refusal) {
        self.problems.push(Problem { rule: self.rule, field, reason, message });
    }
}

/// The routes of rules, in order. The first rule that always applies ends them.
pub fn routes(request: &RouteRequest<'_>, http: &[HttpRoute]) -> (Vec<Route>, Vec<Problem>) {
    let (mut routes, mut problems) = (Vec::new(), Vec::new());
    for (rule, http) in http.iter().enumerate() {
        let mut findings = Findings { rule, problems: &mut problems };
        if rule_routes(request, http, &mut findings, &mut routes) {
            break;
        }
    }
    (routes, problems)
}

/// Whether any of some rules of a virtual service is about requests of some
/// clients for a port. If none is, it is as if there were none.
pub fn applies(clients: &Clients<'_>, port: u16, http: &[HttpRoute]) -> bool {
    // What asks for labels that its clients have not is never sent.
    let applies =
        |one: &HttpMatchRequest| matches::concerns(clients, port, one) && clients.labelled(&one.source_labels);
    http.iter().any(|rule| rule.matches.is_empty() || rule.matches.iter().any(applies))
}

/// Adds the routes of a rule, and returns whether nothing after it can match.
fn rule_routes(
    request: &RouteRequest<'_>,
    http: &HttpRoute,
    findings: &mut Findings<'_>,
    routes: &mut Vec<Route>,
) -> bool {
    for name in http.unknown.names() {
        let message = "this version does not know the field; ignored";
        findings.note(Refusal { field: name.into(), reason: "UnknownField", message: message.into() });
    }
    if request.semantics == Semantics::Istio {
        filters::shares(http, &mut |refusal| findings.note(refusal));
    }
    let mut found = Vec::new();
    if http.matches.is_empty() {
        let path_specifier = Some(PathSpecifier::Prefix("/".into()));
        found.push((http.name.to_string(), "", RouteMatch { path_specifier, ..RouteMatch::default() }));
    }
    for (index, one) in http.matches.iter().enumerate() {
        match matches::route_match(request, one) {
            Ok(None) => {}
            Ok(Some(matched)) => {
                let end = is_catch_all(&matched);
                let name =
                    if one.name.is_empty() { http.name.to_string() } else { format!("{}.{}", http.name, one.name) };
                found.push((name, &*one.stat_prefix, matched));
                if end {
                    break;
                }
            }
            Err(refusal) => findings.note(refusal.within(&format!("match[{index}]"))),
        }
    }
    let Some((_, _, last)) = found.last() else { return false };
    let end = is_catch_all(last);
    // A rule without an effect still ends the list: what comes after it was
    // never meant to match.
    match action::template(request, http, findings) {
        Ok(template) => routes.extend(found.into_iter().map(|(name, stat_prefix, matched)| {
            let stat_prefix = stat_prefix.to_owned();
            let mut route = Route { name, r#match: Some(matched), stat_prefix, ..template.clone() };
            action::complete(request, http, &mut route);
            route.decorator = Some(Decorator { operation: operation(request, &route), ..Decorator::default() });
            route
        })),
        // "The filter MUST NOT be skipped. Instead, requests that would have been
        // processed by that filter MUST receive a HTTP error response."
        Err(refusal) => {
            findings.note(refusal);
            if request.semantics == Semantics::GatewayApi {
                routes.extend(found.into_iter().map(|(name, _, matched)| error_route(request, name, matched)));
            }
        }
    }
    end
}

/// A route that answers with an error.
fn error_route(request: &RouteRequest<'_>, name: String, matched: RouteMatch) -> Route {
    let mut route = Route {
        name,
        r#match: Some(matched),
        metadata: Some(config_metadata(request.config)),
        action: Some(Action::DirectResponse(DirectResponseAction { status: 500, ..DirectResponseAction::default() })),
        ..Route::default()
    };
    route.decorator = Some(Decorator { operation: operation(request, &route), ..Decorator::default() });
    route
}

/// The route of a service that has no rules, or of workloads' own addresses: as
/// if there were one rule that says nothing but where to go.
/// <https://github.com/istio/istio/issues/60682>
pub fn default_route(cluster: &ClusterRef, operation: &str, retry: Option<&HttpRetry>) -> Route {
    let none = duration(std::time::Duration::ZERO);
    let hashed = cluster.consistent_hash.is_some();
    let mut action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.name.clone())),
        timeout: none,
        retry_policy: retry::policy(retry, hashed, &mut |_| {}),
        hash_policy: cluster.consistent_hash.iter().filter_map(hash_policy).collect(),
        ..RouteAction::default()
    };
    #[expect(deprecated, reason = "Istio's choice: max_stream_duration also ends streams")]
    {
        action.max_grpc_timeout = none;
    }
    let path_specifier = Some(PathSpecifier::Prefix("/".into()));
    let mut route = Route {
        name: "default".into(),
        r#match: Some(RouteMatch { path_specifier, ..RouteMatch::default() }),
        action: Some(Action::Route(action)),
        decorator: Some(Decorator { operation: operation.into(), ..Decorator::default() }),
        ..Route::default()
    };
    if let Some(session) = &cluster.session {
        session::keep(&mut route, session);
    }
    route
}

/// Whether a match has no condition, as Istio sees it.
pub fn is_catch_all(matched: &RouteMatch) -> bool {
    let any_path = match &matched.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex == ".*",
        _ => false,
    };
    any_path
        && matched.headers.is_empty()
        && matched.query_parameters.is_empty()
        && matched.dynamic_metadata.is_empty()
        && matched.filter_state.is_empty()
}

/// The name of a route in traces: its host, or the object if it has several.
fn operation(request: &RouteRequest<'_>, route: &Route) -> String {
    let path = match route.r#match.as_ref().and_then(|matched| matched.path_specifier.as_ref()) {
        Some(PathSpecifier::Prefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::Path(path)) => path.clone(),
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex.clone(),
        _ => "/*".into(),
    };
    let cluster = match &route.action {
        Some(Action::Route(RouteAction { cluster_specifier: Some(ClusterSpecifier::Cluster(name)), .. })) => name,
        _ => "",
    };
    let parts: Vec<_> = cluster.split('|').collect();
    match *parts {
        [_, port, _, host] => format!("{host}:{port}{path}"),
        _ => format!("{}:{}{path}", request.name, request.port),
    }
}

/// Metadata that names the object a route is from.
fn config_metadata(config: &str) -> Metadata {
    let config = Value { kind: Some(Kind::StringValue(config.into())) };
    let istio = Struct { fields: [("config".to_owned(), config)].into_iter().collect() };
    Metadata { filter_metadata: HashMap::from([("istio".to_owned(), istio)]), ..Metadata::default() }
}
