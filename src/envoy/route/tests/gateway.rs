use super::super::gateway_api::{self, Backends, Invalid, Lowered};
use super::*;
use crate::api::ObjectKey;
use crate::api::route::{BackendRef, GRPCRoute, HTTPRoute, TCPRoute, TLSRoute};

/// Every backend is there but `nobody`.
fn valid(backend: &BackendRef, _: &Destination) -> Result<(), Invalid> {
    match &*backend.name {
        "nobody" => Err(Invalid { reason: "BackendNotFound", message: "there is no such service".into() }),
        _ => Ok(()),
    }
}

const BACKENDS: Backends<'static> = Backends { namespace: "ns", domain: "local", valid: &valid };

fn generated(mut lowered: Vec<Lowered>, problems: &[Problem]) -> Vec<String> {
    gateway_api::sort(&mut lowered);
    let config_of = |one: &Lowered| format!("/apis/{}", one.route);
    let (routes, found) = gateway_api::routes(&request(Semantics::GatewayApi), &config_of, &lowered);
    let problems = problems.iter().chain(found.iter().map(|(_, problem)| problem));
    let problems = problems.map(|problem| format!("{} {}", problem.path("rules"), problem.reason));
    routes.iter().map(shown).chain(problems).collect()
}

#[track_caller]
fn http(rules: &str, wanted: &[&str]) {
    let route: HTTPRoute =
        yaml(&format!("{{metadata: {{name: r, namespace: ns}}, spec: {{rules: {rules}}}}}")).unwrap();
    let (lowered, problems) = gateway_api::http_rules(&route, &BACKENDS);
    assert_eq!(generated(lowered, &problems), wanted, "{rules}");
}

#[track_caller]
fn grpc(rules: &str, wanted: &[&str]) {
    let route: GRPCRoute =
        yaml(&format!("{{metadata: {{name: r, namespace: ns}}, spec: {{rules: {rules}}}}}")).unwrap();
    let (lowered, problems) = gateway_api::grpc_rules(&route, &BACKENDS);
    assert_eq!(generated(lowered, &problems), wanted, "{rules}");
}

const A: &str = "backendRefs: [{name: a, port: 80}]";
const A_CLUSTER: &str = "outbound|80||a.ns.svc.local";

#[test]
fn matches_are_those_of_whole_segments() {
    for (one, wanted) in [
        ("{path: {value: /}}", "prefix /"),
        ("{path: {value: /a}}", "segments /a"),
        ("{path: {type: PathPrefix, value: /a/}}", "segments /a"),
        ("{path: {type: Exact, value: /a/}}", "path /a/"),
        ("{path: {type: RegularExpression, value: '/a.*'}}", "regex /a.*"),
        (
            "{headers: [{name: X-A, value: '1'}, {name: x-a, value: '2'}, {type: RegularExpression, name: z, value: b+}]}",
            "prefix /; x-a = exact 1; z = regex b+",
        ),
        ("{queryParams: [{name: q, value: '1'}], method: GET}", "prefix /; :method = exact GET; ?q = exact 1"),
    ] {
        http(&format!("[{{matches: [{one}], {A}}}]"), &[&format!("{wanted} => {A_CLUSTER}")]);
    }
    for (one, field, reason) in [
        ("{path: {type: Glob, value: /a}}", "path.type", "UnsupportedValue"),
        ("{path: {value: /a?b}}", "path.prefix", "InvalidValue"),
        ("{path: {type: RegularExpression, value: '('}}", "path.regex", "InvalidRegex"),
        ("{headers: [{name: a, value: b, invert: true}]}", "headers[0].invert", "UnknownField"),
        ("{headers: [{type: Nearly, name: a, value: b}]}", "headers[0].type", "UnsupportedValue"),
        ("{clientIp: a}", "clientIp", "UnknownField"),
    ] {
        http(&format!("[{{matches: [{one}], {A}}}]"), &[&format!("rules[0].matches[0].{field} {reason}")]);
    }
}

