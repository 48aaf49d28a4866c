//! What ztunnel refuses. One such resource in the first response keeps a node
//! from ever becoming ready.

use fairway_proto::{security, workload};
use workload::address::Type;

/// Decodes an address; an error is ztunnel's reason for a NACK.
pub fn address(bytes: &[u8]) -> Result<Type, String> {
    let address: workload::Address = decode(bytes)?;
    let address = address.r#type.ok_or("unknown address type")?;
    match &address {
        Type::Workload(workload) => check_workload(workload)?,
        Type::Service(service) => check_service(service)?,
    }
    Ok(address)
}

/// Decodes a policy; an error is ztunnel's reason for a NACK.
pub fn authorization(bytes: &[u8]) -> Result<security::Authorization, String> {
    let policy: security::Authorization = decode(bytes)?;
    known::<security::Scope>("scope", policy.scope)?;
    known::<security::Action>("action", policy.action)?;
    Ok(policy)
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, String> {
    M::decode(bytes).map_err(|error| format!("decode: {error}"))
}

fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<E, String> {
    E::try_from(value).map_err(|_| format!("unknown {field} {value}"))
}

fn check_workload(workload: &workload::Workload) -> Result<(), String> {
    workload.addresses.iter().try_for_each(|address| check_ip(address))?;
    if known::<workload::TunnelProtocol>("tunnel_protocol", workload.tunnel_protocol)?
        == workload::TunnelProtocol::LegacyIstioMtls
    {
        return Err("LEGACY_ISTIO_MTLS".into());
    }
    workload.waypoint.iter().try_for_each(check_gateway)?;
    workload.network_gateway.iter().try_for_each(check_gateway)?;
    known::<workload::WorkloadStatus>("status", workload.status)?;
    known::<workload::NetworkMode>("network_mode", workload.network_mode)?;
    if let Some(tunnel) = &workload.application_tunnel {
        known::<workload::application_tunnel::Protocol>("application_tunnel", tunnel.protocol)?;
    }
    match workload.services.keys().find(|key| !key.contains('/')) {
        Some(key) => Err(format!("services key {key:?} has no /")),
        None => Ok(()),
    }
}

fn check_service(service: &workload::Service) -> Result<(), String> {
    service.addresses.iter().try_for_each(check_network_address)?;
    service.waypoint.iter().try_for_each(check_gateway)?;
    for waypoint in &service.weighted_waypoints {
        check_gateway(waypoint.destination.as_ref().ok_or("weighted waypoint without destination")?)?;
    }
    known::<workload::IpFamilies>("ip_families", service.ip_families)?;
    if let Some(balancing) = &service.load_balancing {
        use workload::load_balancing::{HealthPolicy, Mode, Scope};
        known::<Mode>("mode", balancing.mode)?;
        known::<HealthPolicy>("health_policy", balancing.health_policy)?;
        for scope in &balancing.routing_preference {
            if known::<Scope>("routing_preference", *scope)? == Scope::UnspecifiedScope {
                return Err("routing_preference UNSPECIFIED_SCOPE".into());
            }
        }
    }
    Ok(())
}

fn check_gateway(gateway: &workload::GatewayAddress) -> Result<(), String> {
    use workload::gateway_address::Destination;
    match &gateway.destination {
        Some(Destination::Hostname(_)) => Ok(()),
        Some(Destination::Address(address)) => check_network_address(address),
        None => Err("gateway without destination".into()),
    }
}

fn check_network_address(address: &workload::NetworkAddress) -> Result<(), String> {
    check_ip(&address.address)?;
    match address.length {
        Some(length) if length as usize > address.address.len() * 8 => Err(format!("prefix length {length}")),
        _ => Ok(()),
    }
}

fn check_ip(bytes: &[u8]) -> Result<(), String> {
    match bytes.len() {
        4 | 16 => Ok(()),
        length => Err(format!("address of {length} bytes")),
    }
}
