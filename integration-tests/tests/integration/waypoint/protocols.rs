//! What reaches pods, and how: bytes, bytes that turn out to be HTTP, and
//! HBONE.

use std::net::SocketAddr;
use std::time::Duration;

use fairway_integration_tests::echo::{Backend, Echo};
use fairway_integration_tests::hbone::{Client, Server};
use fairway_integration_tests::waypoint::PORT;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::{SERVICE, Scene, count, get, pod};

/// Ports that declare TCP, and one that declares nothing.
const PORTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: $name, namespace: default, labels: {istio.io/use-waypoint: waypoint}}
spec:
  clusterIP: 127.$n.1
  selector: {app: $name}
  ports:
  - {name: tcp-first, port: 90, targetPort: 9090}
  - {name: tcp-line, port: 91, targetPort: 9091}
  - {name: something, port: 92, targetPort: 8080}
  - {name: other, port: 93, targetPort: 9091}
";

/// Says a line and reads one.
pub async fn line(client: &Client, destination: &str, say: &str) -> Result<String, String> {
    let talk = async {
        let tunnel = client.tunnel(destination).await?;
        let mut stream = BufReader::new(hyper_util::rt::TokioIo::new(tunnel.into_inner()));
        stream.write_all(say.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await.map_err(|error| error.to_string())?;
        Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(10), talk).await.unwrap_or_else(|_| Err("no answer".into()))
}

/// Ports that declare TCP pass bytes on, whoever speaks first.
pub async fn tcp() {
    let scene = Scene::new("tcp").await;
    scene.keep(Backend::tcp(SocketAddr::new(scene.ip(11).into(), 9090), "v11").await);
    scene.keep(Backend::line(SocketAddr::new(scene.ip(11).into(), 9091), "v11").await);
    let deny = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: $name, namespace: default}
spec:
  targetRefs: [{kind: Service, group: \"\", name: $name}]
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/denied]}}]}]
";
    scene.apply(&[PORTS, &pod(11), deny].concat()).await;
    let client = scene.world.client("caller").await;
    assert_eq!(line(&client, &scene.at(1, 91), "hello\n").await, Ok("v11 hello\n".into()));
    assert_eq!(line(&client, &scene.at(1, 90), "").await, Ok("v11\n".into()), "a server that speaks first");
    let denied = scene.world.client("denied").await;
    let answer = line(&denied, &scene.at(1, 91), "hello\n").await;
    assert!(answer.as_ref().map_or(true, String::is_empty), "{answer:?}");
    scene.end().await;
}

/// A port that declares nothing: HTTP is routed, anything else passed on.
pub async fn sniffed() {
    let scene = Scene::new("sniffed").await;
    let _echo = scene.echo(11, "v11").await;
    scene.keep(Backend::line(SocketAddr::new(scene.ip(11).into(), 9091), "v11").await);
    let rules = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: $name, namespace: default}
spec:
  hosts: [$name]
  http:
  - match: [{uri: {prefix: /teapot}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: $name, port: {number: 92}}}]
  - route: [{destination: {host: $name, port: {number: 92}}}]
";
    scene.apply(&[PORTS, &pod(11), rules].concat()).await;
    let client = scene.world.client("caller").await;
    assert_eq!(get(&client, &scene.at(1, 92), "/teapot").await.status, 418, "it was read as HTTP");
    assert_eq!(get(&client, &scene.at(1, 92), "/").await.who(), "v11");
    assert_eq!(line(&client, &scene.at(1, 93), "hello there\n").await, Ok("v11 hello there\n".into()));
    scene.end().await;
}

