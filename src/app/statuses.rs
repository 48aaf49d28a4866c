//! What is written back to the objects that the mesh is made from.

use tokio::sync::watch;

use crate::config::Environment;
use crate::controller::status::{Completeness, OF_OBJECTS, OF_PROXIES, StatusController};
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
    speaks: watch::Sender<bool>,
) {
    let complete = Completeness { wanted: speaks, reached: published.complete.clone() };
    for (name, part, statuses, completeness) in [
        ("statuses", OF_OBJECTS, published.statuses.clone(), Some(complete)),
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
        };
        let stop = tasks.stop.clone();
        tasks.serve(name, async move {
            controller.run(stop).await;
            Ok(())
        });
    }
}
