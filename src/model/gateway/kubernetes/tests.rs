//! Objects in; what gateways listen for and what is bound to them, out.

use std::sync::Arc;

use super::Said;
use crate::api::{Change, Inputs, Kind, Object, ObjectKey};
use crate::credential::{Grant, Part, Place};
use crate::graph::Graph;
use crate::model::gateway::{ClientCa, Declared, GatewayKey, Proxies, RouteKey, RouteKind, Server, ServerTls, TlsMode};
use crate::model::secret::testing::{pair, secret};
use crate::model::{Model, Settings};
use crate::source::documents::{Document, read};
use crate::status::facts::{self, About};

const NAMESPACES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: x, labels: {team: one}}
---
apiVersion: v1
kind: Namespace
metadata: {name: y, labels: {team: two}}
---
";

struct World {
    graph: Graph,
    model: Model,
    facts: facts::Collections,
}

/// A mesh in which nobody has looked for credentials yet.
fn world(yaml: &str) -> World {
    world_with(Settings { credentials_by_name: true, ..Settings::default() }, yaml, Vec::new())
}

fn world_with(settings: Settings, yaml: &str, more: Vec<Object>) -> World {
    let mut graph = Graph::new();
    let inputs = Inputs::new(&mut graph);
    let model = Model::new(&mut graph, inputs, Arc::new(settings));
    let facts = facts::collections(&mut graph, &model);
    for document in read(&format!("{NAMESPACES}{yaml}")) {
        match document {
            Document::Object(object) => inputs.apply(&mut graph, Change::Put(object)),
            other => panic!("{other:?}"),
        }
    }
    more.into_iter().for_each(|object| inputs.apply(&mut graph, Change::Put(object)));
    graph.commit();
    World { graph, model, facts }
}

/// A Gateway in namespace `x`, given its `spec` but for the class.
fn gateway(name: &str, spec: &str) -> String {
    object("Gateway", "x", name, &format!("gatewayClassName: istio, {spec}"))
}

fn object(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{{spec}}}\n---\n"
    )
}

fn route(namespace: &str, name: &str, parent: &str, hostnames: &str) -> String {
    object("HTTPRoute", namespace, name, &format!("parentRefs: [{{{parent}}}], hostnames: [{hostnames}]"))
}

/// Where a route is bound: servers with their hosts.
fn bound(world: &World, kind: RouteKind, namespace: &str, name: &str) -> Vec<String> {
    let key = RouteKey { kind, object: ObjectKey::new(namespace, name) };
    let Some(bound) = world.graph.get(world.model.gateway_api.source.bound, &key) else { return Vec::new() };
    let line = |one: &crate::model::gateway::Binding| {
        let hosts: Vec<_> = one.hosts.iter().map(|host| &**host).collect();
        format!("{}/{}: {}", one.gateway.name, one.server.as_deref().unwrap_or("any"), hosts.join(" "))
    };
    bound.to.iter().map(line).collect()
}

#[track_caller]
fn check(world: &World, route: &str, expected: &[&str]) {
    assert_eq!(bound(world, RouteKind::HTTPRoute, "x", route), expected, "{route}");
}

fn servers(world: &World, declared: Declared, name: &str) -> Option<(Proxies, Vec<Server>)> {
    let key = GatewayKey { declared, namespace: "x".into(), name: name.into() };
    let row = world.graph.get(world.model.gateway_api.source.servers, &key)?;
    Some((row.proxies.clone(), row.servers.to_vec()))
}

