//! EndpointSlices that say what pods do not: those of services without a
//! selector, and endpoints that are not pods, such as the API server's. The
//! slices that Kubernetes keeps for a selector say nothing that the pods do
//! not, and change all the time; they end here.

use std::sync::Arc;

use crate::api::ObjectKey;
use crate::api::core::{Endpoint, EndpointSlice};
use crate::graph::{Collection, Graph, Index};

use super::service::{Registry, Service, ServiceKey, hostname};
use super::{Scope, Settings};

/// A slice with endpoints that no selector finds.
#[derive(Debug, PartialEq)]
pub struct Slice {
    /// The service it belongs to, which is one of Kubernetes.
    pub service: ServiceKey,
    /// Whether that has a selector, which finds the pods behind it.
    pub selected: bool,
    /// The slice.
    pub object: Arc<EndpointSlice>,
}

/// The slices, and where they belong.
#[derive(Clone, Copy)]
pub struct Slices {
    /// All of them.
    pub all: Collection<ObjectKey, Slice>,
    /// Those of a service.
    pub of_service: Index<ServiceKey, ObjectKey, Slice>,
}

/// Whether an endpoint is a pod.
pub fn is_pod(endpoint: &Endpoint) -> bool {
    endpoint.target_ref.as_ref().is_some_and(|target| &*target.kind == "Pod")
}

/// Declares the collection.
pub(super) fn slices(graph: &mut Graph, scope: &Scope, services: Collection<ServiceKey, Arc<Service>>) -> Slices {
    let settings = scope.settings.clone();
    let all = graph.derive("endpoint_slices_by_hand", scope.inputs.endpoint_slices, move |cx, key, slice| {
        let service = cx.get(services, &service_key(&settings, slice)?)?;
        let selected = !service.selector.is_empty();
        let more = !selected || slice.endpoints.iter().any(|endpoint| !is_pod(endpoint));
        (more && service.registry == Registry::Kubernetes).then(|| {
            let slice = Slice { service: service.key.clone(), selected, object: Arc::new(slice.clone()) };
            (key.clone(), slice)
        })
    });
    Slices { all, of_service: graph.index(all, |_: &ObjectKey, slice: &Slice, keys| keys.push(slice.service.clone())) }
}

/// The service a slice belongs to, unless it is of a kind we do not read.
fn service_key(settings: &Settings, slice: &EndpointSlice) -> Option<ServiceKey> {
    let name = slice.meta.label("kubernetes.io/service-name").filter(|_| &*slice.address_type != "FQDN")?;
    let namespace = slice.meta.namespace.clone();
    Some(ServiceKey { hostname: hostname(name, &namespace, &settings.domain), namespace })
}
