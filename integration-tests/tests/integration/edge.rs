//! Traffic through a gateway: Istio's Gateway and VirtualServices, a stock Envoy
//! under `fairway agent`, and clients that know nothing of the mesh. It stands
//! beside the waypoint of the other tests, in the same mesh.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fairway_integration_tests::echo::{Backend, Echo};
use fairway_integration_tests::hbone::{Answer, Http, Server, request};
use fairway_integration_tests::waypoint::PORT;
use fairway_integration_tests::{eventually, tls};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::waypoint::{Scene, pod, subsets};

/// The Service `$name` that no waypoint serves.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: $name, namespace: default}
spec: {clusterIP: 127.$n.1, selector: {app: $name}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

/// The virtual service of `$name.example.com`, and what else of `hosts`, at the
/// gateway.
fn at_gateway(hosts: &str, rules: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: $name, namespace: default}}
spec:
  gateways: [edge]
  hosts: [$name.example.com{hosts}]
{rules}
"
    )
}

/// The answer to a request for `$name.example.com`, or for a host below it.
async fn ask(scene: &Scene, port: u16, below: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let answer = asked(scene, port, below, path, headers).await;
    answer.unwrap_or_else(|error| panic!("GET {below}{}.example.com:{port}{path}: {error}", scene.name))
}

