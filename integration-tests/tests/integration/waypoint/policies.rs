//! Who may do what: AuthorizationPolicy at a waypoint.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{SERVICE, Scene, get, pod, status};

pub fn policy(name: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: $name-{name}, namespace: default}}
spec:
  targetRefs: [{{kind: Service, group: \"\", name: $name}}]
{spec}
"
    )
}

/// Methods, paths, headers and callers; a DENY wins over an ALLOW.
pub async fn requests_and_callers() {
    let scene = Scene::new("policy").await;
    let echo = scene.echo(11, "v11").await;
    let allow = policy(
        "allow",
        "
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/reader]}}]
    to: [{operation: {methods: [GET], paths: [/data/*]}}]
  - from: [{source: {principals: [cluster.local/ns/default/sa/writer]}}]
    to: [{operation: {methods: [GET, DELETE]}}]
    when: [{key: 'request.headers[x-token]', values: [secret]}]",
    );
    let deny = policy(
        "deny",
        "
  action: DENY
  rules: [{to: [{operation: {paths: [/data/private*]}}]}]",
    );
    scene.apply(&[SERVICE, &pod(11), &allow, &deny].concat()).await;
    let (reader, writer) = (scene.world.client("reader").await, scene.world.client("writer").await);
    let service = scene.service();
    let token = [("x-token", "secret")];
    for (client, method, path, headers, wanted) in [
        (&reader, "GET", "/data/1", &[][..], 200),
        (&reader, "DELETE", "/data/1", &[], 403),
        (&reader, "GET", "/other", &[], 403),
        (&reader, "DELETE", "/data/1", &token, 403),
        (&reader, "GET", "/data/private/1", &[], 403),
        (&writer, "GET", "/other", &token, 200),
        (&writer, "DELETE", "/data/1", &token, 200),
        (&writer, "DELETE", "/data/1", &[], 403),
        (&writer, "DELETE", "/data/1", &[("x-token", "wrong")], 403),
        (&writer, "DELETE", "/data/private", &token, 403),
        // What a path means does not depend on how it is written.
        (&reader, "GET", "/data/../data/private/1", &[], 403),
        (&reader, "GET", "/data/%70rivate/1", &[], 403),
    ] {
        assert_eq!(status(client, &service, method, path, headers).await, wanted, "{method} {path} {headers:?}");
    }
    assert_eq!(echo.seen().len(), 3, "what is refused reaches nobody");
    let refused = get(&reader, &service, "/other").await;
    assert_eq!(refused.body, "RBAC: access denied");
    scene.end().await;
}

/// A policy without rules lets nobody in, and goes when it is taken away.
pub async fn nothing_allowed() {
    let scene = Scene::new("nothing").await;
    let _echo = scene.echo(11, "v11").await;
    let mesh = [SERVICE, &pod(11)].concat();
    let client = scene.world.client("caller").await;
    let service = scene.service();
    scene.apply(&[&*mesh, &policy("none", "  action: ALLOW")].concat()).await;
    assert_eq!(status(&client, &service, "GET", "/", &[]).await, 403);
    scene.apply(&mesh).await;
    assert_eq!(status(&client, &service, "GET", "/", &[]).await, 200);
    scene.end().await;
}

/// Callers and services keep apart, though they share the waypoint's
/// connections: each of two services is for one caller alone.
pub async fn never_mixed() {
    let scene = Scene::new("apart").await;
    let _echoes = (scene.echo(11, "a").await, scene.echo(12, "b").await);
    let mut mesh = String::new();
    for (one, host, version) in [("a", 1, 11), ("b", 2, 12)] {
        mesh += &format!(
            "
---
apiVersion: v1
kind: Service
metadata: {{name: $name-{one}, namespace: default, labels: {{istio.io/use-waypoint: waypoint}}}}
spec:
  clusterIP: 127.$n.{host}
  selector: {{app: $name, version: v{version}}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: $name-{one}, namespace: default}}
spec:
  targetRefs: [{{kind: Service, group: \"\", name: $name-{one}}}]
  action: ALLOW
  rules: [{{from: [{{source: {{principals: [cluster.local/ns/default/sa/{one}]}}}}]}}]
{}",
            pod(version)
        );
    }
    scene.apply(&mesh).await;
    let clients = [("a", scene.world.client("a").await), ("b", scene.world.client("b").await)];
    let services = [("a", scene.at(1, 80)), ("b", scene.at(2, 80))];
    // Fifty times all four pairs, twenty at a time, over two connections.
    let permits = Arc::new(Semaphore::new(20));
    let mut asked = JoinSet::new();
    for round in 0..50 {
        for (caller, client) in &clients {
            for (service, address) in &services {
                let (caller, service): (&'static str, &'static str) = (caller, service);
                let (client, address, permits) = (client.clone(), address.clone(), permits.clone());
                asked.spawn(async move {
                    let _permit = permits.acquire().await;
                    let answer = get(&client, &address, &format!("/{caller}/{service}/{round}")).await;
                    let right = match answer.status.as_u16() {
                        200 => caller == service && answer.who() == service,
                        403 => caller != service,
                        _ => false,
                    };
                    (!right).then(|| format!("{caller} to {service}: {answer:?}"))
                });
            }
        }
    }
    let answers = asked.join_all().await;
    assert_eq!(answers.len(), 200);
    let wrong: Vec<_> = answers.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} wrong, such as {:?}", wrong.len(), wrong[0]);
    scene.end().await;
}
