//! Kubernetes' own kinds: pods, services and where they run.
//! <https://kubernetes.io/docs/reference/kubernetes-api/>

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::compact::{Address, Addresses, Uid};
use super::intern::interned;
use super::mesh::ConfigMapData;
use super::meta::{Labels, Meta, nullable};
use crate::intern::Pool;

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// What was asked for.
    #[serde(deserialize_with = "nullable")]
    pub spec: PodSpec,
    /// What is.
    #[serde(deserialize_with = "nullable")]
    pub status: PodStatus,
}

/// What of `pod.spec` matters.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "RawPodSpec")]
pub struct PodSpec {
    /// The node it was scheduled to.
    pub node_name: Arc<str>,
    /// The rest, which the pods of one template share.
    pub template: Arc<PodTemplate>,
}

/// What pods of one template have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodTemplate {
    /// The service account the pods run as.
    pub service_account_name: Arc<str>,
    /// Whether they share their nodes' network.
    pub host_network: bool,
    /// The containers that run beside each other, native sidecars last; only
    /// those with named ports.
    pub containers: Box<[Container]>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodSpec {
    #[serde(deserialize_with = "interned")]
    service_account_name: Arc<str>,
    #[serde(deserialize_with = "interned")]
    node_name: Arc<str>,
    #[serde(deserialize_with = "nullable")]
    host_network: bool,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<Container>,
}

static TEMPLATES: Pool<PodTemplate> = Pool::new();

impl From<RawPodSpec> for PodSpec {
    fn from(raw: RawPodSpec) -> Self {
        let RawPodSpec { service_account_name, node_name, host_network, mut containers, init_containers } = raw;
        // Init containers that restart always are sidecars.
        containers.extend(init_containers.into_iter().filter(|container| &*container.restart_policy == "Always"));
        containers.retain(|container| container.ports.iter().any(|port| !port.name.is_empty()));
        let template = PodTemplate { service_account_name, host_network, containers: containers.into() };
        Self { node_name, template: TEMPLATES.shared(&template, |template| Arc::new(template.clone())) }
    }
}

/// A container, as far as named ports need it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// `Always` for a native sidecar.
    #[serde(deserialize_with = "interned")]
    pub restart_policy: Arc<str>,
    /// Its declared ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Box<[ContainerPort]>,
}

/// A declared container port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// The name services refer to.
    #[serde(deserialize_with = "interned")]
    pub name: Arc<str>,
    /// The number.
    #[serde(deserialize_with = "nullable")]
    pub container_port: u16,
    /// `TCP` (also when empty), `UDP` or `SCTP`.
    #[serde(deserialize_with = "interned")]
    pub protocol: Arc<str>,
}

/// What of `pod.status` matters.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "RawPodStatus")]
pub struct PodStatus {
    /// Whether it has succeeded or failed, hence no longer acts for anyone.
    pub ended: bool,
    /// Whether the `Ready` condition is true.
    pub ready: bool,
    /// Its addresses, in order.
    pub addresses: Addresses,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodStatus {
    #[serde(deserialize_with = "interned")]
    phase: Arc<str>,
    #[serde(rename = "podIP")]
    pod_ip: Address,
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pod_ips: Vec<PodIp>,
    #[serde(rename = "conditions", deserialize_with = "ready")]
    ready: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: Address,
}

impl From<RawPodStatus> for PodStatus {
    fn from(raw: RawPodStatus) -> Self {
        let RawPodStatus { phase, pod_ip, pod_ips, ready } = raw;
        // Servers that do not list addresses have the first one elsewhere.
        let mut addresses: Vec<_> = pod_ips.into_iter().map(|one| one.ip).collect();
        if addresses.is_empty() {
            addresses.push(pod_ip);
        }
        Self { ended: matches!(&*phase, "Succeeded" | "Failed"), ready, addresses: addresses.into() }
    }
}

fn ready<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    struct Condition {
        #[serde(rename = "type", default, deserialize_with = "nullable")]
        kind: String,
        #[serde(default, deserialize_with = "nullable")]
        status: String,
    }
    let conditions: Vec<Condition> = nullable(deserializer)?;
    Ok(conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True"))
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// What it selects and how it is reached.
    #[serde(deserialize_with = "nullable")]
    pub spec: ServiceSpec,
    /// How it is reached from outside.
    #[serde(deserialize_with = "nullable")]
    pub status: ServiceStatus,
}

/// What of `service.spec` matters.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP` (also when empty), `NodePort`, `LoadBalancer` or
    /// `ExternalName`.
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// The first virtual address; `None` for a headless service.
    #[serde(rename = "clusterIP", deserialize_with = "nullable")]
    pub cluster_ip: Arc<str>,
    /// All virtual addresses.
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Box<[Arc<str>]>,
    /// The ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Box<[ServicePort]>,
    /// The labels of the pods behind it; empty selects none.
    pub selector: Labels,
    /// `IPv4` and `IPv6`, in order of preference.
    #[serde(deserialize_with = "nullable")]
    pub ip_families: Box<[Arc<str>]>,
    /// `Local` keeps traffic on its node.
    #[serde(deserialize_with = "interned")]
    pub internal_traffic_policy: Arc<str>,
    /// `PreferClose`, `PreferSameZone` or `PreferSameNode`.
    #[serde(deserialize_with = "interned")]
    pub traffic_distribution: Arc<str>,
    /// Whether endpoints that are not ready count.
    #[serde(deserialize_with = "nullable")]
    pub publish_not_ready_addresses: bool,
    /// Addresses from outside that somebody else sees to.
    #[serde(rename = "externalIPs", deserialize_with = "nullable")]
    pub external_ips: Box<[Arc<str>]>,
    /// The name that one of type `ExternalName` stands for.
    #[serde(deserialize_with = "nullable")]
    pub external_name: Arc<str>,
}

