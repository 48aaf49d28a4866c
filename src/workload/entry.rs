//! Workloads outside Kubernetes: WorkloadEntries, and the endpoints that
//! ServiceEntries list in place.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_proto::workload as proto;

use crate::api::istio::{ServiceEntry, WorkloadEntry, WorkloadEntrySpec};
use crate::api::{Labels, Meta, intern};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::Model;
use crate::model::endpoint::entry_port;
use crate::model::selection::entry_labels;
use crate::model::service::{Registry, Service};
use crate::xds::resource::Resource;

use super::pod::port_mapping;
use super::{
    locality, network_gateway, octets, own_waypoint_fields, policies, set_canonical, set_tunnel, trust_domain,
    waypoint_address, workload_row,
};

/// The workloads of all WorkloadEntries.
pub(super) fn workload_entries(graph: &mut Graph, model: &Model) -> Collection<Arc<str>, Resource> {
    let model_of = model.clone();
    graph.derive("workload_entry_workloads", model.inputs.workload_entries, move |cx, _, entry| {
        workload_entry(cx, &model_of, entry)
    })
}

fn workload_entry(cx: &Ctx<'_>, model: &Model, entry: &WorkloadEntry) -> Option<(Arc<str>, Resource)> {
    let WorkloadEntry { meta, spec, .. } = entry;
    if !model.scope().configures(cx, meta) {
        return None;
    }
    let labels = entry_labels(entry);
    let mut services = BTreeMap::new();
    for (label, value) in labels.iter() {
        let pair = (meta.namespace.clone(), intern(label), intern(value));
        for (key, service) in cx.fetch(model.services_by_selector, &pair) {
            if service.selector.select(&labels) {
                services.insert(key.to_string(), ports(spec, service));
            }
        }
    }
    let group = meta.annotation("istio.io/autoRegistrationGroup");
    let name = group.or_else(|| labels.get("service.istio.io/workload-name")).unwrap_or(&meta.name);
    let uid = format!("{}/networking.istio.io/WorkloadEntry/{}/{}", model.settings.cluster, meta.namespace, meta.name);
    let mut workload = base(cx, model, meta, spec, uid, model.scope().network(cx));
    workload.services = services;
    workload.authorization_policies = policies(cx, model, &meta.namespace, &labels);
    let accounts = model.account_waypoints(cx, &meta.namespace, &labels);
    match accounts.iter().find(|(account, _, _)| **account == spec.service_account) {
        Some((_, key, waypoint)) => {
            workload.waypoint = Some(waypoint_address(cx, model.scope(), &key.namespace, waypoint));
        }
        None => {
            let (tunnel, waypoint) = own_waypoint_fields(cx, model, "WorkloadEntry", meta, &labels);
            (workload.application_tunnel, workload.waypoint) = (tunnel, waypoint);
        }
    }
    set_tunnel(&mut workload, meta, &labels);
    set_canonical(&mut workload, &labels, name);
    Some(workload_row(workload))
}

/// The workloads that ServiceEntries list, or imply by naming hosts to resolve.
pub(super) fn service_entry_endpoints(graph: &mut Graph, model: &Model) -> Collection<Arc<str>, Resource> {
    let model_of = model.clone();
    graph.derive("service_entry_workloads", model.inputs.service_entries, move |cx, _, entry| {
        endpoints(cx, &model_of, entry)
    })
}

