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

/// What a watch has shown.
#[derive(Default)]
struct Watched {
    /// Events of each pod in the order in which they were seen.
    pods: HashMap<String, Vec<Seen>>,
    restarts: usize,
    /// Something else than an event of a pod, or the end.
    trouble: Option<String>,
}

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
        // Within the runtime on which its connection is to live.
        let api = {
            let _entered = handle.enter();
            api.apart()
        };
        // The first is opened here: what happens from now on is to be seen.
        let mut body = open(&api, version).await?;
        let mut newest = version.to_string();
        let seen = Arc::<Mutex<Watched>>::default();
        let sink = seen.clone();
        let task = handle.spawn(async move {
            loop {
                lines(body, |line| note(&sink, line, &mut newest)).await;
                // The API server ends the watch of whoever it takes to be too
                // slow, and goes on where that one was.
                sink.lock().unwrap_or_else(PoisonError::into_inner).restarts += 1;
                body = match open(&api, &newest).await {
                    Ok(body) => body,
                    Err(error) => {
                        let mut watched = sink.lock().unwrap_or_else(PoisonError::into_inner);
                        watched.trouble = Some(format!("{error:#}"));
                        return;
                    }
                };
            }
        });
        Ok(Self { seen, task })
    }

    /// How often it had to be opened again.
    pub fn restarts(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).restarts
    }

    /// When a pod was first seen to be so, at or after an instant.
    pub async fn when(&self, pod: &str, after: Instant, is: impl Fn(&Seen) -> bool) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (found, trouble) = {
                let watched = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let mut events = watched.pods.get(pod).into_iter().flatten();
                let found = events.find(|seen| seen.at >= after && is(seen)).map(|seen| seen.at);
                (found, format!("opened {} times, {:?}", watched.restarts + 1, watched.trouble))
            };
            match found {
                Some(at) => return Ok(at),
                None if Instant::now() > deadline => {
                    return Err(anyhow!("the watch has not shown a change of {pod} ({trouble})"));
                }
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

async fn open(api: &Api, version: &str) -> anyhow::Result<tonic::body::Body> {
    let path = format!("/api/v1/pods?watch=true&resourceVersion={version}");
    api.stream(&path).await.map_err(|refused| anyhow!("{refused:?}"))
}

fn note(watched: &Mutex<Watched>, line: &[u8], newest: &mut String) {
    let at = Instant::now();
    let event = serde_json::from_slice::<Event>(line);
    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        Ok(event) => {
            newest.clone_from(&event.object.metadata.resource_version);
            let (name, seen) = event.seen(at);
            watched.pods.entry(name).or_default().push(seen);
        }
        Err(error) => {
            let line = String::from_utf8_lossy(&line[..line.len().min(300)]).into_owned();
            watched.trouble = Some(format!("{error}: {line}"));
        }
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
    resource_version: String,
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
