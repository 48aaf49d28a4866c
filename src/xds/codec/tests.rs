use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3 as wire;
use envoy_types::pb::google::rpc::Status as RpcStatus;
use proptest::prelude::*;
use prost::Message;
use tonic::Status;

use super::reader::{Reader, RequestBody};
use super::request::{DeltaRequest, Request, SotwRequest};
use crate::xds::resource::{Keys, Resource, ResourceType};
use crate::xds::stream::Variant;
use crate::xds::view::{InitialVersions, Layer, Views};

const ADDRESS: &str = ResourceType::Address.type_url();

/// A request whose bytes arrive in pieces that end at `cuts`.
fn read(variant: Variant, message: &[u8], cuts: &[usize], views: &Views) -> Result<Request, Status> {
    let (mut request, mut done) = (Request::new(variant), 0);
    for cut in cuts.iter().copied().filter(|cut| *cut < message.len()) {
        done += request.read(&message[done.min(cut)..cut], false, views)?;
    }
    assert_eq!(request.read(&message[done..], true, views)?, message.len() - done);
    Ok(request)
}

fn views(resources: impl IntoIterator<Item = Resource>) -> Views {
    Views::new(1, resources.into_iter().collect(), Layer::default())
}

fn delta(message: &[u8]) -> Result<DeltaRequest, Status> {
    match read(Variant::Delta, message, &[], &views([]))? {
        Request::Delta(request) => Ok(request),
        Request::Sotw(_) => panic!("the other variant"),
    }
}

fn sotw(message: &[u8]) -> Result<SotwRequest, Status> {
    match read(Variant::Sotw, message, &[], &views([]))? {
        Request::Sotw(request) => Ok(request),
        Request::Delta(_) => panic!("the other variant"),
    }
}

/// What is listed: names with versions, ordered by name.
fn listed(versions: Option<InitialVersions>) -> Vec<(String, String)> {
    let layer = versions.map(|versions| versions.into_layer(false)).unwrap_or_default();
    let mut listed: Vec<_> = layer.iter().map(|one| (one.name().to_owned(), one.version().to_string())).collect();
    listed.sort();
    listed
}

fn version(number: usize) -> String {
    format!("{number:016x}")
}

