//! What a waypoint logs and counts of what it does.

use std::cell::RefCell;
use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;

use crate::api::Meta;
use crate::envoy::access_log::Only;
use crate::envoy::telemetry::{Request, Telemetry};
use crate::graph::Ctx;
use crate::model::service::Service;
use crate::model::{Model, mesh};
use crate::proxy::Scope;

use super::policies::collector;
use super::{Destination, class, gateway, waypoint};

/// What applies to traffic for a service, or to all else. Where it is sent
/// becomes `references`.
pub(super) fn telemetry(
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
        telemetries: &model.telemetries.applicable(
            cx,
            model.scope(),
            &gateway(scope),
            &class(cx, model, scope),
            service,
        ),
        capabilities: waypoint(scope).capabilities,
        gateway: &gateway(scope),
        cluster_id: &model.settings.cluster,
        cluster: &|service, port| collector(cx, model, scope, service, port, references),
    });
    telemetry.problems.iter().for_each(|found| cx.diagnose(found.clone()));
    telemetry
}

/// The log of a listener: of connections that it has no filter chain for.
pub(super) fn listener_logs(cx: &Ctx<'_>, model: &Model, telemetry: &Telemetry) -> Vec<AccessLog> {
    match model.scope().mesh(cx).disable_envoy_listener_log {
        true => Vec::new(),
        false => telemetry.logs(&[Only::NoRoute]),
    }
}
