//! What a proxy is told, as the message that Envoy's `/config_dump` answers with
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-v3/admin/v3/config_dump.proto>),
//! so that both can be compared.
//!
//! It is made from the view that streams are served from: this is what is sent,
//! not what would be. Secrets are in no view, hence never in here.

use std::sync::Arc;

use axum::http::StatusCode;
use envoy_types::pb::envoy::admin::v3 as wire;
use envoy_types::pb::google::protobuf::Any;
use fairway_proto::describe;
use prost::Message;
use serde_json::Value;

use super::syncz;
use super::{Admin, Arguments, Shown, Viewer, aside};
use crate::proxy::{NodeKind, Scope};
use crate::xds::resource::ResourceType;
use crate::xds::server::connections::Status;
use crate::xds::view::Views;
use wire::clusters_config_dump::DynamicCluster;
use wire::endpoints_config_dump::DynamicEndpointConfig;
use wire::listeners_config_dump::{DynamicListener, DynamicListenerState};
use wire::routes_config_dump::DynamicRouteConfig;

/// What istiod says of proxies it does not know, by which istioctl knows that it
/// has to ask another replica.
pub(super) const ELSEWHERE: &str =
    "Proxy not connected to this Pilot instance. It may be connected to another instance.";

/// The page, of all types or of one.
pub(super) async fn show(admin: &Admin, viewer: &Viewer, arguments: &Arguments, only: Option<&str>) -> Shown {
    let status = asked(admin, viewer, arguments)?;
    let views = admin.published.views.borrow().clone();
    let types = only.or(arguments.get("types").map(String::as_str)).filter(|types| !types.is_empty());
    let types = types.map(|types| types.split(',').map(|one| one.trim().to_owned()).collect::<Vec<_>>());
    let endpoints = arguments.contains_key("include_eds");
    let dump = aside(move || {
        let configs = match types {
            Some(types) => of_types(&views, &status, |ty| types.iter().any(|name| is_called(ty, name))),
            None => configs(&views, &status, endpoints),
        };
        let dump = wire::ConfigDump { configs };
        describe::to_json("envoy.admin.v3.ConfigDump", &dump.encode_to_vec())
    });
    let mut dump = dump.await?.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    if dump.get("configs").is_none() {
        dump["configs"] = Value::Array(Vec::new());
    }
    Ok(dump)
}

/// The proxy that is asked about, or what to say instead of a page about it.
pub(super) fn asked(admin: &Admin, viewer: &Viewer, arguments: &Arguments) -> Result<Status, (StatusCode, String)> {
    let id = arguments.get("proxyID").filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| (StatusCode::BAD_REQUEST, "You must provide a proxyID in the query string".into()))?;
    find(admin, viewer, id).ok_or_else(|| (StatusCode::NOT_FOUND, ELSEWHERE.into()))
}

/// The newest stream of a proxy, if somebody may see it.
pub(super) fn find(admin: &Admin, viewer: &Viewer, id: &str) -> Option<Status> {
    let of_it = syncz::proxies(admin).into_iter().filter(|status| *status.node.name == *id);
    of_it.filter(|status| viewer.sees(&status.node.namespace)).max_by_key(|status| status.connected)
}

/// Whether a type is called that, by its short name here or that in istiod.
fn is_called(ty: ResourceType, name: &str) -> bool {
    let here = ty.label().eq_ignore_ascii_case(name);
    here || match ty {
        ResourceType::Address | ResourceType::Workload => name.eq_ignore_ascii_case("WDS"),
        ResourceType::Authorization => name.eq_ignore_ascii_case("WADS"),
        _ => false,
    }
}

/// Everything that a proxy is told.
pub(super) fn configs(views: &Views, status: &Status, endpoints: bool) -> Vec<Any> {
    if status.node.kind == NodeKind::Ztunnel {
        return of_types(views, status, |ty| matches!(ty, ResourceType::Address | ResourceType::Authorization));
    }
    let of = |ty| told(views, status, ty);
    let version = views.revision.to_string();
    let clusters = wire::ClustersConfigDump {
        version_info: version.clone(),
        dynamic_active_clusters: of(ResourceType::Cluster)
            .map(|(_, cluster)| DynamicCluster { cluster: Some(cluster), ..Default::default() })
            .collect(),
        ..Default::default()
    };
    let listener = |(name, listener): (String, Any)| DynamicListener {
        name,
        active_state: Some(DynamicListenerState {
            version_info: version.clone(),
            listener: Some(listener),
            ..Default::default()
        }),
        ..Default::default()
    };
    let listeners = wire::ListenersConfigDump {
        version_info: version.clone(),
        dynamic_listeners: of(ResourceType::Listener).map(listener).collect(),
        ..Default::default()
    };
    let route = |(_, config): (String, Any)| DynamicRouteConfig {
        version_info: version.clone(),
        route_config: Some(config),
        ..Default::default()
    };
    let routes = wire::RoutesConfigDump {
        dynamic_route_configs: of(ResourceType::Routes).map(route).collect(),
        ..Default::default()
    };
    let endpoint = |(_, config): (String, Any)| DynamicEndpointConfig {
        version_info: version.clone(),
        endpoint_config: Some(config),
        ..Default::default()
    };
    let endpoints = endpoints.then(|| wire::EndpointsConfigDump {
        dynamic_endpoint_configs: of(ResourceType::Endpoints).map(endpoint).collect(),
        ..Default::default()
    });
    // In the order that Envoy's documentation gives.
    let first =
        [any("BootstrapConfigDump", &wire::BootstrapConfigDump::default()), any("ClustersConfigDump", &clusters)];
    let last = [
        any("ListenersConfigDump", &listeners),
        any("ScopedRoutesConfigDump", &wire::ScopedRoutesConfigDump::default()),
        any("RoutesConfigDump", &routes),
        any("SecretsConfigDump", &wire::SecretsConfigDump::default()),
        any("EcdsConfigDump", &wire::EcdsConfigDump::default()),
    ];
    let endpoints = endpoints.map(|endpoints| any("EndpointsConfigDump", &endpoints));
    first.into_iter().chain(endpoints).chain(last).collect()
}

/// The resources of some types, one after the other.
fn of_types(views: &Views, status: &Status, wanted: impl Fn(ResourceType) -> bool) -> Vec<Any> {
    let asked = status.types.iter().map(|one| one.progress.ty).filter(|ty| wanted(*ty));
    asked.flat_map(|ty| told(views, status, ty)).map(|(_, resource)| resource).collect()
}

/// The resources of a type, by name and in that order.
fn told(views: &Views, status: &Status, ty: ResourceType) -> impl Iterator<Item = (String, Any)> {
    let scope: Option<Scope> = Scope::of(&status.node);
    let layer = if ty == ResourceType::Secret { None } else { Some(views.layer(ty, scope.as_ref())) };
    let mut all: Vec<_> = layer.into_iter().flat_map(|layer| layer.iter()).filter(|one| ty.carries(one)).collect();
    all.sort_by(|a, b| a.name().cmp(b.name()));
    all.into_iter().map(move |resource| {
        let value = resource.message(ty).to_vec();
        (resource.name().to_owned(), Any { type_url: ty.type_url().to_owned(), value })
    })
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/envoy.admin.v3.{name}"), value: message.encode_to_vec() }
}

/// What is told over xDS, where nothing is said of proxies that are elsewhere.
pub(super) fn dump(admin: &Admin, viewer: &Viewer, id: &str) -> Option<(Arc<Views>, Status)> {
    Some((admin.published.views.borrow().clone(), find(admin, viewer, id)?))
}
