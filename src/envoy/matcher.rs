//! The matchers that choose a filter chain: `xds.type.matcher.v3`, with the
//! parts that `envoy_types` does not have (custom matches, `IPMatcher`).
//! <https://github.com/cncf/xds/tree/main/xds/type/matcher/v3>

use std::collections::BTreeMap;

use envoy_types::pb::google::protobuf::{Any, StringValue};
use envoy_types::pb::xds::core::v3::{CidrRange, TypedExtensionConfig};

use super::encode::{self, Message};

/// `xds.type.matcher.v3.Matcher`, as a tree.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Matcher {
    /// What is looked at, and what follows.
    #[prost(message, optional, tag = "2")]
    pub matcher_tree: Option<MatcherTree>,
    /// What follows otherwise.
    #[prost(message, optional, boxed, tag = "3")]
    pub on_no_match: Option<Box<OnMatch>>,
}

/// `Matcher.MatcherTree`.
#[derive(Clone, PartialEq, prost::Message)]
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
#[derive(Clone, PartialEq, prost::Message)]
pub struct MatchMap {
    /// What follows for each value.
    #[prost(btree_map = "string, message", tag = "1")]
    pub map: BTreeMap<String, OnMatch>,
}

/// `Matcher.OnMatch`: one of two.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OnMatch {
    /// To look further.
    #[prost(message, optional, boxed, tag = "1")]
    pub matcher: Option<Box<Matcher>>,
    /// What was found.
    #[prost(message, optional, tag = "2")]
    pub action: Option<TypedExtensionConfig>,
}

/// `IPMatcher.IPRangeMatcher`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpRangeMatcher {
    /// The ranges.
    #[prost(message, repeated, tag = "1")]
    pub ranges: Vec<CidrRange>,
    /// What follows.
    #[prost(message, optional, tag = "2")]
    pub on_match: Option<OnMatch>,
}

/// What of a connection is looked at. The type is one of Envoy's
/// `extensions.matching.common_inputs.network.v3`, which have no fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The address it is for.
    DestinationIp,
    /// The port it is for.
    DestinationPort,
    /// The protocols that were found in it.
    ApplicationProtocol,
}

impl Input {
    fn config(self) -> TypedExtensionConfig {
        let (name, ty) = match self {
            Self::DestinationIp => ("ip", "DestinationIPInput"),
            Self::DestinationPort => ("port", "DestinationPortInput"),
            Self::ApplicationProtocol => ("application-protocol", "ApplicationProtocolInput"),
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

/// What follows for exact values of an input.
pub fn exact(input: Input, map: BTreeMap<String, OnMatch>, on_no_match: Option<OnMatch>) -> Matcher {
    let tree = MatcherTree { input: Some(input.config()), exact_match_map: Some(MatchMap { map }), custom_match: None };
    Matcher { matcher_tree: Some(tree), on_no_match: on_no_match.map(Box::new) }
}

impl IpRangeMatcher {
    /// A field of `xds.type.matcher.v3.IPMatcher`, in which the most specific
    /// range that contains an address counts.
    pub fn field(&self) -> Message {
        let mut field = Message::new();
        prost::encoding::message::encode(RANGE_MATCHERS, self, &mut field);
        field
    }
}

/// `IPMatcher.range_matchers`.
const RANGE_MATCHERS: u32 = 1;

/// What follows for the address a connection is for: an `IPMatcher` of these
/// fields, which are encoded already.
pub fn destination(range_matchers: Message) -> Matcher {
    let type_url = "type.googleapis.com/xds.type.matcher.v3.IPMatcher".to_owned();
    let typed_config = Some(Any { type_url, value: range_matchers });
    let custom_match = Some(TypedExtensionConfig { name: "ip".into(), typed_config });
    let tree = MatcherTree { input: Some(Input::DestinationIp.config()), exact_match_map: None, custom_match };
    Matcher { matcher_tree: Some(tree), on_no_match: None }
}
