//! The certificate authority's metrics, under istiod's names
//! (security/pkg/server/ca/monitoring.go), so that dashboards and alerts carry
//! over. They count, but are exposed as gauges: the exposition library would
//! append `_total` to the name of a counter, and istiod's names have none.

use std::sync::Arc;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::authority::Authority;
use super::handover::Step;

/// Counts of the certificate service.
#[derive(Clone, Debug, Default)]
pub struct CaMetrics {
    /// Requests.
    pub requests: Gauge,
    /// Callers that could not prove who they are, or may not impersonate.
    pub authentication_failures: Gauge,
    /// Requests that hold no acceptable CSR.
    pub parse_errors: Gauge,
    /// Callers without exactly one identity.
    pub identity_errors: Gauge,
    /// Requests that could not be signed, by istiod's error types.
    pub sign_errors: Family<SignErrorLabels, Gauge>,
    /// Certificates issued.
    pub issued: Gauge,
}

/// Why signing failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SignErrorLabels {
    /// istiod's name of the error type.
    pub error: &'static str,
}

impl CaMetrics {
    /// Metrics that a registry exposes.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let mut count = |name, help, gauge: &Gauge| registry.register(name, help, gauge.clone());
        count("citadel_server_csr_count", "Certificate signing requests received", &metrics.requests);
        count(
            "citadel_server_authentication_failure_count",
            "Signing requests whose caller could not be authenticated",
            &metrics.authentication_failures,
        );
        count("citadel_server_csr_parsing_err_count", "Signing requests that do not parse", &metrics.parse_errors);
        count(
            "citadel_server_id_extraction_err_count",
            "Signing requests whose caller has not exactly one identity",
            &metrics.identity_errors,
        );
        count("citadel_server_success_cert_issuance_count", "Certificates issued", &metrics.issued);
        registry.register(
            "citadel_server_csr_sign_err_count",
            "Signing requests that could not be signed",
            metrics.sign_errors.clone(),
        );
        metrics
    }
}

/// Exposes when the key material of an authority ends, as of each scrape.
pub fn register_expiry(registry: &mut Registry, authority: Arc<Authority>) {
    registry.register_collector(Box::new(Expiry(authority)));
}

#[derive(Debug)]
struct Expiry(Arc<Authority>);

impl Collector for Expiry {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let bundle = self.0.bundle();
        let now = Timestamp::now().as_second();
        let (root, chain) = (bundle.root_not_after().as_second(), bundle.not_after().as_second());
        for (name, help, value) in [
            ("citadel_server_root_cert_expiry_timestamp", "Unix time at which the root certificate expires", root),
            ("citadel_server_root_cert_expiry_seconds", "Seconds until the root certificate expires", root - now),
            ("citadel_server_cert_chain_expiry_timestamp", "Unix time at which the signing chain expires", chain),
            ("citadel_server_cert_chain_expiry_seconds", "Seconds until the signing chain expires", chain - now),
            (
                "fairway_ca_bundle_rejected_count",
                "New CA key material that was refused",
                i64::try_from(self.0.rejected()).unwrap_or(i64::MAX),
            ),
        ] {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let report = self.0.report(Timestamp::now());
        let help = "Where a change of the root is";
        let mut steps = encoder.encode_descriptor("fairway_ca_rotation_step", help, None, MetricType::Gauge)?;
        for step in Step::ALL {
            ConstGauge::new(i64::from(step == report.step)).encode(steps.encode_family(&[("step", step.name())])?)?;
        }
        let help =
            "Certificates in use that were issued by this process, by whether their issuer is the one that signs";
        let mut held = encoder.encode_descriptor("fairway_ca_certificates", help, None, MetricType::Gauge)?;
        for (issuer, signs) in [("current", true), ("old", false)] {
            let count: usize = report.issuers.iter().filter(|one| one.signs == signs).map(|one| one.certificates).sum();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(held.encode_family(&[("issuer", issuer)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
