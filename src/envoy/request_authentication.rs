//! RequestAuthentications as Envoy's JWT filter: which tokens are believed.
//!
//! A request without a token passes, one with a token that is not valid does
//! not; that a token is needed is for AuthorizationPolicies to say, or for
//! `presence: REQUIRED`. Payloads go to the metadata that those read.
//! <https://istio.io/latest/docs/reference/config/security/request_authentication/>
//!
//! A rule that cannot be honoured believes no token: its only key is one that
//! nobody holds.

mod jwks;
#[cfg(test)]
mod tests;

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::config::core::v3::{DataSource, HttpUri, data_source::Specifier};
use envoy_types::pb::envoy::config::route::v3::{RouteMatch, route_match::PathSpecifier};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::{
    JwksSourceSpecifier, NormalizePayload,
};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementAndList,
    JwtRequirementOrList, RemoteJwks, RequirementRule,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::google::protobuf::Empty;

use crate::api::Meta;
use crate::api::request_authentication::{JwtRule, RequestAuthentication};
use crate::graph::Diagnostic;
use crate::model::problem;

use super::authorization::matcher::is_header_name;
use super::encode::{any, duration};

const FILTER: &str = "envoy.filters.http.jwt_authn";
const PAYLOAD: &str = "payload";
/// How long fetching keys may take where nothing else is said, as in Istio.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long Envoy keeps keys it fetched, as in Istio.
const CACHE: Duration = Duration::from_secs(300);
/// No timeout that Envoy takes is as long.
const MOST: Duration = Duration::from_secs(1 << 32);

/// What may influence the filter besides the policies.
pub struct Request<'a> {
    /// Where the keys of a rule come from that does not have them in place:
    /// at its `jwksUri`, or where its issuer says.
    pub keys: &'a dyn Fn(&JwtRule) -> Keys,
    /// Whether routes are looked up again after a token was verified, because
    /// they may match claims. Istio does so everywhere but at sidecars.
    pub clear_route_cache: bool,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Envoy fetches them from the rule's `jwksUri`, through this cluster.
    Remote {
        /// The cluster.
        cluster: String,
    },
    /// They are these, a JWKS in JSON.
    Local(String),
    /// Nowhere, as this says.
    Missing(String),
}

/// The HTTP filter for policies that apply to a chain, if they have any rule.
pub fn filter(request: &Request<'_>, policies: &[&RequestAuthentication]) -> (Option<HttpFilter>, Vec<Diagnostic>) {
    let mut policies = policies.to_vec();
    policies.sort_by_key(|policy| (policy.meta.created, &policy.meta.namespace, &policy.meta.name));
    let rules = policies.iter().flat_map(|policy| {
        let rules = policy.spec.jwt_rules.iter().enumerate();
        rules.map(|(at, rule)| (&policy.meta, at, rule))
    });
    let mut rules: Vec<_> = rules.collect();
    rules.sort_by_key(|(.., rule)| &rule.issuer);
    let mut problems = Vec::new();
    for policy in &policies {
        for name in policy.spec.unknown.names() {
            let message = "this version does not know the field; ignored";
            let field = format!("spec.{name}");
            problems.push(problem("RequestAuthentication", &policy.meta, field, "UnsupportedValue", message));
        }
    }
    let mut config = JwtAuthentication { bypass_cors_preflight: true, ..Default::default() };
    let mut names = Vec::new();
    for (at, (meta, place, rule)) in rules.into_iter().enumerate() {
        let name = format!("origins-{at}");
        let mut reader = Reader { request, meta, place, problems: &mut problems, refused: false };
        let (provider, required) = reader.provider(rule);
        config.providers.insert(name.clone(), provider);
        names.push((name, required));
    }
    if names.is_empty() {
        return (None, problems);
    }
    let everything = RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() };
    let requires = Some(RequirementType::Requires(requirement(&names)));
    config.rules = vec![RequirementRule { r#match: Some(everything), requirement_type: requires }];
    let config_type = Some(http_filter::ConfigType::TypedConfig(any(&config)));
    (Some(HttpFilter { name: FILTER.into(), config_type, ..Default::default() }), problems)
}

/// What a request needs. With one provider, its token or none.
///
/// With several, all of that. But a token where two providers look for theirs
/// fails for one of them, so a valid token of one provider is enough. The
/// same, where tokens are required, for all of the required ones.
fn requirement(names: &[(String, bool)]) -> JwtRequirement {
    let provider = |name: &String| of(RequiresType::ProviderName(name.clone()));
    let each: Vec<_> = names
        .iter()
        .map(|(name, required)| match required {
            true => provider(name),
            false => any_of(vec![provider(name), of(RequiresType::AllowMissing(Empty {}))]),
        })
        .collect();
    if let [_] = &each[..] {
        return each.into_iter().next().unwrap_or_default();
    }
    let required: Vec<_> = names.iter().filter(|(_, required)| *required).map(|(name, _)| provider(name)).collect();
    match required.is_empty() {
        true => {
            let mut alternatives: Vec<_> = names.iter().map(|(name, _)| provider(name)).collect();
            alternatives.push(all_of(each));
            any_of(alternatives)
        }
        false => any_of(vec![all_of(each), all_of(required)]),
    }
}

fn of(requires: RequiresType) -> JwtRequirement {
    JwtRequirement { requires_type: Some(requires) }
}

fn any_of(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    of(RequiresType::RequiresAny(JwtRequirementOrList { requirements }))
}

/// Envoy wants no list of one.
fn all_of(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    match <[_; 1]>::try_from(requirements) {
        Ok([one]) => one,
        Err(requirements) => of(RequiresType::RequiresAll(JwtRequirementAndList { requirements })),
    }
}

struct Reader<'a> {
    request: &'a Request<'a>,
    meta: &'a Meta,
    place: usize,
    problems: &'a mut Vec<Diagnostic>,
    refused: bool,
}