/// The same, if there is one.
pub async fn asked(
    scene: &Scene,
    port: u16,
    below: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Answer, String> {
    let host = format!("{below}{}.example.com", scene.name);
    let headers: Vec<_> = headers.iter().copied().chain([("host", &*host)]).collect();
    let stream = TcpStream::connect(scene.world.edge(port)).await.map_err(|error| error.to_string())?;
    Http::over(stream).await?.send(request("GET", path, &headers)).await
}

async fn count(scene: &Scene, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let answer = ask(scene, 8080, "", "/", &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        *counts.entry(answer.who()).or_default() += 1;
    }
    counts
}

/// Hosts and paths decide; what nobody has is 404.
pub async fn hosts_and_paths() {
    let scene = Scene::new("edge-hosts").await;
    scene.gateway().await;
    let _echoes = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let rules = "
  http:
  - match: [{uri: {prefix: /v12}, headers: {x-canary: {exact: always}}}]
    route: [{destination: {host: $name, subset: v12}}]
  - match: [{uri: {prefix: /old}}]
    rewrite: {uri: /new}
    route: [{destination: {host: $name, subset: v11}}]
  - match: [{uri: {exact: /gone}}]
    directResponse: {status: 410, body: {string: nothing here}}
  - match: [{uri: {prefix: /v11}}]
    route: [{destination: {host: $name, subset: v11}}]
  - match: [{uri: {prefix: /nowhere}}]
    route: [{destination: {host: no-such-service}}]";
    let wide = at_gateway("", "  http: [{route: [{destination: {host: $name, subset: v12}}]}]")
        .replace("name: $name,", "name: $name-wide,")
        .replace("[$name.example", "['*.$name.example");
    let wide = wide.replace(".com]", ".com']");
    let parts = [SERVICE, &pod(11), &pod(12), &subsets(&[11, 12]), &at_gateway("", rules), &wide];
    scene.apply(&parts.concat()).await;
    assert_eq!(ask(&scene, 8080, "", "/v11/a", &[]).await.who(), "v11");
    assert_eq!(ask(&scene, 8080, "", "/v12/a", &[("x-canary", "always")]).await.who(), "v12");
    assert_eq!(ask(&scene, 8080, "", "/v12/a", &[]).await.status, 404);
    assert_eq!(ask(&scene, 8080, "", "/old/path", &[]).await.echo()["path"], "/new/path");
    assert_eq!(ask(&scene, 8080, "", "/gone", &[]).await.status, 410);
    assert_eq!(ask(&scene, 8080, "", "/nowhere", &[]).await.status, 503);
    assert_eq!(ask(&scene, 8080, "any.", "/", &[]).await.who(), "v12");
    assert_eq!(ask(&scene, 8080, "un", "/", &[]).await.status, 404, "a host that nobody has");
    scene.end().await;
}

/// Weights are kept.
pub async fn weights() {
    let scene = Scene::new("edge-weights").await;
    scene.gateway().await;
    let _echoes = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let rules = "
  http:
  - route:
    - {destination: {host: $name, subset: v11}, weight: 75}
    - {destination: {host: $name, subset: v12}, weight: 25}";
    scene.apply(&[SERVICE, &pod(11), &pod(12), &subsets(&[11, 12]), &at_gateway("", rules)].concat()).await;
    let counts = count(&scene, 200).await;
    // 150 are expected; 99.99% of all runs have 125 to 173.
    assert!((125..=173).contains(&counts["v11"]), "{counts:?}");
    scene.end().await;
}

/// A captured pod is reached by HBONE, with the gateway's identity; one that is
/// not captured, plainly.
pub async fn captured() {
    let scene = Scene::new("edge-captured").await;
    scene.gateway().await;
    let plain = scene.echo(11, "v11").await;
    let inside = Echo::new("v12");
    let identity = scene.world.identity("default").await;
    let server = Server::start(SocketAddr::new(scene.ip(12).into(), PORT), identity, &inside).await;
    let captured = pod(12).replace("labels:", "annotations: {ambient.istio.io/redirection: enabled}, labels:");
    let rules = "  http: [{route: [{destination: {host: $name}}]}]";
    scene.apply(&[SERVICE, &pod(11), &captured, &at_gateway("", rules)].concat()).await;
    let counts = count(&scene, 40).await;
    assert!(counts["v11"] > 5 && counts["v12"] > 5, "{counts:?}");
    assert_eq!((plain.seen().len(), inside.seen().len()), (counts["v11"], counts["v12"]));
    let wanted = ("spiffe://cluster.local/ns/default/sa/edge".to_owned(), scene.at(12, 8080));
    let tunnels = server.tunnels();
    assert!(!tunnels.is_empty() && tunnels.iter().all(|tunnel| *tunnel == wanted), "{tunnels:?}");
    scene.end().await;
}

/// TLS goes to where its name leads, and is not ended on the way.
pub async fn names_of_tls() {
    let scene = Scene::new("edge-names").await;
    scene.gateway().await;
    scene.keep(Backend::tls_line(SocketAddr::new(scene.ip(11).into(), 8080), "v11").await);
    scene.keep(Backend::tls_line(SocketAddr::new(scene.ip(12).into(), 8080), "v12").await);
    let rules = "
  tls:
  - match: [{port: 8443, sniHosts: [a.$name.example.com]}]
    route: [{destination: {host: $name, subset: v11, port: {number: 80}}}]
  - match: [{sniHosts: ['*.$name.example.com']}]
    route: [{destination: {host: $name, subset: v12, port: {number: 80}}}]";
    let hosts = ", '*.$name.example.com'";
    let tcp = SERVICE.replace("name: http,", "name: tls,");
    // The marker of the routes says nothing of listeners.
    scene.apply(&[&tcp, &*pod(11), &pod(12), &subsets(&[11, 12]), &at_gateway(hosts, rules)].concat()).await;
    let line = |below: &'static str| {
        let (name, address) = (format!("{below}.{}.example.com", scene.name), scene.world.edge(8443));
        async move {
            let talk = async {
                let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
                let stream = tls::connect(&name, stream).await.map_err(|error| error.to_string())?;
                let mut stream = BufReader::new(stream);
                stream.write_all(b"hello\n").await.map_err(|error| error.to_string())?;
                let mut answer = String::new();
                stream.read_line(&mut answer).await.map_err(|error| error.to_string())?;
                Ok::<_, String>(answer)
            };
            tokio::time::timeout(Duration::from_secs(10), talk).await.unwrap_or_else(|_| Err("no answer".into()))
        }
    };
    let first = eventually("the listener of TLS", || line("a")).await;
    let second = line("b").await.unwrap();
    assert!(first.contains("v11") && second.contains("v12"), "{first:?} {second:?}");
    scene.end().await;
}

/// Plain HTTP is sent to HTTPS.
pub async fn redirected() {
    let scene = Scene::new("edge-redirect").await;
    scene.gateway().await;
    scene.apply(&[SERVICE, &at_gateway("", "  http: [{route: [{destination: {host: $name}}]}]")].concat()).await;
    let moved = ask(&scene, 8081, "", "/path?a=b", &[]).await;
    let wanted = format!("https://{}.example.com/path?a=b", scene.name);
    assert_eq!((moved.status.as_u16(), moved.header("location")), (301, Some(&*wanted)));
    scene.end().await;
}

