use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Seen, Selection, follow, items};
use crate::controller::resource::Resource;
use crate::source::kube::scripted::server;

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_installed_is_looked_for_when_one_is_defined() {
    let (client, mut api) = server();
    let (sender, mut seen) = mpsc::channel(16);
    let definitions = watch::Sender::new(());
    let selection = Selection { resource: Resource::GatewayClass, namespace: String::new(), query: String::new() };
    tokio::spawn(follow(client, 5, selection, sender, definitions.subscribe()));
    // The looks become rarer.
    let mut looks = Vec::new();
    for _ in 0..10 {
        api.next().await.refuse(404, "the server could not find the requested resource");
        assert!(matches!(seen.recv().await, Some(Seen::Absent(5))));
        looks.push(Instant::now());
    }
    assert!(looks[1] - looks[0] <= Duration::from_secs(1), "{looks:?}");
    assert!(looks[9] - looks[8] >= Duration::from_secs(10), "{looks:?}");

    definitions.send_replace(());
    let defined = Instant::now();
    api.next().await.list(7, "", &[serde_json::json!({ "metadata": { "name": "a" } })]);
    assert!(defined.elapsed() <= Duration::from_secs(1), "it is looked for at once");
    match seen.recv().await {
        Some(Seen::All(5, objects)) => assert_eq!(objects.len(), 1),
        other => panic!("{other:?}"),
    }
    api.watch(7).await;
}

#[test]
fn what_is_listed_says_what_it_is() {
    let of = |kind: &str, items| json!({ "kind": kind, "apiVersion": "apps/v1", "items": items });
    let named = json!({ "metadata": { "name": "a" } });
    let whole = json!({ "kind": "Deployment", "apiVersion": "apps/v1", "metadata": { "name": "a" } });
    assert_eq!(items(&mut of("DeploymentList", json!([named.clone()]))), [whole]);
    let other = json!({ "kind": "Deployment", "apiVersion": "apps/v1beta1" });
    assert_eq!(items(&mut of("DeploymentList", json!([other.clone()]))), [other], "if it does not yet");
    assert_eq!(items(&mut of("Other", json!([named.clone()]))), [named]);
    assert!(items(&mut of("DeploymentList", json!(null))).is_empty());
}
