//! Pods behind services that select them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::api::compact::Address as PodAddress;
use crate::api::core::{Pod, TargetPort};
use crate::api::{ObjectKey, intern};
use crate::graph::Ctx;
use crate::model::Model;
use crate::model::service::{Port, Registry, Service};
use crate::model::workload_name::workload_name;

use super::{Address, Endpoint, Locality, tunnels};

impl Model {
    /// The pods that a service selects.
    pub(super) fn selected_pods(&self, cx: &Ctx<'_>, service: &Service) -> Vec<Endpoint> {
        let groups = cx.fetch(self.selection.of_service, &service.key);
        let pods = groups.flat_map(|(group, _)| cx.fetch(self.selection.pods, group));
        pods.filter_map(|(_, pod)| self.pod_endpoint(cx, service, pod)).collect()
    }

    /// The service accounts, by namespace, of the pods that a service selects.
    pub fn accounts(&self, cx: &Ctx<'_>, service: &Service) -> BTreeSet<(Arc<str>, Arc<str>)> {
        let groups = cx.fetch(self.selection.of_service, &service.key);
        let pods = groups.flat_map(|(group, _)| cx.fetch(self.selection.pods, group));
        let account = |pod: &Pod| {
            let account = &pod.spec.template.service_account_name;
            (!pod.status.ended && !account.is_empty()).then(|| (pod.meta.namespace.clone(), account.clone()))
        };
        pods.filter_map(|(_, pod)| account(pod)).collect()
    }

    /// A pod as an endpoint; `None` if it does not act for anyone, is about to
    /// end and has no sessions, or has no address of the service's families.
    pub(super) fn pod_endpoint(&self, cx: &Ctx<'_>, service: &Service, pod: &Pod) -> Option<Endpoint> {
        let Pod { meta, spec, status } = pod;
        let draining = meta.deleting && !service.all_endpoints;
        let kept = self.settings.persistent_sessions && service.keeps_sessions();
        if status.ended || (draining && !(kept && status.ready)) {
            return None;
        }
        let addresses: Vec<_> = status.addresses.iter().filter_map(ip).filter(|ip| serves(service, ip)).collect();
        if addresses.is_empty() {
            return None;
        }
        let ports = service.ports.iter();
        let ports = ports.filter_map(|port| Some((port.number, target_port(pod, service.registry, port)?)));
        let locality = Locality::of_labels(|label| meta.label(label));
        Some(Endpoint {
            address: Address::Ips(addresses),
            ports: ports.collect(),
            labels: meta.labels.clone(),
            healthy: service.all_endpoints || status.ready,
            draining,
            hbone: tunnels(meta),
            locality: locality.unwrap_or_else(|| self.locality_of_node(cx, &spec.node_name)),
            node: spec.node_name.clone(),
            network: meta.label("topology.istio.io/network").map(intern).unwrap_or_default(),
            weight: 1,
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            workload: workload_name(pod),
        })
    }

    /// Where a Kubernetes node is: its region, zone and subzone.
    pub fn node_locality<'g>(&self, cx: &Ctx<'g>, node: &Arc<str>) -> [&'g str; 3] {
        if node.is_empty() {
            return [""; 3];
        }
        let node = cx.get(self.inputs.nodes, &ObjectKey { namespace: intern(""), name: node.clone() });
        let label = |key| node.and_then(|node| node.meta.label(key)).unwrap_or_default();
        ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"].map(label)
    }
}

fn ip(address: PodAddress) -> Option<IpAddr> {
    match address {
        PodAddress::Ip(address) => Some(address),
        PodAddress::Text(_) => None,
    }
}

/// Whether a service is for addresses of this family.
fn serves(service: &Service, address: &IpAddr) -> bool {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    service.families.is_empty() || service.families.iter().any(|one| &**one == family)
}

/// Where a pod listens for a port of a service; `None` if that is a named port
/// that the pod does not have.
pub fn target_port(pod: &Pod, registry: Registry, port: &Port) -> Option<u16> {
    match (&port.target, registry) {
        (TargetPort::Name(name), _) => container_port(pod, name, &port.transport),
        // A ServiceEntry finds container ports by the name of its own port.
        (target, Registry::ServiceEntry) => {
            let named = (!port.name.is_empty()).then(|| container_port(pod, &port.name, &port.transport)).flatten();
            Some(named.unwrap_or(if let TargetPort::Number(number) = target { *number } else { port.number }))
        }
        (TargetPort::Number(number), Registry::Kubernetes) => Some(*number),
        (TargetPort::Same, Registry::Kubernetes) => Some(port.number),
    }
}

fn container_port(pod: &Pod, name: &str, transport: &str) -> Option<u16> {
    let mut ports = pod.spec.template.containers.iter().flat_map(|container| &*container.ports);
    let found = ports.find(|port| {
        let port_transport = if port.protocol.is_empty() { "TCP" } else { &*port.protocol };
        &*port.name == name && port_transport == transport
    });
    found.map(|port| port.container_port)
}
