//! Responses to bytes, and the largest of requests from bytes.

use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use fairway::xds::codec::request::{DeltaRequest, Request};
use fairway::xds::codec::response::Encoder;
use fairway::xds::resource::ResourceType::Address;
use fairway::xds::stream::{Response, Stream, Variant};
use prost::Message;

use crate::stream::{acknowledged, request, synced, tell};
use crate::world::World;

const PODS: usize = 100_000;
/// Pods and services of a mesh with 51,000 addresses.
const RECONNECT: (usize, usize) = (49_000, 1_020);

pub fn responses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let mut world = World::new(PODS, PODS / 20);
    let mut stream = synced(&world.views);
    let pod = world.revised(0, 1);
    world.commit([pod]);
    let one = acknowledged(&mut stream, &world.views).expect("a pod has changed");
    encode(&mut group, "one resource", &one);

    let mut stream = Stream::new(Variant::Delta, 1);
    tell(&mut stream, request(Address, String::new()));
    let whole = stream.next(&world.views).expect("the first response");
    encode(&mut group, "a whole layer", &whole);
    group.finish();
}

fn encode(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, response: &Response) {
    let bytes = |response: Response| {
        let mut encoder = Encoder::new(response, "bench").expect("it fits");
        std::iter::from_fn(|| encoder.next_chunk()).map(|chunk| chunk.len()).sum::<usize>()
    };
    let length = bytes(response.clone());
    group.throughput(Throughput::Bytes(length as u64));
    group.bench_function(format!("{name}, {length} bytes"), |bencher| {
        bencher.iter_batched(|| response.clone(), bytes, BatchSize::SmallInput);
    });
}

pub fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reconnect");
    let views = World::new(RECONNECT.0, RECONNECT.1).views;
    let versions = views.addresses.iter().map(|one| (one.name().to_owned(), one.version().to_string()));
    let message = DeltaDiscoveryRequest {
        node: request(Address, String::new()).node,
        type_url: Address.type_url().into(),
        initial_resource_versions: versions.collect(),
        ..DeltaDiscoveryRequest::default()
    };
    let (count, message) = (message.initial_resource_versions.len(), message.encode_to_vec());
    let read = || {
        let mut request = Request::new(Variant::Delta);
        request.read(&message, true, &views).expect("it is a request");
        let Request::Delta(request) = request else { panic!("it is of the other variant") };
        request
    };
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function(format!("read {count} versions of what a layer has, {} bytes", message.len()), |bencher| {
        bencher.iter(read);
    });
    group.bench_function(format!("answer a list of {count} versions"), |bencher| {
        let fresh = || (Stream::new(Variant::Delta, 1), read());
        let answer = |(mut stream, request): (Stream, DeltaRequest)| {
            tell(&mut stream, request);
            let response = stream.next(&views).expect("a first response is always due");
            assert!(response.removed.is_empty());
            (stream, response)
        };
        bencher.iter_batched(fresh, answer, BatchSize::LargeInput);
    });
    group.finish();
}
