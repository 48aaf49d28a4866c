//! One object of a waypoint with many services changes: a route, or a pod
//! behind a service.
//!
//! All services of a waypoint are in one listener, with their routes, as Istio
//! has it. So a change of one route is megabytes for each waypoint, which the
//! limit sends too; what an Envoy needs to take them in is not measured here.

pub use fairway_bench::waypoint::Size;
use fairway_bench::waypoint::{Shop, What};

use super::envoys::{self, Stage};
use super::{Bench, Who};
use crate::options::Options;
use crate::plane::Launch;
use crate::report::{Budget, Budgets, Sample};

pub const LIMIT: &str = "a server that writes the same bytes, prepared and shared, to as many streams";
const SERVICES: usize = 1000;
const ROUTES_PER_SERVICE: usize = 5;
const PODS_PER_SERVICE: usize = 2;

pub type Load = envoys::Load<What>;

/// Slow enough for each change to be read by itself.
pub const ROUTE: Load = Load { what: What::Route, rate: 4.0, seconds: 10 };
pub const ENDPOINT: Load = Load { what: What::Pod, rate: 8.0, seconds: 10 };

/// How much there is, with other flags.
pub fn size(options: &Options) -> Size {
    let services = options.services.unwrap_or(SERVICES).max(1);
    let routes = options.routes.unwrap_or(services * ROUTES_PER_SERVICE).max(services);
    Size { services, routes, pods: options.pods.unwrap_or(services * PODS_PER_SERVICE).max(services) }
}

pub fn setting(load: Load, options: &Options) -> String {
    let Size { services, routes, pods } = size(options);
    let Load { what, rate, seconds } = load.with(options);
    let what = match what {
        What::Route => "route",
        What::Pod => "pod",
    };
    format!(
        "a waypoint of {services} services, {routes} routes and {pods} pods from files; one {what} changes {rate} times a \
         second for {seconds} s, {} stream(s); latency until a client has read and acknowledged it, from when the file was there",
        options.streams.unwrap_or(1)
    )
}

pub fn budgets(load: Load, _: &Options) -> Budgets {
    match load.what {
        What::Route => {
            vec![("latency p99", Budget::AtMost(15.0)), ("server CPU per message and stream", Budget::TimesLimit(1.5))]
        }
        What::Pod => vec![("latency p99", Budget::AtMost(5.0))],
    }
}

pub async fn run(load: Load, bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let (streams, tls) = (bench.options.streams.unwrap_or(1), bench.options.tls);
    Ok(Some(match who {
        Who::Plane(launch) => stage(bench, launch).await?.measure(bench, load, streams).await?,
        Who::Limit => envoys::limit(bench, &Shop::new(size(&bench.options)), tls, streams).await?,
    }))
}

/// A control plane that serves a waypoint.
pub async fn stage(bench: &mut Bench, launch: &Launch) -> anyhow::Result<Stage<Shop>> {
    let (shop, tls) = (Shop::new(size(&bench.options)), bench.options.tls);
    Stage::start(bench, launch, shop, tls).await
}
