//! What a route does with a request.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::{DataSource, RuntimeFractionalPercent};
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::{ClusterWeight, cluster_weight};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, Route, RouteAction, WeightedCluster,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;

use super::headers::{self, Changes};
use super::{
    Checked, ClusterRef, Findings, RouteRequest, Semantics, UNKNOWN_SERVICE, config_metadata, filters, hash_policy,
    matches, refuse, regex, retry, session,
};
use crate::api::virtual_service::{
    Destination, HttpDirectResponse, HttpRedirect, HttpRewrite, HttpRoute, HttpRouteDestination,
};
use crate::envoy::encode::{any, boolean, duration, uint32};

/// The names of filters whose settings are per route.
const FAULT: &str = "envoy.filters.http.fault";
const CORS: &str = "envoy.filters.http.cors";

/// The most bytes of a body in place, as Istio sets it for all its routes.
const LARGEST_BODY: usize = 1024 * 1024;

/// Everything of a rule's routes that does not depend on the match.
pub(super) fn template(request: &RouteRequest<'_>, http: &HttpRoute, findings: &mut Findings<'_>) -> Checked<Route> {
    let changes = headers::changes(http.headers.as_ref())?;
    let mut typed_per_filter_config = HashMap::new();
    if let Some(fault) = http.fault.as_ref().map(filters::fault).transpose()?.flatten() {
        typed_per_filter_config.insert(FAULT.to_owned(), any(&fault));
    }
    if let Some(cors) = &http.cors_policy {
        typed_per_filter_config.insert(CORS.to_owned(), any(&filters::cors(cors)?));
    }
    let mut route = Route {
        metadata: Some(config_metadata(request.config)),
        request_headers_to_add: changes.request_add,
        request_headers_to_remove: changes.request_remove,
        response_headers_to_add: changes.response_add,
        response_headers_to_remove: changes.response_remove,
        typed_per_filter_config,
        ..Route::default()
    };
    route.action = Some(match (&http.redirect, &http.direct_response) {
        (Some(redirect), _) => Action::Redirect(self::redirect(request, redirect)?),
        (None, Some(response)) => Action::DirectResponse(direct_response(response)?),
        (None, None) if http.delegate.is_some() && http.route.is_empty() => {
            return refuse(
                "delegate",
                "InvalidReference",
                "the delegate is not there or not visible; the rule is left out",
            );
        }
        (None, None) => Action::Route(forward(request, http, changes.authority, &mut route, findings)?),
    });
    Ok(route)
}

/// What depends on the match: to replace a prefix by nothing is to cut it off
/// with the slash that follows, which Envoy's `prefix_rewrite` cannot say.
pub(super) fn complete(request: &RouteRequest<'_>, http: &HttpRoute, route: &mut Route) {
    if request.semantics != Semantics::GatewayApi {
        return;
    }
    let path = route.r#match.as_ref().and_then(|matched| matched.path_specifier.as_ref());
    let prefix = match path {
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => quoted(prefix),
        _ => String::new(),
    };
    let cut = |case_sensitive: bool| RegexMatchAndSubstitute {
        pattern: Some(RegexMatcher {
            regex: format!("^{}{prefix}(/?)(.*)", if case_sensitive { "" } else { "(?i)" }),
            ..RegexMatcher::default()
        }),
        substitution: r"/\2".into(),
    };
    let case_sensitive = http.matches.iter().all(|one| !one.ignore_uri_case);
    match &mut route.action {
        Some(Action::Route(action)) if action.prefix_rewrite == "/" => {
            action.prefix_rewrite.clear();
            action.regex_rewrite = Some(cut(case_sensitive));
        }
        Some(Action::Redirect(redirect)) => {
            let root = PathRewriteSpecifier::PrefixRewrite("/".into());
            if redirect.path_rewrite_specifier.as_ref() == Some(&root) {
                redirect.path_rewrite_specifier = Some(PathRewriteSpecifier::RegexRewrite(cut(case_sensitive)));
            }
        }
        _ => {}
    }
}

