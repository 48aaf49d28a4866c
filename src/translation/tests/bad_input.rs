//! What is wrong with one part of a gateway is said of the object that it is in,
//! and whatever is beside it goes on: each mistake that people make, in either
//! API.

use openssl::pkey::PKey;

use super::gateways::Edge;
use super::simulation::Call;
use super::*;
use crate::model::secret::testing::{certificate, days, key as new_key, pem, secret};
use crate::status::{Conditions, about, status};

/// Both APIs, each with a listener and a route that are good, on the proxies of
/// one Gateway.
const GOOD: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: x}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: good, namespace: x}
spec: {gateways: [classic], hosts: [classic.com], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: good, namespace: x}
spec: {parentRefs: [{name: g}], hostnames: [api.com], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
";

/// Istio's Gateway, with further servers. It selects the proxies of the other.
fn classic(servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: classic, namespace: x}}\n\
         spec:\n  selector: {{gateway.networking.k8s.io/gateway-name: g}}\n  servers:\n\
         \x20 - {{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [classic.com]}}\n\
         \x20 - {{port: {{number: 443, name: tls, protocol: HTTPS}}, hosts: [classic.com], tls: {{mode: SIMPLE, credentialName: good}}}}\n\
         {servers}---\n"
    )
}

/// The Gateway API's, with further listeners.
fn api(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g, namespace: x}}\n\
         spec:\n  gatewayClassName: istio\n  listeners:\n\
         \x20 - {{name: http, port: 81, protocol: HTTP}}\n\
         \x20 - {{name: tls, port: 444, protocol: HTTPS, hostname: api.com, tls: {{certificateRefs: [{{name: good}}]}}}}\n\
         {listeners}---\n"
    )
}

fn virtual_service(rest: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: bad, namespace: x}}\n\
         spec: {{gateways: [classic], {rest}}}\n---\n"
    )
}

fn http_route(rest: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: bad, namespace: x}}\n\
         spec: {{parentRefs: [{{name: g}}], {rest}}}\n---\n"
    )
}

