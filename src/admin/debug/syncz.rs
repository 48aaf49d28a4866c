//! Who is connected, and how far they are, as istiod's `/debug/syncz`,
//! `/debug/connections` and `/debug/adsz` say it (`pilot/pkg/xds/debug.go`).

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Admin, Arguments, Shown, ask};
use crate::proxy::Scope;
use crate::writer::{Question, RejectedResource};
use crate::xds::resource::ResourceType;
use crate::xds::server::connections::{Status, SyncState, TypeStatus};

/// The names of fields that istiod has for single types.
const SINGLE: [(ResourceType, &str); 4] = [
    (ResourceType::Cluster, "cluster"),
    (ResourceType::Listener, "listener"),
    (ResourceType::Routes, "route"),
    (ResourceType::Endpoints, "endpoint"),
];

/// The streams of proxies. One that has asked for nothing is no proxy's, but that
/// of somebody who looks, as we do.
pub(super) fn proxies(admin: &Admin) -> Vec<Status> {
    let mut statuses = admin.connections.statuses();
    statuses.retain(|status| !status.types.is_empty());
    statuses
}

/// The state in the words of `istioctl proxy-status`.
pub(super) const fn text(state: SyncState) -> &'static str {
    match state {
        SyncState::Synced => "SYNCED",
        SyncState::NotSent => "NOT SENT",
        SyncState::Stale => "STALE",
        SyncState::Error => "ERROR",
    }
}

/// Connected proxies. `SYNCED` means that the newest response was acknowledged.
pub(super) async fn syncz(admin: &Admin, arguments: &Arguments) -> Shown {
    let namespace = arguments.get("namespace").filter(|namespace| !namespace.is_empty());
    let mut statuses = proxies(admin);
    statuses.retain(|status| namespace.is_none_or(|namespace| **namespace == *status.node.namespace));
    let rejected = rejected(admin, &statuses).await?;
    let (revision, now) = (admin.published.views.borrow().revision, Timestamp::now());
    let rows = statuses.iter().zip(rejected).map(|(status, rejected)| {
        let mut row = Map::new();
        row.insert("cluster_id".into(), json!(&*admin.cluster));
        row.insert("proxy".into(), json!(&*status.node.name));
        row.insert("proxy_type".into(), json!(status.node.kind));
        row.insert("istio_version".into(), json!(&*status.node.version));
        for (ty, name) in SINGLE {
            let known = status.types.iter().find(|one| one.progress.ty == ty);
            let numbers = known.map(|one| (one.progress.sent, one.progress.acked)).unwrap_or_default();
            for (what, number) in [("sent", numbers.0), ("acked", numbers.1)] {
                number
                    .into_iter()
                    .for_each(|number| _ = row.insert(format!("{name}_{what}"), json!(number.to_string())));
            }
        }
        let resources = status.types.iter().map(|one| (one.progress.ty.type_url().to_owned(), resource(one)));
        row.insert("resources".into(), Value::Object(resources.collect()));
        // From here on istiod says nothing.
        row.insert("connection".into(), json!(status.connection));
        row.insert("address".into(), json!(status.address));
        row.insert("connected".into(), json!(status.connected.to_string()));
        row.insert("revision".into(), json!(revision));
        row.insert("settled".into(), json!(status.settled));
        let types = status.types.iter().map(|one| (one.progress.ty.label().to_owned(), progress(one, now)));
        row.insert("types".into(), Value::Object(types.collect()));
        row.insert("rejected".into(), json!(rejected));
        Value::Object(row)
    });
    Ok(rows.collect())
}

