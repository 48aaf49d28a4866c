//! What Envoy's RBAC and external authorization filters decide, as their
//! documentation says, for the matchers that are generated. Any other matcher
//! is a failure of the test.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule;
use envoy_types::pb::envoy::config::rbac::v3::principal::Identifier;
use envoy_types::pb::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac};
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as NetworkExtAuthz;
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::filter_state_matcher::Matcher;
use envoy_types::pb::envoy::r#type::matcher::v3::list_matcher;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern as ValuePattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{MetadataMatcher, StringMatcher, ValueMatcher, path_matcher};
use ipnet::IpNet;
use prost::{Message, Name};
use serde_json::{Value, json};

use super::*;

/// What is asked, and by whom.
#[derive(Clone, Debug)]
pub struct Call {
    /// The peer's URI SAN.
    pub peer: Option<String>,
    /// The peer's address.
    pub source: IpAddr,
    /// The first client's address.
    pub remote: IpAddr,
    /// The address that was asked.
    pub destination: IpAddr,
    /// The port that was asked.
    pub port: u32,
    /// The SNI.
    pub sni: String,
    /// Headers and pseudo-headers; none for TCP.
    pub headers: Vec<(String, String)>,
    /// A verified token's claims.
    pub claims: Option<Value>,
    /// The metadata of `envoy.filters.x`.
    pub metadata: Value,
}

/// What became of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether a filter refused it.
    pub refused: bool,
    /// The clusters of authorizers that were asked, if it got that far.
    pub asked: BTreeSet<String>,
}

/// Takes a call through filters: pairs of name and configuration.
pub fn run(filters: &[(String, Any)], call: &Call) -> Verdict {
    let mut verdict = Verdict::default();
    let mut shadow = None;
    for (name, config) in filters {
        let (rules, shadow_rules, prefix) = match &**name {
            "envoy.filters.http.rbac" => {
                let HttpRbac { rules, shadow_rules, shadow_rules_stat_prefix, .. } = decode(config);
                (rules, shadow_rules, shadow_rules_stat_prefix)
            }
            "envoy.filters.network.rbac" => {
                let NetworkRbac { rules, shadow_rules, shadow_rules_stat_prefix, .. } = decode(config);
                (rules, shadow_rules, shadow_rules_stat_prefix)
            }
            "envoy.filters.http.ext_authz" => {
                let config: ExtAuthz = decode(config);
                if asks(&config.filter_enabled_metadata.clone().unwrap(), "envoy.filters.http.rbac", &shadow) {
                    verdict.asked.insert(format!("{:?}", config.services));
                }
                continue;
            }
            "envoy.filters.network.ext_authz" => {
                let config: NetworkExtAuthz = decode(config);
                if asks(&config.filter_enabled_metadata.clone().unwrap(), "envoy.filters.network.rbac", &shadow) {
                    verdict.asked.insert(format!("{:?}", config.grpc_service));
                }
                continue;
            }
            other => panic!("{other} is no filter that was expected"),
        };
        if let Some(id) = shadow_rules.as_ref().and_then(|rules| effective(rules, call)) {
            shadow = Some((format!("{prefix}shadow_effective_policy_id"), id));
        }
        if let Some(rules) = rules {
            let matched = effective(&rules, call).is_some();
            verdict.refused |= match rules.action() {
                RbacAction::Allow => !matched,
                RbacAction::Deny => matched,
                RbacAction::Log => false,
            };
        }
    }
    verdict
}

/// The body of an `Any` of the type that is expected.
pub fn decode<M: Message + Name + Default>(any: &Any) -> M {
    assert_eq!(any.type_url, M::type_url());
    M::decode(&any.value[..]).unwrap()
}

fn asks(enabled: &MetadataMatcher, filter: &str, shadow: &Option<(String, String)>) -> bool {
    assert_eq!(enabled.filter, filter);
    let mut fields = serde_json::Map::new();
    if let Some((key, id)) = shadow {
        fields.insert(key.clone(), json!(id));
    }
    at_path(enabled, &Value::Object(fields))
}

