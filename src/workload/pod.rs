//! Pods as workloads, whether or not their namespace is in the mesh.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_proto::workload as proto;

use crate::api::ObjectKey;
use crate::api::compact::Address;
use crate::api::core::Pod;
use crate::graph::{Ctx, Graph, Index};
use crate::model::endpoint;
use crate::model::endpoint_slice::Slice;
use crate::model::selection::PodGroup;
use crate::model::service::Service;
use crate::model::workload_name::workload_name;
use crate::model::{Model, Settings, problem};
use crate::xds::resource::Resource;

use super::profile::{self, Profile};
use super::{Tables, locality, octets, set_canonical, set_tunnel, workload_resource};

/// Slices that someone wrote by hand.
#[derive(Clone, Copy)]
struct Slices {
    /// By the pod an endpoint refers to.
    by_pod: Index<ObjectKey, ObjectKey, Slice>,
    /// By the namespace of such a pod. Mostly there are none in it, so most
    /// pods need not look for their own.
    by_namespace: Index<Arc<str>, ObjectKey, Slice>,
}

/// The workloads of all pods.
pub(super) fn add_workloads(graph: &mut Graph, model: &Model, to: &mut Tables) {
    let slices = hand_written_slices(graph, model);
    let profiles = profile::profiles(graph, model, slices.by_namespace);
    let (model_of, settings) = (model.clone(), model.settings.clone());
    let uid = move |pod: &ObjectKey| uid(&settings, pod);
    to.add(graph, "pod_workloads", model.inputs.pods, uid, move |cx, key, pod| {
        if pod.status.ended {
            return None;
        }
        let profile = cx.get(profiles, &PodGroup::of(pod))?;
        workload(cx, &model_of, slices.by_pod, profile, key, pod)
    });
}

/// A pod's name in the mesh.
fn uid(settings: &Settings, pod: &ObjectKey) -> String {
    format!("{}//Pod/{}/{}", settings.cluster, pod.namespace, pod.name)
}

/// Slices of services without a selector.
fn hand_written_slices(graph: &mut Graph, model: &Model) -> Slices {
    let pods = |slice: &Slice| {
        let targets = slice.object.endpoints.iter().filter(|_| !slice.selected);
        let targets = targets.filter_map(|endpoint| endpoint.target_ref.as_ref());
        let pods = targets.filter(|target| &*target.kind == "Pod");
        pods.map(|target| ObjectKey { namespace: target.namespace.clone(), name: target.name.clone() })
            .collect::<Vec<_>>()
    };
    let slices = model.slices.all;
    Slices {
        by_pod: graph.index(slices, move |_: &ObjectKey, slice: &Slice, keys| keys.extend(pods(slice))),
        by_namespace: graph.index(slices, move |_: &ObjectKey, slice: &Slice, keys| {
            for pod in pods(slice) {
                if !keys.contains(&pod.namespace) {
                    keys.push(pod.namespace);
                }
            }
        }),
    }
}

fn workload(
    cx: &Ctx<'_>,
    model: &Model,
    slices: Index<ObjectKey, ObjectKey, Slice>,
    profile: &Profile,
    key: &ObjectKey,
    pod: &Pod,
) -> Option<Resource> {
    let Pod { meta, spec, status } = pod;
    let addresses = addresses(cx, pod)?;
    let labels = &meta.labels;
    let account = &spec.template.service_account_name;
    let of_account = profile.of_accounts.iter().find(|(name, _)| name == account).map(|(_, waypoint)| waypoint);
    if let Some(unattached) = profile.unattached.as_ref().filter(|_| of_account.is_none()) {
        unattached.diagnose(cx, "Pod", meta);
    }
    let mut workload = proto::Workload {
        uid: uid(&model.settings, key),
        name: meta.name.to_string(),
        namespace: meta.namespace.to_string(),
        addresses: addresses.into_iter().map(octets).collect(),
        network: profile.network.clone(),
        network_gateway: profile.network_gateway.clone(),
        trust_domain: profile.trust_domain.clone(),
        service_account: account.to_string(),
        node: spec.node_name.to_string(),
        cluster_id: model.settings.cluster.to_string(),
        workload_type: proto::WorkloadType::Pod.into(),
        services: services(cx, model, slices, profile, pod),
        authorization_policies: profile.policies.clone(),
        locality: node_locality(cx, model, &spec.node_name),
        application_tunnel: profile.application_tunnel,
        waypoint: of_account.or(profile.waypoint.as_ref()).cloned(),
        ..Default::default()
    };
    set_tunnel(&mut workload, meta, labels);
    set_canonical(&mut workload, labels, &workload_name(pod));
    if !status.ready || meta.deleting {
        workload.set_status(proto::WorkloadStatus::Unhealthy);
    }
    if spec.template.host_network {
        workload.set_network_mode(proto::NetworkMode::HostNetwork);
    }
    Some(workload_resource(workload))
}

/// All addresses, in order; nothing if there are none yet, or one is broken.
fn addresses(cx: &Ctx<'_>, pod: &Pod) -> Option<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for address in pod.status.addresses.iter() {
        match address {
            Address::Ip(address) => addresses.push(address),
            Address::Text(text) if text.is_empty() => {}
            Address::Text(text) => {
                let message = format!("{text:?} is not an IP address; the pod is left out");
                cx.diagnose(problem("Pod", &pod.meta, "status.podIPs", "InvalidAddress", message));
                return None;
            }
        }
    }
    (!addresses.is_empty()).then_some(addresses)
}

fn node_locality(cx: &Ctx<'_>, model: &Model, node: &Arc<str>) -> Option<proto::Locality> {
    let [region, zone, subzone] = model.node_locality(cx, node);
    locality(region, zone, subzone)
}

/// The services behind which the pod is, and where it listens for each.
fn services(
    cx: &Ctx<'_>,
    model: &Model,
    slices: Index<ObjectKey, ObjectKey, Slice>,
    profile: &Profile,
    pod: &Pod,
) -> std::collections::BTreeMap<String, proto::PortList> {
    let selecting = profile.services.iter();
    let mut services: std::collections::BTreeMap<_, _> =
        selecting.map(|service| (service.key.to_string(), ports(pod, service))).collect();
    if !profile.hand_written {
        return services;
    }
    for (_, slice) in cx.fetch(slices, &pod.meta.key()) {
        let this = |target: &crate::api::core::TargetRef| {
            &*target.kind == "Pod"
                && target.namespace == pod.meta.namespace
                && target.name == pod.meta.name
                && (target.uid.is_empty() || target.uid == pod.meta.uid)
        };
        let refers = slice.object.endpoints.iter().any(|endpoint| endpoint.target_ref.as_ref().is_some_and(this));
        let service = cx.get(model.services, &slice.service);
        if let Some(service) = service.filter(|_| refers) {
            services.insert(service.key.to_string(), ports(pod, service));
        }
    }
    services
}

/// Where a pod listens for the ports of a service. A named target port that
/// the pod does not have is left out.
fn ports(pod: &Pod, service: &Service) -> proto::PortList {
    let mapped = service.ports.iter().filter_map(|port| {
        let target = endpoint::target_port(pod, service.registry, port)?;
        Some(port_mapping(port.number, target))
    });
    proto::PortList { ports: mapped.collect() }
}

/// A service port and the workload port it leads to.
pub(super) fn port_mapping(service: u16, target: u16) -> proto::Port {
    proto::Port { service_port: service.into(), target_port: target.into(), ..Default::default() }
}
