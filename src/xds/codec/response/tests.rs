use std::collections::HashSet;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use prost::Message;

use super::*;
use crate::xds::codec::request::DeltaRequest;
use crate::xds::resource::{Keys, Piece, ResourceType};
use crate::xds::stream::{Stream, Variant};
use crate::xds::view::{Layer, Views};

use ResourceType::{Address, Workload};

/// What one stream may own besides what it shares with all others.
const MOST: usize = CHUNK + 2 * MARGIN + 4096;

/// A workload of the usual size.
fn workload(number: usize) -> Resource {
    let message = [&[0x0a, 0xc8, 0x01][..], &[number as u8; 200]].concat();
    Resource::new(Address, &format!("Kubernetes//Pod/ns/workload-{number:06}"), &message, &Keys::default())
}

/// The first response to a client that wants everything.
fn first(stream: &mut Stream, ty: ResourceType, views: &Arc<Views>) -> Response {
    let request = DeltaRequest {
        node: Some(crate::xds::stream::tests::node()),
        type_url: ty.type_url().into(),
        ..Default::default()
    };
    stream.on_delta_request(request).unwrap();
    stream.next(views).expect("a first response is always due")
}

/// Whether these very bytes are part of the layer.
fn shared(layer: &Layer) -> impl Fn(&Bytes) -> bool {
    let frames: HashSet<_> =
        (0..).map_while(|number| layer.frames(number)).flatten().map(|frames| frames.as_ptr()).collect();
    move |bytes| frames.contains(&bytes.as_ptr())
}

/// Bytes that an encoder has and that nobody else has.
fn owned(encoder: &Encoder, shared: impl Fn(&Bytes) -> bool) -> usize {
    let ready = encoder.ready.iter().filter(|bytes| !shared(bytes)).map(Bytes::len);
    size_of::<Encoder>() + encoder.head.capacity() + ready.sum::<usize>()
}

/// ztunnel is ready once it has one response of each type, so the first must be
/// everything; and a stream must not pay for that.
#[test]
fn first_response_is_complete_in_one_message_and_costs_its_stream_one_chunk() {
    for count in [0, 1, 1_000, 200_000] {
        let layer: Layer = (0..count).map(workload).collect();
        let views = Arc::new(Views::new(1, layer.clone(), Layer::default()));
        let shared = shared(&layer);
        // As resources are kept, and as another type sees them.
        for (ty, prefers_sharing) in [(Address, true), (Workload, false)] {
            let mut stream = Stream::new(Variant::Delta, 1);
            let response = first(&mut stream, ty, &views);
            let reply = DeltaRequest {
                type_url: ty.type_url().into(),
                response_nonce: response.nonce.to_string(),
                ..Default::default()
            };
            let mut encoder = Encoder::new(response, "test").unwrap();
            let (mut message, mut copied) = (Vec::new(), 0);
            let most_at_once = MOST + CHUNK;
            while let Some(chunk) = encoder.next_chunk() {
                assert!(chunk.len() <= most_at_once, "{} bytes at once", chunk.len());
                copied += if shared(&chunk) { 0 } else { chunk.len() };
                let owned = owned(&encoder, &shared);
                assert!(owned <= MOST, "{owned} bytes are owned after {} of {}", message.len(), encoder.encoded_len());
                message.extend_from_slice(&chunk);
            }
            if prefers_sharing {
                assert!(copied <= MOST, "{copied} bytes were copied");
            }
            assert_eq!(message.len(), encoder.encoded_len());
            assert_eq!(message[..5], [&[0], &(message.len() as u32 - 5).to_be_bytes()[..]].concat());

            let response = DeltaDiscoveryResponse::decode(&message[5..]).unwrap();
            let names: HashSet<_> = response.resources.iter().map(|resource| &*resource.name).collect();
            assert_eq!((names.len(), response.resources.len()), (count, count));
            assert!(response.removed_resources.is_empty());
            stream.on_delta_request(reply).unwrap();
            assert!(stream.next(&views).is_none(), "nothing follows the first message");
        }
    }
}

