//! What the graph holds, says and has cost.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Admin, Arguments, Shown, argument, ask};
use crate::api::{Kind, ObjectKey};
use crate::writer::Question;
use crate::xds::resource::ResourceType;

pub(super) async fn diagnosticsz(admin: &Admin) -> Shown {
    let diagnostics = ask(admin, Question::Diagnostics).await?;
    let rows = diagnostics.iter().map(|one| {
        json!({
            "kind": one.subject.kind,
            "namespace": &*one.subject.namespace,
            "name": &*one.subject.name,
            "field": one.field,
            "severity": format!("{:?}", one.severity),
            "reason": one.reason,
            "message": one.message,
        })
    });
    Ok(rows.collect())
}

/// The same by reason, as istiod counts what went wrong with the last push.
pub(super) async fn push_status(admin: &Admin) -> Shown {
    let mut reasons: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for one in ask(admin, Question::Diagnostics).await? {
        let place = format!("{} {}", one.subject, one.field);
        reasons.entry(one.reason.to_string()).or_default().insert(place, json!({ "message": one.message }));
    }
    Ok(json!(reasons))
}

pub(super) async fn objectz(admin: &Admin, arguments: &Arguments) -> Shown {
    let wanted = argument(arguments, "kind")?;
    let key = ObjectKey::new(arguments.get("namespace").map_or("", String::as_str), argument(arguments, "name")?);
    let named = |kind: &&Kind| kind.info().subject == wanted;
    let Some(kind) = Kind::ALL.iter().find(named) else {
        let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.info().subject).collect();
        return Err((StatusCode::BAD_REQUEST, format!("kind: one of {}", known.join(", "))));
    };
    let found = ask(admin, |answer| Question::Object(*kind, key, answer)).await?;
    Ok(json!({
        "found": found.meta.is_some(),
        "generation": found.meta.as_ref().map(|meta| meta.generation.end()),
        "revision": found.revision,
    }))
}

pub(super) async fn provenancez(admin: &Admin, arguments: &Arguments) -> Shown {
    let (ty, name) = (argument(arguments, "type")?, argument(arguments, "name")?);
    let Some(ty) = ResourceType::ALL.into_iter().find(|known| known.label() == ty) else {
        let known: Vec<_> = ResourceType::ALL.iter().map(|ty| ty.label()).collect();
        return Err((StatusCode::BAD_REQUEST, format!("type: one of {}", known.join(", "))));
    };
    match ask(admin, |answer| Question::Provenance(ty, name.into(), answer)).await? {
        Some(provenance) => Ok(json!({"origins": provenance.origins, "reads": provenance.reads})),
        None => Err((StatusCode::NOT_FOUND, "no such resource".into())),
    }
}

pub(super) fn graphz(admin: &Admin) -> Value {
    let stats = admin.published.stats.load_full();
    let rows = stats.iter().map(|one| {
        json!({
            "collection": one.name,
            "rows": one.rows,
            "rows_recomputed": one.recomputed,
            "panics": one.panics,
            "commit_seconds": one.commit.as_secs_f64(),
        })
    });
    rows.collect()
}

/// How many rows are shown at once.
const MOST: usize = 1000;

/// Collections in the shape of istiod's krt, or rows of one of them.
pub(super) async fn krtz(admin: &Admin, arguments: &Arguments) -> Shown {
    let Some(name) = arguments.get("collection") else {
        let stats = admin.published.stats.load_full();
        let shown = stats.iter().enumerate();
        let shown = shown.map(|(at, one)| krt(one.name, at, json!({ "synced": true, "rows": one.rows })));
        return Ok(shown.collect());
    };
    let at = admin.published.stats.load().iter().position(|one| one.name == name);
    let key = arguments.get("key").cloned();
    let dump = ask(admin, |answer| Question::Rows(name.clone(), key, MOST, answer)).await?;
    let (Some(dump), Some(at)) = (dump, at) else {
        return Err((StatusCode::NOT_FOUND, format!("no such collection; `krtz` alone names all: {name:?}")));
    };
    let outputs: Map<String, Value> = dump.shown.iter().map(|row| (row.key.clone(), json!(row.row))).collect();
    let mut state = json!({ "synced": true, "rows": dump.rows, "outputs": outputs });
    let explained = dump.shown.iter().filter_map(|row| Some((row, row.provenance.as_ref()?)));
    for (row, provenance) in explained {
        let inputs = provenance.origins.iter().map(|(collection, key)| {
            let dependencies: Vec<_> = provenance.reads.iter().map(|(from, key)| format!("{from} {key}")).collect();
            (format!("{collection} {key}"), json!({ "outputs": [row.key], "dependencies": dependencies }))
        });
        state["inputs"] = Value::Object(inputs.collect());
    }
    Ok(json!([krt(name, at, state)]))
}

fn krt(name: &str, number: usize, state: Value) -> Value {
    json!({ "name": name, "uid": number, "state": state })
}
