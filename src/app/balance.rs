//! An even spread of streams: a replica with more than its share ends a few of
//! them each second, and their clients find another.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::watch;

use crate::config::Environment;
use crate::controller::replicas::{Judgements, Own, PERIOD, Replica, Streams};
use crate::model::Settings;
use crate::status::Statuses;
use crate::xds::server::connections::Connections;

use super::{Tasks, gateways};

const INTERVAL: Duration = Duration::from_secs(1);
/// Who has just come is not sent away again.
const SETTLED: SignedDuration = SignedDuration::from_secs(10);

/// Starts telling other replicas how many streams there are and what proxies say,
/// and ending those that are too many.
pub(super) fn keep(
    tasks: &mut Tasks,
    client: kube::Client,
    environment: &Environment,
    settings: &Settings,
    connections: Arc<Connections>,
    (rejections, judgements): (watch::Receiver<Statuses>, watch::Sender<Arc<Judgements>>),
) {
    let replica = Replica {
        client,
        system_namespace: settings.system_namespace.to_string(),
        identity: environment.pod_name.clone(),
        revision: if settings.revision.is_empty() { "default".into() } else { settings.revision.to_string() },
    };
    let (sender, known) = watch::channel(Streams::default());
    let (counted, stop) = (connections.clone(), tasks.stop.clone());
    // It takes its record with it when it stops.
    tasks.serve("replicas", async move {
        let own = move || Own {
            streams: counted.len(),
            judgements: Judgements {
                gateways: gateways::proxies_of(&counted),
                rejected: rejections.borrow().keys().cloned().collect(),
            },
        };
        replica.run(own, sender, judgements, stop).await;
        Ok(())
    });
    let stop = tasks.stop.clone();
    tasks.spawn_stoppable("spread of streams", async move {
        let (mut round, mut left) = (0, 0);
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            let streams = known.borrow().clone();
            if streams.round != round {
                // What others have is known with a delay, so only half of what
                // is too many goes before the next look.
                (round, left) = (streams.round, streams.surplus().div_ceil(2));
                if left > 0 {
                    tracing::info!(own = streams.own, others = ?streams.others, ended = left, "more streams than others have");
                }
            }
            let seconds = usize::try_from(PERIOD.as_secs()).unwrap_or(1);
            let some = streams.surplus().div_ceil(2 * seconds).min(left);
            left -= some;
            connections.shed(some, SETTLED);
        }
    });
}