#[test]
fn hosts_are_what_routes_and_listeners_have_in_common() {
    let listeners = "listeners: [
        {name: any, port: 80, protocol: HTTP},
        {name: wild, port: 81, protocol: HTTP, hostname: '*.Example.com'},
        {name: exact, port: 82, protocol: HTTP, hostname: a.example.com}]";
    let world = world(
        &(gateway("g", listeners)
            + &route("x", "none", "name: g", "")
            + &route("x", "exact", "name: g", "a.example.com, other.org")
            + &route("x", "below", "name: g", "b.a.example.com")
            + &route("x", "wide", "name: g", "'*.com'")
            + &route("x", "apex", "name: g, sectionName: wild", "example.com")
            + &route("x", "section", "name: g, sectionName: wild", "a.example.com")
            + &route("x", "port", "name: g, port: 82", "'*.example.com'")),
    );
    check(&world, "none", &["g/any: *", "g/exact: a.example.com", "g/wild: *.example.com"]);
    check(&world, "exact", &["g/any: a.example.com other.org", "g/exact: a.example.com", "g/wild: a.example.com"]);
    check(&world, "below", &["g/any: b.a.example.com", "g/wild: b.a.example.com"]);
    check(&world, "wide", &["g/any: *.com", "g/exact: a.example.com", "g/wild: *.example.com"]);
    check(&world, "apex", &[]);
    check(&world, "section", &["g/wild: a.example.com"]);
    check(&world, "port", &["g/exact: a.example.com"]);
}

#[test]
fn the_most_particular_listener_of_a_port_has_its_hosts_to_itself() {
    let listeners = "listeners: [
        {name: any, port: 80, protocol: HTTP},
        {name: wild, port: 80, protocol: HTTP, hostname: '*.example.com'},
        {name: exact, port: 80, protocol: HTTP, hostname: a.example.com},
        {name: elsewhere, port: 81, protocol: HTTP, hostname: b.example.com}]";
    let world = world(
        &(gateway("g", listeners)
            + &route("x", "r", "name: g", "a.example.com, b.example.com, other.org")
            + &route("x", "only-any", "name: g, sectionName: any", "a.example.com")),
    );
    let expected =
        ["g/any: other.org", "g/elsewhere: b.example.com", "g/exact: a.example.com", "g/wild: b.example.com"];
    check(&world, "r", &expected);
    check(&world, "only-any", &[]);
}

#[test]
fn listeners_say_whose_routes_they_take() {
    let listeners = "listeners: [
        {name: same, port: 80, protocol: HTTP},
        {name: all, port: 81, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}},
        {name: some, port: 82, protocol: HTTP,
         allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: two}}}}},
        {name: named, port: 83, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector,
         selector: {matchLabels: {kubernetes.io/metadata.name: y}}}}},
        {name: nobody, port: 84, protocol: HTTP, allowedRoutes: {namespaces: {from: None}}},
        {name: grpc, port: 85, protocol: HTTP, allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}},
        {name: tcp, port: 86, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}]";
    let tcp = object("TCPRoute", "y", "t", "parentRefs: [{name: g, namespace: x}], rules: [{}]");
    let world = world(
        &(gateway("g", listeners)
            + &route("x", "own", "name: g", "")
            + &route("y", "theirs", "name: g, namespace: x", "")
            + &tcp),
    );
    check(&world, "own", &["g/all: *", "g/same: *"]);
    assert_eq!(bound(&world, RouteKind::HTTPRoute, "y", "theirs"), ["g/all: *", "g/named: *", "g/some: *"]);
    assert_eq!(bound(&world, RouteKind::TCPRoute, "y", "t"), ["g/tcp: *"]);
}

#[test]
fn what_is_bound_nowhere_says_why() {
    let listeners = "listeners: [
        {name: http, port: 80, protocol: HTTP, hostname: a.example.com},
        {name: tcp, port: 81, protocol: TCP}]";
    let reason = |parent: &str, hostnames: &str, namespace: &str| {
        let world = world(&(gateway("g", listeners) + &route(namespace, "r", parent, hostnames)));
        let facts =
            world.facts.objects.iter().find(|(kind, _)| *kind == Kind::HTTPRoute).expect("the kind has facts").1;
        let facts = world.graph.get(facts, &ObjectKey::new(namespace, "r")).expect("it is ours");
        let About::Route { parents, .. } = &facts.about else { panic!("{facts:?}") };
        parents[0].denied.as_ref().map(|(reason, _)| *reason)
    };
    assert_eq!(reason("name: g", "a.example.com", "x"), None);
    assert_eq!(reason("name: g", "b.example.com", "x"), Some("NoMatchingListenerHostname"));
    assert_eq!(reason("name: g, port: 82", "", "x"), Some("NoMatchingParent"));
    assert_eq!(reason("name: g, sectionName: gone", "", "x"), Some("NoMatchingParent"));
    assert_eq!(reason("name: g, namespace: x", "", "y"), Some("NotAllowedByListeners"));
    assert_eq!(reason("name: g, sectionName: tcp", "", "x"), Some("NotAllowedByListeners"));
    // What adds listeners to a Gateway that does not let it.
    let set =
        object("ListenerSet", "x", "s", "parentRef: {name: g}, listeners: [{name: more, port: 80, protocol: HTTP}]");
    let world = world(&(gateway("g", listeners) + &set + &route("x", "r", "kind: ListenerSet, name: s", "")));
    let facts = world.facts.objects.iter().find(|(kind, _)| *kind == Kind::HTTPRoute).expect("the kind has facts").1;
    let facts = world.graph.get(facts, &ObjectKey::new("x", "r")).expect("it is ours");
    let About::Route { parents, .. } = &facts.about else { panic!("{facts:?}") };
    assert_eq!(parents[0].denied.as_ref().map(|(reason, _)| *reason), Some("NotAllowedByListeners"));
    check(&world, "r", &[]);
}