/// What each of these proxies rejected, and what that comes from.
async fn rejected(admin: &Admin, statuses: &[Status]) -> Result<Vec<Vec<RejectedResource>>, (StatusCode, String)> {
    let is_rejecting = |status: &Status| status.types.iter().any(|one| one.state() == SyncState::Error);
    if !statuses.iter().any(is_rejecting) {
        return Ok(vec![Vec::new(); statuses.len()]);
    }
    let scopes = statuses.iter().map(|status| Scope::of(&status.node)).collect();
    let mut all = ask(admin, |answer| Question::Rejected(scopes, answer)).await?;
    // Others of the scope may have taken what one of them did not.
    for (status, rejected) in statuses.iter().zip(&mut all) {
        let is_of = |ty| status.types.iter().any(|one| one.progress.ty == ty && one.progress.error.is_some());
        rejected.retain(|one| is_of(one.ty));
    }
    Ok(all)
}

fn resource(one: &TypeStatus) -> Value {
    let mut fields = Map::new();
    for (name, number) in [("sent", one.progress.sent), ("acked", one.progress.acked)] {
        number.into_iter().for_each(|number| _ = fields.insert(name.into(), json!(number.to_string())));
    }
    one.sent_at.into_iter().for_each(|at| _ = fields.insert("sentTime".into(), json!(at.to_string())));
    let error = one.progress.error.as_ref();
    error
        .into_iter()
        .for_each(|error| _ = fields.insert("lastError".into(), json!(shown_error(one.progress.ty, error))));
    Value::Object(fields)
}

fn progress(one: &TypeStatus, now: Timestamp) -> Value {
    let mut shown = json!({ "status": text(one.state()), "progress": one });
    if one.progress.error.is_some() {
        let error = one.progress.error.as_deref().unwrap_or_default();
        shown["progress"]["error"] = json!(shown_error(one.progress.ty, error));
    }
    // For how long an answer is owed.
    if let (SyncState::Stale, Some(sent)) = (one.state(), one.sent_at) {
        shown["waiting_seconds"] = json!(now.duration_since(sent).as_secs_f64());
    }
    shown
}

/// Why something was rejected. Of a secret nothing is shown: what is said of it
/// may have parts of it.
pub(super) fn shown_error(ty: ResourceType, error: &str) -> &str {
    if ty == ResourceType::Secret { "a secret was rejected" } else { error }
}

/// The open streams, as briefly as can be.
pub(super) fn connections(admin: &Admin) -> Value {
    let statuses = proxies(admin);
    let clients: Vec<_> = statuses.iter().map(client).map(Value::Object).collect();
    json!({ "totalClients": clients.len(), "clients": clients })
}

/// The open streams with what they ask for.
pub(super) fn adsz(admin: &Admin, arguments: &Arguments) -> Shown {
    let mut statuses = proxies(admin);
    if let Some(wanted) = arguments.get("proxyID") {
        statuses.retain(|status| **wanted == *status.node.name);
        if statuses.is_empty() {
            return Err((StatusCode::NOT_FOUND, super::config_dump::ELSEWHERE.into()));
        }
    }
    let clients: Vec<_> = statuses
        .iter()
        .map(|status| {
            let mut shown = client(status);
            let place = &status.node.place;
            let labels = place.labels.iter().map(|(name, value)| (name.to_string(), json!(&**value)));
            let (region, zone, sub_zone) = (&*place.region, &*place.zone, &*place.subzone);
            shown.insert("labels".into(), Value::Object(labels.collect()));
            shown.insert(
                "metadata".into(),
                json!({ "NAMESPACE": &*status.node.namespace, "ISTIO_VERSION": &*status.node.version }),
            );
            shown.insert("locality".into(), json!({ "region": region, "zone": zone, "sub_zone": sub_zone }));
            let watches = status.types.iter().map(|one| (one.progress.ty.type_url().to_owned(), json!([])));
            shown.insert("watches".into(), Value::Object(watches.collect()));
            Value::Object(shown)
        })
        .collect();
    Ok(json!({ "totalClients": clients.len(), "clients": clients }))
}

fn client(status: &Status) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("connectionId".into(), json!(status.connection));
    shown.insert("connectedAt".into(), json!(status.connected.to_string()));
    shown.insert("address".into(), json!(status.address.map(|address| address.to_string()).unwrap_or_default()));
    shown
}