#[test]
fn the_more_specific_comes_first() {
    let paths = "[{matches: [{path: {value: /}}, {path: {value: /longer}, method: GET}, {path: {type: RegularExpression, value: '/reg.*'}}, {path: {value: /longer}}, {path: {value: /long}}, {path: {type: Exact, value: /e}}], backendRefs: [{name: a, port: 80}]}]";
    let line = |path: &str| format!("{path} => {A_CLUSTER}");
    let wanted = ["path /e", "segments /longer; :method = exact GET", "segments /longer", "segments /long", "prefix /"]
        .map(line);
    // What no request can reach any more is not sent.
    http(paths, &wanted.iter().map(String::as_str).collect::<Vec<_>>());

    let one = |name: &str, created, matches: &str| Lowered {
        route: ObjectKey::new("ns", name),
        created,
        rule: 0,
        position: 0,
        http: HttpRoute { name: name.into(), matches: yaml(matches).unwrap(), ..HttpRoute::default() },
    };
    let order = |mut all: Vec<Lowered>| {
        gateway_api::sort(&mut all);
        all.iter().map(|one| one.route.name.to_string()).collect::<Vec<_>>()
    };
    let header = "[{uri: {prefix: /}, headers: {a: {exact: b}}}]";
    let query = "[{uri: {prefix: /}, queryParams: {a: {exact: b}}}]";
    let all = vec![
        one("none", 0, "[]"),
        one("younger", 2, "[{uri: {prefix: /}}]"),
        one("query", 9, query),
        one("b", 1, "[{uri: {prefix: /}}]"),
        one("a", 1, "[{uri: {prefix: /}}]"),
        one("header", 9, header),
    ];
    assert_eq!(order(all), ["header", "query", "a", "b", "younger", "none"]);
}

#[test]
fn filters_have_their_effect() {
    for (filters, wanted) in [
        (
            "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: '1'}], add: [{name: b, value: '2'}], remove: [c]}}, {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [d]}}",
            "outbound|80||a.ns.svc.local; request a=1 b+=2 -c; response -d",
        ),
        (
            "{type: URLRewrite, urlRewrite: {hostname: h, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b/}}}",
            "outbound|80||a.ns.svc.local; prefix becomes /b; host h",
        ),
        (
            "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}",
            r"outbound|80||a.ns.svc.local; ^/x\.y(/?)(.*) becomes /\2",
        ),
        (
            r"{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/a\1'}}}",
            r"outbound|80||a.ns.svc.local; ^/.* becomes /a\\1",
        ),
        (
            "{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 81}, fraction: {numerator: 1, denominator: 8}}}",
            "outbound|80||a.ns.svc.local; mirror outbound|81||m.ns.svc.local 125000/Million",
        ),
        (
            "{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 81}, percent: 0}}",
            "outbound|80||a.ns.svc.local",
        ),
        (
            "{type: RequestRedirect, requestRedirect: {hostname: h, path: {type: ReplaceFullPath, replaceFullPath: /z}}}",
            "redirect 1 h /z",
        ),
        ("{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}", "redirect 0 https "),
        (
            "{type: RequestRedirect, requestRedirect: {port: 8080, path: {type: ReplacePrefixMatch, replacePrefixMatch: /z}}}",
            "redirect 1 :8080 prefix /z",
        ),
        (
            "{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}",
            r"redirect 1 ^/x\.y(/?)(.*) becomes /\2",
        ),
    ] {
        let backends = if filters.contains("Redirect") { "backendRefs: []" } else { A };
        http(
            &format!("[{{matches: [{{path: {{value: /x.y}}}}], filters: [{filters}], {backends}}}]"),
            &[&format!("segments /x.y => {wanted}")],
        );
    }
}

