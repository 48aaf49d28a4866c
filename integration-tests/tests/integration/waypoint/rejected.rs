//! What an Envoy rejects although we took it for good costs the service that it
//! is about, and nobody else; it shows; and it is over when it is mended.

use std::time::Duration;

use fairway_integration_tests::eventually;
use fairway_integration_tests::fairway::Fairway;
use fairway_integration_tests::runner;
use serde_json::Value;

use super::{Scene, World, get};

/// Services `$name` and `$name-other`, with rules.
fn mesh(own: &str, other: &str) -> String {
    services(&[("$name", own), ("$name-other", other)])
}

/// Services with rules, at `127.$n.1` and so on.
fn services(all: &[(&str, &str)]) -> String {
    let service = |name: &str, host: u8, rules: &str| {
        format!(
            "
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default, labels: {{istio.io/use-waypoint: waypoint}}}}
spec: {{clusterIP: 127.$n.{host}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default}}
spec: {{hosts: [{name}], http: [{rules}]}}
"
        )
    };
    all.iter().zip(1..).map(|((name, rules), host)| service(name, host, rules)).collect()
}

fn answers(matches: &str, status: u16) -> String {
    format!("{{match: [{{uri: {{{matches}}}}}], directResponse: {{status: {status}}}}}")
}

/// An expression that is larger than the Envoy of these tests is told to take.
const LARGE: &str = "regex: \"/(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve).*\"";

/// What is said to be rejected.
async fn rejections(fairway: &Fairway) -> Vec<Value> {
    let page: Value = serde_json::from_str(&fairway.page("/debug/diagnosticsz").await).unwrap();
    page.as_array().unwrap().iter().filter(|one| one["reason"] == "RejectedByProxy").cloned().collect()
}

pub async fn others_go_on() {
    // Its waypoint is to reject something, which all others must not.
    let world: &'static World = Box::leak(Box::new(World::start("rejected").await));
    let scene = Scene::of(world, "rejected");
    let client = world.client("caller").await;
    let (own, other) = (scene.service(), scene.at(2, 80));
    // What this Envoy's administrator says, no control plane can know: that
    // regular expressions must be tiny.
    world.waypoint.post("/runtime_modify?re2.max_program_size.error_level=40").await;
    scene.apply(&mesh(&answers("prefix: /", 201), &answers("prefix: /", 202))).await;
    assert_eq!(get(&client, &own, "/").await.status, 201);
    assert_eq!(get(&client, &other, "/").await.status, 202);

    let large = answers(LARGE, 203);
    scene.apply(&mesh(&large, &answers("prefix: /", 204))).await;
    assert_eq!(get(&client, &own, "/one").await.status, 201, "it keeps what it had");
    assert_eq!(get(&client, &other, "/").await.status, 204, "others change");
    let rejections = || rejections(&world.fairway);
    let said = rejections().await;
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!((&said[0]["kind"], &said[0]["name"]), (&Value::from("VirtualService"), &Value::from(&*scene.name)));
    let message = said[0]["message"].as_str().unwrap();
    assert!(message.contains("program size") && message.contains(&scene.name), "{message}");

    // It is not sent again, whatever else happens.
    let rejected = async || world.waypoint.stat("listener_manager.lds.update_rejected").await.unwrap();
    let before = rejected().await;
    for status in [205, 206, 207] {
        scene.apply(&mesh(&large, &answers("prefix: /", status))).await;
        assert_eq!(get(&client, &other, "/").await.status, status);
    }
    assert_eq!(rejected().await, before);

    scene.apply(&mesh(&answers("regex: \"/o.*\"", 208), &answers("prefix: /", 207))).await;
    assert_eq!(get(&client, &own, "/one").await.status, 208);
    eventually("nothing is said to be rejected", || async {
        let said = rejections().await;
        if said.is_empty() { Ok(()) } else { Err(said) }
    })
    .await;
    tokio::time::timeout(Duration::from_secs(20), async {
        world.waypoint.kill().await;
        world.fairway.kill().await;
    })
    .await
    .unwrap();
}

/// A control plane that has just started knows nothing of what the waypoint has
/// accepted. It finds out which services the waypoint does not take, and takes
/// nothing from the others meanwhile.
pub async fn after_a_restart() {
    let world = World::start("restarted").await;
    world.waypoint.post("/runtime_modify?re2.max_program_size.error_level=40").await;
    let good = answers("prefix: /", 201);
    let scene = Scene::of(Box::leak(Box::new(world)), "restarted");
    let world = scene.world;
    let names = ["$name-1", "$name-2", "$name-3", "$name-4", "$name-5"];
    let mesh = |rules: [&str; 5]| services(&names.into_iter().zip(rules).collect::<Vec<_>>());
    scene.apply(&mesh([&good; 5])).await;
    let client = world.client("caller").await;
    let ask = async |host| get(&client, &scene.at(host, 80), "/one").await.status.as_u16();

    world.fairway.kill().await;
    // Two are alike, so what the Envoy quotes is no hint.
    let (large, new) = (answers(LARGE, 203), answers("prefix: /", 204));
    scene.write(&mesh([&good, &large, &new, &large, &good]));
    let again = world.fairway.start_again(&world.options).await;
    runner::show_on_failure("restarted fairway", again.log_path().into());
    eventually("what has changed of a good service is there", || async {
        // At no time is anything taken from those that are good.
        assert_eq!((ask(1).await, ask(5).await), (201, 201));
        match ask(3).await {
            204 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    eventually("both are said to be rejected, and nothing is left of the search", || async {
        let said = rejections(&again).await;
        // One that has gone is shown as draining for a while.
        let listeners = world.waypoint.config_dump(Some("dynamic_listeners")).await["configs"].clone();
        let listeners = listeners.as_array().into_iter().flatten();
        let mut active = listeners.filter(|one| !one["active_state"].is_null()).map(|one| one["name"].to_string());
        let names: Vec<_> = said.iter().map(|one| one["name"].as_str().unwrap()).collect();
        let wanted = [format!("{}-2", scene.name), format!("{}-4", scene.name)];
        if names == wanted && !active.any(|name| name.contains("trial_")) { Ok(()) } else { Err(said) }
    })
    .await;
    for host in [2, 4] {
        let refused = client.get(&scene.at(host, 80), "/one", &[]).await;
        assert!(refused.is_err(), "what cannot be enforced is closed: {refused:?}");
    }

    scene.write(&mesh([&good; 5]));
    eventually("all is well again", || async {
        let said = rejections(&again).await;
        let answers = client.get(&scene.at(2, 80), "/one", &[]).await.map(|answer| answer.status.as_u16());
        if said.is_empty() && answers == Ok(201) { Ok(()) } else { Err((said, answers)) }
    })
    .await;
    tokio::time::timeout(Duration::from_secs(20), async {
        world.waypoint.kill().await;
        again.kill().await;
    })
    .await
    .unwrap();
}
