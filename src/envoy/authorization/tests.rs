mod bulletins;
mod evaluator;
mod fields;
mod random;
mod show;
mod specification;

use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as NetworkExtAuthz;

use super::provider::{HttpCheck, Protocol, RequestBody};
use super::*;
use crate::graph::Severity;
use evaluator::decode;

/// Names and configurations of the filters, in order, and the problems.
fn http(request: &Request<'_>, policies: &[&AuthorizationPolicy]) -> (Vec<(String, Any)>, Vec<Diagnostic>) {
    let Filters { custom, rules, problems } = http_filters(request, policies);
    let filters = custom.into_iter().chain(rules).map(|filter| match filter.config_type {
        Some(http_filter::ConfigType::TypedConfig(config)) => (filter.name, config),
        other => panic!("{other:?}"),
    });
    (filters.collect(), problems)
}

fn network(request: &Request<'_>, policies: &[&AuthorizationPolicy]) -> (Vec<(String, Any)>, Vec<Diagnostic>) {
    let Filters { custom, rules, problems } = network_filters(request, policies);
    let filters = custom.into_iter().chain(rules).map(|filter| match filter.config_type {
        Some(filter::ConfigType::TypedConfig(config)) => (filter.name, config),
        other => panic!("{other:?}"),
    });
    (filters.collect(), problems)
}

fn policy(yaml: &str) -> AuthorizationPolicy {
    crate::api::yaml(yaml).unwrap()
}

