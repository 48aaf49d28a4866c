//! The matchers that choose a filter chain: `xds.type.matcher.v3`, with the
//! parts that `envoy_types` does not have (lists, custom matches, `IPMatcher`).
//! <https://github.com/cncf/xds/tree/main/xds/type/matcher/v3>

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::CidrRange as EnvoyRange;
use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3::FilterStateInput;
use envoy_types::pb::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use envoy_types::pb::google::protobuf::{Any, StringValue};
use envoy_types::pb::xds::core::v3::{CidrRange, TypedExtensionConfig};
use ipnet::IpNet;
use prost::{Message, Name};

use super::encode::{self, uint32};

/// `xds.type.matcher.v3.Matcher`: a list or a tree.
#[derive(Clone, PartialEq, Message)]
pub struct Matcher {
    /// Conditions, of which the first that holds counts.
    #[prost(message, optional, tag = "1")]
    pub matcher_list: Option<MatcherList>,
    /// What is looked at, and what follows.
    #[prost(message, optional, tag = "2")]
    pub matcher_tree: Option<MatcherTree>,
    /// What follows otherwise.
    #[prost(message, optional, boxed, tag = "3")]
    pub on_no_match: Option<Box<OnMatch>>,
}

/// `Matcher.MatcherList`.
#[derive(Clone, PartialEq, Message)]
pub struct MatcherList {
    /// The conditions.
    #[prost(message, repeated, tag = "1")]
    pub matchers: Vec<FieldMatcher>,
}

/// `Matcher.MatcherList.FieldMatcher`.
#[derive(Clone, PartialEq, Message)]
pub struct FieldMatcher {
    /// The condition.
    #[prost(message, optional, tag = "1")]
    pub predicate: Option<Predicate>,
    /// What follows if it holds.
    #[prost(message, optional, tag = "2")]
    pub on_match: Option<OnMatch>,
}

/// `Matcher.MatcherList.Predicate`: one of three.
#[derive(Clone, PartialEq, Message)]
pub struct Predicate {
    /// One condition.
    #[prost(message, optional, tag = "1")]
    pub single_predicate: Option<SinglePredicate>,
    /// Any of several.
    #[prost(message, optional, tag = "2")]
    pub or_matcher: Option<PredicateList>,
    /// All of several.
    #[prost(message, optional, tag = "3")]
    pub and_matcher: Option<PredicateList>,
}

/// `Matcher.MatcherList.Predicate.PredicateList`.
#[derive(Clone, PartialEq, Message)]
pub struct PredicateList {
    /// Two conditions or more.
    #[prost(message, repeated, tag = "1")]
    pub predicate: Vec<Predicate>,
}

/// `Matcher.MatcherList.Predicate.SinglePredicate`.
#[derive(Clone, PartialEq, Message)]
pub struct SinglePredicate {
    /// What is looked at.
    #[prost(message, optional, tag = "1")]
    pub input: Option<TypedExtensionConfig>,
    /// How it must be, as a text,
    #[prost(message, optional, tag = "2")]
    pub value_match: Option<StringMatcher>,
    /// or in a way of its own.
    #[prost(message, optional, tag = "3")]
    pub custom_match: Option<TypedExtensionConfig>,
}

/// `xds.type.matcher.v3.StringMatcher`: one of three.
#[derive(Clone, PartialEq, Message)]
pub struct StringMatcher {
    /// Equal to this.
    #[prost(string, optional, tag = "1")]
    pub exact: Option<String>,
    /// Ending with this.
    #[prost(string, optional, tag = "3")]
    pub suffix: Option<String>,
    /// With this in it.
    #[prost(string, optional, tag = "7")]
    pub contains: Option<String>,
}

/// `Matcher.MatcherTree`.
#[derive(Clone, PartialEq, Message)]
pub struct MatcherTree {
    /// What is looked at.
    #[prost(message, optional, tag = "1")]
    pub input: Option<TypedExtensionConfig>,
    /// What follows for exact values.
    #[prost(message, optional, tag = "2")]
    pub exact_match_map: Option<MatchMap>,
    /// A matcher of another kind.
    #[prost(message, optional, tag = "4")]
    pub custom_match: Option<TypedExtensionConfig>,
}

/// `Matcher.MatcherTree.MatchMap`.
#[derive(Clone, PartialEq, Message)]
pub struct MatchMap {
    /// What follows for each value.
    #[prost(btree_map = "string, message", tag = "1")]
    pub map: BTreeMap<String, OnMatch>,
}

/// `Matcher.OnMatch`: one of two.
#[derive(Clone, PartialEq, Message)]
pub struct OnMatch {
    /// To look further.
    #[prost(message, optional, boxed, tag = "1")]
    pub matcher: Option<Box<Matcher>>,
    /// What was found.
    #[prost(message, optional, tag = "2")]
    pub action: Option<TypedExtensionConfig>,
}

/// `xds.type.matcher.v3.IPMatcher`: the most specific range that contains an
/// address counts.
#[derive(Clone, PartialEq, Message)]
pub struct IpMatcher {
    /// What follows for each set of ranges.
    #[prost(message, repeated, tag = "1")]
    pub range_matchers: Vec<IpRangeMatcher>,
}

