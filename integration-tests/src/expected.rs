//! A second opinion: what a ztunnel should know, worked out from the objects
//! in the API server, slowly and plainly, by other people's rules (notably
//! those of istiod's ambient index), with no code of Fairway.
//!
//! It covers what decides where traffic goes and who may send it: workloads,
//! addresses, tunnels, health, services with their ports, and policies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use fairway_proto::workload::{NetworkMode, PortList, TunnelProtocol, WorkloadStatus};
use serde_json::Value;

use crate::api::Api;
use crate::ztunnel::Ztunnel;
use crate::ztunnel::table::Table as Known;

mod policy;
mod service;
mod workload;

const ROOT_NAMESPACE: &str = "istio-system";
const CLUSTER: &str = "Kubernetes";
const STRICT: &str = "istio-system/istio_converted_static_strict";

/// A workload, as far as it is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Addresses, in order.
    pub addresses: Vec<String>,
    /// The name to resolve, if there is no address.
    pub hostname: String,
    /// Its service account.
    pub service_account: String,
    /// Its node.
    pub node: String,
    /// `region/zone/subzone`.
    pub locality: String,
    /// Whether it is reached through HBONE.
    pub hbone: bool,
    /// Whether it gets traffic for services.
    pub healthy: bool,
    /// Whether it shares its node's addresses.
    pub host_network: bool,
    /// Services, each with pairs of service port and target port.
    pub services: BTreeMap<String, Vec<(u32, u32)>>,
    /// Policies it names.
    pub policies: BTreeSet<String>,
}

/// A service, as far as it is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Virtual addresses, in order.
    pub addresses: Vec<String>,
    /// Pairs of port and target port; 0 says that workloads know.
    pub ports: Vec<(u32, u32)>,
}

/// All of it, by resource name; policies with scope and action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// By uid.
    pub workloads: BTreeMap<String, Workload>,
    /// By namespace and hostname.
    pub services: BTreeMap<String, Service>,
    /// Scope and action by namespace and name.
    pub policies: BTreeMap<String, (String, String)>,
}

/// The objects that matter.
struct Objects {
    nodes: Vec<Value>,
    pods: Vec<Value>,
    services: Vec<Value>,
    slices: Vec<Value>,
    service_entries: Vec<Value>,
    workload_entries: Vec<Value>,
    authorization_policies: Vec<Value>,
    peer_authentications: Vec<Value>,
}

impl Table {
    /// What the objects in the API server come to.
    pub async fn of(api: &Api) -> Self {
        let objects = Objects {
            nodes: api.list("v1", "Node", "").await,
            pods: api.list("v1", "Pod", "").await,
            services: api.list("v1", "Service", "").await,
            slices: api.list("discovery.k8s.io/v1", "EndpointSlice", "").await,
            service_entries: api.list("networking.istio.io/v1", "ServiceEntry", "").await,
            workload_entries: api.list("networking.istio.io/v1", "WorkloadEntry", "").await,
            authorization_policies: api.list("security.istio.io/v1", "AuthorizationPolicy", "").await,
            peer_authentications: api.list("security.istio.io/v1", "PeerAuthentication", "").await,
        };
        let services = service::services(&objects);
        Self {
            workloads: workload::workloads(&objects, &services),
            services: services
                .into_iter()
                .map(|(key, one)| (key, Service { addresses: one.addresses, ports: one.shown_ports }))
                .collect(),
            policies: policy::policies(&objects),
        }
    }

