//! The keys of token issuers: who fetches them, and from where not.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::Tasks;
use crate::admin::SharedRegistry;
use crate::config::{Environment, KeysFetchedBy};
use crate::jwks::{self, EXTRA_ROOTS, Fetcher, Guard, Metrics, Options, Wanted};
use crate::model::key_set::{Fetched, FetchedBy};

/// Who fetches them.
pub(super) fn fetched_by(environment: &Environment) -> FetchedBy {
    match environment.keys_fetched_by {
        KeysFetchedBy::ControlPlane => FetchedBy::ControlPlane,
        KeysFetchedBy::Either => FetchedBy::Either,
        KeysFetchedBy::Envoy => FetchedBy::Envoy,
    }
}

/// Starts fetching what is wanted. `alone` is for a folder of files: whoever
/// writes them is on this machine already.
pub(super) fn fetch(
    tasks: &mut Tasks,
    environment: &Environment,
    alone: bool,
    registry: &SharedRegistry,
    wanted: watch::Receiver<Arc<Wanted>>,
    fetched: watch::Sender<Fetched>,
) -> anyhow::Result<()> {
    let guard = Guard { blocked: environment.blocked_key_networks.clone(), loopback: alone };
    let refresh = environment.key_refresh;
    let fetcher = Fetcher::new(&Options { refresh, guard, extra_roots: Path::new(EXTRA_ROOTS) })?;
    let metrics = registry.register(Metrics::new);
    let fetch = move |source, timeout| {
        let fetcher = fetcher.clone();
        async move { fetcher.keys(source, timeout).await }
    };
    tasks.spawn_stoppable("token keys", jwks::keep(fetch, refresh, wanted, fetched, metrics));
    Ok(())
}
