//! Single parts, each alone and hot: `make micro`, or
//! `cargo bench -p fairway-bench --bench micro -- [FILTER]`.
//!
//! Criterion compares with the run before and keeps that in
//! `target/criterion`. On a machine that is shared, differences below ten
//! percent mean nothing, and neither does a run beside a compiler. Everything
//! runs on one thread, so a number is CPU time as well.
//!
//! Meshes are those of the scenarios, compact. Each file has what it measures
//! on top.

mod codec;
mod csr;
mod gateway;
mod graph;
mod stream;
mod view;
mod waypoint;
mod world;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

/// What Fairway itself runs on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn short() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args()
}

criterion_group! {
    name = micro;
    config = short();
    targets = graph::commits, view::differences, codec::responses, codec::requests, stream::rounds, csr::certificates,
        waypoint::changes, gateway::changes
}
criterion_main!(micro);
