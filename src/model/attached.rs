//! Where the workloads are that traffic reaches through a waypoint when it is
//! for their own addresses.
//! <https://istio.io/latest/docs/ambient/usage/waypoint/#waypoint-traffic-types>

use std::net::IpAddr;
use std::sync::Arc;

use crate::api::ObjectKey;
use crate::api::compact::Address;
use crate::api::core::Pod;
use crate::api::istio::ServiceEntry;
use crate::graph::{Collection, Ctx, Graph};

use super::Scope;
use super::selection::Selection;
use super::waypoint::{TrafficType, Waypoint, account, attached};

/// The addresses of the workloads attached to each waypoint that is for
/// workloads, in order.
pub(super) fn workloads(
    graph: &mut Graph,
    scope: &Scope,
    waypoints: Collection<ObjectKey, Waypoint>,
    selection: Selection,
) -> Collection<ObjectKey, Vec<IpAddr>> {
    let inputs = scope.inputs;
    let scope = scope.clone();
    // One of an entry's endpoints may be attached and another not.
    let listed = graph.derive("attached_endpoints", inputs.service_entries, move |cx, key, entry| {
        let endpoints = endpoints(cx, &scope, waypoints, entry);
        (!endpoints.is_empty()).then(|| (key.clone(), endpoints))
    });
    let by_waypoint = graph.index(listed, |_: &ObjectKey, endpoints: &Vec<(ObjectKey, IpAddr)>, keys| {
        keys.extend(endpoints.iter().map(|(waypoint, _)| waypoint.clone()));
        keys.sort_unstable();
        keys.dedup();
    });
    graph.derive("attached_workloads", waypoints, move |cx, key, waypoint| {
        if !waypoint.traffic.covers(&TrafficType::Workload) {
            return None;
        }
        let groups = cx.fetch(selection.of_waypoint, key);
        let pods = groups.flat_map(|(group, _)| cx.fetch(selection.pods, group));
        let mut addresses: Vec<_> = pods.flat_map(|(_, pod)| of_pod(pod)).collect();
        if let Some(account) = &waypoint.account {
            let pods = account::pods(cx, waypoints, selection, &key.namespace, account);
            addresses.extend(pods.into_iter().flat_map(of_pod));
        }
        let entries = cx.fetch(selection.entries_of_waypoint, key);
        let entries = entries.filter_map(|(entry, _)| cx.get(inputs.workload_entries, entry));
        addresses.extend(entries.filter_map(|entry| entry.spec.address.parse::<IpAddr>().ok()));
        let listed = cx.fetch(by_waypoint, key).flat_map(|(_, endpoints)| endpoints);
        addresses.extend(listed.filter(|(waypoint, _)| waypoint == key).map(|(_, address)| *address));
        addresses.sort_unstable();
        addresses.dedup();
        Some((key.clone(), addresses))
    })
}

/// The addresses that are a pod's own.
fn of_pod(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let own = !pod.status.ended && !pod.spec.template.host_network;
    pod.status.addresses.iter().filter(move |_| own).filter_map(|address| match address {
        Address::Ip(address) => Some(address),
        Address::Text(_) => None,
    })
}

fn endpoints(
    cx: &Ctx<'_>,
    scope: &Scope,
    waypoints: Collection<ObjectKey, Waypoint>,
    entry: &ServiceEntry,
) -> Vec<(ObjectKey, IpAddr)> {
    if entry.spec.endpoints.is_empty() || !scope.configures(cx, &entry.meta) {
        return Vec::new();
    }
    let namespace: &Arc<str> = &entry.meta.namespace;
    let endpoint = |endpoint: &crate::api::istio::WorkloadEntrySpec| {
        let address = endpoint.address.parse().ok()?;
        let labels = endpoint.labels.clone().unwrap_or_default();
        // Why one is not attached is said where it becomes a workload.
        let found = attached(cx, scope, waypoints, namespace, &labels, &TrafficType::Workload).ok()??;
        Some((found.0, address))
    };
    entry.spec.endpoints.iter().filter_map(endpoint).collect()
}
