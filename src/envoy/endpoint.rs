//! `ClusterLoadAssignment`: where the traffic of a cluster can go.

pub mod locality;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::envoy_internal_address::AddressNameSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, EnvoyInternalAddress, HealthStatus, Locality as WireLocality, Metadata, SocketAddress,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as WireEndpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use super::encode::uint32;
use super::tls::ORIGINAL_DST;
use crate::model::endpoint::{Address as EndpointAddress, Endpoint, Locality};
use crate::model::service::{Distribution, Service};
use crate::proxy::Place;
use crate::proxy::scope::Families;
use locality::{Group, Preference};

/// The internal listener or cluster that opens HBONE connections.
pub const CONNECT_ORIGINATE: &str = "connect_originate";

/// The label of workloads with a sidecar, whose value `istio` says that they
/// take mutual TLS.
pub const TLS_MODE: &str = "security.istio.io/tlsMode";
/// The metadata of an endpoint that says which socket of its cluster is for it.
const SOCKET: &str = "envoy.transport_socket_match";

/// Who the endpoints are for, and of what.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The service.
    pub service: &'a Service,
    /// The port of the service.
    pub port: u16,
    /// What the cluster of Kubernetes is called.
    pub cluster_id: &'a str,
    /// The address families of the proxy.
    pub families: Families,
    /// Where the proxy is.
    pub place: &'a Place,
    /// Whether names are resolved; if so, no tunnel can be opened.
    pub by_dns: bool,
    /// How the proxy reaches workloads.
    pub reach: Reach,
    /// Whether an endpoint takes the mutual TLS of sidecars on a port of its own.
    pub takes_mutual: &'a dyn Fn(&Endpoint, u16) -> bool,
}

/// How a proxy reaches workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By HBONE if that is how they are reached, else as they are: at a waypoint.
    /// Its clusters have one socket, which passes other connections through.
    Tunnel,
    /// By the mutual TLS of sidecars too, if it is `mutual`: at a gateway. A
    /// workload that has both is reached by mutual TLS, as in Istio. An endpoint
    /// says which of its cluster's sockets is for it.
    Sockets {
        /// Whether mutual TLS may be used.
        mutual: bool,
    },
    /// As they are, with what is passed on to them: the mutual TLS of sidecars,
    /// hence only if they take it.
    Passed,
    /// They are waypoints, which are asked for this address of a service.
    Through(SocketAddr),
}

/// The endpoints that a proxy can use, by where they are and by preference.
pub fn localities<'a>(
    request: &Request<'_>,
    preference: &Preference<'_>,
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
) -> Vec<LocalityLbEndpoints> {
    let Request { service, place, .. } = *request;
    let local = service.distribution == Distribution::LocalNode && !place.node.is_empty();
    // An Envoy would send traffic to those that are not ready once most are not.
    // It is only told of them where it has to see that the near ones are few.
    let all = matches!(service.distribution, Distribution::PreferSameZone | Distribution::PreferSameNode);
    let mut groups: BTreeMap<&Locality, Vec<(&Endpoint, LbEndpoint)>> = BTreeMap::new();
    for endpoint in endpoints {
        if (local && endpoint.node != place.node) || !(endpoint.healthy || all) {
            continue;
        }
        if let Some(lb) = lb_endpoint(endpoint, request) {
            groups.entry(&endpoint.locality).or_default().push((endpoint, lb));
        }
    }
    let groups = groups.into_iter().map(|(locality, endpoints)| Group::new(locality, endpoints)).collect();
    let groups = locality::arranged(groups, preference, place);
    groups.into_iter().map(locality_endpoints).collect()
}

/// Endpoints that a cluster asks for.
pub fn assignment(cluster: &str, endpoints: Vec<LocalityLbEndpoints>) -> ClusterLoadAssignment {
    ClusterLoadAssignment { cluster_name: cluster.into(), endpoints, ..Default::default() }
}

fn locality_endpoints(group: Group<'_>) -> LocalityLbEndpoints {
    let Locality { region, zone, subzone } = group.locality;
    LocalityLbEndpoints {
        locality: Some(WireLocality {
            region: region.to_string(),
            zone: zone.to_string(),
            sub_zone: subzone.to_string(),
        }),
        lb_endpoints: group.endpoints.into_iter().map(|(_, endpoint)| endpoint).collect(),
        load_balancing_weight: uint32(group.weight),
        priority: group.priority,
        ..Default::default()
    }
}