fn names(names: &[std::sync::Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

#[test]
fn delta_request_is_what_others_encode() {
    let message = wire::DeltaDiscoveryRequest {
        node: Some(crate::xds::stream::tests::node()),
        type_url: ADDRESS.into(),
        resource_names_subscribe: vec!["a".into(), "b".into()],
        resource_names_unsubscribe: vec!["c".into()],
        initial_resource_versions: [("y".into(), version(2)), ("x".into(), String::new())].into(),
        response_nonce: "n".into(),
        error_detail: Some(RpcStatus { code: 0, message: "bad".into(), details: Vec::new() }),
        ..Default::default()
    };
    let request = delta(&message.encode_to_vec()).unwrap();
    assert_eq!(request.node, message.node);
    assert_eq!(request.type_url, ADDRESS);
    assert_eq!(names(&request.subscribe), ["a", "b"]);
    assert_eq!(names(&request.unsubscribe), ["c"]);
    assert_eq!(listed(request.initial_versions), [("x".into(), version(0)), ("y".into(), version(2))]);
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
    let request = sotw(&message.encode_to_vec()).unwrap();
    assert_eq!(names(&request.resource_names), ["a"]);
    assert_eq!((&*request.type_url, &*request.response_nonce), ("type", "n"));
    assert!(request.holds && !sotw(&[]).unwrap().holds);
    // An error without text is still a rejection.
    assert_eq!(request.rejection.unwrap().message, "");
}

/// A message that lists these versions, before or after its type.
fn listing(ty: &str, before: &[(&str, &str)], after: &[(&str, &str)]) -> Vec<u8> {
    // Messages that are put one after the other are one message.
    let entries = |entries: &[(&str, &str)]| {
        entries.iter().fold(Vec::new(), |bytes, (name, version)| {
            let initial_resource_versions = [((*name).to_owned(), (*version).to_owned())].into();
            let one = wire::DeltaDiscoveryRequest { initial_resource_versions, ..Default::default() };
            [bytes, one.encode_to_vec()].concat()
        })
    };
    let ty = wire::DeltaDiscoveryRequest { type_url: ty.into(), ..Default::default() };
    [entries(before), ty.encode_to_vec(), entries(after)].concat()
}

#[test]
fn versions_may_come_before_their_type() {
    let (one, two) = (version(1), version(2));
    let message = listing(ADDRESS, &[("a", &one)], &[("b", &two)]);
    for cut in 0..message.len() {
        let Ok(Request::Delta(request)) = read(Variant::Delta, &message, &[cut], &views([])) else { panic!("{cut}") };
        assert_eq!(listed(request.initial_versions), [("a".into(), one.clone()), ("b".into(), two.clone())]);
    }
    // There is nothing to compare them with.
    assert!(delta(&listing("type", &[("a", &one)], &[("b", &two)])).unwrap().initial_versions.is_none());
    let changed = [message, listing("type", &[], &[])].concat();
    assert_eq!(delta(&changed).unwrap_err().code(), tonic::Code::InvalidArgument);
}

#[test]
fn last_of_equal_map_keys_wins() {
    let [one, two, three] = [1, 2, 3].map(version);
    let request = delta(&listing(ADDRESS, &[], &[("b", &one), ("a", &two), ("b", &three)])).unwrap();
    assert_eq!(listed(request.initial_versions), [("a".into(), two), ("b".into(), three)]);
}

#[test]
fn a_name_listed_with_our_version_and_another_is_not_ours() {
    let resource = Resource::new(ResourceType::Address, "a", b"x", &Keys::default());
    let (ours, other) = (resource.version().to_string(), version(1));
    let views = views([resource]);
    for (entries, expected) in [
        (&[("a", &*ours)][..], &ours),
        (&[("a", &other)], &other),
        (&[("a", &ours), ("a", &other)], &other),
        (&[("a", &other), ("a", &ours)], &other),
    ] {
        for everything in [false, true] {
            let request = read(Variant::Delta, &listing(ADDRESS, &[], entries), &[], &views);
            let Ok(Request::Delta(request)) = request else { panic!("{entries:?}") };
            let layer = request.initial_versions.unwrap().into_layer(everything);
            assert_eq!(layer.get("a").unwrap().version().to_string(), **expected);
        }
    }
}

#[test]
fn large_reconnect_is_read_as_it_arrives() {
    let name = |n| format!("cluster1//Pod/namespace/workload-{n:07}-with-a-name");
    let resource = |n: usize| Resource::new(ResourceType::Address, &name(n), &n.to_be_bytes(), &Keys::default());
    let views = views((0..120_000).map(resource));
    let held = views.addresses.iter().map(|held| (held.name().to_owned(), held.version().to_string()));
    let gone = (120_000..240_000).map(|n| (name(n), version(n)));
    let message = wire::DeltaDiscoveryRequest {
        type_url: ADDRESS.into(),
        initial_resource_versions: held.chain(gone).collect(),
        ..Default::default()
    };
    let message = message.encode_to_vec();
    println!("{} MB", message.len() / 1_000_000);
    let cuts: Vec<_> = (0..message.len()).step_by(16_000).collect();
    let Ok(Request::Delta(request)) = read(Variant::Delta, &message, &cuts, &views) else { panic!("no request") };
    let layer = request.initial_versions.unwrap().into_layer(true);
    assert_eq!(layer.len(), 240_000);
    assert_eq!(views.addresses.diff(&layer).count(), 120_000);
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
        let status = delta(message).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{message:?}");
    }
    let many = [0x1a, 0x00].repeat(300_000);
    assert_eq!(delta(&many).unwrap_err().code(), tonic::Code::ResourceExhausted);
    let node = [&[0x0a, 0x80, 0x80, 0x80, 0x01][..], &vec![0; 0x20_0000]].concat();
    assert_eq!(delta(&node).unwrap_err().code(), tonic::Code::InvalidArgument);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = delta(&message);
        let _ = sotw(&message);
    }

    #[test]
    fn pieces_are_read_like_the_whole(
        at in 0usize..200,
        byte in any::<u8>(),
        end in 0usize..300,
        mut cuts in proptest::collection::vec(0usize..300, 0..5),
        sotw: bool,
    ) {
        let resource = Resource::new(ResourceType::Address, "x", b"x", &Keys::default());
        let versions = [("y".into(), version(2)), ("x".into(), resource.version().to_string())];
        let mut message = wire::DeltaDiscoveryRequest {
            node: Some(crate::xds::stream::tests::node()),
            type_url: ADDRESS.into(),
            initial_resource_versions: versions.into(),
            ..Default::default()
        }.encode_to_vec();
        message.truncate(end);
        if let Some(damaged) = message.get_mut(at) {
            *damaged = byte;
        }
        cuts.sort_unstable();
        let (views, variant) = (views([resource]), if sotw { Variant::Sotw } else { Variant::Delta });
        let whole = read(variant, &message, &[], &views).map_err(|status| status.code());
        let pieces = read(variant, &message, &cuts, &views).map_err(|status| status.code());
        prop_assert_eq!(format!("{:?}", whole), format!("{:?}", pieces));
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

/// Puts messages together.
struct Collector<B> {
    reader: Reader<B>,
    message: Vec<u8>,
}

impl<B: RequestBody> Collector<B> {
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, Status>>> {
        let Self { reader, message } = self;
        let taken = ready!(reader.poll_message(cx, |bytes, _| {
            message.extend_from_slice(bytes);
            Ok(bytes.len())
        }));
        Poll::Ready(taken.map(|taken| taken.map(|()| std::mem::take(message))))
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_taken_is_shown_again() {
    let (feed, body) = fed();
    let mut reader = Reader::new(body, 100, Arc::new(tokio::sync::Semaphore::new(1)));
    let mut shown = Vec::new();
    // Takes two bytes at a time.
    let mut read = |bytes: &[u8], last: bool| {
        shown.push((bytes.to_vec(), last));
        Ok(if last { bytes.len() } else { bytes.len() / 2 * 2 })
    };
    for piece in [&[0, 0][..], &[0, 0, 5, 1], &[2, 3], &[4, 5, 0, 0, 0], &[0, 0, 0]] {
        feed.send(piece.to_vec().into()).unwrap();
    }
    poll_fn(|cx| reader.poll_message(cx, &mut read)).await.unwrap().unwrap();
    // An empty message, and the beginning of another.
    poll_fn(|cx| reader.poll_message(cx, &mut read)).await.unwrap().unwrap();
    drop(feed);
    let end = poll_fn(|cx| reader.poll_message(cx, &mut read)).await;
    assert_eq!(end.unwrap().unwrap_err().code(), tonic::Code::Internal);
    let expected: [(&[u8], bool); 4] = [(&[1], false), (&[1, 2, 3], false), (&[3, 4, 5], true), (&[], true)];
    assert!(shown.iter().map(|(bytes, last)| (&bytes[..], *last)).eq(expected));
}

#[tokio::test(start_paused = true)]
async fn large_messages_take_turns_and_small_ones_do_not_wait() {
    const LARGE: u32 = 1 << 20;
    let places = Arc::new(tokio::sync::Semaphore::new(1));
    let reader = |body| Collector { reader: Reader::new(body, 64 << 20, places.clone()), message: Vec::new() };
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
