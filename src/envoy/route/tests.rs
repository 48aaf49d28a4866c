//! Rules as YAML in, routes as lines of text out: what matches, then what is
//! done.

mod delegates;
mod gateway;
mod shown;

use std::collections::BTreeSet;

use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use proptest::prelude::*;
use prost::{Message, Name};

use super::*;
use crate::api::destination_rule::{HashKey, HttpCookie};
use crate::api::yaml;
use shown::shown;

/// A cluster with the destination's own names; `sticky` hosts have a hash.
fn cluster_of(destination: &Destination) -> ClusterRef {
    let Destination { host, subset, port } = destination;
    let port = port.map_or(80, |port| port.number);
    let key = (**host == *"sticky").then(|| HashKey::HeaderName("x-user".into()));
    let consistent_hash = key.map(|key| ConsistentHash { key: Some(key), ..ConsistentHash::default() });
    ClusterRef { name: format!("outbound|{port}|{subset}|{host}"), consistent_hash, session: None }
}

fn request(semantics: Semantics) -> RouteRequest<'static> {
    RouteRequest {
        config: "/apis/networking.istio.io/v1/namespaces/ns/virtual-service/name",
        name: "name",
        semantics,
        port: 80,
        clients: Clients::Mesh,
        tls: false,
        append_x_forwarded_host: false,
        default_retry: None,
        cluster_of: &cluster_of,
    }
}

fn made(text: &str) -> (Vec<Route>, Vec<Problem>) {
    routes(&request(Semantics::Istio), &yaml::<Vec<HttpRoute>>(text).unwrap())
}

/// The lines of routes, then those of problems.
fn lines(routes: &[Route], problems: &[Problem]) -> Vec<String> {
    let problems = problems.iter().map(|problem| format!("{} {}", problem.path("http"), problem.reason));
    routes.iter().map(shown).chain(problems).collect()
}

#[track_caller]
fn check(text: &str, wanted: &[&str]) {
    let (routes, problems) = made(text);
    assert_eq!(lines(&routes, &problems), wanted, "{text}");
}

fn filter_config<M: Message + Name + Default>(route: &Route, filter: &str) -> M {
    let config = &route.typed_per_filter_config[filter];
    assert_eq!(config.type_url, format!("type.googleapis.com/{}", M::full_name()));
    M::decode(&*config.value).unwrap()
}

#[test]
fn a_rule_without_a_match_ends_the_list() {
    check(
        "[{route: [{destination: {host: a}}]}, {route: [{destination: {host: b}}]}]",
        &["prefix / => outbound|80||a"],
    );
    check(
        "[{match: [{uri: {prefix: /}}, {uri: {prefix: /x}}], route: [{destination: {host: a}}]}, {redirect: {uri: /b}}]",
        &["prefix / => outbound|80||a"],
    );
    check(
        "[{match: [{uri: {regex: '.*'}, port: 81}], redirect: {uri: /a}}, {redirect: {uri: /b}}]",
        &["prefix / => redirect 0 /b"],
    );
    // What is refused was still meant to match all.
    check(
        "[{redirect: {redirectCode: 306}}, {redirect: {uri: /b}}]",
        &["http[0].redirect.redirectCode UnsupportedValue"],
    );
}

#[test]
fn what_is_common_to_all_routes() {
    let (routes, _) =
        made("[{name: r, match: [{name: m, uri: {exact: /a}, statPrefix: s}], route: [{destination: {host: a}}]}]");
    let [route] = &*routes else { panic!("{routes:#?}") };
    assert_eq!((&*route.name, &*route.stat_prefix), ("r.m", "s"));
    assert_eq!(route.decorator.as_ref().unwrap().operation, "a:80/a");
    let metadata = &route.metadata.as_ref().unwrap().filter_metadata["istio"].fields["config"];
    let path = "/apis/networking.istio.io/v1/namespaces/ns/virtual-service/name";
    assert_eq!(metadata.kind, Some(Kind::StringValue(path.into())));
    let Some(Action::Route(action)) = &route.action else { panic!("{route:#?}") };
    #[expect(deprecated, reason = "Istio's choice")]
    let grpc = action.max_grpc_timeout;
    assert_eq!((action.timeout, grpc), (duration(Default::default()), duration(Default::default())));
    let retry = action.retry_policy.as_ref().unwrap();
    assert_eq!(retry.retry_on, "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes");
    assert_eq!((retry.num_retries.unwrap().value, retry.host_selection_retry_max_attempts), (2, 5));
    assert_eq!(retry.retry_host_predicate[0].name, "envoy.retry_host_predicates.previous_hosts");
    let (routes, _) = made("[{redirect: {uri: /x}}]");
    assert_eq!(routes[0].decorator.as_ref().unwrap().operation, "name:80/*");
}