fn forward(
    request: &RouteRequest<'_>,
    http: &HttpRoute,
    authority: String,
    route: &mut Route,
    findings: &mut Findings<'_>,
) -> Checked<RouteAction> {
    // Without this, the header grpc-timeout is ignored. The newer
    // max_stream_duration also ends streams.
    let timeout = duration(http.timeout.unwrap_or_default());
    let mut action = RouteAction { timeout, ..RouteAction::default() };
    #[expect(deprecated, reason = "Istio's choice, see above")]
    {
        action.max_grpc_timeout = timeout;
    }
    if request.semantics == Semantics::GatewayApi {
        action.set_cluster_not_found_response_code(ClusterNotFoundResponseCode::InternalServerError);
    }
    let mut authority = authority;
    if let Some(rewrite) = &http.rewrite {
        self::rewrite(rewrite, &mut action).map_err(|refusal| refusal.within("rewrite"))?;
        action.append_x_forwarded_host = request.append_x_forwarded_host;
        if !rewrite.authority.is_empty() {
            authority = rewrite.authority.to_string();
        }
    }
    mirrors(request, http, &mut action)?;
    let hashed = destinations(request, &http.route, route, &mut action, &mut authority)?;
    if !authority.is_empty() {
        action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(authority));
    }
    if let Some(session) = &http.session {
        session::keep(route, session);
    }
    let policy = http.retries.as_ref().or(request.default_retry);
    action.retry_policy = retry::policy(policy, hashed, &mut |refusal| findings.note(refusal));
    Ok(action)
}

/// Sets the clusters, and returns whether there is one, with a hash.
fn destinations(
    request: &RouteRequest<'_>,
    given: &[HttpRouteDestination],
    route: &mut Route,
    action: &mut RouteAction,
    authority: &mut String,
) -> Checked<bool> {
    if let [only] = given {
        let at = "route[0]";
        if only.weight < 0 {
            return refuse(format!("{at}.weight"), "InvalidValue", "not a weight; the rule is left out");
        }
        let ClusterRef { name, consistent_hash, session } =
            cluster(request, &only.destination).map_err(|refusal| refusal.within(at))?;
        let Changes { request_add, request_remove, response_add, response_remove, authority: own } =
            headers::changes(only.headers.as_ref()).map_err(|refusal| refusal.within(at))?;
        route.request_headers_to_add.extend(request_add);
        route.request_headers_to_remove.extend(request_remove);
        route.response_headers_to_add.extend(response_add);
        route.response_headers_to_remove.extend(response_remove);
        // The rule's counts, as Envoy does it for several clusters.
        if authority.is_empty() {
            *authority = own;
        }
        action.cluster_specifier = Some(ClusterSpecifier::Cluster(name));
        action.hash_policy = consistent_hash.iter().filter_map(hash_policy).collect();
        if let Some(session) = &session {
            session::keep(route, session);
        }
        return Ok(consistent_hash.is_some());
    }
    let (mut clusters, mut sessions) = (Vec::new(), None);
    let mut total: u32 = 0;
    for (index, one) in given.iter().enumerate() {
        let at = format!("route[{index}]");
        let within = |refusal: super::Refusal| refusal.within(&at);
        let weight = u32::try_from(one.weight).ok();
        let Some((weight, sum)) = weight.and_then(|weight| Some((weight, total.checked_add(weight)?))) else {
            return refuse(format!("{at}.weight"), "InvalidValue", "not a weight; the rule is left out");
        };
        total = sum;
        if weight == 0 {
            continue;
        }
        let ClusterRef { name, consistent_hash, session } = cluster(request, &one.destination).map_err(within)?;
        let changes = headers::changes(one.headers.as_ref()).map_err(within)?;
        let own = Some(changes.authority).filter(|own| !own.is_empty());
        clusters.push(ClusterWeight {
            name,
            weight: uint32(weight),
            request_headers_to_add: changes.request_add,
            request_headers_to_remove: changes.request_remove,
            response_headers_to_add: changes.response_add,
            response_headers_to_remove: changes.response_remove,
            host_rewrite_specifier: own.map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
            ..ClusterWeight::default()
        });
        action.hash_policy.extend(consistent_hash.iter().filter_map(hash_policy));
        sessions = sessions.or(session);
    }
    // A route has one way to tell sessions: that of its first destination.
    if let Some(session) = &sessions {
        session::keep(route, session);
    }
    if clusters.is_empty() {
        let message = "a rule needs a destination that has a weight, a redirect or a response; the rule is left out";
        return refuse("route", "InvalidValue", message);
    }
    let clusters = WeightedCluster { clusters, ..WeightedCluster::default() };
    action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(clusters));
    Ok(false)
}

