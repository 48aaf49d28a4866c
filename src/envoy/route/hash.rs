//! What makes requests go to the same endpoint.

use envoy_types::pb::envoy::config::route::v3::route_action::HashPolicy;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
};

use crate::api::destination_rule::{ConsistentHash, HashKey};
use crate::envoy::encode::duration;

/// Envoy's hash policy for `consistentHash` of a destination rule. There is
/// none for a key without a name, which Envoy would refuse.
/// <https://istio.io/latest/docs/reference/config/networking/destination-rule/#LoadBalancerSettings-ConsistentHashLB>
pub fn hash_policy(hash: &ConsistentHash) -> Option<HashPolicy> {
    let named = |name: &str| (!name.is_empty() && !name.contains(['\0', '\r', '\n'])).then(|| name.to_owned());
    let specifier = match hash.key.as_ref()? {
        HashKey::HeaderName(name) => PolicySpecifier::Header(Header { header_name: named(name)?, ..Header::default() }),
        HashKey::Cookie(cookie) => {
            let attribute = |name: &str, value: &str| {
                let value = Some(value).filter(|value| !value.contains(['\0', '\r', '\n']))?;
                Some(CookieAttribute { name: named(name)?, value: value.to_owned() })
            };
            PolicySpecifier::Cookie(Cookie {
                name: named(&cookie.name)?,
                ttl: cookie.ttl.and_then(duration),
                path: cookie.path.to_string(),
                attributes: cookie.attributes.iter().filter_map(|one| attribute(&one.name, &one.value)).collect(),
            })
        }
        HashKey::SourceIp(source_ip) => {
            PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: *source_ip })
        }
        HashKey::QueryParameterName(name) => PolicySpecifier::QueryParameter(QueryParameter { name: named(name)? }),
    };
    Some(HashPolicy { policy_specifier: Some(specifier), ..HashPolicy::default() })
}