#[test]
fn matches_keep_every_condition() {
    let rule = |matches: &str| format!("[{{match: [{matches}], route: [{{destination: {{host: a}}}}]}}]");
    for (matches, wanted) in [
        ("{uri: {exact: /a}}", "path /a"),
        ("{uri: {prefix: /a}}", "prefix /a"),
        ("{uri: {prefix: ''}, method: {exact: GET}}", "prefix ; :method = exact GET"),
        ("{uri: {regex: '/a/[0-9]+'}}", "regex /a/[0-9]+"),
        ("{uri: {prefix: /a}, ignoreUriCase: true}", "prefix /a; any case"),
        (
            "{scheme: {exact: https}, method: {regex: GET|HEAD}, authority: {prefix: a.}, headers: {z: {exact: '1'}, a: {}}}",
            "prefix /; a; z = exact 1; :method = regex GET|HEAD; :authority = prefix a.; :scheme = exact https",
        ),
        (
            "{headers: {a: {regex: '*'}}, withoutHeaders: {b: {}, c: {exact: d}}}",
            "prefix /; a; not b; not c = exact d or missing",
        ),
        ("{queryParams: {q: {exact: '1'}, p: {}}}", "prefix /; ?p; ?q = exact 1"),
        (
            "{headers: {'@request.auth.claims[group][id]': {exact: a}, '@request.auth.claims.sub': {}}}",
            "prefix /; claim payload.sub; claim payload.group.id = exact a",
        ),
        ("{withoutHeaders: {'@request.auth.claims.iss': {prefix: x}}}", "prefix /; not claim payload.iss = prefix x"),
        ("{port: 80, gateways: [x/y, mesh], uri: {exact: /a}}", "path /a"),
        ("{sourceNamespace: a}", "prefix /; caller with /ns/a/"),
    ] {
        check(&rule(matches), &[&format!("{wanted} => outbound|80||a")]);
    }
    for elsewhere in ["{port: 81}", "{gateways: [x/y]}"] {
        check(&rule(elsewhere), &[]);
    }
}

#[test]
fn rules_for_other_ports_and_gateways_are_as_if_they_were_not_there() {
    let applies = |text: &str| super::applies(&Clients::Mesh, 80, &yaml::<Vec<HttpRoute>>(text).unwrap());
    assert!(applies("[{match: [{port: 81}]}, {match: [{port: 80}]}]"));
    assert!(applies("[{match: [{port: 81}]}, {}]"));
    assert!(!applies("[{match: [{port: 81}, {gateways: [x/y]}, {sourceLabels: {a: b}}]}]"));
    assert!(!applies("[]"));
    // What says which callers it is for does not end the list.
    check(
        "[{match: [{sourceNamespace: a}], redirect: {uri: /a}}, {redirect: {uri: /b}}]",
        &["prefix /; caller with /ns/a/ => redirect 0 /a", "prefix / => redirect 0 /b"],
    );
}