/// A server that speaks first is heard although another service declares
/// nothing for the same port, whose connections are looked into with everything
/// that was known of them.
pub async fn server_first() {
    let scene = Scene::new("first").await;
    scene.keep(Backend::tcp(SocketAddr::new(scene.ip(11).into(), 9090), "v11").await);
    let echo = scene.echo(11, "v11").await;
    scene.keep(Backend::line(SocketAddr::new(scene.ip(11).into(), 9091), "v11").await);
    let mesh = "
apiVersion: v1
kind: Service
metadata: {name: $name, namespace: default, labels: {istio.io/use-waypoint: waypoint}}
spec: {clusterIP: 127.$n.1, selector: {app: $name}, ports: [{name: tcp, port: 3900, targetPort: 9090}, {name: tcp-other, port: 3901, targetPort: 9090}]}
---
apiVersion: v1
kind: Service
metadata: {name: $name-undeclared, namespace: default, labels: {istio.io/use-waypoint: waypoint}}
spec: {clusterIP: 127.$n.2, selector: {app: $name}, ports: [{name: some, port: 3900, targetPort: 8080}, {name: thing, port: 3901, targetPort: 9091}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: $name, namespace: default}
spec:
  targetRefs: [{kind: Service, group: '', name: $name-undeclared}]
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/denied]}}]}]
";
    scene.apply(&[mesh, &pod(11)].concat()).await;
    let (client, denied) = (scene.world.client("caller").await, scene.world.client("denied").await);
    for _ in 0..3 {
        assert_eq!(line(&client, &scene.at(1, 3900), "").await, Ok("v11\n".into()));
        assert_eq!(get(&client, &scene.at(2, 3900), "/").await.who(), "v11");
        assert_eq!(line(&client, &scene.at(2, 3901), "hello\n").await, Ok("v11 hello\n".into()));
    }
    assert_eq!(get(&denied, &scene.at(2, 3900), "/").await.status, 403);
    let answer = line(&denied, &scene.at(2, 3901), "hello\n").await;
    assert!(answer.as_ref().map_or(true, String::is_empty), "{answer:?}");
    assert_eq!(echo.seen().len(), 3);
    scene.end().await;
}

/// A pod that is not ready gets nothing, and a service without any ready pod
/// answers 503.
pub async fn unready() {
    let scene = Scene::new("unready").await;
    let (ready, unready) = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let not = |host| pod(host).replace("status: \"True\"", "status: \"False\"");
    scene.apply(&[SERVICE, &pod(11), &not(12)].concat()).await;
    let client = scene.world.client("caller").await;
    count(&client, &scene.service(), 40, &[]).await;
    assert_eq!((ready.seen().len(), unready.seen().len()), (40, 0));
    scene.apply(&[SERVICE, &not(11), &not(12)].concat()).await;
    assert_eq!(get(&client, &scene.service(), "/").await.status, 503);
    scene.apply(&[SERVICE, &not(11), &pod(12)].concat()).await;
    assert_eq!(get(&client, &scene.service(), "/").await.who(), "v12");
    scene.end().await;
}

/// A captured pod is reached by HBONE, from the waypoint's identity and at the
/// address of the pod; one that is not captured, plainly.
pub async fn captured() {
    let scene = Scene::new("captured").await;
    let plain = scene.echo(11, "v11").await;
    let inside = Echo::new("v12");
    let identity = scene.world.identity("default").await;
    let server = Server::start(SocketAddr::new(scene.ip(12).into(), PORT), identity, &inside).await;
    let captured = pod(12).replace("labels:", "annotations: {ambient.istio.io/redirection: enabled}, labels:");
    scene.apply(&[SERVICE, &pod(11), &captured].concat()).await;
    let client = scene.world.client("caller").await;
    let counts = count(&client, &scene.service(), 40, &[]).await;
    assert!(counts["v11"] > 5 && counts["v12"] > 5, "{counts:?}");
    assert_eq!((plain.seen().len(), inside.seen().len()), (counts["v11"], counts["v12"]));

    let tunnels = server.tunnels();
    let wanted = ("spiffe://cluster.local/ns/default/sa/waypoint".to_owned(), scene.at(12, 8080));
    assert!(!tunnels.is_empty() && tunnels.iter().all(|tunnel| *tunnel == wanted), "{tunnels:?}");
    scene.end().await;
}