/// `None` if the endpoint is not there for the port, or the proxy has not its
/// address family.
fn lb_endpoint(endpoint: &Endpoint, request: &Request<'_>) -> Option<LbEndpoint> {
    let (_, target) = endpoint.ports.iter().find(|(number, _)| *number == request.port)?;
    // Two of Kubernetes' names make up the workload; the rest is for telemetry.
    let revision =
        endpoint.labels.get("service.istio.io/canonical-revision").or_else(|| endpoint.labels.get("version"));
    let canonical = endpoint.labels.get("service.istio.io/canonical-name").or_else(|| endpoint.labels.get("app"));
    let workload = format!(
        "{};{};{};{};{}",
        endpoint.workload,
        endpoint.namespace,
        canonical.unwrap_or_default(),
        revision.unwrap_or_default(),
        request.cluster_id,
    );
    let mut metadata = vec![("istio", fields([("workload", workload)]))];
    let address = match &endpoint.address {
        EndpointAddress::Hostname(name) => named(name, *target),
        EndpointAddress::Ips(addresses) => {
            let usable = |address: &&IpAddr| match request.families {
                Families::V4 => address.is_ipv4(),
                Families::V6 => address.is_ipv6(),
                Families::Dual => true,
            };
            let address = SocketAddr::new(*addresses.iter().find(usable)?, *target);
            let mutual = request.reach != Reach::Tunnel && (request.takes_mutual)(endpoint, *target);
            match request.reach {
                Reach::Sockets { mutual: true } if mutual => {
                    metadata.push((SOCKET, fields([("tlsMode", "istio".to_owned())])));
                    socket(address)
                }
                Reach::Through(destination) => {
                    let waypoint = address.to_string();
                    metadata.push((SOCKET, fields([("tunnel", "http".to_owned())])));
                    let to = [("local", destination.to_string()), ("waypoint", waypoint.clone())];
                    metadata.push((ORIGINAL_DST, fields(to)));
                    internal(CONNECT_ORIGINATE, &waypoint)
                }
                Reach::Passed if !mutual => return None,
                Reach::Passed => socket(address),
                Reach::Sockets { .. } if mutual => socket(address),
                Reach::Tunnel | Reach::Sockets { .. } if endpoint.hbone && !request.by_dns => {
                    if request.reach != Reach::Tunnel {
                        metadata.push((SOCKET, fields([("tunnel", "http".to_owned())])));
                    }
                    metadata.push((ORIGINAL_DST, fields([("local", address.to_string())])));
                    internal(CONNECT_ORIGINATE, &address.to_string())
                }
                Reach::Tunnel | Reach::Sockets { .. } => socket(address),
            }
        }
    };
    Some(LbEndpoint {
        health_status: match (endpoint.draining, endpoint.healthy) {
            (true, _) => HealthStatus::Draining,
            (false, true) => HealthStatus::Healthy,
            (false, false) => HealthStatus::Unhealthy,
        }
        .into(),
        metadata: Some(filter_metadata(metadata)),
        load_balancing_weight: uint32(endpoint.weight),
        host_identifier: Some(HostIdentifier::Endpoint(WireEndpoint { address: Some(address), ..Default::default() })),
    })
}

/// Metadata of these namespaces.
pub fn filter_metadata(namespaces: impl IntoIterator<Item = (&'static str, Struct)>) -> Metadata {
    let filter_metadata = namespaces.into_iter().map(|(name, fields)| (name.to_owned(), fields)).collect();
    Metadata { filter_metadata, typed_filter_metadata: HashMap::new() }
}

/// Fields that are texts.
pub fn fields(fields: impl IntoIterator<Item = (&'static str, String)>) -> Struct {
    let value = |text| Value { kind: Some(Kind::StringValue(text)) };
    Struct { fields: fields.into_iter().map(|(name, text)| (name.to_owned(), value(text))).collect() }
}

/// An address on the network.
pub fn socket(address: SocketAddr) -> Address {
    named(&address.ip().to_string(), address.port())
}

/// An address on the network, possibly one that is still to be resolved.
fn named(host: &str, port: u16) -> Address {
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: host.into(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}

/// The wildcard address of a family.
pub fn wildcard(v6: bool) -> IpAddr {
    if v6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { std::net::Ipv4Addr::UNSPECIFIED.into() }
}

/// An internal listener. Endpoints of one listener are told apart by their ids.
pub fn internal(listener: &str, id: &str) -> Address {
    Address {
        address: Some(AddressKind::EnvoyInternalAddress(EnvoyInternalAddress {
            endpoint_id: id.into(),
            address_name_specifier: Some(AddressNameSpecifier::ServerListenerName(listener.into())),
        })),
    }
}