#[test]
fn a_match_that_cannot_be_expressed_is_left_out() {
    let long = "a".repeat(1025);
    for (matches, field, reason) in [
        ("{sourceLabels: {a: b}}", "sourceLabels", "UnsupportedValue"),
        ("{clientIp: 10.0.0.1}", "clientIp", "UnknownField"),
        ("{uri: {suffix: a}}", "uri", "UnknownField"),
        ("{uri: {regex: '(?=a)'}}", "uri.regex", "InvalidRegex"),
        ("{uri: {regex: ''}}", "uri.regex", "InvalidRegex"),
        (&format!("{{uri: {{regex: {long}}}}}"), "uri.regex", "InvalidRegex"),
        ("{headers: {a: {prefix: ''}}}", "headers[a].prefix", "InvalidValue"),
        ("{headers: {'': {exact: a}}}", "headers[]", "InvalidValue"),
        ("{headers: {'a b': {exact: a}}}", "headers[a b]", "InvalidValue"),
        ("{headers: {'@request.auth.claims[a': {exact: a}}}", "headers[@request.auth.claims[a]", "InvalidValue"),
        ("{headers: {'@request.auth.claims.a..b': {exact: a}}}", "headers[@request.auth.claims.a..b]", "InvalidValue"),
        ("{withoutHeaders: {a: {exact: b, prefix: c}}}", "withoutHeaders[a]", "UnknownField"),
        ("{queryParams: {'': {}}}", "queryParams[]", "InvalidValue"),
        ("{method: {regex: '['}}", "method.regex", "InvalidRegex"),
    ] {
        let text = format!("[{{match: [{matches}, {{uri: {{exact: /b}}}}], route: [{{destination: {{host: a}}}}]}}]");
        check(&text, &["path /b => outbound|80||a", &format!("http[0].match[0].{field} {reason}")]);
        let text =
            format!("[{{match: [{matches}], route: [{{destination: {{host: a}}}}]}}, {{redirect: {{uri: /c}}}}]");
        check(&text, &["prefix / => redirect 0 /c", &format!("http[0].match[0].{field} {reason}")]);
    }
}

#[test]
fn destinations_have_clusters_and_weights() {
    for (rule, wanted) in [
        ("route: [{destination: {host: a, subset: v1, port: {number: 81}}, weight: 0}]", "outbound|81|v1|a"),
        (
            "route: [{destination: {host: a}, weight: 90}, {destination: {host: b}, weight: 10}, {destination: {host: c}}]",
            "90 outbound|80||a, 10 outbound|80||b",
        ),
        (
            "headers: {request: {set: {x: '1', host: h}, add: {y: '2'}, remove: [z]}}, route: [{destination: {host: a}, headers: {request: {add: {w: '3', host: i}}, response: {remove: [v]}}}]",
            "outbound|80||a; host h; request x=1 y+=2 w+=3 -z; response -v",
        ),
        (
            "route: [{destination: {host: a}, weight: 1, headers: {request: {set: {':authority': h, w: '1'}}}}, {destination: {host: b}, weight: 1}]",
            "1 outbound|80||a (host h; request w=1), 1 outbound|80||b",
        ),
        (
            "rewrite: {uri: /b, authority: c}, route: [{destination: {host: a}}]",
            "outbound|80||a; prefix becomes /b; host c",
        ),
        (
            r"rewrite: {uriRegexRewrite: {match: '^/(a|b)/(.*)', rewrite: '/\2/\1'}}, route: [{destination: {host: a}}]",
            r"outbound|80||a; ^/(a|b)/(.*) becomes /\2/\1",
        ),
        ("timeout: 1.5s, route: [{destination: {host: a}}]", "outbound|80||a; timeout 1.5s"),
        ("mirror: {host: b}, route: [{destination: {host: a}}]", "outbound|80||a; mirror outbound|80||b 100/Hundred"),
        (
            "mirror: {host: b}, mirrorPercent: 7, mirrors: [{destination: {host: c}, percentage: {value: 0.29}}, {destination: {host: d}, percentage: {value: 0}}], route: [{destination: {host: a}}]",
            "outbound|80||a; mirror outbound|80||b 7/Hundred; mirror outbound|80||c 2900/Million",
        ),
        ("route: [{destination: {host: sticky}}]", "outbound|80||sticky; hash x-user"),
        (
            "route: [{destination: {host: sticky}, weight: 1}, {destination: {host: a}, weight: 1}]",
            "1 outbound|80||sticky, 1 outbound|80||a; hash x-user",
        ),
    ] {
        check(&format!("[{{{rule}}}]"), &[&format!("prefix / => {wanted}")]);
    }
}

#[test]
fn answers_in_place() {
    for (rule, wanted) in [
        ("redirect: {uri: /x, authority: a.b, redirectCode: 302}", "redirect 1 a.b /x"),
        ("redirect: {scheme: https, port: 8443}", "redirect 0 https :8443 "),
        ("redirect: {scheme: https, port: 443}", "redirect 0 https "),
        ("redirect: {authority: a, derivePort: FROM_REQUEST_PORT}", "redirect 0 a "),
        ("redirect: {scheme: https, derivePort: FROM_REQUEST_PORT, redirectCode: 308}", "redirect 4 https :80 "),
        ("redirect: {prefixRewrite: /y, redirectCode: 307}", "redirect 3 prefix /y"),
        ("directResponse: {status: 503, body: {string: busy}}", "respond 503 busy"),
        ("directResponse: {status: 200, body: {bytes: aGk=}}", "respond 200 [104, 105]"),
        ("directResponse: {status: 404}", "respond 404"),
    ] {
        check(&format!("[{{{rule}}}]"), &[&format!("prefix / => {wanted}")]);
    }
}

