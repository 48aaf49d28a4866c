//! Where connections go that a waypoint passes on as they are: by share, by
//! port, by who calls, and by the name that TLS asks for.

use std::net::SocketAddr;
use std::time::Duration;

use fairway_integration_tests::echo::Backend;
use fairway_integration_tests::hbone::Client;
use fairway_integration_tests::tls;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use super::{Scene, pod, subsets, virtual_service_with};

/// The Service `$name` at `127.$n.1`: 90 and 91 are TCP, 443 is TLS.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: $name, namespace: default, labels: {istio.io/use-waypoint: waypoint}}
spec:
  clusterIP: 127.$n.1
  selector: {app: $name}
  ports:
  - {name: tcp, port: 90, targetPort: 9090}
  - {name: tcp-other, port: 91, targetPort: 9090}
  - {name: tls, port: 443, targetPort: 9443}
";

/// Services of their own for two of the pods.
const BACKENDS: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: $name-a, namespace: default}
spec: {clusterIP: 127.$n.2, selector: {app: $name, version: v11}, ports: [{name: tcp, port: 90, targetPort: 9090}, {name: tls, port: 443, targetPort: 9443}]}
---
apiVersion: v1
kind: Service
metadata: {name: $name-b, namespace: default}
spec: {clusterIP: 127.$n.3, selector: {app: $name, version: v12}, ports: [{name: tcp, port: 90, targetPort: 9090}, {name: tls, port: 443, targetPort: 9443}]}
";

/// A pod that answers lines, plainly and inside TLS.
async fn backend(scene: &Scene, host: u8, who: &str) {
    scene.keep(Backend::line(SocketAddr::new(scene.ip(host).into(), 9090), who).await);
    scene.keep(Backend::tls_line(SocketAddr::new(scene.ip(host).into(), 9443), who).await);
}

/// Says something, and returns who answered.
async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<String, String> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"hello\n").await.map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await.map_err(|error| error.to_string())?;
    Ok(answer.strip_suffix(" hello\n").unwrap_or(&answer).to_owned())
}

async fn limited(talk: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    tokio::time::timeout(Duration::from_secs(10), talk).await.unwrap_or_else(|_| Err("no answer".into()))
}

async fn plain(client: &Client, destination: &str) -> Result<String, String> {
    limited(async {
        let tunnel = client.tunnel(destination).await?;
        ask(hyper_util::rt::TokioIo::new(tunnel.into_inner())).await
    })
    .await
}

async fn named(client: &Client, destination: &str, name: &str) -> Result<String, String> {
    limited(async {
        let tunnel = client.tunnel(destination).await?;
        let stream = tls::connect(name, hyper_util::rt::TokioIo::new(tunnel.into_inner())).await;
        ask(stream.map_err(|error| error.to_string())?).await
    })
    .await
}

/// That nobody answered.
#[track_caller]
fn refused(answer: Result<String, String>) {
    assert!(answer.as_ref().map_or(true, String::is_empty), "{answer:?}");
}

