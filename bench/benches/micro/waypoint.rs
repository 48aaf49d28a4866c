//! One object of a waypoint with many services changes: from the object, which
//! is decoded already, to the difference that streams are sent. Beside it is
//! what it would be to make the same listener from nothing.

use std::sync::Arc;

use criterion::{BatchSize, Criterion};
use fairway::api::{Change, Object};
use fairway::model::Settings;
use fairway::proxy::scope::Families;
use fairway::proxy::{Capabilities, Place, Scope, WaypointScope};
use fairway::translation::Translation;
use fairway::xds::resource::ResourceType::{self, Endpoints, Listener};
use fairway::xds::view::Views;
use fairway_bench::waypoint::{GATEWAY, NAMESPACE, Shop, Size, What};

use crate::world::objects;

const SIZE: Size = Size { services: 1000, routes: 5000, pods: 2000 };

fn scope() -> Scope {
    Scope::Waypoint(WaypointScope {
        namespace: NAMESPACE.into(),
        gateway: GATEWAY.into(),
        capabilities: Capabilities::STOCK,
        families: Families::V4,
        loopback: None,
        place: Place::default(),
    })
}

/// Everything, as it is when it has just been read.
fn fresh(shop: &Shop) -> (Translation, Arc<Views>) {
    let mut translation = Translation::new(Arc::new(Settings::default()));
    translation.want([scope()]);
    for text in shop.objects() {
        objects(&text).into_iter().for_each(|object| translation.apply(Change::Put(object)));
    }
    translation.commit();
    let views = translation.published().expect("there is something to tell");
    (translation, views)
}

pub fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("waypoint");
    let mut shop = Shop::new(SIZE);
    let (mut translation, mut views) = fresh(&shop);
    for (what, ty, name) in [(What::Route, Listener, "one of 5000 routes"), (What::Pod, Endpoints, "one of 2000 pods")]
    {
        let mut change = 0;
        group.bench_function(format!("{name} changed"), |bencher| {
            let next = || -> Vec<Object> {
                change += 1;
                objects(&shop.change(what, change).1)
            };
            let commit = |objects: Vec<Object>| {
                objects.into_iter().for_each(|object| translation.apply(Change::Put(object)));
                translation.commit();
                let new = translation.published().expect("something has changed");
                step(&views, &new, ty);
                views = new;
            };
            bencher.iter_batched(next, commit, BatchSize::SmallInput);
        });
    }
    group.sample_size(10);
    group.bench_function("all of it", |bencher| {
        bencher.iter_with_large_drop(|| fresh(&shop));
    });
    group.finish();
}

/// The first stream to need it finds what has changed.
fn step(old: &Views, new: &Views, ty: ResourceType) {
    let scope = scope();
    let step = new.step(ty, Some(&scope), old.layer(ty, Some(&scope))).expect("both were published");
    assert_eq!(step.upserts.len(), 1);
    std::hint::black_box(step.frames(32 << 10));
}