fn endpoints(cx: &Ctx<'_>, model: &Model, entry: &ServiceEntry) -> Vec<(Arc<str>, Resource)> {
    let ServiceEntry { meta, spec, .. } = entry;
    let resolved = matches!(&*spec.resolution, "DNS" | "DYNAMIC_DNS" | "DNS_ROUND_ROBIN");
    let implied = spec.endpoints.is_empty() && resolved && spec.workload_selector.is_none();
    if spec.endpoints.is_empty() && !implied {
        return Vec::new();
    }
    // Hosts that another object won are not this entry's to serve; an entry
    // without any is not served at all.
    let services: Vec<_> = cx.fetch(model.services_by_origin, &(Registry::ServiceEntry, meta.key())).collect();
    let mut rows: Vec<(Arc<str>, Resource)> = Vec::new();
    let mut add = |at: usize, endpoint: &WorkloadEntrySpec, services: &[&Service]| {
        let uid = format!(
            "{}/networking.istio.io/ServiceEntry/{}/{}/{}",
            model.settings.cluster, meta.namespace, meta.name, endpoint.address
        );
        // Endpoints may share an address and differ in their ports.
        let taken = rows.iter().any(|(name, _)| **name == *uid);
        let uid = if taken { format!("{uid}/{at}") } else { uid };
        rows.push(endpoint_workload(cx, model, entry, endpoint, services, uid, implied));
    };
    match implied {
        true => {
            for (at, (key, service)) in services.iter().enumerate() {
                let endpoint = WorkloadEntrySpec { address: key.hostname.clone(), ..Default::default() };
                add(at, &endpoint, &[service]);
            }
        }
        false if services.is_empty() => {}
        false => {
            let services: Vec<&Service> = services.iter().map(|(_, service)| &***service).collect();
            for (at, endpoint) in spec.endpoints.iter().enumerate() {
                add(at, endpoint, &services);
            }
        }
    }
    rows
}

fn endpoint_workload(
    cx: &Ctx<'_>,
    model: &Model,
    entry: &ServiceEntry,
    endpoint: &WorkloadEntrySpec,
    services: &[&Service],
    uid: String,
    implied: bool,
) -> (Arc<str>, Resource) {
    let meta = &entry.meta;
    let mut workload = base(cx, model, meta, endpoint, uid, model.scope().network(cx));
    workload.services = services.iter().map(|service| (service.key.to_string(), ports(endpoint, service))).collect();
    workload.authorization_policies = policies(cx, model, &meta.namespace, &meta.labels);
    if !implied {
        let labels = endpoint.labels.as_ref().cloned().unwrap_or_else(Labels::default);
        let (tunnel, waypoint) = own_waypoint_fields(cx, model, "ServiceEntry", meta, &labels);
        (workload.application_tunnel, workload.waypoint) = (tunnel, waypoint);
    }
    set_tunnel(&mut workload, meta, &meta.labels);
    set_canonical(&mut workload, &meta.labels, &meta.name);
    workload_row(workload)
}

/// What both kinds have in common.
fn base(
    cx: &Ctx<'_>,
    model: &Model,
    meta: &Meta,
    spec: &WorkloadEntrySpec,
    uid: String,
    cluster_network: &str,
) -> proto::Workload {
    let network = if spec.network.is_empty() { cluster_network } else { &spec.network };
    let address = spec.address.parse::<IpAddr>().ok();
    let mut parts = spec.locality.split('/');
    let mut part = || parts.next().unwrap_or_default();
    proto::Workload {
        uid,
        name: meta.name.to_string(),
        namespace: meta.namespace.to_string(),
        addresses: address.map(octets).into_iter().collect(),
        hostname: if address.is_some() { String::new() } else { spec.address.to_string() },
        network: network.to_string(),
        network_gateway: network_gateway(cx, model, network),
        trust_domain: trust_domain(cx, model.scope()),
        service_account: spec.service_account.to_string(),
        cluster_id: model.settings.cluster.to_string(),
        workload_type: proto::WorkloadType::Pod.into(),
        locality: locality(part(), part(), part()),
        capacity: (spec.weight > 0).then_some(spec.weight),
        ..Default::default()
    }
}

/// Where an endpoint listens for the ports of a service.
fn ports(endpoint: &WorkloadEntrySpec, service: &Service) -> proto::PortList {
    let mapped = service.ports.iter().filter_map(|port| Some(port_mapping(port.number, entry_port(endpoint, port)?)));
    proto::PortList { ports: mapped.collect() }
}