#[test]
fn what_is_added_to_a_gateway_is_another_gateway_for_routes() {
    let spec = "allowedListeners: {namespaces: {from: All}}, listeners: [{name: http, port: 80, protocol: HTTP}]";
    let set = object(
        "ListenerSet",
        "y",
        "s",
        "parentRef: {name: g, namespace: x}, listeners: [
        {name: more, protocol: HTTP, hostname: a.example.com, allowedRoutes: {namespaces: {from: All}}}]",
    );
    let world = world(
        &(gateway("g", spec)
            + &set
            + &route("x", "at-set", "kind: ListenerSet, name: s, namespace: y", "")
            + &route("x", "at-gateway", "name: g", "a.example.com")
            + &route("x", "missing", "name: g, sectionName: more", "")),
    );
    check(&world, "at-set", &["s/more: a.example.com"]);
    // The listener that was added is more particular.
    check(&world, "at-gateway", &[]);
    check(&world, "missing", &[]);
    let key = GatewayKey { declared: Declared::ListenerSet, namespace: "y".into(), name: "s".into() };
    let row = world.graph.get(world.model.gateway_api.source.servers, &key).expect("it counts");
    assert_eq!(row.proxies, Proxies::Made { namespace: "x".into(), gateway: "g".into() });
    assert_eq!((row.servers[0].port, &*row.servers[0].hosts[0].host), (80, "a.example.com"));
}

#[test]
fn proxies_are_made_or_somebody_elses() {
    let listeners = "listeners: [{name: http, port: 80, protocol: HTTP}]";
    let world = world(
        &(gateway("made", listeners)
            + &gateway("ip", &format!("addresses: [{{type: IPAddress, value: 192.0.2.1}}], {listeners}"))
            + &gateway("mine", &format!("addresses: [{{type: Hostname, value: mine}}], {listeners}"))
            + &gateway(
                "both",
                &format!(
                    "addresses: [{{type: Hostname, value: other.x.svc.cluster.local}}, \
                     {{type: Hostname, value: mine}}, {{type: Hostname, value: other}}], {listeners}"
                ),
            )
            + &gateway("none", &format!("addresses: [{{type: example.com/x, value: y}}], {listeners}"))
            + &object("Gateway", "x", "w", &format!("gatewayClassName: istio-waypoint, {listeners}"))
            + &object("Gateway", "x", "theirs", &format!("gatewayClassName: nginx, {listeners}"))),
    );
    let proxies = |name| servers(&world, Declared::Kubernetes, name).map(|(proxies, _)| proxies);
    let made = |name: &str| Some(Proxies::Made { namespace: "x".into(), gateway: name.into() });
    assert_eq!(proxies("made"), made("made"));
    assert_eq!(proxies("ip"), made("ip"));
    let behind = |names: &[&str]| {
        let hostname = |name: &&str| format!("{name}.x.svc.cluster.local").into();
        let key = |name| crate::model::service::ServiceKey { namespace: "x".into(), hostname: hostname(name) };
        Some(Proxies::Behind(names.iter().map(key).collect()))
    };
    assert_eq!(proxies("mine"), behind(&["mine"]));
    assert_eq!(proxies("both"), behind(&["mine", "other"]));
    for name in ["none", "w", "theirs"] {
        assert_eq!(proxies(name), None, "{name}");
    }
}

