//! What is behind a service: the places where its traffic can go, as an Envoy
//! balances over them.

mod entry;
mod pod;
mod slice;

use std::net::IpAddr;
use std::sync::Arc;

use crate::api::{Labels, Meta, ObjectKey, intern};
use crate::graph::Ctx;

use super::binding::ingress_use;
use super::service::{Registry, Service, ServiceKey};
use super::{Model, waypoint};

pub use entry::entry_port;
pub use pod::target_port;

/// A place where traffic of a service can go.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it is reached.
    pub address: Address,
    /// Where it listens for each port of the service, by the port's number.
    pub ports: Vec<(u16, u16)>,
    /// The labels that subsets go by.
    pub labels: Labels,
    /// Whether it may get traffic.
    pub healthy: bool,
    /// Whether it only gets traffic of sessions that have begun.
    pub draining: bool,
    /// Whether it is reached through a tunnel of HBONE.
    pub hbone: bool,
    /// Where it is.
    pub locality: Locality,
    /// The Kubernetes node it is on; empty if that is not known.
    pub node: Arc<str>,
    /// The network it is on; empty is that of the cluster.
    pub network: Arc<str>,
    /// Its share of traffic.
    pub weight: u32,
    /// The namespace it is in.
    pub namespace: Arc<str>,
    /// The name of the object it comes from.
    pub name: Arc<str>,
    /// What telemetry calls it.
    pub workload: Arc<str>,
}

/// Where an endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// At any of these.
    Ips(Vec<IpAddr>),
    /// At what DNS says of this name.
    Hostname(Arc<str>),
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
    /// From `region/zone/subzone`, of which the end may be missing.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split('/');
        Self::new(std::array::from_fn(|_| parts.next().unwrap_or_default()))
    }

    /// What the labels of a workload say, whatever its node or its object says.
    /// A label cannot hold a slash, so there a dot stands for it.
    /// <https://istio.io/latest/docs/reference/config/labels/>
    pub fn of_labels<'a>(label: impl Fn(&'static str) -> Option<&'a str>) -> Option<Self> {
        let text = label("topology.istio.io/locality").or_else(|| label("istio-locality"))?;
        match text.contains('/') {
            _ if text.is_empty() => None,
            true => Some(Self::parse(text)),
            false => Some(Self::parse(&text.replace('.', "/"))),
        }
    }

    fn new(parts: [&str; 3]) -> Self {
        let [region, zone, subzone] = parts.map(intern);
        Self { region, zone, subzone }
    }

    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.subzone.is_empty()
    }
}

/// What a share of one percent weighs, so that little is lost when it is divided
/// by the number of instances.
const SHARE: u32 = 10_000;

impl Model {
    /// What is behind a service, ordered by namespace and name.
    pub fn endpoints(&self, cx: &Ctx<'_>, service: &Service) -> Vec<Endpoint> {
        let mut endpoints = self.selected_pods(cx, service);
        endpoints.extend(self.selected_entries(cx, service));
        match service.registry {
            Registry::Kubernetes => endpoints.extend(self.sliced(cx, service)),
            Registry::ServiceEntry => endpoints.extend(self.listed(cx, service)),
        }
        if endpoints.iter().any(|endpoint| !endpoint.network.is_empty()) {
            self.keep_reachable(cx, &mut endpoints);
        }
        // What an object lists stays in its order.
        endpoints.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        endpoints
    }

    /// The waypoint that traffic from gateways to a service goes through, if it is
    /// asked for: where it takes HBONE, as endpoints for that port. If there is
    /// none of it, traffic does not go past it.
    pub fn ingress_waypoint(&self, cx: &Ctx<'_>, service: &Service) -> Option<Vec<Endpoint>> {
        let key = cx.get(self.service_waypoints, &service.key)?;
        if service.addresses.is_empty() || ingress_use(cx, self, &service.meta) != Some(true) {
            return None;
        }
        let Some(canary) = cx.get(self.service_canaries, &service.key) else {
            return self.instances(cx, key);
        };
        // Each has its share, whatever the number of its instances.
        let shares = [(key, 100_u32.saturating_sub(canary.weight)), (&canary.waypoint, canary.weight)];
        let weighted = shares.into_iter().filter(|(_, share)| *share > 0).flat_map(|(waypoint, share)| {
            let mut instances = self.instances(cx, waypoint).unwrap_or_default();
            let count = u32::try_from(instances.len()).unwrap_or(u32::MAX).max(1);
            instances.iter_mut().for_each(|one| one.weight = (share * SHARE / count).max(1));
            instances
        });
        Some(weighted.collect())
    }

    /// Where a waypoint takes HBONE; `None` if there is no such waypoint.
    fn instances(&self, cx: &Ctx<'_>, key: &ObjectKey) -> Option<Vec<Endpoint>> {
        Some(match &cx.get(self.waypoints, key)?.address {
            waypoint::Address::Hostname(hostname) => {
                let key = ServiceKey { namespace: key.namespace.clone(), hostname: hostname.clone() };
                cx.get(self.services, &key).map(|service| self.endpoints(cx, service)).unwrap_or_default()
            }
            waypoint::Address::Ip(address) => vec![Endpoint {
                address: Address::Ips(vec![*address]),
                ports: vec![(waypoint::PORT, waypoint::PORT)],
                labels: Labels::default(),
                healthy: true,
                draining: false,
                hbone: true,
                locality: Locality::default(),
                node: "".into(),
                network: "".into(),
                weight: 1,
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                workload: key.name.clone(),
            }],
        })
    }

    /// Leaves out what is on a network that has a gateway: it is reached through
    /// that alone.
    fn keep_reachable(&self, cx: &Ctx<'_>, endpoints: &mut Vec<Endpoint>) {
        let own = self.scope.network(cx);
        endpoints.retain_mut(|endpoint| {
            if *endpoint.network == *own {
                endpoint.network = intern("");
            }
            let network = &endpoint.network;
            network.is_empty() || cx.fetch(self.network_gateways_by_network, network).next().is_none()
        });
    }

    /// Where a Kubernetes node is.
    pub fn locality_of_node(&self, cx: &Ctx<'_>, node: &Arc<str>) -> Locality {
        Locality::new(self.node_locality(cx, node))
    }
}

/// Whether a workload is reached by HBONE: the CNI redirects it, or it says
/// that it speaks HBONE itself. The namespace's label plays no part.
pub fn tunnels(meta: &Meta) -> bool {
    meta.annotation("ambient.istio.io/redirection") == Some("enabled") || speaks_hbone(&meta.labels)
}

/// Whether labels say that a workload speaks HBONE itself.
pub fn speaks_hbone(labels: &Labels) -> bool {
    labels.get("networking.istio.io/tunnel").is_some_and(|tunnels| tunnels.split(',').any(|one| one == "http"))
}
