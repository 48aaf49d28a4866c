//! What Istio's reference says an AuthorizationPolicy means, decided straight
//! from its JSON, without a thought of Envoy.
//!
//! Where the reference gives no meaning, a part could mean anything: it is
//! true or false as a number says that the test picks. What is generated must
//! then let a call pass only if it passes whatever the parts mean.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::evaluator::Call;

/// How policies are read.
pub struct Reading<'a> {
    /// The trust domains of the mesh.
    pub trust_domains: &'a [&'a str],
    /// Picks what parts without a meaning mean.
    pub meaning: u64,
    /// Whether the call has no request, so that what is said of requests has
    /// no meaning.
    pub tcp: bool,
    /// Whether the policy at hand is enforced before tokens are verified.
    pub before_tokens: bool,
    /// The namespace of the policy at hand.
    pub namespace: String,
}

/// What policies say of a call.
#[derive(Debug, Default)]
pub struct Said {
    /// Whether they refuse it, as far as they decide themselves.
    pub refused: bool,
    /// Whether a CUSTOM policy with an authorizer that exists matches.
    pub asks: bool,
}

/// Decides a call by policies in JSON.
pub fn decide(reading: &mut Reading<'_>, policies: &[Value], call: &Call) -> Said {
    let mut said = Said::default();
    let (mut allows, mut allowed) = (false, false);
    for policy in policies {
        if policy["metadata"]["annotations"]["istio.io/dry-run"] == "true" {
            continue;
        }
        reading.namespace = policy["metadata"]["namespace"].as_str().unwrap().into();
        let action = policy["spec"]["action"].as_str().unwrap_or("ALLOW").to_string();
        reading.before_tokens = action == "CUSTOM";
        let rules = policy["spec"]["rules"].as_array().cloned().unwrap_or_default();
        let matched = rules.iter().any(|rule| reading.rule(rule, call));
        match &*action {
            "ALLOW" => {
                allows = true;
                // Whatever narrows the whole policy, may.
                let narrowed = reading.unknown(&policy["spec"], &["selector", "action", "provider", "rules"]);
                allowed |= matched && narrowed;
            }
            "DENY" => said.refused |= matched,
            "AUDIT" => {}
            "CUSTOM" if policy["spec"]["provider"]["name"] == "asked" => said.asks |= matched,
            "CUSTOM" => said.refused |= matched,
            _ => said.refused = true,
        }
    }
    said.refused |= allows && !allowed;
    said
}

