//! Each field of a rule, and what becomes of it.

use super::*;

/// Checks a rule in YAML: the rule that Envoy gets at a waypoint, or none, and
/// the fields that are reported.
#[track_caller]
fn check_rule(tcp: bool, action: &str, yaml: &str, expected: Option<&str>, reported: &[&str]) {
    let text = format!(
        "metadata: {{name: p, namespace: ns}}\nspec:\n  action: {action}\n  provider: {{name: asked}}\n  rules:\n  - {}\n",
        yaml.trim().replace('\n', "\n    ")
    );
    let policy = policy(&text);
    let (filters, problems) =
        with_request(|request| if tcp { network(request, &[&policy]) } else { http(request, &[&policy]) });
    let HttpOrNetwork { rules, shadow_rules, .. } = rbac_of(&filters[0]);
    let shown = show::rbac(&rules.or(shadow_rules).unwrap());
    let shown: Vec<_> = shown[1..].iter().map(|rule| rule.split_once(": ").unwrap().1).collect();
    assert_eq!(shown, expected.into_iter().collect::<Vec<_>>());
    let fields: Vec<_> = problems.iter().map(|problem| problem.field.strip_prefix("spec.rules[0].").unwrap()).collect();
    assert_eq!(fields, reported);
}

#[track_caller]
fn check(yaml: &str, expected: &str) {
    check_rule(false, "ALLOW", yaml, Some(expected), &[]);
    check_rule(false, "DENY", yaml, Some(expected), &[]);
}

#[test]
fn sources() {
    let peer = "io.istio.peer_principal";
    let source = |fields: &str| format!("from: [{{source: {{{fields}}}}}]");
    check("{}", "any <- any");
    check(&source("principals: [other/ns/a/sa/x]"), &format!("any <- {peer} =spiffe://other/ns/a/sa/x"));
    check(&source("principals: ['*']"), &format!("any <- {peer} /.+/"));
    check(&source("principals: [a/ns/b*]"), &format!("any <- {peer} ^spiffe://a/ns/b"));
    check(&source("notPrincipals: ['*.x']"), &format!(r"any <- !{peer} /spiffe://.*\.x/"));
    check(
        &source("namespaces: [a.b, '*']"),
        &format!(r"any <- ({peer} /spiffe://.+/ns/a\.b/.*/ | {peer} /spiffe://.+/ns/[^/]+/.*/)"),
    );
    check(&source("notNamespaces: [a*]"), &format!("any <- !{peer} /spiffe://.+/ns/a[^/]*/.*/"));
    check(
        &source("serviceAccounts: [x, a/y]"),
        &format!("any <- ({peer} /spiffe://.+/ns/ns/(.+/)?sa/x(/.*)?/ | {peer} /spiffe://.+/ns/a/(.+/)?sa/y(/.*)?/)"),
    );
    check(&source("notServiceAccounts: [x]"), &format!("any <- !{peer} /spiffe://.+/ns/ns/(.+/)?sa/x(/.*)?/"));
    check(
        &source("trustDomains: [a, '*.b', 'c*', '*']"),
        &format!(
            r"any <- ({peer} ^spiffe://a/ | {peer} /spiffe://[^/]*\.b/.*/ | {peer} /spiffe://c[^/]*/.*/ | {peer} ^spiffe://)"
        ),
    );
    check(
        &source("ipBlocks: [1.2.3.4, 10.0.0.0/8, 'fd00::/8']"),
        "any <- (source 1.2.3.4/32 | source 10.0.0.0/8 | source fd00::/8)",
    );
    check(&source("notIpBlocks: [1.2.3.4]"), "any <- !source 1.2.3.4/32");
    check(&source("remoteIpBlocks: [1.2.3.4]"), "any <- remote 1.2.3.4/32");
    check(&source("notRemoteIpBlocks: [1.2.3.0/24]"), "any <- !remote 1.2.3.0/24");
    check(
        &source("requestPrincipals: [me/you]"),
        "any <- (http.jwt_authn[payload][iss] =me & http.jwt_authn[payload][sub] =you)",
    );
    check(
        &source("notRequestPrincipals: ['*']"),
        "any <- !(http.jwt_authn[payload][iss] /.+/ & http.jwt_authn[payload][sub] /.+/)",
    );
    // Fields are AND-ed, sources OR-ed.
    check(
        "from: [{source: {ipBlocks: [1.1.1.1], remoteIpBlocks: [2.2.2.2]}}, {source: {ipBlocks: [3.3.3.3]}}]",
        "any <- (remote 2.2.2.2/32 & source 1.1.1.1/32) or source 3.3.3.3/32",
    );
}

