//! The rest of what virtual services say of requests, field by field.

use std::time::{Duration, Instant};

use fairway_integration_tests::eventually;
use fairway_integration_tests::hbone::request;

use super::{SERVICE, Scene, get, get_with, pod, status, subsets, virtual_service};

/// Conditions beyond path, header and query.
pub async fn conditions() {
    let scene = Scene::new("conditions").await;
    let _echo = scene.echo(11, "v11").await;
    let answer = |name: &str, condition: &str| {
        format!("\n  - match: [{{{condition}}}]\n    directResponse: {{status: 200, body: {{string: {name}}}}}")
    };
    let rules = [
        answer("labels", "uri: {prefix: /labels}, sourceLabels: {app: caller}"),
        answer("elsewhere", "uri: {prefix: /elsewhere}, gateways: [default/gateway]"),
        answer("port", "uri: {prefix: /port}, port: 81"),
        answer("stranger", "uri: {prefix: /from}, sourceNamespace: other"),
        answer("neighbour", "uri: {prefix: /from}, sourceNamespace: default"),
        answer("case", "uri: {prefix: /cAsE}, ignoreUriCase: true"),
        answer("without", "uri: {prefix: /without}, withoutHeaders: {x-a: {exact: '1'}, x-b: {}}"),
        answer("authority", "authority: {prefix: inner.}"),
        answer("method", "method: {regex: 'PUT|PATCH'}"),
        answer("scheme", "uri: {prefix: /scheme}, scheme: {exact: http}"),
        "\n  - route: [{destination: {host: $name}}]".to_owned(),
    ];
    scene.apply(&[SERVICE, &pod(11), &virtual_service(&rules.concat())].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    let body = async |path: &str, headers: &[(&str, &str)]| {
        let answer = get_with(&client, &service, path, headers).await;
        if answer.body.starts_with('{') { answer.who() } else { answer.body }
    };
    for path in ["/labels", "/elsewhere", "/port"] {
        assert_eq!(body(path, &[]).await, "v11", "{path} is not for requests here");
    }
    assert_eq!(body("/from", &[]).await, "neighbour");
    assert_eq!(body("/CaSe/x", &[]).await, "case");
    assert_eq!(body("/without", &[]).await, "without");
    assert_eq!(body("/without", &[("x-a", "2")]).await, "without");
    assert_eq!(body("/without", &[("x-a", "1")]).await, "v11");
    assert_eq!(body("/without", &[("x-b", "")]).await, "v11");
    assert_eq!(body("/", &[("host", "inner.example")]).await, "authority");
    assert_eq!(body("/scheme", &[]).await, "scheme");
    let put = client.send(&service, request("PUT", "/", &[])).await.unwrap();
    assert_eq!(put.body, "method");
    assert_eq!(status(&client, &service, "POST", "/", &[]).await, 200);
    scene.end().await;
}

/// Rewrites with expressions, redirects with ports and schemes, bytes as a
/// body, and hosts in headers.
pub async fn answers() {
    let scene = Scene::new("answers").await;
    let _echo = scene.echo(11, "v11").await;
    let rules = r#"
  - match: [{uri: {prefix: /users/}}]
    rewrite: {uriRegexRewrite: {match: "^/users/([^/]+)/(.*)$", rewrite: '/u/\2/of/\1'}}
    route: [{destination: {host: $name}}]
  - match: [{uri: {prefix: /port}}]
    redirect: {derivePort: FROM_REQUEST_PORT, uri: /there, redirectCode: 307}
  - match: [{uri: {prefix: /secure}}]
    redirect: {scheme: https, redirectCode: 308}
  - match: [{uri: {prefix: /explicit}}]
    redirect: {port: 8443, scheme: https, authority: other.example}
  - match: [{uri: {prefix: /bytes}}]
    directResponse: {status: 201, body: {bytes: aGVsbG8=}}
  - match: [{uri: {prefix: /host}}]
    headers: {request: {set: {Host: from.header}}}
    route: [{destination: {host: $name}}]
  - match: [{uri: {prefix: /operators}}]
    headers: {response: {set: {x-seen: "%REQ(:path)% 100%%"}}}
    route: [{destination: {host: $name}}]"#;
    scene.apply(&[SERVICE, &pod(11), &virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();

    assert_eq!(get(&client, &service, "/users/ann/a/b?q=1").await.echo()["path"], "/u/a/b/of/ann?q=1");
    for (path, code, location) in [
        ("/port", 307, "http://service.example/there"),
        ("/secure/x?y", 308, "https://service.example/secure/x?y"),
        ("/explicit", 301, "https://other.example:8443/explicit"),
    ] {
        let answer = get(&client, &service, path).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (code, Some(location)), "{path}");
    }
    let bytes = get(&client, &service, "/bytes").await;
    assert_eq!((bytes.status.as_u16(), &*bytes.body), (201, "hello"));
    assert_eq!(get(&client, &service, "/host").await.echo()["host"], "from.header");
    assert_eq!(get(&client, &service, "/operators").await.header("x-seen"), Some("/operators 100%"));
    assert_eq!(get(&client, &service, "/other").await.status, 404, "no rule matches");
    scene.end().await;
}

/// Browsers' requests from other origins.
pub async fn cors() {
    let scene = Scene::new("cors").await;
    let _echo = scene.echo(11, "v11").await;
    let rules = "
  - corsPolicy:
      allowOrigins: [{exact: https://one.example}, {regex: 'https://.*[.]many[.]example'}]
      allowMethods: [GET, PUT]
      allowHeaders: [x-allowed]
      exposeHeaders: [x-exposed]
      maxAge: 60s
      allowCredentials: true
    route: [{destination: {host: $name}}]";
    scene.apply(&[SERVICE, &pod(11), &virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    let asked = |origin| {
        let headers = [("origin", origin), ("access-control-request-method", "PUT")];
        client.send(&service, request("OPTIONS", "/", &headers))
    };
    for origin in ["https://one.example", "https://a.many.example"] {
        let answer = asked(origin).await.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, ""), "answered in place");
        for (name, value) in [
            ("access-control-allow-origin", origin),
            ("access-control-allow-methods", "GET,PUT"),
            ("access-control-allow-headers", "x-allowed"),
            ("access-control-max-age", "60"),
            ("access-control-allow-credentials", "true"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}");
        }
        let answer = get_with(&client, &service, "/", &[("origin", origin)]).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.header("access-control-expose-headers"), Some("x-exposed"));
    }
    let stranger = asked("https://stranger.example").await.unwrap();
    assert_eq!(stranger.echo()["method"], "OPTIONS", "it is the application's to answer");
    assert_eq!(stranger.header("access-control-allow-origin"), None);
    scene.end().await;
}

/// Faults and copies for a share of requests, and several places for copies.
/// Of 200 binomial draws with a half, all but one run in ten thousand have 72
/// to 128.
pub async fn shares() {
    let scene = Scene::new("shares").await;
    let _main = scene.echo(11, "v11").await;
    let (half, all) = (scene.echo(12, "v12").await, scene.echo(13, "v13").await);
    let rules = "
  - match: [{uri: {prefix: /fault}}]
    fault: {abort: {httpStatus: 500, percentage: {value: 50}}}
    route: [{destination: {host: $name, subset: v11}}]
  - match: [{uri: {prefix: /none}}]
    fault: {abort: {httpStatus: 500, percentage: {value: 0}}}
    mirrors: [{destination: {host: $name, subset: v12}, percentage: {value: 0}}]
    route: [{destination: {host: $name, subset: v11}}]
  - mirrors:
    - {destination: {host: $name, subset: v12}, percentage: {value: 50}}
    - {destination: {host: $name, subset: v13}}
    route: [{destination: {host: $name, subset: v11}}]";
    let mesh = [SERVICE, &pod(11), &pod(12), &pod(13), &subsets(&[11, 12, 13])].concat();
    scene.apply(&[&mesh, &*virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    let mut failed = 0;
    for _ in 0..200 {
        failed += usize::from(get(&client, &service, "/fault").await.status == 500);
    }
    assert!((72..=128).contains(&failed), "{failed}");
    for _ in 0..20 {
        assert_eq!(get(&client, &service, "/none").await.status, 200);
    }
    assert_eq!((half.seen().len(), all.seen().len()), (0, 0));
    for _ in 0..200 {
        assert_eq!(get(&client, &service, "/").await.who(), "v11");
    }
    eventually("the copies", async || match all.seen().len() {
        200 => Ok(()),
        other => Err(other),
    })
    .await;
    let copies = half.seen().len();
    assert!((72..=128).contains(&copies), "{copies}");
    scene.end().await;
}

/// Retries by status and by the time of one attempt.
pub async fn attempts() {
    let scene = Scene::new("attempts").await;
    let echo = scene.echo(11, "v11").await;
    let rules = "
  - match: [{uri: {prefix: /status}}]
    retries: {attempts: 2, retryOn: '409,418', backoff: 1ms}
    route: [{destination: {host: $name}}]
  - match: [{uri: {prefix: /slow}}]
    timeout: 10s
    retries: {attempts: 2, perTryTimeout: 300ms, retryOn: 5xx, backoff: 1ms}
    route: [{destination: {host: $name}}]
  - route: [{destination: {host: $name}}]";
    scene.apply(&[SERVICE, &pod(11), &virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    let asked = |path: &str| echo.seen().iter().filter(|one| one["path"] == path).count();
    for (path, code, times) in [
        ("/status?status=409", 409, 3),
        ("/status?status=418", 418, 3),
        ("/status?status=500", 500, 1),
        ("/default?status=503", 503, 1),
    ] {
        assert_eq!(status(&client, &service, "GET", path, &[]).await, code);
        assert_eq!(asked(path), times, "{path}");
    }
    let start = Instant::now();
    assert_eq!(get(&client, &service, "/slow?delay=5000").await.status, 504);
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(asked("/slow?delay=5000"), 3);
    scene.end().await;
}

/// A rule of which another virtual service has the rest.
pub async fn delegates() {
    let scene = Scene::new("delegates").await;
    let _echoes = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let rules = "
  - match: [{uri: {prefix: /api}}]
    delegate: {name: $name-api}
    headers: {response: {set: {x-from: root}}}
  - match: [{uri: {prefix: /gone}}]
    delegate: {name: $name-gone}
  - route: [{destination: {host: $name, subset: v11}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: $name-api, namespace: default}
spec:
  http:
  - match: [{uri: {prefix: /api/v2}}]
    route: [{destination: {host: $name, subset: v12}}]
  - route: [{destination: {host: $name, subset: v11}}]";
    let mesh = [SERVICE, &pod(11), &pod(12), &subsets(&[11, 12])].concat();
    scene.apply(&[&mesh, &*virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    for (path, who, from) in [
        ("/api/v2/x", "v12", Some("root")),
        ("/api/v1", "v11", Some("root")),
        ("/", "v11", None),
        ("/gone", "v11", None),
    ] {
        let answer = get(&client, &service, path).await;
        assert_eq!((&*answer.who(), answer.header("x-from")), (who, from), "{path}");
    }
    scene.end().await;
}