/// Nine of ten connections go to v11. Of 250 binomial draws with 0.9, all but
/// one run in ten thousand have 205 to 243.
pub async fn weights() {
    let scene = Scene::new("l4-weights").await;
    backend(&scene, 11, "v11").await;
    backend(&scene, 12, "v12").await;
    let rules = "
  tcp:
  - match: [{port: 91}]
    route:
    - {destination: {host: $name, subset: v12}, weight: 0}
    - {destination: {host: $name, subset: v11}, weight: 1}
  - route:
    - {destination: {host: $name, subset: v11}, weight: 90}
    - {destination: {host: $name, subset: v12}, weight: 10}";
    let mesh = [SERVICE, &pod(11), &pod(12), &subsets(&[11, 12])].concat();
    scene.apply(&[&mesh, &*virtual_service_with(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let mut first = 0;
    for _ in 0..250 {
        first += usize::from(plain(&client, &scene.at(1, 90)).await.unwrap() == "v11");
    }
    assert!((205..=243).contains(&first), "{first}");
    for _ in 0..20 {
        assert_eq!(plain(&client, &scene.at(1, 91)).await.as_deref(), Ok("v11"));
    }
    scene.end().await;
}

/// What a match says of the port, the address and the caller holds.
pub async fn matches() {
    let scene = Scene::new("l4-matches").await;
    backend(&scene, 11, "v11").await;
    backend(&scene, 12, "v12").await;
    let rules = "
  tcp:
  - match: [{port: 90, sourceNamespace: other}, {port: 90, destinationSubnets: [10.0.0.0/8]}, {port: 90, sourceLabels: {a: b}}, {port: 90, gateways: [default/g]}]
    route: [{destination: {host: $name, subset: v12}}]
  - match: [{port: 91, sourceNamespace: default, destinationSubnets: [10.0.0.0/8, 127.0.0.0/8]}]
    route: [{destination: {host: $name, subset: v12}}]
  - route: [{destination: {host: $name, subset: v11}}]";
    let mesh = [SERVICE, &pod(11), &pod(12), &subsets(&[11, 12])].concat();
    scene.apply(&[&mesh, &*virtual_service_with(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    for _ in 0..5 {
        assert_eq!(plain(&client, &scene.at(1, 90)).await.as_deref(), Ok("v11"));
        assert_eq!(plain(&client, &scene.at(1, 91)).await.as_deref(), Ok("v12"));
    }
    scene.end().await;
}

/// TLS that the waypoint cannot read goes by the name that the client asks for,
/// and policies apply to it all the same.
pub async fn names() {
    let scene = Scene::new("l4-names").await;
    backend(&scene, 11, "v11").await;
    backend(&scene, 12, "v12").await;
    let rules = "
  tls:
  - match: [{port: 443, sniHosts: [one.example, '*.many.example']}]
    route: [{destination: {host: $name, subset: v12}}]
  - match: [{sniHosts: ['*.example'], sourceNamespace: default}]
    route: [{destination: {host: $name-b, port: {number: 443}}}]
  tcp:
  - route: [{destination: {host: $name, subset: v11}}]";
    let deny = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: $name, namespace: default}
spec:
  targetRefs: [{kind: Service, group: '', name: $name}]
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/denied]}}]}]
";
    let mesh = [SERVICE, BACKENDS, &pod(11), &pod(12), &subsets(&[11, 12]), deny].concat();
    scene.apply(&[&mesh, &*virtual_service_with(rules)].concat()).await;
    let (client, denied) = (scene.world.client("caller").await, scene.world.client("denied").await);
    let service = scene.at(1, 443);
    for (name, who) in [
        ("one.example", "v12"),
        ("ONE.example", "v12"),
        ("a.many.example", "v12"),
        ("two.example", "v12"),
        ("one.example.org", "v11"),
        ("other", "v11"),
    ] {
        assert_eq!(named(&client, &service, name).await.as_deref(), Ok(who), "{name}");
        refused(named(&denied, &service, name).await);
    }
    scene.end().await;
}

/// TCPRoutes and TLSRoutes with the Service as their parent: shares, ports, the
/// more specific name, and backends that are not there.
pub async fn gateway_api() {
    let scene = Scene::new("l4-routes").await;
    backend(&scene, 11, "v11").await;
    backend(&scene, 12, "v12").await;
    let routes = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: $name, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: $name, port: 90}]
  rules: [{backendRefs: [{name: $name-a, port: 90, weight: 1}, {name: $name-b, port: 90, weight: 3}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: $name-none, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: $name, port: 91}]
  rules: [{backendRefs: [{name: $name-gone, port: 90}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: $name-any, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: $name, port: 443}]
  hostnames: ['*.example']
  rules: [{backendRefs: [{name: $name-a, port: 443}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: $name-one, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: $name, port: 443}]
  hostnames: [one.example]
  rules: [{backendRefs: [{name: $name-b, port: 443}]}]
";
    scene.apply(&[SERVICE, BACKENDS, &pod(11), &pod(12), routes].concat()).await;
    let client = scene.world.client("caller").await;
    let mut first = 0;
    for _ in 0..200 {
        first += usize::from(plain(&client, &scene.at(1, 90)).await.unwrap() == "v11");
    }
    // 50 are expected; 99.99% of all runs have 27 to 75.
    assert!((27..=75).contains(&first), "{first}");
    refused(plain(&client, &scene.at(1, 91)).await);
    for _ in 0..5 {
        assert_eq!(named(&client, &scene.at(1, 443), "one.example").await.as_deref(), Ok("v12"));
        assert_eq!(named(&client, &scene.at(1, 443), "two.example").await.as_deref(), Ok("v11"));
    }
    scene.end().await;
}
