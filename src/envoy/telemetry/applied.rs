//! What waypoints and gateways log and count of what they do.

use std::cell::RefCell;
use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;

use crate::api::Meta;
use crate::api::telemetry::Telemetry as Object;
use crate::envoy::access_log::Only;
use crate::envoy::destination::Destination;
use crate::envoy::policies::{collector, proxy};
use crate::envoy::{class, gateway};
use crate::graph::Ctx;
use crate::model::service::Service;
use crate::model::{Model, mesh};
use crate::proxy::Scope;

use super::{Request, Side, Telemetry};

/// What applies to traffic for a service, or to all else. Where it is sent
/// becomes `references`.
pub(in crate::envoy) fn telemetry(
    cx: &Ctx<'_>,
    model: &Model,
    scope: &Scope,
    service: Option<&Service>,
    references: &RefCell<BTreeSet<Destination>>,
) -> Telemetry {
    let key = mesh::config_map(&model.settings);
    let telemetry = Telemetry::new(&Request {
        mesh: model.scope().mesh(cx),
        mesh_origin: &Meta { namespace: key.namespace, name: key.name, ..Meta::default() },
        telemetries: &applicable(cx, model, scope, service),
        capabilities: scope.capabilities(),
        side: match scope {
            Scope::Waypoint(_) => Side::Server,
            Scope::Gateway(_) => Side::Client,
        },
        gateway: &gateway(scope),
        cluster_id: &model.settings.cluster,
        cluster: &|service, port| collector(cx, model, scope, service, port, references),
    });
    telemetry.problems.iter().for_each(|found| cx.diagnose(found.clone()));
    telemetry
}

/// The objects that apply, the most general first.
fn applicable<'g>(cx: &Ctx<'g>, model: &Model, scope: &Scope, service: Option<&Service>) -> Vec<&'g Object> {
    match scope {
        Scope::Waypoint(_) => {
            let (gateway, class) = (gateway(scope), class(cx, model, scope));
            model.telemetries.applicable(cx, model.scope(), &gateway, &class, service)
        }
        Scope::Gateway(_) => {
            proxy(cx, model, scope, |proxy| model.gateway_telemetries.of_gateway(cx, model.scope(), proxy))
        }
    }
}

/// The log of a listener: of connections that it has no filter chain for.
pub(in crate::envoy) fn listener_logs(cx: &Ctx<'_>, model: &Model, telemetry: &Telemetry) -> Vec<AccessLog> {
    match model.scope().mesh(cx).disable_envoy_listener_log {
        true => Vec::new(),
        false => telemetry.logs(&[Only::NoRoute]),
    }
}
