//! Certificates from Secrets at a gateway: clients that know nothing of the
//! mesh, a stock Envoy under `fairway agent`, and Secrets that come, change and
//! are wrong.

use fairway_integration_tests::hbone::{Http, request};
use fairway_integration_tests::tls::{Authority, Certificate};
use fairway_integration_tests::{eventually, runner};
use tokio::net::TcpStream;

use super::waypoint::{Scene, pod};

/// The port of TLS.
const PORT: u16 = 8444;

/// A Secret of the namespace of proxies.
pub fn secret(name: &str, certificate: &Certificate, trusted: Option<&Authority>) -> String {
    let block = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let trusted = trusted.map(|authority| {
        let roots = std::fs::read_to_string(authority.roots()).unwrap();
        format!("  ca.crt: |\n{}", block(&roots))
    });
    format!(
        "
---
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: default}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}{}",
        block(&certificate.certificate()),
        block(&certificate.key()),
        trusted.unwrap_or_default()
    )
}

/// A gateway for `$name.example.com`, with a service behind it.
fn gateway(tls: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: $name, namespace: default}}
spec: {{clusterIP: 127.$n.1, selector: {{app: $name}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
{}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: $name, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: {PORT}, name: https-$name, protocol: HTTPS}}
    hosts: [$name.example.com]
    tls: {{{tls}, credentialName: $name}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: $name, namespace: default}}
spec:
  gateways: [$name]
  hosts: [$name.example.com]
  http: [{{route: [{{destination: {{host: $name}}}}]}}]
",
        pod(11)
    )
}

/// Who answers to a request over TLS with a server of this authority.
async fn ask(scene: &Scene, authority: &Authority, own: Option<&Certificate>) -> Result<String, String> {
    ask_at(scene, PORT, "/", authority, own).await
}

/// The same at a port, for a path.
pub async fn ask_at(
    scene: &Scene,
    port: u16,
    path: &str,
    authority: &Authority,
    own: Option<&Certificate>,
) -> Result<String, String> {
    let host = format!("{}.example.com", scene.name);
    let asking = async {
        let stream = TcpStream::connect(scene.world.edge(port)).await.map_err(|error| error.to_string())?;
        let stream = authority.connect(&host, stream, own).await?;
        let answer = Http::over(stream).await?.send(request("GET", path, &[("host", &host)])).await?;
        match answer.status.as_u16() {
            200 => Ok(answer.who()),
            other => Err(format!("{other}: {}", answer.body)),
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), asking).await.unwrap_or_else(|_| Err("no answer".into()))
}

pub fn authority(scene: &Scene, name: &str) -> (Authority, Certificate) {
    let authority = Authority::new(&runner::folder().join(&scene.name).join(name));
    let server = authority.issue(&[&format!("{}.example.com", scene.name)]);
    (authority, server)
}

/// A Secret that is not there holds up nothing else, and is served when it is.
pub async fn served() {
    let scene = Scene::new("credentials-served").await;
    scene.gateway().await;
    let _echo = scene.echo(11, "v11").await;
    let ((first, server), (second, other)) = (authority(&scene, "first"), authority(&scene, "second"));
    let mesh = gateway("mode: SIMPLE");
    // Waits until the gateway has all other routes.
    scene.apply(&mesh).await;
    let refused = ask(&scene, &first, None).await.unwrap_err();
    assert!(!refused.contains("no answer"), "{refused}");
    scene.apply(&[&*mesh, &secret("$name", &server, None)].concat()).await;
    let who = eventually("the Secret", || ask(&scene, &first, None)).await;
    assert_eq!(who, "v11");
    // What cannot be used changes nothing.
    let mixed = secret("$name", &server, None)
        .replace(server.key().lines().nth(1).unwrap(), other.key().lines().nth(1).unwrap());
    scene.apply(&[&*mesh, &mixed].concat()).await;
    assert_eq!(ask(&scene, &first, None).await.as_deref(), Ok("v11"));
    scene.apply(&[&*mesh, &secret("$name", &other, None)].concat()).await;
    eventually("another certificate", || ask(&scene, &second, None)).await;
    ask(&scene, &first, None).await.unwrap_err();
    // Nor does it when it goes: proxies keep what they have.
    scene.apply(&mesh).await;
    assert_eq!(ask(&scene, &second, None).await.as_deref(), Ok("v11"));
    scene.end().await;
}

/// Certificates change under load, and no request fails.
pub async fn rotated() {
    let scene = Scene::new("credentials-rotated").await;
    scene.gateway().await;
    let _echo = scene.echo(11, "v11").await;
    let mesh = gateway("mode: SIMPLE");
    let (authority, server) = authority(&scene, "authority");
    scene.apply(&[&*mesh, &secret("$name", &server, None)].concat()).await;
    eventually("the Secret", || ask(&scene, &authority, None)).await;
    let name = format!("{}.example.com", scene.name);
    let (done, mut until) = tokio::sync::oneshot::channel::<()>();
    let asking = async {
        let mut all = 0_usize;
        while until.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
            assert_eq!(ask(&scene, &authority, None).await.as_deref(), Ok("v11"), "request {all}");
            all += 1;
        }
        all
    };
    let changing = async {
        for _ in 0..5 {
            let next = authority.issue(&[&name]);
            scene.apply(&[&*mesh, &secret("$name", &next, None)].concat()).await;
        }
        done.send(()).unwrap();
    };
    let (all, ()) = tokio::join!(asking, changing);
    assert!(all > 10, "{all}");
    scene.end().await;
}

/// Clients prove who they are, to whom the Secret says.
pub async fn clients() {
    let scene = Scene::new("credentials-clients").await;
    scene.gateway().await;
    let _echo = scene.echo(11, "v11").await;
    let ((own, server), (trusted, known), (_, stranger)) =
        (authority(&scene, "own"), authority(&scene, "trusted"), authority(&scene, "strangers"));
    let with = |mode: &str| [&*gateway(mode), &secret("$name", &server, Some(&trusted))].concat();
    scene.apply(&with("mode: MUTUAL")).await;
    eventually("the Secret", || ask(&scene, &own, Some(&known))).await;
    ask(&scene, &own, Some(&stranger)).await.unwrap_err();
    ask(&scene, &own, None).await.unwrap_err();
    scene.apply(&with("mode: OPTIONAL_MUTUAL")).await;
    eventually("clients without certificates", || ask(&scene, &own, None)).await;
    assert_eq!(ask(&scene, &own, Some(&known)).await.as_deref(), Ok("v11"));
    ask(&scene, &own, Some(&stranger)).await.unwrap_err();
    scene.apply(&with("mode: MUTUAL, subjectAltNames: [somebody.example.com]")).await;
    eventually("names of clients", || async {
        match ask(&scene, &own, Some(&known)).await {
            Err(_) => Ok(()),
            Ok(_) => Err("they are let in"),
        }
    })
    .await;
    scene.end().await;
}
