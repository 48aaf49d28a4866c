//! What ztunnel is told: the address table (`istio.workload.Address`) and L4
//! policies (`istio.security.Authorization`), as encoded resources.
//!
//! Each kind of object has a transform here that goes straight from the object
//! to its resource, so that no second form of a workload is kept. Names, uids
//! and fields are those a real istiod sends; where it is known to be wrong,
//! `docs/differences.md` says what we do instead.

mod authorization;
mod endpoint_slice;
mod entry;
mod gateway;
mod peer_authentication;
mod pod;
mod service;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use fairway_proto::workload as proto;
use prost::Message;

use crate::api::{Labels, Meta, intern};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::waypoint::{Address, Target, TrafficType, Waypoint};
use crate::model::{Model, Scope};
use crate::xds::resource::{Keys, Resource, ResourceType};

/// The collections that are sent: each row is a resource under its name.
#[derive(Clone)]
pub struct Resources {
    /// Workloads and services. No two collections share a name.
    pub addresses: Vec<Collection<Arc<str>, Resource>>,
    /// Policies. No two collections share a name.
    pub authorizations: Vec<Collection<Arc<str>, Resource>>,
}

/// Declares the collections.
pub fn resources(graph: &mut Graph, model: &Model) -> Resources {
    Resources {
        addresses: vec![
            pod::workloads(graph, model),
            entry::workload_entries(graph, model),
            entry::service_entry_endpoints(graph, model),
            endpoint_slice::workloads(graph, model),
            gateway::workloads(graph, model),
            service::services(graph, model),
        ],
        authorizations: vec![
            authorization::authorizations(graph, model),
            peer_authentication::static_strict(graph, model),
            peer_authentication::converted(graph, model),
        ],
    }
}

/// A row of the address table for a workload.
fn workload_row(workload: proto::Workload) -> (Arc<str>, Resource) {
    let name: Arc<str> = workload.uid.as_str().into();
    let by_address = workload.network_mode() == proto::NetworkMode::Standard;
    let addresses = workload.addresses.iter().filter(|_| by_address).filter_map(|bytes| ip(bytes));
    let keys = Keys {
        aliases: addresses.map(|address| format!("{}/{address}", workload.network).into()).collect(),
        related: workload.services.keys().map(|service| intern(service)).collect(),
        node: (!workload.node.is_empty()).then(|| intern(&workload.node)),
    };
    let address = proto::Address { r#type: Some(proto::address::Type::Workload(workload)) };
    let resource = Resource::new(ResourceType::Address, &name, &address.encode_to_vec(), &keys);
    (name, resource)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

fn octets(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    }
}

/// The trust domain as ztunnel expects it: empty is `cluster.local`.
fn trust_domain(cx: &Ctx<'_>, scope: &Scope) -> String {
    match &*scope.mesh(cx).trust_domain {
        "cluster.local" => String::new(),
        domain => domain.to_string(),
    }
}

/// Where traffic for a waypoint goes.
fn waypoint_address(cx: &Ctx<'_>, scope: &Scope, namespace: &str, waypoint: &Waypoint) -> proto::GatewayAddress {
    use proto::gateway_address::Destination;
    let destination = match &waypoint.address {
        Address::Hostname(hostname) => Destination::Hostname(proto::NamespacedHostname {
            namespace: namespace.to_string(),
            hostname: hostname.to_string(),
        }),
        Address::Ip(address) => Destination::Address(proto::NetworkAddress {
            network: scope.network(cx).to_string(),
            address: octets(*address),
            length: None,
        }),
    };
    let hbone_mtls_port = crate::model::waypoint::PORT.into();
    proto::GatewayAddress { destination: Some(destination), hbone_mtls_port }
}

/// What a workload has to do with waypoints: the tunnel of an instance, or
/// the waypoint that traffic to its own address goes through.
fn waypoint_fields(
    cx: &Ctx<'_>,
    model: &Model,
    kind: &'static str,
    meta: &Meta,
    labels: &Labels,
) -> (Option<proto::ApplicationTunnel>, Option<proto::GatewayAddress>) {
    if let Some(instance) = model.instance_of(cx, &meta.namespace, labels) {
        let tunnel = instance
            .binding
            .map(|binding| proto::ApplicationTunnel { protocol: binding.protocol.into(), port: binding.port.into() });
        return (tunnel, None);
    }
    let target = Target { kind, meta, labels, traffic: TrafficType::Workload };
    let waypoint = model.waypoint(cx, &target);
    (None, waypoint.map(|(key, waypoint)| waypoint_address(cx, model.scope(), &key.namespace, waypoint)))
}

/// Sets how the workload is reached: HBONE if the CNI redirects it, or if it
/// says that it speaks HBONE itself. The namespace's label plays no part.
fn set_tunnel(workload: &mut proto::Workload, meta: &Meta, labels: &Labels) {
    let redirected = meta.annotation("ambient.istio.io/redirection") == Some("enabled");
    let native =
        labels.get("networking.istio.io/tunnel").is_some_and(|tunnels| tunnels.split(',').any(|one| one == "http"));
    workload.native_tunnel = native;
    workload.set_tunnel_protocol(match redirected || native {
        true => proto::TunnelProtocol::Hbone,
        false => proto::TunnelProtocol::None,
    });
}

/// Sets the names telemetry knows the workload by.
/// <https://istio.io/latest/docs/ops/configuration/telemetry/canonical-service/>
fn set_canonical(workload: &mut proto::Workload, labels: &Labels, name: &str) {
    let first =
        |keys: [&str; 3], default: &str| keys.iter().find_map(|key| labels.get(key)).unwrap_or(default).to_string();
    workload.workload_name = name.to_string();
    let names = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
    workload.canonical_name = first(names, name);
    let revisions = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
    workload.canonical_revision = first(revisions, "latest");
}

/// The policies a workload names: those that select it, then those that stand
/// for its PeerAuthentication.
fn policies(cx: &Ctx<'_>, model: &Model, namespace: &Arc<str>, labels: &Labels) -> Vec<String> {
    let scope = model.scope();
    let selecting = model.selector_policies.of_workload(cx, scope, namespace, labels);
    let mut names: Vec<_> = selecting.into_iter().map(ToString::to_string).collect();
    names.extend(peer_authentication::of_workload(cx, model, scope, namespace, labels));
    names
}

/// The gateway to a network that is not the cluster's own.
fn network_gateway(cx: &Ctx<'_>, model: &Model, network: &str) -> Option<proto::GatewayAddress> {
    use proto::gateway_address::Destination;
    if network.is_empty() {
        return None;
    }
    let (key, gateway) = cx.fetch(model.network_gateways_by_network, &intern(network)).next()?;
    let destination = match key.address.parse::<IpAddr>() {
        Ok(address) => Destination::Address(proto::NetworkAddress {
            network: network.to_string(),
            address: octets(address),
            length: None,
        }),
        Err(_) => Destination::Hostname(proto::NamespacedHostname {
            namespace: gateway.namespace.to_string(),
            hostname: key.address.to_string(),
        }),
    };
    Some(proto::GatewayAddress { destination: Some(destination), hbone_mtls_port: key.port.into() })
}

/// `region/zone/subzone`; nothing if all are empty.
fn locality(region: &str, zone: &str, subzone: &str) -> Option<proto::Locality> {
    let any = !(region.is_empty() && zone.is_empty() && subzone.is_empty());
    any.then(|| proto::Locality { region: region.into(), zone: zone.into(), subzone: subzone.into() })
}
