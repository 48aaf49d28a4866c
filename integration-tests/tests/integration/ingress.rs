//! Traffic by Kubernetes' Ingresses, through the gateway of the other tests. A
//! Service in front of it says where it listens for the ports of Ingresses.

use fairway_integration_tests::eventually;
use fairway_integration_tests::hbone::Answer;

use super::credentials::{ask_at, authority, secret};
use super::edge::asked;
use super::waypoint::{Scene, pod};

/// Where the gateway listens.
const HTTP: u16 = 8082;
const HTTPS: u16 = 8446;

/// The Service in front, and one for each of the pods.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: $name-front, namespace: default}
spec:
  clusterIP: 127.$n.3
  selector: {istio: ingressgateway}
  ports: [{name: http, port: 80, targetPort: 8082}, {name: https, port: 443, targetPort: 8446}]
---
apiVersion: v1
kind: Service
metadata: {name: $name-v11, namespace: default}
spec: {clusterIP: 127.$n.1, selector: {app: $name, version: v11}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: $name-v12, namespace: default}
spec: {clusterIP: 127.$n.2, selector: {app: $name, version: v12}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

fn ingress(name: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}, namespace: default, annotations: {{kubernetes.io/ingress.class: istio}}}}
spec:
{spec}
"
    )
}

async fn ask(scene: &Scene, below: &str, path: &str) -> Answer {
    asked(scene, HTTP, below, path, &[]).await.unwrap_or_else(|error| panic!("{below} {path}: {error}"))
}

/// The rules of two Ingresses for one host are together, and a prefix is of whole
/// parts of a path.
pub async fn hosts_and_paths() {
    let scene = Scene::new("ingress-paths").await;
    scene.gateway().await;
    let _echoes = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let first = "
  defaultBackend: {service: {name: $name-v12, port: {number: 80}}}
  rules:
  - host: $name.example.com
    http:
      paths:
      - {path: /shop, pathType: Prefix, backend: {service: {name: $name-v11, port: {name: http}}}}
      - {path: /only, pathType: Exact, backend: {service: {name: $name-v11, port: {number: 80}}}}
      - {path: /gone, pathType: Prefix, backend: {service: {name: $name-v11, port: {name: missing}}}}";
    let second = "
  rules:
  - host: $name.example.com
    http: {paths: [{path: /shop/cart, pathType: Prefix, backend: {service: {name: $name-v12, port: {number: 80}}}}]}
  - host: '*.$name.example.com'
    http: {paths: [{path: /wide, pathType: Prefix, backend: {service: {name: $name-v11, port: {number: 80}}}}]}";
    let ingresses = [ingress("$name-first", first), ingress("$name-second", second)].concat();
    scene.apply(&[SERVICES, &*pod(11), &pod(12), &ingresses].concat()).await;
    eventually("the listener", || asked(&scene, HTTP, "", "/shop", &[])).await;
    for (below, path, who) in [
        ("", "/shop", "v11"),
        ("", "/shop/socks", "v11"),
        ("", "/shop/cart/1", "v12"),
        ("", "/shop/carts", "v11"),
        ("", "/only", "v11"),
        // What no path is for has the default backend.
        ("", "/only/one", "v12"),
        ("", "/shopping", "v12"),
        ("a.b.", "/wide", "v11"),
    ] {
        assert_eq!(ask(&scene, below, path).await.who(), who, "{below} {path}");
    }
    assert_eq!(ask(&scene, "", "/gone/for/good").await.status, 503);
    assert_eq!(ask(&scene, "a.", "/narrow").await.status, 404, "its Ingress has no default backend");
    scene.end().await;
}

/// A certificate is a Secret beside the proxy. The rules of a younger Ingress for
/// the host are behind it, too.
pub async fn certificates() {
    let scene = Scene::new("ingress-tls").await;
    scene.gateway().await;
    let _echoes = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let to = |path: &str, version: &str| {
        format!(
            "
  tls: [{{hosts: [$name.example.com], secretName: $name-{version}}}]
  rules:
  - host: $name.example.com
    http: {{paths: [{{path: {path}, pathType: Prefix, backend: {{service: {{name: $name-{version}, port: {{number: 80}}}}}}}}]}}"
        )
    };
    let ((first, server), (_, other)) = (authority(&scene, "first"), authority(&scene, "second"));
    let ingresses = [ingress("$name-a", &to("/v11", "v11")), ingress("$name-b", &to("/v12", "v12"))].concat();
    let secrets = [secret("$name-v11", &server, None), secret("$name-v12", &other, None)].concat();
    scene.apply(&[SERVICES, &*pod(11), &pod(12), &ingresses, &secrets].concat()).await;
    for path in ["/v11", "/v12"] {
        let who = eventually("the certificate", || ask_at(&scene, HTTPS, path, &first, None)).await;
        assert_eq!(who, path[1..]);
    }
    assert_eq!(ask(&scene, "", "/v12").await.who(), "v12", "without TLS as well");
    scene.end().await;
}
