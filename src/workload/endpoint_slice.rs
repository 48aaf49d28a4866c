//! Addresses in EndpointSlices that are not pods, such as the API server's.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_proto::workload as proto;

use crate::api::core::{Endpoint, EndpointSlice};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::endpoint_slice::is_pod;
use crate::model::service::Service;
use crate::model::{Model, problem};
use crate::xds::resource::Resource;

use super::pod::port_mapping;
use super::{octets, trust_domain, workload_row};

/// The workloads of all slices.
pub(super) fn workloads(graph: &mut Graph, model: &Model) -> Collection<Arc<str>, Resource> {
    let model = model.clone();
    graph.derive("endpoint_slice_workloads", model.slices.all, move |cx, _, slice| {
        let Some(service) = cx.get(model.services, &slice.service) else { return Vec::new() };
        let slice = &*slice.object;
        let others: Vec<_> = slice.endpoints.iter().filter(|endpoint| !is_pod(endpoint)).collect();
        let rows = others.iter().enumerate().filter(|(at, one)| {
            let earlier = &others[..*at];
            !earlier.iter().any(|other| other.addresses.first() == one.addresses.first())
        });
        rows.filter_map(|(_, endpoint)| workload(cx, &model, slice, service, endpoint)).collect()
    })
}

fn workload(
    cx: &Ctx<'_>,
    model: &Model,
    slice: &EndpointSlice,
    service: &Service,
    endpoint: &Endpoint,
) -> Option<(Arc<str>, Resource)> {
    let meta = &slice.meta;
    let mut addresses = Vec::with_capacity(endpoint.addresses.len());
    for text in &endpoint.addresses {
        match text.parse::<IpAddr>() {
            Ok(address) => addresses.push(octets(address)),
            Err(_) => {
                let message = format!("{text:?} is not an IP address; the endpoint is left out");
                cx.diagnose(problem("EndpointSlice", meta, "endpoints.addresses", "InvalidAddress", message));
                return None;
            }
        }
    }
    let key = endpoint.addresses.first()?;
    let cluster = &model.settings.cluster;
    let mut workload = proto::Workload {
        uid: format!("{cluster}/discovery.k8s.io/EndpointSlice/{}/{}/{key}", meta.namespace, meta.name),
        name: meta.name.to_string(),
        namespace: meta.namespace.to_string(),
        addresses,
        network: model.scope().network(cx).to_string(),
        trust_domain: trust_domain(cx, model.scope()),
        cluster_id: cluster.to_string(),
        services: [(service.key.to_string(), ports(slice, service))].into(),
        ..Default::default()
    };
    // Nothing is known of what answers there; others may share the address.
    workload.set_network_mode(proto::NetworkMode::HostNetwork);
    if endpoint.conditions.ready == Some(false) {
        workload.set_status(proto::WorkloadStatus::Unhealthy);
    }
    Some(workload_row(workload))
}

/// The slice's ports under the numbers of the service ports of the same name.
fn ports(slice: &EndpointSlice, service: &Service) -> proto::PortList {
    let tcp = slice.ports.iter().filter(|port| matches!(&*port.protocol, "" | "TCP"));
    let mapped = tcp.filter_map(|port| {
        let service_port = service.ports.iter().find(|candidate| candidate.name == port.name)?;
        Some(port_mapping(service_port.number, port.port?))
    });
    proto::PortList { ports: mapped.collect() }
}
