//! Kinds that are not there, come, or go.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_kind_may_appear_and_go() {
    let (client, api) = server();
    let server = Server::new(client);
    let mut test = Test::with(&server, api, Kind::AuthorizationPolicy);
    let call = test.api.next().await;
    assert_eq!(call.path, "/apis/security.istio.io");
    call.refuse(404, "404 page not found");
    assert_eq!(test.said().await, ["synced"]);
    assert_eq!(test.reasons(), "");
    for _ in 0..20 {
        test.api.next().await.refuse(404, "404 page not found");
    }

    // Its definition appears.
    let started = tokio::time::Instant::now();
    server.definitions.send_replace(());
    discovery(test.api.next().await, &["v1beta1", "v1"], &[]);
    assert!(started.elapsed() < Duration::from_secs(1));
    let call = test.api.next().await;
    assert_eq!(call.path, "/apis/security.istio.io/v1");
    discovery(call, &[], &["authorizationpolicies"]);
    let call = test.api.next().await;
    assert_eq!(call.path, POLICIES);
    call.list(7, "", &[object("x", 6)]);
    assert_eq!(test.said().await, ["+a/x@6"]);
    let stream = test.api.watch(7).await;

    // It goes; an error of discovery is not believed, nor is a hasty answer.
    let gone = tokio::time::Instant::now();
    drop(stream);
    test.api.next().await.refuse(404, "404 page not found");
    test.api.next().await.refuse(503, "not now");
    while test.events.is_empty() && gone.elapsed() < Duration::from_secs(60) {
        discovery(test.api.next().await, &["v1beta2"], &[]);
        settle().await;
    }
    assert!(gone.elapsed() >= Duration::from_secs(10));
    assert_eq!(test.said().await, ["-a/x"]);
    assert_eq!(test.reasons(), "");
}

#[tokio::test(start_paused = true)]
async fn an_older_version_of_a_kind_is_read_where_there_is_no_other() {
    let mut test = Test::start(Kind::AuthorizationPolicy);
    discovery(test.api.next().await, &["v1", "v1beta1"], &[]);
    discovery(test.api.next().await, &[], &["requestauthentications"]);
    discovery(test.api.next().await, &[], &["authorizationpolicies"]);
    assert_eq!(test.api.next().await.path, "/apis/security.istio.io/v1beta1/authorizationpolicies");
}

#[tokio::test(start_paused = true)]
async fn only_definitions_of_our_kinds_wake() {
    let (client, api) = server();
    let server = Server::new(client);
    let mut woken = server.definitions.subscribe();
    let mut test = Test::with(&server, api, Kind::CustomResourceDefinition);
    let named = |name: &str, version: u64| json!({"metadata": {"name": name, "resourceVersion": version.to_string()}});
    test.api.next().await.list(6, "", &[named("widgets.example.org", 5)]);
    test.said().await;
    let stream = test.api.watch(6).await;
    settle().await;
    assert_eq!(woken.has_changed().ok(), Some(false));
    stream.event("ADDED", &named("authorizationpolicies.security.istio.io", 7));
    test.said().await;
    settle().await;
    assert_eq!(woken.has_changed().ok(), Some(true));
    woken.mark_unchanged();
}