#[test]
fn what_envoy_would_refuse_costs_its_rule() {
    let route = "route: [{destination: {host: a}}]";
    let body = format!("directResponse: {{status: 200, body: {{string: '{}'}}}}", "x".repeat(1024 * 1024 + 1));
    for (rule, field, reason) in [
        ("", "route", "InvalidValue"),
        ("route: [{destination: {host: a}}, {destination: {host: b}}]", "route", "InvalidValue"),
        ("route: [{destination: {host: a}, weight: -1}, {destination: {host: b}}]", "route[0].weight", "InvalidValue"),
        ("route: [{destination: {subset: v1}}]", "route[0].destination.host", "InvalidValue"),
        ("delegate: {name: a}", "delegate", "InvalidReference"),
        ("redirect: {redirectCode: 200}", "redirect.redirectCode", "UnsupportedValue"),
        ("redirect: {port: 65536}", "redirect.port", "InvalidValue"),
        ("redirect: {scheme: ftp}", "redirect.scheme", "InvalidValue"),
        (r#"redirect: {uri: "/a\nb"}"#, "redirect.uri", "InvalidValue"),
        ("directResponse: {status: 100}", "directResponse.status", "InvalidValue"),
        (&body, "directResponse.body", "InvalidValue"),
        (
            &format!("{route}, headers: {{request: {{set: {{':path': /}}}}}}"),
            "headers.request.set[:path]",
            "InvalidValue",
        ),
        (&format!("{route}, headers: {{response: {{remove: [host]}}}}"), "headers.response.remove[0]", "InvalidValue"),
        (&format!("{route}, headers: {{request: {{add: {{a: '100%'}}}}}}"), "headers.request.add[a]", "InvalidValue"),
        (
            &format!("{route}, headers: {{request: {{add: {{a: '%NOVEL%'}}}}}}"),
            "headers.request.add[a]",
            "InvalidValue",
        ),
        (&format!("{route}, headers: {{request: {{add: {{a: '%REQ%'}}}}}}"), "headers.request.add[a]", "InvalidValue"),
        (
            &format!("{route}, rewrite: {{uriRegexRewrite: {{match: '(', rewrite: a}}}}"),
            "rewrite.uriRegexRewrite.regex",
            "InvalidRegex",
        ),
        (
            &format!(r"{route}, rewrite: {{uriRegexRewrite: {{match: 'a', rewrite: '\1'}}}}"),
            "rewrite.uriRegexRewrite.rewrite",
            "InvalidValue",
        ),
        (&format!("{route}, fault: {{delay: {{exponentialDelay: 1s}}}}"), "fault.delay.fixedDelay", "UnsupportedValue"),
        (&format!("{route}, fault: {{abort: {{httpStatus: 600}}}}"), "fault.abort.httpStatus", "InvalidValue"),
        (&format!("{route}, fault: {{abort: {{grpcStatus: NOPE}}}}"), "fault.abort.grpcStatus", "UnsupportedValue"),
        (&format!("{route}, fault: {{abort: {{http2Error: X}}}}"), "fault.abort", "UnsupportedValue"),
        (&format!("{route}, corsPolicy: {{allowOrigins: [{{}}]}}"), "corsPolicy.allowOrigins[0]", "InvalidValue"),
        (&format!("{route}, mirror: {{}}"), "mirror.destination.host", "InvalidValue"),
    ] {
        let rule = if rule.is_empty() { String::new() } else { format!(", {rule}") };
        let text = format!("[{{match: [{{uri: {{exact: /a}}}}]{rule}}}, {{redirect: {{uri: /b}}}}]");
        check(&text, &["prefix / => redirect 0 /b", &format!("http[0].{field} {reason}")]);
    }
}

#[test]
fn operators_of_headers_are_those_of_envoy() {
    let problems = |value: &str| {
        let rule =
            serde_json::json!([{ "headers": { "request": { "set": { "a": value } } }, "redirect": { "uri": "/" } }]);
        routes(&request(Semantics::Istio), &serde_json::from_value::<Vec<HttpRoute>>(rule).unwrap()).1.len()
    };
    let good = [
        "%%",
        "%PROTOCOL%",
        "%REQ(:path)%",
        "%REQ(A?B):3%",
        "%FILTER_STATE(a:FIELD:b)%",
        "%METADATA(ROUTE:a:b)%",
        "%GRPC_STATUS(NUMBER)%",
        "%START_TIME(%Y)%",
        "%DYNAMIC_METADATA(a:b):5%",
    ];
    for value in good {
        assert_eq!(problems(value), 0, "{value}");
    }
    let bad = [
        "%",
        "%%%",
        "%PROTOCOL",
        "%PROTOCOL:3%",
        "%PROTOCOL(a)%",
        "%REQ()%",
        "%REQ(a?b?c)%",
        "%REQ(a b)%",
        "%REQ(a%",
        "%FILTER_STATE(a:b)%",
        "%METADATA(a:b)%",
        "%GRPC_STATUS(nope)%",
        "%START_TIME(%Y):5%",
        "%protocol%",
    ];
    for value in bad {
        assert_eq!(problems(value), 1, "{value}");
    }
}

#[test]
fn values_of_headers_may_have_operators() {
    let text = "[{headers: {request: {set: {a: '100%%', b: 'x-%REQ(X-A?X-B):10%', c: '%START_TIME(%Y/%m)%', d: '%PROTOCOL%'}}}, redirect: {uri: /}}]";
    check(
        text,
        &["prefix / => redirect 0 /; request a=100%% b=x-%REQ(X-A?X-B):10% c=%START_TIME(%Y/%m)% d=%PROTOCOL%"],
    );
}

#[test]
fn retries_are_those_of_the_rule_then_of_the_mesh() {
    let retry = |http: &str, mesh: Option<HttpRetry>| {
        let request = RouteRequest { default_retry: mesh.as_ref(), ..request(Semantics::Istio) };
        let (routes, problems) = routes(&request, &yaml::<Vec<HttpRoute>>(http).unwrap());
        let Some(Action::Route(action)) = routes.into_iter().next().unwrap().action else { panic!("{http}") };
        (action.retry_policy, problems)
    };
    let own = |retries: &str| retry(&format!("[{{retries: {retries}, route: [{{destination: {{host: a}}}}]}}]"), None);
    let (policy, problems) = own(
        "{attempts: 3, retryOn: '5xx, 503,novel,409', perTryTimeout: 2s, backoff: 10ms, retryRemoteLocalities: true, retryIgnorePreviousHosts: false}",
    );
    let policy = policy.unwrap();
    assert_eq!((policy.num_retries.unwrap().value, &*policy.retry_on), (3, "5xx,retriable-status-codes"));
    assert_eq!(policy.retriable_status_codes, [503, 409]);
    assert_eq!(policy.per_try_timeout, duration(std::time::Duration::from_secs(2)));
    assert_eq!(policy.retry_back_off.unwrap().base_interval, duration(std::time::Duration::from_millis(10)));
    assert_eq!(policy.retry_priority.unwrap().name, "envoy.retry_priorities.previous_priorities");
    assert!(policy.retry_host_predicate.is_empty());
    assert_eq!(problems[0].path("http"), "http[0].retries.retryOn");

    assert_eq!(own("{attempts: 0}").0, None);
    assert_eq!(own("{attempts: -1}").0, None);
    assert_eq!(own("{attempts: 1, backoff: 0s}").0.unwrap().retry_back_off, None);
    let mesh = Some(HttpRetry { attempts: 5, ..HttpRetry::default() });
    let plain = "[{route: [{destination: {host: a}}]}]";
    assert_eq!(retry(plain, mesh).0.unwrap().num_retries.unwrap().value, 5);
    assert_eq!(retry(plain, Some(HttpRetry::default())).0, None);
    // The host that has the session is tried again.
    let hashed = retry("[{route: [{destination: {host: sticky}}]}]", None).0.unwrap();
    assert!(hashed.retry_host_predicate.is_empty());
}

#[test]
fn faults_and_cors_are_for_the_filters() {
    let (routes, problems) = made(
        "[{fault: {delay: {fixedDelay: 5s, percentage: {value: 0.1}}, abort: {httpStatus: 503, percentage: {value: 100}}},
           corsPolicy: {allowOrigins: [{exact: a}, {regex: 'b.*'}], allowMethods: [GET, PUT], allowHeaders: [x], maxAge: 24h, allowCredentials: true},
           route: [{destination: {host: a}}]}]",
    );
    assert!(problems.is_empty(), "{problems:?}");
    let fault: HttpFault = filter_config(&routes[0], "envoy.filters.http.fault");
    let text = format!("{fault:?}");
    assert!(text.contains("FixedDelay(Duration { seconds: 5, nanos: 0 })"), "{text}");
    assert!(text.contains("numerator: 1000, denominator: Million") && text.contains("HttpStatus(503)"), "{text}");
    let cors: CorsPolicy = filter_config(&routes[0], "envoy.filters.http.cors");
    assert_eq!((&*cors.allow_methods, &*cors.allow_headers, &*cors.max_age), ("GET,PUT", "x", "86400"));
    assert_eq!((cors.allow_origin_string_match.len(), cors.forward_not_matching_preflights.unwrap().value), (2, true));
    assert_eq!(cors.filter_enabled.unwrap().default_value.unwrap().numerator, 100);

    // A delay of nothing is none.
    let (routes, _) = made("[{fault: {delay: {fixedDelay: 0s, percent: 100}}, route: [{destination: {host: a}}]}]");
    assert!(routes[0].typed_per_filter_config.is_empty());
    let (routes, _) = made(
        "[{fault: {abort: {grpcStatus: UNAVAILABLE}}, corsPolicy: {allowOrigin: [a], unmatchedPreflights: IGNORE}, route: [{destination: {host: a}}]}]",
    );
    let fault: HttpFault = filter_config(&routes[0], "envoy.filters.http.fault");
    assert!(format!("{fault:?}").contains("GrpcStatus(14)"), "{fault:?}");
    let cors: CorsPolicy = filter_config(&routes[0], "envoy.filters.http.cors");
    assert_eq!((cors.allow_origin_string_match.len(), cors.forward_not_matching_preflights.unwrap().value), (1, false));
}

