use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3 as wire;
use envoy_types::pb::google::rpc::Status as RpcStatus;
use proptest::prelude::*;
use prost::Message;

use super::reader::Reader;
use super::request::{DeltaRequest, InitialVersions, SotwRequest};

fn listed(versions: &InitialVersions) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut listed: Vec<_> = versions.iter().map(|one| (one.name().to_owned(), text(one.version))).collect();
    listed.sort();
    listed
}

fn names(names: &[std::sync::Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

#[test]
fn delta_request_is_what_others_encode() {
    let message = wire::DeltaDiscoveryRequest {
        node: Some(crate::xds::stream::tests::node()),
        type_url: "type".into(),
        resource_names_subscribe: vec!["a".into(), "b".into()],
        resource_names_unsubscribe: vec!["c".into()],
        initial_resource_versions: [("y".into(), "2".into()), ("x".into(), String::new())].into(),
        response_nonce: "n".into(),
        error_detail: Some(RpcStatus { code: 0, message: "bad".into(), details: Vec::new() }),
        ..Default::default()
    };
    let request = DeltaRequest::decode(message.encode_to_vec().into()).unwrap();
    assert_eq!(request.node, message.node);
    assert_eq!(request.type_url, "type");
    assert_eq!(names(&request.subscribe), ["a", "b"]);
    assert_eq!(names(&request.unsubscribe), ["c"]);
    assert_eq!(listed(&request.initial_versions), [("x".into(), "".into()), ("y".into(), "2".into())]);
    assert_eq!(request.response_nonce, "n");
    assert_eq!(request.rejection.unwrap().message, "bad");
}

#[test]
fn sotw_request_is_what_others_encode() {
    let message = wire::DiscoveryRequest {
        version_info: "v".into(),
        resource_names: vec!["a".into()],
        type_url: "type".into(),
        response_nonce: "n".into(),
        error_detail: Some(RpcStatus::default()),
        ..Default::default()
    };
    let request = SotwRequest::decode(message.encode_to_vec().into()).unwrap();
    assert_eq!(names(&request.resource_names), ["a"]);
    assert_eq!((&*request.type_url, &*request.response_nonce), ("type", "n"));
    // An error without text is still a rejection.
    assert_eq!(request.rejection.unwrap().message, "");
}

#[test]
fn last_of_equal_map_keys_wins() {
    let entry = |name: &str, version: &str| {
        let inner = [&[0x0a, name.len() as u8], name.as_bytes(), &[0x12, version.len() as u8], version.as_bytes()];
        let inner = inner.concat();
        [&[0x2a, inner.len() as u8], &inner[..]].concat()
    };
    let message = [entry("b", "1"), entry("a", "2"), entry("b", "3")].concat();
    let request = DeltaRequest::decode(message.into()).unwrap();
    assert_eq!(listed(&request.initial_versions), [("a".into(), "2".into()), ("b".into(), "3".into())]);
}

#[test]
fn large_reconnect_is_read_in_place() {
    let versions =
        (0..240_000).map(|n| (format!("cluster1//Pod/namespace/workload-{n:07}-with-a-name"), format!("{n:016x}")));
    let message = wire::DeltaDiscoveryRequest { initial_resource_versions: versions.collect(), ..Default::default() };
    let bytes = message.encode_to_vec();
    println!("{} MB", bytes.len() / 1_000_000);
    let request = DeltaRequest::decode(bytes.into()).unwrap();
    assert_eq!(request.initial_versions.len(), 240_000);
    assert!(request.initial_versions.iter().map(|one| (one.hash, one.name())).is_sorted());
}

#[test]
fn hostile_messages_are_refused() {
    for message in [
        // A length beyond the end, one beyond the address space, a group.
        &b"\x0a\x7f"[..],
        b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0b\x0c",
        b"\x80",
        b"\x1a\x02\xff\xfe",
        b"\x2a\x02\x0a\x7f",
    ] {
        let status = DeltaRequest::decode(message.to_vec().into()).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{message:?}");
    }
    let many = [0x1a, 0x00].repeat(300_000);
    assert_eq!(DeltaRequest::decode(many.into()).unwrap_err().code(), tonic::Code::ResourceExhausted);
    let node = [&[0x0a, 0x80, 0x80, 0x80, 0x01][..], &vec![0; 0x20_0000]].concat();
    assert_eq!(DeltaRequest::decode(node.into()).unwrap_err().code(), tonic::Code::InvalidArgument);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = DeltaRequest::decode(message.clone().into());
        let _ = SotwRequest::decode(message.into());
    }

    #[test]
    fn damaged_requests_never_panic(at in 0usize..200, byte in any::<u8>(), cut in 0usize..300) {
        let mut message = wire::DeltaDiscoveryRequest {
            node: Some(crate::xds::stream::tests::node()),
            type_url: "type".into(),
            initial_resource_versions: [("y".into(), "2".into())].into(),
            ..Default::default()
        }.encode_to_vec();
        message.truncate(cut);
        if let Some(damaged) = message.get_mut(at) {
            *damaged = byte;
        }
        let _ = DeltaRequest::decode(message.into());
    }
}

/// A request body that is fed piece by piece.
fn fed() -> (tokio::sync::mpsc::UnboundedSender<Bytes>, impl super::reader::RequestBody) {
    let (feed, mut pieces) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
    let frames = futures::stream::poll_fn(move |cx| {
        pieces
            .poll_recv(cx)
            .map(|piece| piece.map(|piece| Ok::<_, std::convert::Infallible>(http_body::Frame::data(piece))))
    });
    (feed, http_body_util::StreamBody::new(frames))
}

/// The beginning of a message that announces some length.
fn announced(length: u32, sent: usize) -> Bytes {
    [&[0][..], &length.to_be_bytes(), &vec![7; sent]].concat().into()
}

#[tokio::test(start_paused = true)]
async fn large_messages_take_turns_and_small_ones_do_not_wait() {
    const LARGE: u32 = 1 << 20;
    let places = Arc::new(tokio::sync::Semaphore::new(1));
    let reader = |body| Reader::new(body, 64 << 20, places.clone());
    let ((first, one), (second, two), (third, three)) = (fed(), fed(), fed());
    let (mut one, mut two, mut three) = (reader(one), reader(two), reader(three));

    first.send(announced(LARGE, 10)).unwrap();
    assert!(poll_fn(|cx| Poll::Ready(one.poll_message(cx).is_pending())).await);
    second.send(announced(LARGE, 10)).unwrap();
    second.send(vec![7; LARGE as usize - 10].into()).unwrap();
    assert!(poll_fn(|cx| Poll::Ready(two.poll_message(cx).is_pending())).await, "the place is taken");
    third.send(announced(3, 3)).unwrap();
    let small = poll_fn(|cx| three.poll_message(cx)).await.unwrap().unwrap();
    assert_eq!(&small[..], [7; 3]);

    // Once the first is complete and was looked at, it is the second's turn.
    first.send(vec![7; LARGE as usize - 10].into()).unwrap();
    assert_eq!(poll_fn(|cx| one.poll_message(cx)).await.unwrap().unwrap().len(), LARGE as usize);
    assert!(poll_fn(|cx| Poll::Ready(one.poll_message(cx).is_pending())).await);
    assert_eq!(poll_fn(|cx| two.poll_message(cx)).await.unwrap().unwrap().len(), LARGE as usize);
    drop(two);

    // A client that stops within a large message does not keep its place.
    first.send(announced(LARGE, 10)).unwrap();
    assert!(poll_fn(|cx| Poll::Ready(one.poll_message(cx).is_pending())).await);
    third.send(announced(LARGE, 10)).unwrap();
    third.send(vec![7; LARGE as usize - 10].into()).unwrap();
    let slow = tokio::spawn(async move { poll_fn(|cx| one.poll_message(cx)).await.is_none() });
    let waiting = poll_fn(|cx| three.poll_message(cx));
    assert_eq!(waiting.await.unwrap().unwrap().len(), LARGE as usize);
    slow.abort();
}
