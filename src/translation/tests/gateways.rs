//! What several gateways make of one port, in terms of where calls go.

use super::simulation::{Call, Outcome, Told};
use super::*;

/// A mesh with a gateway in `istio-system`.
pub(super) struct Edge {
    pub(super) world: World,
    scope: Scope,
}

impl Edge {
    pub(super) fn new(text: &str) -> Self {
        Self::of("# Proxy: router istio-system/istio=ingressgateway", text)
    }

    pub(super) fn of(proxy: &str, text: &str) -> Self {
        let given = Given::new(proxy);
        let scope = given.proxy.clone().expect("a gateway");
        let mut edge = Self { world: World::new(&given), scope };
        edge.apply(text);
        edge
    }

    pub(super) fn apply(&mut self, text: &str) {
        self.world.apply(objects(text).into_iter().map(Change::Put));
    }

    pub(super) fn call(&self, call: &Call) -> Outcome {
        Told::of(&self.world.views, &self.scope).call(call)
    }

    pub(super) fn http(&self, port: u16, host: &str, path: &str) -> Outcome {
        self.call(&Call { port, host: Some(host.into()), path: path.into(), ..Call::default() })
    }

    pub(super) fn tls(&self, port: u16, name: &str) -> Outcome {
        self.call(&Call { port, sni: Some(name.into()), ..Call::default() })
    }

    /// What is said, but for destinations, which need not be there.
    pub(super) fn said(&self) -> Vec<String> {
        let of = |one: crate::graph::Diagnostic| {
            format!("{}/{} {} {}", one.subject.kind, one.subject.name, one.field, one.reason)
        };
        let all = self.world.translation.graph.diagnostics().into_iter();
        all.filter(|one| one.reason != "ReferencedResourceNotFound").map(of).collect()
    }
}

/// An Istio Gateway in a namespace, of an age in days.
pub(super) fn gateway(key: &str, age: u32, servers: &str) -> String {
    let (namespace, name) = key.split_once('/').expect("namespace and name");
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\n\
         metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2024-02-{:02}T00:00:00Z'}}\n\
         spec: {{selector: {{istio: ingressgateway}}, servers: [{servers}]}}\n",
        28 - age
    )
}

/// A virtual service that sends all requests for hosts to one.
pub(super) fn virtual_service(key: &str, gateways: &str, hosts: &str, to: &str) -> String {
    let (namespace, name) = key.split_once('/').expect("namespace and name");
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{gateways: [{gateways}], hosts: [{hosts}], http: [{{route: [{{destination: {{host: {to}}}}}]}}]}}\n"
    )
}

const HTTP: &str = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";

/// Whoever has the label of a Gateway listens for it, in its namespace alone; no
/// other Gateway of the namespace is for it, nor one of that name elsewhere.
#[test]
fn proxies_that_were_made_serve_one_gateway() {
    let of = |namespace: &str, name: &str, port: u16| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
             metadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{gatewayClassName: istio, listeners: [{{name: l, port: {port}, protocol: HTTP}}]}}\n"
        )
    };
    let text = of("a", "gw", 80) + &of("a", "other", 81) + &of("b", "gw", 82);
    let listens = |proxy: &str| {
        let edge = Edge::of(&format!("# Proxy: router {proxy}"), &text);
        [80, 81, 82].map(|port| edge.http(port, "a.com", "/").error != "ErrNoListener")
    };
    let label = "gateway.networking.k8s.io/gateway-name";
    assert_eq!(listens(&format!("a/{label}=gw")), [true, false, false]);
    assert_eq!(listens(&format!("b/{label}=gw")), [false, false, true]);
    assert_eq!(listens(&format!("c/{label}=gw")), [false; 3], "there is no Gateway");
    assert_eq!(listens("a/istio=gw"), [false; 3], "they do not say so");
}

/// A Gateway that names several Services of the user's is served by the pods
/// behind any of them, each at the ports of its own Services.
#[test]
fn a_gateway_may_be_behind_several_services() {
    let service = |name: &str, target: u16| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: a}}\n\
             spec: {{clusterIP: 10.96.0.{}, selector: {{app: {name}}}, ports: [{{port: 80, targetPort: {target}}}]}}\n",
            target % 100
        )
    };
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: a}\n\
                   spec: {gatewayClassName: istio, listeners: [{name: l, port: 80, protocol: HTTP}],\n\
                   \x20 addresses: [{type: Hostname, value: one}, {type: Hostname, value: two.a.svc.cluster.local}]}\n";
    let text = service("one", 8081) + &service("two", 8082) + &service("three", 8083) + gateway;
    let listens = |app: &str| {
        let edge = Edge::of(&format!("# Proxy: router a/app={app}"), &text);
        [8081, 8082, 8083, 80].map(|port| edge.http(port, "a.com", "/").error != "ErrNoListener")
    };
    assert_eq!(listens("one"), [true, false, false, false]);
    assert_eq!(listens("two"), [false, true, false, false]);
    assert_eq!(listens("three"), [false; 4], "the Gateway does not name its Service");
}

