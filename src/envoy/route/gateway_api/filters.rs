//! The Gateway API's filters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Lowering;
use crate::api::route::{
    CorsFilter, HeaderFilter, HttpHeader, HttpPathModifier, RequestMirrorFilter, RequestRedirectFilter, RouteFilter,
    UrlRewriteFilter,
};
use crate::api::virtual_service::{
    CorsPolicy, HeaderOperations, Headers, HttpMirrorPolicy, HttpRedirect, HttpRewrite, HttpRoute, Percent,
    RegexRewrite, StringMatch,
};
use crate::envoy::route::action::quoted;

/// Why a filter cannot be honoured: where in it, and the reason.
type Unsupported = (String, String);

fn unsupported<T>(field: &str, message: impl Into<String>) -> Result<T, Unsupported> {
    Err((field.to_owned(), message.into()))
}

/// Lets a filter have its effect on a rule.
pub(super) fn apply(
    cx: &mut Lowering<'_>,
    at: &str,
    filter: &RouteFilter,
    http: bool,
    rule: &mut HttpRoute,
) -> Result<(), Unsupported> {
    if header_filter(filter, &mut rule.headers) {
        return Ok(());
    }
    let RouteFilter { request_mirror, request_redirect, url_rewrite, cors, .. } = filter;
    match (&*filter.kind, request_mirror, request_redirect, url_rewrite, cors) {
        ("RequestMirror", Some(mirror), ..) => rule.mirrors.extend(self::mirror(cx, at, mirror)),
        ("RequestRedirect", _, Some(redirect), ..) if http => rule.redirect = Some(self::redirect(redirect)?),
        ("URLRewrite", _, _, Some(rewrite), _) if http => rule.rewrite = self::rewrite(rewrite)?,
        ("CORS", _, _, _, Some(cors)) if http => rule.cors_policy = Some(self::cors(cors)),
        (kind, ..) => return unsupported(".type", format!("a filter of type {kind:?} is not supported")),
    }
    Ok(())
}

/// Lets a filter have its effect if it changes headers, and returns whether it
/// does.
pub(super) fn header_filter(filter: &RouteFilter, headers: &mut Option<Headers>) -> bool {
    match (&*filter.kind, &filter.request_header_modifier, &filter.response_header_modifier) {
        ("RequestHeaderModifier", Some(changes), _) => headers.get_or_insert_default().request = operations(changes),
        ("ResponseHeaderModifier", _, Some(changes)) => headers.get_or_insert_default().response = operations(changes),
        _ => return false,
    }
    true
}

fn operations(filter: &HeaderFilter) -> HeaderOperations {
    // "Subsequent entries with an equivalent header name MUST be ignored."
    let entries = |headers: &[HttpHeader]| {
        let mut entries: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();
        for header in headers {
            entries.entry(header.name.to_ascii_lowercase().into()).or_insert_with(|| header.value.clone());
        }
        entries
    };
    HeaderOperations { set: entries(&filter.set), add: entries(&filter.add), remove: filter.remove.to_vec() }
}

/// Copies for a backend; without one, there are none.
fn mirror(cx: &mut Lowering<'_>, at: &str, filter: &RequestMirrorFilter) -> Option<HttpMirrorPolicy> {
    let destination = match cx.backends.resolve(&filter.backend_ref) {
        Ok(destination) => destination,
        Err(invalid) => {
            cx.note(format!("{at}.requestMirror.backendRef"), invalid.reason, invalid.message + "; not mirrored");
            return None;
        }
    };
    let value = match (filter.fraction, filter.percent) {
        (Some(fraction), _) if fraction.denominator == 0 => {
            cx.note(format!("{at}.requestMirror.fraction"), "InvalidValue", "a part of nothing; not mirrored");
            return None;
        }
        (Some(fraction), _) => Some(100.0 * f64::from(fraction.numerator) / f64::from(fraction.denominator)),
        (None, percent) => percent.map(f64::from),
    };
    Some(HttpMirrorPolicy { destination, percentage: value.map(|value| Percent { value }) })
}

fn redirect(filter: &RequestRedirectFilter) -> Result<HttpRedirect, Unsupported> {
    let mut redirect = HttpRedirect {
        authority: filter.hostname.clone(),
        scheme: filter.scheme.clone(),
        port: filter.port.map(u32::from),
        // Without a port, that of the new scheme, and if that stays, of the
        // request.
        derive_port: if filter.scheme.is_empty() { "FROM_REQUEST_PORT".into() } else { "FROM_PROTOCOL_DEFAULT".into() },
        redirect_code: filter.status_code.unwrap_or(302),
        ..HttpRedirect::default()
    };
    match filter.path.as_ref().map(path).transpose()? {
        None => {}
        Some(Path::Full(path)) => redirect.uri = path,
        Some(Path::Prefix(prefix)) => redirect.prefix_rewrite = prefix,
    }
    Ok(redirect)
}

fn rewrite(filter: &UrlRewriteFilter) -> Result<Option<HttpRewrite>, Unsupported> {
    let mut rewrite = HttpRewrite { authority: filter.hostname.clone(), ..HttpRewrite::default() };
    match filter.path.as_ref().map(path).transpose()? {
        None => {}
        Some(Path::Prefix(prefix)) => rewrite.uri = prefix,
        Some(Path::Full(path)) => {
            let rewritten = path.replace('\\', r"\\").into();
            rewrite.uri_regex_rewrite = Some(RegexRewrite { pattern: "^/.*".into(), rewrite: rewritten });
        }
    }
    Ok((rewrite != HttpRewrite::default()).then_some(rewrite))
}

enum Path {
    Full(Arc<str>),
    /// Without a slash at its end; `/` removes the prefix.
    Prefix(Arc<str>),
}

fn path(path: &HttpPathModifier) -> Result<Path, Unsupported> {
    match (&*path.kind, &path.replace_full_path, &path.replace_prefix_match) {
        ("ReplaceFullPath", Some(path), _) => Ok(Path::Full(path.clone())),
        ("ReplacePrefixMatch", _, Some(prefix)) => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            Ok(Path::Prefix(if prefix.is_empty() { "/" } else { prefix }.into()))
        }
        (kind, ..) => unsupported(".path", format!("a path of type {kind:?} is not supported")),
    }
}

/// Envoy knows no wildcard in an origin, hence the expressions.
fn cors(filter: &CorsFilter) -> CorsPolicy {
    let origin = |origin: &Arc<str>| match origin.split_once('*') {
        None => StringMatch::Exact(origin.clone()),
        // Whatever a browser could send.
        Some(("", "")) => StringMatch::Regex(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s?#]+".into()),
        Some((start, "")) => StringMatch::Prefix(start.into()),
        Some(_) => StringMatch::Regex(quoted(origin).replace(r"\*", "[^/?#]*").into()),
    };
    CorsPolicy {
        allow_origins: filter.allow_origins.iter().filter(|origin| !origin.is_empty()).map(origin).collect(),
        allow_methods: filter.allow_methods.to_vec(),
        allow_headers: filter.allow_headers.to_vec(),
        expose_headers: filter.expose_headers.to_vec(),
        max_age: (filter.max_age > 0).then(|| Duration::from_secs(filter.max_age.into())),
        allow_credentials: filter.allow_credentials.then_some(true),
        unmatched_preflights: "IGNORE".into(),
        ..CorsPolicy::default()
    }
}
