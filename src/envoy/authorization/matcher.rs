//! Values of a policy as Envoy's matchers, and why some cannot be.
//!
//! Envoy rejects a whole listener for one matcher it dislikes, and goes on
//! with the old policy. Whatever it would dislike is refused here instead.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::{CidrRange, TypedExtensionConfig};
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::list_matcher::MatchPattern as ListPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::{PathSegment, path_segment::Segment};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern as ValuePattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, OrMatcher, RegexMatcher, StringMatcher, ValueMatcher,
};

use crate::envoy::encode::{any, uint32};

/// Why a part of a policy cannot be matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A CamelCase reason.
    pub reason: &'static str,
    /// The same for a person.
    pub message: String,
}

impl Refusal {
    /// The value means nothing.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { reason: "InvalidValue", message: message.into() }
    }

    /// The value means something that we or this proxy cannot do.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self { reason: "UnsupportedValue", message: message.into() }
    }
}

/// How a value of most fields matches: `*` anything there is, `*x` a suffix,
/// `x*` a prefix, else exactly. Istio looks in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern<'a> {
    /// Anything there is.
    Presence,
    /// What ends so.
    Suffix(&'a str),
    /// What begins so.
    Prefix(&'a str),
    /// Only this.
    Exact(&'a str),
}

impl<'a> Pattern<'a> {
    /// Reads a value.
    pub fn new(value: &'a str) -> Self {
        match (value.strip_prefix('*'), value.strip_suffix('*')) {
            (Some(""), _) => Self::Presence,
            (Some(suffix), _) => Self::Suffix(suffix),
            (None, Some(prefix)) => Self::Prefix(prefix),
            (None, None) => Self::Exact(value),
        }
    }
}

fn matcher(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { ignore_case: false, match_pattern: Some(pattern) }
}

/// Matches exactly this.
pub fn exact(text: impl Into<String>) -> StringMatcher {
    matcher(MatchPattern::Exact(text.into()))
}

/// Matches what begins so; there must be something to begin with.
pub fn prefix(text: impl Into<String>) -> StringMatcher {
    matcher(MatchPattern::Prefix(text.into()))
}

/// Matches what ends so; there must be something to end with.
pub fn suffix(text: impl Into<String>) -> StringMatcher {
    matcher(MatchPattern::Suffix(text.into()))
}

/// Matches all but the empty text.
pub fn something() -> StringMatcher {
    matcher(MatchPattern::SafeRegex(RegexMatcher { regex: ".+".into(), engine_type: None }))
}

/// The longest regular expression that is sent. Envoy refuses large programs
/// (`re2.max_program_size.error_level`), and with them the whole listener.
const LONGEST_REGEX: usize = 1024;

/// Matches a regular expression from end to end.
pub fn regex(regex: String) -> Result<StringMatcher, Refusal> {
    if regex.len() > LONGEST_REGEX {
        return Err(Refusal::unsupported(format!(
            "needs a regular expression of more than {LONGEST_REGEX} characters"
        )));
    }
    Ok(matcher(MatchPattern::SafeRegex(RegexMatcher { regex, engine_type: None })))
}

/// A text as a part of a regular expression that matches only itself.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && !matches!(c, '-' | '/' | '_' | ':') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// A value as [`Pattern`] reads it.
pub fn string(value: &str) -> StringMatcher {
    match Pattern::new(value) {
        Pattern::Presence => something(),
        Pattern::Suffix(text) => suffix(text),
        Pattern::Prefix(text) => prefix(text),
        Pattern::Exact(text) => exact(text),
    }
}

/// A header's value as [`Pattern`] reads it. A header that is not there
/// matches nothing.
pub fn header(name: &str, value: &str, ignore_case: bool) -> HeaderMatcher {
    let specifier = match Pattern::new(value) {
        Pattern::Presence => HeaderMatchSpecifier::PresentMatch(true),
        _ => HeaderMatchSpecifier::StringMatch(StringMatcher { ignore_case, ..string(value) }),
    };
    HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..Default::default() }
}

/// Whether a text can be a header's name. Envoy's pseudo-headers count.
pub fn is_header_name(name: &str) -> bool {
    let name = name.strip_prefix(':').unwrap_or(name);
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c))
}

