//! Who is behind a service, and how a waypoint connects to them.

use std::net::SocketAddr;

use fairway_integration_tests::child::free_address;
use fairway_integration_tests::echo::{Backend, Echo};
use fairway_integration_tests::hbone::{Client, Server};
use fairway_integration_tests::tls::Authority;
use fairway_integration_tests::waypoint::PORT;
use fairway_integration_tests::{eventually, runner};

use super::protocols::{line, lines};
use super::{Scene, count, get, get_with, pod};

/// The ServiceEntry `$name` at `127.$n.1`.
fn service_entry(hosts: &str, more: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: $name, namespace: default, labels: {{istio.io/use-waypoint: waypoint}}}}
spec:
  hosts: [{hosts}]
  addresses: [127.$n.1]
{more}
"
    )
}

/// Endpoints that an entry lists, by weight and at ports of their own; and a
/// workload entry and a pod that another selects.
pub async fn listed_and_selected() {
    let scene = Scene::new("listed").await;
    let _backends = [scene.echo(11, "v11").await, scene.echo(12, "v12").await, scene.echo(13, "v13").await];
    let listed = |weight: u32| {
        service_entry(
            "$name.example.com",
            &format!(
                "  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints:
  - {{address: 127.$n.11, ports: {{http: 8080}}, weight: {weight}}}
  - {{address: 127.$n.12, ports: {{http: 8080}}, weight: 1}}"
            ),
        )
    };
    scene.apply(&listed(1)).await;
    let client = scene.world.client("caller").await;
    let counts = count(&client, &scene.service(), 60, &[]).await;
    assert!(counts["v11"] > 10 && counts["v12"] > 10, "{counts:?}");
    scene.apply(&listed(9)).await;
    let counts = count(&client, &scene.service(), 100, &[]).await;
    assert!(counts["v11"] > 70, "{counts:?}");

    let selecting = service_entry(
        "$name.example.com",
        "  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  workloadSelector: {labels: {app: $name}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: $name, namespace: default, labels: {app: $name}}
spec: {address: 127.$n.13}",
    );
    scene.apply(&[&*selecting, &*pod(11)].concat()).await;
    let counts = count(&client, &scene.service(), 60, &[]).await;
    assert!(counts["v11"] > 10 && counts["v13"] > 10 && counts.len() == 2, "{counts:?}");
    scene.end().await;
}

