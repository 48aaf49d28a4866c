//! All objects of a kind as they are, kept up to date by a watch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::api::{self, Api};

/// Between two attempts.
const BACKOFF: Duration = Duration::from_millis(200);

/// An object; the same one until it changes.
pub type Object = Arc<Value>;

/// All objects of a kind.
#[derive(Clone)]
pub struct Watch {
    objects: Arc<Mutex<BTreeMap<String, Object>>>,
    changed: watch::Receiver<u64>,
    _task: Arc<Task>,
}

struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watch {
    /// Starts one. It goes on through any trouble.
    pub fn start(api: &Api, version: &'static str, kind: &'static str) -> Self {
        let (objects, (notify, changed)) = (Arc::new(Mutex::default()), watch::channel(0));
        let follower = Follower { api: api.apart(), version, kind, objects: objects.clone(), notify };
        let task = tokio::spawn(async move {
            loop {
                // Whatever ended it, the next list says what is.
                let _ = follower.follow().await;
                tokio::time::sleep(BACKOFF).await;
            }
        });
        Self { objects, changed, _task: Arc::new(Task(task)) }
    }

    /// An object. That of no namespace has an empty one.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Object> {
        self.objects.lock().unwrap().get(&format!("{namespace}/{name}")).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Object> {
        self.objects.lock().unwrap().values().cloned().collect()
    }

    /// Waits for a change; those before the last call count as one.
    pub async fn changed(&mut self) {
        // It ends with the task, and that with the last handle.
        let _ = self.changed.changed().await;
    }
}

struct Follower {
    api: Api,
    version: &'static str,
    kind: &'static str,
    objects: Arc<Mutex<BTreeMap<String, Object>>>,
    notify: watch::Sender<u64>,
}

impl Follower {
    async fn follow(&self) -> Option<()> {
        let path = api::path(self.version, self.kind, "", "");
        let mut list = self.api.request("GET", &path, None).await.ok()?;
        let version = list["metadata"]["resourceVersion"].as_str()?.to_owned();
        let Value::Array(items) = list["items"].take() else { return None };
        let items = items.into_iter().map(|object| self.complete(object));
        *self.objects.lock().unwrap() = items.collect();
        self.notify.send_modify(|count| *count += 1);

        let path = format!("{path}?watch=true&resourceVersion={version}");
        let mut body = self.api.stream(&path).await.ok()?;
        let mut rest = vec![];
        while let Some(frame) = body.frame().await {
            rest.extend_from_slice(frame.ok()?.data_ref()?);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                self.take(serde_json::from_slice(&line).ok()?)?;
            }
        }
        None
    }

    fn take(&self, mut event: Value) -> Option<()> {
        let (key, object) = match event["type"].as_str()? {
            "ADDED" | "MODIFIED" | "DELETED" => self.complete(event["object"].take()),
            _ => return None,
        };
        let mut objects = self.objects.lock().unwrap();
        match event["type"].as_str()? {
            "DELETED" => drop(objects.remove(&key)),
            _ => drop(objects.insert(key, object)),
        }
        drop(objects);
        self.notify.send_modify(|count| *count += 1);
        Some(())
    }

    /// Lists leave out what they are lists of.
    fn complete(&self, mut object: Value) -> (String, Object) {
        (object["apiVersion"], object["kind"]) = (json!(self.version), json!(self.kind));
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
        (format!("{}/{}", text("namespace"), text("name")), Arc::new(object))
    }
}
