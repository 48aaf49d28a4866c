//! The matchers that choose a filter chain: `xds.type.matcher.v3`.
//! <https://github.com/cncf/xds/tree/main/xds/type/matcher/v3>

use std::collections::BTreeMap;

use envoy_types::pb::google::protobuf::{Any, StringValue};
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_tree::{MatchMap, TreeType};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::{MatcherTree, MatcherType, on_match};
use fairway_proto::matcher::IpMatcher;

use super::encode;

pub use envoy_types::pb::xds::r#type::matcher::v3::Matcher;
pub use envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch;
pub use fairway_proto::matcher::ip_matcher::IpRangeMatcher;

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

/// What follows for exact values of an input.
pub fn exact(input: Input, map: BTreeMap<String, OnMatch>, on_no_match: Option<OnMatch>) -> Matcher {
    let map = MatchMap { map: map.into_iter().collect() };
    Matcher { on_no_match: on_no_match.map(Box::new), ..tree(input, TreeType::ExactMatchMap(map)) }
}

/// What follows for the address a connection is for: the most specific range
/// that contains it counts.
pub fn destination(range_matchers: Vec<IpRangeMatcher>) -> Matcher {
    let typed_config = Some(encode::any(&IpMatcher { range_matchers }));
    let custom = TypedExtensionConfig { name: "ip".into(), typed_config };
    tree(Input::DestinationIp, TreeType::CustomMatch(custom))
}

fn tree(input: Input, tree: TreeType) -> Matcher {
    let tree = MatcherTree { input: Some(input.config()), tree_type: Some(tree) };
    Matcher { matcher_type: Some(MatcherType::MatcherTree(tree)), ..Default::default() }
}
