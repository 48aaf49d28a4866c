//! Events: what people see below an object in `kubectl describe`.
//! <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>

use jiff::Timestamp;
use rapidhash::v3::rapidhash_v3;
use serde_json::{Value, json};

use super::FIELD_MANAGER;
use super::resource::{self, Manner, Reference, Resource, Write};

/// The longest message of an Event.
const LONGEST: usize = 1024;

/// Something that went wrong with an object.
pub struct Complaint<'a> {
    /// The object.
    pub object: &'a Reference,
    /// The same as the API server has it.
    pub live: &'a Value,
    /// What went wrong, in one word.
    pub reason: &'a str,
    /// What went wrong.
    pub message: &'a str,
}

/// Writes a warning about an object. The same complaint, from whichever
/// replica, is one Event, which counts.
pub async fn write(client: &kube::Client, complaint: &Complaint<'_>, identity: &str) {
    let now = format!("{:.0}", Timestamp::now());
    let name = name(complaint);
    let reference = Reference::new(Resource::Event, &*complaint.object.namespace, &*name);
    let written = async {
        let known = resource::get(client, &reference).await?;
        let body = body(complaint, &name, identity, known.as_ref(), &now);
        let write = Write { object: reference.clone(), manner: Manner::Apply, body };
        resource::write(client, &write, FIELD_MANAGER).await
    };
    if let Err(error) = written.await {
        tracing::warn!(object = %complaint.object, error = error.to_string(), "cannot write an Event");
    }
}

/// The name of the Event of a complaint.
fn name(complaint: &Complaint<'_>) -> String {
    let Complaint { object, live, reason, message } = complaint;
    let uid = live["metadata"]["uid"].as_str().unwrap_or_default();
    let whole = format!("{uid} {object} {reason} {message}");
    format!("{}.{:016x}", object.name, rapidhash_v3(whole.as_bytes()))
}

/// The Event of a complaint, given the one there is.
fn body(complaint: &Complaint<'_>, name: &str, identity: &str, known: Option<&Value>, now: &str) -> Value {
    let Complaint { object, live, reason, message } = complaint;
    let first = known.and_then(|known| known["firstTimestamp"].as_str()).unwrap_or(now);
    let count = known.and_then(|known| known["count"].as_u64()).unwrap_or(0);
    json!({
        "apiVersion": Resource::Event.api_version(),
        "kind": Resource::Event.kind(),
        "metadata": { "name": name, "namespace": object.namespace },
        "involvedObject": {
            "apiVersion": object.resource.api_version(),
            "kind": object.resource.kind(),
            "namespace": object.namespace,
            "name": object.name,
            "uid": live["metadata"]["uid"],
        },
        "type": "Warning",
        "reason": reason,
        "message": &message[..message.floor_char_boundary(LONGEST)],
        "firstTimestamp": first,
        "lastTimestamp": now,
        "count": count + 1,
        "source": { "component": FIELD_MANAGER },
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": identity,
    })
}
