//! The keys of token issuers, fetched so that proxies need not reach issuers.
//!
//! Users say where keys are, and the control plane can reach more than they
//! can. So only public keys ever leave here, addresses that hold secrets are
//! never asked, whatever name or redirect leads there, and everything has a
//! limit. Keys that cannot be fetched are never made up.

mod document;
mod fetch;
pub mod guard;
mod keeper;

use std::path::Path;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

pub use fetch::Fetcher;
pub use guard::Guard;
pub use keeper::{Wanted, keep};

/// Roots that issuers are trusted by besides the system's, where istiod's chart
/// mounts them.
pub const EXTRA_ROOTS: &str = "/cacerts/extra.pem";

/// How keys are fetched.
pub struct Options<'a> {
    /// After what time they are fetched again.
    pub refresh: Duration,
    /// Where they must not be.
    pub guard: Guard,
    /// A file of further roots; it need not be there.
    pub extra_roots: &'a Path,
}

/// Counts of fetches, under istiod's names.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    succeeded: Counter,
    failed: Counter,
}

impl Metrics {
    /// Metrics that a registry exposes.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        // The library appends `_total`.
        let mut count = |name, help, counter: &Counter| registry.register(name, help, counter.clone());
        count(
            "pilot_jwks_resolver_network_fetch_success",
            "Times that the keys of a token issuer were fetched",
            &metrics.succeeded,
        );
        count(
            "pilot_jwks_resolver_network_fetch_fail",
            "Times that the keys of a token issuer could not be fetched",
            &metrics.failed,
        );
        metrics
    }
}
