//! The Gateway API's routes as rules of a `VirtualService`.
//! <https://gateway-api.sigs.k8s.io/reference/spec/>
//!
//! What cannot be done for a request is answered with a 500, as the Gateway API
//! demands: a filter is never skipped. istiod leaves out the whole route, after
//! which the service's default route would skip all of its filters.

mod backends;
mod filters;
mod matches;
pub mod references;
mod sessions;

use std::cmp::Reverse;

use envoy_types::pb::envoy::config::route::v3::Route;

use super::{Problem, RouteRequest, is_catch_all};
use crate::api::route::{
    BackendRef, GRPCRoute, GrpcRouteRule, HTTPRoute, HttpRouteRetry, HttpRouteRule, HttpRouteTimeouts, RouteFilter,
};
use crate::api::virtual_service::{HttpDirectResponse, HttpMatchRequest, HttpRetry, HttpRoute, StringMatch};
use crate::api::{Meta, ObjectKey};

pub use backends::{Backends, Invalid, destination, tcp_rule, tls_rule};

/// A match of a rule of a route, with what the rule does.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// The route.
    pub route: ObjectKey,
    /// Seconds since the epoch; decides between equal matches.
    pub created: i64,
    /// The index of the rule.
    pub rule: usize,
    /// The index of the match.
    pub position: usize,
    /// The rule, with one match or none.
    pub http: HttpRoute,
}

/// The rules of an `HTTPRoute`, one for each match.
pub fn http_rules(route: &HTTPRoute, backends: &Backends<'_>) -> (Vec<Lowered>, Vec<Problem>) {
    let (mut lowered, mut problems) = (Vec::new(), Vec::new());
    for (index, rule) in route.spec.rules.iter().enumerate() {
        let mut cx = Lowering { rule: index, backends, problems: &mut problems };
        let HttpRouteRule { name, matches, filters, backend_refs, timeouts, retry, session_persistence, unknown } =
            rule;
        unknown.names().for_each(|name| cx.ignored(name));
        let mut action = cx.action(&route.meta, name, filters, backend_refs, true);
        action.session = session_persistence.as_ref().and_then(|given| cx.session(&route.meta, given, &action));
        let action = timed(action, timeouts, retry.as_ref());
        let matches: Vec<_> = matches.iter().map(matches::http).collect();
        cx.add(&route.meta, action, matches, &mut lowered);
    }
    (lowered, problems)
}

/// The rules of a `GRPCRoute`, one for each match.
pub fn grpc_rules(route: &GRPCRoute, backends: &Backends<'_>) -> (Vec<Lowered>, Vec<Problem>) {
    let (mut lowered, mut problems) = (Vec::new(), Vec::new());
    for (index, rule) in route.spec.rules.iter().enumerate() {
        let mut cx = Lowering { rule: index, backends, problems: &mut problems };
        let GrpcRouteRule { name, matches, filters, backend_refs, session_persistence, unknown } = rule;
        unknown.names().for_each(|name| cx.ignored(name));
        let mut action = cx.action(&route.meta, name, filters, backend_refs, false);
        action.session = session_persistence.as_ref().and_then(|given| cx.session(&route.meta, given, &action));
        let matches: Vec<_> = matches.iter().map(matches::grpc).collect();
        cx.add(&route.meta, action, matches, &mut lowered);
    }
    (lowered, problems)
}

/// Orders the matches of all routes of one parent: the more specific first, and
/// of equals the older.
/// <https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule>
pub fn sort(lowered: &mut [Lowered]) {
    let text = |value: &StringMatch| match value {
        StringMatch::Exact(text) => (3, text.chars().count()),
        StringMatch::Prefix(text) => (2, text.chars().count()),
        StringMatch::Regex(text) => (1, text.chars().count()),
        StringMatch::Any | StringMatch::Unknown(_) => (0, 0),
    };
    let weight = |one: &HttpMatchRequest| {
        let path = one.uri.as_ref().map_or((0, 0), text);
        (path, one.method.is_some(), one.headers.len(), one.query_params.len())
    };
    lowered.sort_by_cached_key(|one| {
        // What always matches comes last.
        let weight = one.http.matches.first().map(weight);
        (Reverse(weight), one.created, one.route.namespace.clone(), one.route.name.clone(), one.rule, one.position)
    });
}

