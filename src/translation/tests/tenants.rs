//! What the owners of routes, of listeners and of Gateways can do to each other
//! where they share a gateway's proxies: nothing.

use super::gateways::{Edge, gateway, virtual_service};
use super::simulation::{Call, Outcome};
use super::*;
use crate::envoy::route::UNKNOWN_SERVICE;

/// An object of the Gateway API.
fn object(kind: &str, key: &str, spec: &str) -> String {
    let (namespace, name) = key.split_once('/').expect("namespace and name");
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{{spec}}}\n"
    )
}

fn service(key: &str) -> String {
    let (namespace, name) = key.split_once('/').expect("namespace and name");
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{clusterIP: 10.96.0.1, ports: [{{name: http, port: 80}}]}}\n"
    )
}

fn shared(listeners: &str) -> String {
    object(
        "Gateway",
        "infra/shared",
        &format!("gatewayClassName: istio, allowedListeners: {{namespaces: {{from: All}}}}, listeners: [{listeners}]"),
    )
}

/// A listener that any route may attach to.
fn listener(name: &str, rest: &str) -> String {
    format!("{{name: {name}, allowedRoutes: {{namespaces: {{from: All}}}}, {rest}}}")
}

/// TLS that needs no Secret.
const OWN: &str = "tls: {options: {gateway.istio.io/tls-terminate-mode: ISTIO_SIMPLE}}";

/// The proxies of the Gateway `infra/shared`.
fn edge(text: &str) -> Edge {
    Edge::of("# Proxy: router infra/shared", text)
}

impl Edge {
    /// A request inside TLS.
    fn https(&self, name: &str, host: &str) -> Outcome {
        let (host, sni) = (Some(host.into()), Some(name.into()));
        self.call(&Call { port: 443, host, path: "/".into(), sni, ..Call::default() })
    }

    /// The lines of what is said that have a text in them.
    fn said_of(&self, text: &str) -> Vec<String> {
        self.said().into_iter().filter(|line| line.contains(text)).collect()
    }
}

#[test]
fn what_else_a_route_is_attached_to_lets_it_have_nothing_at_a_gateway() {
    let route = |name: &str, parents: &str, backend: &str| {
        let rules = format!("rules: [{{backendRefs: [{{{backend}, port: 80}}]}}]");
        object(
            "HTTPRoute",
            &format!("attacker/{name}"),
            &format!("parentRefs: [{parents}], hostnames: [{name}.com], {rules}"),
        )
    };
    let at = "{name: shared, namespace: infra}";
    let of_victim = "{group: '', kind: Service, name: whatever, namespace: victim}";
    let mut text = shared(&listener("http", "port: 80, protocol: HTTP"))
        + &object(
            "ListenerSet",
            "infra/more",
            &format!(
                "parentRef: {{name: shared}}, listeners: [{}]",
                listener("more", "port: 80, protocol: HTTP, hostname: set.com")
            ),
        );
    text += &[service("victim/db"), service("infra/admin"), service("attacker/own")].concat();
    text += &route("service", &format!("{at}, {of_victim}"), "name: db, namespace: victim");
    text += &route("set", "{kind: ListenerSet, name: more, namespace: infra}", "name: admin, namespace: infra");
    text += &route("host", at, "group: networking.istio.io, kind: Hostname, name: db.victim.svc.cluster.local");
    text += &route("own", at, "group: networking.istio.io, kind: Hostname, name: own.attacker.svc.cluster.local");
    let mut edge = edge(&text);
    let routes = ["service", "set", "host"];
    for name in routes {
        assert_eq!(edge.http(80, &format!("{name}.com"), "/").cluster, UNKNOWN_SERVICE, "{name}");
        let said = format!("HTTPRoute/{name} spec.rules[0].backendRefs[0] RefNotPermitted");
        assert!(edge.said().contains(&said), "{:?}", edge.said());
    }
    // The same where nobody is connected.
    let mut alone = World::new(&Given::new(""));
    alone.apply(objects(&text).into_iter().map(Change::Put));
    let said = alone.translation.graph.diagnostics();
    assert_eq!(said.iter().filter(|one| one.reason == "RefNotPermitted").count(), 3, "{said:?}");
    assert_eq!(edge.http(80, "own.com", "/").cluster, "outbound|80||own.attacker.svc.cluster.local");
    for namespace in ["victim", "infra"] {
        let from = "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: attacker}]";
        edge.apply(&object(
            "ReferenceGrant",
            &format!("{namespace}/grant"),
            &format!("{from}, to: [{{group: '', kind: Service}}]"),
        ));
    }
    for (name, cluster) in routes.iter().zip(["db.victim", "admin.infra", "db.victim"]) {
        let expected = format!("outbound|80||{cluster}.svc.cluster.local");
        assert_eq!(edge.http(80, &format!("{name}.com"), "/").cluster, expected, "{name}");
    }
    assert!(edge.said_of("RefNotPermitted").is_empty(), "{:?}", edge.said());
}

