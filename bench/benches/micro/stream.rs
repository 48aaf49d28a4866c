//! The state machine of one stream, without a codec and a socket.

use std::sync::Arc;

use criterion::{BatchSize, Criterion};
use envoy_types::pb::envoy::config::core::v3::Node;
use fairway::xds::codec::request::DeltaRequest;
use fairway::xds::resource::ResourceType::{self, Address, Authorization};
use fairway::xds::stream::{Response, Stream, Variant};
use fairway::xds::view::Views;

use crate::world::World;

const PODS: usize = 20_000;

/// A request that says no more than it must.
pub fn request(ty: ResourceType, nonce: String) -> DeltaRequest {
    let id = "ztunnel~10.0.0.1~ztunnel.istio-system~istio-system.svc.cluster.local".into();
    let node = nonce.is_empty().then(|| Node { id, ..Node::default() });
    DeltaRequest { node, type_url: ty.type_url().into(), response_nonce: nonce, ..DeltaRequest::default() }
}

/// Tells a stream what its client says.
pub fn tell(stream: &mut Stream, request: DeltaRequest) {
    stream.on_delta_request(request).expect("the request is right");
}

/// The next response, acknowledged.
pub fn acknowledged(stream: &mut Stream, views: &Arc<Views>) -> Option<Response> {
    let response = stream.next(views)?;
    tell(stream, request(response.ty, response.nonce.to_string()));
    Some(response)
}

/// A stream that has been sent everything.
pub fn synced(views: &Arc<Views>) -> Stream {
    let mut stream = Stream::new(Variant::Delta, 1);
    for ty in [Authorization, Address] {
        tell(&mut stream, request(ty, String::new()));
    }
    while acknowledged(&mut stream, views).is_some() {}
    stream
}

pub fn rounds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stream");
    let mut world = World::new(PODS, PODS / 20);
    let mut layers = Vec::new();
    for change in [1, 2] {
        let pod = world.revised(0, change);
        world.commit([pod]);
        layers.push(world.views.clone());
    }
    let mut stream = synced(&world.views);
    // The client holds the second of the two, so it is sent the first.
    let mut turn = 0;
    group.bench_function("one push, its acknowledgement, and nothing more to say", |bencher| {
        let publish = || {
            let (old, new) = (&layers[(turn + 1) % 2], &layers[turn % 2]);
            turn += 1;
            let revision = world.views.revision + turn as u64;
            let views = Views::new(revision, new.addresses.clone(), new.authorizations.clone());
            // As if another stream had found it already.
            views.step(Address, None, &old.addresses);
            Arc::new(views)
        };
        let round = |views: Arc<Views>| {
            let response = acknowledged(&mut stream, &views).expect("a pod has changed");
            assert!(stream.next(&views).is_none());
            response
        };
        bencher.iter_batched(publish, round, BatchSize::SmallInput);
    });
    group.finish();
}
