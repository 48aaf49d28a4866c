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
/// where they were for; `parents` are what its requests may be for, hence none
/// where they arrive at a gateway, whatever else the route is attached to.
/// `there` says whether there is a service of a host.
/// <https://gateway-api.sigs.k8s.io/mesh/#consumer-route>
pub fn check(
    cx: &Ctx<'_>,
    model: &Model,
    (kind, namespace, parents): (&str, &Arc<str>, &[ParentReference]),
    (backend, destination): (&BackendRef, &Destination),
    there: impl Fn(&Arc<str>) -> bool,
) -> Result<(), Invalid> {
    if let Some((group, to, target)) = target(backend, &destination.host, &model.settings.domain) {
        let from = ((GROUP, kind), &**namespace);
        let service = |parent: &ParentReference| {
            matches!((&*parent.group, &*parent.kind), ("", "Service") | ("networking.istio.io", "ServiceEntry"))
        };
        let served = |parent: &ParentReference| parent.namespace == target.namespace && service(parent);
        // Of its own namespace no grant is asked for.
        let allowed =
            parents.iter().any(served) || model.reference_grants.allow(cx, model.scope(), from, ((group, to), &target));
        if !allowed {
            let message = format!("no ReferenceGrant lets this route refer to {to} {target}");
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

/// What has to be allowed for a backend: its group and kind, and its name. A
/// hostname of the mesh is that of a Service, which is not to be had by another
/// name either.
fn target<'a>(backend: &'a BackendRef, host: &str, domain: &str) -> Option<(&'a str, &'a str, ObjectKey)> {
    let BackendRef { group, kind, namespace, name, .. } = backend;
    if !namespace.is_empty() {
        return Some((group, kind, ObjectKey { namespace: namespace.clone(), name: name.clone() }));
    }
    if (&**group, &**kind) != ("networking.istio.io", "Hostname") {
        return None;
    }
    let of = |suffix: &str| {
        let (name, namespace) = host.strip_suffix(suffix)?.strip_suffix(".svc.")?.rsplit_once('.')?;
        Some(ObjectKey { namespace: namespace.into(), name: name.into() })
    };
    let service = of(domain).map(|key| ("", "Service", key));
    service.or_else(|| Some(("multicluster.x-k8s.io", "ServiceImport", of("clusterset.local")?)))
}