/// A port.
pub fn port(value: &str) -> Result<u32, Refusal> {
    let digits = value.bytes().all(|c| c.is_ascii_digit());
    let port = value.parse::<u16>().ok().filter(|_| digits);
    port.map(u32::from).ok_or_else(|| Refusal::invalid(format!("{value:?} is not a port number")))
}

/// An address, or a range of them.
pub fn range(value: &str) -> Result<CidrRange, Refusal> {
    let parsed = (|| {
        let (address, length) = match value.split_once('/') {
            Some((address, length)) => {
                let digits = length.bytes().all(|c| c.is_ascii_digit());
                (address, Some(length.parse::<u32>().ok().filter(|_| digits)?))
            }
            None => (value, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let full = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(full);
        (length <= full).then(|| CidrRange { address_prefix: address.to_string(), prefix_len: uint32(length) })
    })();
    parsed.ok_or_else(|| Refusal::invalid(format!("{value:?} is not an IP address or CIDR range")))
}

/// Whether a path is a template: it has `{*}`, one segment, or `{**}`, any
/// number of them.
pub fn is_template(path: &str) -> bool {
    path.contains("{*}") || path.contains("{**}")
}

/// A path template, as far as Envoy has them: whole segments are literal or
/// wildcards, and `{**}` is the last wildcard.
/// <https://istio.io/latest/docs/reference/config/security/authorization-policy/#Operation>
pub fn template(path: &str) -> Result<TypedExtensionConfig, Refusal> {
    let wrong = |why: &str| Err(Refusal::invalid(format!("{path:?} is not a path template: {why}")));
    let Some(segments) = path.strip_prefix('/') else { return wrong("it does not begin with a slash") };
    let mut ended = false;
    for segment in segments.strip_suffix('/').unwrap_or(segments).split('/') {
        match segment {
            "{*}" | "{**}" if ended => return wrong("a wildcard follows {**}"),
            "{*}" => {}
            "{**}" => ended = true,
            "" => return wrong("it has an empty segment"),
            literal if literal.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&c)) => {}
            _ => return wrong("a segment is neither literal nor a wildcard"),
        }
    }
    let path_template = path.replace("{*}", "*").replace("{**}", "**");
    let config = UriTemplateMatchConfig { path_template };
    Ok(TypedExtensionConfig { name: "uri-template".into(), typed_config: Some(any(&config)) })
}

/// Matches metadata of a filter.
pub fn metadata(filter: &str, path: &[&str], value: ValueMatcher) -> MetadataMatcher {
    let segment = |key: &&str| PathSegment { segment: Some(Segment::Key((*key).into())) };
    MetadataMatcher {
        filter: filter.into(),
        path: path.iter().map(segment).collect(),
        value: Some(value),
        invert: false,
    }
}

fn value(pattern: ValuePattern) -> ValueMatcher {
    ValueMatcher { match_pattern: Some(pattern) }
}

/// A text in metadata.
pub fn text(matcher: StringMatcher) -> ValueMatcher {
    value(ValuePattern::StringMatch(matcher))
}

/// A list in metadata of which one element matches.
pub fn list(matcher: StringMatcher) -> ValueMatcher {
    let list = ListMatcher { match_pattern: Some(ListPattern::OneOf(Box::new(text(matcher)))) };
    value(ValuePattern::ListMatch(Box::new(list)))
}

/// A text or a list of them.
pub fn text_or_list(matcher: StringMatcher) -> ValueMatcher {
    let value_matchers = vec![list(matcher.clone()), text(matcher)];
    value(ValuePattern::OrMatch(OrMatcher { value_matchers }))
}