/// The routes of lowered rules, in their order, given the path in metadata of
/// the object that each is from. A problem comes with its route.
pub fn routes(
    request: &RouteRequest<'_>,
    config_of: &dyn Fn(&Lowered) -> String,
    lowered: &[Lowered],
) -> (Vec<Route>, Vec<(ObjectKey, Problem)>) {
    let (mut routes, mut problems) = (Vec::new(), Vec::new());
    for one in lowered {
        let config = config_of(one);
        let request = RouteRequest { config: &config, ..*request };
        let (made, found) = super::routes(&request, std::slice::from_ref(&one.http));
        let end = made.iter().any(|route| route.r#match.as_ref().is_some_and(is_catch_all));
        routes.extend(made);
        for problem in found {
            let problem = Problem { rule: one.rule, field: field(one.position, &problem.field), ..problem };
            let problem = (one.route.clone(), problem);
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        if end {
            break;
        }
    }
    (routes, problems)
}

/// A field of a lowered rule, as the Gateway API calls it.
fn field(position: usize, field: &str) -> String {
    if let Some(rest) = field.strip_prefix("match[0]") {
        return format!("matches[{position}]{}", rest.replacen(".uri", ".path", 1));
    }
    let of = |name: &str| field.starts_with(name);
    match () {
        () if of("route") => "backendRefs".into(),
        () if of("retries") => "retry".into(),
        () if ["headers", "redirect", "rewrite", "cors", "mirrors"].into_iter().any(of) => "filters".into(),
        () => field.to_owned(),
    }
}

/// What lowering one rule needs.
struct Lowering<'a> {
    rule: usize,
    backends: &'a Backends<'a>,
    problems: &'a mut Vec<Problem>,
}

impl Lowering<'_> {
    fn note(&mut self, field: impl Into<String>, reason: &'static str, message: impl Into<String>) {
        let (field, message) = (field.into(), message.into());
        self.problems.push(Problem { rule: self.rule, field, reason, message });
    }

    fn ignored(&mut self, field: &str) {
        self.note(field, "UnknownField", "this version does not know the field; ignored");
    }

    /// What a rule does with a request.
    fn action(
        &mut self,
        meta: &Meta,
        name: &str,
        filters: &[RouteFilter],
        refs: &[BackendRef],
        http: bool,
    ) -> HttpRoute {
        let name = match name {
            "" => format!("{}.{}.{}", meta.namespace, meta.name, self.rule),
            name => name.to_owned(),
        };
        let mut action = HttpRoute { name: name.into(), ..HttpRoute::default() };
        for (index, filter) in filters.iter().enumerate() {
            let at = format!("filters[{index}]");
            if let Err((field, message)) = self::filters::apply(self, &at, filter, http, &mut action) {
                self.note(at + &field, "UnsupportedValue", message + "; requests are answered with 500");
                return HttpRoute { direct_response: Some(error()), name: action.name, ..HttpRoute::default() };
            }
        }
        if action.redirect.is_none() {
            action.route = self.http_destinations(refs);
            if action.route.is_empty() {
                action.direct_response = Some(error());
            }
        }
        action
    }

    /// Adds a rule for each match that can be expressed.
    fn add(
        &mut self,
        meta: &Meta,
        action: HttpRoute,
        matches: Vec<Result<HttpMatchRequest, matches::Refused>>,
        lowered: &mut Vec<Lowered>,
    ) {
        let one =
            |rule, position, http| Lowered { route: meta.key(), created: meta.created.into(), rule, position, http };
        if matches.is_empty() {
            lowered.push(one(self.rule, 0, action));
            return;
        }
        for (position, matched) in matches.into_iter().enumerate() {
            match matched {
                Ok(matched) => {
                    let http = HttpRoute { matches: vec![matched], ..action.clone() };
                    lowered.push(one(self.rule, position, http));
                }
                Err(matches::Refused { field, reason, message }) => {
                    self.note(format!("matches[{position}].{field}"), reason, message + "; the match is left out");
                }
            }
        }
    }
}

/// The answer where there is nothing to send a request to.
fn error() -> HttpDirectResponse {
    HttpDirectResponse { status: 500, body: None }
}

/// An action with its times. An attempt without retries is the request.
fn timed(action: HttpRoute, timeouts: &HttpRouteTimeouts, retry: Option<&HttpRouteRetry>) -> HttpRoute {
    let request = timeouts.request.filter(|time| !time.is_zero());
    let attempt = timeouts.backend_request.filter(|time| !time.is_zero());
    let retries = retry.map(|retry| {
        let attempts = retry.attempts.unwrap_or(2).max(0);
        // "Implementations SHOULD retry on connection errors."
        let conditions = ["connect-failure", "refused-stream", "unavailable", "cancelled"].map(str::to_owned);
        let codes = retry.codes.iter().map(u32::to_string);
        let retry_on = conditions.into_iter().chain(codes).collect::<Vec<_>>().join(",");
        HttpRetry {
            attempts,
            per_try_timeout: attempt,
            retry_on: retry_on.into(),
            backoff: retry.backoff,
            ..HttpRetry::default()
        }
    });
    let timeout = if retries.is_some() { request } else { attempt.or(request) };
    HttpRoute { timeout, retries, ..action }
}
