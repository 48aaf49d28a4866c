//! Who is asking: the peer's SPIFFE identity, and the identity in a token.

use std::sync::Arc;

use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;

use super::matcher::{Pattern, Refusal, escaped, exact, prefix, regex, something, suffix};

/// `principals`: identities without their scheme.
pub fn principal(value: &str, trust_domains: &[Arc<str>]) -> Result<Vec<StringMatcher>, Refusal> {
    with_aliases(value, trust_domains)
        .into_iter()
        .map(|value| match Pattern::new(&value) {
            Pattern::Presence => Ok(something()),
            // A certificate may hold other names that end so.
            Pattern::Suffix(text) => regex(format!("spiffe://.*{}", escaped(text))),
            Pattern::Prefix(text) => Ok(prefix(format!("spiffe://{text}"))),
            Pattern::Exact(text) => Ok(exact(format!("spiffe://{text}"))),
        })
        .collect()
}

/// The principal in all trust domains that mean the same. `cluster.local` is
/// the mesh's own whatever its name, as Istio's documentation on trust domain
/// migration has it.
/// <https://istio.io/latest/docs/tasks/security/authorization/authz-td-migration/>
fn with_aliases(principal: &str, trust_domains: &[Arc<str>]) -> Vec<String> {
    let own = || vec![principal.to_string()];
    let Some((domain, path)) = principal.split_once('/') else { return own() };
    // Only a whole identity has a trust domain that can be told.
    if domain == "*" || path.split('/').count() != 4 {
        return own();
    }
    let named = |trust_domain: &str| match Pattern::new(domain) {
        Pattern::Presence => true,
        Pattern::Suffix(text) => trust_domain.ends_with(text),
        Pattern::Prefix(text) => trust_domain.starts_with(text),
        Pattern::Exact(text) => trust_domain == text,
    };
    if domain != "cluster.local" && !trust_domains.iter().any(|one| named(one)) {
        return own();
    }
    let mut all = Vec::new();
    for trust_domain in trust_domains {
        let kept = domain.starts_with('*') && named(trust_domain);
        let one = if kept { principal.to_string() } else { format!("{trust_domain}/{path}") };
        if !all.contains(&one) {
            all.push(one);
        }
    }
    if all.is_empty() { own() } else { all }
}

/// `namespaces`: the part of an identity after `/ns/`. A wildcard may be
/// anywhere, and stays inside.
pub fn namespace(value: &str) -> Result<StringMatcher, Refusal> {
    let inside = match value {
        "*" => "[^/]+".to_string(),
        value => value.split('*').map(escaped).collect::<Vec<_>>().join("[^/]*"),
    };
    regex(format!("spiffe://.+/ns/{inside}/.*"))
}

/// `serviceAccounts`: `account` of the policy's own namespace, or
/// `namespace/account`; no wildcards.
pub fn service_account(value: &str, namespace: &str) -> Result<StringMatcher, Refusal> {
    let (namespace, account) = value.split_once('/').unwrap_or((namespace, value));
    if namespace.is_empty() || account.is_empty() || account.contains('/') || value.contains('*') {
        return Err(Refusal::invalid(format!("{value:?} is not an account or namespace/account")));
    }
    let (namespace, account) = (escaped(namespace), escaped(account));
    // Identities may say more than namespace and account.
    regex(format!("spiffe://.+/ns/{namespace}/(.+/)?sa/{account}(/.*)?"))
}

/// `trustDomains`: the part of an identity before the first slash.
pub fn trust_domain(value: &str, trust_domains: &[Arc<str>]) -> Result<Vec<StringMatcher>, Refusal> {
    let inside = value.trim_start_matches('*');
    let inside = inside.strip_suffix('*').filter(|_| inside == value).unwrap_or(inside);
    if value.contains('/') || inside.contains('*') || (inside.is_empty() && value != "*") {
        return Err(Refusal::invalid(format!("{value:?} is not a trust domain, or one with a wildcard at an end")));
    }
    match Pattern::new(value) {
        Pattern::Presence => Ok(vec![prefix("spiffe://")]),
        Pattern::Suffix(text) => Ok(vec![regex(format!("spiffe://[^/]*{}/.*", escaped(text)))?]),
        Pattern::Prefix(text) => Ok(vec![regex(format!("spiffe://{}[^/]*/.*", escaped(text)))?]),
        Pattern::Exact(text) if trust_domains.iter().any(|one| **one == *text) => {
            Ok(trust_domains.iter().map(|one| prefix(format!("spiffe://{one}/"))).collect())
        }
        Pattern::Exact(text) => Ok(vec![prefix(format!("spiffe://{text}/"))]),
    }
}

/// `requestPrincipals`: `issuer/subject`. Envoy has the two apart, and either
/// may have slashes of its own, so a value stands for each way of taking it
/// apart. Returns pairs of which one must match.
pub fn request_principal(value: &str) -> Result<Vec<(StringMatcher, StringMatcher)>, Refusal> {
    /// More would be no identity, and each is a matcher.
    const MOST_SLASHES: usize = 32;
    let pattern = Pattern::new(value);
    let (Pattern::Suffix(text) | Pattern::Prefix(text) | Pattern::Exact(text)) = pattern else {
        return Ok(vec![(something(), something())]);
    };
    let splits: Vec<_> = text.match_indices('/').map(|(at, _)| (&text[..at], &text[at + 1..])).collect();
    if splits.len() > MOST_SLASHES {
        return Err(Refusal::unsupported(format!("{value:?} has more than {MOST_SLASHES} slashes")));
    }
    let mut pairs = Vec::new();
    match pattern {
        Pattern::Presence => {}
        Pattern::Exact(_) => {
            let whole = splits.iter().filter(|(issuer, subject)| !issuer.is_empty() && !subject.is_empty());
            pairs.extend(whole.map(|(issuer, subject)| (exact(*issuer), exact(*subject))));
        }
        Pattern::Prefix(text) => {
            pairs.push((prefix(text), something()));
            for (issuer, subject) in splits.iter().filter(|(issuer, _)| !issuer.is_empty()) {
                let subject = if subject.is_empty() { something() } else { prefix(*subject) };
                pairs.push((exact(*issuer), subject));
            }
        }
        Pattern::Suffix(text) => {
            pairs.push((something(), suffix(text)));
            for (issuer, subject) in splits.iter().filter(|(_, subject)| !subject.is_empty()) {
                let issuer = if issuer.is_empty() { something() } else { suffix(*issuer) };
                pairs.push((issuer, exact(*subject)));
            }
        }
    }
    if pairs.is_empty() {
        return Err(Refusal::invalid(format!("{value:?} is not of the form issuer/subject")));
    }
    Ok(pairs)
}