/// Backends learn where a client is, from the gateway and from nobody else.
pub async fn client_addresses() {
    let scene = Scene::new("edge-addresses").await;
    scene.gateway().await;
    let _echo = scene.echo(11, "v11").await;
    let rules = "  http: [{route: [{destination: {host: $name}}]}]";
    scene.apply(&[SERVICE, &pod(11), &at_gateway("", rules)].concat()).await;
    let forged = [("x-forwarded-client-cert", "By=me"), ("x-forwarded-for", "not-an-address")];
    let headers = ask(&scene, 8080, "", "/", &forged).await.echo()["headers"].clone();
    assert_eq!(headers.get("x-forwarded-client-cert"), None);
    // For a caller on loopback an Envoy names the address of its own machine.
    let added = headers["x-forwarded-for"].as_str().and_then(|all| all.rsplit_once(',')).map(|(_, last)| last);
    assert!(added.is_some_and(|added| added.parse::<IpAddr>().is_ok()), "{headers}");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(ask(&scene, 8080, "", "/", &[]).await.header("server"), Some("istio-envoy"));
    scene.end().await;
}

/// AuthorizationPolicies that select the gateway's pods are enforced there.
pub async fn policies() {
    let scene = Scene::new("edge-policies").await;
    scene.gateway().await;
    let _echo = scene.echo(11, "v11").await;
    let rules = "  http: [{route: [{destination: {host: $name}}]}]";
    let deny = |selector: &str| {
        format!(
            "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: $name, namespace: default}}
spec:
  selector: {{matchLabels: {{istio: {selector}}}}}
  action: DENY
  rules: [{{to: [{{operation: {{hosts: [$name.example.com], paths: [/admin*]}}}}]}}]
"
        )
    };
    let parts = |policy: &str| [SERVICE, &pod(11), &at_gateway("", rules), policy].concat();
    scene.apply(&parts(&deny("ingressgateway"))).await;
    eventually("the policy", || async {
        match ask(&scene, 8080, "", "/admin/a", &[]).await.status.as_u16() {
            403 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(ask(&scene, 8080, "", "/other", &[]).await.status, 200);
    cve_2021_39156_fragments_get_around_no_policy(&scene).await;
    scene.apply(&parts(&deny("egressgateway"))).await;
    eventually("the end of the policy", || async {
        match ask(&scene, 8080, "", "/admin/a", &[]).await.status.as_u16() {
            200 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    scene.end().await;
}

/// A fragment is taken away before policies compare the path, and backends never
/// see it.
async fn cve_2021_39156_fragments_get_around_no_policy(scene: &Scene) {
    let cases =
        [("/admin/a#b", "403"), ("/other#/../admin/a", "200"), ("/#/other/../admin", "200"), ("/other%23", "200")];
    for (path, expected) in cases {
        let talk = async {
            let stream = TcpStream::connect(scene.world.edge(8080)).await.map_err(|error| error.to_string())?;
            let mut stream = BufReader::new(stream);
            let host = format!("{}.example.com", scene.name);
            let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(10), talk).await.expect("an answer in time").unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(expected), "{path}: {answer}");
        assert!(!answer.contains('#') && !answer.contains("/admin"), "{path}: {answer}");
    }
}

/// Routes and the pods behind them change, and no request fails.
pub async fn changes() {
    let scene = Scene::new("edge-changes").await;
    scene.gateway().await;
    let _echoes = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let to = |subset: &str| format!("  http: [{{route: [{{destination: {{host: $name, subset: {subset}}}}}]}}]");
    let apply = |subset: &str| {
        let parts = [SERVICE, &pod(11), &pod(12), &subsets(&[11, 12]), &at_gateway("", &to(subset))];
        let text = parts.concat();
        let scene = &scene;
        async move { scene.apply(&text).await }
    };
    apply("v11").await;
    let (done, mut until) = tokio::sync::oneshot::channel::<()>();
    let asking = async {
        let mut all = 0_usize;
        while until.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
            let answer = ask(&scene, 8080, "", "/", &[]).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            all += 1;
        }
        all
    };
    let changing = async {
        for subset in ["v12", "v11", "v12", "v11", "v12"] {
            apply(subset).await;
        }
        done.send(()).unwrap();
    };
    let (all, ()) = tokio::join!(asking, changing);
    assert!(all > 10, "{all}");
    assert_eq!(ask(&scene, 8080, "", "/", &[]).await.who(), "v12");
    scene.end().await;
}