/// Names are resolved by the waypoint: those of endpoints, that of the host
/// itself, and those that requests are for, if they may be.
pub async fn names() {
    let scene = Scene::new("names").await;
    let address = free_address();
    let echo = Echo::new("local");
    scene.keep(Backend::http(address, &echo).await);
    let client = scene.world.client("caller").await;
    for resolution in ["DNS", "DNS_ROUND_ROBIN"] {
        let more = format!(
            "  resolution: {resolution}
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: localhost, ports: {{http: {}}}}}]",
            address.port()
        );
        scene.apply(&service_entry("$name.example.com", &more)).await;
        assert_eq!(get(&client, &scene.service(), "/").await.who(), "local", "{resolution}");
    }

    let port = address.port();
    let dynamic = format!(
        "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: $name-any, namespace: default, labels: {{istio.io/use-waypoint: waypoint}}}}
spec:
  hosts: [\"*.localhost\"]
  resolution: DYNAMIC_DNS
  ports: [{{number: {port}, name: http, protocol: HTTP}}]
status: {{addresses: [{{value: 127.$n.2, host: \"*.localhost\"}}]}}
"
    );
    scene.apply(&dynamic).await;
    let ask = async |host: &str| get_with(&client, &scene.at(2, port), "/", &[("host", host)]).await;
    let answer = ask(&format!("some.localhost:{port}")).await;
    assert_eq!((answer.status.as_u16(), answer.who()), (200, "local".to_owned()));
    assert_eq!(ask(&format!("localhost:{port}")).await.status, 404, "not below the wildcard");
    assert_eq!(ask(&format!("some.localhost:{}", port + 1)).await.status, 404, "a port of somebody else");
    scene.end().await;
}

/// A connection goes to the address it was for, at the target port.
pub async fn as_it_came() {
    let scene = Scene::new("as-it-came").await;
    scene.keep(Backend::line(SocketAddr::new(scene.ip(70).into(), 9090), "v70").await);
    scene.keep(Backend::line(SocketAddr::new(scene.ip(71).into(), 9090), "v71").await);
    let entry = "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: $name, namespace: default, labels: {istio.io/use-waypoint: waypoint}}
spec:
  hosts: [$name.example.com]
  addresses: [127.$n.64/28]
  resolution: NONE
  ports: [{number: 90, name: tcp, protocol: TCP, targetPort: 9090}]
";
    scene.apply(entry).await;
    let client = scene.world.client("caller").await;
    assert_eq!(line(&client, &scene.at(70, 90), "hello\n").await, Ok("v70 hello\n".into()));
    assert_eq!(line(&client, &scene.at(71, 90), "hello\n").await, Ok("v71 hello\n".into()));
    scene.end().await;
}

/// A service without a selector, with endpoints that somebody wrote.
pub async fn slices() {
    let scene = Scene::new("slices").await;
    let _backends = [scene.echo(11, "v11").await, scene.echo(12, "v12").await];
    let mesh = |ready: bool| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: $name, namespace: default, labels: {{istio.io/use-waypoint: waypoint}}}}
spec: {{clusterIP: 127.$n.1, ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: $name, namespace: default, labels: {{kubernetes.io/service-name: $name}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: [127.$n.11]}}, {{addresses: [127.$n.12], conditions: {{ready: {ready}}}}}]
"
        )
    };
    scene.apply(&mesh(false)).await;
    let client = scene.world.client("caller").await;
    assert_eq!(count(&client, &scene.service(), 20, &[]).await["v11"], 20);
    scene.apply(&mesh(true)).await;
    let counts = count(&client, &scene.service(), 60, &[]).await;
    assert!(counts["v11"] > 10 && counts["v12"] > 10, "{counts:?}");
    scene.end().await;
}

/// Traffic for a pod's own address, if the pod is attached.
pub async fn workloads() {
    let scene = Scene::new("workloads").await;
    let echo = Echo::new("v11");
    let identity = scene.world.identity("default").await;
    let server = Server::start(SocketAddr::new(scene.ip(11).into(), PORT), identity, &echo).await;
    let attached = pod(11).replace(
        "labels: {",
        "annotations: {ambient.istio.io/redirection: enabled}, labels: {istio.io/use-waypoint: waypoint, ",
    );
    let client = scene.world.client("caller").await;
    scene.apply(&[&*attached, &*pod(12)].concat()).await;
    // A port that nobody declares, so that HTTP is found by looking.
    let to = scene.at(11, 7070);
    assert_eq!(get(&client, &to, "/").await.who(), "v11");
    let wanted = ("spiffe://cluster.local/ns/default/sa/waypoint".to_owned(), to.clone());
    assert!(server.tunnels().contains(&wanted), "{:?}", server.tunnels());
    let other = client.get(&scene.at(12, 7070), "/", &[]).await;
    assert!(other.as_ref().map_or(true, |answer| answer.status == 503), "{other:?}");
    scene.apply(&[&*pod(11), &*pod(12)].concat()).await;
    let detached = client.get(&to, "/", &[]).await;
    assert!(detached.as_ref().map_or(true, |answer| answer.status == 503), "{detached:?}");
    scene.end().await;
}

/// TLS to a server outside of the mesh, which is the one that it should be.
pub async fn tls() {
    let scene = Scene::new("tls").await;
    let authority = Authority::new(&runner::folder().join(&scene.name));
    let server = authority.issue(&["outside.example.com"]);
    let own = authority.issue(&["waypoint.example.com"]);
    let echo = Echo::new("outside");
    let at = |host: u8| SocketAddr::new(scene.ip(host).into(), 8443);
    scene.keep(Backend::tls(at(11), &echo, authority.acceptor(&server, false)).await);
    scene.keep(Backend::tls(at(12), &echo, authority.acceptor(&server, true)).await);
    let mesh = |host: u8, tls: &str| {
        let entry = service_entry(
            "$name.example.com",
            &format!(
                "  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8443}}]
  endpoints: [{{address: 127.$n.{host}}}]"
            ),
        );
        let roots = authority.roots();
        format!(
            "{entry}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: $name, namespace: default}}
spec: {{host: $name.example.com, trafficPolicy: {{tls: {{caCertificates: {}, {tls}}}}}}}
",
            roots.display()
        )
    };
    let client = scene.world.client("caller").await;
    let service = scene.service();
    let ask = async |client: &Client, host: &str| get_with(client, &service, "/", &[("host", host)]).await;

    // The name is that of each request.
    scene.apply(&mesh(11, "mode: SIMPLE")).await;
    assert_eq!(ask(&client, "outside.example.com").await.who(), "outside");
    assert_eq!(ask(&client, "other.example.com").await.status, 503, "the certificate is for another name");
    scene.apply(&mesh(11, "mode: SIMPLE, sni: front.example.com, subjectAltNames: [outside.example.com]")).await;
    assert_eq!(ask(&client, "other.example.com").await.who(), "outside");
    scene.apply(&mesh(11, "mode: SIMPLE, subjectAltNames: [inside.example.com]")).await;
    assert_eq!(ask(&client, "outside.example.com").await.status, 503);
    scene.apply(&mesh(11, "mode: SIMPLE, credentialName: secret")).await;
    assert_eq!(ask(&client, "outside.example.com").await.status, 503, "what cannot be done is not left out");

    scene.apply(&mesh(12, "mode: SIMPLE, insecureSkipVerify: true")).await;
    assert_eq!(ask(&client, "outside.example.com").await.status, 503, "it wants to know who calls");
    let (certificate, key) = (own.certificate_file.display(), own.key_file.display());
    let mutual = format!("mode: MUTUAL, clientCertificate: {certificate}, privateKey: {key}");
    scene.apply(&mesh(12, &mutual)).await;
    assert_eq!(ask(&client, "outside.example.com").await.who(), "outside");

    // The same from a Secret, which comes when it is asked for.
    let secret = super::super::credentials::secret("$name", &own, Some(&authority));
    let by_name = mesh(12, "mode: MUTUAL, credentialName: $name");
    scene.apply(&by_name).await;
    assert_eq!(ask(&client, "outside.example.com").await.status, 503, "it is not there");
    scene.apply(&[&*by_name, &secret].concat()).await;
    eventually("the Secret", || async {
        match ask(&client, "outside.example.com").await.status.as_u16() {
            200 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    scene.end().await;
}

/// A header that says who calls comes before everything else.
pub async fn proxy_protocol() {
    let scene = Scene::new("header").await;
    scene.keep(Backend::tcp(SocketAddr::new(scene.ip(11).into(), 9091), "v11").await);
    let entry = service_entry(
        "$name.example.com",
        "  resolution: STATIC
  ports: [{number: 90, name: tcp, protocol: TCP, targetPort: 9091}]
  endpoints: [{address: 127.$n.11}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: $name, namespace: default}
spec: {host: $name.example.com, trafficPolicy: {proxyProtocol: {version: V1}}}",
    );
    scene.apply(&entry).await;
    let client = scene.world.client("caller").await;
    let answer = lines(&client, &scene.at(1, 90), "hello\n", 3).await.unwrap();
    assert!(answer.starts_with("v11\nPROXY TCP4 127.0.0.1 ") && answer.ends_with("\r\nhello\n"), "{answer:?}");
    scene.end().await;
}

/// What is in the waypoint's own zone is used for as long as it is ready. Where
/// the waypoint is, its node says.
pub async fn near() {
    let scene = Scene::new("near").await;
    let _backends = [scene.echo(11, "v11").await, scene.echo(12, "v12").await];
    let mesh = |near: &str| {
        let at = |host: u8, node: &str| pod(host).replace("node-a", node);
        let nodes = "
apiVersion: v1
kind: Node
metadata: {name: waypoint-node, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1}}
---
apiVersion: v1
kind: Node
metadata: {name: $name-near, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1}}
---
apiVersion: v1
kind: Node
metadata: {name: $name-far, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-2}}
---";
        let service = super::SERVICE.replace("spec: {", "spec: {trafficDistribution: PreferClose, ");
        let first = at(11, "$name-near").replace("status: \"True\"", &format!("status: \"{near}\""));
        [nodes, &service, &first, &at(12, "$name-far")].concat()
    };
    scene.apply(&mesh("True")).await;
    let client = scene.world.client("caller").await;
    assert_eq!(count(&client, &scene.service(), 40, &[]).await["v11"], 40);
    scene.apply(&mesh("False")).await;
    assert_eq!(count(&client, &scene.service(), 40, &[]).await["v12"], 40);
    scene.apply(&mesh("True")).await;
    assert_eq!(count(&client, &scene.service(), 40, &[]).await["v11"], 40);
    scene.end().await;
}
