//! When a route applies.

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, RouteMatch};
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::PathSegment;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    FilterStateMatcher, ListMatcher, MetadataMatcher, OrMatcher, RegexMatcher, StringMatcher, ValueMatcher,
    filter_state_matcher, list_matcher, string_matcher, value_matcher,
};

use super::{Checked, Clients, RouteRequest, Semantics, headers, refuse, regex};
use crate::api::virtual_service::{HttpMatchRequest, StringMatch};
use crate::envoy::authorization::{PEER_PRINCIPAL, caller_of};
use crate::envoy::encode::boolean;

/// The filter that verifies tokens, and where it leaves their claims.
const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";
const JWT_PAYLOAD: &str = "payload";

/// The prefix of a header name that stands for a claim of the caller's token.
const CLAIMS: &str = "@request.auth.claims";

/// Whether a match is for requests of some clients and for a port. The labels
/// of clients are another matter.
pub(super) fn concerns(clients: &Clients<'_>, port: u16, one: &HttpMatchRequest) -> bool {
    let namespace = match clients {
        // It is known when they ask.
        Clients::Mesh => true,
        Clients::Gateway { namespace, .. } => one.source_namespace.is_empty() || one.source_namespace == **namespace,
    };
    namespace && clients.named(&one.gateways) && (one.port == 0 || one.port == u32::from(port))
}

/// Envoy's match, unless it is for another port or gateway.
pub(super) fn route_match(request: &RouteRequest<'_>, one: &HttpMatchRequest) -> Checked<Option<RouteMatch>> {
    if !concerns(&request.clients, request.port, one) {
        return Ok(None);
    }
    if let Some(name) = one.unknown.names().next() {
        return refuse(name, "UnknownField", "this version does not know the condition; the match is left out");
    }
    match request.clients {
        Clients::Gateway { .. } if !request.clients.labelled(&one.source_labels) => return Ok(None),
        // https://github.com/istio/istio/issues/51565
        Clients::Mesh if !one.source_labels.is_empty() => {
            return refuse(
                "sourceLabels",
                "UnsupportedValue",
                "a waypoint does not know its clients' labels; the match is left out",
            );
        }
        Clients::Gateway { .. } | Clients::Mesh => {}
    }
    let mut matched = RouteMatch {
        case_sensitive: boolean(!one.ignore_uri_case),
        path_specifier: Some(path(request.semantics, one.uri.as_ref()).map_err(|refusal| refusal.within("uri"))?),
        ..RouteMatch::default()
    };
    // istiod compares it with the namespace of the waypoint itself.
    if !one.source_namespace.is_empty() && matches!(request.clients, Clients::Mesh) {
        let contains = string_matcher::MatchPattern::Contains(caller_of(&one.source_namespace));
        let matcher = StringMatcher { match_pattern: Some(contains), ..StringMatcher::default() };
        let matcher = Some(filter_state_matcher::Matcher::StringMatch(matcher));
        matched.filter_state.push(FilterStateMatcher { key: PEER_PRINCIPAL.into(), matcher });
    }
    for (field, entries, inverted) in [("headers", &one.headers, false), ("withoutHeaders", &one.without_headers, true)]
    {
        for (name, value) in entries {
            let at = format!("{field}[{name}]");
            let value = string_matcher(value).map_err(|refusal| refusal.within(&at))?;
            if name.get(..CLAIMS.len()).is_some_and(|start| start.eq_ignore_ascii_case(CLAIMS)) {
                let Some(claims) = claims(&name[CLAIMS.len()..]) else {
                    return refuse(
                        at,
                        "InvalidValue",
                        "not a claim such as @request.auth.claims[sub]; the match is left out",
                    );
                };
                matched.dynamic_metadata.push(claim(claims, value, inverted));
            } else if headers::is_name(name)
                || [":method", ":scheme", ":authority", ":path", ":status"].contains(&&**name)
            {
                matched.headers.push(header(name, value, inverted));
            } else {
                return refuse(at, "InvalidValue", "not the name of a header; the match is left out");
            }
        }
    }
    matched.headers.sort_by(|a, b| a.name.cmp(&b.name));
    let pseudo = [("method", &one.method), ("authority", &one.authority), ("scheme", &one.scheme)];
    for (field, value) in pseudo {
        let Some(value) = value else { continue };
        let value = string_matcher(value).map_err(|refusal| refusal.within(field))?;
        matched.headers.push(header(&format!(":{field}"), value, false));
    }
    for (name, value) in &one.query_params {
        let at = format!("queryParams[{name}]");
        if name.is_empty() || name.len() > 1024 {
            return refuse(at, "InvalidValue", "a name has 1 to 1024 bytes; the match is left out");
        }
        let specifier = match string_matcher(value).map_err(|refusal| refusal.within(&at))? {
            Some(matcher) => QueryParameterMatchSpecifier::StringMatch(matcher),
            None => QueryParameterMatchSpecifier::PresentMatch(true),
        };
        let query_parameter_match_specifier = Some(specifier);
        matched
            .query_parameters
            .push(QueryParameterMatcher { name: name.to_string(), query_parameter_match_specifier });
    }
    Ok(Some(matched))
}