impl Reader<'_> {
    /// The provider of a rule, and whether its token is required.
    fn provider(&mut self, rule: &JwtRule) -> (JwtProvider, bool) {
        for name in rule.unknown.names() {
            self.refuse(name, "UnsupportedValue", "the field is not known");
        }
        let required = match &*rule.presence {
            "" | "OPTIONAL" => false,
            "REQUIRED" => true,
            other => {
                self.refuse("presence", "UnsupportedValue", &format!("{other:?} is not OPTIONAL or REQUIRED"));
                true
            }
        };
        if rule.issuer.is_empty() && rule.jwks_uri.is_empty() {
            self.refuse("issuer", "InvalidValue", "there is neither an issuer nor a jwksUri");
        }
        self.texts("audiences", &rule.audiences);
        self.texts("fromParams", &rule.from_params);
        self.texts("fromCookies", &rule.from_cookies);
        self.texts("spaceDelimitedClaims", &rule.space_delimited_claims);
        let mut provider = JwtProvider {
            issuer: rule.issuer.to_string(),
            audiences: some(&rule.audiences),
            forward: rule.forward_original_token,
            from_params: some(&rule.from_params),
            from_cookies: some(&rule.from_cookies),
            payload_in_metadata: PAYLOAD.into(),
            clear_route_cache: self.request.clear_route_cache,
            ..Default::default()
        };
        for (at, header) in rule.from_headers.iter().enumerate() {
            if self.header(&format!("fromHeaders[{at}].name"), &header.name) {
                let (name, value_prefix) = (header.name.to_string(), header.prefix.to_string());
                provider.from_headers.push(JwtHeader { name, value_prefix });
            }
        }
        let payload = &rule.output_payload_to_header;
        if !payload.is_empty() && self.header("outputPayloadToHeader", payload) {
            provider.forward_payload_header = payload.to_string();
        }
        for (at, output) in rule.output_claim_to_headers.iter().enumerate() {
            let field = format!("outputClaimToHeaders[{at}]");
            if output.claim.is_empty() {
                self.refuse(&format!("{field}.claim"), "InvalidValue", "an empty value names no claim");
            } else if self.header(&format!("{field}.header"), &output.header) {
                let (header_name, claim_name) = (output.header.to_string(), output.claim.to_string());
                provider.claim_to_headers.push(JwtClaimToHeader { header_name, claim_name, ..Default::default() });
            }
        }
        let mut delimited = some(&rule.space_delimited_claims);
        delimited.extend(["permission".to_string(), "scope".to_string()]);
        delimited.sort_unstable();
        delimited.dedup();
        provider.normalize_payload_in_metadata = Some(NormalizePayload { space_delimited_claims: delimited });
        let keys = self.keys(rule);
        let keys = keys.filter(|_| !self.refused).unwrap_or_else(|| local(jwks::NONE.into()));
        provider.jwks_source_specifier = Some(keys);
        (provider, required)
    }

    fn keys(&mut self, rule: &JwtRule) -> Option<JwksSourceSpecifier> {
        let timeout = match &*rule.timeout {
            "" => TIMEOUT,
            text => match parse_duration(text) {
                Some(timeout) => timeout,
                None => {
                    self.refuse("timeout", "InvalidValue", &format!("{text:?} is not a duration such as 5s"));
                    return None;
                }
            },
        };
        if !rule.jwks.is_empty() {
            return match jwks::check(&rule.jwks) {
                Ok(()) => Some(local(rule.jwks.to_string())),
                Err(why) => {
                    self.refuse("jwks", "InvalidValue", why);
                    None
                }
            };
        }
        let uri = &rule.jwks_uri;
        let scheme = uri.starts_with("http://") || uri.starts_with("https://");
        if !uri.is_empty() && (!scheme || !uri.bytes().all(|c| c.is_ascii_graphic())) {
            self.refuse("jwksUri", "InvalidValue", &format!("{uri:?} is not an http or https URL"));
            return None;
        }
        match (self.request.keys)(rule) {
            Keys::Remote { cluster } if !uri.is_empty() => {
                let http_uri = HttpUri {
                    uri: uri.to_string(),
                    timeout: duration(timeout),
                    http_upstream_type: Some(HttpUpstreamType::Cluster(cluster)),
                };
                let cache_duration = duration(CACHE);
                let remote = RemoteJwks { http_uri: Some(http_uri), cache_duration, ..Default::default() };
                Some(JwksSourceSpecifier::RemoteJwks(remote))
            }
            Keys::Local(text) => match jwks::check(&text) {
                Ok(()) => Some(local(text)),
                Err(why) => {
                    self.refuse("jwksUri", "KeysUnavailable", &format!("what is there is no set of keys: {why}"));
                    None
                }
            },
            Keys::Missing(why) => {
                self.refuse("jwksUri", "KeysUnavailable", &why);
                None
            }
            Keys::Remote { .. } => {
                self.refuse("jwksUri", "KeysUnavailable", "it is not said where keys are");
                None
            }
        }
    }

    fn texts(&mut self, field: &str, texts: &[std::sync::Arc<str>]) {
        for (at, _) in texts.iter().enumerate().filter(|(_, text)| text.is_empty()) {
            self.refuse(&format!("{field}[{at}]"), "InvalidValue", "an empty value means nothing");
        }
    }

    fn header(&mut self, field: &str, name: &str) -> bool {
        let good = is_header_name(name) && !name.starts_with(':');
        if !good {
            self.refuse(field, "InvalidValue", &format!("{name:?} is not the name of a header"));
        }
        good
    }

    fn refuse(&mut self, field: &str, reason: &'static str, why: &str) {
        self.refused = true;
        let field = format!("spec.jwtRules[{}].{field}", self.place);
        let message = format!("{why}; no token of this issuer is accepted");
        self.problems.push(problem("RequestAuthentication", self.meta, field, reason, message));
    }
}

/// The texts that say something.
fn some(texts: &[std::sync::Arc<str>]) -> Vec<String> {
    texts.iter().filter(|text| !text.is_empty()).map(|text| text.to_string()).collect()
}

fn local(keys: String) -> JwksSourceSpecifier {
    let specifier = Some(Specifier::InlineString(keys));
    JwksSourceSpecifier::LocalJwks(DataSource { specifier, ..Default::default() })
}

/// A positive duration: `5s`, `1m30s`, `0.5s`. Envoy has a bound for them.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
    }
    Some(total).filter(|total| !total.is_zero() && *total < MOST)
}