#[test]
fn a_filter_that_cannot_be_honoured_is_an_error() {
    for (filter, field) in [
        ("{type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}", "filters[0].type"),
        ("{type: Novel}", "filters[0].type"),
        ("{type: RequestRedirect}", "filters[0].type"),
        ("{type: URLRewrite, urlRewrite: {path: {type: Novel}}}", "filters[0].path"),
    ] {
        http(
            &format!("[{{filters: [{filter}], {A}}}]"),
            &["prefix / => respond 500", &format!("rules[0].{field} UnsupportedValue")],
        );
    }
    // So is one that Envoy would not take.
    let filter = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: '50%'}]}}";
    http(&format!("[{{filters: [{filter}], {A}}}]"), &["prefix / => respond 500", "rules[0].filters InvalidValue"]);
    grpc(
        "[{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}], backendRefs: [{name: a, port: 80}]}]",
        &["prefix / => respond 500", "rules[0].filters[0].type UnsupportedValue"],
    );
    // Except for copies, without which the request is the same.
    let filter = "{type: RequestMirror, requestMirror: {backendRef: {name: nobody, port: 80}}}";
    let field = "rules[0].filters[0].requestMirror.backendRef BackendNotFound";
    http(&format!("[{{filters: [{filter}], {A}}}]"), &[&format!("prefix / => {A_CLUSTER}"), field]);
}

