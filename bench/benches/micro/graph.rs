//! Commits of a large mesh, from objects that are decoded already to views.

use criterion::{Criterion, Throughput};
use fairway::api::Object;

use crate::world::World;

const PODS: usize = 100_000;
/// As many pods take turns, so that not all of their rows stay in the cache.
const HOT: usize = 2_000;

pub fn commits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit");
    let mut world = World::new(PODS, PODS / 20);
    // Two versions of each. A pod's neighbours in number run elsewhere and
    // belong to other services.
    let versions: [Vec<Object>; 2] =
        [1, 2].map(|change| (0..HOT).map(|at| world.revised(at * (PODS / HOT), change)).collect());
    let mut turn = 0;
    for count in [1, 100] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count} of {PODS} pods changed"), |bencher| {
            bencher.iter(|| {
                let turns = turn..turn + count;
                turn = turns.end;
                world.commit(turns.map(|turn| versions[turn / HOT % 2][turn % HOT].clone()));
            });
        });
    }
    group.finish();
}