#[test]
fn operations() {
    let operation = |fields: &str| format!("to: [{{operation: {{{fields}}}}}]");
    check(
        &operation("hosts: [a.b, '*.c', 'd:*', '*']"),
        "(:authority ~=a.b | :authority ~$.c | :authority ~^d: | :authority present) <- any",
    );
    check(&operation("notHosts: [a.b]"), "!:authority ~=a.b <- any");
    check(
        &operation("methods: [GET, 'P*', '*T', '*']"),
        "(:method =GET | :method ^P | :method $T | :method present) <- any",
    );
    check(&operation("notMethods: [GET]"), "!:method =GET <- any");
    check(&operation("paths: [/a, '/b*', '*c', '*']"), "(path =/a | path ^/b | path $c | path /.+/) <- any");
    check(
        &operation("paths: ['/a/{*}/b', '/{**}', '/{*}/{**}/c/']"),
        "(template /a/*/b | template /** | template /*/**/c/) <- any",
    );
    check(&operation("notPaths: [/a, '/{*}']"), "!(path =/a | template /*) <- any");
    check(&operation("ports: ['80', '8080']"), "(port 80 | port 8080) <- any");
    check(&operation("notPorts: ['80']"), "!port 80 <- any");
    check(
        "to: [{operation: {methods: [GET], ports: ['80'], paths: [/a], hosts: [b]}}, {operation: {ports: ['81']}}]",
        "(:authority ~=b & :method =GET & path =/a & port 80) or port 81 <- any",
    );
}

#[test]
fn conditions() {
    let peer = "io.istio.peer_principal";
    let when = |key: &str, lists: &str| format!("when: [{{key: '{key}', {lists}}}]");
    check(
        &when("source.ip", "values: [1.2.3.4], notValues: [10.0.0.0/8]"),
        "any <- (source 1.2.3.4/32 & !source 10.0.0.0/8)",
    );
    check(&when("remote.ip", "values: [1.2.3.4]"), "any <- remote 1.2.3.4/32");
    check(&when("source.namespace", "values: [a]"), &format!("any <- {peer} /spiffe://.+/ns/a/.*/"));
    check(
        &when("source.serviceAccount", "values: [x]"),
        &format!("any <- {peer} /spiffe://.+/ns/ns/(.+/)?sa/x(/.*)?/"),
    );
    check(&when("source.principal", "values: [x]"), &format!("any <- {peer} =spiffe://x"));
    check(&when("source.trustDomain", "values: [x]"), &format!("any <- {peer} ^spiffe://x/"));
    check(
        &when("request.auth.principal", "values: [a/b]"),
        "any <- (http.jwt_authn[payload][iss] =a & http.jwt_authn[payload][sub] =b)",
    );
    check(&when("request.auth.audiences", "values: [a]"), "any <- http.jwt_authn[payload][aud] (one =a | =a)");
    check(&when("request.auth.presenter", "notValues: [a]"), "any <- !http.jwt_authn[payload][azp] (one =a | =a)");
    check(&when("request.auth.claims[a]", "values: [b*]"), "any <- http.jwt_authn[payload][a] (one ^b | ^b)");
    check(&when("request.auth.claims[a][b.c]", "values: [d]"), "any <- http.jwt_authn[payload][a][b.c] (one =d | =d)");
    check(
        &when("request.auth.claims[https://x/y]", "values: [d]"),
        "any <- http.jwt_authn[payload][https://x/y] (one =d | =d)",
    );
    check(&when("request.headers[X-A]", "values: [a, '*']"), "any <- (X-A =a | X-A present)");
    check(&when("request.headers[:path]", "notValues: [/]"), "any <- !:path =/");
    check(&when("destination.ip", "values: [1.2.3.4]"), "destination 1.2.3.4/32 <- any");
    check(&when("destination.port", "values: ['80']"), "port 80 <- any");
    check(&when("connection.sni", "values: ['*.a']"), "sni $.a <- any");
    check(
        &when("experimental.envoy.filters.network.x[k]", "values: [v, '[w]']"),
        "(network.x[k] =v | network.x[k] one =w) <- any",
    );
    // Conditions are AND-ed, to whatever else there is.
    check(
        "{from: [{source: {ipBlocks: [1.1.1.1]}}], when: [{key: remote.ip, values: [2.2.2.2]}, {key: destination.port, values: ['80']}]}",
        "port 80 <- (source 1.1.1.1/32 & remote 2.2.2.2/32)",
    );
}