#[test]
fn an_address_written_in_another_way_is_no_other_listener() {
    let server =
        |bind: &str| format!("{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*'], bind: '{bind}'}}");
    let mut text = gateway("a/first", 9, &server(""));
    for (number, bind) in ["0.0.0.0", "::", "::ffff:0.0.0.0"].iter().enumerate() {
        text += &gateway(&format!("b/other{number}"), 1, &server(bind));
        text += &virtual_service(
            &format!("b/other{number}"),
            &format!("other{number}"),
            &format!("other{number}.com"),
            "b.com",
        );
    }
    text += &virtual_service("a/first", "first", "first.com", "a.com");
    let edge = Edge::new(&text);
    let listeners: Vec<_> =
        edge.world.sent().into_keys().filter(|(ty, _)| *ty == ResourceType::Listener).map(|(_, name)| name).collect();
    assert_eq!(
        listeners.iter().filter(|name| name.ends_with("_80")).collect::<Vec<_>>(),
        ["0.0.0.0_80"],
        "{listeners:?}"
    );
    assert_eq!(edge.http(80, "first.com", "/").cluster, "outbound|80||a.com");
    assert_eq!(edge.http(80, "other1.com", "/").cluster, "outbound|80||b.com");
    let two = edge_of_two("10.0.0.1", "::ffff:10.0.0.1");
    assert_eq!(two.http(80, "two.com", "/").cluster, "outbound|80||b.com");
}

/// Gateways of two addresses.
fn edge_of_two(one: &str, two: &str) -> Edge {
    let server =
        |bind: &str| format!("{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*'], bind: '{bind}'}}");
    let text = gateway("a/one", 9, &server(one)) + &gateway("b/two", 1, &server(two));
    Edge::new(&(text + &virtual_service("b/two", "two", "two.com", "b.com")))
}

#[test]
fn a_name_that_envoy_would_refuse_costs_itself() {
    let server = "{port: {number: 443, name: tls, protocol: TLS}, hosts: ['*.example.com'], tls: {mode: PASSTHROUGH}}";
    let names = "'a*.example.com', b.example.com, '*.c*.example.com', '*.d.example.com'";
    let text = gateway("a/gw", 9, server)
        + &format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs, namespace: a}}\n\
             spec: {{gateways: [gw], hosts: ['*.example.com'], tls: [{{match: [{{sniHosts: [{names}]}}], route: [{{destination: {{host: b.com}}}}]}}]}}\n"
        );
    let edge = Edge::new(&text);
    let said = ["0", "2"].map(|at| format!("VirtualService/vs spec.tls[0].match[0].sniHosts[{at}] InvalidValue"));
    assert_eq!(edge.said(), said);
    assert_eq!(edge.tls(443, "b.example.com").cluster, "outbound|443||b.com");
    assert_eq!(edge.tls(443, "x.d.example.com").cluster, "outbound|443||b.com");
    assert_eq!(edge.tls(443, "a*.example.com").error, "ErrNoFilterChain");
}