fn path(semantics: Semantics, uri: Option<&StringMatch>) -> Checked<PathSpecifier> {
    Ok(match uri {
        None | Some(StringMatch::Any) => PathSpecifier::Prefix("/".into()),
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.to_string()),
        Some(StringMatch::Prefix(prefix)) if semantics == Semantics::Istio || **prefix == *"/" => {
            PathSpecifier::Prefix(prefix.to_string())
        }
        Some(StringMatch::Prefix(prefix)) => {
            // What Envoy's pattern for this field admits.
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            if prefix.chars().count() < 2 || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                return refuse("prefix", "InvalidValue", "not a prefix of whole path segments; the match is left out");
            }
            PathSpecifier::PathSeparatedPrefix(prefix.to_owned())
        }
        Some(StringMatch::Regex(text)) => PathSpecifier::SafeRegex(regex_matcher(text)?),
        Some(StringMatch::Unknown(names)) => return unknown(names),
    })
}

/// Envoy's matcher of a text; none if the text only has to be there.
pub(super) fn string_matcher(value: &StringMatch) -> Checked<Option<StringMatcher>> {
    let pattern = match value {
        StringMatch::Any => return Ok(None),
        // Not an expression: Istio's word for "there".
        StringMatch::Regex(text) if **text == *"*" => return Ok(None),
        StringMatch::Exact(text) => string_matcher::MatchPattern::Exact(text.to_string()),
        StringMatch::Prefix(text) if text.is_empty() => {
            return refuse("prefix", "InvalidValue", "empty; the match is left out");
        }
        StringMatch::Prefix(text) => string_matcher::MatchPattern::Prefix(text.to_string()),
        StringMatch::Regex(text) => string_matcher::MatchPattern::SafeRegex(regex_matcher(text)?),
        StringMatch::Unknown(names) => return unknown(names),
    };
    Ok(Some(StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }))
}

fn unknown<T>(names: &str) -> Checked<T> {
    refuse("", "UnknownField", format!("exact, prefix or regex is expected, not {names}; the match is left out"))
}

/// An expression that Envoy takes.
pub(super) fn regex_matcher(text: &str) -> Checked<RegexMatcher> {
    match regex::check(text) {
        Ok(()) => Ok(RegexMatcher { regex: text.to_owned(), ..RegexMatcher::default() }),
        Err(reason) => {
            refuse("regex", "InvalidRegex", format!("{text:?} is not an RE2 expression we can send: {reason}"))
        }
    }
}

fn header(name: &str, value: Option<StringMatcher>, inverted: bool) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        invert_match: inverted,
        // "Without x=1" holds for a request without x.
        treat_missing_header_as_empty: inverted && value.is_some(),
        header_match_specifier: Some(match value {
            Some(matcher) => HeaderMatchSpecifier::StringMatch(matcher),
            None => HeaderMatchSpecifier::PresentMatch(true),
        }),
    }
}

/// The path of a claim: `.a.b` or `[a][b]`.
fn claims(text: &str) -> Option<Vec<&str>> {
    let claims: Vec<_> = match text.strip_prefix('.') {
        Some(rest) => rest.split('.').collect(),
        None => text.strip_prefix('[')?.strip_suffix(']')?.split("][").collect(),
    };
    claims.iter().all(|claim| !claim.is_empty()).then_some(claims)
}

/// A match of a claim, which is a text or a list of texts.
fn claim(claims: Vec<&str>, value: Option<StringMatcher>, inverted: bool) -> MetadataMatcher {
    use value_matcher::MatchPattern;
    let of = |pattern| ValueMatcher { match_pattern: Some(pattern) };
    let segment = |key: &str| PathSegment { segment: Some(Segment::Key(key.to_owned())) };
    let pattern = match value {
        None => MatchPattern::PresentMatch(true),
        Some(matcher) => {
            let text = of(MatchPattern::StringMatch(matcher));
            let one_of = list_matcher::MatchPattern::OneOf(Box::new(text.clone()));
            let list = ListMatcher { match_pattern: Some(one_of) };
            let list = of(MatchPattern::ListMatch(Box::new(list)));
            MatchPattern::OrMatch(OrMatcher { value_matchers: vec![list, text] })
        }
    };
    MetadataMatcher {
        filter: JWT_AUTHN.to_owned(),
        path: std::iter::once(JWT_PAYLOAD).chain(claims).map(segment).collect(),
        value: Some(of(pattern)),
        invert: inverted,
    }
}
