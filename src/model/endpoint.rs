//! What is behind a service: the places where its traffic can go, as an Envoy
//! balances over them.

use std::net::IpAddr;
use std::sync::Arc;

use crate::api::compact::Address;
use crate::api::core::{Pod, TargetPort};
use crate::api::{Labels, Meta, ObjectKey, intern};
use crate::graph::Ctx;

use super::Model;
use super::service::{Port, Registry, Service};

/// A place where traffic of a service can go.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Its addresses, in order.
    pub addresses: Vec<IpAddr>,
    /// Where it listens for each port of the service, by the port's number.
    pub ports: Vec<(u16, u16)>,
    /// The labels that subsets go by.
    pub labels: Labels,
    /// Whether it may get traffic.
    pub healthy: bool,
    /// Whether it is reached through a tunnel of HBONE.
    pub hbone: bool,
    /// Where it is.
    pub locality: Locality,
    /// Its share of traffic.
    pub weight: u32,
    /// The namespace it is in.
    pub namespace: Arc<str>,
    /// What telemetry calls it.
    pub name: Arc<str>,
    /// The service account it runs as.
    pub service_account: Arc<str>,
}

/// Where an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// The region.
    pub region: Arc<str>,
    /// The zone.
    pub zone: Arc<str>,
    /// The subzone.
    pub subzone: Arc<str>,
}

impl Locality {
    fn new(parts: [&str; 3]) -> Self {
        let [region, zone, subzone] = parts.map(intern);
        Self { region, zone, subzone }
    }
}

impl Model {
    /// What is behind a service, ordered by namespace and name.
    pub fn endpoints(&self, cx: &Ctx<'_>, service: &Service) -> Vec<Endpoint> {
        let groups = cx.fetch(self.selection.groups, &service.key);
        let pods = groups.flat_map(|(group, _)| cx.fetch(self.selection.pods, group));
        let mut endpoints: Vec<_> = pods.filter_map(|(_, pod)| self.pod_endpoint(cx, service, pod)).collect();
        endpoints.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        endpoints
    }

    fn pod_endpoint(&self, cx: &Ctx<'_>, service: &Service, pod: &Pod) -> Option<Endpoint> {
        let Pod { meta, spec, status } = pod;
        if status.ended {
            return None;
        }
        let addresses: Vec<_> = status.addresses.iter().filter_map(ip).collect();
        if addresses.is_empty() {
            return None;
        }
        let ports = service.ports.iter();
        let ports = ports.filter_map(|port| Some((port.number, target_port(pod, service.registry, port)?)));
        Some(Endpoint {
            addresses,
            ports: ports.collect(),
            labels: meta.labels.clone(),
            healthy: service.all_endpoints || (status.ready && !meta.deleting),
            hbone: tunnels(meta),
            locality: Locality::new(self.node_locality(cx, &spec.node_name)),
            weight: 1,
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            service_account: spec.template.service_account_name.clone(),
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

fn ip(address: Address) -> Option<IpAddr> {
    match address {
        Address::Ip(address) => Some(address),
        Address::Text(_) => None,
    }
}

/// Whether a pod is reached by HBONE: the CNI redirects it, or it says that it
/// speaks HBONE itself. The namespace's label plays no part.
pub fn tunnels(meta: &Meta) -> bool {
    meta.annotation("ambient.istio.io/redirection") == Some("enabled") || speaks_hbone(&meta.labels)
}

/// Whether labels say that a workload speaks HBONE itself.
pub fn speaks_hbone(labels: &Labels) -> bool {
    labels.get("networking.istio.io/tunnel").is_some_and(|tunnels| tunnels.split(',').any(|one| one == "http"))
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
