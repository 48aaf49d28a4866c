//! Watches for controllers, of objects as JSON. They live as long as a replica
//! leads, and are narrow: a label or a name says which objects. What a mesh is
//! made from is read elsewhere, by [`crate::source`].

#[cfg(test)]
mod tests;

use std::time::Duration;

use futures::StreamExt;
use http::Request;
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::source::kube::backoff::{Backoff, jittered};

use super::resource::{RequestError, Resource, list};

/// How many objects are asked for at a time.
const PAGE: usize = 500;
/// How long a watch is open at most.
const OPEN: Duration = Duration::from_secs(300);
/// How often a kind is looked for that is not installed, if nobody tells that it
/// is.
const ABSENT: Duration = Duration::from_secs(30);
/// How long it takes until a kind is served whose definition is there.
const DEFINED: Duration = Duration::from_millis(500);

/// Which objects are watched.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Their kind.
    pub resource: Resource,
    /// Their namespace; empty for all.
    pub namespace: String,
    /// Which of them, as a query: `labelSelector=…` or `fieldSelector=…`;
    /// empty for all.
    pub query: String,
}

/// What a watch tells.
#[derive(Debug)]
pub enum Seen {
    /// These are all objects of the selection with this number.
    All(usize, Vec<Value>),
    /// An object is there, in this state.
    Put(usize, Value),
    /// An object is gone, or no longer selected.
    Gone(usize, Value),
    /// The kind of the selection is not installed.
    Absent(usize),
}

/// Watches for ever. A kind that is not installed is looked for when the
/// definition of one changes; of an API server that cannot be asked, nothing is
/// concluded.
pub async fn follow(
    client: kube::Client,
    number: usize,
    selection: Selection,
    sender: Sender<Seen>,
    mut definitions: watch::Receiver<()>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let mut absence = Backoff::new(DEFINED, ABSENT);
    loop {
        definitions.mark_unchanged();
        match turn(&client, number, &selection, &sender, &mut backoff).await {
            Ok(()) => absence.reset(),
            Err(error) if error.code() == Some(404) => {
                if sender.send(Seen::Absent(number)).await.is_err() {
                    return;
                }
                // The API server serves a kind some time after it is defined.
                if let Ok(Ok(())) = timeout(absence.delay(), definitions.changed()).await {
                    absence.reset();
                    sleep(absence.delay()).await;
                }
            }
            Err(error) => {
                if error.code() != Some(410) {
                    let kind = selection.resource.kind();
                    tracing::warn!(kind, %error, "a controller cannot watch; it tries again");
                }
                sleep(backoff.delay()).await;
            }
        }
        if sender.is_closed() {
            return;
        }
    }
}

/// From a list to the end of the watches that continue it.
async fn turn(
    client: &kube::Client,
    number: usize,
    selection: &Selection,
    sender: &Sender<Seen>,
    backoff: &mut Backoff,
) -> Result<(), RequestError> {
    let path = selection.resource.path(&selection.namespace);
    let (objects, mut version) = everything(client, &path, &selection.query).await?;
    if sender.send(Seen::All(number, objects)).await.is_err() {
        return Ok(());
    }
    backoff.reset();
    loop {
        let uri = format!(
            "{path}?{}&watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={}",
            selection.query,
            jittered(OPEN).as_secs()
        );
        let events = client.request_events::<Value>(Request::get(uri).body(Vec::new())?).await?;
        let mut events = std::pin::pin!(events);
        let mut heard = false;
        while let Some(event) = events.next().await {
            heard = true;
            let seen = match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    version = version_of(&object).unwrap_or(version);
                    Seen::Put(number, object)
                }
                WatchEvent::Deleted(object) => {
                    version = version_of(&object).unwrap_or(version);
                    Seen::Gone(number, object)
                }
                WatchEvent::Bookmark(bookmark) => {
                    version = bookmark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
            };
            if sender.send(seen).await.is_err() {
                return Ok(());
            }
        }
        if !heard {
            sleep(backoff.delay()).await;
        }
    }
}

/// All objects of a list, page by page, and its version.
pub async fn everything(client: &kube::Client, path: &str, query: &str) -> Result<(Vec<Value>, String), RequestError> {
    let (mut objects, mut token) = (Vec::new(), String::new());
    loop {
        let mut page = list(client, path, &format!("{query}&limit={PAGE}{token}")).await?;
        objects.extend(items(&mut page));
        match page["metadata"]["continue"].as_str() {
            // Tokens are base64 for URLs, without characters to escape.
            Some(next) if !next.is_empty() => token = format!("&continue={next}"),
            _ => return Ok((objects, version_of(&page).unwrap_or_default())),
        }
    }
}

/// The objects of a list. Those of Kubernetes' own kinds say what they are
/// everywhere but there, and would never look like what is to be applied.
fn items(list: &mut Value) -> Vec<Value> {
    let kind = list["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).map(ToOwned::to_owned);
    let version = list["apiVersion"].take();
    let Value::Array(mut items) = list["items"].take() else { return Vec::new() };
    if let Some(kind) = kind {
        for item in items.iter_mut().filter(|item| item.is_object() && item["kind"].is_null()) {
            item["kind"] = kind.as_str().into();
            item["apiVersion"] = version.clone();
        }
    }
    items
}

fn version_of(object: &Value) -> Option<String> {
    object["metadata"]["resourceVersion"].as_str().map(ToOwned::to_owned)
}
