//! One object of a waypoint with many services changes: from the object, which
//! is decoded already, to the difference that streams are sent. Beside it is
//! what it would be to make the same listener from nothing.

use criterion::{BatchSize, Criterion};
use fairway::api::Change;
use fairway::proxy::scope::Families;
use fairway::proxy::{Capabilities, Place, Scope, WaypointScope};
use fairway::xds::resource::ResourceType::{Endpoints, Listener};
use fairway_bench::waypoint::{GATEWAY, NAMESPACE, Shop, Size, What};

use crate::world::{Envoys, objects};

const SIZE: Size = Size { services: 1000, routes: 5000, pods: 2000 };

fn scope() -> Scope {
    Scope::from(WaypointScope {
        namespace: NAMESPACE.into(),
        gateway: GATEWAY.into(),
        capabilities: Capabilities::STOCK,
        families: Families::V4,
        loopback: None,
        place: Place::default(),
    })
}

pub fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("waypoint");
    let (mut shop, scope) = (Shop::new(SIZE), scope());
    let mut envoys = Envoys::new([scope.clone()], shop.objects());
    for (what, ty, name) in [(What::Route, Listener, "one of 5000 routes"), (What::Pod, Endpoints, "one of 2000 pods")]
    {
        let mut change = 0;
        group.bench_function(format!("{name} changed"), |bencher| {
            let next = || -> Vec<Change> {
                change += 1;
                objects(&shop.change(what, change).1).into_iter().map(Change::Put).collect()
            };
            bencher.iter_batched(next, |changes| envoys.commit(changes, ty, &scope), BatchSize::SmallInput);
        });
    }
    group.sample_size(10);
    group.bench_function("all of it", |bencher| {
        bencher.iter_with_large_drop(|| Envoys::new([scope.clone()], shop.objects()));
    });
    group.finish();
}
