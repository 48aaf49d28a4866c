//! Whether a route may send requests to a backend.

use std::sync::Arc;

use super::Invalid;
use crate::api::ObjectKey;
use crate::api::route::{BackendRef, GROUP, ParentReference};
use crate::api::virtual_service::Destination;
use crate::graph::Ctx;
use crate::model::Model;

/// Whether the backend of a route is there, and the route may refer to it. A
/// route of a service that is elsewhere, a consumer's, may send its requests
/// where they were for. `there` says whether there is a service of a host.
/// <https://gateway-api.sigs.k8s.io/mesh/#consumer-route>
pub fn check(
    cx: &Ctx<'_>,
    model: &Model,
    (kind, namespace, parents): (&str, &Arc<str>, &[ParentReference]),
    (backend, destination): (&BackendRef, &Destination),
    there: impl Fn(&Arc<str>) -> bool,
) -> Result<(), Invalid> {
    if !backend.namespace.is_empty() {
        let target = ObjectKey { namespace: backend.namespace.clone(), name: backend.name.clone() };
        let from = ((GROUP, kind), &**namespace);
        let served = |parent: &ParentReference| parent.namespace == backend.namespace && &*parent.kind != "Gateway";
        let allowed = parents.iter().any(served)
            || model.reference_grants.allow(cx, model.scope(), from, ((&backend.group, &backend.kind), &target));
        if !allowed {
            let message = format!("no ReferenceGrant lets this route refer to {} {target}", backend.kind);
            return Err(Invalid { reason: "RefNotPermitted", message });
        }
    }
    match there(&destination.host) {
        true => Ok(()),
        false => {
            Err(Invalid { reason: "BackendNotFound", message: format!("there is no service {}", destination.host) })
        }
    }
}