    /// What a client knows.
    pub fn known(known: &Known) -> Self {
        let ip = |bytes: &[u8]| match bytes.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap()).to_string(),
            _ => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()).to_string(),
        };
        let ports = |list: &PortList| sorted(list.ports.iter().map(|port| (port.service_port, port.target_port)));
        let workloads = known.workloads.iter().map(|(uid, one)| {
            let locality = one.locality.clone().unwrap_or_default();
            let row = Workload {
                addresses: one.addresses.iter().map(|bytes| ip(bytes)).collect(),
                hostname: one.hostname.clone(),
                service_account: one.service_account.clone(),
                node: one.node.clone(),
                locality: format!("{}/{}/{}", locality.region, locality.zone, locality.subzone),
                hbone: one.tunnel_protocol() == TunnelProtocol::Hbone,
                healthy: one.status() == WorkloadStatus::Healthy,
                host_network: one.network_mode() == NetworkMode::HostNetwork,
                services: one.services.iter().map(|(key, list)| (key.clone(), ports(list))).collect(),
                policies: one.authorization_policies.iter().cloned().collect(),
            };
            (uid.clone(), row)
        });
        let services = known.services.iter().map(|(key, one)| {
            let address = |address: &fairway_proto::workload::NetworkAddress| match address.length {
                None => ip(&address.address),
                Some(length) => format!("{}/{length}", ip(&address.address)),
            };
            let ports = sorted(one.ports.iter().map(|port| (port.service_port, port.target_port)));
            (key.clone(), Service { addresses: one.addresses.iter().map(address).collect(), ports })
        });
        let policies = known.policies.iter().map(|(name, one)| {
            (name.clone(), (one.scope().as_str_name().to_string(), one.action().as_str_name().to_string()))
        });
        Self { workloads: workloads.collect(), services: services.collect(), policies: policies.collect() }
    }

    /// What differs, a line each.
    fn differences(&self, known: &Self) -> Vec<String> {
        let mut differences = vec![];
        compare("workload", &self.workloads, &known.workloads, &mut differences);
        compare("service", &self.services, &known.services, &mut differences);
        compare("policy", &self.policies, &known.policies, &mut differences);
        differences
    }

    /// Only what is of some namespaces.
    fn only(mut self, namespaces: &[&str]) -> Self {
        let of = |name: &str| {
            let name = name.trim_start_matches(CLUSTER).trim_start_matches('/');
            namespaces.iter().any(|namespace| name.split('/').any(|part| part == *namespace))
        };
        self.workloads.retain(|name, _| of(name));
        self.services.retain(|name, _| of(name));
        self.policies.retain(|name, _| of(name));
        self
    }
}

fn compare<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &BTreeMap<String, T>,
    known: &BTreeMap<String, T>,
    differences: &mut Vec<String>,
) {
    let names: BTreeSet<_> = expected.keys().chain(known.keys()).collect();
    for name in names {
        match (expected.get(name), known.get(name)) {
            (Some(expected), None) => differences.push(format!("{what} {name} is missing: {expected:?}")),
            (None, Some(known)) => differences.push(format!("{what} {name} should not be there: {known:?}")),
            (Some(expected), Some(known)) if expected != known => {
                differences.push(format!("{what} {name}:\n  expected {expected:?}\n  known    {known:?}"));
            }
            _ => {}
        }
    }
}

/// Waits until a client knows of all namespaces what the API server holds.
pub async fn converged(api: &Api, ztunnel: &Ztunnel) {
    converged_in(api, ztunnel, &[]).await;
}

/// [`converged`] for some namespaces; others may be changing.
pub async fn converged_in(api: &Api, ztunnel: &Ztunnel, namespaces: &[&str]) {
    converged_within(crate::PATIENCE, api, ztunnel, namespaces).await;
}

/// [`converged_in`] with a limit of its own; no namespaces are all of them.
pub async fn converged_within(limit: Duration, api: &Api, ztunnel: &Ztunnel, namespaces: &[&str]) {
    crate::eventually_within(limit, "the client knows what the API server holds", || async {
        let expected = Table::of(api).await;
        let known = ztunnel.read(Table::known);
        let (expected, known) = match namespaces {
            [] => (expected, known),
            some => (expected.only(some), known.only(some)),
        };
        let differences = expected.differences(&known);
        if differences.is_empty() { Ok(()) } else { Err(Lines(differences)) }
    })
    .await;
    ztunnel.assert_correct();
}

/// Lines that are shown as such.
struct Lines(Vec<String>);

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|line| write!(f, "\n{line}"))
    }
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<_> = items.collect();
    items.sort();
    items
}

/// The text at a JSON pointer; empty if there is none.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a JSON pointer; empty if there is none.
fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The map of texts at a JSON pointer.
fn map(value: &Value, pointer: &str) -> BTreeMap<String, String> {
    let map = value.pointer(pointer).and_then(Value::as_object);
    let entries = map.into_iter().flatten();
    entries.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_string())).collect()
}

fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// Older objects come first; those of one second in the order of their names.
fn age(object: &Value) -> (String, String, String) {
    (text(object, "/metadata/creationTimestamp").into(), namespace(object).into(), name(object).into())
}

fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
