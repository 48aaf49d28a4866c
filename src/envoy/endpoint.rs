//! `ClusterLoadAssignment`: where the traffic of a cluster can go.

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
use crate::model::endpoint::{Endpoint, Locality};

/// The internal listener or cluster that opens HBONE connections.
pub const CONNECT_ORIGINATE: &str = "connect_originate";

/// Endpoints of a port of a service, by where they are. `proxy` is where the
/// proxy is, which the model does not know yet; all localities are equal.
pub fn assignment<'a>(
    cluster: &str,
    port: u16,
    cluster_id: &str,
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
) -> ClusterLoadAssignment {
    let mut localities: BTreeMap<&Locality, Vec<LbEndpoint>> = BTreeMap::new();
    // An Envoy would send them traffic once most endpoints are not ready.
    for endpoint in endpoints.into_iter().filter(|endpoint| endpoint.healthy) {
        localities.entry(&endpoint.locality).or_default().extend(lb_endpoint(endpoint, port, cluster_id));
    }
    let endpoints = localities.into_iter().filter(|(_, endpoints)| !endpoints.is_empty());
    ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: endpoints.map(|(locality, endpoints)| locality_endpoints(locality, endpoints)).collect(),
        ..Default::default()
    }
}

fn locality_endpoints(locality: &Locality, endpoints: Vec<LbEndpoint>) -> LocalityLbEndpoints {
    let Locality { region, zone, subzone } = locality;
    let weight = endpoints.iter().filter_map(|one| one.load_balancing_weight.as_ref());
    let weight = weight.fold(0_u32, |sum, one| sum.saturating_add(one.value));
    LocalityLbEndpoints {
        locality: Some(WireLocality {
            region: region.to_string(),
            zone: zone.to_string(),
            sub_zone: subzone.to_string(),
        }),
        lb_endpoints: endpoints,
        load_balancing_weight: uint32(weight),
        ..Default::default()
    }
}

fn lb_endpoint(endpoint: &Endpoint, port: u16, cluster_id: &str) -> Option<LbEndpoint> {
    let (_, target) = endpoint.ports.iter().find(|(number, _)| *number == port)?;
    let address = SocketAddr::new(*endpoint.addresses.first()?, *target);
    // Two of Kubernetes' names make up the workload; the rest is for telemetry.
    let revision =
        endpoint.labels.get("service.istio.io/canonical-revision").or_else(|| endpoint.labels.get("version"));
    let canonical = endpoint.labels.get("service.istio.io/canonical-name").or_else(|| endpoint.labels.get("app"));
    let workload = format!(
        "{};{};{};{};{cluster_id}",
        endpoint.name,
        endpoint.namespace,
        canonical.unwrap_or_default(),
        revision.unwrap_or_default()
    );
    let mut metadata = vec![("istio", fields([("workload", workload)]))];
    let address = if endpoint.hbone {
        metadata.push((ORIGINAL_DST, fields([("local", address.to_string())])));
        internal(CONNECT_ORIGINATE, &address.to_string())
    } else {
        socket(address)
    };
    Some(LbEndpoint {
        health_status: HealthStatus::Healthy.into(),
        metadata: Some(filter_metadata(metadata)),
        load_balancing_weight: uint32(endpoint.weight.max(1)),
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
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
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