impl Reading<'_> {
    fn either(&self, what: impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.meaning, what).hash(&mut hasher);
        hasher.finish().is_multiple_of(2)
    }

    /// Fields that are not known are further conditions.
    fn unknown(&self, object: &Value, known: &[&str]) -> bool {
        let fields = object.as_object().unwrap();
        fields
            .iter()
            .filter(|(name, _)| !known.contains(&name.as_str()))
            .all(|(name, value)| self.either((name, value.to_string())))
    }

    fn rule(&self, rule: &Value, call: &Call) -> bool {
        let entries = |name: &str| rule[name].as_array().cloned().unwrap_or_default();
        let (from, to, when) = (entries("from"), entries("to"), entries("when"));
        let from_matches = from.is_empty()
            || from.iter().any(|from| self.unknown(from, &["source"]) && self.part(&from["source"], SOURCE, call));
        let to_matches = to.is_empty()
            || to.iter().any(|to| self.unknown(to, &["operation"]) && self.part(&to["operation"], OPERATION, call));
        self.unknown(rule, &["from", "to", "when"])
            && from_matches
            && to_matches
            && when.iter().all(|when| self.condition(when, call))
    }

    fn part(&self, part: &Value, fields: &[(&str, &str, &str)], call: &Call) -> bool {
        let Some(object) = part.as_object().filter(|part| part.values().any(|values| *values != Value::Array(vec![])))
        else {
            return self.either("empty");
        };
        object.iter().all(|(name, values)| {
            let positive = fields.iter().find(|(field, ..)| field == name);
            let negative = fields.iter().find(|(_, field, _)| field == name);
            match (positive, negative) {
                (Some((.., attribute)), _) => self.listed(attribute, values, false, call),
                (None, Some((.., attribute))) => self.listed(attribute, values, true, call),
                (None, None) => self.either((name, values.to_string())),
            }
        })
    }

    fn condition(&self, condition: &Value, call: &Call) -> bool {
        let key = condition["key"].as_str().unwrap_or_default();
        let none = |values: &Value| values.as_array().is_none_or(|values| values.is_empty());
        let known = self.unknown(condition, &["key", "values", "notValues"]);
        if none(&condition["values"]) && none(&condition["notValues"]) {
            return known && self.either("no values");
        }
        let (yes, no) = (&condition["values"], &condition["notValues"]);
        known && self.listed(key, yes, false, call) && self.listed(key, no, true, call)
    }

    /// Whether one of the values matches, or for exceptions none; an empty
    /// list is no condition.
    fn listed(&self, attribute: &str, values: &Value, negative: bool, call: &Call) -> bool {
        let values = values.as_array().cloned().unwrap_or_default();
        if values.is_empty() {
            return true;
        }
        let requests = ["hosts", "methods", "paths", "request."].iter().any(|name| attribute.starts_with(name));
        let tokens = attribute.starts_with("request.auth");
        if (requests && self.tcp) || (tokens && self.before_tokens) {
            return self.either((attribute, format!("{values:?}"), negative));
        }
        let matched = values.iter().any(|value| {
            let value = value.as_str().unwrap();
            self.value(attribute, value, call).unwrap_or_else(|| self.either((attribute, value)))
        });
        matched != negative
    }

    /// Whether a value matches; `None` if it means nothing.
    fn value(&self, attribute: &str, value: &str, call: &Call) -> Option<bool> {
        if value.is_empty() {
            return None;
        }
        let header = |name: &str| {
            let named = call.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
            let values: Vec<_> = named.map(|(_, value)| value.as_str()).collect();
            (!values.is_empty()).then(|| values.join(","))
        };
        // A header that is there counts for `*` even if it is empty.
        let like_header = |name: &str| header(name).is_some_and(|found| value == "*" || like(value, &found));
        let (trust_domain, path) = call
            .peer
            .as_ref()
            .and_then(|peer| peer.strip_prefix("spiffe://"))
            .map_or((None, None), |peer| peer.split_once('/').map_or((None, None), |(a, b)| (Some(a), Some(b))));
        let segment = |name: &str| {
            let path: Vec<_> = path?.split('/').collect();
            path.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair.get(1).copied())
        };
        Some(match attribute {
            "principals" | "source.principal" => {
                let Some((trust_domain, path)) = trust_domain.zip(path) else { return Some(false) };
                self.principal(value, trust_domain, path)
            }
            "namespaces" | "source.namespace" => segment("ns").is_some_and(|found| glob(value, found)),
            "serviceAccounts" | "source.serviceAccount" => {
                let parts: Vec<_> = value.split('/').collect();
                if value.contains('*') || parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
                    return None;
                }
                let (namespace, account) =
                    if parts.len() == 2 { (parts[0], parts[1]) } else { (&*self.namespace, parts[0]) };
                segment("ns") == Some(namespace) && segment("sa") == Some(account)
            }
            "trustDomains" | "source.trustDomain" => {
                let middle = value.strip_prefix('*').unwrap_or(value.strip_suffix('*').unwrap_or(value));
                if value.contains('/') || middle.contains('*') {
                    return None;
                }
                let same = |one: &str| self.trust_domains.contains(&one);
                trust_domain.is_some_and(|found| like(value, found) || (same(value) && same(found)))
            }
            "ipBlocks" | "source.ip" => range(value)?.contains(&call.source),
            "remoteIpBlocks" | "remote.ip" => range(value)?.contains(&call.remote),
            "destination.ip" => range(value)?.contains(&call.destination),
            "ports" | "destination.port" => {
                if !value.bytes().all(|c| c.is_ascii_digit()) {
                    return None;
                }
                u32::from(value.parse::<u16>().ok()?) == call.port
            }
            "hosts" => header(":authority").is_some_and(|host| like(&value.to_lowercase(), &host.to_lowercase())),
            "methods" => header(":method").is_some_and(|method| like(value, &method)),
            "paths" => {
                let path = header(":path")?;
                let path = path.split(['?', '#']).next()?;
                if value.contains("{*}") || value.contains("{**}") { segments(value, path)? } else { like(value, path) }
            }
            "requestPrincipals" | "request.auth.principal" => {
                // An exact value without a slash can name nobody.
                if !value.contains('*') && !value.contains('/') {
                    return None;
                }
                let claim = |name: &str| call.claims.as_ref()?[name].as_str().filter(|claim| !claim.is_empty());
                let both = claim("iss").zip(claim("sub"));
                both.is_some_and(|(issuer, subject)| like(value, &format!("{issuer}/{subject}")))
            }
            "request.auth.audiences" => self.claim(&["aud"], value, call),
            "request.auth.presenter" => self.claim(&["azp"], value, call),
            "connection.sni" => like(value, &call.sni) && !call.sni.is_empty(),
            "request.headers[x-one]" => like_header("x-one"),
            "request.auth.claims[groups]" => self.claim(&["groups"], value, call),
            "request.auth.claims[deep][er]" => self.claim(&["deep", "er"], value, call),
            "experimental.envoy.filters.x[k]" => {
                let found = &call.metadata["k"];
                match value.strip_prefix('[').and_then(|value| value.strip_suffix(']')) {
                    Some("") => return None,
                    Some(element) => found.as_array().is_some_and(|found| found.iter().any(|one| text(element, one))),
                    None => text(value, found),
                }
            }
            _ => return None,
        })
    }

    fn claim(&self, path: &[&str], value: &str, call: &Call) -> bool {
        let Some(mut found) = call.claims.as_ref() else { return false };
        for name in path {
            found = &found[*name];
        }
        match found {
            Value::Array(list) => list.iter().any(|found| text(value, found)),
            found => text(value, found),
        }
    }

    /// Whole principals match in all trust domains of the mesh if they match
    /// in one, and `cluster.local` stands for all of them.
    fn principal(&self, value: &str, trust_domain: &str, path: &str) -> bool {
        let parts: Vec<_> = value.split('/').collect();
        let own = parts[0] == "cluster.local" || self.trust_domains.iter().any(|one| like(parts[0], one));
        if parts.len() != 5 || parts[0] == "*" || !own {
            return like(value, &format!("{trust_domain}/{path}"));
        }
        let here = like(&parts[1..].join("/"), path) && self.trust_domains.contains(&trust_domain);
        here || (value.starts_with('*') && like(value, &format!("{trust_domain}/{path}")))
    }
}

