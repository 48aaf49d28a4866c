//! What is written back to the objects that the mesh is made from.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Environment;
use crate::controller::auto_allocation::AutoAllocation;
use crate::controller::replicas::Judgements;
use crate::controller::status::{Completeness, OF_INGRESSES, OF_OBJECTS, OF_PROXIES, OF_ROUTES, StatusController};
use crate::model::Settings;
use crate::writer::Published;

use super::Tasks;

/// Starts what writes statuses.
pub(super) fn write(
    tasks: &mut Tasks,
    client: &kube::Client,
    environment: &Environment,
    settings: &Settings,
    published: &Published,
    (speaks, others): (watch::Sender<usize>, watch::Receiver<Arc<Judgements>>),
) {
    let complete = Completeness { wanted: speaks, reached: published.complete.clone() };
    for (name, part, statuses, completeness) in [
        ("statuses", OF_OBJECTS, published.statuses.clone(), Some(complete.clone())),
        ("statuses of routes", OF_ROUTES, published.statuses.clone(), Some(complete)),
        // Of where they are reached no proxy is asked.
        ("statuses of Ingresses", OF_INGRESSES, published.statuses.clone(), None),
        ("statuses of what was rejected", OF_PROXIES, published.rejections.clone(), None),
    ] {
        let controller = StatusController {
            client: client.clone(),
            part,
            system_namespace: settings.system_namespace.clone(),
            identity: environment.pod_name.as_str().into(),
            revisions: published.revisions.clone(),
            statuses,
            completeness,
            others: others.clone(),
        };
        let stop = tasks.stop.clone();
        tasks.serve(name, async move {
            controller.run(stop).await;
            Ok(())
        });
    }
}

/// Starts what gives addresses to ServiceEntries that have none, if they are to
/// have some.
pub(super) fn allocate(
    tasks: &mut Tasks,
    client: &kube::Client,
    environment: &Environment,
    settings: &Settings,
    published: &Published,
) {
    let Some(pools) = settings.auto_allocation else { return };
    let controller = AutoAllocation {
        client: client.clone(),
        system_namespace: settings.system_namespace.clone(),
        identity: environment.pod_name.as_str().into(),
        revisions: published.revisions.clone(),
        pools,
        entries: published.auto_allocation.clone(),
    };
    let stop = tasks.stop.clone();
    tasks.serve("addresses of ServiceEntries", async move {
        controller.run(stop).await;
        Ok(())
    });
}
