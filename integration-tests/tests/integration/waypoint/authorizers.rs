//! What is decided elsewhere, only logged, or only tried out: CUSTOM, AUDIT and
//! dry-run policies at a waypoint.

use fairway_integration_tests::authorizer::Authorizer;
use fairway_integration_tests::eventually;
use fairway_integration_tests::hbone::Client;
use fairway_integration_tests::identity::Identity;

use super::{SERVICE, Scene, get_with, pod, status};

fn policy(name: &str, annotations: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: $name-{name}, namespace: default, annotations: {{{annotations}}}}}
spec:
  targetRefs: [{{kind: Service, group: \"\", name: $name}}]
{spec}
"
    )
}

/// The Service of an authorizer, under the name that the mesh configuration
/// has, at an address of the scene.
fn authorizer(scene: &Scene, name: &str, port: &str, number: u16) -> String {
    let ip = scene.ip(21);
    format!(
        "
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec: {{clusterIP: 127.$n.20, selector: {{app: {name}}}, ports: [{{name: {port}, port: {number}, targetPort: {number}}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, labels: {{app: {name}}}}}
spec: {{serviceAccountName: default, nodeName: node-a, containers: [{{name: c}}]}}
status:
  phase: Running
  podIP: {ip}
  podIPs: [{{ip: {ip}}}]
  conditions: [{{type: Ready, status: \"True\"}}]
"
    )
}

/// Asks an authorizer about some requests, and whoever is let in is still held
/// to the other policies.
async fn asks(provider: &str, over: &str, scene: &Scene, authorizer: &Authorizer, service: &str) {
    let echo = scene.echo(11, "v11").await;
    let ask = policy(
        "ask",
        "",
        &format!(
            "  action: CUSTOM\n  provider: {{name: {provider}}}\n  rules: [{{to: [{{operation: {{paths: [/guarded*]}}}}]}}]"
        ),
    );
    let deny = policy("deny", "", "  action: DENY\n  rules: [{to: [{operation: {paths: [/guarded/never]}}]}]");
    scene.apply(&[SERVICE, &pod(11), &ask, &deny, service].concat()).await;
    let client = scene.world.client("caller").await;
    let please = [("x-let-in", "please")];
    let at = scene.service();
    // The waypoint has to find the authorizer's endpoint first.
    eventually("the authorizer to let a request in", || async {
        match status(&client, &at, "GET", "/guarded/first", &please).await {
            200 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    for (path, headers, wanted) in [
        ("/open", &[][..], 200),
        ("/guarded/1", &[], 403),
        ("/guarded/2", &please, 200),
        ("/guarded/never", &please, 403),
    ] {
        assert_eq!(status(&client, &at, "GET", path, headers).await, wanted, "{path} {headers:?}");
    }
    let refused = get_with(&client, &at, "/guarded/1", &[]).await;
    assert_eq!(refused.body, "not without asking");
    let let_in = get_with(&client, &at, "/guarded/2", &please).await.echo();
    assert_eq!(let_in["headers"]["x-asked"], over, "{let_in}");
    let asked = authorizer.asked();
    assert!(asked.iter().all(|path| path.contains("/guarded")), "it was asked about others: {asked:?}");
    let never = echo.seen().iter().filter(|seen| seen["path"] == "/guarded/never").count();
    assert_eq!(never, 0);
    scene.end().await;
}

/// An authorizer that is asked over HTTP.
pub async fn over_http() {
    let scene = Scene::new("ask-http").await;
    let address = std::net::SocketAddr::new(scene.ip(21).into(), 8000);
    let authorizer_task = Authorizer::http(address).await;
    let service = authorizer(&scene, "authorizer-http", "http", 8000);
    asks("ask-http", "over HTTP", &scene, &authorizer_task, &service).await;
}

/// An authorizer that is asked over gRPC.
pub async fn over_grpc() {
    let scene = Scene::new("ask-grpc").await;
    let address = std::net::SocketAddr::new(scene.ip(21).into(), 9000);
    let authorizer_task = Authorizer::grpc(address).await;
    let service = authorizer(&scene, "authorizer-grpc", "grpc", 9000);
    asks("ask-grpc", "over gRPC", &scene, &authorizer_task, &service).await;
}

/// What an authorizer that is not there would be asked about is refused, and
/// nothing else is: one that nobody configured, and one whose service is gone.
pub async fn missing() {
    let scene = Scene::new("ask-nobody").await;
    let _echo = scene.echo(11, "v11").await;
    let custom = |provider: &str, path: &str| {
        policy(
            provider,
            "",
            &format!(
                "  action: CUSTOM\n  provider: {{name: {provider}}}\n  rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]"
            ),
        )
    };
    scene.apply(&[SERVICE, &pod(11), &custom("no-such", "/a"), &custom("ask-gone", "/b")].concat()).await;
    let client = scene.world.client("caller").await;
    for (path, wanted) in [("/a", 403), ("/b", 403), ("/c", 200)] {
        assert_eq!(status(&client, &scene.service(), "GET", path, &[]).await, wanted, "{path}");
    }
    let said = scene.world.fairway.page("/debug/diagnosticsz").await;
    for provider in ["no-such", "ask-gone"] {
        assert!(said.contains(&format!("{}-{provider}", scene.name)), "{provider}: {said}");
    }
    scene.end().await;
}

/// AUDIT and dry runs decide nothing; what a dry run would have done is counted.
pub async fn only_logged() {
    let scene = Scene::new("tried").await;
    let _echo = scene.echo(11, "v11").await;
    let paths = |path: &str| format!("  rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]");
    let audit = policy("audit", "", &format!("  action: AUDIT\n{}", paths("/audited")));
    let dry = policy("dry", "istio.io/dry-run: 'true'", &format!("  action: DENY\n{}", paths("/tried")));
    let deny = policy("deny", "", &format!("  action: DENY\n{}", paths("/denied")));
    scene.apply(&[SERVICE, &pod(11), &audit, &dry, &deny].concat()).await;
    let client = scene.world.client("caller").await;
    let would = || async {
        let page = scene.world.waypoint.page("/stats?filter=istio_dry_run_deny").await;
        let counts = page.lines().filter(|line| line.contains("shadow_denied"));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    let before = would().await;
    for (path, wanted) in [("/audited", 200), ("/tried", 200), ("/tried", 200), ("/denied", 403), ("/other", 200)] {
        assert_eq!(status(&client, &scene.service(), "GET", path, &[]).await, wanted, "{path}");
    }
    eventually("the count of what would have been denied", || async {
        match would().await - before {
            2 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    scene.end().await;
}

/// Who calls is known through the tunnel: the service account, the namespace,
/// the trust domain, and that which is said not to be.
pub async fn callers() {
    let scene = Scene::new("callers").await;
    let _echo = scene.echo(11, "v11").await;
    let allow = policy(
        "allow",
        "",
        "
  action: ALLOW
  rules:
  - from: [{source: {namespaces: [elsewhere]}}]
    to: [{operation: {paths: [/namespace]}}]
  - from: [{source: {notNamespaces: [elsewhere]}}]
    to: [{operation: {paths: [/not-namespace]}}]
  - from: [{source: {serviceAccounts: [elsewhere/robot]}}]
    to: [{operation: {paths: [/account]}}]
  - from: [{source: {principals: ['*/sa/robot']}}]
    to: [{operation: {paths: [/suffix]}}]
  - to: [{operation: {paths: [/when]}}]
    when: [{key: source.principal, notValues: [cluster.local/ns/elsewhere/sa/robot]}]
  - from: [{source: {ipBlocks: [127.0.0.0/8], notIpBlocks: [10.0.0.0/8]}}]
    to: [{operation: {paths: [/address]}}]
  - from: [{source: {ipBlocks: [10.0.0.0/8]}}]
    to: [{operation: {paths: [/other-address]}}]
  - from: [{source: {notIpBlocks: [127.0.0.0/8]}}]
    to: [{operation: {paths: [/not-address]}}]
  - from: [{source: {remoteIpBlocks: [127.0.0.0/8]}}]
    to: [{operation: {paths: [/remote]}}]",
    );
    scene.apply(&[SERVICE, &pod(11), &allow].concat()).await;
    let world = scene.world;
    let robot = Identity::of(&world.fairway, &world.state, "elsewhere", "robot").await;
    let robot = Client::connect(&robot, world.waypoint.address).await.unwrap();
    let person = world.client("person").await;
    for (path, of_robot, of_person) in [
        ("/namespace", 200, 403),
        ("/not-namespace", 403, 200),
        ("/account", 200, 403),
        ("/suffix", 200, 403),
        ("/when", 403, 200),
        ("/address", 200, 200),
        ("/other-address", 403, 403),
        ("/not-address", 403, 403),
        ("/remote", 200, 200),
        ("/other", 403, 403),
    ] {
        assert_eq!(status(&robot, &scene.service(), "GET", path, &[]).await, of_robot, "robot {path}");
        assert_eq!(status(&person, &scene.service(), "GET", path, &[]).await, of_person, "person {path}");
    }
    scene.end().await;
}