fn cluster(request: &RouteRequest<'_>, destination: &Destination) -> Checked<ClusterRef> {
    if destination.host.is_empty() {
        return match request.semantics {
            Semantics::GatewayApi => Ok(ClusterRef { name: UNKNOWN_SERVICE.into(), ..ClusterRef::default() }),
            Semantics::Istio | Semantics::Ingress => {
                refuse("destination.host", "InvalidValue", "empty; the rule is left out")
            }
        };
    }
    let cluster = (request.cluster_of)(destination);
    match cluster.name.is_empty() {
        true => refuse("destination.host", "InvalidReference", "there is no such destination; the rule is left out"),
        false => Ok(cluster),
    }
}

fn mirrors(request: &RouteRequest<'_>, http: &HttpRoute, action: &mut RouteAction) -> Checked<()> {
    let whole = || filters::percents(100);
    let single = http.mirror.as_ref().map(|destination| {
        let share = match (http.mirror_percentage, http.mirror_percent) {
            (Some(percentage), _) => filters::share(percentage),
            (None, Some(percent)) => filters::percents(percent),
            (None, None) => whole(),
        };
        ("mirror".to_owned(), destination, share)
    });
    let several = http.mirrors.iter().enumerate().map(|(index, mirror)| {
        let share = mirror.percentage.map_or_else(whole, filters::share);
        (format!("mirrors[{index}]"), &mirror.destination, share)
    });
    for (field, destination, share) in single.into_iter().chain(several) {
        if let FractionalPercent { numerator: 0, .. } = share {
            continue;
        }
        let cluster = cluster(request, destination).map_err(|refusal| refusal.within(&field))?;
        action.request_mirror_policies.push(RequestMirrorPolicy {
            cluster: cluster.name,
            runtime_fraction: Some(RuntimeFractionalPercent { default_value: Some(share), ..Default::default() }),
            trace_sampled: boolean(false),
            // Istio's default since 1.24: the host stays as it is.
            disable_shadow_host_suffix_append: true,
            ..RequestMirrorPolicy::default()
        });
    }
    Ok(())
}

fn rewrite(rewrite: &HttpRewrite, action: &mut RouteAction) -> Checked<()> {
    headers::check_text(&rewrite.authority).map_err(|refusal| refusal.within("authority"))?;
    if let Some(substitution) = &rewrite.uri_regex_rewrite {
        let within = |refusal: super::Refusal| refusal.within("uriRegexRewrite");
        let pattern = matches::regex_matcher(&substitution.pattern).map_err(within)?;
        headers::check_text(&substitution.rewrite).map_err(within)?;
        check_references(&substitution.rewrite, regex::groups(&substitution.pattern)).map_err(within)?;
        let substitution = substitution.rewrite.to_string();
        action.regex_rewrite = Some(RegexMatchAndSubstitute { pattern: Some(pattern), substitution });
    } else {
        headers::check_text(&rewrite.uri).map_err(|refusal| refusal.within("uri"))?;
        action.prefix_rewrite = rewrite.uri.to_string();
    }
    Ok(())
}

