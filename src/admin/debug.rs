//! Debug pages, in JSON. Those that istiod has look as istiod's do, so that
//! istioctl and Kiali can read them; what they say beyond that is more fields.
//!
//! THE table of pages is here. The same pages are served over HTTP and, to those
//! who ask for the type `istio.io/debug`, over xDS ([`over_xds`]).

mod config_dump;
pub mod over_xds;
#[cfg(test)]
mod reference;
mod syncz;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::access::Viewer;
use super::{Admin, ca, render};
use crate::api::{Kind, ObjectKey};
use crate::writer::Question;
use crate::xds::resource::ResourceType;
use crate::xds::view::Layer;

/// One row of the table of pages.
struct Row {
    page: Page,
    /// The last part of the path.
    name: &'static str,
    /// What may follow it.
    query: &'static str,
    /// Whether it is said of single proxies, so that everybody may see it for
    /// those of the own namespace.
    by_namespace: bool,
    /// Whether istiod has it too.
    of_istiod: bool,
    /// What it shows.
    what: &'static str,
}

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Syncz,
    Connections,
    Adsz,
    ConfigDump,
    Edsz,
    Ecdsz,
    Ndsz,
    Resourcesz,
    Clusterz,
    Mesh,
    Cachez,
    Ambientz,
    Diagnosticsz,
    Objectz,
    Provenancez,
    Sourcez,
    Ca,
    Denials,
    Graphz,
    List,
}

/// THE table of pages.
const PAGES: &[Row] = &[
    Row {
        page: Page::Syncz,
        name: "syncz",
        query: "?namespace=NAMESPACE",
        by_namespace: false,
        of_istiod: true,
        what: "The connected proxies: what they were sent of each type, when, what they acknowledged, and what they \
               rejected with the objects that it comes from. `istioctl version` and Kiali read it.",
    },
    Row {
        page: Page::Connections,
        name: "connections",
        query: "",
        by_namespace: false,
        of_istiod: true,
        what: "The open streams: since when, and from where.",
    },
    Row {
        page: Page::Adsz,
        name: "adsz",
        query: "?proxyID=NAME.NAMESPACE",
        by_namespace: false,
        of_istiod: true,
        what: "The open streams with the types that are subscribed to, labels and locality. Nothing is pushed by \
               asking, whatever the query says.",
    },
    Row {
        page: Page::ConfigDump,
        name: "config_dump",
        query: "?proxyID=NAME.NAMESPACE&types=CDS,EDS",
        by_namespace: true,
        of_istiod: true,
        what: "What a proxy is told, in the form of Envoy's `/config_dump`. For a ztunnel that is everything it is \
               told; `types` are the short names of types. Without them `include_eds` adds endpoints. Secrets are \
               never in it.",
    },
    Row {
        page: Page::Edsz,
        name: "edsz",
        query: "?proxyID=NAME.NAMESPACE",
        by_namespace: true,
        of_istiod: true,
        what: "The endpoints that a proxy is told.",
    },
    Row {
        page: Page::Ecdsz,
        name: "ecdsz",
        query: "?proxyID=NAME.NAMESPACE",
        by_namespace: false,
        of_istiod: true,
        what: "The extensions that a proxy is told.",
    },
    Row {
        page: Page::Ndsz,
        name: "ndsz",
        query: "?proxyID=NAME.NAMESPACE",
        by_namespace: true,
        of_istiod: true,
        what: "The names that a proxy's DNS is told: none, as ztunnel knows them from its workloads.",
    },
    Row {
        page: Page::Resourcesz,
        name: "resourcesz",
        query: "",
        by_namespace: false,
        of_istiod: true,
        what: "The kinds of objects that are read.",
    },
    Row {
        page: Page::Clusterz,
        name: "clusterz",
        query: "",
        by_namespace: false,
        of_istiod: true,
        what: "The clusters that endpoints are read from.",
    },
    Row {
        page: Page::Mesh,
        name: "mesh",
        query: "",
        by_namespace: false,
        of_istiod: true,
        what: "The mesh configuration in force: what was said, and the defaults of what is read here.",
    },
    Row {
        page: Page::Cachez,
        name: "cachez",
        query: "",
        by_namespace: false,
        of_istiod: true,
        what: "Nothing: there is no cache, as each resource is encoded once.",
    },
    Row {
        page: Page::Ambientz,
        name: "ambientz",
        query: "",
        by_namespace: false,
        of_istiod: true,
        what: "Workloads, services and policies as ztunnels get them.",
    },
    Row {
        page: Page::Diagnosticsz,
        name: "diagnosticsz",
        query: "",
        by_namespace: false,
        of_istiod: false,
        what: "Objects with something that cannot be honoured: the field, the reason, and what was rejected.",
    },
    Row {
        page: Page::Objectz,
        name: "objectz",
        query: "?kind=KIND&namespace=NAMESPACE&name=NAME",
        by_namespace: false,
        of_istiod: false,
        what: "Which generation of an object is in force, and as of which revision; `fairway wait` reads it.",
    },
    Row {
        page: Page::Provenancez,
        name: "provenancez",
        query: "?type=Address&name=NAME",
        by_namespace: false,
        of_istiod: false,
        what: "The objects that a resource is made of.",
    },
    Row {
        page: Page::Sourcez,
        name: "sourcez",
        query: "",
        by_namespace: false,
        of_istiod: false,
        what: "What cannot be read at the moment.",
    },
    Row {
        page: Page::Ca,
        name: "ca",
        query: "",
        by_namespace: false,
        of_istiod: false,
        what: "What signs, which roots are told, the step of a change of the root, and which workloads hold \
               certificates of old issuers.",
    },
    Row {
        page: Page::Denials,
        name: "ca/denials",
        query: "?id=ID",
        by_namespace: false,
        of_istiod: false,
        what: "Who was refused a certificate, and why; the id is what the caller was told.",
    },
    Row {
        page: Page::Graphz,
        name: "graphz",
        query: "",
        by_namespace: false,
        of_istiod: false,
        what: "How much there is of what: rows, how often they were worked out, and what that took.",
    },
    Row {
        page: Page::List,
        name: "list",
        query: "",
        by_namespace: false,
        of_istiod: true,
        what: "The names of the pages; `istioctl x internal-debug --list` reads it.",
    },
];