/// The first policy that matches, in the order of ids.
pub fn effective(rules: &Rbac, call: &Call) -> Option<String> {
    let mut ids: Vec<_> = rules.policies.keys().collect();
    ids.sort();
    ids.into_iter().find(|id| policy(&rules.policies[*id], call)).cloned()
}

fn policy(policy: &Policy, call: &Call) -> bool {
    assert!(!policy.permissions.is_empty() && !policy.principals.is_empty(), "Envoy wants one of each");
    policy.permissions.iter().any(|one| permission(one, call))
        && policy.principals.iter().any(|one| principal(one, call))
}

#[allow(deprecated)]
fn permission(permission_: &Permission, call: &Call) -> bool {
    match permission_.rule.as_ref().unwrap() {
        Rule::Any(any) => *any,
        Rule::AndRules(set) => {
            assert!(!set.rules.is_empty());
            set.rules.iter().all(|one| permission(one, call))
        }
        Rule::OrRules(set) => {
            assert!(!set.rules.is_empty());
            set.rules.iter().any(|one| permission(one, call))
        }
        Rule::NotRule(one) => !permission(one, call),
        Rule::Header(matcher) => header(matcher, call),
        Rule::UrlPath(matcher) => {
            let path_matcher::Rule::Path(matcher) = matcher.rule.as_ref().unwrap();
            path(call).is_some_and(|path| string(matcher, path))
        }
        Rule::UriTemplate(config) => {
            let config: UriTemplateMatchConfig = decode(config.typed_config.as_ref().unwrap());
            path(call).is_some_and(|path| template(&config.path_template, path))
        }
        Rule::DestinationIp(range) => contains(range, call.destination),
        Rule::DestinationPort(port) => call.port == *port,
        Rule::RequestedServerName(matcher) => string(matcher, &call.sni),
        Rule::Metadata(matcher) => {
            assert_eq!(matcher.filter, "envoy.filters.x");
            at_path(matcher, &call.metadata)
        }
        other => panic!("{other:?} was not expected"),
    }
}

#[allow(deprecated)]
fn principal(principal_: &Principal, call: &Call) -> bool {
    match principal_.identifier.as_ref().unwrap() {
        Identifier::Any(any) => *any,
        Identifier::AndIds(set) => {
            assert!(!set.ids.is_empty());
            set.ids.iter().all(|one| principal(one, call))
        }
        Identifier::OrIds(set) => {
            assert!(!set.ids.is_empty());
            set.ids.iter().any(|one| principal(one, call))
        }
        Identifier::NotId(one) => !principal(one, call),
        Identifier::Header(matcher) => header(matcher, call),
        Identifier::DirectRemoteIp(range) => contains(range, call.source),
        Identifier::RemoteIp(range) => contains(range, call.remote),
        Identifier::FilterState(matcher) => match (&*matcher.key, matcher.matcher.as_ref().unwrap()) {
            ("io.istio.peer_principal", Matcher::StringMatch(text)) => {
                call.peer.as_ref().is_some_and(|peer| string(text, peer))
            }
            ("fairway.peer_address", Matcher::AddressMatch(addresses)) => addresses.ranges.iter().any(|one| {
                let range = CidrRange { address_prefix: one.address_prefix.clone(), prefix_len: one.prefix_len };
                contains(&range, call.source)
            }),
            other => panic!("{other:?}"),
        },
        Identifier::Authenticated(name) => {
            call.peer.as_ref().is_some_and(|peer| string(name.principal_name.as_ref().unwrap(), peer))
        }
        Identifier::Metadata(matcher) => {
            assert_eq!(matcher.filter, "envoy.filters.http.jwt_authn");
            let metadata = call.claims.as_ref().map(|claims| json!({ "payload": claims }));
            metadata.is_some_and(|metadata| at_path(matcher, &metadata))
        }
        other => panic!("{other:?} was not expected"),
    }
}

