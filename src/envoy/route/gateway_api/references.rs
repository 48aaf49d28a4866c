//! Whether a route may send requests to a backend.

use std::sync::Arc;

use super::Invalid;
use crate::api::ObjectKey;
use crate::api::route::{BackendRef, GROUP};
use crate::api::virtual_service::Destination;
use crate::graph::Ctx;
use crate::model::Model;

/// Whether the backend of a route is there, and the route may refer to it.
/// `there` says whether there is a service of a host.
pub fn check(
    cx: &Ctx<'_>,
    model: &Model,
    (kind, namespace): (&str, &Arc<str>),
    (backend, destination): (&BackendRef, &Destination),
    there: impl Fn(&Arc<str>) -> bool,
) -> Result<(), Invalid> {
    if !backend.namespace.is_empty() {
        let target = ObjectKey { namespace: backend.namespace.clone(), name: backend.name.clone() };
        let from = ((GROUP, kind), &**namespace);
        if !model.reference_grants.allow(cx, model.scope(), from, ((&backend.group, &backend.kind), &target)) {
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
