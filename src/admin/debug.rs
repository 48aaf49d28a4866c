//! Debug pages, in JSON.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Admin, render};
use crate::writer::Question;
use crate::xds::resource::ResourceType;
use crate::xds::view::Layer;

/// The pages, by path and what they show.
const INDEX: &[(&str, &str)] = &[
    ("/debug/syncz", "connected proxies and what they have acknowledged"),
    ("/debug/ambientz", "workloads, services and policies as ztunnels get them"),
    ("/debug/diagnosticsz", "objects with problems: object, field, reason"),
    ("/debug/sourcez", "what cannot be read at the moment"),
    ("/debug/graphz", "collections: rows, recomputations, commit time"),
    ("/debug/provenancez?type=Address&name=NAME", "the objects a resource comes from"),
];

pub(super) fn pages() -> Router<Admin> {
    Router::new()
        .route("/debug", get(index))
        .route("/debug/", get(index))
        .route("/debug/syncz", get(syncz))
        .route("/debug/ambientz", get(ambientz))
        .route("/debug/diagnosticsz", get(diagnosticsz))
        .route("/debug/sourcez", get(sourcez))
        .route("/debug/graphz", get(graphz))
        .route("/debug/provenancez", get(provenancez))
}

async fn index() -> String {
    INDEX.iter().map(|(path, what)| format!("{path:<45} {what}\n")).collect()
}

/// Connected proxies. `SYNCED` means that the newest state was acknowledged.
async fn syncz(State(admin): State<Admin>) -> Json<Value> {
    let statuses = admin.connections.statuses();
    let rows = statuses.iter().map(|status| {
        let types = status.types.iter().map(|one| {
            let state = match (&one.error, &one.sent, &one.acked) {
                (Some(_), _, _) => "ERROR",
                (None, None, _) => "NOT SENT",
                (None, Some(sent), Some(acked)) if sent == acked => "SYNCED",
                (None, Some(_), _) => "STALE",
            };
            (one.ty.label().to_string(), json!({"status": state, "progress": one}))
        });
        json!({
            "cluster_id": &*admin.cluster,
            "proxy": &*status.node.name,
            "proxy_type": status.node.kind,
            "istio_version": &*status.node.version,
            "connection": status.connection,
            "address": status.address,
            "connected": status.connected.to_string(),
            "types": types.collect::<serde_json::Map<_, _>>(),
        })
    });
    Json(rows.collect())
}

async fn ambientz(State(admin): State<Admin>) -> Response {
    let views = admin.published.views.borrow().clone();
    // Decoding a large mesh takes a while.
    let dump = tokio::task::spawn_blocking(move || {
        let all = |ty, layer: &Layer| -> Vec<Value> {
            let mut resources: Vec<_> = layer.iter().collect();
            resources.sort_by(|a, b| a.name().cmp(b.name()));
            resources.iter().map(|one| render::resource(ty, one)).collect()
        };
        let addresses = all(ResourceType::Address, &views.addresses);
        let of = |kind: &str| -> Vec<Value> { addresses.iter().filter_map(|one| one.get(kind)).cloned().collect() };
        let policies = all(ResourceType::Authorization, &views.authorizations);
        json!({"revision": views.revision, "workloads": of("workload"), "services": of("service"), "policies": policies})
    });
    match dump.await {
        Ok(dump) => Json(dump).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn diagnosticsz(State(admin): State<Admin>) -> Response {
    let (answer, answered) = oneshot::channel();
    ask(&admin, Question::Diagnostics(answer), answered, |diagnostics| {
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
        Json(rows.collect::<Value>()).into_response()
    })
    .await
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(rename = "type")]
    ty: String,
    name: String,
}

async fn provenancez(State(admin): State<Admin>, Query(wanted): Query<Wanted>) -> Response {
    let Some(ty) = ResourceType::ALL.into_iter().find(|ty| ty.label() == wanted.ty) else {
        let known: Vec<_> = ResourceType::ALL.iter().map(|ty| ty.label()).collect();
        return (StatusCode::BAD_REQUEST, format!("type: one of {}\n", known.join(", "))).into_response();
    };
    let (answer, answered) = oneshot::channel();
    ask(&admin, Question::Provenance(ty, wanted.name.into(), answer), answered, |provenance| match provenance {
        Some(provenance) => Json(json!({"origins": provenance.origins, "reads": provenance.reads})).into_response(),
        None => (StatusCode::NOT_FOUND, "no such resource\n").into_response(),
    })
    .await
}

async fn ask<T>(
    admin: &Admin,
    question: Question,
    answered: oneshot::Receiver<T>,
    show: impl FnOnce(T) -> Response,
) -> Response {
    let sent = admin.questions.send(question).await.is_ok();
    match answered.await {
        Ok(answer) if sent => show(answer),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response(),
    }
}

async fn sourcez(State(admin): State<Admin>) -> Json<Value> {
    Json(json!({"problems": admin.problems.list()}))
}

async fn graphz(State(admin): State<Admin>) -> Json<Value> {
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
    Json(rows.collect())
}