/// A header that is sent twice is one value with a comma. One that is not
/// there matches nothing, unless by its absence.
fn header(matcher: &HeaderMatcher, call: &Call) -> bool {
    assert!(!matcher.invert_match && !matcher.treat_missing_header_as_empty && !matcher.name.is_empty());
    let named = call.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(&matcher.name));
    let values: Vec<_> = named.map(|(_, value)| value.as_str()).collect();
    match matcher.header_match_specifier.as_ref().unwrap() {
        _ if values.is_empty() => false,
        HeaderMatchSpecifier::PresentMatch(present) => *present,
        HeaderMatchSpecifier::StringMatch(matcher) => string(matcher, &values.join(",")),
        other => panic!("{other:?} was not expected"),
    }
}

fn path(call: &Call) -> Option<&str> {
    let (_, path) = call.headers.iter().find(|(name, _)| name == ":path")?;
    path.split(['?', '#']).next()
}

fn contains(range: &CidrRange, address: IpAddr) -> bool {
    let prefix: IpAddr = range.address_prefix.parse().unwrap();
    let length = range.prefix_len.unwrap().value.try_into().unwrap();
    IpNet::new(prefix, length).unwrap().contains(&address)
}

fn string(matcher: &StringMatcher, text: &str) -> bool {
    let case = |text: &str| if matcher.ignore_case { text.to_ascii_lowercase() } else { text.to_string() };
    match matcher.match_pattern.as_ref().unwrap() {
        MatchPattern::Exact(exact) => case(text) == case(exact),
        MatchPattern::Prefix(prefix) => {
            assert!(!prefix.is_empty());
            case(text).starts_with(&case(prefix))
        }
        MatchPattern::Suffix(suffix) => {
            assert!(!suffix.is_empty());
            case(text).ends_with(&case(suffix))
        }
        MatchPattern::SafeRegex(regex) => {
            assert!(!matcher.ignore_case && regex.regex.len() <= 1024);
            matches(&regex.regex, text)
        }
        other => panic!("{other:?} was not expected"),
    }
}

fn at_path(matcher: &MetadataMatcher, metadata: &Value) -> bool {
    assert!(!matcher.invert && !matcher.path.is_empty());
    let mut found = metadata;
    for segment in &matcher.path {
        let Segment::Key(key) = segment.segment.as_ref().unwrap();
        assert!(!key.is_empty());
        let Some(next) = found.get(key) else { return false };
        found = next;
    }
    value(matcher.value.as_ref().unwrap(), found)
}

fn value(matcher: &ValueMatcher, found: &Value) -> bool {
    match matcher.match_pattern.as_ref().unwrap() {
        ValuePattern::StringMatch(matcher) => found.as_str().is_some_and(|text| string(matcher, text)),
        ValuePattern::ListMatch(list) => {
            let list_matcher::MatchPattern::OneOf(matcher) = list.match_pattern.as_ref().unwrap();
            found.as_array().is_some_and(|list| list.iter().any(|found| value(matcher, found)))
        }
        ValuePattern::OrMatch(or) => {
            assert!(or.value_matchers.len() > 1);
            or.value_matchers.iter().any(|matcher| value(matcher, found))
        }
        other => panic!("{other:?} was not expected"),
    }
}

/// `*` is a segment, `**` is any rest.
fn template(template: &str, path: &str) -> bool {
    let characters = "[a-zA-Z0-9\\-._~%!$&'()+,;:@=]";
    let segment = |segment: &str| match segment {
        "*" => format!("{characters}+"),
        "**" => format!("({characters}|/)*"),
        literal => regex::escape(literal),
    };
    let pattern: Vec<_> = template.split('/').map(segment).collect();
    matches(&pattern.join("/"), path)
}

/// Whether a regular expression matches all of a text.
fn matches(pattern: &str, text: &str) -> bool {
    thread_local! {
        static COMPILED: RefCell<HashMap<String, regex::Regex>> = RefCell::default();
    }
    COMPILED.with_borrow_mut(|compiled| {
        let compile = || regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        compiled.entry(pattern.to_string()).or_insert_with(compile).is_match(text)
    })
}
