//! A raw watch of all pods, beside the one of the control plane: when a change
//! came out of the API server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use fairway_integration_tests::api::Api;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::kube::lines;

/// How long an event may come after the answer to the write that caused it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a pod was, and when that was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// Its version label.
    pub revision: String,
    /// Whether it has an address.
    pub address: bool,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it was told to end.
    pub terminating: bool,
    /// Whether it is gone.
    pub gone: bool,
}

/// Events of each pod in the order in which they were seen.
type Watched = HashMap<String, Vec<Seen>>;

/// A watch that is running.
pub struct Watch {
    // Held for one insertion or one look only.
    seen: Arc<Mutex<Watched>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts a watch of what happens from now on.
    pub async fn start(api: Api, handle: &Handle) -> anyhow::Result<Self> {
        let list = api.request("GET", "/api/v1/pods?limit=1", None).await.map_err(|refused| anyhow!("{refused:?}"))?;
        let version = list["metadata"]["resourceVersion"].as_str().context("a list without a version")?;
        let path = format!("/api/v1/pods?watch=true&resourceVersion={version}");
        let body = api.stream(&path).await.map_err(|refused| anyhow!("{refused:?}"))?;
        let seen = Arc::<Mutex<Watched>>::default();
        let sink = seen.clone();
        let task = handle.spawn(async move {
            lines(body, |line| {
                let at = Instant::now();
                let Ok(event) = serde_json::from_slice::<Event>(line) else { return };
                let (name, seen) = event.seen(at);
                sink.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().push(seen);
            })
            .await;
        });
        Ok(Self { seen, task })
    }

    /// When a pod was first seen to be so, at or after an instant.
    pub async fn when(&self, pod: &str, after: Instant, is: impl Fn(&Seen) -> bool) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self
                .seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(pod)
                .and_then(|events| events.iter().find(|seen| seen.at >= after && is(seen)).map(|seen| seen.at));
            match found {
                Some(at) => return Ok(at),
                None if Instant::now() > deadline => return Err(anyhow!("the watch has not shown a change of {pod}")),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Pod,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    labels: Labels,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize, Default)]
struct Labels {
    #[serde(rename = "app.kubernetes.io/version")]
    version: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl Event {
    fn seen(self, at: Instant) -> (String, Seen) {
        let Pod { metadata, status } = self.object;
        let seen = Seen {
            at,
            revision: metadata.labels.version.unwrap_or_default(),
            address: status.pod_ip.is_some(),
            ready: status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True"),
            terminating: metadata.deletion_timestamp.is_some(),
            gone: self.r#type == "DELETED",
        };
        (metadata.name, seen)
    }
}