#[test]
fn the_oldest_gateway_has_the_port() {
    let tcp = "{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}";
    for (http_age, tcp_age, wins) in [(9, 1, "http"), (1, 9, "tcp")] {
        let mut text = gateway("a/web", http_age, HTTP) + &gateway("b/db", tcp_age, tcp);
        text += &virtual_service("a/web", "web", "'*'", "web.example.com");
        text += "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: db, namespace: b}\n\
                 spec: {gateways: [db], hosts: ['*'], tcp: [{route: [{destination: {host: db.example.com, port: {number: 3306}}}]}]}\n";
        let edge = Edge::new(&text);
        let got = edge.http(80, "web.example.com", "/");
        let (cluster, loser) = match wins {
            "http" => ("outbound|80||web.example.com", "IstioGateway/db spec.servers[0] ProtocolConflict"),
            _ => ("outbound|3306||db.example.com", "IstioGateway/web spec.servers[0] ProtocolConflict"),
        };
        assert_eq!(got.cluster, cluster);
        assert_eq!(edge.said(), [loser]);
    }
}

#[test]
fn a_port_of_another_address_is_another_port() {
    let bound = |name: &str, protocol: &str, bind: &str| {
        format!("{{port: {{number: 80, name: {name}, protocol: {protocol}}}, hosts: ['*'], bind: {bind}}}")
    };
    let servers = [bound("http", "HTTP", "10.0.0.1"), bound("tcp", "TCP", "10.0.0.2")].join(", ");
    let text = gateway("a/web", 1, &servers)
        + "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: db, namespace: a}\n\
           spec: {gateways: [web], hosts: ['*'], tcp: [{route: [{destination: {host: db.example.com}}]}]}\n";
    let edge = Edge::new(&text);
    let names: Vec<_> = edge.world.sent().into_keys().map(|(_, name)| name).collect();
    assert!(names.contains(&"10.0.0.1_80".to_owned()) && names.contains(&"10.0.0.2_80".to_owned()), "{names:?}");
    assert!(names.contains(&"http.80.10.0.0.1".to_owned()), "{names:?}");
    assert!(edge.said().is_empty());
}