/// What a page says: JSON, or why there is none.
pub(super) type Shown = Result<Value, (StatusCode, String)>;

/// What follows the question mark.
pub(super) type Arguments = BTreeMap<String, String>;

pub(super) fn pages() -> Router<Admin> {
    Router::new().route("/debug", get(index)).route("/debug/", get(index)).route("/debug/{*page}", get(over_http))
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
        Page::Cachez => Ok(json!({})),
        Page::Ambientz => ambientz(admin).await,
        Page::Diagnosticsz => diagnosticsz(admin).await,
        Page::Objectz => objectz(admin, arguments).await,
        Page::Provenancez => provenancez(admin, arguments).await,
        Page::Sourcez => Ok(json!({ "problems": admin.problems.list() })),
        Page::Ca => ca::authority(admin),
        Page::Denials => Ok(ca::denials(admin, arguments)),
        Page::Graphz => Ok(graphz(admin)),
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

async fn ambientz(admin: &Admin) -> Shown {
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
    dump.await.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn diagnosticsz(admin: &Admin) -> Shown {
    let (answer, answered) = oneshot::channel();
    let diagnostics = ask(admin, Question::Diagnostics(answer), answered).await?;
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

async fn objectz(admin: &Admin, arguments: &Arguments) -> Shown {
    let wanted = argument(arguments, "kind")?;
    let key = ObjectKey::new(arguments.get("namespace").map_or("", String::as_str), argument(arguments, "name")?);
    let named = |kind: &&Kind| kind.info().subject == wanted;
    let Some(kind) = Kind::ALL.iter().find(named) else {
        let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.info().subject).collect();
        return Err((StatusCode::BAD_REQUEST, format!("kind: one of {}", known.join(", "))));
    };
    let (answer, answered) = oneshot::channel();
    let found = ask(admin, Question::Object(*kind, key, answer), answered).await?;
    Ok(json!({
        "found": found.meta.is_some(),
        "generation": found.meta.as_ref().map(|meta| meta.generation.end()),
        "revision": found.revision,
    }))
}

async fn provenancez(admin: &Admin, arguments: &Arguments) -> Shown {
    let (ty, name) = (argument(arguments, "type")?, argument(arguments, "name")?);
    let Some(ty) = ResourceType::ALL.into_iter().find(|known| known.label() == ty) else {
        let known: Vec<_> = ResourceType::ALL.iter().map(|ty| ty.label()).collect();
        return Err((StatusCode::BAD_REQUEST, format!("type: one of {}", known.join(", "))));
    };
    let (answer, answered) = oneshot::channel();
    match ask(admin, Question::Provenance(ty, name.into(), answer), answered).await? {
        Some(provenance) => Ok(json!({"origins": provenance.origins, "reads": provenance.reads})),
        None => Err((StatusCode::NOT_FOUND, "no such resource".into())),
    }
}

fn graphz(admin: &Admin) -> Value {
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

/// An argument that there is nothing to show without.
fn argument<'a>(arguments: &'a Arguments, name: &str) -> Result<&'a str, (StatusCode, String)> {
    arguments.get(name).map(String::as_str).ok_or_else(|| (StatusCode::BAD_REQUEST, format!("{name} is missing")))
}

/// Asks the graph.
async fn ask<T>(admin: &Admin, question: Question, answered: oneshot::Receiver<T>) -> Result<T, (StatusCode, String)> {
    let sent = admin.questions.send(question).await.is_ok();
    match answered.await {
        Ok(answer) if sent => Ok(answer),
        _ => Err((StatusCode::SERVICE_UNAVAILABLE, "shutting down".into())),
    }
}
