//! HTTPRoutes whose parent is a Service.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fairway_integration_tests::eventually;
use fairway_integration_tests::hbone::{Answer, request};

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

/// Copies for a share of requests, filters of one backend, redirects to other
/// schemes and ports, browsers' requests, and what cannot be done.
pub async fn more_filters() {
    let scene = Scene::new("filters").await;
    let (_main, copy) = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let rules = "
  - matches: [{path: {type: PathPrefix, value: /mirror}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: $name-b, port: 80}, fraction: {numerator: 1, denominator: 2}}}
    backendRefs: [{name: $name-a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /backend}}]
    backendRefs:
    - name: $name-a
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-backend, value: a}]}}
      - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-by, value: a}]}}
    - {name: $name-b, port: 80, weight: 0}
  - matches: [{path: {type: PathPrefix, value: /redirect/host}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example}}]
  - matches: [{path: {type: PathPrefix, value: /redirect/scheme}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
  - matches: [{path: {type: PathPrefix, value: /redirect/port}}]
    filters: [{type: RequestRedirect, requestRedirect: {port: 8080}}]
  - matches: [{path: {type: PathPrefix, value: /full}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: other.example, path: {type: ReplaceFullPath, replaceFullPath: /all}}}]
    backendRefs: [{name: $name-a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /cut}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: $name-a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /cors}}]
    filters: [{type: CORS, cors: {allowOrigins: ['https://*.example'], allowMethods: [PUT], maxAge: 9}}]
    backendRefs: [{name: $name-a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /unknown}}]
    filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Filter, name: f}}]
    backendRefs: [{name: $name-a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /nothing}}]
    backendRefs: [{name: $name-a, port: 80, weight: 0}]";
    scene.apply(&[SERVICE, &pod(11), &pod(12), BACKENDS, &route(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    for _ in 0..200 {
        assert_eq!(get(&client, &service, "/mirror").await.who(), "v11");
    }
    // 100 are expected; 99.99% of all runs have 72 to 128.
    eventually("the copies", async || match copy.seen().len() {
        72..=128 => Ok(()),
        other => Err(other),
    })
    .await;
    for _ in 0..10 {
        let answer = get(&client, &service, "/backend").await;
        assert_eq!((answer.header("x-by"), &answer.echo()["headers"]["x-backend"]), (Some("a"), &"a".into()));
    }
    for (path, location) in [
        ("/redirect/host", "http://other.example/redirect/host"),
        ("/redirect/scheme/x", "https://service.example/x"),
        ("/redirect/port", "http://service.example:8080/redirect/port"),
    ] {
        let answer = get(&client, &service, path).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (302, Some(location)), "{path}");
    }
    let full = get(&client, &service, "/full/path?q=1").await.echo();
    assert_eq!((&full["path"], &full["host"]), (&"/all?q=1".into(), &"other.example".into()));
    for (path, cut) in [("/cut", "/"), ("/cut/", "/"), ("/cut/x", "/x")] {
        assert_eq!(get(&client, &service, path).await.echo()["path"], cut, "{path}");
    }
    let preflight = [("origin", "https://a.example"), ("access-control-request-method", "PUT")];
    let answer = client.send(&service, request("OPTIONS", "/cors", &preflight)).await.unwrap();
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
    assert_eq!(answer.header("access-control-max-age"), Some("9"));
    for path in ["/unknown", "/nothing"] {
        assert_eq!(get(&client, &service, path).await.status, 500, "{path}");
    }
    scene.end().await;
}

/// Times of requests and attempts, and retries by status.
pub async fn times() {
    let scene = Scene::new("times").await;
    let echo = scene.echo(11, "v11").await;
    let rules = "
  - matches: [{path: {type: PathPrefix, value: /request}}]
    timeouts: {request: 300ms}
    backendRefs: [{name: $name, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /backend}}]
    timeouts: {request: 10s, backendRequest: 300ms}
    backendRefs: [{name: $name, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /retry}}]
    retry: {attempts: 2, codes: [503], backoff: 1ms}
    backendRefs: [{name: $name, port: 80}]
  - backendRefs: [{name: $name, port: 80}]";
    scene.apply(&[SERVICE, &pod(11), &route(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    for path in ["/request?delay=5000", "/backend?delay=5000"] {
        let start = Instant::now();
        assert_eq!(get(&client, &service, path).await.status, 504, "{path}");
        assert!(start.elapsed() < Duration::from_secs(5), "{path}");
    }
    assert_eq!(get(&client, &service, "/free?delay=600").await.status, 200);
    assert_eq!(get(&client, &service, "/retry?fail=2").await.status, 200);
    assert_eq!(get(&client, &service, "/retry?status=503").await.status, 503);
    let asked = |path: &str| echo.seen().iter().filter(|one| one["path"] == path).count();
    assert_eq!((asked("/retry?fail=2"), asked("/retry?status=503")), (3, 3));
    scene.end().await;
}

/// Methods of gRPC are paths; the more specific match counts, of whatever kind
/// of route.
pub async fn grpc() {
    let scene = Scene::new("grpc").await;
    let _echoes = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let routes = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: $name, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: $name}]
  rules:
  - matches: [{method: {service: a.B, method: Get}}, {method: {service: a.C}}, {method: {method: Any}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-rule, value: method}]}}]
    backendRefs: [{name: $name-b, port: 80}]
  - matches: [{headers: [{name: x-canary, value: yes-please}]}]
    backendRefs: [{name: $name-b, port: 80}]