#[test]
fn an_identity_in_a_token_is_taken_apart_in_each_way() {
    let (iss, sub) = ("http.jwt_authn[payload][iss]", "http.jwt_authn[payload][sub]");
    let rule = |value: &str| format!("from: [{{source: {{requestPrincipals: ['{value}']}}}}]");
    check(&rule("a/b/c"), &format!("any <- (({iss} =a & {sub} =b/c) | ({iss} =a/b & {sub} =c))"));
    check(&rule("a/*"), &format!("any <- (({iss} ^a/ & {sub} /.+/) | ({iss} =a & {sub} /.+/))"));
    check(&rule("*/b"), &format!("any <- (({iss} /.+/ & {sub} $/b) | ({iss} /.+/ & {sub} =b))"));
}

#[test]
fn trust_domains_that_mean_the_same() {
    let peer = "io.istio.peer_principal";
    let rule = |value: &str| format!("from: [{{source: {{principals: ['{value}']}}}}]");
    let both = |path: &str| format!("any <- ({peer} =spiffe://new{path} | {peer} =spiffe://old{path})");
    check(&rule("old/ns/a/sa/x"), &both("/ns/a/sa/x"));
    check(&rule("new/ns/a/sa/x"), &both("/ns/a/sa/x"));
    check(&rule("cluster.local/ns/a/sa/x"), &both("/ns/a/sa/x"));
    check(&rule("n*/ns/a/sa/x"), &both("/ns/a/sa/x"));
    check(
        &rule("*ld/ns/a/sa/x"),
        &format!("any <- ({peer} =spiffe://new/ns/a/sa/x | {peer} /spiffe://.*ld/ns/a/sa/x/)"),
    );
    check(&rule("new/ns/a/*"), &format!("any <- {peer} ^spiffe://new/ns/a/"));
    check(
        "from: [{source: {trustDomains: [old]}}]",
        &format!("any <- ({peer} ^spiffe://new/ | {peer} ^spiffe://old/)"),
    );
}

/// A rule with a part that means nothing: ALLOW loses the rule, DENY the
/// condition.
#[track_caller]
fn check_refused(yaml: &str, denied: &str, reported: &[&str]) {
    check_rule(false, "ALLOW", yaml, None, reported);
    check_rule(false, "DENY", yaml, Some(denied), reported);
}

