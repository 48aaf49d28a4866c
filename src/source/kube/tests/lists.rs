//! Lists: in pieces and pages, in JSON and protobuf.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_there_is_only_in_json_is_listed_in_pages() {
    let mut test = Test::start(Kind::AuthorizationPolicy);
    discovery(test.api.next().await, &["v1"], &[]);
    discovery(test.api.next().await, &[], &["authorizationpolicies"]);
    let call = test.api.next().await;
    assert_eq!((&*call.path, &*call.query, &*call.accept), (POLICIES, "limit=500", "application/json"));
    call.list(20, "more", &[object("x", 3)]);
    let call = test.api.next().await;
    assert_eq!(call.query, "limit=500&continue=more");
    call.list(20, "", &[object("y", 5)]);
    assert_eq!(test.said().await, ["+a/x@3", "+a/y@5"]);
    assert_eq!(test.said().await, ["synced"]);
    test.api.watch(20).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_stalls_or_is_cut_off_begins_again() {
    for stalls in [false, true] {
        let mut test = Test::start(Kind::Pod);
        let list = protobuf::list(20, &[object("x", 3), object("y", 5)]);
        let stream = test.api.next().await.protobuf();
        stream.bytes(&list[..list.len() * 2 / 3]);
        let stalled = stalls.then_some(stream);
        let again = test.api.next().await;
        test.silent();
        assert!(!test.reasons().is_empty());
        again.list(30, "", &[object("y", 4)]);
        assert_eq!(test.said().await, ["+a/y@4"]);
        drop(stalled);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_token_expires_begins_again() {
    let mut test = Test::start(Kind::Pod);
    test.api.next().await.list(20, "more", &[object("x", 3), object("y", 4)]);
    let call = test.api.next().await;
    assert_eq!(call.query, "continue=more");
    call.refuse(410, "the provided continue parameter is too old");
    let call = test.api.next().await;
    assert_eq!(call.query, "");
    call.list(30, "", &[object("y", 4)]);
    assert_eq!(test.said().await, ["+a/y@4"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_may_answer_in_protobuf() {
    let mut test = Test::start(Kind::Pod);
    let stream = test.api.next().await.protobuf();
    // In pieces, as a network has them.
    let list = protobuf::list(20, &[object("x", 3), object("y", 5)]);
    for piece in list.chunks(7) {
        stream.bytes(piece);
        settle().await;
    }
    test.silent();
    drop(stream);
    assert_eq!(test.said().await, ["+a/x@3", "+a/y@5"]);
    assert_eq!(test.said().await, ["synced"]);

    let call = test.api.next().await;
    assert!(call.query.contains("&resourceVersion=20&"), "{call}");
    let stream = call.protobuf();
    let said = [("MODIFIED", object("x", 21)), ("DELETED", object("y", 22)), ("BOOKMARK", object("", 25))];
    for (kind, object) in &said {
        for piece in protobuf::event(kind, object).chunks(11) {
            stream.bytes(piece);
            settle().await;
        }
    }
    assert_eq!(test.said().await, ["+a/x@21"]);
    assert_eq!(test.said().await, ["-a/y"]);
    stream.bytes(protobuf::event("MODIFIED", &broken("x", 26)));
    settle().await;
    assert_eq!(test.problems.list()[0].field, "spec.serviceAccountName");
    stream.bytes(protobuf::error(410, "too old resource version"));
    newest(test.api.next().await, 30);
    assert_eq!(test.api.next().await.query, "");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_protobuf_is_not_believed() {
    for wrong in [
        &b"k8s\0\x0b"[..],
        b"{\"items\":[]}",
        b"k8s\0\x12\x04\x12\x7fab",
        b"k8s\0",
        b"",
        // Lengths that no address space has: of the type, of the list and of
        // an item in it.
        b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"k8s\0\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ] {
        let mut test = Test::start(Kind::Pod);
        let stream = test.api.next().await.protobuf();
        stream.bytes(wrong);
        drop(stream);
        let again = test.api.next().await;
        test.silent();
        let reasons = test.reasons();
        assert!(!reasons.is_empty() && !reasons.contains("panicked"), "{wrong:?}: {reasons}");
        again.list(30, "", &[]);
        assert_eq!(test.said().await, ["synced"]);
    }
    // An error that a proxy on the way does not know to encode.
    let mut test = Test::start(Kind::Pod);
    test.api.next().await.refuse_in_protobuf(503, b"down for maintenance");
    settle().await;
    assert!(test.reasons().contains("503"), "{}", test.reasons());
}

#[tokio::test(start_paused = true)]
async fn config_maps_are_read_of_the_system_namespace_only() {
    let mut test = Test::start(Kind::ConfigMap);
    assert_eq!(test.api.next().await.path, "/api/v1/namespaces/istio-system/configmaps");
}
