//! The matchers that choose a filter chain: `xds.type.matcher.v3`.
//! <https://github.com/cncf/xds/tree/main/xds/type/matcher/v3>

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3::FilterStateInput;
use envoy_types::pb::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use envoy_types::pb::google::protobuf::{Any, StringValue};
use envoy_types::pb::xds::core::v3::{CidrRange as NetworkRange, TypedExtensionConfig};
use envoy_types::pb::xds::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::predicate::single_predicate::Matcher as By;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate,
};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_tree::{MatchMap, TreeType};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::{MatcherList, MatcherTree, MatcherType, on_match};
use envoy_types::pb::xds::r#type::matcher::v3::string_matcher::MatchPattern;
use fairway_proto::matcher::IpMatcher;
use fairway_proto::matcher::ip_matcher::IpRangeMatcher;
use ipnet::IpNet;
use prost::Name as _;

use super::encode::{self, Message, uint32};

pub use envoy_types::pb::xds::r#type::matcher::v3::Matcher;
pub use envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch;

/// What of a connection is looked at. The type is one of Envoy's
/// `extensions.matching.common_inputs.network.v3` that have no fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The address it is for.
    DestinationIp,
    /// The port it is for.
    DestinationPort,
    /// The protocols that were found in it.
    ApplicationProtocol,
    /// The name that the client of TLS asks for, in lower case.
    ServerName,
}

impl Input {
    fn config(self) -> TypedExtensionConfig {
        let (name, ty) = match self {
            Self::DestinationIp => ("ip", "DestinationIPInput"),
            Self::DestinationPort => ("port", "DestinationPortInput"),
            Self::ApplicationProtocol => ("application-protocol", "ApplicationProtocolInput"),
            Self::ServerName => ("server-name", "ServerNameInput"),
        };
        let type_url = format!("type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.{ty}");
        TypedExtensionConfig { name: name.into(), typed_config: Some(Any { type_url, value: Vec::new() }) }
    }
}

/// The filter chain of this name.
pub fn chain(name: &str) -> OnMatch {
    let typed_config = Some(encode::any(&StringValue { value: name.into() }));
    let action = TypedExtensionConfig { name: name.into(), typed_config };
    OnMatch { on_match: Some(on_match::OnMatch::Action(action)), ..Default::default() }
}

/// Looks further.
pub fn further(matcher: Matcher) -> OnMatch {
    OnMatch { on_match: Some(on_match::OnMatch::Matcher(Box::new(matcher))), ..Default::default() }
}

/// A condition on a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition(Predicate);

impl Condition {
    fn new(input: TypedExtensionConfig, by: By) -> Self {
        let single = SinglePredicate { input: Some(input), matcher: Some(by) };
        Self(Predicate { match_type: Some(MatchType::SinglePredicate(single)) })
    }

    /// A server name: a host, or with a leading `*` all that end like it.
    pub fn server_name(host: &str) -> Self {
        let host = host.to_ascii_lowercase();
        let pattern = match host.strip_prefix('*') {
            Some(suffix) => MatchPattern::Suffix(suffix.to_owned()),
            None => MatchPattern::Exact(host),
        };
        Self::new(Input::ServerName.config(), By::ValueMatch(text(pattern)))
    }

    /// A property that was noted on the connection, with a text in it.
    pub fn noted(key: &str, contains: String) -> Self {
        let config = encode::any(&FilterStateInput { key: key.into(), ..FilterStateInput::default() });
        let input = TypedExtensionConfig { name: "filter-state".into(), typed_config: Some(config) };
        Self::new(input, By::ValueMatch(text(MatchPattern::Contains(contains))))
    }

    /// A destination within any of some ranges.
    pub fn destination(ranges: &[IpNet]) -> Self {
        let range = |range: &IpNet| CidrRange {
            address_prefix: range.addr().to_string(),
            prefix_len: uint32(range.prefix_len().into()),
        };
        let matcher = Ip { cidr_ranges: ranges.iter().map(range).collect(), stat_prefix: "destination".into() };
        let custom = TypedExtensionConfig { name: "ip".into(), typed_config: Some(encode::any(&matcher)) };
        Self::new(Input::DestinationIp.config(), By::CustomMatch(custom))
    }

    /// Whether any of some conditions holds; `None` if there are none.
    pub fn any(conditions: Vec<Self>) -> Option<Self> {
        Self::several(conditions, MatchType::OrMatcher)
    }

    /// Whether all conditions hold; `None` if there are none.
    pub fn all(conditions: Vec<Self>) -> Option<Self> {
        Self::several(conditions, MatchType::AndMatcher)
    }

    fn several(conditions: Vec<Self>, how: fn(PredicateList) -> MatchType) -> Option<Self> {
        // A list of one is refused.
        if conditions.len() < 2 {
            return conditions.into_iter().next();
        }
        let predicate = conditions.into_iter().map(|Self(predicate)| predicate).collect();
        Some(Self(Predicate { match_type: Some(how(PredicateList { predicate })) }))
    }
}

fn text(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }
}

/// What follows for the first condition that holds.
pub fn first(conditions: Vec<(Condition, OnMatch)>, on_no_match: OnMatch) -> Matcher {
    let matchers = conditions
        .into_iter()
        .map(|(Condition(predicate), on_match)| FieldMatcher { predicate: Some(predicate), on_match: Some(on_match) });
    let list = MatcherList { matchers: matchers.collect() };
    Matcher { matcher_type: Some(MatcherType::MatcherList(list)), on_no_match: Some(Box::new(on_no_match)) }
}

/// What follows for exact values of an input.
pub fn exact(input: Input, map: BTreeMap<String, OnMatch>, on_no_match: Option<OnMatch>) -> Matcher {
    let map = MatchMap { map: map.into_iter().collect() };
    Matcher { on_no_match: on_no_match.map(Box::new), ..tree(input, TreeType::ExactMatchMap(map)) }
}

/// What follows for some ranges, as a field of the matcher that [`destination`]
/// makes of such fields.
pub fn ranges(ranges: Vec<NetworkRange>, on_match: OnMatch) -> Message {
    let matcher = IpRangeMatcher { ranges, on_match: Some(on_match), ..Default::default() };
    // A message that has one field is that field.
    encode::bytes(&IpMatcher { range_matchers: vec![matcher] })
}

/// What follows for the address a connection is for, encoded: the most specific
/// of the `ranges` that contains it counts. They have been encoded already, one
/// after another.
pub fn destination(ranges: Message) -> Message {
    let type_url = format!("type.googleapis.com/{}", IpMatcher::full_name());
    let custom = TypedExtensionConfig { name: "ip".into(), typed_config: Some(Any { type_url, value: ranges }) };
    encode::ordered(&tree(Input::DestinationIp, TreeType::CustomMatch(custom)))
}

fn tree(input: Input, tree: TreeType) -> Matcher {
    let tree = MatcherTree { input: Some(input.config()), tree_type: Some(tree) };
    Matcher { matcher_type: Some(MatcherType::MatcherTree(tree)), ..Default::default() }
}
