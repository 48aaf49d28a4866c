//! Debug pages, in JSON. Those that istiod has look as istiod's do, so that
//! istioctl and Kiali can read them; what they say beyond that is more fields.
//!
//! THE table of pages is in `pages.rs`. The same pages are served over HTTP and, to
//! those who ask for the type `istio.io/debug`, over xDS ([`over_xds`]).

mod config_dump;
mod configuration;
mod graph;
pub mod over_xds;
mod pages;
#[cfg(test)]
mod reference;
mod registry;
mod syncz;
#[cfg(test)]
pub(super) mod tests;
mod told;

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::access::Viewer;
use super::{Admin, ca};
use crate::api::Kind;
use crate::writer::Question;
use pages::{PAGES, Page, Row};

/// What a page says: JSON, or why there is none.
pub(super) type Shown = Result<Value, (StatusCode, String)>;

/// What follows the question mark.
pub(super) type Arguments = BTreeMap<String, String>;

pub(super) fn pages() -> Router<Admin> {
    Router::new().route("/debug", get(index)).route("/debug/", get(index)).route("/debug/{*page}", get(over_http))
}

/// The names of all pages.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PAGES.iter().map(|row| row.name)
}

async fn index() -> String {
    let line = |row: &Row| {
        let origin = if row.of_istiod { "" } else { " (not in istiod)" };
        format!("{:<45} {}{origin}\n", format!("/debug/{}{}", row.name, row.query), row.what)
    };
    PAGES.iter().map(line).collect()
}

async fn over_http(
    State(admin): State<Admin>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
    uri: Uri,
) -> Response {
    let arguments = arguments(&uri);
    match show(&admin, &viewer, &name, &arguments).await {
        Ok(value) => {
            let pretty = arguments.contains_key("pretty");
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            ([(header::CONTENT_TYPE, "application/json")], text.unwrap_or_default()).into_response()
        }
        Err((status, reason)) => (status, format!("{reason}\n")).into_response(),
    }
}

/// What follows the question mark of a path; nothing if that cannot be read.
fn arguments(uri: &Uri) -> Arguments {
    Query::try_from_uri(uri).map(|Query(arguments)| arguments).unwrap_or_default()
}

/// What the page of a name says to somebody.
pub(super) async fn show(admin: &Admin, viewer: &Viewer, name: &str, arguments: &Arguments) -> Shown {
    let Some(row) = PAGES.iter().find(|row| row.name == name) else {
        // The words by which istioctl knows that there is no such page.
        let known: Vec<_> = PAGES.iter().map(|row| row.name).collect();
        return Err((StatusCode::NOT_FOUND, format!("404 page not found; there are {}", known.join(", "))));
    };
    if *viewer != Viewer::Everything && !row.by_namespace {
        return Err((StatusCode::FORBIDDEN, format!("{name} is for accounts of the control plane's namespace")));
    }
    match row.page {
        Page::Syncz => syncz::syncz(admin, arguments).await,
        Page::Connections => Ok(syncz::connections(admin)),
        Page::Adsz => syncz::adsz(admin, arguments),
        Page::ConfigDump => config_dump::show(admin, viewer, arguments, None).await,
        Page::Edsz => config_dump::show(admin, viewer, arguments, Some("EDS")).await,
        Page::Ecdsz => config_dump::show(admin, viewer, arguments, Some("ECDS")).await,
        Page::Ndsz => config_dump::show(admin, viewer, arguments, Some("NDS")).await,
        Page::Resourcesz => Ok(resourcesz()),
        Page::Clusterz => Ok(json!([{ "id": &*admin.cluster, "secretName": "", "syncStatus": "synced" }])),
        Page::Mesh => Ok(admin.published.mesh.borrow().effective()),
        Page::Cachez => told::cachez(admin, arguments).await,
        Page::Ambientz => told::ambientz(admin).await,
        Page::Registryz => registry::registryz(admin).await,
        Page::EndpointShardz => registry::endpoint_shards(admin).await,
        Page::Instancesz => registry::instancesz(admin).await,
        Page::Networkz => registry::networkz(admin).await,
        Page::Mcsz => Ok(json!([])),
        Page::Sidecarz => registry::sidecarz(admin, viewer, arguments).await,
        Page::Configz => configuration::configz(admin, arguments).await,
        Page::Authorizationz => configuration::authorizationz(admin).await,
        Page::Telemetryz => configuration::telemetryz(admin).await,
        Page::Inject => Ok(json!({})),
        Page::PushStatus => graph::push_status(admin).await,
        Page::PushContext => configuration::pushcontext(admin).await,
        Page::Krtz => graph::krtz(admin, arguments).await,
        Page::Diagnosticsz => graph::diagnosticsz(admin).await,
        Page::Objectz => graph::objectz(admin, arguments).await,
        Page::Provenancez => graph::provenancez(admin, arguments).await,
        Page::Sourcez => Ok(json!({ "problems": admin.problems.list() })),
        Page::Ca => ca::authority(admin),
        Page::Denials => Ok(ca::denials(admin, arguments)),
        Page::Graphz => Ok(graph::graphz(admin)),
        Page::List => {
            let mut names: Vec<_> = PAGES.iter().map(|row| row.name).filter(|name| *name != "list").collect();
            names.sort_unstable();
            Ok(json!(names))
        }
    }
}

fn resourcesz() -> Value {
    let kinds = Kind::ALL.iter().map(|kind| kind.info());
    kinds.map(|info| json!({ "group": info.group, "version": info.versions[0], "kind": info.kind })).collect()
}

/// An argument that there is nothing to show without.
fn argument<'a>(arguments: &'a Arguments, name: &str) -> Result<&'a str, (StatusCode, String)> {
    arguments.get(name).map(String::as_str).ok_or_else(|| (StatusCode::BAD_REQUEST, format!("{name} is missing")))
}

/// Asks the graph a question that takes a place for the answer.
async fn ask<T>(
    admin: &Admin,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Result<T, (StatusCode, String)> {
    let (answer, answered) = oneshot::channel();
    let sent = admin.questions.send(question(answer)).await.is_ok();
    match answered.await {
        Ok(answer) if sent => Ok(answer),
        _ => Err((StatusCode::SERVICE_UNAVAILABLE, "shutting down".into())),
    }
}

/// Does what takes a while for a large mesh, such as decoding all of it, where
/// nobody else waits.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, (StatusCode, String)> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}
