//! What virtual services do to requests.

use std::time::{Duration, Instant};

use fairway_integration_tests::eventually;

use super::{SERVICE, Scene, count, get, get_with, pod, subsets, virtual_service};

/// Nine of ten requests go to v11. Of 300 binomial draws with 0.9, all but one
/// run in ten thousand have 247 to 290.
pub async fn weights() {
    let scene = Scene::new("weights").await;
    let (_one, _other) = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let rules = "
  - route:
    - {destination: {host: $name, subset: v11}, weight: 90}
    - {destination: {host: $name, subset: v12}, weight: 10}";
    let mesh = [SERVICE, &pod(11), &pod(12), &subsets(&[11, 12])].concat();
    scene.apply(&[&mesh, &*virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let counts = count(&client, &scene.service(), 300, &[]).await;
    assert_eq!(counts.values().sum::<usize>(), 300);
    assert!((247..=290).contains(&counts["v11"]), "{counts:?}");
    scene.end().await;
}

/// Without rules, all ready pods are used.
pub async fn none() {
    let scene = Scene::new("none").await;
    let (_one, _other) = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    scene.apply(&[SERVICE, &pod(11), &pod(12)].concat()).await;
    let client = scene.world.client("caller").await;
    let counts = count(&client, &scene.service(), 60, &[]).await;
    assert!(counts["v11"] > 10 && counts["v12"] > 10, "{counts:?}");

    let answer = get_with(&client, &scene.service(), "/some/path?x=1", &[("host", "a.b"), ("x-own", "1")]).await.echo();
    assert_eq!(answer["path"], "/some/path?x=1");
    assert_eq!(answer["host"], "a.b", "the caller's host is kept");
    assert_eq!(answer["headers"]["x-own"], "1");
    scene.end().await;
}

/// The first rule that matches decides: by path, header, method and query.
pub async fn matches() {
    let scene = Scene::new("matches").await;
    let _echoes = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let rules = r#"
  - match: [{headers: {end-user: {exact: jason}}}, {uri: {prefix: /beta}, method: {exact: GET}}]
    route: [{destination: {host: $name, subset: v12}}]
  - match: [{queryParams: {beta: {exact: "yes"}}}, {uri: {regex: "/r[0-9]+"}}]
    route: [{destination: {host: $name, subset: v12}}]
  - route: [{destination: {host: $name, subset: v11}}]"#;
    let mesh = [SERVICE, &pod(11), &pod(12), &subsets(&[11, 12])].concat();
    scene.apply(&[&mesh, &*virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    let who = async |path: &str, headers: &[(&str, &str)]| get_with(&client, &service, path, headers).await.who();
    assert_eq!(who("/", &[]).await, "v11");
    assert_eq!(who("/", &[("end-user", "jason")]).await, "v12");
    assert_eq!(who("/", &[("end-user", "jasonx")]).await, "v11");
    assert_eq!(who("/beta/x", &[]).await, "v12");
    assert_eq!(who("/?beta=yes", &[]).await, "v12");
    assert_eq!(who("/?beta=no", &[]).await, "v11");
    assert_eq!(who("/r12", &[]).await, "v12");
    assert_eq!(who("/r12x", &[]).await, "v11", "a regex is for the whole path");
    scene.end().await;
}

/// Faults, redirects, rewrites, direct responses and changes of headers.
pub async fn actions() {
    let scene = Scene::new("actions").await;
    let _echo = scene.echo(11, "v11").await;
    let rules = r#"
  - match: [{uri: {prefix: /abort}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: $name}}]
  - match: [{uri: {prefix: /delay}}]
    fault: {delay: {fixedDelay: 700ms, percentage: {value: 100}}}
    route: [{destination: {host: $name}}]
  - match: [{uri: {prefix: /redirect}}]
    redirect: {uri: /other, authority: elsewhere.example, redirectCode: 302}
  - match: [{uri: {prefix: /old/}}]
    rewrite: {uri: /new/, authority: rewritten.example}
    route: [{destination: {host: $name}}]
  - match: [{uri: {exact: /direct}}]
    directResponse: {status: 503, body: {string: "closed today"}}
  - route: [{destination: {host: $name}, headers: {response: {add: {x-route: one}}}}]
    headers:
      request: {set: {x-set: "2"}, add: {x-add: "3"}, remove: [x-secret]}
      response: {set: {x-answer: yes-we-can}}"#;
    scene.apply(&[SERVICE, &pod(11), &virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();

    let abort = get(&client, &service, "/abort/x").await;
    assert_eq!((abort.status.as_u16(), &*abort.body), (418, "fault filter abort"));

    let start = Instant::now();
    assert_eq!(get(&client, &service, "/delay").await.status, 200);
    assert!(start.elapsed() >= Duration::from_millis(700), "{:?}", start.elapsed());

    let redirect = get(&client, &service, "/redirect/x").await;
    assert_eq!((redirect.status.as_u16(), redirect.header("location")), (302, Some("http://elsewhere.example/other")));

    let rewritten = get(&client, &service, "/old/path?q=1").await.echo();
    assert_eq!((&rewritten["path"], &rewritten["host"]), (&"/new/path?q=1".into(), &"rewritten.example".into()));

    let direct = get(&client, &service, "/direct").await;
    assert_eq!((direct.status.as_u16(), &*direct.body), (503, "closed today"));

    let changed = get_with(&client, &service, "/", &[("x-secret", "1"), ("x-set", "1"), ("x-add", "1")]).await;
    assert_eq!((changed.header("x-answer"), changed.header("x-route")), (Some("yes-we-can"), Some("one")));
    let headers = &changed.echo()["headers"];
    assert_eq!((&headers["x-set"], headers.get("x-secret")), (&"2".into(), None));
    assert!(headers["x-add"].as_str().is_some_and(|added| added.contains('3')), "{headers}");
    scene.end().await;
}

/// A timeout ends a request that takes too long, and no other.
pub async fn timeout() {
    let scene = Scene::new("timeout").await;
    let _echo = scene.echo(11, "v11").await;
    let rules = "
  - match: [{uri: {prefix: /limited}}]
    timeout: 300ms
    route: [{destination: {host: $name}}]
  - route: [{destination: {host: $name}}]";
    scene.apply(&[SERVICE, &pod(11), &virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    let limited = get(&client, &service, "/limited?delay=5000").await;
    assert_eq!((limited.status.as_u16(), &*limited.body), (504, "upstream request timeout"));
    assert_eq!(get(&client, &service, "/limited").await.status, 200);
    assert_eq!(get(&client, &service, "/free?delay=600").await.status, 200);
    scene.end().await;
}

/// A backend that fails at first is asked again, as often as the route says.
pub async fn retries() {
    let scene = Scene::new("retries").await;
    let echo = scene.echo(11, "v11").await;
    let rules = "
  - match: [{uri: {prefix: /three}}]
    retries: {attempts: 3, retryOn: 5xx, backoff: 1ms}
    route: [{destination: {host: $name}}]
  - match: [{uri: {prefix: /never}}]
    retries: {attempts: 0}
    route: [{destination: {host: $name}}]";
    scene.apply(&[SERVICE, &pod(11), &virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    let asked = |path: &str| echo.seen().iter().filter(|one| one["path"] == path).count();

    assert_eq!(get(&client, &service, "/three?fail=3").await.status, 200);
    assert_eq!(asked("/three?fail=3"), 4);
    assert_eq!(get(&client, &service, "/three?fail=9").await.status, 503);
    assert_eq!(asked("/three?fail=9"), 4, "once and three times more");
    assert_eq!(get(&client, &service, "/never?fail=1").await.status, 503);
    assert_eq!(asked("/never?fail=1"), 1);
    scene.end().await;
}

/// The mirror gets a copy of each request; its answers reach nobody.
pub async fn mirror() {
    let scene = Scene::new("mirror").await;
    let (main, copy) = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let rules = "
  - route: [{destination: {host: $name, subset: v11}}]
    mirror: {host: $name, subset: v12}
    mirrorPercentage: {value: 100}";
    let mesh = [SERVICE, &pod(11), &pod(12), &subsets(&[11, 12])].concat();
    scene.apply(&[&mesh, &*virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    for number in 0..5 {
        assert_eq!(get(&client, &scene.service(), &format!("/{number}")).await.who(), "v11");
    }
    eventually("the copies", async || match copy.seen().len() {
        5 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(main.seen().len(), 5);
    let mut paths: Vec<_> = copy.seen().iter().map(|one| one["path"].as_str().unwrap().to_owned()).collect();
    paths.sort();
    assert_eq!(paths, ["/0", "/1", "/2", "/3", "/4"]);
    scene.end().await;
}

/// A subset without pods, and one that is not there, answer 503 and lead
/// nowhere else.
pub async fn no_such_subset() {
    let scene = Scene::new("subset").await;
    let echo = scene.echo(11, "v11").await;
    let rules = "
  - match: [{uri: {prefix: /empty}}]
    route: [{destination: {host: $name, subset: v12}}]
  - match: [{uri: {prefix: /unknown}}]
    route: [{destination: {host: $name, subset: v13}}]
  - match: [{uri: {prefix: /service}}]
    route: [{destination: {host: no-such-service}}]
  - route: [{destination: {host: $name}}]";
    let mesh = [SERVICE, &pod(11), &subsets(&[11, 12])].concat();
    scene.apply(&[&mesh, &*virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    for path in ["/empty", "/unknown", "/service"] {
        assert_eq!(get(&client, &scene.service(), path).await.status, 503, "{path}");
    }
    assert_eq!(echo.seen().len(), 0);
    assert_eq!(get(&client, &scene.service(), "/").await.status, 200);
    scene.end().await;
}

/// Rules that cannot be honoured: an expression that RE2 refuses, weights of
/// which nothing can be a share, a backend in another namespace without a grant,
/// and a second virtual service for the same requests. What is beside them works.
pub async fn bad_rules() {
    let scene = Scene::new("bad-rules").await;
    let _echo = scene.echo(11, "v11").await;
    let more = "
---
apiVersion: v1
kind: Service
metadata: {name: $name-b, namespace: default, labels: {istio.io/use-waypoint: waypoint}}
spec: {clusterIP: 127.$n.2, selector: {app: $name}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: $name, namespace: elsewhere}
spec: {clusterIP: 127.$n.3, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: $name-b, namespace: default}
spec:
  parentRefs: [{group: \"\", kind: Service, name: $name-b}]
  rules:
  - matches: [{path: {value: /granted}}]
    backendRefs: [{name: $name-b, port: 80}]
  - backendRefs: [{name: $name, namespace: elsewhere, port: 80}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: $name-newer, namespace: default, creationTimestamp: \"2099-01-01T00:00:00Z\"}
spec:
  hosts: [$name]
  http: [{match: [{uri: {prefix: /good}}], directResponse: {status: 418}}, {match: [{uri: {prefix: /newer}}], directResponse: {status: 419}}]
";
    let rules = "
  - match: [{uri: {regex: '/a(?=b).*'}}]
    directResponse: {status: 420}
  - match: [{uri: {prefix: /none}}]
    route: [{destination: {host: $name}, weight: 0}, {destination: {host: $name-b}, weight: 0}]
  - match: [{uri: {prefix: /only}}]
    route: [{destination: {host: $name}, weight: 0}]
  - match: [{uri: {prefix: /negative}}]
    route: [{destination: {host: $name}, weight: -1}, {destination: {host: $name}, weight: 101}]
  - match: [{uri: {prefix: /good}}]
    route: [{destination: {host: $name}}]";
    scene.apply(&[SERVICE, &pod(11), more, &virtual_service(rules)].concat()).await;
    let client = scene.world.client("caller").await;
    for (host, path, wanted) in [
        (1, "/good", 200),
        (1, "/ab", 404),
        (1, "/none", 404),
        // A weight is nothing where there is one destination.
        (1, "/only", 200),
        (1, "/negative", 404),
        // The older one counts for what both are about; the other adds to it.
        (1, "/newer", 419),
        (2, "/granted", 200),
        (2, "/", 500),
    ] {
        assert_eq!(get(&client, &scene.at(host, 80), path).await.status, wanted, "{host} {path}");
    }
    scene.end().await;
}