/// TLS of the only server of a Gateway with one listener; why there is none.
fn tls(listener: &str, more: &str, others: &str) -> Result<ServerTls, Said> {
    let listener = format!("listeners: [{{name: l, port: 443, protocol: HTTPS, tls: {{{listener}}}}}]{more}");
    let world = world(&(gateway("g", &listener) + others));
    let checked = world.graph.get(world.model.gateway_api.checked, &ObjectKey::new("x", "g")).expect("it is ours");
    let one = &checked.listeners[0];
    match &one.server {
        Some(server) => Ok(server.tls.as_deref().cloned().expect("it has TLS")),
        None => Err(one.resolved.clone().and(one.accepted.clone()).expect_err("it says why")),
    }
}

fn certificates(tls: &ServerTls) -> Vec<String> {
    tls.certificates.iter().map(|one| format!("{one:?}")).collect()
}

#[test]
fn certificates_of_other_namespaces_need_a_grant() {
    let found = tls("certificateRefs: [{name: s}]", "", "").expect("it is beside the Gateway");
    assert_eq!(
        (found.mode, certificates(&found)),
        (TlsMode::Simple, vec![r#"Secret("kubernetes-gateway://x/s")"#.into()])
    );
    let theirs = "certificateRefs: [{name: s, namespace: y}]";
    assert_eq!(tls(theirs, "", "").expect_err("nobody said so").reason, "RefNotPermitted");
    let grant = |kind: &str, name: &str| {
        object(
            "ReferenceGrant",
            "y",
            "grant",
            &format!(
                "from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: x}}], to: [{{group: '', kind: Secret{name}}}]"
            ),
        )
    };
    assert!(tls(theirs, "", &grant("Gateway", "")).is_ok());
    assert!(tls(theirs, "", &grant("Gateway", ", name: s")).is_ok());
    assert_eq!(tls(theirs, "", &grant("Gateway", ", name: t")).expect_err("another one").reason, "RefNotPermitted");
    assert_eq!(tls(theirs, "", &grant("HTTPRoute", "")).expect_err("another kind").reason, "RefNotPermitted");
    // What can be had is presented.
    let both = tls("certificateRefs: [{name: s}, {name: s, namespace: y}]", "", "").expect("one of two");
    assert_eq!(both.certificates.len(), 1);
    for (references, reason) in [
        ("{kind: ConfigMap, name: s}", "InvalidCertificateRef"),
        ("{group: example.com, name: s}", "InvalidCertificateRef"),
        ("{name: a}, {name: b}, {name: c}", "InvalidCertificateRef"),
        ("{name: '?limit=500'}", "InvalidCertificateRef"),
        ("{name: ../configmaps/s}", "InvalidCertificateRef"),
        ("{name: 'a b'}", "InvalidCertificateRef"),
        ("", "InvalidCertificateRef"),
    ] {
        let said = tls(&format!("certificateRefs: [{references}]"), "", "").expect_err(references);
        assert_eq!(said.reason, reason, "{references}");
    }
}

#[test]
fn clients_prove_who_they_are_if_the_gateway_asks() {
    let own = "certificateRefs: [{name: s}]";
    let asking = |reference: &str, mode: &str| {
        format!(", tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [{reference}]{mode}}}}}}}}}")
    };
    let found = tls(own, &asking("{group: '', kind: ConfigMap, name: roots}", ""), "").expect("they can be had");
    assert_eq!(found.mode, TlsMode::Mutual);
    assert_eq!(found.client_ca, Some(ClientCa::Secret("configmap://x/roots-cacert".into())));
    assert!(!found.accept_untrusted);
    let fallback = asking("{group: '', kind: Secret, name: roots}", ", mode: AllowInsecureFallback");
    let found = tls(own, &fallback, "").expect("they can be had");
    assert_eq!((found.mode, found.accept_untrusted), (TlsMode::OptionalMutual, true));
    assert_eq!(found.client_ca, Some(ClientCa::Secret("kubernetes-gateway://x/roots-cacert".into())));
    let other_port = ", tls: {frontend: {default: {validation: {caCertificateRefs: [{kind: ConfigMap, name: roots}]}}, \
                      perPort: [{port: 443, tls: {}}]}}";
    assert_eq!(tls(own, other_port, "").expect("nobody is asked there").mode, TlsMode::Simple);
    for (reference, reason) in [
        ("{group: '', kind: Service, name: roots}", "InvalidCACertificateKind"),
        ("{group: '', kind: ConfigMap, name: roots, namespace: y}", "RefNotPermitted"),
        ("{group: '', kind: ConfigMap, name: a}, {group: '', kind: ConfigMap, name: b}", "InvalidCACertificateRef"),
        ("{group: '', kind: ConfigMap, name: '?watch'}", "InvalidCACertificateRef"),
    ] {
        assert_eq!(tls(own, &asking(reference, ""), "").expect_err(reference).reason, reason, "{reference}");
    }
    // What a listener says can only ask for more.
    let with = |option: &str, mode: &str| {
        let listener = format!("{own}, options: {{gateway.istio.io/tls-terminate-mode: {option}}}");
        tls(&listener, &asking("{group: '', kind: ConfigMap, name: roots}", mode), "")
    };
    let insecure = ", mode: AllowInsecureFallback";
    for (option, mode, expected) in [
        ("SIMPLE", "", (TlsMode::Mutual, false)),
        ("OPTIONAL_MUTUAL", "", (TlsMode::Mutual, false)),
        ("MUTUAL", "", (TlsMode::Mutual, false)),
        ("SIMPLE", insecure, (TlsMode::OptionalMutual, true)),
        ("OPTIONAL_MUTUAL", insecure, (TlsMode::OptionalMutual, false)),
        ("MUTUAL", insecure, (TlsMode::Mutual, false)),
    ] {
        let found = with(option, mode).expect(option);
        assert_eq!((found.mode, found.accept_untrusted), expected, "{option}{mode}");
    }
    for option in ["ISTIO_SIMPLE", "ISTIO_MUTUAL"] {
        assert_eq!(with(option, "").expect_err(option).reason, "UnsupportedValue", "{option}");
    }
}

#[test]
fn istios_options_are_honoured() {
    let with = |options: &str| tls(&format!("certificateRefs: [{{name: s}}], options: {{{options}}}"), "", "");
    let found = with("gateway.istio.io/tls-terminate-mode: MUTUAL").expect("it is TLS");
    assert_eq!(found.mode, TlsMode::Mutual);
    assert_eq!(found.client_ca, Some(ClientCa::Secret("kubernetes-gateway://x/s-cacert".into())));
    let found = with("gateway.istio.io/tls-terminate-mode: ISTIO_MUTUAL").expect("it is TLS");
    assert_eq!((found.mode, found.certificates.len()), (TlsMode::IstioMutual, 0));
    let found = with("gateway.istio.io/tls-terminate-mode: MUTAUL").expect_err("it may be meant to keep somebody out");
    assert_eq!(found.reason, "UnsupportedValue");
    let found = with("gateway.istio.io/tls-cipher-suites: 'A, B,'").expect("it is TLS");
    assert_eq!(found.cipher_suites.to_vec(), ["A".into(), "B".into()]);
    let world = world(&object(
        "Gateway",
        "x",
        "g",
        "gatewayClassName: istio, listeners: [{name: l, port: 15443, protocol: TLS, tls: {mode: Passthrough, options: {gateway.istio.io/listener-protocol: auto-passthrough}}}]",
    ));
    let (_, servers) = servers(&world, Declared::Kubernetes, "g").expect("it is ours");
    assert_eq!(servers[0].tls.as_ref().map(|tls| tls.mode), Some(TlsMode::AutoPassthrough));
}

#[test]
fn only_a_gateway_itself_opens_the_whole_mesh() {
    let option = "options: {gateway.istio.io/listener-protocol: auto-passthrough}";
    let set = |meta: &str, options: &str| {
        let listener = format!("{{name: l, port: 15443, protocol: TLS, tls: {{mode: Passthrough, {options}}}}}");
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{name: s, namespace: x{meta}}}\n\
             spec: {{parentRef: {{name: g}}, listeners: [{listener}]}}\n---\n"
        )
    };
    let spec = "allowedListeners: {namespaces: {from: All}}, listeners: [{name: http, port: 80, protocol: HTTP}]";
    for set in [set("", option), set(", labels: {topology.istio.io/network: n}", "")] {
        let world = world(&(gateway("g", spec) + &set));
        let checked = world.graph.get(world.model.gateway_api.checked, &ObjectKey::new("x", "g")).expect("it is ours");
        let listener = &checked.sets[0].listeners[0];
        assert_eq!(listener.accepted.as_ref().map_err(|said| said.reason), Err("UnsupportedValue"));
        let (_, servers) = servers(&world, Declared::ListenerSet, "s").expect("it counts");
        assert!(servers.iter().all(|one| one.tls.as_ref().is_some_and(|tls| tls.closed)), "{servers:?}");
    }
}

