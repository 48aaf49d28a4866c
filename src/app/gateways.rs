//! Gateways: what the controller that deploys them learns from the streams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::api::ObjectKey;
use crate::config::{Discovery, Environment};
use crate::controller::gateway::Proxies;
use crate::controller::gateway::run::{GatewayController, ProxyTable};
use crate::controller::gateway::settings::Settings as GatewaySettings;
use crate::controller::replicas::Judgements;
use crate::model::Settings;
use crate::model::revision::Revisions;
use crate::proxy::NodeKind;
use crate::status::facts::GatewayTable;
use crate::xds::resource::ResourceType;
use crate::xds::server::connections::{Connections, Status};

use super::Tasks;

/// How often the streams are looked at. Nobody waits for a status to be
/// younger than that, and no stream has to tell anybody of its progress.
const INTERVAL: Duration = Duration::from_secs(1);

/// Starts what deploys Gateways and writes their status.
pub(super) fn write(
    tasks: &mut Tasks,
    (client, definitions): (kube::Client, watch::Receiver<()>),
    (facts, revisions): (watch::Receiver<GatewayTable>, watch::Receiver<Arc<Revisions>>),
    flags: &Discovery,
    environment: &Environment,
    settings: &Settings,
    (connections, others): (Arc<Connections>, watch::Receiver<Arc<Judgements>>),
) {
    let (table, proxies) = watch::channel(ProxyTable::default());
    tasks.spawn("proxies of Gateways", async move {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let mut new = proxies_of(&connections);
            for (key, proxies) in &others.borrow().gateways {
                new.entry(key.clone()).or_default().add(proxies.clone());
            }
            table.send_if_modified(|known| {
                let modified = **known != new;
                if modified {
                    *known = Arc::new(new);
                }
                modified
            });
        }
    });
    let controller = GatewayController {
        client,
        settings: Arc::new(GatewaySettings {
            revision: settings.revision.to_string(),
            system_namespace: settings.system_namespace.to_string(),
            domain: settings.domain.to_string(),
            cluster: settings.cluster.to_string(),
            root_config_map: environment.root_config_map.clone(),
            proxy_image: environment.proxy_image.clone(),
            default_image: flags.waypoint_image.clone(),
            programmed_by_address: environment.programmed_by_address,
        }),
        identity: environment.pod_name.as_str().into(),
        proxies,
        facts,
        revisions,
        definitions,
    };
    let stop = tasks.stop.clone();
    tasks.serve("Gateways", async move {
        controller.run(stop).await;
        Ok(())
    });
}

/// What streams say of the Gateways they serve. A proxy has its configuration
/// when it has acknowledged clusters and listeners, the two that every Envoy
/// asks for.
pub(super) fn proxies_of(connections: &Connections) -> BTreeMap<ObjectKey, Proxies> {
    let kinds = [NodeKind::Waypoint, NodeKind::Router];
    judged(kinds.into_iter().flat_map(|kind| connections.statuses_of(kind)))
}

fn judged(statuses: impl Iterator<Item = Status>) -> BTreeMap<ObjectKey, Proxies> {
    let mut table = BTreeMap::<ObjectKey, Proxies>::new();
    for status in statuses {
        let Some(gateway) = &status.node.gateway else { continue };
        let key = ObjectKey { namespace: status.node.namespace.clone(), name: gateway.clone() };
        let acknowledged = |ty| status.types.iter().any(|one| one.progress.ty == ty && one.progress.acked.is_some());
        // A secret that is not taken keeps nobody from listening, and what Envoy
        // says of it is not for everybody who may read a status.
        let judged = status.types.iter().filter(|one| one.progress.ty != ResourceType::Secret);
        let rejected = judged.into_iter().find_map(|one| one.progress.error.clone());
        let current = u32::from(
            rejected.is_none() && acknowledged(ResourceType::Cluster) && acknowledged(ResourceType::Listener),
        );
        table.entry(key).or_default().add(Proxies { connected: 1, current, rejected });
    }
    table
}