#[test]
fn where_tls_ends_names_tell_routes_apart() {
    let text = shared(&listener("tls", &format!("port: 443, protocol: TLS, hostname: '*.example.com', {OWN}")));
    let route = |kind: &str, name: &str| {
        let hostnames = if kind == "TLSRoute" { format!("hostnames: [{name}.example.com], ") } else { String::new() };
        let rules = format!("rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]");
        service(&format!("infra/{name}"))
            + &object(kind, &format!("infra/{name}"), &format!("parentRefs: [{{name: shared}}], {hostnames}{rules}"))
    };
    let mut edge = edge(&(text + &route("TLSRoute", "a") + &route("TLSRoute", "b")));
    let to = |edge: &Edge, name: &str| {
        let Outcome { cluster, error, .. } = edge.tls(443, &format!("{name}.example.com"));
        format!("{cluster}{error}")
    };
    assert_eq!(to(&edge, "a"), "outbound|80||a.infra.svc.cluster.local");
    assert_eq!(to(&edge, "b"), "outbound|80||b.infra.svc.cluster.local");
    assert_eq!(to(&edge, "c"), "ErrNoFilterChain");
    // What is for all connections takes the rest.
    edge.apply(&route("TCPRoute", "rest"));
    assert_eq!(to(&edge, "b"), "outbound|80||b.infra.svc.cluster.local");
    assert_eq!(to(&edge, "c"), "outbound|80||rest.infra.svc.cluster.local");
}

#[test]
fn a_server_that_is_left_out_leaves_its_hosts_to_nobody() {
    let server = |name: &str, host: &str, tls: &str| {
        format!(
            "{{port: {{number: 443, name: {name}, protocol: HTTPS}}, hosts: ['{host}'], tls: {{credentialName: x, {tls}}}}}"
        )
    };
    let wide = server("wide", "*.example.com", "mode: SIMPLE");
    let routes = virtual_service("a/vs", "gw", "'*.example.com', admin.example.com", "shop.com");
    let of = |admin: &str| Edge::new(&(gateway("a/gw", 1, &format!("{admin}, {wide}")) + &routes));
    for bad in ["mode: MUTUAL, novel: true", "mode: MUTUAL, verifyCertificateHash: [x]", "mode: NOVEL"] {
        let edge = of(&server("admin", "admin.example.com", bad));
        assert_eq!(edge.https("admin.example.com", "admin.example.com").cluster, UNKNOWN_SERVICE, "{bad}");
        assert_eq!(edge.https("www.example.com", "www.example.com").cluster, "outbound|443||shop.com", "{bad}");
        assert!(!edge.said_of("spec.servers[0].tls").is_empty(), "{:?}", edge.said());
    }
    let good = of(&server("admin", "admin.example.com", "mode: MUTUAL"));
    assert_eq!(good.https("admin.example.com", "admin.example.com").cluster, "outbound|443||shop.com");
    // Without a wildcard there is nobody to keep away.
    let alone = Edge::new(&gateway("a/gw", 1, &server("admin", "admin.example.com", "mode: NOVEL")));
    assert_eq!(alone.https("admin.example.com", "admin.example.com").error, "ErrNoListener");
    // Nor is it anybody else's.
    let text = gateway("a/old", 9, &server("admin", "admin.example.com", "mode: NOVEL"))
        + &gateway("b/new", 1, &server("admin", "admin.example.com", "mode: SIMPLE"));
    assert_eq!(Edge::new(&text).said_of("HostnameConflict"), ["IstioGateway/new spec.servers[0] HostnameConflict"]);
}