#[test]
fn a_host_of_a_namespace_takes_routes_of_that_namespace_alone() {
    let server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop/*.example.com, ./own.example.com]}";
    let mut text = gateway("edge/gw", 1, server);
    text += &virtual_service("shop/good", "edge/gw", "a.example.com", "good.example.com");
    text += &virtual_service("evil/bad", "edge/gw", "b.example.com", "bad.example.com");
    text += &virtual_service("edge/own", "gw", "own.example.com", "own.example.com");
    let edge = Edge::new(&text);
    assert_eq!(edge.http(80, "a.example.com", "/").cluster, "outbound|80||good.example.com");
    assert_eq!(edge.http(80, "b.example.com", "/").error, "ErrNoVirtualHost");
    assert_eq!(edge.http(80, "own.example.com", "/").cluster, "outbound|80||own.example.com");
}

#[test]
fn what_is_not_exported_is_not_seen_at_the_gateway() {
    let exported = |name: &str, to: &str| {
        let text = virtual_service(&format!("shop/{name}"), "shop/gw", &format!("{name}.com"), "x.com");
        text.replace("spec: {", &format!("spec: {{exportTo: ['{to}'], "))
    };
    let text = gateway("shop/gw", 1, HTTP)
        + &exported("all", "*")
        + &exported("own", ".")
        + &exported("here", "istio-system")
        + &exported("none", "~");
    let edge = Edge::new(&text);
    let found = ["all.com", "own.com", "here.com", "none.com"].map(|host| edge.http(80, host, "/").error.is_empty());
    assert_eq!(found, [true, false, true, false]);
}

#[test]
fn names_of_tls_have_one_chain_each() {
    let pass = |name: &str, host: &str| {
        format!("{{port: {{number: 443, name: {name}, protocol: TLS}}, hosts: ['{host}'], tls: {{mode: PASSTHROUGH}}}}")
    };
    let rule = |key: &str, gateway: &str, hosts: &str, names: &str, to: &str| {
        let (namespace, name) = key.split_once('/').expect("namespace and name");
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{gateways: [{gateway}], hosts: [{hosts}], tls: [{{match: [{{sniHosts: [{names}]}}], route: [{{destination: {{host: {to}}}}}]}}]}}\n"
        )
    };
    let mut text =
        gateway("a/one", 9, &pass("tls", "*.example.com")) + &gateway("b/two", 1, &pass("tls", "*.example.com"));
    text += &rule("a/first", "one", "a.example.com", "a.example.com", "first.com");
    text += &rule("a/second", "one", "a.example.com", "a.example.com", "second.com");
    text += &rule("a/third", "one", "c.example.com", "evil.com", "third.com");
    text += &rule("b/other", "two", "b.example.com", "b.example.com", "other.com");
    let edge = Edge::new(&text);
    assert_eq!(edge.tls(443, "a.example.com").cluster, "outbound|443||first.com");
    assert_eq!(edge.tls(443, "evil.com").error, "ErrNoFilterChain");
    assert_eq!(edge.tls(443, "b.example.com").error, "ErrNoFilterChain");
    assert_eq!(
        edge.said(),
        [
            "IstioGateway/two spec.servers[0] HostnameConflict",
            "VirtualService/second spec.tls[0].match[0].sniHosts[0] HostnameConflict",
            "VirtualService/third spec.tls[0].match[0].sniHosts[0] HostnameConflict",
        ]
    );
}

#[test]
fn routes_of_several_objects_are_for_one_host() {
    let one = |key: &str, prefix: &str, to: &str| {
        virtual_service(key, "edge/gw", "a.com", to)
            .replace("http: [{", &format!("http: [{{match: [{{uri: {{prefix: {prefix}}}}}], "))
    };
    // The one that always matches is the oldest, and comes last all the same.
    let mut text =
        gateway("edge/gw", 1, HTTP) + &one("shop/aa", "/", "rest.com") + &one("shop/bb", "/cart", "cart.com");
    text += &one("blog/cc", "/blog", "blog.com");
    let edge = Edge::new(&text);
    let to = |path: &str| edge.http(80, "a.com", path).cluster;
    assert_eq!(to("/cart/1"), "outbound|80||cart.com");
    assert_eq!(to("/blog"), "outbound|80||blog.com");
    assert_eq!(to("/"), "outbound|80||rest.com");
}

#[test]
fn rules_are_for_the_gateways_that_they_name() {
    let text = gateway("edge/one", 9, HTTP)
        + &gateway("edge/two", 1, &HTTP.replace("80", "81"))
        + "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: vs, namespace: edge}\n\
           spec:\n  gateways: [one, two, mesh]\n  hosts: [a.com]\n  http:\n\
           \x20 - {match: [{gateways: [one], port: 80}], route: [{destination: {host: one.com}}]}\n\
           \x20 - {match: [{gateways: [mesh]}], route: [{destination: {host: mesh.com}}]}\n\
           \x20 - {match: [{sourceLabels: {istio: other}}], route: [{destination: {host: labels.com}}]}\n\
           \x20 - {match: [{gateways: [edge/two]}], route: [{destination: {host: two.com}}]}\n";
    let edge = Edge::new(&text);
    assert_eq!(edge.http(80, "a.com", "/").cluster, "outbound|80||one.com");
    assert_eq!(edge.http(81, "a.com", "/").cluster, "outbound|81||two.com");
}

#[test]
fn a_port_is_listened_on_where_the_service_says() {
    let service = |name: &str, age: &str, target: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: istio-system, creationTimestamp: '{age}'}}\n\
             spec: {{clusterIP: 10.96.0.9, selector: {{istio: ingressgateway}}, ports: [{{port: 80, targetPort: {target}}}]}}\n"
        )
    };
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: gw, namespace: istio-system, labels: {istio: ingressgateway}}\n\
               spec: {containers: [{ports: [{name: web, containerPort: 8081}]}]}\n\
               status: {podIP: 10.1.0.1, phase: Running, conditions: [{type: Ready, status: 'True'}]}\n";
    let mut edge = Edge::new(&gateway("a/gw", 1, HTTP));
    assert_eq!(edge.http(80, "a.com", "/").virtual_host, "blackhole:80");
    edge.apply(&service("young", "2024-02-02T00:00:00Z", "8080"));
    assert_eq!(edge.http(8080, "a.com", "/").route_config, "http.8080");
    edge.apply(pod);
    edge.apply(&service("old", "2024-02-01T00:00:00Z", "web"));
    assert_eq!(edge.http(8081, "a.com", "/").virtual_host, "blackhole:80");
    assert_eq!(edge.http(8080, "a.com", "/").error, "ErrNoListener");
    let unprivileged =
        Edge::of("# Proxy: router istio-system/istio=ingressgateway\n# Unprivileged", &gateway("a/gw", 1, HTTP));
    assert_eq!(unprivileged.http(80, "a.com", "/").error, "ErrNoListener");
    assert_eq!(unprivileged.said(), ["IstioGateway/gw spec.servers[0] PortUnavailable"]);
}