/// A waypoint of a mesh that was renamed from `old` to `new`.
fn with_request<T>(then: impl FnOnce(&Request<'_>) -> T) -> T {
    let asked = Provider { name: "asked".into(), service: "x/ask.x".into(), port: 9000, ..Default::default() };
    let web = HttpCheck { path_prefix: "/check".into(), ..Default::default() };
    let web = Provider { name: "web".into(), protocol: Protocol::Http(web), ..asked.clone() };
    let gone = Provider { name: "gone".into(), service: "gone.x".into(), ..asked.clone() };
    let twice = Provider { name: "twice".into(), ..asked.clone() };
    then(&Request {
        trust_domains: &["new".into(), "old".into()],
        identity: Identity::FilterState,
        knows_address: true,
        providers: &[asked, web, gone, twice.clone(), twice],
        cluster: &|service, port| (service == "x/ask.x").then(|| format!("outbound|{port}||ask.x")),
    })
}

/// The common part of both RBAC filters.
struct HttpOrNetwork {
    rules: Option<Rbac>,
    shadow_rules: Option<Rbac>,
    shadow_prefix: String,
}

fn rbac_of((name, config): &(String, Any)) -> HttpOrNetwork {
    match &**name {
        "envoy.filters.http.rbac" => {
            let HttpRbac { rules, shadow_rules, shadow_rules_stat_prefix: shadow_prefix, .. } = decode(config);
            HttpOrNetwork { rules, shadow_rules, shadow_prefix }
        }
        "envoy.filters.network.rbac" => {
            let NetworkRbac { rules, shadow_rules, shadow_rules_stat_prefix: shadow_prefix, stat_prefix, .. } =
                decode(config);
            assert_eq!(stat_prefix, "tcp.");
            HttpOrNetwork { rules, shadow_rules, shadow_prefix }
        }
        other => panic!("{other}"),
    }
}

/// Every filter as lines: its name, then what its rules say.
fn shown(filters: &[(String, Any)]) -> Vec<String> {
    let mut lines = Vec::new();
    for filter in filters {
        lines.push(filter.0.clone());
        match &*filter.0 {
            "envoy.filters.http.ext_authz" => {
                let config: ExtAuthz = decode(&filter.1);
                lines.push(show::metadata(&config.filter_enabled_metadata.unwrap()));
            }
            "envoy.filters.network.ext_authz" => {
                let config: NetworkExtAuthz = decode(&filter.1);
                assert_eq!(config.stat_prefix, "tcp.");
                lines.push(show::metadata(&config.filter_enabled_metadata.unwrap()));
            }
            _ => {
                let HttpOrNetwork { rules, shadow_rules, shadow_prefix } = rbac_of(filter);
                lines.extend(rules.iter().flat_map(show::rbac));
                if let Some(rules) = shadow_rules {
                    lines.push(format!("shadow {shadow_prefix}"));
                    lines.extend(show::rbac(&rules));
                }
            }
        }
    }
    lines
}

#[track_caller]
fn check(tcp: bool, policies: &[&str], expected: &[&str], reported: &[&str]) {
    let policies: Vec<_> = policies.iter().map(|yaml| policy(yaml)).collect();
    let policies: Vec<_> = policies.iter().collect();
    let (filters, problems) =
        with_request(|request| if tcp { network(request, &policies) } else { http(request, &policies) });
    assert_eq!(shown(&filters), expected);
    let fields: Vec<_> = problems.iter().map(|problem| format!("{} {}", problem.subject.name, problem.field)).collect();
    assert_eq!(fields, reported);
}

const GET: &str = "rules: [{to: [{operation: {ports: ['80']}}]}]";

fn named(name: &str, spec: &str) -> String {
    format!("{{metadata: {{name: {name}, namespace: ns}}, spec: {{{spec}}}}}")
}

#[test]
fn each_action_is_a_filter_of_its_own() {
    let policies = [
        named("allow", GET),
        named("audit", &format!("action: AUDIT, {GET}")),
        named("deny", &format!("action: DENY, {GET}")),
        named("custom", &format!("action: CUSTOM, provider: {{name: asked}}, {GET}")),
    ];
    let policies: Vec<_> = policies.iter().map(String::as_str).collect();
    let expected = |layer: &str| {
        [
            format!("envoy.filters.{layer}.rbac"),
            "shadow istio_ext_authz_".into(),
            "DENY".into(),
            "istio-ext-authz-asked-ns[ns]-policy[custom]-rule[0]: port 80 <- any".into(),
            format!("envoy.filters.{layer}.ext_authz"),
            format!("{layer}.rbac[istio_ext_authz_shadow_effective_policy_id] ^istio-ext-authz-asked"),
            format!("envoy.filters.{layer}.rbac"),
            "LOG".into(),
            "ns[ns]-policy[audit]-rule[0]: port 80 <- any".into(),
            format!("envoy.filters.{layer}.rbac"),
            "DENY".into(),
            "ns[ns]-policy[deny]-rule[0]: port 80 <- any".into(),
            format!("envoy.filters.{layer}.rbac"),
            "ALLOW".into(),
            "ns[ns]-policy[allow]-rule[0]: port 80 <- any".into(),
        ]
    };
    for (tcp, layer) in [(false, "http"), (true, "network")] {
        let expected = expected(layer);
        check(tcp, &policies, &expected.each_ref().map(String::as_str), &[]);
    }
}

#[test]
fn custom_filters_are_apart_so_that_tokens_fit_between() {
    let policies =
        [policy(&named("a", GET)), policy(&named("c", &format!("action: CUSTOM, provider: {{name: asked}}, {GET}")))];
    let filters = with_request(|request| http_filters(request, &[&policies[0], &policies[1]]));
    assert_eq!((filters.custom.len(), filters.rules.len()), (2, 1));
}

#[test]
fn no_policies_are_no_filters() {
    check(false, &[], &[], &[]);
}

#[test]
fn rules_are_counted_in_their_policy() {
    let three = "rules: [{to: [{operation: {ports: ['1']}}]}, {to: [{operation: {ports: [x]}}]}, {}]";
    let expected = [
        "envoy.filters.http.rbac",
        "ALLOW",
        "ns[ns]-policy[a]-rule[0]: port 1 <- any",
        "ns[ns]-policy[a]-rule[2]: any <- any",
    ];
    check(false, &[&named("a", three)], &expected, &["a spec.rules[1].to[0].operation.ports[0]"]);
}

#[test]
fn a_policy_without_rules_matches_nothing() {
    for (spec, action) in [("", "ALLOW"), ("rules: []", "ALLOW"), ("action: DENY", "DENY")] {
        let rule = "ns[ns]-policy[a]-rule[0]: !any <- !any";
        check(false, &[&named("a", spec)], &["envoy.filters.http.rbac", action, rule], &[]);
    }
}

#[test]
fn a_policy_that_lost_all_its_rules_allows_nothing() {
    let lost = named("a", "rules: [{to: [{operation: {methods: [GET]}}]}]");
    let reported = ["a spec.rules[0].to[0].operation.methods"];
    check(true, &[&lost], &["envoy.filters.network.rbac", "ALLOW"], &reported);
}

#[test]
fn an_action_that_is_not_known_refuses_everything() {
    let expected = ["envoy.filters.http.rbac", "DENY", "ns[ns]-policy[a]-rule[0]: any <- any"];
    check(false, &[&named("a", &format!("action: PERMIT, {GET}"))], &expected, &["a spec.action"]);
}

#[test]
fn a_field_that_is_not_known_narrows_the_policy() {
    let allow = named("a", &format!("unless: x, {GET}"));
    let expected = ["envoy.filters.http.rbac", "ALLOW", "ns[ns]-policy[a]-rule[0]: !any <- !any"];
    check(false, &[&allow], &expected, &["a spec.unless"]);
    let deny = named("a", &format!("action: DENY, unless: x, {GET}"));
    let expected = ["envoy.filters.http.rbac", "DENY", "ns[ns]-policy[a]-rule[0]: port 80 <- any"];
    check(false, &[&deny], &expected, &["a spec.unless"]);
}

fn tried(name: &str, value: &str, spec: &str) -> String {
    format!(
        "{{metadata: {{name: {name}, namespace: ns, annotations: {{istio.io/dry-run: '{value}'}}}}, spec: {{{spec}}}}}"
    )
}

#[test]
fn policies_that_are_tried_out_are_shadow_rules() {
    let expected = [
        "envoy.filters.http.rbac",
        "shadow istio_dry_run_deny_",
        "DENY",
        "ns[ns]-policy[d]-rule[0]: port 80 <- any",
        "envoy.filters.http.rbac",
        "ALLOW",
        "ns[ns]-policy[b]-rule[0]: port 80 <- any",
        "shadow istio_dry_run_allow_",
        "ALLOW",
        "ns[ns]-policy[a]-rule[0]: port 80 <- any",
    ];
    let policies =
        [tried("a", "true", GET), tried("b", "false", GET), tried("d", "1", &format!("action: DENY, {GET}"))];
    check(false, &policies.each_ref().map(String::as_str), &expected, &[]);
}

#[test]
fn only_allow_and_deny_can_be_tried_out() {
    let policies = [
        tried("a", "true", &format!("action: AUDIT, {GET}")),
        tried("c", "true", &format!("action: CUSTOM, provider: {{name: asked}}, {GET}")),
        tried("d", "maybe", &format!("action: DENY, {GET}")),
    ];
    let expected = ["envoy.filters.http.rbac", "DENY", "ns[ns]-policy[d]-rule[0]: port 80 <- any"];
    let field = "metadata.annotations[istio.io/dry-run]";
    let reported = ["a", "c", "d"].map(|name| format!("{name} {field}"));
    check(false, &policies.each_ref().map(String::as_str), &expected, &reported.each_ref().map(String::as_str));
}

#[test]
fn without_its_authorizer_a_policy_refuses_what_it_would_ask_about() {
    let providers = ["provider: {name: nobody}, ", "provider: {name: gone}, ", "provider: {name: twice}, ", ""];
    for (provider, name) in providers.into_iter().zip(["nobody-", "gone-", "twice-", ""]) {
        let rule =
            format!("istio-ext-authz-{name}ns[ns]-policy[a]-rule[0]-deny-due-to-bad-CUSTOM-action: port 80 <- any");
        let expected = ["envoy.filters.http.rbac", "DENY", &rule];
        check(false, &[&named("a", &format!("action: CUSTOM, {provider}{GET}"))], &expected, &["a spec.provider"]);
    }
}

#[test]
fn an_authorizer_that_speaks_http_cannot_decide_on_connections() {
    let web = named("a", &format!("action: CUSTOM, provider: {{name: web}}, {GET}"));
    let rule = "istio-ext-authz-web-ns[ns]-policy[a]-rule[0]-deny-due-to-bad-CUSTOM-action: port 80 <- any";
    check(true, &[&web], &["envoy.filters.network.rbac", "DENY", rule], &["a spec.provider"]);
}

#[test]
fn several_authorizers_are_all_asked() {
    let policies =
        ["web", "asked"].map(|name| named(name, &format!("action: CUSTOM, provider: {{name: {name}}}, {GET}")));
    let (filters, problems) = with_request(|request| {
        let policies = policies.each_ref().map(|yaml| policy(yaml));
        http(request, &policies.each_ref())
    });
    let lines = shown(&filters);
    assert_eq!(lines[5], "http.rbac[istio_ext_authz_shadow_effective_policy_id] ^istio-ext-authz-asked");
    assert_eq!(lines[11], "http.rbac[istio_ext_authz_shadow_effective_policy_id] ^istio-ext-authz-web");
    assert_eq!((lines.len(), problems), (12, vec![]));
}

#[test]
fn identities_of_gateways_are_in_certificates() {
    let policy = policy(&named("a", "rules: [{from: [{source: {principals: [a/b]}}]}]"));
    let request = Request {
        trust_domains: &[],
        identity: Identity::Certificate,
        knows_address: false,
        providers: &[],
        cluster: &|_, _| None,
    };
    let (filters, _) = http(&request, &[&policy]);
    assert_eq!(shown(&filters)[2], "ns[ns]-policy[a]-rule[0]: any <- san =spiffe://a/b");
}

#[test]
fn names_in_certificates_of_unknown_makers_prove_nothing() {
    let request = Request {
        trust_domains: &[],
        identity: Identity::Unverified,
        knows_address: false,
        providers: &[],
        cluster: &|_, _| None,
    };
    let lines = |source: &str, action: &str| {
        let policy = policy(&named("a", &format!("action: {action}, rules: [{{from: [{{source: {{{source}}}}}]}}]")));
        let (filters, problems) = http(&request, &[&policy]);
        assert_eq!(problems.len(), usize::from(!source.starts_with("ip")), "{source}");
        shown(&filters)
    };
    for source in
        ["principals: ['*']", "namespaces: [a]", "notPrincipals: [a/b]", "principals: [a/b], ipBlocks: [10.0.0.0/8]"]
    {
        let allowed = lines(source, "ALLOW");
        assert!(allowed.iter().all(|line| !line.contains("<-")), "{source}: {allowed:?}");
    }
    let denied = lines("notPrincipals: [a/b]", "DENY");
    assert!(denied.iter().any(|line| line.ends_with("any <- any")), "{denied:?}");
    let ranges = lines("ipBlocks: [10.0.0.0/8]", "ALLOW");
    assert!(ranges.iter().any(|line| line.contains("<-")), "{ranges:?}");
}

#[test]
fn problems_say_where_and_what_follows() {
    let policy = policy(&named("a", "rules: [{to: [{operation: {ports: [http]}}]}]"));
    let (_, problems) = with_request(|request| http(request, &[&policy]));
    let text = r#"AuthorizationPolicy ns/a: spec.rules[0].to[0].operation.ports[0]: "http" is not a port number; the rule allows nothing (InvalidValue)"#;
    assert_eq!(problems[0].to_string(), text);
    let (_, problems) = with_request(|request| {
        let policy = self::policy(&named("a", "rules: [{to: [{operation: {methods: [GET]}}]}]"));
        network(request, &[&policy])
    });
    assert_eq!(problems[0].severity, Severity::Warning);
}

/// The authorizer's filter for a provider.
fn asked(provider: Provider) -> Result<ExtAuthz, String> {
    let policy = policy(&named("a", &format!("action: CUSTOM, provider: {{name: asked}}, {GET}")));
    let providers = [Provider { name: "asked".into(), service: "x/ask.x".into(), port: 9000, ..provider }];
    let request = Request {
        trust_domains: &[],
        identity: Identity::FilterState,
        knows_address: true,
        providers: &providers,
        cluster: &|service, port| Some(format!("{service}:{port}")),
    };
    let (filters, problems) = http(&request, &[&policy]);
    match &filters[..] {
        [_, (name, config)] if name == "envoy.filters.http.ext_authz" => Ok(decode(config)),
        _ => Err(problems[0].message.clone()),
    }
}

#[test]
fn authorizers_over_grpc() {
    let provider = Provider {
        fail_open: true,
        status_on_error: "503".into(),
        timeout: Some(std::time::Duration::from_millis(1500)),
        clear_route_cache: true,
        request_body: Some(RequestBody { max_request_bytes: 7, allow_partial_message: true, pack_as_bytes: true }),
        ..Default::default()
    };
    let config = asked(provider).unwrap();
    assert!(config.failure_mode_allow && config.clear_route_cache);
    assert_eq!((config.status_on_error.unwrap().code, config.transport_api_version), (503, 2));
    let body = config.with_request_body.unwrap();
    assert_eq!((body.max_request_bytes, body.allow_partial_message, body.pack_as_bytes), (7, true, true));
    let text = format!("{:?}", config.services.unwrap());
    assert!(text.contains(r#"cluster_name: "x/ask.x:9000", authority: "ask.x""#), "{text}");
    assert!(text.contains("seconds: 1, nanos: 500000000"), "{text}");
    let text = format!("{:?}", asked(Provider::default()).unwrap());
    assert!(text.contains("seconds: 600"), "{text}");
}

#[test]
fn authorizers_over_http() {
    let check = HttpCheck {
        path_prefix: "/check".into(),
        include_request_headers: ["Authorization".into(), "x-*".into(), "*-id".into()].into(),
        include_additional_headers: [("z".into(), "1".into()), ("a".into(), "2".into())].into(),
        headers_to_upstream_on_allow: ["up".into()].into(),
        headers_to_downstream_on_deny: ["deny".into()].into(),
        headers_to_downstream_on_allow: ["allow".into()].into(),
    };
    let config = asked(Provider { protocol: Protocol::Http(check), ..Default::default() }).unwrap();
    let allowed = format!("{:?}", config.allowed_headers.as_ref().unwrap());
    for pattern in [r#"Exact("Authorization")"#, r#"Prefix("x-")"#, r#"Suffix("-id")"#] {
        assert!(allowed.contains(&format!("ignore_case: true, match_pattern: Some({pattern})")), "{allowed}");
    }
    let Some(envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services::HttpService(http)) =
        config.services
    else {
        panic!()
    };
    assert_eq!((&*http.path_prefix, &*http.server_uri.unwrap().uri), ("/check", "http://ask.x"));
    let added: Vec<_> =
        http.authorization_request.unwrap().headers_to_add.into_iter().map(|add| (add.key, add.value)).collect();
    assert_eq!(added, [("a".to_string(), "2".to_string()), ("z".into(), "1".into())]);
    let response = http.authorization_response.unwrap();
    for (headers, name) in [
        (response.allowed_upstream_headers, "up"),
        (response.allowed_client_headers, "deny"),
        (response.allowed_client_headers_on_success, "allow"),
    ] {
        assert_eq!(
            headers.unwrap().patterns,
            [matcher::exact(name)]
                .map(|one| { envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher { ignore_case: true, ..one } })
        );
    }
}

#[test]
fn settings_that_envoy_would_reject_make_an_authorizer_unusable() {
    let http = |check| Provider { protocol: Protocol::Http(check), ..Default::default() };
    let headers = || -> Box<[Arc<str>]> { ["*".into()].into() };
    let body = RequestBody::default();
    let broken = [
        (Provider { status_on_error: "teapot".into(), ..Default::default() }, "statusOnError"),
        (Provider { status_on_error: "0".into(), ..Default::default() }, "statusOnError"),
        (Provider { request_body: Some(body), ..Default::default() }, "maxRequestBytes"),
        (Provider { timeout: Some(std::time::Duration::ZERO), ..Default::default() }, "timeout"),
        (http(HttpCheck { path_prefix: "check".into(), ..Default::default() }), "pathPrefix"),
        (http(HttpCheck { include_request_headers: headers(), ..Default::default() }), "includeRequestHeadersInCheck"),
        (http(HttpCheck { headers_to_upstream_on_allow: headers(), ..Default::default() }), "headersToUpstreamOnAllow"),
        (
            http(HttpCheck { include_additional_headers: [("a b".into(), "".into())].into(), ..Default::default() }),
            "includeAdditionalHeadersInCheck",
        ),
    ];
    for (provider, field) in broken {
        let why = asked(provider).unwrap_err();
        assert!(why.contains(field) && why.ends_with("what it would be asked about is refused"), "{why}");
    }
}