#[test]
fn a_listener_that_cannot_be_leaves_its_hosts_to_nobody() {
    let missing = "port: 443, protocol: HTTPS, hostname: admin.example.com, tls: {certificateRefs: [{name: gone}]}";
    let listeners = [
        listener("admin", missing),
        listener("wide", &format!("port: 443, protocol: HTTPS, hostname: '*.example.com', {OWN}")),
    ];
    let route = object(
        "HTTPRoute",
        "infra/all",
        "parentRefs: [{name: shared, sectionName: wide}], rules: [{backendRefs: [{name: web, port: 80}]}]",
    );
    let edge = edge(&(shared(&listeners.join(", ")) + &service("infra/web") + &route));
    assert_eq!(edge.https("admin.example.com", "www.example.com").cluster, UNKNOWN_SERVICE);
    assert_eq!(edge.https("www.example.com", "www.example.com").cluster, "outbound|80||web.infra.svc.cluster.local");
}

#[test]
fn a_gateway_and_a_listener_set_may_have_one_name() {
    let https = |host: &str| listener("https", &format!("port: 443, protocol: HTTPS, hostname: {host}, {OWN}"));
    let set = format!("parentRef: {{name: shared}}, listeners: [{}]", https("set.com"));
    let mut text = shared(&https("own.com")) + &object("ListenerSet", "infra/shared", &set) + &service("infra/web");
    for (name, kind) in [("own", "Gateway"), ("set", "ListenerSet")] {
        let rules = "rules: [{backendRefs: [{name: web, port: 80}]}]";
        text += &object(
            "HTTPRoute",
            &format!("infra/{name}"),
            &format!("parentRefs: [{{kind: {kind}, name: shared}}], {rules}"),
        );
    }
    let edge = edge(&text);
    for host in ["own.com", "set.com"] {
        assert_eq!(
            edge.https(host, host).cluster,
            "outbound|80||web.infra.svc.cluster.local",
            "{host}: {:?}",
            edge.said()
        );
    }
    assert!(edge.said_of("PortNameConflict").is_empty());
}

#[test]
fn names_in_certificates_by_anybody_open_nothing() {
    let server = |more: &str| {
        format!(
            "{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [a.com], tls: {{mode: MUTUAL, credentialName: x, {more}}}}}"
        )
    };
    let policy = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: istio-system}\n\
                  spec: {selector: {matchLabels: {istio: ingressgateway}}, rules: [{from: [{source: {principals: [a/b]}}]}]}\n";
    let said = |more: &str| Edge::new(&(gateway("a/gw", 1, &server(more)) + policy)).said_of("AuthorizationPolicy");
    assert!(said("").is_empty());
    assert_eq!(
        said("insecureSkipVerify: true"),
        ["AuthorizationPolicy/p spec.rules[0].from[0].source.principals UnsupportedValue"]
    );
}

#[test]
fn a_rule_is_not_blamed_for_a_policy_beside_it() {
    let policy = object(
        "BackendTLSPolicy",
        "infra/policy",
        "targetRefs: [{group: '', kind: Service, name: web}], \
         validation: {hostname: a.com, caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}]}",
    );
    let route =
        object("HTTPRoute", "infra/r", "parentRefs: [{name: shared}], rules: [{backendRefs: [{name: web, port: 80}]}]");
    let text = shared(&listener("http", "port: 80, protocol: HTTP")) + &service("infra/web") + &policy + &route;
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: rule, namespace: infra}\n\
                spec: {host: web, trafficPolicy: {loadBalancer: {simple: RANDOM}}}\n";
    for text in [text.clone(), text + rule] {
        let edge = edge(&text);
        assert_eq!(edge.http(80, "a.com", "/").cluster, "outbound|80||web.infra.svc.cluster.local");
        assert!(edge.said_of("DestinationRule").is_empty(), "{:?}", edge.said());
        assert_eq!(edge.said_of("BackendTLSPolicy").len(), 1, "{:?}", edge.said());
    }
}