#[test]
fn cors_knows_wildcards() {
    let route: HTTPRoute = yaml("spec: {rules: [{filters: [{type: CORS, cors: {allowOrigins: ['*', 'https://*.a.b', 'https://c', 'https://d:*'], maxAge: 5}}], backendRefs: [{name: a, port: 80}]}]}").unwrap();
    let (lowered, problems) = gateway_api::http_rules(&route, &BACKENDS);
    let (routes, found) = gateway_api::routes(&request(Semantics::GatewayApi), &|_| String::new(), &lowered);
    assert!(problems.is_empty() && found.is_empty(), "{problems:?} {found:?}");
    let cors: CorsPolicy = filter_config(&routes[0], "envoy.filters.http.cors");
    let origins = format!("{:?}", cors.allow_origin_string_match);
    for wanted in
        [r"[a-zA-Z][a-zA-Z0-9+.-]*://", r"https://[^/?#]*\\.a\\.b", r#"Exact("https://c")"#, r#"Prefix("https://d:")"#]
    {
        assert!(origins.contains(wanted), "{wanted} in {origins}");
    }
    assert_eq!((&*cors.max_age, cors.forward_not_matching_preflights.unwrap().value), ("5", false));
}

#[test]
fn a_backend_that_is_not_valid_keeps_its_share() {
    http(
        "[{backendRefs: [{name: a, port: 80, weight: 3}, {name: nobody, port: 80}, {name: b, port: 80, weight: 0}]}]",
        &["prefix / => 3 outbound|80||a.ns.svc.local, 1 UnknownService", "rules[0].backendRefs[1] BackendNotFound"],
    );
    for (backend, reason) in [
        ("{name: a}", "BackendNotFound"),
        ("{name: a.b, port: 80}", "BackendNotFound"),
        ("{group: x, kind: Novel, name: a, port: 80}", "InvalidKind"),
    ] {
        http(
            &format!("[{{backendRefs: [{backend}]}}]"),
            &["prefix / => UnknownService", &format!("rules[0].backendRefs[0] {reason}")],
        );
    }
    for refs in ["[]", "[{name: a, port: 80, weight: 0}]"] {
        http(&format!("[{{backendRefs: {refs}}}]"), &["prefix / => respond 500"]);
    }
    http(
        "[{backendRefs: [{group: networking.istio.io, kind: Hostname, name: x.y, port: 443}]}]",
        &["prefix / => outbound|443||x.y"],
    );
    http("[{backendRefs: [{name: a, namespace: other, port: 80}]}]", &["prefix / => outbound|80||a.other.svc.local"]);
    http(
        "[{backendRefs: [{name: a, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: '1'}]}}]}, {name: b, port: 80, filters: [{type: URLRewrite, urlRewrite: {}}]}]}]",
        &[
            "prefix / => 1 outbound|80||a.ns.svc.local (request x=1), 1 UnknownService",
            "rules[0].backendRefs[1].filters[0].type UnsupportedValue",
        ],
    );
    let (routes, _) = routes(&request(Semantics::GatewayApi), &yaml::<Vec<HttpRoute>>("[{route: [{}]}]").unwrap());
    let Some(Action::Route(action)) = &routes[0].action else { panic!("{routes:?}") };
    assert_eq!(action.cluster_not_found_response_code().as_str_name(), "INTERNAL_SERVER_ERROR");
}

#[test]
fn times_and_retries() {
    let lowered = |rule: &str| {
        let route: HTTPRoute =
            yaml(&format!("{{metadata: {{name: r, namespace: ns}}, spec: {{rules: [{{{rule}}}]}}}}")).unwrap();
        gateway_api::http_rules(&route, &BACKENDS).0.remove(0).http
    };
    let millis = |millis| Some(std::time::Duration::from_millis(millis));
    assert_eq!(lowered("timeouts: {request: 10s}").timeout, millis(10_000));
    assert_eq!(lowered("timeouts: {request: 0s}").timeout, None);
    assert_eq!(lowered("timeouts: {request: 10s, backendRequest: 1s}").timeout, millis(1000));
    let http = lowered("name: n, timeouts: {request: 10s, backendRequest: 1s}, retry: {codes: [503], backoff: 5ms}");
    let retries = http.retries.unwrap();
    assert_eq!(
        (&*http.name, http.timeout, retries.per_try_timeout, retries.backoff),
        ("n", millis(10_000), millis(1000), millis(5))
    );
    assert_eq!((retries.attempts, &*retries.retry_on), (2, "connect-failure,refused-stream,unavailable,cancelled,503"));
    assert_eq!(lowered("retry: {attempts: 0}").retries.unwrap().attempts, 0);
    assert_eq!(&*lowered("").name, "ns.r.0");
}

#[test]
fn grpc_methods_are_paths() {
    for (one, wanted) in [
        ("{method: {service: a.B, method: C}}", "path /a.B/C"),
        ("{method: {service: a.B}}", "segments /a.B"),
        ("{method: {method: C.d}}", r"regex /[^/]+/C\.d"),
        ("{method: {type: RegularExpression, service: 'a|b', method: c}}", "regex /(?:a|b)/(?:c)"),
        ("{method: {type: RegularExpression, service: a}}", "regex /(?:a)/.+"),
        ("{headers: [{name: x, value: '1'}]}", "prefix /; x = exact 1"),
    ] {
        grpc(&format!("[{{matches: [{one}], {A}}}]"), &[&format!("{wanted} => {A_CLUSTER}")]);
    }
    grpc(&format!("[{{matches: [{{method: {{}}}}], {A}}}]"), &["rules[0].matches[0].method UnsupportedValue"]);
}

#[test]
fn connections_have_shares_too() {
    let hosts = |route: &[crate::api::virtual_service::RouteDestination]| {
        route.iter().map(|one| format!("{} {}", one.weight, one.destination.host)).collect::<Vec<_>>()
    };
    let route: TCPRoute = yaml("spec: {rules: [{backendRefs: [{name: a, port: 1, weight: 2}, {name: nobody, port: 1}, {name: b, port: 1, weight: 0}]}]}").unwrap();
    let (rule, problems) = gateway_api::tcp_rule(&route, &BACKENDS);
    assert_eq!(hosts(&rule.unwrap().route), ["2 a.ns.svc.local", "1 "]);
    assert_eq!(problems[0].path("spec.rules"), "spec.rules[0].backendRefs[1]");
    let route: TCPRoute = yaml("spec: {rules: [{}]}").unwrap();
    assert_eq!(hosts(&gateway_api::tcp_rule(&route, &BACKENDS).0.unwrap().route), ["0 "]);
    let route: TLSRoute = yaml("spec: {hostnames: [a.b], rules: [{backendRefs: [{name: a, port: 1}]}]}").unwrap();
    let rule = gateway_api::tls_rule(&route, &BACKENDS).0.unwrap();
    assert_eq!((&*rule.matches[0].sni_hosts[0], hosts(&rule.route)), ("a.b", vec!["1 a.ns.svc.local".to_owned()]));
    assert_eq!(gateway_api::tcp_rule(&TCPRoute::default(), &BACKENDS).0, None);
}

#[test]
fn unknown_fields_are_said() {
    http(&format!("[{{novel: 1, {A}}}]"), &[&format!("prefix / => {A_CLUSTER}"), "rules[0].novel UnknownField"]);
}

#[test]
fn sessions_are_kept_as_far_as_an_envoy_can() {
    // Rules for one host must not take each other's sessions for theirs.
    let of_rule = format!("session-{:016x}", rapidhash::v3::rapidhash_v3(b"ns/r/0"));
    for (given, session, problems) in [
        ("{}", &*format!("cookie {of_rule} /"), &[][..]),
        ("{sessionName: s, type: Cookie, cookieConfig: {lifetimeType: Session}}", "cookie s /", &[]),
        ("{sessionName: s, absoluteTimeout: 1m500ms, cookieConfig: {lifetimeType: Permanent}}", "cookie s / 61s", &[]),
        ("{sessionName: x-s, type: Header}", "header x-s", &[]),
        ("{sessionName: s, idleTimeout: 1h}", "cookie s /", &[".idleTimeout UnsupportedValue"]),
        ("{sessionName: s, absoluteTimeout: 1h}", "cookie s /", &[".absoluteTimeout UnsupportedValue"]),
        ("{sessionName: s, type: Header, absoluteTimeout: 1h}", "header s", &[".absoluteTimeout UnsupportedValue"]),
        ("{sessionName: s, cookieConfig: {lifetimeType: Permanent}}", "cookie s /", &[".absoluteTimeout InvalidValue"]),
        (
            "{sessionName: s, cookieConfig: {lifetimeType: Eternal}}",
            "cookie s /",
            &[".cookieConfig.lifetimeType UnsupportedValue"],
        ),
        ("{sessionName: 'a b'}", "", &[".sessionName InvalidValue"]),
        ("{sessionName: ':path', type: Header}", "", &[".sessionName InvalidValue"]),
        ("{sessionName: s, type: Query}", "", &[".type UnsupportedValue"]),
        ("{sessionName: s, novel: 1}", "cookie s /", &[".novel UnknownField"]),
    ] {
        let kept = if session.is_empty() { String::new() } else { format!("; session {session}") };
        let route = format!("prefix / => {A_CLUSTER}{kept}");
        let problems = problems.iter().map(|problem| format!("rules[0].sessionPersistence{problem}"));
        let wanted: Vec<_> = std::iter::once(route).chain(problems).collect();
        let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
        http(&format!("[{{sessionPersistence: {given}, {A}}}]"), &wanted);
        grpc(&format!("[{{sessionPersistence: {given}, {A}}}]"), &wanted);
    }
    http(
        "[{sessionPersistence: {sessionName: s}, backendRefs: [{name: a, port: 80}, {name: b, port: 80}]}]",
        &[
            "prefix / => 1 outbound|80||a.ns.svc.local, 1 outbound|80||b.ns.svc.local; session cookie s /",
            "rules[0].sessionPersistence UnsupportedValue",
        ],
    );
    http("[{sessionPersistence: {}, backendRefs: []}]", &["prefix / => respond 500"]);
}

proptest! {
    #[test]
    fn no_route_panics(rules in prop::collection::vec(value(5), 0..3)) {
        let spec = serde_json::json!({ "metadata": { "name": "a" }, "spec": { "rules": rules } });
        if let Ok(route) = serde_json::from_value::<HTTPRoute>(spec.clone()) {
            let (lowered, problems) = gateway_api::http_rules(&route, &BACKENDS);
            generated(lowered, &problems);
        }
        if let Ok(route) = serde_json::from_value::<GRPCRoute>(spec) {
            let (lowered, problems) = gateway_api::grpc_rules(&route, &BACKENDS);
            generated(lowered, &problems);
        }
    }
}