/// In a substitution, a backslash begins the number of a group or another
/// backslash. Envoy would find out with the first request.
fn check_references(text: &str, groups: usize) -> Checked<()> {
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let known = c != '\\'
            || match rest.next() {
                Some('\\') => true,
                Some(digit) => {
                    digit.to_digit(10).is_some_and(|group| usize::try_from(group).is_ok_and(|group| group <= groups))
                }
                None => false,
            };
        if !known {
            let message = format!("{text:?} has a reference to a group that is not there; the rule is left out");
            return refuse("rewrite", "InvalidValue", message);
        }
    }
    Ok(())
}

fn redirect(request: &RouteRequest<'_>, redirect: &HttpRedirect) -> Checked<RedirectAction> {
    let within = |refusal: super::Refusal| refusal.within("redirect");
    for (field, text) in
        [("uri", &redirect.uri), ("prefixRewrite", &redirect.prefix_rewrite), ("authority", &redirect.authority)]
    {
        headers::check_text(text).map_err(|refusal| within(refusal.within(field)))?;
    }
    let code = match redirect.redirect_code {
        0 | 301 => RedirectResponseCode::MovedPermanently,
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        other => {
            let message = format!("{other} is none of 301, 302, 303, 307 and 308; the rule is left out");
            return refuse("redirect.redirectCode", "UnsupportedValue", message);
        }
    };
    if !["", "http", "https"].contains(&&*redirect.scheme) {
        return refuse("redirect.scheme", "InvalidValue", "neither http nor https; the rule is left out");
    }
    let port = match (redirect.port, &*redirect.derive_port) {
        (Some(port), _) => port,
        (None, "FROM_REQUEST_PORT") => u32::from(request.port),
        (None, _) => 0,
    };
    let own = if request.tls { "https" } else { "http" };
    let port = match (port, if redirect.scheme.is_empty() { own } else { &*redirect.scheme }) {
        (80, "http") | (443, "https") => 0,
        (0..=65535, _) => port,
        _ => return refuse("redirect.port", "InvalidValue", "not a port; the rule is left out"),
    };
    let path = match redirect.prefix_rewrite.is_empty() {
        true => PathRewriteSpecifier::PathRedirect(redirect.uri.to_string()),
        false => PathRewriteSpecifier::PrefixRewrite(redirect.prefix_rewrite.to_string()),
    };
    let scheme = (!redirect.scheme.is_empty()).then(|| redirect.scheme.to_string());
    Ok(RedirectAction {
        host_redirect: redirect.authority.to_string(),
        port_redirect: port,
        response_code: code.into(),
        scheme_rewrite_specifier: scheme.map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: Some(path),
        ..RedirectAction::default()
    })
}

fn direct_response(response: &HttpDirectResponse) -> Checked<DirectResponseAction> {
    if !(200..=599).contains(&response.status) {
        let message = format!("{} is not an HTTP status from 200 to 599; the rule is left out", response.status);
        return refuse("directResponse.status", "InvalidValue", message);
    }
    let specifier = match &response.body {
        None => None,
        Some(body) => match (&body.string, &body.bytes) {
            (Some(text), _) => Some(Specifier::InlineString(text.to_string())),
            (None, Some(bytes)) => Some(Specifier::InlineBytes(bytes.to_vec())),
            (None, None) => None,
        },
    };
    let size = match &specifier {
        Some(Specifier::InlineString(text)) => text.len(),
        Some(Specifier::InlineBytes(bytes)) => bytes.len(),
        _ => 0,
    };
    if size > LARGEST_BODY {
        return refuse("directResponse.body", "InvalidValue", "larger than 1 MiB; the rule is left out");
    }
    let body = specifier.map(|specifier| DataSource { specifier: Some(specifier), ..DataSource::default() });
    Ok(DirectResponseAction { status: response.status, body, ..DirectResponseAction::default() })
}

/// A text as an expression that matches it.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}