#[test]
fn what_means_nothing_is_refused() {
    let sources = [
        ("ipBlocks: [1.1.1.1/33, 2.2.2.2]", "ipBlocks[0]"),
        ("ipBlocks: [x]", "ipBlocks[0]"),
        ("ipBlocks: ['10.0.0.0/+8']", "ipBlocks[0]"),
        ("serviceAccounts: [x, a/b/c]", "serviceAccounts[1]"),
        ("serviceAccounts: ['x*']", "serviceAccounts[0]"),
        ("serviceAccounts: [/x]", "serviceAccounts[0]"),
        ("trustDomains: [a/b]", "trustDomains[0]"),
        ("trustDomains: ['a*b']", "trustDomains[0]"),
        ("principals: ['']", "principals[0]"),
        ("requestPrincipals: [me]", "requestPrincipals[0]"),
        ("requestPrincipals: [me/]", "requestPrincipals[0]"),
        ("someday: [x]", "someday"),
    ];
    for (fields, reported) in sources {
        let reported = format!("from[0].source.{reported}");
        check_refused(&format!("from: [{{source: {{{fields}}}}}]"), "any <- any", &[&reported]);
    }
    let operations = [
        ("ports: ['+80']", "ports[0]"),
        ("ports: ['80', '65536']", "ports[1]"),
        ("paths: ['a/{*}']", "paths[0]"),
        ("paths: ['/a{*}']", "paths[0]"),
        ("paths: ['/{**}/{*}']", "paths[0]"),
        ("paths: ['/a//{*}']", "paths[0]"),
        ("methods: ['']", "methods[0]"),
        ("someday: [x]", "someday"),
    ];
    for (fields, reported) in operations {
        let reported = format!("to[0].operation.{reported}");
        check_refused(&format!("to: [{{operation: {{{fields}}}}}]"), "any <- any", &[&reported]);
    }
    let conditions = [
        ("key: source.moon, values: [x]", "key"),
        ("key: 'request.headers[a b]', values: [x]", "key"),
        ("key: 'request.headers[]', values: [x]", "key"),
        ("key: request.headers, values: [x]", "key"),
        ("key: 'request.auth.claims[]', values: [x]", "key"),
        ("key: 'experimental.envoy.filters.x', values: [x]", "key"),
        ("key: source.ip, values: [x]", "values[0]"),
        ("key: 'experimental.envoy.filters.x[k]', values: ['[]']", "values[0]"),
    ];
    for (fields, reported) in conditions {
        check_refused(&format!("when: [{{{fields}}}]"), "any <- any", &[&format!("when[0].{reported}")]);
    }
    check_refused("when: [{key: source.ip}]", "any <- any", &["when[0]"]);
    check_refused("from: [{source: {principals: []}}]", "any <- any", &["from[0].source"]);
    check_refused("to: [{}]", "any <- any", &["to[0].operation"]);
    check_refused("someday: x", "any <- any", &["someday"]);
    check_refused(
        "when: [{key: source.ip, values: [1.1.1.1], unless: x}]",
        "any <- source 1.1.1.1/32",
        &["when[0].unless"],
    );
    let long = format!("from: [{{source: {{namespaces: [{}]}}}}]", "a".repeat(1100));
    check_refused(&long, "any <- any", &["from[0].source.namespaces[0]"]);
}

#[test]
fn an_exception_that_means_nothing_excepts_nobody_from_a_denial() {
    let rule = "from: [{source: {notIpBlocks: [x, 1.1.1.1]}}]";
    check_refused(rule, "any <- !source 1.1.1.1/32", &["from[0].source.notIpBlocks[0]"]);
}

#[test]
fn connections_have_no_requests() {
    let rule = "{to: [{operation: {methods: [GET], ports: ['80']}}], from: [{source: {requestPrincipals: ['*']}}]}";
    let reported = ["from[0].source.requestPrincipals", "to[0].operation.methods"];
    check_rule(true, "ALLOW", rule, None, &reported);
    check_rule(true, "DENY", rule, Some("port 80 <- any"), &reported);
    check_rule(true, "CUSTOM", rule, Some("port 80 <- any"), &reported);
    check_rule(true, "AUDIT", rule, Some("port 80 <- any"), &reported);
    for (fields, field) in [
        ("notHosts: [a]", "notHosts"),
        ("notMethods: [a]", "notMethods"),
        ("paths: [/a]", "paths"),
        ("notPaths: ['/{*}']", "notPaths"),
    ] {
        let reported = format!("to[0].operation.{field}");
        check_rule(true, "ALLOW", &format!("to: [{{operation: {{{fields}}}}}]"), None, &[&reported]);
    }
    for key in ["request.headers[a]", "request.auth.claims[a]", "request.auth.audiences", "request.auth.presenter"] {
        check_rule(
            true,
            "DENY",
            &format!("when: [{{key: '{key}', notValues: [x]}}]"),
            Some("any <- any"),
            &["when[0].notValues"],
        );
    }
    let connection = "{from: [{source: {remoteIpBlocks: [1.1.1.1]}}], when: [{key: connection.sni, values: [a]}]}";
    check_rule(true, "ALLOW", connection, Some("sni =a <- remote 1.1.1.1/32"), &[]);
}

#[test]
fn an_authorizer_is_asked_before_tokens_are_verified() {
    let rule = "{from: [{source: {requestPrincipals: [a/b]}}], to: [{operation: {paths: [/a]}}]}";
    check_rule(false, "CUSTOM", rule, Some("path =/a <- any"), &["from[0].source.requestPrincipals"]);
}
