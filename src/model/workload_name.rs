//! What telemetry calls a pod: by what made it.

use std::sync::Arc;

use crate::api::Labels;
use crate::api::core::Pod;

/// The name of what made the pod, as telemetry shows it: a Deployment rather
/// than its ReplicaSet, a CronJob rather than its Job.
pub fn workload_name(pod: &Pod) -> Arc<str> {
    let Pod { meta, .. } = pod;
    if let Some(name) = meta.label("service.istio.io/workload-name") {
        return name.into();
    }
    let Some(owner) = meta.controller.as_ref().filter(|_| meta.generated_name) else { return meta.name.clone() };
    let name = match &*owner.kind {
        "ReplicaSet" => ["pod-template-hash", "rollouts-pod-template-hash"]
            .iter()
            .find_map(|label| without_hash(&owner.name, &meta.labels, label))
            .unwrap_or(&owner.name),
        "ReplicationController" => {
            meta.label("deploymentconfig").filter(|name| !name.is_empty()).unwrap_or(&owner.name)
        }
        "Job" => without_schedule(&owner.name),
        _ => &owner.name,
    };
    if name.is_empty() { meta.name.clone() } else { name.into() }
}

/// A ReplicaSet's name without the hash of its pod template.
fn without_hash<'a>(name: &'a str, labels: &Labels, label: &str) -> Option<&'a str> {
    let hash = labels.get(label).filter(|hash| !hash.is_empty())?;
    let stem = name.strip_suffix(hash)?;
    Some(stem.strip_suffix('-').unwrap_or(name))
}

/// A Job's name without the time its CronJob gave it.
fn without_schedule(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((stem, time))
            if !stem.is_empty() && (8..=10).contains(&time.len()) && time.bytes().all(|c| c.is_ascii_digit()) =>
        {
            stem
        }
        _ => name,
    }
}
