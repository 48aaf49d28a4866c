use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType as Requires;
use prost::{Message, Name};

use super::*;

const KEYS: &str = r#"{"keys":[{"kty":"oct","alg":"HS256","k":"c2VjcmV0"}]}"#;

fn policy(yaml: &str) -> RequestAuthentication {
    crate::api::yaml(yaml).unwrap()
}

/// The filter for policies, where `https://mesh` has keys that Envoy fetches,
/// `https://world` has some that are here, and `https://broken` has none.
fn config(policies: &[&str]) -> (Option<JwtAuthentication>, Vec<Diagnostic>) {
    let policies: Vec<_> = policies.iter().map(|yaml| policy(yaml)).collect();
    let request = Request {
        keys: &|rule| match &*rule.jwks_uri {
            "https://mesh/keys" => Keys::Remote { cluster: "outbound|443||mesh".into() },
            "https://world/keys" => Keys::Local(KEYS.into()),
            "https://broken/keys" => Keys::Local("<html>".into()),
            "" if &*rule.issuer == "https://found" => Keys::Local(KEYS.into()),
            "" if &*rule.issuer == "https://nowhere" => Keys::Remote { cluster: "x".into() },
            _ => Keys::Missing("they have not been fetched yet".into()),
        },
        clear_route_cache: true,
    };
    let (filter, problems) = filter(&request, &policies.iter().collect::<Vec<_>>());
    let config = filter.map(|filter| {
        assert_eq!(filter.name, "envoy.filters.http.jwt_authn");
        let Some(http_filter::ConfigType::TypedConfig(config)) = filter.config_type else { panic!() };
        assert_eq!(config.type_url, JwtAuthentication::type_url());
        JwtAuthentication::decode(&config.value[..]).unwrap()
    });
    (config, problems)
}

fn rules(rules: &str) -> String {
    format!("{{metadata: {{name: r, namespace: ns}}, spec: {{jwtRules: [{rules}]}}}}")
}

/// The only provider, and the fields that are reported.
#[track_caller]
fn provider(rule: &str) -> (JwtProvider, Vec<String>) {
    let (config, problems) = config(&[&rules(rule)]);
    let config = config.unwrap();
    assert_eq!(config.providers.len(), 1);
    let fields = problems.into_iter().map(|problem| {
        assert!(problem.message.ends_with("no token of this issuer is accepted"));
        problem.field.strip_prefix("spec.jwtRules[0].").unwrap().to_string()
    });
    (config.providers["origins-0"].clone(), fields.collect())
}

fn inline(provider: &JwtProvider) -> &str {
    match &provider.jwks_source_specifier {
        Some(JwksSourceSpecifier::LocalJwks(DataSource { specifier: Some(Specifier::InlineString(text)), .. })) => text,
        other => panic!("{other:?}"),
    }
}