const SOURCE: &[(&str, &str, &str)] = &[
    ("principals", "notPrincipals", "principals"),
    ("requestPrincipals", "notRequestPrincipals", "request.auth.principal"),
    ("namespaces", "notNamespaces", "namespaces"),
    ("serviceAccounts", "notServiceAccounts", "serviceAccounts"),
    ("trustDomains", "notTrustDomains", "trustDomains"),
    ("ipBlocks", "notIpBlocks", "ipBlocks"),
    ("remoteIpBlocks", "notRemoteIpBlocks", "remoteIpBlocks"),
];

const OPERATION: &[(&str, &str, &str)] = &[
    ("hosts", "notHosts", "hosts"),
    ("ports", "notPorts", "ports"),
    ("methods", "notMethods", "methods"),
    ("paths", "notPaths", "paths"),
];

/// Exact, prefix, suffix and presence match.
fn like(value: &str, found: &str) -> bool {
    if value == "*" {
        !found.is_empty()
    } else if let Some(suffix) = value.strip_prefix('*') {
        found.ends_with(suffix)
    } else if let Some(prefix) = value.strip_suffix('*') {
        found.starts_with(prefix)
    } else {
        found == value
    }
}

fn text(value: &str, found: &Value) -> bool {
    found.as_str().is_some_and(|found| like(value, found))
}

/// `*` anywhere is any number of characters; alone, at least one.
fn glob(value: &str, found: &str) -> bool {
    fn rest(value: &[u8], found: &[u8]) -> bool {
        match value.split_first() {
            None => found.is_empty(),
            Some((b'*', value)) => (0..=found.len()).any(|skip| rest(value, &found[skip..])),
            Some((c, value)) => found.first() == Some(c) && rest(value, &found[1..]),
        }
    }
    rest(value.as_bytes(), found.as_bytes()) && (value != "*" || !found.is_empty())
}

fn range(value: &str) -> Option<IpNet> {
    value.parse().ok().or_else(|| value.parse::<IpAddr>().ok().map(IpNet::from))
}

/// A path template, segment by segment; `None` if it is none.
fn segments(template: &str, path: &str) -> Option<bool> {
    let template: Vec<_> = template.strip_prefix('/')?.split('/').collect();
    let path: Vec<_> = path.strip_prefix('/').map(|path| path.split('/').collect()).unwrap_or_default();
    let wild = |one: &str| one == "{*}" || one == "{**}";
    let last = template.len() - 1;
    for (at, one) in template.iter().enumerate() {
        let braces = one.contains(['{', '}', '*']) && !wild(one);
        let late = template[..at].contains(&"{**}") && wild(one);
        if braces || late || (one.is_empty() && at != last) {
            return None;
        }
    }
    fn rest(template: &[&str], path: &[&str]) -> bool {
        match template.split_first() {
            None => path.is_empty(),
            Some((&"{**}", template)) => (1..=path.len()).any(|skip| rest(template, &path[skip..])),
            Some((&"{*}", template)) => path.first().is_some_and(|one| !one.is_empty()) && rest(template, &path[1..]),
            Some((literal, template)) => path.first() == Some(literal) && rest(template, &path[1..]),
        }
    }
    Some(rest(&template, &path))
}
