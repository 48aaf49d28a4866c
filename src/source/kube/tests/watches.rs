//! Watches: where they begin, what they say, and what is missed.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_the_list_ends() {
    let mut test = Test::start(Kind::Pod);
    let call = test.api.next().await;
    assert_eq!((&*call.path, &*call.query), ("/api/v1/pods", ""));
    assert_eq!(call.accept, "application/vnd.kubernetes.protobuf, application/json");
    call.list(7, "", &[object("x", 3), object("y", 5)]);
    assert_eq!(test.said().await, ["+a/x@3", "+a/y@5"]);
    assert_eq!(test.said().await, ["synced"]);

    let stream = test.api.watch(7).await;
    stream.event("MODIFIED", &object("x", 8));
    stream.event("DELETED", &object("y", 9));
    stream.event("ADDED", &object("z", 10));
    assert_eq!(test.said().await, ["+a/x@8", "+a/z@10", "-a/y"], "what is there already is said at once");
    drop(stream);
    test.api.watch(10).await;
}

#[tokio::test(start_paused = true)]
async fn lines_arrive_in_pieces() {
    let (mut test, stream) = Test::pods(7, &[]).await;
    let line = format!("{}\n", json!({"type": "ADDED", "object": object("ä", 8)}));
    let (head, tail) = line.split_at(30);
    stream.bytes(head);
    settle().await;
    stream.bytes(format!("{tail}{{\"type\":"));
    assert_eq!(test.said().await, ["+a/ä@8"]);
    drop(stream);
    test.api.watch(8).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_found_by_a_list() {
    let (mut test, stream) = Test::pods(7, &[object("x", 3), object("y", 4), object("z", 5)]).await;
    drop(stream);
    let call = test.api.next().await;
    call.refuse(410, "too old resource version");
    newest(test.api.next().await, 30);
    test.api.next().await.list(30, "", &[object("x", 3), object("z", 29)]);
    assert_eq!(test.said().await, ["+a/z@29", "-a/y"], "what is the same is not said again");
    let _stream = test.api.watch(30).await;
    settle().await;
    test.silent();
    assert_eq!(test.reasons(), "");
}

#[tokio::test(start_paused = true)]
async fn an_error_inside_a_watch_is_not_an_object() {
    let (mut test, stream) = Test::pods(7, &[object("x", 3)]).await;
    stream.event("ERROR", &status(500, "etcdserver: no leader"));
    settle().await;
    assert!(test.reasons().contains("no leader"), "{}", test.reasons());
    newest(test.api.next().await, 8);
    let _stream = test.api.watch(7).await;
    settle().await;
    assert_eq!(test.reasons(), "");
    test.silent();
}

#[tokio::test(start_paused = true)]
async fn a_line_that_only_looks_usual_is_read_with_care() {
    let (mut test, stream) = Test::pods(7, &[]).await;
    stream.bytes(format!("{{\"type\":\"ADDED\",\"object\":{},\"more\":{{}}}}\n", object("x", 8)));
    assert_eq!(test.said().await, ["+a/x@8"]);
    stream.bytes(format!("{{\"object\":{},\"type\":\"MODIFIED\"}}\n", object("x", 9)));
    assert_eq!(test.said().await, ["+a/x@9"]);
    assert_eq!(test.reasons(), "");
    // A brace too many: nothing in the line is believed.
    stream.bytes(format!("{{\"type\":\"ADDED\",\"object\":{}}}}}\n", object("y", 10)));
    settle().await;
    assert!(!test.reasons().is_empty());
    test.silent();
}

#[tokio::test(start_paused = true)]
async fn bookmarks_keep_a_watch_alive_and_move_it() {
    let (mut test, stream) = Test::pods(7, &[]).await;
    for minute in 0..60 {
        test.api.quiet(Duration::from_secs(60)).await;
        stream.bookmark(100 + minute);
    }
    settle().await;
    drop(stream);
    test.api.watch(159).await;
    test.silent();
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_silent_is_replaced() {
    let (mut test, stream) = Test::pods(7, &[]).await;
    test.api.quiet(Duration::from_secs(84)).await;
    newest(tokio::time::timeout(Duration::from_secs(6), test.api.next()).await.expect("by 90 s"), 8);
    test.api.watch(7).await;
    assert_eq!(test.reasons(), "");
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn older_states_of_an_object_change_nothing() {
    let (mut test, stream) = Test::pods(7, &[object("x", 6)]).await;
    stream.event("MODIFIED", &object("x", 5));
    stream.event("ADDED", &object("x", 6));
    stream.event("DELETED", &object("x", 4));
    stream.event("DELETED", &object("never", 8));
    settle().await;
    test.silent();
    stream.event("DELETED", &object("x", 9));
    assert_eq!(test.said().await, ["-a/x"]);
}
