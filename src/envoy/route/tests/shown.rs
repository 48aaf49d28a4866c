//! Routes in one line each.

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::PolicySpecifier;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::{ClusterWeight, cluster_weight};
use envoy_types::pb::envoy::config::route::v3::{RedirectAction, Route, RouteAction, RouteMatch};
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::StatefulSessionPerRoute;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override;
use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, filter_state_matcher, string_matcher, value_matcher};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use crate::envoy::route::session;

/// What a route matches, and what it does.
pub(super) fn shown(route: &Route) -> String {
    let matched = matched(route.r#match.as_ref().unwrap());
    let action = match route.action.as_ref().unwrap() {
        Action::Route(action) => forward(action),
        Action::Redirect(action) => redirect(action),
        Action::DirectResponse(answer) => {
            let body = match answer.body.as_ref().and_then(|body| body.specifier.as_ref()) {
                Some(Specifier::InlineString(text)) => format!(" {text}"),
                Some(Specifier::InlineBytes(bytes)) => format!(" {bytes:?}"),
                _ => String::new(),
            };
            format!("respond {}{body}", answer.status)
        }
        other => format!("{other:?}"),
    };
    let request = changes("request", &route.request_headers_to_add, &route.request_headers_to_remove);
    let response = changes("response", &route.response_headers_to_add, &route.response_headers_to_remove);
    let session = route.typed_per_filter_config.get(session::FILTER).map(session).unwrap_or_default();
    format!("{matched} => {action}{request}{response}{session}")
}

fn session(settings: &Any) -> String {
    let settings = StatefulSessionPerRoute::decode(&*settings.value).unwrap();
    let Some(Override::StatefulSession(session)) = settings.r#override else { panic!("{settings:?}") };
    let state = session.session_state.unwrap();
    let config = state.typed_config.unwrap();
    match &*state.name {
        "envoy.http.stateful_session.cookie" => {
            let cookie = CookieBasedSessionState::decode(&*config.value).unwrap().cookie.unwrap();
            let ttl = cookie.ttl.map(|ttl| format!(" {}s", ttl.seconds)).unwrap_or_default();
            format!("; session cookie {} {}{ttl}", cookie.name, cookie.path)
        }
        "envoy.http.stateful_session.header" => {
            format!("; session header {}", HeaderBasedSessionState::decode(&*config.value).unwrap().name)
        }
        other => panic!("{other}"),
    }
}

fn matched(matched: &RouteMatch) -> String {
    let mut parts = vec![match matched.path_specifier.as_ref().unwrap() {
        PathSpecifier::Prefix(text) => format!("prefix {text}"),
        PathSpecifier::Path(text) => format!("path {text}"),
        PathSpecifier::PathSeparatedPrefix(text) => format!("segments {text}"),
        PathSpecifier::SafeRegex(regex) => format!("regex {}", regex.regex),
        other => format!("{other:?}"),
    }];
    if matched.case_sensitive.is_some_and(|sensitive| !sensitive.value) {
        parts.push("any case".into());
    }
    for header in &matched.headers {
        let not = if header.invert_match { "not " } else { "" };
        let missing = if header.treat_missing_header_as_empty { " or missing" } else { "" };
        parts.push(match header.header_match_specifier.as_ref().unwrap() {
            HeaderMatchSpecifier::StringMatch(matcher) => format!("{not}{} = {}{missing}", header.name, text(matcher)),
            HeaderMatchSpecifier::PresentMatch(true) => format!("{not}{}{missing}", header.name),
            other => format!("{other:?}"),
        });
    }
    for one in &matched.query_parameters {
        parts.push(match one.query_parameter_match_specifier.as_ref().unwrap() {
            QueryParameterMatchSpecifier::StringMatch(matcher) => format!("?{} = {}", one.name, text(matcher)),
            QueryParameterMatchSpecifier::PresentMatch(_) => format!("?{}", one.name),
        });
    }
    for one in &matched.dynamic_metadata {
        assert_eq!(one.filter, "envoy.filters.http.jwt_authn");
        let key = |segment: &Segment| match segment {
            Segment::Key(key) => key.clone(),
        };
        let path: Vec<_> = one.path.iter().map(|segment| key(segment.segment.as_ref().unwrap())).collect();
        let not = if one.invert { "not " } else { "" };
        let value = match one.value.as_ref().unwrap().match_pattern.as_ref().unwrap() {
            value_matcher::MatchPattern::OrMatch(either) => match either.value_matchers[1].match_pattern.as_ref() {
                Some(value_matcher::MatchPattern::StringMatch(matcher)) => format!(" = {}", text(matcher)),
                other => format!("{other:?}"),
            },
            value_matcher::MatchPattern::PresentMatch(true) => String::new(),
            other => format!("{other:?}"),
        };
        parts.push(format!("{not}claim {}{value}", path.join(".")));
    }
    for one in &matched.filter_state {
        assert_eq!(one.key, "io.istio.peer_principal");
        match one.matcher.as_ref().unwrap() {
            filter_state_matcher::Matcher::StringMatch(matcher) => parts.push(format!("caller {}", text(matcher))),
            other => panic!("{other:?}"),
        }
    }
    parts.join("; ")
}

fn text(matcher: &StringMatcher) -> String {
    match matcher.match_pattern.as_ref().unwrap() {
        string_matcher::MatchPattern::Exact(text) => format!("exact {text}"),
        string_matcher::MatchPattern::Prefix(text) => format!("prefix {text}"),
        string_matcher::MatchPattern::Contains(text) => format!("with {text}"),
        string_matcher::MatchPattern::SafeRegex(regex) => format!("regex {}", regex.regex),
        other => format!("{other:?}"),
    }
}

fn forward(action: &RouteAction) -> String {
    let mut text = match action.cluster_specifier.as_ref().unwrap() {
        ClusterSpecifier::Cluster(name) => name.clone(),
        ClusterSpecifier::WeightedClusters(weighted) => {
            weighted.clusters.iter().map(weight).collect::<Vec<_>>().join(", ")
        }
        other => format!("{other:?}"),
    };
    if !action.prefix_rewrite.is_empty() {
        text += &format!("; prefix becomes {}", action.prefix_rewrite);
    }
    if let Some(rewrite) = &action.regex_rewrite {
        text += &format!("; {} becomes {}", rewrite.pattern.as_ref().unwrap().regex, rewrite.substitution);
    }
    match &action.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => text += &format!("; host {host}"),
        None => {}
        other => text += &format!("{other:?}"),
    }
    let timeout = action.timeout.unwrap();
    if (timeout.seconds, timeout.nanos) != (0, 0) {
        text += &format!("; timeout {}s", timeout.seconds as f64 + f64::from(timeout.nanos) / 1e9);
    }
    for mirror in &action.request_mirror_policies {
        let share = mirror.runtime_fraction.as_ref().unwrap().default_value.unwrap();
        text += &format!("; mirror {} {}/{:?}", mirror.cluster, share.numerator, share.denominator());
    }
    for hash in &action.hash_policy {
        match hash.policy_specifier.as_ref().unwrap() {
            PolicySpecifier::Header(header) => text += &format!("; hash {}", header.header_name),
            other => text += &format!("; {other:?}"),
        }
    }
    text
}