/// A requirement as text: `a | none` or `(a & b)`.
fn show(requirement: &JwtRequirement) -> String {
    let list = |all: &[JwtRequirement], between| {
        assert!(all.len() > 1, "Envoy wants no list of one");
        format!("({})", all.iter().map(show).collect::<Vec<_>>().join(between))
    };
    match requirement.requires_type.as_ref().unwrap() {
        Requires::ProviderName(name) => name.strip_prefix("origins-").unwrap().into(),
        Requires::AllowMissing(_) => "none".into(),
        Requires::RequiresAny(any) => list(&any.requirements, " | "),
        Requires::RequiresAll(all) => list(&all.requirements, " & "),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check_requirement(policies: &[&str], expected: &str) {
    let config = config(policies).0.unwrap();
    assert!(config.bypass_cors_preflight);
    let [RequirementRule { r#match: Some(matched), requirement_type: Some(RequirementType::Requires(requirement)) }] =
        &config.rules[..]
    else {
        panic!("{:?}", config.rules)
    };
    assert_eq!(matched.path_specifier, Some(PathSpecifier::Prefix("/".into())));
    assert_eq!(show(requirement), expected);
}

#[test]
fn every_field_of_a_rule() {
    let (provider, problems) = provider(
        "{issuer: me, audiences: [a, b], jwksUri: 'https://mesh/keys', timeout: 1m30s, forwardOriginalToken: true,
          fromHeaders: [{name: x-token, prefix: 'Bearer '}], fromParams: [p], fromCookies: [c],
          outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-sub, claim: a.sub}],
          spaceDelimitedClaims: [groups, scope]}",
    );
    assert_eq!(problems, [""; 0]);
    let JwtProvider { issuer, audiences, forward, from_params, from_cookies, .. } = &provider;
    assert_eq!((&**issuer, audiences.join(","), *forward), ("me", "a,b".into(), true));
    assert_eq!((from_params.join(","), from_cookies.join(",")), ("p".into(), "c".into()));
    let [JwtHeader { name, value_prefix }] = &provider.from_headers[..] else { panic!() };
    assert_eq!((&**name, &**value_prefix), ("x-token", "Bearer "));
    assert_eq!((&*provider.forward_payload_header, &*provider.payload_in_metadata), ("x-payload", "payload"));
    let [JwtClaimToHeader { header_name, claim_name, .. }] = &provider.claim_to_headers[..] else { panic!() };
    assert_eq!((&**header_name, &**claim_name), ("x-sub", "a.sub"));
    let delimited = provider.normalize_payload_in_metadata.unwrap().space_delimited_claims;
    assert_eq!(delimited, ["groups", "permission", "scope"]);
    assert!(provider.clear_route_cache);
    let Some(JwksSourceSpecifier::RemoteJwks(RemoteJwks { http_uri: Some(uri), cache_duration, .. })) =
        provider.jwks_source_specifier
    else {
        panic!()
    };
    assert_eq!((&*uri.uri, uri.timeout), ("https://mesh/keys", duration(Duration::from_secs(90))));
    assert_eq!(uri.http_upstream_type, Some(HttpUpstreamType::Cluster("outbound|443||mesh".into())));
    assert_eq!(cache_duration, duration(Duration::from_secs(300)));
}

#[test]
fn keys_come_from_the_rule_or_else_from_where_they_are() {
    let own = r#"{"keys":[{"kty":"oct","k":"b3du"}]}"#;
    let (both, problems) = provider(&format!("{{issuer: me, jwks: '{own}', jwksUri: 'https://mesh/keys'}}"));
    assert_eq!((inline(&both), problems), (own, vec![]));
    let (older, problems) = provider("{issuer: me, jwks_uri: 'https://world/keys'}");
    assert_eq!((inline(&older), problems), (KEYS, vec![]));
    let (nameless, problems) = provider("{jwksUri: 'https://world/keys'}");
    assert_eq!((inline(&nameless), problems), (KEYS, vec![]));
    let (discovered, problems) = provider("{issuer: 'https://found'}");
    assert_eq!((inline(&discovered), problems), (KEYS, vec![]));
    let (default, _) = provider("{issuer: me, jwksUri: 'https://mesh/keys'}");
    assert!(format!("{default:?}").contains("seconds: 5, "), "the timeout is that of Istio");
}

#[test]
fn what_cannot_be_honoured_believes_no_token() {
    let good = format!("issuer: me, jwks: '{KEYS}'");
    let broken = [
        ("issuer: me, jwks: '{\"keys\":[]}'".to_string(), "jwks"),
        ("issuer: me, jwks: '{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\"}]}'".into(), "jwks"),
        ("issuer: me, jwks: '{\"keys\":[{\"kty\":\"magic\"}]}'".into(), "jwks"),
        ("issuer: me, jwks: 'a key'".into(), "jwks"),
        ("issuer: me, jwksUri: 'https://broken/keys'".into(), "jwksUri"),
        ("issuer: me, jwksUri: 'https://gone/keys'".into(), "jwksUri"),
        ("issuer: me".into(), "jwksUri"),
        ("issuer: 'https://nowhere'".into(), "jwksUri"),
        (format!("jwks: '{KEYS}'"), "issuer"),
        (format!("{good}, audiences: ['']"), "audiences[0]"),
        (format!("{good}, fromParams: ['']"), "fromParams[0]"),
        (format!("{good}, fromCookies: [c, '']"), "fromCookies[1]"),
        (format!("{good}, fromHeaders: [{{name: 'a b'}}]"), "fromHeaders[0].name"),
        (format!("{good}, fromHeaders: [{{prefix: x}}]"), "fromHeaders[0].name"),
        (format!("{good}, outputPayloadToHeader: ':path'"), "outputPayloadToHeader"),
        (format!("{good}, outputClaimToHeaders: [{{header: h}}]"), "outputClaimToHeaders[0].claim"),
        (format!("{good}, outputClaimToHeaders: [{{claim: c}}]"), "outputClaimToHeaders[0].header"),
        (format!("{good}, spaceDelimitedClaims: ['']"), "spaceDelimitedClaims[0]"),
        (format!("{good}, timeout: soon"), "timeout"),
        (format!("{good}, timeout: 0s"), "timeout"),
        (format!("{good}, timeout: 9999999h"), "timeout"),
        ("issuer: me, jwksUri: 'ftp://mesh/keys'".into(), "jwksUri"),
        ("issuer: me, jwksUri: 'https://mesh/a key'".into(), "jwksUri"),
        (format!("{good}, presence: MAYBE"), "presence"),
        (format!("{good}, someday: x"), "someday"),
    ];
    for (rule, field) in broken {
        let (provider, problems) = provider(&format!("{{{rule}}}"));
        assert_eq!((inline(&provider), &problems[..]), (jwks::NONE, &[field.to_string()][..]), "{rule}");
    }
}

#[test]
fn requests_may_come_without_tokens() {
    let rule = |issuer: &str, more: &str| format!("{{issuer: {issuer}, jwks: '{KEYS}'{more}}}");
    let (a, b, c) = (rule("a", ""), rule("b", ""), rule("c", ""));
    check_requirement(&[&rules(&a)], "(0 | none)");
    check_requirement(&[&rules(&format!("{b}, {a}"))], "(0 | 1 | ((0 | none) & (1 | none)))");
    let required = ", presence: REQUIRED";
    check_requirement(&[&rules(&rule("a", required))], "0");
    let (a, b) = (rule("a", required), rule("b", required));
    check_requirement(&[&rules(&format!("{a}, {c}"))], "((0 & (1 | none)) | 0)");
    check_requirement(&[&rules(&format!("{a}, {b}, {c}"))], "((0 & 1 & (2 | none)) | (0 & 1))");
}

#[test]
fn providers_are_numbered_by_issuer_then_by_age_of_the_policy() {
    let policy = |name: &str, year: u16, issuers: &[&str]| {
        let rules: Vec<_> = issuers.iter().map(|issuer| format!("{{issuer: {issuer}, audiences: [{name}]}}")).collect();
        format!(
            "{{metadata: {{name: {name}, creationTimestamp: '{year}-01-01T00:00:00Z'}}, spec: {{jwtRules: [{}]}}}}",
            rules.join(", ")
        )
    };
    let (young, old) = (policy("a", 2026, &["same", "z"]), policy("b", 2025, &["same", "a"]));
    for policies in [[&*young, &*old], [&*old, &*young]] {
        let config = config(&policies).0.unwrap();
        let all = (0..4).map(|at| &config.providers[&format!("origins-{at}")]);
        let all: Vec<_> = all.map(|provider| format!("{}/{}", provider.issuer, provider.audiences[0])).collect();
        assert_eq!(all, ["a/b", "same/b", "same/a", "z/a"]);
    }
}

#[test]
fn without_rules_there_is_no_filter() {
    assert_eq!(config(&[]), (None, vec![]));
    assert_eq!(config(&[&rules("")]), (None, vec![]));
}

#[test]
fn cve_2026_31837_the_key_in_the_set_that_believes_nobody_is_a_hash() {
    assert_eq!(jwks::check(jwks::NONE), Ok(()));
    let hash = openssl::sha::sha256(jwks::NOBODY.as_bytes());
    let hash = openssl::base64::encode_block(&hash).replace('+', "-").replace('/', "_");
    assert!(jwks::NONE.contains(&format!(r#""x":"{}""#, hash.trim_end_matches('='))));
}

#[test]
fn sets_have_a_key_that_envoy_can_use() {
    let modulus = format!("w{}B", "A".repeat(170));
    let point =
        r#""x":"jnD0c-CHdSHbguLxRt_QFNY_g8IwbbLvfiO_mXRtCHY","y":"4AZ2-kL9s9doAKKGFujsSAchWk6aMhfsPRlsAbHSJjg""#;
    let edwards = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;
    let good = [
        format!(r#""kty":"RSA","n":"{modulus}","e":"AQAB","alg":"RS256","kid":"a","use":"sig""#),
        format!(r#""kty":"EC","crv":"P-256",{point}"#),
        edwards.to_string(),
        r#""kty":"oct","k":"AAAA""#.into(),
    ];
    let bad = [
        format!(r#""kty":"RSA","n":"{modulus}","e":"AQ""#),
        format!(r#""kty":"RSA","n":"{modulus}","e":"AQAB","alg":"ES256""#),
        format!(r#""kty":"RSA","n":"{modulus}","e":"AQAB","kid":1"#),
        format!(r#""kty":"RSA","n":"{}A","e":"AQAB""#, &modulus[1..]),
        r#""kty":"RSA","n":"AQAB","e":"AQAB""#.into(),
        format!(r#""kty":"EC","crv":"P-384",{point}"#),
        format!(r#""kty":"EC","crv":"P-256",{}"#, point.replace("4AZ2", "4AZ3")),
        edwards.replace("11qY", ""),
        r#""kty":"oct","k":"A+AA""#.into(),
        r#""kty":"oct""#.into(),
        r#""kty":"magic","k":"AAAA""#.into(),
        r#""k":"AAAA""#.into(),
    ];
    for key in &good {
        assert_eq!(jwks::check(&format!(r#"{{"keys":[{{{}}},{{{key}}}]}}"#, bad[0])), Ok(()), "{key}");
    }
    for key in &bad {
        assert!(jwks::check(&format!(r#"{{"keys":[{{{key}}}]}}"#)).is_err(), "{key}");
    }
}
