//! Objects as they were written, each with whether it is what is in force. Of an
//! object nothing is kept but what is read, so the whole is looked up where it is.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Admin, Arguments, Shown, aside, ask, registry};
use crate::api::{Kind, Object, ObjectKey};
use crate::source::originals::{Original, Unavailable};
use crate::writer::Question;

/// An object as it is shown, under its kind and name.
type Row = ((Kind, ObjectKey), Value);

/// All configuration, or that of one kind, or of one namespace.
pub(super) async fn configz(admin: &Admin, arguments: &Arguments) -> Shown {
    // What Kubernetes itself has is no configuration of a mesh, and large.
    let mut kinds: Vec<_> = Kind::ALL.iter().copied().filter(|kind| !kind.info().builtin).collect();
    if let Some(wanted) = arguments.get("kind") {
        // Of Secrets nothing is shown.
        let known = || Kind::ALL.iter().filter(|kind| !kind.info().by_name);
        kinds = known().copied().filter(|kind| kind.info().subject.eq_ignore_ascii_case(wanted)).collect();
        if kinds.is_empty() {
            let known: Vec<_> = known().map(|kind| kind.info().subject).collect();
            return Err((StatusCode::BAD_REQUEST, format!("kind: one of {}", known.join(", "))));
        }
    }
    let namespace = arguments.get("namespace").filter(|namespace| !namespace.is_empty());
    let mut rows = written(admin, kinds).await?;
    rows.retain(|((_, key), _)| namespace.is_none_or(|namespace| **namespace == *key.namespace));
    Ok(rows.into_iter().map(|(_, shown)| shown).collect())
}

/// Policies about who may do what, by namespace.
pub(super) async fn authorizationz(admin: &Admin) -> Shown {
    Ok(json!({ "authorization_policies": policies(admin).await? }))
}

async fn policies(admin: &Admin) -> Shown {
    by_namespace(admin, Kind::AuthorizationPolicy, "namespace_to_policies").await
}

/// What is said about telemetry, by namespace.
pub(super) async fn telemetryz(admin: &Admin) -> Shown {
    Ok(json!({ "telemetries": by_namespace(admin, Kind::Telemetry, "namespace_to_telemetries").await? }))
}

/// What all proxies have in common.
pub(super) async fn pushcontext(admin: &Admin) -> Shown {
    let registry = registry::registry(admin).await?;
    Ok(json!({
        "AuthorizationPolicies": policies(admin).await?,
        "NetworkGateways": registry::network_gateways(admin, &registry, registry::is_resolved),
        "UnresolvedGateways": registry::network_gateways(admin, &registry, |address| !registry::is_resolved(address)),
    }))
}

async fn by_namespace(admin: &Admin, kind: Kind, name: &str) -> Shown {
    let mut namespaces: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for ((_, key), object) in written(admin, vec![kind]).await? {
        let mut shown = json!({ "name": &*key.name, "namespace": &*key.namespace });
        shown["annotations"] = object["metadata"]["annotations"].clone();
        for field in ["spec", IN_FORCE, PROBLEM] {
            object.get(field).into_iter().for_each(|value| shown[field] = value.clone());
        }
        namespaces.entry(key.namespace.to_string()).or_default().push(shown);
    }
    let root = admin.published.mesh.borrow().root_namespace.clone();
    Ok(json!({ name: namespaces, "root_namespace": &*root }))
}

/// Whether what is shown is what is in force.
const IN_FORCE: &str = "inForce";
/// Why it is not.
const PROBLEM: &str = "problem";

/// The objects of some kinds, sorted. Where they are may be out of reach; then
/// there are the names of those in force.
async fn written(admin: &Admin, kinds: Vec<Kind>) -> Result<Vec<Row>, (StatusCode, String)> {
    // In this order: what is written meanwhile is not in force yet.
    let in_force = ask(admin, |answer| Question::Objects(kinds.clone(), answer)).await?;
    let originals = admin.originals.of(&kinds).await;
    aside(move || rows(originals, in_force)).await
}

fn rows(originals: Result<Vec<Original>, Unavailable>, in_force: Vec<Object>) -> Vec<Row> {
    let mut in_force: BTreeMap<_, _> =
        in_force.into_iter().map(|object| ((object.kind(), object.meta().key()), object)).collect();
    let (originals, unavailable) = match originals {
        Ok(originals) => (originals, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let mut rows = Vec::with_capacity(originals.len());
    for Original { kind, key, mut written, read } in originals {
        let known = in_force.remove(&(kind, key.clone()));
        if let Some(metadata) = written.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("managedFields");
        }
        let (same, problem) = match (&read, &known) {
            (Ok(read), Some(known)) if read == known => (true, None),
            (Ok(_), Some(_)) => (false, Some("another version of it is in force".to_owned())),
            (Ok(_), None) => (false, Some("nothing of it is in force yet".to_owned())),
            (Err(error), Some(_)) => (false, Some(format!("{error}; the last version that could be read is in force"))),
            (Err(error), None) => (false, Some(error.to_string())),
        };
        mark(&mut written, same, problem);
        rows.push(((kind, key), written));
    }
    for ((kind, key), _) in in_force {
        let metadata = json!({ "name": &*key.name, "namespace": &*key.namespace });
        let (version, name) = (kind.info().api_version(), kind.info().kind);
        let mut shown = json!({ "apiVersion": version, "kind": name, "metadata": metadata });
        let problem = unavailable.clone().unwrap_or_else(|| "it is not there any more".into());
        mark(&mut shown, unavailable.is_some(), Some(problem));
        rows.push(((kind, key), shown));
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

fn mark(shown: &mut Value, in_force: bool, problem: Option<String>) {
    let fields: Option<&mut Map<String, Value>> = shown.as_object_mut();
    if let Some(fields) = fields {
        fields.insert(IN_FORCE.into(), json!(in_force));
        problem.into_iter().for_each(|problem| _ = fields.insert(PROBLEM.into(), json!(problem)));
    }
}