#[test]
fn unknown_fields_of_a_rule_are_said() {
    check("[{novel: 1, redirect: {uri: /a}}]", &["prefix / => redirect 0 /a", "http[0].novel UnknownField"]);
}

#[test]
fn a_service_without_rules_has_one_route() {
    let hash = Some(HashKey::Cookie(HttpCookie { name: "c".into(), ..HttpCookie::default() }));
    let consistent_hash = Some(ConsistentHash { key: hash, ..ConsistentHash::default() });
    let cluster = ClusterRef { name: "inbound-vip|80|http|a".into(), consistent_hash, session: None };
    let route = default_route(&cluster, "a:80/*", None);
    let Some(Action::Route(action)) = &route.action else { panic!("{route:#?}") };
    let policy = action.retry_policy.as_ref().unwrap();
    assert_eq!((&*route.name, policy.num_retries.unwrap().value), ("default", 2));
    assert!(policy.retry_on.contains("connect-failure"), "{}", policy.retry_on);
    assert_eq!((policy.retry_host_predicate.len(), action.hash_policy.len()), (0, 1), "who has the session is asked");
    let retry = |route: Route| match route.action {
        Some(Action::Route(action)) => action.retry_policy.map(|policy| policy.num_retries.unwrap().value),
        other => panic!("{other:?}"),
    };
    let seven = HttpRetry { attempts: 7, ..HttpRetry::default() };
    assert_eq!(retry(default_route(&cluster, "x", Some(&HttpRetry::default()))), None);
    assert_eq!(retry(default_route(&cluster, "x", Some(&seven))), Some(7));
}