/// The only listener of a Gateway, which presents the Secret `s` beside it.
fn presenting(hostname: &str, secrets: Vec<Object>) -> super::listener::Listener {
    let listener = format!("hostname: '{hostname}', tls: {{certificateRefs: [{{name: s}}]}}");
    let yaml = gateway("g", &format!("listeners: [{{name: l, port: 443, protocol: HTTPS, {listener}}}]"));
    let world = world_with(Settings::default(), &yaml, secrets);
    let checked = world.graph.get(world.model.gateway_api.checked, &ObjectKey::new("x", "g")).expect("it is ours");
    checked.listeners[0].clone()
}

#[test]
fn what_is_in_a_secret_is_looked_at() {
    let (certificate, key) = pair("a.example.com");
    let (_, other) = pair("a.example.com");
    let with = |key: &str| vec![Object::Secret(secret("x", "s", &[("tls.crt", &certificate), ("tls.key", key)]))];
    let good = presenting("a.example.com", with(&key));
    assert_eq!((good.resolved.clone(), good.valid()), (Ok(()), true));
    for bad in [presenting("a.example.com", Vec::new()), presenting("a.example.com", with(&other))] {
        assert_eq!(bad.resolved.as_ref().map_err(|said| said.reason), Err("InvalidCertificateRef"), "{bad:?}");
        assert!(bad.server.is_none() && !bad.valid(), "{bad:?}");
    }
    // Whoever asks for another host may not mind, so nothing is wrong.
    let foreign = presenting("b.example.com", with(&key));
    assert_eq!((foreign.resolved.clone(), foreign.valid()), (Ok(()), true));
    let remark = foreign.remark.expect("it is for another host");
    assert_eq!(remark.reason, "CertificateForOtherHosts");
    assert_eq!(&*remark.message, "Secret x/s: the certificate is not for b.example.com");
    assert!(foreign.server.is_some() && good.remark.is_none());
}