/// A client that stops reading keeps the layer it is sent, not a copy of it, and
/// no other layer.
#[test]
fn half_a_message_holds_one_layer() {
    let layer: Layer = (0..20_000).map(workload).collect();
    let is_shared = shared(&layer);
    let views = Arc::new(Views::new(1, layer.clone(), Layer::default()));
    let mut encoders: Vec<_> = (0..3)
        .map(|salt| Encoder::new(first(&mut Stream::new(Variant::Delta, salt), Address, &views), "test").unwrap())
        .collect();
    // Each is at another place; all have the same bytes.
    for (at, encoder) in encoders.iter_mut().enumerate() {
        for _ in 0..(at + 1) * 50 {
            encoder.next_chunk().expect("this is less than half");
        }
        assert!(owned(encoder, &is_shared) <= MOST);
    }
    let others = Arc::strong_count(&views);
    drop(encoders);
    assert_eq!(Arc::strong_count(&views) + 3, others, "each held the view, and nothing else does");
}

/// A message in pieces is sent like any other, and nothing of it is copied but
/// what is short.
#[test]
fn pieces_are_handed_over_as_they_are() {
    use ResourceType::Authorization;
    // Parts of a few kilobytes, one of which differs.
    let part = |at: u32, changed| Piece::new(format!("{at}/{} ", at == changed).into_bytes().repeat(600));
    let pieces = |changed| (0..300).map(|at| part(at, changed)).collect::<Vec<_>>();
    let listener = |changed| Resource::of(Authorization, "main", pieces(changed));
    let whole = |changed| listener(changed).message(Authorization);
    let small = |name: &str| Resource::of(Authorization, name, b"small".to_vec());
    let old: Layer = [small("a"), listener(7), small("b")].into_iter().collect();
    let mut new = old.clone();
    assert!(!new.upsert(listener(7)), "it is the same");
    assert!(new.upsert(listener(8)));
    assert_eq!(new.get("main").map(|main| main.message(Authorization)), Some(whole(8)));

    let views = [old, new].map(|layer| Arc::new(Views::new(1, Layer::default(), layer)));
    let [before, after] = [0, 1].map(|at| &views[at].authorizations);
    let step = views[1].step(Authorization, None, before).expect("both were published").clone();
    let known = shared(before);
    let some = first(&mut Stream::new(Variant::Delta, 1), Authorization, &views[1]);
    for framing in [Framing::Delta, Framing::DeltaWithAliases, Framing::Sotw] {
        let listed = Contents::Some([after.get("main").unwrap()].into());
        for contents in [Contents::Whole(after.clone()), Contents::Step(step.clone()), listed] {
            // A step is for those who are sent deltas and no aliases.
            if framing != Framing::Delta && matches!(contents, Contents::Step(_)) {
                continue;
            }
            let count = if matches!(contents, Contents::Whole(_)) { 3 } else { 1 };
            let (nonce, first, removed) = (some.nonce, false, Arc::default());
            let response =
                Response { ty: Authorization, framing, nonce, views: views[1].clone(), first, contents, removed };
            let mut encoder = Encoder::new(response, "test").unwrap();
            let (mut message, mut copied) = (Vec::new(), 0);
            while let Some(chunk) = encoder.next_chunk() {
                copied += if known(&chunk) { 0 } else { chunk.len() };
                message.extend_from_slice(&chunk);
            }
            assert_eq!(message.len(), encoder.encoded_len());
            // All but what has changed is what the client had before.
            assert!(copied * 3 < message.len(), "{copied} of {}", message.len());
            let values: Vec<_> = match framing {
                Framing::Sotw => {
                    let response = DiscoveryResponse::decode(&message[5..]).unwrap();
                    response.resources.into_iter().map(|any| any.value).collect()
                }
                Framing::Delta | Framing::DeltaWithAliases => {
                    let response = DeltaDiscoveryResponse::decode(&message[5..]).unwrap();
                    response.resources.into_iter().map(|one| one.resource.unwrap().value).collect()
                }
            };
            assert_eq!(values.len(), count);
            assert!(values.iter().any(|value| *value == whole(8)));
        }
    }
}