/// What of `service.status` matters.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// What balances load in front of it.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer: LoadBalancerStatus,
}

/// Where a load balancer is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// Its addresses.
    #[serde(deserialize_with = "nullable")]
    pub ingress: Box<[LoadBalancerIngress]>,
}

/// An address of a load balancer: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub struct LoadBalancerIngress {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub hostname: Arc<str>,
    /// Its IP address.
    #[serde(deserialize_with = "nullable")]
    pub ip: Arc<str>,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// The name; its prefix may tell the protocol.
    #[serde(deserialize_with = "interned")]
    pub name: Arc<str>,
    /// The number clients use.
    #[serde(deserialize_with = "nullable")]
    pub port: u16,
    /// `TCP` (also when empty), `UDP` or `SCTP`.
    #[serde(deserialize_with = "interned")]
    pub protocol: Arc<str>,
    /// Where pods listen.
    #[serde(deserialize_with = "nullable")]
    pub target_port: TargetPort,
    /// The application protocol, such as `http` or `kubernetes.io/h2c`.
    #[serde(deserialize_with = "interned")]
    pub app_protocol: Arc<str>,
}

/// A target port: a number, or the name of a container port.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum TargetPort {
    /// Not given: the service's own port.
    #[default]
    Same,
    /// This port.
    Number(u16),
    /// The container port with this name.
    Name(Arc<str>),
}

impl<'de> Deserialize<'de> for TargetPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum IntOrText {
            Int(u16),
            Text(String),
        }
        Ok(match IntOrText::deserialize(deserializer)? {
            IntOrText::Int(0) => Self::Same,
            IntOrText::Int(port) => Self::Number(port),
            IntOrText::Text(name) if name.is_empty() => Self::Same,
            // Kubernetes reads a quoted number as a name; no container port
            // can have such a name, so nothing is lost by reading the number.
            IntOrText::Text(name) => name.parse().map_or_else(|_| Self::Name(name.into()), Self::Number),
        })
    }
}

/// A piece of the endpoints of a service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Name, labels and the like; a label names the service.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(deserialize_with = "interned")]
    pub address_type: Arc<str>,
    /// The endpoints.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Box<[Endpoint]>,
    /// The ports of all of them.
    #[serde(deserialize_with = "nullable")]
    pub ports: Box<[EndpointPort]>,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its addresses; all are the same endpoint.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Box<[Arc<str>]>,
    /// Whether it may get traffic.
    #[serde(deserialize_with = "nullable")]
    pub conditions: EndpointConditions,
    /// The object behind it.
    pub target_ref: Option<TargetRef>,
}

/// The state of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Ready for traffic; unknown counts as ready.
    pub ready: Option<bool>,
}

/// The object behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// `Pod`, mostly.
    #[serde(deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// Its namespace.
    #[serde(deserialize_with = "interned")]
    pub namespace: Arc<str>,
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Its UID; empty means any object of that name.
    pub uid: Uid,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// The service port's name.
    #[serde(deserialize_with = "interned")]
    pub name: Arc<str>,
    /// The number; none means all ports.
    pub port: Option<u16>,
    /// `TCP` (also when empty), `UDP` or `SCTP`.
    #[serde(deserialize_with = "interned")]
    pub protocol: Arc<str>,
}

/// A node: where it stands.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Name and labels.
    #[serde(rename = "metadata")]
    pub meta: Meta,
}

/// A namespace: its labels and annotations.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Name, labels and annotations.
    #[serde(rename = "metadata")]
    pub meta: Meta,
}

/// A config map.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    /// Name and labels.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// The values that are read.
    #[serde(deserialize_with = "nullable")]
    pub data: ConfigMapData,
}

/// A custom resource definition: that it exists.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CustomResourceDefinition {
    /// Its name, `<plural>.<group>`.
    #[serde(rename = "metadata")]
    pub meta: Meta,
}