impl Name for IpMatcher {
    const NAME: &'static str = "IPMatcher";
    const PACKAGE: &'static str = "xds.type.matcher.v3";
}

/// `IPMatcher.IPRangeMatcher`.
#[derive(Clone, PartialEq, Message)]
pub struct IpRangeMatcher {
    /// The ranges.
    #[prost(message, repeated, tag = "1")]
    pub ranges: Vec<CidrRange>,
    /// What follows.
    #[prost(message, optional, tag = "2")]
    pub on_match: Option<OnMatch>,
}

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

impl OnMatch {
    /// The filter chain of this name.
    pub fn chain(name: &str) -> Self {
        let typed_config = Some(encode::any(&StringValue { value: name.into() }));
        Self { action: Some(TypedExtensionConfig { name: name.into(), typed_config }), matcher: None }
    }

    /// Looks further.
    pub fn matcher(matcher: Matcher) -> Self {
        Self { matcher: Some(Box::new(matcher)), action: None }
    }
}

impl Predicate {
    fn single(one: SinglePredicate) -> Self {
        Self { single_predicate: Some(one), or_matcher: None, and_matcher: None }
    }

    /// A server name: a host, or with a leading `*` all that end like it.
    pub fn server_name(host: &str) -> Self {
        let host = host.to_ascii_lowercase();
        let value = match host.strip_prefix('*') {
            Some(suffix) => StringMatcher { suffix: Some(suffix.to_owned()), ..StringMatcher::default() },
            None => StringMatcher { exact: Some(host), ..StringMatcher::default() },
        };
        let input = Some(Input::ServerName.config());
        Self::single(SinglePredicate { input, value_match: Some(value), custom_match: None })
    }

    /// A property that was noted on the connection, with a text in it.
    pub fn noted(key: &str, contains: String) -> Self {
        let config = encode::any(&FilterStateInput { key: key.into(), ..FilterStateInput::default() });
        let input = TypedExtensionConfig { name: "filter-state".into(), typed_config: Some(config) };
        let value = StringMatcher { contains: Some(contains), ..StringMatcher::default() };
        Self::single(SinglePredicate { input: Some(input), value_match: Some(value), custom_match: None })
    }

    /// A destination within any of some ranges.
    pub fn destination(ranges: &[IpNet]) -> Self {
        let range = |range: &IpNet| EnvoyRange {
            address_prefix: range.addr().to_string(),
            prefix_len: uint32(range.prefix_len().into()),
        };
        let matcher = Ip { cidr_ranges: ranges.iter().map(range).collect(), stat_prefix: "destination".into() };
        let custom = TypedExtensionConfig { name: "ip".into(), typed_config: Some(encode::any(&matcher)) };
        let input = Some(Input::DestinationIp.config());
        Self::single(SinglePredicate { input, value_match: None, custom_match: Some(custom) })
    }

    /// Whether any of some conditions holds; `None` if there are none.
    pub fn any(conditions: Vec<Self>) -> Option<Self> {
        // A list of one is refused.
        match conditions.len() {
            0 | 1 => conditions.into_iter().next(),
            _ => Some(Self { or_matcher: Some(PredicateList { predicate: conditions }), ..Self::default() }),
        }
    }

    /// Whether all conditions hold; `None` if there are none.
    pub fn all(conditions: Vec<Self>) -> Option<Self> {
        match conditions.len() {
            0 | 1 => conditions.into_iter().next(),
            _ => Some(Self { and_matcher: Some(PredicateList { predicate: conditions }), ..Self::default() }),
        }
    }
}

/// What follows for the first condition that holds.
pub fn first(conditions: Vec<(Predicate, OnMatch)>, on_no_match: OnMatch) -> Matcher {
    let matchers = conditions
        .into_iter()
        .map(|(predicate, on_match)| FieldMatcher { predicate: Some(predicate), on_match: Some(on_match) });
    Matcher {
        matcher_list: Some(MatcherList { matchers: matchers.collect() }),
        matcher_tree: None,
        on_no_match: Some(Box::new(on_no_match)),
    }
}

/// What follows for exact values of an input.
pub fn exact(input: Input, map: BTreeMap<String, OnMatch>, on_no_match: Option<OnMatch>) -> Matcher {
    let tree = MatcherTree { input: Some(input.config()), exact_match_map: Some(MatchMap { map }), custom_match: None };
    Matcher { matcher_list: None, matcher_tree: Some(tree), on_no_match: on_no_match.map(Box::new) }
}

/// What follows for the address a connection is for.
pub fn destination(range_matchers: Vec<IpRangeMatcher>) -> Matcher {
    let typed_config = Some(encode::any(&IpMatcher { range_matchers }));
    let custom_match = Some(TypedExtensionConfig { name: "ip".into(), typed_config });
    let tree = MatcherTree { input: Some(Input::DestinationIp.config()), exact_match_map: None, custom_match };
    Matcher { matcher_list: None, matcher_tree: Some(tree), on_no_match: None }
}