/// Secrets: a good one, and one of each kind of bad.
fn secrets() -> Vec<Object> {
    let (own, other) = (new_key(), new_key());
    let pair = |name: &str, certificate: &str, key: &PKey<Private>| {
        Object::Secret(secret("x", name, &[("tls.crt", certificate), ("tls.key", &pem(key))]))
    };
    let good = certificate(&own, &["classic.com", "api.com", "bad.com"], (days(-1), days(90)));
    let old = certificate(&own, &["bad.com"], (days(-90), days(-1)));
    vec![
        pair("good", &good, &own),
        pair("mismatch", &good, &other),
        pair("old", &old, &own),
        pair("garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &own),
    ]
}

/// A mesh with both Gateways and what is given, and a proxy.
fn edge(servers: &str, listeners: &str, more: &str) -> Edge {
    let mut edge = Edge::of("# Proxy: router x/gateway.networking.k8s.io/gateway-name=g", "");
    let text = [GOOD, &classic(servers), &api(listeners), more].concat();
    let all = objects(&text).into_iter().chain(secrets());
    edge.world.apply(all.map(Change::Put));
    edge.world.translation.tick(jiff::Timestamp::now());
    // What the tick changed is published with the next change.
    edge.apply("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n");
    edge
}

/// Type and reason of each condition that is not as it is for what is good.
fn conditions(edge: &Edge, kind: Kind, name: &str) -> Vec<String> {
    let translation = &edge.world.translation;
    let key = ObjectKey::new("x", name);
    if kind == Kind::Gateway {
        let facts = translation.graph.get(translation.facts.gateways, &key).expect("it is ours");
        let said = facts.checked.listeners.iter().flat_map(|one| {
            let conflicted = one.conflict.map(|reason| format!("{} Conflicted={reason}", one.name));
            let verdicts = [("Accepted", &one.accepted), ("ResolvedRefs", &one.resolved)];
            let failed = verdicts.into_iter().filter_map(|(kind, verdict)| Some((kind, verdict.as_ref().err()?)));
            let failed = failed.map(|(kind, said)| {
                assert!(!said.message.is_empty());
                format!("{} {kind}={}", one.name, said.reason)
            });
            conflicted.into_iter().chain(failed).collect::<Vec<_>>()
        });
        return said.collect();
    }
    let facts = translation.facts.objects.iter().find(|(of, _)| *of == kind);
    let facts = facts.and_then(|(_, facts)| translation.graph.get(*facts, &key)).map(|facts| &**facts);
    let said = status(kind, facts, about(&translation.graph.diagnostics(), &(kind, key)));
    let all = match said.map(|status| status.conditions) {
        Some(Conditions::OfObject(all)) => all,
        Some(Conditions::OfParents(parents)) => parents.into_iter().flat_map(|(_, all)| all).collect(),
        other => panic!("{other:?}"),
    };
    let told = all.iter().filter(|one| one.reason != "Accepted" && one.reason != one.kind);
    told.map(|one| {
        assert!(!one.message.is_empty());
        format!("{}={} {}", one.kind, one.reason, one.holds)
    })
    .collect()
}

/// What is good goes on, in both APIs and behind TLS.
#[track_caller]
fn assert_the_rest_goes_on(edge: &Edge, what: &str) {
    let web = "outbound|80||web.x.svc.cluster.local";
    for (plain, tls, host) in [(80, 443, "classic.com"), (81, 444, "api.com")] {
        assert_eq!(edge.http(plain, host, "/").cluster, web, "{what}: {host}");
        let call =
            Call { port: tls, host: Some(host.into()), path: "/".into(), sni: Some(host.into()), ..Call::default() };
        assert_eq!(edge.call(&call).cluster, web, "{what}: {host} behind TLS");
    }
}

/// A server of Istio's Gateway, or a listener of the other, that is bad.
#[track_caller]
fn check(what: &str, (server, said_of_server): (&str, &[&str]), (listener, said_of_listener): (&str, &[&str])) {
    let lines = |parts: &str| parts.lines().map(|line| format!("  - {}\n", line.trim())).collect::<String>();
    let edge = edge(&lines(server), &lines(listener), "");
    assert_the_rest_goes_on(&edge, what);
    assert_eq!(conditions(&edge, Kind::IstioGateway, "classic"), said_of_server, "{what}");
    assert_eq!(conditions(&edge, Kind::Gateway, "g"), said_of_listener, "{what}");
}

/// An object with routes that is bad.
#[track_caller]
fn check_routes(what: &str, (service, said): (&str, &[&str]), (route, said_of_route): (&str, &[&str])) {
    let edge = edge("", "", &(virtual_service(service) + &http_route(route)));
    assert_the_rest_goes_on(&edge, what);
    assert_eq!(conditions(&edge, Kind::VirtualService, "bad"), said, "{what}");
    assert_eq!(conditions(&edge, Kind::HTTPRoute, "bad"), said_of_route, "{what}");
    for (kind, name) in [(Kind::VirtualService, "good"), (Kind::HTTPRoute, "good"), (Kind::IstioGateway, "classic")] {
        assert_eq!(conditions(&edge, kind, name), [""; 0], "{what}");
    }
}

#[test]
fn nothing_is_said_of_what_is_good() {
    check("good", ("", &[]), ("", &[]));
}

#[test]
fn conflicting_listeners() {
    check(
        "another protocol on a port",
        ("{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}", &["Accepted=ProtocolConflict false"]),
        ("{name: bad, port: 81, protocol: TCP}", &["bad Conflicted=ProtocolConflict", "bad Accepted=ProtocolConflict"]),
    );
}

#[test]
fn duplicate_hosts() {
    check(
        "a host twice behind TLS",
        (
            "{port: {number: 443, name: again, protocol: HTTPS}, hosts: [classic.com], tls: {mode: SIMPLE, credentialName: good}}",
            &["Accepted=HostnameConflict false"],
        ),
        (
            "{name: bad, port: 444, protocol: HTTPS, hostname: api.com, tls: {certificateRefs: [{name: good}]}}",
            &["bad Conflicted=HostnameConflict", "bad Accepted=HostnameConflict"],
        ),
    );
}

#[test]
fn secrets_that_are_missing_malformed_or_old() {
    for (name, reason, accepted, fatal) in [
        ("missing", "CredentialNotFound", false, true),
        ("mismatch", "KeyMismatch", false, true),
        ("garbage", "InvalidCertificate", false, true),
        ("old", "CertificateExpired", true, false),
    ] {
        let server = format!(
            "{{port: {{number: 443, name: bad, protocol: HTTPS}}, hosts: [bad.com], tls: {{mode: SIMPLE, credentialName: {name}}}}}"
        );
        let listener = format!(
            "{{name: bad, port: 444, protocol: HTTPS, hostname: bad.com, tls: {{certificateRefs: [{{name: {name}}}]}}}}"
        );
        let said = format!("Accepted={reason} {accepted}");
        check(name, (&server, &[&said]), (&listener, &["bad ResolvedRefs=InvalidCertificateRef"]));
        // A listener that cannot present anything is not there; one that can, is.
        let edge = edge("", &format!("  - {listener}\n"), &http_route("hostnames: [bad.com]"));
        let host = || Some("bad.com".to_owned());
        let call = Call { port: 444, host: host(), path: "/".into(), sni: host(), ..Call::default() };
        assert_eq!(edge.call(&call).route_config.is_empty(), fatal, "{name}");
    }
}

#[test]
fn dangling_references() {
    check_routes(
        "a backend that is not there",
        (
            "hosts: [bad.com], http: [{route: [{destination: {host: gone}}]}]",
            &["Accepted=ReferencedResourceNotFound false"],
        ),
        (
            "hostnames: [bad.com], rules: [{backendRefs: [{name: gone, port: 80}]}]",
            &["ResolvedRefs=BackendNotFound false"],
        ),
    );
    check_routes(
        "a backend of another namespace, without a grant",
        (
            "hosts: [bad.com], http: [{route: [{destination: {host: gone.y.svc.cluster.local}}]}]",
            &["Accepted=ReferencedResourceNotFound false"],
        ),
        (
            "hostnames: [bad.com], rules: [{backendRefs: [{name: gone, namespace: y, port: 80}]}]",
            &["ResolvedRefs=RefNotPermitted false"],
        ),
    );
    // Gateways that are not there.
    let stray = virtual_service("hosts: [bad.com], http: [{route: [{destination: {host: web}}]}]")
        .replace("[classic]", "[nowhere]");
    let route = http_route("rules: [{backendRefs: [{name: web, port: 80}]}]")
        .replace("parentRefs: [{name: g}]", "parentRefs: [{name: g, sectionName: nowhere}]");
    let edge = edge("", "", &(stray + &route));
    assert_the_rest_goes_on(&edge, "a gateway that is not there");
    assert_eq!(conditions(&edge, Kind::VirtualService, "bad"), ["Accepted=ReferencedResourceNotFound false"]);
    assert_eq!(conditions(&edge, Kind::HTTPRoute, "bad"), ["Accepted=NoMatchingParent false"]);
}

#[test]
fn invalid_expressions() {
    check_routes(
        "an expression that Envoy refuses",
        (
            "hosts: [classic.com], http: [{match: [{uri: {regex: '(?=x)'}}], route: [{destination: {host: web}}]}]",
            &["Accepted=InvalidRegex false"],
        ),
        (
            "hostnames: [api.com], rules: [{matches: [{path: {type: RegularExpression, value: '(?=x)'}}], backendRefs: [{name: web, port: 80}]}]",
            &["Accepted=UnsupportedValue false"],
        ),
    );
}

#[test]
fn oversized_tables() {
    // An expression that is too large is one of Envoy's own limits.
    let long = "x".repeat(1025);
    check_routes(
        "an expression that is too large",
        (
            &format!(
                "hosts: [classic.com], http: [{{match: [{{uri: {{regex: {long}}}}}], route: [{{destination: {{host: web}}}}]}}]"
            ),
            &["Accepted=InvalidRegex false"],
        ),
        (
            &format!(
                "hostnames: [api.com], rules: [{{matches: [{{headers: [{{name: a, type: RegularExpression, value: {long}}}]}}], backendRefs: [{{name: web, port: 80}}]}}]"
            ),
            &["Accepted=UnsupportedValue false"],
        ),
    );
    // Many rules are many rules: all are there, and nobody else's are less.
    let rules = |count: usize, one: &dyn Fn(usize) -> String| (0..count).map(one).collect::<Vec<_>>().join(", ");
    let http =
        rules(2000, &|at| format!("{{match: [{{uri: {{exact: /{at}}}}}], route: [{{destination: {{host: web}}}}]}}"));
    let api = rules(2000, &|at| {
        format!("{{matches: [{{path: {{type: Exact, value: /{at}}}}}], backendRefs: [{{name: web, port: 80}}]}}")
    });
    let text = virtual_service(&format!("hosts: [many.com], http: [{http}]"))
        + &http_route(&format!("hostnames: [many.com], rules: [{api}]"));
    let server = "  - {port: {number: 80, name: many, protocol: HTTP}, hosts: [many.com]}\n";
    let edge = edge(server, "", &text);
    assert_the_rest_goes_on(&edge, "many rules");
    for port in [80, 81] {
        assert_eq!(edge.http(port, "many.com", "/1999").cluster, "outbound|80||web.x.svc.cluster.local");
        assert_eq!(edge.http(port, "many.com", "/2000").error, "ErrNoRoute");
    }
}

/// Whoever looks into the tables of the graph sees no key.
#[test]
fn no_table_shows_a_key() {
    let edge = edge("", "", "");
    let graph = &edge.world.translation.graph;
    let mut secrets = 0;
    for stats in graph.stats() {
        let dump = graph.dump(stats.name, None, usize::MAX).expect("it has that name");
        assert_eq!(dump.shown.len(), stats.rows, "{}", stats.name);
        secrets += if stats.name == "secrets" { stats.rows } else { 0 };
        for row in dump.shown {
            let shown = format!("{row:?}");
            assert!(!shown.contains("PRIVATE"), "{}: {shown}", stats.name);
        }
    }
    assert_eq!(secrets, 4, "there were some to be seen");
}
