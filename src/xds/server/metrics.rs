//! The metrics of the xDS server, under istiod's names where it has them
//! (<https://istio.io/latest/docs/reference/commands/pilot-discovery/#metrics>).
//!
//! OpenMetrics wants counters to end in `_total`; istiod's do not, and
//! dashboards know them as they are. So they are exposed as gauges that only
//! grow, which is all that `rate()` asks for.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::xds::resource::ResourceType;
use crate::xds::stream::Response;

/// The metrics of all streams; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    types: [TypeMetrics; ResourceType::ALL.len()],
    send_time: Histogram,
    convergence_time: Histogram,
    pub(super) unauthenticated: Gauge,
    /// Names of secrets that were asked for by those who may not have them.
    pub(super) secrets_denied: Gauge,
    pub(super) internal_errors: Gauge,
}

/// The metrics of one type, found once and not for every response.
#[derive(Clone, Debug)]
struct TypeMetrics {
    pushes: Gauge,
    rejects: Gauge,
    expired_nonces: Gauge,
    config_size: Histogram,
    push_time: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}

/// The buckets of times.
const TIMES: [f64; 10] = [0.0001, 0.001, 0.01, 0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &mut Registry) -> Self {
        let (pushes, rejects, expired_nonces) = (gauges(), gauges(), gauges());
        let config_size: Family<TypeLabel, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new([1e3, 1e4, 1e5, 1e6, 4e6, 1e7, 4e7, 1e8]));
        let push_time: Family<TypeLabel, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(TIMES));
        registry.register("pilot_xds_pushes", "Pilot build and send count by type", pushes.clone());
        registry.register("pilot_total_xds_rejects", "XDS responses rejected by proxies", rejects.clone());
        registry.register("pilot_xds_expired_nonce", "XDS requests with an expired nonce", expired_nonces.clone());
        registry.register("pilot_xds_config_size_bytes", "Size of responses sent to clients", config_size.clone());
        let help = "Seconds to build a response and hand it to its client";
        registry.register("pilot_xds_push_time", help, push_time.clone());
        let metrics = Self {
            types: ResourceType::ALL.map(|ty| {
                let label = TypeLabel { r#type: ty.label() };
                TypeMetrics {
                    pushes: pushes.get_or_create_owned(&label),
                    rejects: rejects.get_or_create_owned(&label),
                    expired_nonces: expired_nonces.get_or_create_owned(&label),
                    config_size: config_size.get_or_create_owned(&label),
                    push_time: push_time.get_or_create_owned(&label),
                }
            }),
            send_time: Histogram::new(TIMES),
            convergence_time: Histogram::new([
                0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 5.0, 10.0, 30.0,
            ]),
            unauthenticated: Gauge::default(),
            secrets_denied: Gauge::default(),
            internal_errors: Gauge::default(),
        };
        let Self { send_time, convergence_time, .. } = &metrics;
        registry.register("pilot_xds_send_time", "Seconds to hand a response to its client", send_time.clone());
        let help = "Seconds between publishing configuration and a proxy receiving it";
        registry.register("pilot_proxy_convergence_time", help, convergence_time.clone());
        let help = "XDS callers refused because they did not authenticate";
        registry.register("pilot_xds_unauthenticated", help, metrics.unauthenticated.clone());
        let help = "Secrets that were asked for by proxies that may not have them";
        registry.register("pilot_sds_certificate_errors_total", help, metrics.secrets_denied.clone());
        let help = "Internal XDS errors in pilot";
        registry.register("pilot_total_xds_internal_errors", help, metrics.internal_errors.clone());
        metrics
    }

    pub(super) fn expired_nonce(&self, ty: ResourceType) {
        self.types[ty as usize].expired_nonces.inc();
    }

    pub(super) fn reject(&self, ty: ResourceType) {
        self.types[ty as usize].rejects.inc();
    }

    /// A response of `size` bytes was handed over, which took `time`.
    pub(super) fn pushed(&self, response: &Response, size: usize, time: Duration) {
        let metrics = &self.types[response.ty as usize];
        metrics.pushes.inc();
        metrics.config_size.observe(size as f64);
        // A response is put together as it is sent: one time tells both.
        let seconds = time.as_secs_f64();
        metrics.push_time.observe(seconds);
        self.send_time.observe(seconds);
        // The first response says how old the view is, not how slow we are.
        if !response.first {
            self.convergence_time.observe(response.views.published.elapsed().as_secs_f64());
        }
    }
}

fn gauges() -> Family<TypeLabel, Gauge> {
    Family::default()
}