#[test]
fn expressions_are_those_of_re2() {
    let good = [
        "a",
        ".*",
        "^/a(/b)*$",
        "[a-z]+",
        "[^/]+",
        "[]a]",
        "[a-]",
        r"\d+\.\w*",
        r"\pL\p{Greek}",
        "(?i)abc",
        "(?i:a)b",
        "(?P<x>a)|b",
        "a{2,5}?",
        "a{,5}",
        "x{",
        "a|",
        "()",
        r"\x41\x{ff}",
        "[[:alpha:]_]",
        r"[\w-]+",
        "é|(é)+",
        "a{1000}",
        r"\bword\b",
        r"[\]\\]",
    ];
    for text in good {
        assert_eq!(check_regex(text), Ok(()), "{text}");
    }
    let bad = [
        "",
        "(",
        ")",
        "(a",
        "[",
        "[a",
        "*",
        "+a",
        "a**",
        "a+*",
        "a{2}{3}",
        "{2}",
        "a{1001}",
        "(a{100}){100}",
        "a{3,2}",
        r"\1",
        r"\",
        r"\Z",
        r"\h",
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?>a)",
        "(?P<a>x)(?P<a>y)",
        "(?P=a)",
        "[z-a]",
        r"[a-\d]",
        "[[:nope:]]",
        r"\p{Nope}",
        r"\x{110000}",
        r"\x{100}",
        "é+",
        "[é]",
        "(?z)",
        r"(\pL{50}){20}",
        "a|*",
        r"\8",
    ];
    for text in bad {
        assert!(check_regex(text).is_err(), "{text}");
    }
    assert!(check_regex(&"(".repeat(500)).is_err());
}