#[test]
fn a_listener_that_conflicts_takes_nothing_from_those_after_it() {
    let yaml = gateway(
        "g",
        "listeners: [
            {name: one, port: 80, protocol: HTTP, hostname: a.example.com},
            {name: bytes, port: 80, protocol: TCP},
            {name: two, port: 80, protocol: HTTP, hostname: b.example.com},
            {name: again, port: 80, protocol: HTTP, hostname: a.example.com},
            {name: secure, port: 80, protocol: HTTPS, hostname: a.example.com},
            {name: beside, port: 80, protocol: HTTPS, hostname: c.example.com},
            {name: three, port: 80, protocol: HTTP},
            {name: https, port: 443, protocol: HTTPS, hostname: a.example.com},
            {name: tls, port: 443, protocol: TLS, hostname: b.example.com},
            {name: plain, port: 443, protocol: HTTP, hostname: c.example.com}]",
    );
    let world = world(&yaml);
    let checked = world.graph.get(world.model.gateway_api.checked, &ObjectKey::new("x", "g")).expect("it is ours");
    let found: Vec<_> = checked.listeners.iter().map(|one| (&*one.name, one.conflict)).collect();
    let expected = [
        ("one", None),
        ("bytes", Some("ProtocolConflict")),
        ("two", None),
        ("again", Some("HostnameConflict")),
        ("secure", Some("ProtocolConflict")),
        ("beside", Some("ProtocolConflict")),
        ("three", None),
        ("https", None),
        ("tls", None),
        ("plain", Some("ProtocolConflict")),
    ];
    assert_eq!(found, expected);
}

