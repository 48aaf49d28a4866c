//! What someone wrote into EndpointSlices by hand.
//! <https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors>

use std::net::IpAddr;

use crate::api::core::{Endpoint as Written, EndpointSlice, Pod};
use crate::api::{Labels, ObjectKey};
use crate::graph::Ctx;
use crate::model::Model;
use crate::model::endpoint_slice::is_pod;
use crate::model::service::Service;

use super::{Address, Endpoint, Locality};

impl Model {
    /// The endpoints in slices that no selector finds. Addresses that are none
    /// have been reported where the slice became a workload.
    pub(super) fn sliced(&self, cx: &Ctx<'_>, service: &Service) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for (_, slice) in cx.fetch(self.slices.of_service, &service.key) {
            let written = slice.object.endpoints.iter().filter(|one| !(slice.selected && is_pod(one)));
            endpoints.extend(written.filter_map(|one| self.slice_endpoint(cx, service, &slice.object, one)));
        }
        endpoints
    }

    fn slice_endpoint(
        &self,
        cx: &Ctx<'_>,
        service: &Service,
        slice: &EndpointSlice,
        written: &Written,
    ) -> Option<Endpoint> {
        let addresses: Vec<IpAddr> = written.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        if addresses.is_empty() {
            return None;
        }
        let endpoint = match is_pod(written) {
            true => self.pod_endpoint(cx, service, self.pod_behind(cx, written)?)?,
            // Nothing is known of what answers there.
            false => Endpoint {
                address: Address::Ips(Vec::new()),
                ports: Vec::new(),
                labels: Labels::default(),
                healthy: true,
                draining: false,
                hbone: false,
                locality: Locality::default(),
                node: "".into(),
                network: "".into(),
                weight: 1,
                namespace: slice.meta.namespace.clone(),
                name: slice.meta.name.clone(),
                workload: slice.meta.name.clone(),
            },
        };
        Some(Endpoint {
            address: Address::Ips(addresses),
            ports: ports(slice, service),
            healthy: service.all_endpoints || written.conditions.ready != Some(false),
            ..endpoint
        })
    }

    /// The pod that an endpoint refers to, if it is still that one.
    fn pod_behind<'g>(&self, cx: &Ctx<'g>, written: &Written) -> Option<&'g Pod> {
        let target = written.target_ref.as_ref()?;
        let key = ObjectKey { namespace: target.namespace.clone(), name: target.name.clone() };
        let pod = cx.get(self.inputs.pods, &key)?;
        (target.uid.is_empty() || target.uid == pod.meta.uid).then_some(pod)
    }
}

/// The slice's ports under the numbers of the service ports of the same name.
fn ports(slice: &EndpointSlice, service: &Service) -> Vec<(u16, u16)> {
    let tcp = slice.ports.iter().filter(|port| matches!(&*port.protocol, "" | "TCP"));
    let mapped = tcp.filter_map(|port| {
        let of_service = service.ports.iter().find(|candidate| candidate.name == port.name)?;
        Some((of_service.number, port.port?))
    });
    mapped.collect()
}
