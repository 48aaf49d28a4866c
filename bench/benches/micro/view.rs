//! What lies between two views. All streams that are at the same view share
//! one such difference.

use criterion::{BatchSize, Criterion, Throughput};
use fairway::xds::resource::ResourceType::Address;
use fairway::xds::view::Views;

use crate::world::World;

const PODS: usize = 100_000;

pub fn differences(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("difference");
    let mut world = World::new(PODS, PODS / 20);
    for count in [1, 10_000] {
        let old = world.views.clone();
        let changed: Vec<_> = (0..count).map(|at| world.revised(at * (PODS / count), count)).collect();
        world.commit(changed);
        let new = world.views.clone();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count} of {PODS} pods changed"), |bencher| {
            // Each needs a view of its own, because a view remembers.
            let views = || Views::new(new.revision, new.addresses.clone(), new.authorizations.clone());
            bencher.iter_batched_ref(
                views,
                |views| {
                    let step = views.step(Address, None, &old.addresses).expect("both were published");
                    assert_eq!(step.upserts.len(), count);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}
