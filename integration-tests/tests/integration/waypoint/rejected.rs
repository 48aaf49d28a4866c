//! What an Envoy rejects although we took it for good costs the service that it
//! is about, and nobody else; it shows; and it is over when it is mended.

use std::time::Duration;

use fairway_integration_tests::eventually;
use serde_json::Value;

use super::{Scene, World, get};

/// Services `$name` and `$name-other`, with rules.
fn mesh(own: &str, other: &str) -> String {
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
    service("$name", 1, own) + &service("$name-other", 2, other)
}

fn answers(matches: &str, status: u16) -> String {
    format!("{{match: [{{uri: {{{matches}}}}}], directResponse: {{status: {status}}}}}")
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

    let large = answers("regex: \"/(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve).*\"", 203);
    scene.apply(&mesh(&large, &answers("prefix: /", 204))).await;
    assert_eq!(get(&client, &own, "/one").await.status, 201, "it keeps what it had");
    assert_eq!(get(&client, &other, "/").await.status, 204, "others change");
    let rejections = async || -> Vec<Value> {
        let page: Value = serde_json::from_str(&world.fairway.page("/debug/diagnosticsz").await).unwrap();
        page.as_array().unwrap().iter().filter(|one| one["reason"] == "RejectedByProxy").cloned().collect()
    };
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