/// `verify-sa-for-gateway-secrets`: other accounts of the namespace may not.
#[test]
fn bulletin_verify_sa_proxies_of_a_gateway_may_have_what_it_refers_to() {
    let listener = "tls: {certificateRefs: [{name: own}, {name: theirs, namespace: y}]}";
    let spec = format!("listeners: [{{name: l, port: 443, protocol: HTTPS, {listener}}}]");
    let grant = "from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: x}], \
                 to: [{group: '', kind: Secret, name: theirs}]";
    let needed = |yaml: &str, place: &Place| {
        let world = world(yaml);
        world.graph.get(world.model.credentials.needed, place).map(|needed| needed.grants.to_vec())
    };
    let granted = |account: Option<&str>| {
        Some(vec![Grant { namespace: "x".into(), account: account.map(Into::into), part: Part::Certificate }])
    };
    let (own, theirs) = (Place::secret("x", "own"), Place::secret("y", "theirs"));
    let made = gateway("g", &spec);
    assert_eq!(needed(&made, &own), granted(Some("g-istio")));
    assert_eq!(needed(&made, &theirs), None, "nobody said that it may be referred to");
    let allowed = made + &object("ReferenceGrant", "y", "grant", grant);
    assert_eq!(needed(&allowed, &theirs), granted(Some("g-istio")));
    let mine = gateway("g", &format!("addresses: [{{type: Hostname, value: mine}}], {spec}"));
    assert_eq!(needed(&mine, &own), granted(None), "nothing is known of its account");
    let odd = gateway("g", &spec.replace("name: own", "name: '?limit=500'"));
    assert_eq!(needed(&odd, &Place::secret("x", "?limit=500")), None, "no object has such a name");
}

#[test]
fn what_is_beside_a_secret_needs_a_grant_of_its_own() {
    let option = "options: {gateway.istio.io/tls-terminate-mode: MUTUAL}";
    let listener = format!("tls: {{certificateRefs: [{{name: foo, namespace: y}}], {option}}}");
    let gateway = gateway("g", &format!("listeners: [{{name: l, port: 443, protocol: HTTPS, {listener}}}]"));
    let granted = |to: &str, place: &str| {
        let from = "from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: x}]";
        let grant = object("ReferenceGrant", "y", "grant", &format!("{from}, to: [{{group: '', kind: Secret{to}}}]"));
        let world = world(&(gateway.clone() + &grant));
        world.graph.get(world.model.credentials.needed, &Place::secret("y", place)).is_some()
    };
    assert!(granted(", name: foo", "foo"));
    assert!(!granted(", name: foo", "foo-cacert"));
    assert!(granted("", "foo") && granted("", "foo-cacert"));
}

/// `gateway-tls-ref-grant-order`: who may not refer to a Secret is told the same
/// whether it is there or not, and nothing is looked at to find out.
#[test]
fn bulletin_gateway_tls_ref_grant_order_says_nothing_of_what_is_not_granted() {
    let (certificate, key) = pair("a.example.com");
    let (_, other) = pair("a.example.com");
    let said = |secrets: Vec<Object>| {
        let listener = "hostname: a.example.com, tls: {certificateRefs: [{name: s, namespace: y}]}";
        let yaml = gateway("g", &format!("listeners: [{{name: l, port: 443, protocol: HTTPS, {listener}}}]"));
        let world = world_with(Settings::default(), &yaml, secrets);
        assert!(world.graph.get(world.model.credentials.needed, &Place::secret("y", "s")).is_none());
        let checked = world.graph.get(world.model.gateway_api.checked, &ObjectKey::new("x", "g")).expect("it is ours");
        let one = &checked.listeners[0];
        (format!("{:?}", one.resolved), one.remark.clone(), one.server.is_some())
    };
    let with = |key: &str| vec![Object::Secret(secret("y", "s", &[("tls.crt", &certificate), ("tls.key", key)]))];
    let missing = said(Vec::new());
    assert!(missing.0.contains("RefNotPermitted"), "{missing:?}");
    assert_eq!([said(with(&key)), said(with(&other)), said(with("no key"))], [(); 3].map(|()| missing.clone()));
}