/// The strings that rules are made of, mostly wrong.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(vec!["", "/", "/a", "a", "*", "mesh", "host", ":authority", "@request.auth.claims[a]", "GET", "%", "(", "http", "RequestRedirect", "URLRewrite", "CORS", "RequestMirror", "ReplacePrefixMatch", "Exact", "RegularExpression"]).prop_map(str::to_owned),
        1 => "\\PC{0,12}",
    ]
}

fn value(depth: u32) -> BoxedStrategy<serde_json::Value> {
    let leaf = prop_oneof![
        word().prop_map(serde_json::Value::from),
        any::<u16>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
        Just(serde_json::json!({"exact": "a"})),
        Just(serde_json::json!({"regex": "a("})),
        Just(serde_json::json!({"number": 80})),
        Just(serde_json::json!({"host": "a"})),
        Just(serde_json::json!("1s")),
    ];
    let keys = vec![
        "match",
        "uri",
        "headers",
        "withoutHeaders",
        "queryParams",
        "method",
        "route",
        "destination",
        "host",
        "subset",
        "port",
        "weight",
        "redirect",
        "directResponse",
        "status",
        "rewrite",
        "uriRegexRewrite",
        "rewrite",
        "retries",
        "attempts",
        "retryOn",
        "fault",
        "delay",
        "fixedDelay",
        "abort",
        "httpStatus",
        "mirror",
        "mirrors",
        "percentage",
        "value",
        "corsPolicy",
        "allowOrigins",
        "request",
        "response",
        "set",
        "add",
        "remove",
        "delegate",
        "name",
        "prefix",
        "regex",
        "matches",
        "path",
        "type",
        "filters",
        "backendRefs",
        "requestRedirect",
        "requestMirror",
        "backendRef",
        "fraction",
        "urlRewrite",
        "replacePrefixMatch",
        "cors",
        "allowOrigins",
        "timeouts",
        "retry",
        "codes",
        "service",
    ];
    leaf.prop_recursive(depth, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(serde_json::Value::from),
            prop::collection::btree_map(prop::sample::select(keys.clone()), inner, 0..4)
                .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
    .boxed()
}

proptest! {
    #[test]
    fn no_rule_panics(rules in prop::collection::vec(value(5), 0..4), gateway: bool) {
        let http: Vec<HttpRoute> = rules.into_iter().filter_map(|rule| serde_json::from_value(rule).ok()).collect();
        let semantics = if gateway { Semantics::GatewayApi } else { Semantics::Istio };
        let (made, problems) = routes(&request(semantics), &http);
        prop_assert!(made.iter().all(|route| route.action.is_some() && route.r#match.is_some()));
        let known: BTreeSet<_> = (0..http.len()).collect();
        prop_assert!(problems.iter().all(|problem| known.contains(&problem.rule)));
    }

    #[test]
    fn no_expression_panics(text in "[a(){}\\[\\]|*+?\\\\^$.,0-9:P<>dpx-]{0,20}") {
        let _ = check_regex(&text);
        let _ = regex::groups(&text);
    }
}
