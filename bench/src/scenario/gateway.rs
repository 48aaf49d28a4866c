//! One object of gateways that many namespaces share: a route for a new host is
//! added, or a certificate is replaced.
//!
//! All hosts of a listener are in one route configuration, so a route that is
//! added is the size of all of them on the wire, which the limit sends too. A
//! certificate is in a resource of its own: nothing else may be sent for it.

use fairway_bench::gateway::{Edge, Size, What};

use super::envoys::{self, Stage};
use super::{Bench, Who};
use crate::options::Options;
use crate::report::{Budget, Budgets, Sample};

pub const LIMIT: &str = "a server that writes the same bytes, prepared and shared, to as many streams";
pub const GATEWAYS: usize = 10;
pub const NAMESPACES: usize = 50;
const ROUTES: usize = 5000;
const SERVICES: usize = 500;
const SECRETS: usize = 200;

pub type Load = envoys::Load<What>;

/// Slow enough for each change to be read by itself.
pub const ROUTE: Load = Load { what: What::Route, rate: 4.0, seconds: 15 };
pub const SECRET: Load = Load { what: What::Secret, rate: 15.0, seconds: 10 };

/// How much there is, with other flags.
fn size(options: &Options) -> Size {
    Size {
        gateways: GATEWAYS,
        namespaces: NAMESPACES,
        routes: options.routes.unwrap_or(ROUTES).max(1).next_multiple_of(GATEWAYS),
        services: options.services.unwrap_or(SERVICES).max(1),
        secrets: SECRETS,
    }
}

pub fn setting(load: Load, options: &Options) -> String {
    let (Size { gateways, namespaces, routes, services, secrets }, load) = (size(options), load.with(options));
    let what = match load.what {
        What::Route => "a route for a new host is added",
        What::Secret => "a Secret gets another certificate",
    };
    format!(
        "{gateways} gateways for {namespaces} namespaces, {routes} HTTPRoutes to {services} services and {secrets} \
         listeners with certificates, from files; {what} {} times a second for {} s, {} streams{}; latency until the \
         gateway concerned has read and acknowledged it, from when the file was there",
        load.rate,
        load.seconds,
        streams(options),
        if tls(load, options) { " with TLS" } else { "" }
    )
}

pub fn budgets(load: Load, _: &Options) -> Budgets {
    let once = ("messages per change and stream", Budget::AtMost(1.0));
    match load.what {
        What::Route => vec![
            ("latency p99", Budget::AtMost(15.0)),
            ("server CPU per message and stream", Budget::TimesLimit(1.5)),
            once,
        ],
        What::Secret => vec![once],
    }
}

/// Secrets are for those that show who they are.
fn tls(load: Load, options: &Options) -> bool {
    options.tls || load.what == What::Secret
}

fn streams(options: &Options) -> usize {
    options.streams.unwrap_or(GATEWAYS).next_multiple_of(GATEWAYS)
}

pub async fn run(load: Load, bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let (site, tls, streams) = (Edge::new(size(&bench.options)), tls(load, &bench.options), streams(&bench.options));
    Ok(Some(match who {
        Who::Plane(launch) => Stage::start(bench, launch, site, tls).await?.measure(bench, load, streams).await?,
        Who::Limit => envoys::limit(bench, &site, tls, streams).await?,
    }))
}
