//! What goes wrong withdraws nothing that is there.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_keeps_its_last_good_version() {
    let (mut test, stream) = Test::pods(7, &[object("x", 6), object("y", 7)]).await;
    stream.event("MODIFIED", &broken("x", 8));
    stream.event("ADDED", &broken("new", 9));
    stream.event("MODIFIED", &object("y", 10));
    assert_eq!(test.said().await, ["+a/y@10", "?a/new", "?a/x"]);
    let problems = test.problems.list();
    assert_eq!(problems.iter().map(|problem| &*problem.place).collect::<Vec<_>>(), ["Pod a/new", "Pod a/x"]);
    assert_eq!(problems[0].field, "spec.serviceAccountName");

    // Neither does a list withdraw it.
    stream.event("ERROR", &status(410, "expired"));
    newest(test.api.next().await, 20);
    test.api.next().await.list(20, "", &[broken("x", 8), object("z", 19)]);
    assert_eq!(test.said().await, ["!a/new", "+a/z@19", "-a/y", "?a/x"]);
    assert_eq!(test.problems.list().len(), 1, "{}", test.reasons());
    let stream = test.api.watch(20).await;

    stream.event("MODIFIED", &object("x", 21));
    assert_eq!(test.said().await, ["!a/x", "+a/x@21"]);
    assert_eq!(test.reasons(), "");
    stream.event("MODIFIED", &broken("x", 22));
    stream.event("DELETED", &broken("x", 23));
    assert_eq!(test.said().await, ["!a/x", "-a/x", "?a/x"]);
    assert_eq!(test.reasons(), "");
}