fn weight(one: &ClusterWeight) -> String {
    let mut own = Vec::new();
    if let Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)) = &one.host_rewrite_specifier {
        own.push(format!("host {host}"));
    }
    let request = changes("request", &one.request_headers_to_add, &one.request_headers_to_remove);
    let response = changes("response", &one.response_headers_to_add, &one.response_headers_to_remove);
    own.extend([request, response].iter().filter_map(|text| text.strip_prefix("; ").map(str::to_owned)));
    let own = if own.is_empty() { String::new() } else { format!(" ({})", own.join("; ")) };
    format!("{} {}{own}", one.weight.unwrap().value, one.name)
}

fn redirect(action: &RedirectAction) -> String {
    let mut parts = vec![format!("redirect {}", action.response_code)];
    if let Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) = &action.scheme_rewrite_specifier {
        parts.push(scheme.clone());
    }
    if !action.host_redirect.is_empty() {
        parts.push(action.host_redirect.clone());
    }
    if action.port_redirect != 0 {
        parts.push(format!(":{}", action.port_redirect));
    }
    parts.push(match action.path_rewrite_specifier.as_ref().unwrap() {
        PathRewriteSpecifier::PathRedirect(path) => path.clone(),
        PathRewriteSpecifier::PrefixRewrite(prefix) => format!("prefix {prefix}"),
        PathRewriteSpecifier::RegexRewrite(rewrite) => {
            format!("{} becomes {}", rewrite.pattern.as_ref().unwrap().regex, rewrite.substitution)
        }
        other => format!("{other:?}"),
    });
    parts.join(" ")
}

fn changes(of: &str, added: &[HeaderValueOption], removed: &[String]) -> String {
    let one = |option: &HeaderValueOption| {
        let header = option.header.as_ref().unwrap();
        let sign = match option.append_action() {
            HeaderAppendAction::OverwriteIfExistsOrAdd => "=",
            HeaderAppendAction::AppendIfExistsOrAdd => "+=",
            other => panic!("{other:?}"),
        };
        format!("{}{sign}{}", header.key, header.value)
    };
    let all: Vec<_> = added.iter().map(one).chain(removed.iter().map(|name| format!("-{name}"))).collect();
    if all.is_empty() { String::new() } else { format!("; {of} {}", all.join(" ")) }
}
