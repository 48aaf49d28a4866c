//! A route for a new host is added at one of many gateways: from the object,
//! which is decoded already, to the difference that streams are sent. Beside it
//! is the same where that gateway has one other route and there is nothing else:
//! all that the route itself costs.

use std::time::{Duration, Instant};

use criterion::Criterion;
use fairway::api::{Change, Kind, ObjectKey};
use fairway::proxy::scope::Families;
use fairway::proxy::{Capabilities, GatewayScope, Place, Scope};
use fairway::xds::resource::ResourceType::Routes;
use fairway_bench::gateway::{Edge, NAMESPACE, Size, What, gateway_name};

use crate::world::{Envoys, objects};

const MANY: Size = Size { gateways: 10, namespaces: 50, routes: 5000, services: 500, secrets: 0 };
const ALONE: Size = Size { gateways: 1, namespaces: 1, routes: 1, services: 1, secrets: 0 };

fn scope(gateway: usize) -> Scope {
    let label = ("gateway.networking.k8s.io/gateway-name".into(), gateway_name(gateway).into());
    Scope::from(GatewayScope {
        namespace: NAMESPACE.into(),
        capabilities: Capabilities::STOCK,
        families: Families::V4,
        loopback: None,
        unprivileged: false,
        own: None,
        place: Place { labels: [label].into(), ..Place::default() },
        address: None,
        listed_by: [].into(),
    })
}

pub fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gateway");
    for size in [ALONE, MANY] {
        let mut edge = Edge::new(size);
        let mut envoys = Envoys::new((0..size.gateways).map(scope), edge.objects());
        let (_, text) = edge.change(What::Route, 0).expect("a route needs no certificate");
        let route = objects(&text).pop().expect("it is one object");
        let key = ObjectKey { namespace: "team-000".into(), name: format!("route-{:06}", size.routes).into() };
        let scope = scope(size.routes % size.gateways);
        group.bench_function(format!("a route added to {}", size.routes), |bencher| {
            bencher.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                for _ in 0..count {
                    let added = Change::Put(route.clone());
                    let start = Instant::now();
                    envoys.commit([added], Routes, &scope);
                    spent += start.elapsed();
                    envoys.commit([Change::Delete(Kind::HTTPRoute, key.clone())], Routes, &scope);
                }
                spent
            });
        });
    }
    group.finish();
}
