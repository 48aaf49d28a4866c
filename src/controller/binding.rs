//! The condition `istio.io/WaypointBound` of Services and ServiceEntries.
//!
//! What is there is listed once, when this replica begins to lead; after that
//! only what the model changes is looked at. The condition is set with JSON
//! patches that are guarded by the object's version: conditions of others are
//! not touched, also where their list is not one that server-side apply can
//! merge.
//!
//! It needs the rights to get and list `services` and `serviceentries`, and to
//! patch their `status`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::api::{Kind, ObjectKey};
use crate::model::binding::Binding;
use crate::source::kube::backoff::Backoff;

use super::FIELD_MANAGER;
use super::lease::run_while_leader;
use super::resource::{self, Manner, Reference, RequestError, Resource, Write};
use super::watch::everything;

/// istiod's Lease for the status of Istio's own kinds.
const LEASE: &str = "istio-status-leader";
/// The condition's type.
pub const CONDITION: &str = "istio.io/WaypointBound";
/// How many objects are written at a time.
const WRITES: usize = 4;

/// Who asks for a waypoint, and whether they have it.
pub type Bindings = imbl::OrdMap<(Kind, ObjectKey), Binding>;

/// The controller.
#[derive(Clone)]
pub struct BindingController {
    /// The API server.
    pub client: kube::Client,
    /// The namespace of the control plane, where the Lease is.
    pub system_namespace: Arc<str>,
    /// The name of this replica.
    pub identity: Arc<str>,
    /// What is to be said.
    pub bindings: watch::Receiver<Bindings>,
}

impl BindingController {
    /// Works whenever this replica leads, until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let (client, identity) = (self.client.clone(), self.identity.clone());
        let namespace = self.system_namespace.clone();
        let work = || Box::pin(self.clone().lead());
        run_while_leader(client, &namespace, LEASE, &identity, cancel, work).await;
    }

    async fn lead(mut self) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let mut written = self.bindings.borrow_and_update().clone();
        let mut due = loop {
            match self.different(&written).await {
                Ok(due) => break due,
                Err(error) => {
                    tracing::warn!(%error, "cannot list what is bound to waypoints");
                    sleep(backoff.delay()).await;
                }
            }
        };
        backoff.reset();
        loop {
            let batch = std::mem::take(&mut due);
            let client = &self.client;
            let writes = batch.into_iter().map(async |(object, wanted)| {
                let done = write(client, &object, wanted.as_ref()).await;
                (!done).then_some((object, wanted))
            });
            due = futures::stream::iter(writes).buffer_unordered(WRITES).filter_map(std::future::ready).collect().await;
            let retry = async {
                match due.is_empty() {
                    true => std::future::pending().await,
                    false => sleep(backoff.delay()).await,
                }
            };
            tokio::select! {
                () = retry => {}
                changed = self.bindings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    backoff.reset();
                    // A burst of changes, such as a waypoint with all that use
                    // it, is one step.
                    sleep(Duration::from_millis(100)).await;
                    let new = self.bindings.borrow_and_update().clone();
                    for change in written.diff(&new) {
                        let (key, wanted) = match change {
                            imbl::ordmap::DiffItem::Add(key, wanted) => (key, Some(wanted)),
                            imbl::ordmap::DiffItem::Update { new: (key, wanted), .. } => (key, Some(wanted)),
                            imbl::ordmap::DiffItem::Remove(key, _) => (key, None),
                        };
                        due.insert(reference(key), wanted.cloned());
                    }
                    written = new;
                }
            }
        }
    }

    /// What is not as it should be, by a look at everything.
    async fn different(&self, wanted: &Bindings) -> Result<BTreeMap<Reference, Option<Binding>>, RequestError> {
        let mut due: BTreeMap<_, _> =
            wanted.iter().map(|(key, binding)| (reference(key), Some(binding.clone()))).collect();
        for resource in [Resource::Service, Resource::ServiceEntry] {
            let objects = match everything(&self.client, &resource.path(""), "").await {
                Ok((objects, _)) => objects,
                // Not installed, so there are none.
                Err(error) if error.code() == Some(404) => continue,
                Err(error) => return Err(error),
            };
            for object in objects {
                let reference = Reference::of(resource, &object);
                let wanted = due.get(&reference).cloned().flatten();
                match patch(&object, wanted.as_ref(), "") {
                    Some(_) => _ = due.insert(reference, wanted),
                    None => _ = due.remove(&reference),
                }
            }
        }
        Ok(due)
    }
}

fn reference((kind, key): &(Kind, ObjectKey)) -> Reference {
    let resource = if *kind == Kind::ServiceEntry { Resource::ServiceEntry } else { Resource::Service };
    Reference::new(resource, &*key.namespace, &*key.name)
}

/// Brings one object up to date. Returns whether it is, or is gone.
async fn write(client: &kube::Client, object: &Reference, wanted: Option<&Binding>) -> bool {
    let now = format!("{:.0}", Timestamp::now());
    let step = async {
        let Some(live) = resource::get(client, object).await? else { return Ok(true) };
        let Some(body) = patch(&live, wanted, &now) else { return Ok(true) };
        let write = Write { object: object.clone(), manner: Manner::PatchStatus, body };
        resource::write(client, &write, FIELD_MANAGER).await.map(|_| true)
    };
    match step.await {
        Ok(done) => done,
        Err(error) if error.code() == Some(404) => true,
        // Somebody else wrote in between.
        Err(error) if matches!(error.code(), Some(409 | 422)) => false,
        Err(error) => {
            tracing::warn!(%object, %error, "cannot say whether it is bound to a waypoint");
            false
        }
    }
}

/// The JSON patch that makes an object's condition what it should be; none if
/// it is.
pub fn patch(object: &Value, wanted: Option<&Binding>, now: &str) -> Option<Value> {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().enumerate().find(|(_, one)| one["type"] == CONDITION));
    let guard = json!({
        "op": "test", "path": "/metadata/resourceVersion", "value": object["metadata"]["resourceVersion"],
    });
    let Some(wanted) = wanted else {
        let (at, _) = found?;
        return Some(json!([guard, { "op": "remove", "path": format!("/status/conditions/{at}") }]));
    };
    let status = if wanted.bound { "True" } else { "False" };
    let mut since = now;
    if let Some((_, known)) = found {
        if known["status"] == status && known["reason"] == wanted.reason && known["message"] == *wanted.message {
            return None;
        }
        if known["status"] == status {
            since = known["lastTransitionTime"].as_str().unwrap_or(now);
        }
    }
    let condition = json!({
        "type": CONDITION,
        "status": status,
        "reason": wanted.reason,
        "message": &*wanted.message,
        "lastTransitionTime": since,
    });
    let change = match (found, conditions, &object["status"]) {
        (Some((at, _)), ..) => {
            json!({ "op": "replace", "path": format!("/status/conditions/{at}"), "value": condition })
        }
        (None, Some(_), _) => json!({ "op": "add", "path": "/status/conditions/-", "value": condition }),
        (None, None, Value::Object(_)) => json!({ "op": "add", "path": "/status/conditions", "value": [condition] }),
        (None, None, _) => json!({ "op": "add", "path": "/status", "value": { "conditions": [condition] } }),
    };
    Some(json!([guard, change]))
}