#[tokio::test(start_paused = true)]
async fn a_list_with_a_nameless_object_withdraws_nothing() {
    let (mut test, stream) = Test::pods(7, &[object("x", 6), object("y", 7)]).await;
    stream.event("ERROR", &status(410, "expired"));
    newest(test.api.next().await, 20);
    test.api.next().await.list(20, "", &[json!({"metadata": {"name": 5}}), object("y", 19)]);
    assert_eq!(test.said().await, ["+a/y@19"]);
    assert_eq!(test.problems.list().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn permission_that_is_taken_away_withdraws_nothing() {
    let (mut test, stream) = Test::pods(7, &[object("x", 6)]).await;
    drop(stream);
    for _ in 0..5 {
        test.api.next().await.refuse(403, "pods is forbidden");
    }
    settle().await;
    assert_eq!(test.reasons(), "Pod: not permitted; grant us the verbs list and watch on pods: pods is forbidden\n");
    newest(test.api.next().await, 9);
    let stream = test.api.watch(7).await;
    stream.event("MODIFIED", &object("x", 9));
    assert_eq!(test.said().await, ["+a/x@9"]);
    assert_eq!(test.reasons(), "");
}

#[tokio::test(start_paused = true)]
async fn without_permission_nothing_is_synced() {
    let mut test = Test::start(Kind::Pod);
    test.api.next().await.refuse(403, "no");
    test.api.next().await.refuse(401, "who?");
    drop(test.api.next().await);
    settle().await;
    test.silent();
    assert!(test.reasons().contains("cannot be reached"), "{}", test.reasons());
    test.api.next().await.list(5, "", &[]);
    assert_eq!(test.said().await, ["synced"]);
}

#[tokio::test(start_paused = true)]
async fn attempts_become_rare_and_respect_the_server() {
    let mut test = Test::start(Kind::Pod);
    let started = tokio::time::Instant::now();
    for _ in 0..20 {
        drop(test.api.next().await);
    }
    let spent = started.elapsed();
    assert!((Duration::from_secs(35)..Duration::from_secs(72)).contains(&spent), "{spent:?}");
    test.api.next().await.throttle(40);
    test.api.quiet(Duration::from_secs(39)).await;
    test.api.next().await.list(5, "", &[]);
    assert_eq!(test.said().await, ["synced"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_from_the_past_is_not_believed() {
    let (mut test, stream) = Test::pods(1000, &[object("x", 900)]).await;
    stream.break_off();
    newest(test.api.next().await, 50);
    newest(test.api.next().await, 60);
    settle().await;
    assert!(test.reasons().contains("at version 60, and was at 1000"), "{}", test.reasons());
    newest(test.api.next().await, 1000);
    let stream = test.api.watch(1000).await;
    settle().await;
    assert_eq!(test.reasons(), "");

    // A list may come from another member than the answer before.
    stream.event("ERROR", &status(410, "expired"));
    newest(test.api.next().await, 1001);
    test.api.next().await.list(20, "", &[]);
    newest(test.api.next().await, 1001);
    test.silent();
    test.api.next().await.list(1001, "", &[object("x", 900)]);
    let stream = test.api.watch(1001).await;
    settle().await;
    test.silent();

    // Neither is a bookmark believed.
    stream.bookmark(30);
    newest(test.api.next().await, 1001);
    test.api.watch(1001).await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_was_rebuilt_is_believed_in_the_end() {
    let (mut test, stream) = Test::pods(1000, &[object("x", 900), object("y", 901)]).await;
    stream.break_off();
    let started = tokio::time::Instant::now();
    let call = loop {
        let call = test.api.next().await;
        if !call.query.ends_with("limit=1") {
            break call;
        }
        test.silent();
        newest(call, 50);
    };
    assert!(started.elapsed() >= Duration::from_secs(300));
    call.list(51, "", &[object("x", 40)]);
    assert_eq!(test.said().await, ["+a/x@40", "-a/y"]);
    let stream = test.api.watch(51).await;
    stream.event("MODIFIED", &object("x", 52));
    assert_eq!(test.said().await, ["+a/x@52"]);
    assert_eq!(test.reasons(), "");
}

/// What was there before is older than what was seen, and true again.
#[tokio::test(start_paused = true)]
async fn what_a_backup_brought_back_is_believed_at_a_newer_version() {
    let (mut test, stream) = Test::pods(1000, &[object("x", 900), object("y", 901)]).await;
    // Restored as etcd recommends it: at a version far ahead, and all watches end.
    stream.event("ERROR", &status(410, "expired"));
    newest(test.api.next().await, 2000);
    test.api.next().await.list(2000, "", &[object("x", 800), object("y", 901)]);
    assert_eq!(test.said().await, ["+a/x@800"]);
    let stream = test.api.watch(2000).await;

    // Without that, versions begin where they were, and catch up.
    stream.break_off();
    let started = tokio::time::Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        newest(test.api.next().await, 1500);
        settle().await;
    }
    test.silent();
    newest(test.api.next().await, 2001);
    test.api.next().await.list(2001, "", &[object("x", 700), object("y", 901)]);
    assert_eq!(test.said().await, ["+a/x@700"]);
    let stream = test.api.watch(2001).await;
    stream.event("MODIFIED", &object("x", 2002));
    assert_eq!(test.said().await, ["+a/x@2002"]);
    assert_eq!(test.reasons(), "");
}

/// An API server whose storage was emptied, or another one at its address.
#[tokio::test(start_paused = true)]
async fn a_list_that_lost_nearly_everything_is_not_believed_at_once() {
    let objects: Vec<_> = (0..20).map(|number| object(&format!("x{number}"), 100 + number)).collect();
    let (mut test, stream) = Test::pods(1000, &objects).await;
    stream.event("ERROR", &status(410, "expired"));
    // The version is newer, so it is not the past. One of twenty is left.
    newest(test.api.next().await, 2000);
    test.api.next().await.list(2000, "", &objects[..1]);
    settle().await;
    test.silent();
    assert!(test.reasons().contains("a list lacks 19 of the 20 objects"), "{}", test.reasons());

    // It was a mistake.
    newest(test.api.next().await, 2001);
    test.api.next().await.list(2001, "", &objects[1..]);
    assert_eq!(test.said().await, ["-a/x0"]);
    let stream = test.api.watch(2001).await;
    settle().await;
    assert_eq!(test.reasons(), "");

    // It is none.
    stream.event("ERROR", &status(410, "expired"));
    let started = tokio::time::Instant::now();
    let _stream = loop {
        let call = test.api.next().await;
        if call.query.contains("watch=true") {
            break call.stream();
        }
        call.list(3000, "", &[]);
    };
    assert!(started.elapsed() >= Duration::from_secs(300), "{:?}", started.elapsed());
    assert_eq!(test.said().await.len(), 19);
    settle().await;
    assert_eq!(test.reasons(), "");
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_is_not_lost() {
    let (mut test, stream) = Test::pods(7, &[object("x", 6)]).await;
    stream.event("ERROR", &status(410, "expired"));
    newest(test.api.next().await, 20);
    test.api.next().await.list(20, "", &[object("y", 19)]);
    assert_eq!(test.said().await, ["+a/y@19", "-a/x"]);
}
