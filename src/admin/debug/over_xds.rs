//! Debug pages over xDS, as istioctl asks for them: `istio.io/debug/syncz` is the
//! state of all proxies as Envoy's client status (`proxy-status`, `version`),
//! `istio.io/debug/config_dump` what one is told (`proxy-status POD`), and
//! `istio.io/debug` with the name of a page that page (`x internal-debug`).
//! `pilot/pkg/xds/statusgen.go` and `debuggen.go` say how istiod answers.

use std::collections::HashMap;

use axum::http::{StatusCode, Uri};
use envoy_types::pb::envoy::admin::v3::UpdateFailureState;
use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use envoy_types::pb::envoy::service::status::v3::{ClientConfig, ConfigStatus};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, Struct, Timestamp, Value};
use futures::future::{BoxFuture, FutureExt};
use prost::Message;
use tonic::Status as Refusal;

use super::{Admin, Viewer, arguments, config_dump, show, syncz};
use crate::xds::server::connections::{Status, SyncState, TypeStatus};
use crate::xds::server::inquiry::{Answers, DEBUG, Inquiry, Told};

impl Answers for Admin {
    fn answer(&self, inquiry: Inquiry) -> BoxFuture<'static, Result<Vec<Told>, Refusal>> {
        let admin = self.clone();
        async move { answer(&admin, &inquiry).await }.boxed()
    }
}

async fn answer(admin: &Admin, inquiry: &Inquiry) -> Result<Vec<Told>, Refusal> {
    let Some(viewer) = Viewer::of(&inquiry.caller, &admin.system_namespaces()) else {
        return Err(Refusal::permission_denied("the caller has identities of several namespaces"));
    };
    let name = || match &inquiry.names[..] {
        [name] => Ok(name),
        _ => Err(Refusal::invalid_argument("exactly one debug request is required")),
    };
    match inquiry.type_url.strip_prefix(DEBUG).unwrap_or_default() {
        "/syncz" => {
            let mut statuses = syncz::proxies(admin);
            statuses.retain(|status| viewer.sees(&status.node.namespace));
            Ok(statuses.iter().map(|status| client_config(&admin.cluster, status)).collect())
        }
        "/config_dump" => match config_dump::dump(admin, &viewer, name()?) {
            Some((views, status)) => {
                let told = |message| Told { name: String::new(), message };
                let dump = tokio::task::spawn_blocking(move || config_dump::configs(&views, &status, false));
                let dump = dump.await.map_err(|error| Refusal::internal(error.to_string()))?;
                Ok(dump.into_iter().map(told).collect())
            }
            // istioctl asks the next replica if there is nothing.
            None => Ok(Vec::new()),
        },
        "" => page(admin, &viewer, name()?).await.map(|told| vec![told]),
        _ => Ok(Vec::new()),
    }
}

/// A page by its name, with what may follow it. What it says is not a message but
/// JSON, and so are istiod's.
async fn page(admin: &Admin, viewer: &Viewer, name: &str) -> Result<Told, Refusal> {
    let uri: Uri = format!("/debug/{name}").parse().map_err(|_| Refusal::invalid_argument("no name of a page"))?;
    let page = uri.path().strip_prefix("/debug/").unwrap_or_default();
    let text = match show(admin, viewer, page, &arguments(&uri)).await {
        Ok(value) => serde_json::to_vec(&value).map_err(|error| Refusal::internal(error.to_string()))?,
        Err((StatusCode::FORBIDDEN, reason)) => return Err(Refusal::permission_denied(reason)),
        Err((_, reason)) => reason.into_bytes(),
    };
    Ok(Told { name: name.to_owned(), message: Any { type_url: DEBUG.into(), value: text } })
}

/// A proxy as Envoy's client status service would say it.
fn client_config(cluster: &str, status: &Status) -> Told {
    let texts =
        [("CLUSTER_ID", cluster), ("NAMESPACE", &*status.node.namespace), ("ISTIO_VERSION", &*status.node.version)];
    let text = |(key, text): (&str, &str)| (key.to_owned(), Value { kind: Some(Kind::StringValue(text.to_owned())) });
    let node = WireNode {
        id: status.node.name.to_string(),
        metadata: Some(Struct { fields: texts.into_iter().map(text).collect::<HashMap<_, _>>() }),
        ..Default::default()
    };
    let mut types: Vec<_> = status.types.iter().map(generic).collect();
    types.sort_by(|a, b| a.type_url.cmp(&b.type_url));
    let config = ClientConfig { node: Some(node), generic_xds_configs: types, ..Default::default() };
    let type_url = "type.googleapis.com/envoy.service.status.v3.ClientConfig".to_owned();
    Told { name: status.node.name.to_string(), message: Any { type_url, value: config.encode_to_vec() } }
}

fn generic(one: &TypeStatus) -> GenericXdsConfig {
    let state = match one.state() {
        SyncState::Synced => ConfigStatus::Synced,
        SyncState::NotSent => ConfigStatus::NotSent,
        SyncState::Stale => ConfigStatus::Stale,
        SyncState::Error => ConfigStatus::Error,
    };
    let sent = one.sent_at.map(|at| Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() });
    let error = one.progress.error.as_deref().map(|error| UpdateFailureState {
        last_update_attempt: sent,
        details: syncz::shown_error(one.progress.ty, error).to_owned(),
        ..Default::default()
    });
    GenericXdsConfig {
        type_url: one.progress.ty.type_url().to_owned(),
        config_status: state.into(),
        last_updated: sent,
        error_state: error,
        ..Default::default()
    }
}
