//! Rules as lines that can be read: permissions, then principals.

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule;
use envoy_types::pb::envoy::config::rbac::v3::principal::Identifier;
use envoy_types::pb::envoy::config::rbac::v3::{Permission, Principal};
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::filter_state_matcher::Matcher;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern as ValuePattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, ValueMatcher, list_matcher, path_matcher};

use super::evaluator::decode;
use super::*;

/// The action, and each rule as `id: permissions <- principals`, by id.
pub fn rbac(rbac: &Rbac) -> Vec<String> {
    let mut rules: Vec<_> = rbac
        .policies
        .iter()
        .map(|(id, policy)| {
            let what: Vec<_> = policy.permissions.iter().map(permission).collect();
            let who: Vec<_> = policy.principals.iter().map(principal).collect();
            format!("{id}: {} <- {}", what.join(" or "), who.join(" or "))
        })
        .collect();
    rules.sort();
    rules.insert(0, rbac.action().as_str_name().into());
    rules
}

fn set(parts: Vec<String>, between: &str) -> String {
    match &parts[..] {
        [one] => one.clone(),
        _ => format!("({})", parts.join(between)),
    }
}

#[allow(deprecated)]
fn permission(one: &Permission) -> String {
    match one.rule.as_ref().unwrap() {
        Rule::Any(true) => "any".into(),
        Rule::AndRules(all) => set(all.rules.iter().map(permission).collect(), " & "),
        Rule::OrRules(all) => set(all.rules.iter().map(permission).collect(), " | "),
        Rule::NotRule(one) => format!("!{}", permission(one)),
        Rule::Header(matcher) => header(matcher),
        Rule::UrlPath(matcher) => {
            let path_matcher::Rule::Path(matcher) = matcher.rule.as_ref().unwrap();
            format!("path {}", string(matcher))
        }
        Rule::UriTemplate(config) => {
            let template: UriTemplateMatchConfig = decode(config.typed_config.as_ref().unwrap());
            format!("template {}", template.path_template)
        }
        Rule::DestinationIp(cidr) => format!("destination {}", range(cidr)),
        Rule::DestinationPort(port) => format!("port {port}"),
        Rule::RequestedServerName(matcher) => format!("sni {}", string(matcher)),
        Rule::Metadata(matcher) => metadata(matcher),
        other => panic!("{other:?}"),
    }
}

#[allow(deprecated)]
fn principal(one: &Principal) -> String {
    match one.identifier.as_ref().unwrap() {
        Identifier::Any(true) => "any".into(),
        Identifier::AndIds(all) => set(all.ids.iter().map(principal).collect(), " & "),
        Identifier::OrIds(all) => set(all.ids.iter().map(principal).collect(), " | "),
        Identifier::NotId(one) => format!("!{}", principal(one)),
        Identifier::Header(matcher) => header(matcher),
        Identifier::DirectRemoteIp(cidr) => format!("source {}", range(cidr)),
        Identifier::RemoteIp(cidr) => format!("remote {}", range(cidr)),
        Identifier::Authenticated(name) => format!("san {}", string(name.principal_name.as_ref().unwrap())),
        Identifier::FilterState(matcher) => match matcher.matcher.as_ref().unwrap() {
            Matcher::StringMatch(text) => format!("{} {}", matcher.key, string(text)),
            Matcher::AddressMatch(addresses) => {
                let ranges = addresses.ranges.iter();
                let ranges = ranges.map(|one| {
                    let prefix_len = one.prefix_len;
                    range(&CidrRange { address_prefix: one.address_prefix.clone(), prefix_len })
                });
                assert_eq!(matcher.key, "fairway.peer_address");
                format!("source {}", ranges.collect::<Vec<_>>().join(" "))
            }
        },
        Identifier::Metadata(matcher) => metadata(matcher),
        other => panic!("{other:?}"),
    }
}

fn header(matcher: &HeaderMatcher) -> String {
    match matcher.header_match_specifier.as_ref().unwrap() {
        HeaderMatchSpecifier::PresentMatch(true) => format!("{} present", matcher.name),
        HeaderMatchSpecifier::StringMatch(text) => format!("{} {}", matcher.name, string(text)),
        other => panic!("{other:?}"),
    }
}

fn range(range: &CidrRange) -> String {
    format!("{}/{}", range.address_prefix, range.prefix_len.unwrap().value)
}

fn string(matcher: &StringMatcher) -> String {
    let case = if matcher.ignore_case { "~" } else { "" };
    match matcher.match_pattern.as_ref().unwrap() {
        MatchPattern::Exact(text) => format!("{case}={text}"),
        MatchPattern::Prefix(text) => format!("{case}^{text}"),
        MatchPattern::Suffix(text) => format!("{case}${text}"),
        MatchPattern::SafeRegex(regex) => format!("{case}/{}/", regex.regex),
        other => panic!("{other:?}"),
    }
}

/// A metadata matcher as `filter[key][key] value`.
pub fn metadata(matcher: &MetadataMatcher) -> String {
    let key = |segment: &Option<Segment>| {
        let Segment::Key(key) = segment.as_ref().unwrap();
        format!("[{key}]")
    };
    let path: String = matcher.path.iter().map(|segment| key(&segment.segment)).collect();
    let filter = matcher.filter.strip_prefix("envoy.filters.").unwrap();
    format!("{filter}{path} {}", value(matcher.value.as_ref().unwrap()))
}

fn value(matcher: &ValueMatcher) -> String {
    match matcher.match_pattern.as_ref().unwrap() {
        ValuePattern::StringMatch(text) => string(text),
        ValuePattern::ListMatch(list) => {
            let list_matcher::MatchPattern::OneOf(one) = list.match_pattern.as_ref().unwrap();
            format!("one {}", value(one))
        }
        ValuePattern::OrMatch(or) => set(or.value_matchers.iter().map(value).collect(), " | "),
        other => panic!("{other:?}"),
    }
}
