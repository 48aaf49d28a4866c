//! HTTPRoutes whose parent is a Service.

use super::{SERVICE, Scene, count, get, get_with, pod};

/// Two backends of `$name` that have Services of their own.
const BACKENDS: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: $name-a, namespace: default}
spec: {clusterIP: 127.$n.2, selector: {app: $name, version: v11}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: $name-b, namespace: default}
spec: {clusterIP: 127.$n.3, selector: {app: $name, version: v12}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

fn route(rules: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: $name, namespace: default}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: $name, port: 80}}]
  rules:
{rules}
"
    )
}

/// Weights between Services, and a header that decides before them.
pub async fn weights_and_headers() {
    let scene = Scene::new("httproute").await;
    let _echoes = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let rules = "
  - backendRefs: [{name: $name-a, port: 80, weight: 3}, {name: $name-b, port: 80, weight: 1}]
  - matches: [{headers: [{name: x-canary, value: always}]}]
    backendRefs: [{name: $name-b, port: 80}]";
    scene.apply(&[SERVICE, &pod(11), &pod(12), BACKENDS, &route(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let counts = count(&client, &scene.service(), 200, &[]).await;
    // 150 are expected; 99.99% of all runs have 125 to 173.
    assert!((125..=173).contains(&counts["v11"]), "{counts:?}");
    let counts = count(&client, &scene.service(), 20, &[("x-canary", "always")]).await;
    assert_eq!(counts["v12"], 20);
    scene.end().await;
}

/// Filters: headers, rewrites, redirects; and what matches nothing.
pub async fn filters() {
    let scene = Scene::new("filters").await;
    let _echo = scene.echo(11, "v11").await;
    let rules = "
  - matches: [{path: {type: PathPrefix, value: /headers}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-set, value: new}], remove: [x-secret]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {add: [{name: x-answer, value: yes-we-can}]}
    backendRefs: [{name: $name, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
    backendRefs: [{name: $name, port: 80}]
  - matches: [{path: {type: Exact, value: /moved}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /here}, statusCode: 301}
  - matches: [{path: {type: Exact, value: /nobody}}]
    backendRefs: [{name: no-such-service, port: 80}]";
    scene.apply(&[SERVICE, &pod(11), &route(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    let changed = get_with(&client, &service, "/headers", &[("x-secret", "1"), ("x-set", "old")]).await;
    assert_eq!(changed.header("x-answer"), Some("yes-we-can"));
    let headers = &changed.echo()["headers"];
    assert_eq!((&headers["x-set"], headers.get("x-secret")), (&"new".into(), None));
    assert_eq!(get(&client, &service, "/old/path").await.echo()["path"], "/new/path");
    let moved = get(&client, &service, "/moved").await;
    assert_eq!((moved.status.as_u16(), moved.header("location")), (301, Some("http://service.example/here")));
    assert_eq!(get(&client, &service, "/nobody").await.status, 500, "a backend that is not there");
    assert_eq!(get(&client, &service, "/older").await.status, 404, "a prefix ends at a slash");
    scene.end().await;
}