";
    let rules = "
  - matches: [{path: {type: PathPrefix, value: /a.C/Old}}]
    backendRefs: [{name: $name-a, port: 80}]
  - backendRefs: [{name: $name-a, port: 80}]";
    scene.apply(&[SERVICE, &pod(11), &pod(12), BACKENDS, routes, &route(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    for (path, who) in [
        ("/a.B/Get", "v12"),
        ("/a.B/Put", "v11"),
        ("/a.C/Whatever", "v12"),
        ("/a.C/Old", "v11"),
        ("/x.Y/Any", "v12"),
        ("/x.Y/Anything", "v11"),
    ] {
        assert_eq!(get(&client, &service, path).await.who(), who, "{path}");
    }
    assert_eq!(get(&client, &service, "/a.B/Get").await.header("x-rule"), Some("method"));
    assert_eq!(get_with(&client, &service, "/other", &[("x-canary", "yes-please")]).await.who(), "v12");
    scene.end().await;
}

/// Requests of a session go to one endpoint, while it is there: captured ones by
/// HBONE and others.
pub async fn sessions() {
    let scene = Scene::new("sessions").await;
    let _echoes = (scene.echo(11, "v11").await, scene.echo(12, "v12").await, scene.echo(13, "v13").await);
    let rules = "
  - matches: [{path: {value: /cookie}}]
    sessionPersistence: {sessionName: kept}
    backendRefs: [{name: $name, port: 80}]
  - matches: [{path: {value: /header}}]
    sessionPersistence: {sessionName: x-kept, type: Header}
    backendRefs: [{name: $name, port: 80}]
  - backendRefs: [{name: $name, port: 80}]";
    scene.apply(&[SERVICE, &pod(11), &pod(12), &pod(13), &route(rules)].concat()).await;
    let client = scene.world.client("caller").await;

    let cookie = |answer: &Answer| {
        let cookie = answer.header("set-cookie")?.split(';').next()?;
        assert!(cookie.starts_with("kept="), "{cookie}");
        Some(cookie.to_owned())
    };
    let mut seen = BTreeSet::new();
    for _ in 0..12 {
        let first = get(&client, &scene.service(), "/cookie").await;
        let kept = cookie(&first).expect("a cookie");
        seen.insert(first.who());
        for _ in 0..4 {
            let next = get_with(&client, &scene.service(), "/cookie", &[("cookie", &kept)]).await;
            assert_eq!((next.who(), cookie(&next)), (first.who(), None));
        }
    }
    assert!(seen.len() > 1, "sessions begin anywhere: {seen:?}");
    let first = get(&client, &scene.service(), "/header").await;
    let kept = first.header("x-kept").expect("a header").to_owned();
    for _ in 0..8 {
        let next = get_with(&client, &scene.service(), "/header", &[("x-kept", &kept)]).await;
        assert_eq!(next.who(), first.who());
    }
    // Where nothing is said, a cookie means nothing.
    let plain = count(&client, &scene.service(), 30, &[("x-kept", &kept)]).await;
    assert!(plain.len() > 1, "{plain:?}");
    assert_eq!(get(&client, &scene.service(), "/").await.header("set-cookie"), None);

    // The endpoint goes; the session goes on elsewhere.
    let left: Vec<_> = [11, 12, 13].into_iter().filter(|host| format!("v{host}") != first.who()).map(pod).collect();
    scene.apply(&([SERVICE, &route(rules)].concat() + &left.concat())).await;
    let next = get_with(&client, &scene.service(), "/header", &[("x-kept", &kept)]).await;
    assert_ne!(next.who(), first.who());
    assert_ne!(next.header("x-kept"), Some(&*kept));
    scene.end().await;
}
