//! Where a ztunnel sends what a pod sends: to a waypoint, to a ztunnel, or on
//! as it is.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicUsize, Ordering};

use fairway_proto::workload::gateway_address::Destination;
use fairway_proto::workload::{
    GatewayAddress, NetworkAddress, Service, TunnelProtocol, Workload, WorkloadStatus, load_balancing,
};

use crate::stage::network::INBOUND_HBONE;
use crate::ztunnel::table::Table;

/// What to do with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To send it on.
    Plain(SocketAddr),
    /// To carry it through a tunnel.
    Hbone {
        /// Where HBONE is taken.
        to: SocketAddr,
        /// What the tunnel is asked for.
        authority: String,
        /// Who may be there.
        peers: Vec<String>,
    },
}

/// The SPIFFE ID of a workload.
pub(super) fn identity(workload: &Workload) -> String {
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    let domain = or(&workload.trust_domain, "cluster.local");
    format!("spiffe://{domain}/ns/{}/sa/{}", workload.namespace, or(&workload.service_account, "default"))
}

/// Where a connection of a pod goes.
pub(super) fn outbound(table: &Table, source: &Workload, destination: SocketAddrV4) -> Result<Route, String> {
    let (ip, port) = (*destination.ip(), u32::from(destination.port()));
    if let Some(service) = service_of(table, source, ip) {
        if let Some(waypoint) = &service.waypoint {
            return to_waypoint(table, waypoint, destination);
        }
        let (workload, target) = endpoint(table, service, port)?;
        return to_workload(workload, target, &service.subject_alt_names);
    }
    match workload_of(table, ip) {
        Some(workload) => match &workload.waypoint {
            Some(waypoint) => to_waypoint(table, waypoint, destination),
            None => to_workload(workload, destination.port(), &[]),
        },
        None => Ok(Route::Plain(destination.into())),
    }
}

/// The service of an address; that of the client's own namespace first.
fn service_of<'a>(table: &'a Table, source: &Workload, ip: Ipv4Addr) -> Option<&'a Service> {
    let is = |address: &NetworkAddress| *address.address == ip.octets() && matches!(address.length, None | Some(32));
    let mut found: Vec<_> = table.services.values().filter(|one| one.addresses.iter().any(is)).collect();
    found.sort_by_key(|one| (one.namespace != source.namespace, !one.canonical));
    found.first().copied()
}

fn workload_of(table: &Table, ip: Ipv4Addr) -> Option<&Workload> {
    table.workloads.values().find(|one| one.addresses.iter().any(|address| **address == ip.octets()))
}

fn to_workload(workload: &Workload, port: u16, names: &[String]) -> Result<Route, String> {
    let ip = address(workload)?;
    if workload.tunnel_protocol != TunnelProtocol::Hbone as i32 {
        return Ok(Route::Plain((ip, port).into()));
    }
    let peers = [identity(workload)].into_iter().chain(names.iter().cloned()).collect();
    Ok(Route::Hbone { to: (ip, INBOUND_HBONE).into(), authority: format!("{ip}:{port}"), peers })
}

/// To a waypoint, which is asked for what the pod wanted. One that cannot be
/// found lets nothing through.
fn to_waypoint(table: &Table, waypoint: &GatewayAddress, wanted: SocketAddrV4) -> Result<Route, String> {
    let port = waypoint.hbone_mtls_port;
    let unknown = || format!("unknown waypoint {waypoint:?}");
    let (workload, target, names) = match waypoint.destination.as_ref().ok_or_else(unknown)? {
        Destination::Hostname(host) => {
            let service = table.services.get(&format!("{}/{}", host.namespace, host.hostname)).ok_or_else(unknown)?;
            let (workload, target) = endpoint(table, service, port)?;
            (workload, target, service.subject_alt_names.clone())
        }
        Destination::Address(network) => {
            let octets: [u8; 4] = network.address.as_ref().try_into().map_err(|_| unknown())?;
            let ip = Ipv4Addr::from(octets);
            match table.services.values().find(|one| one.addresses.iter().any(|it| *it.address == octets)) {
                Some(service) => {
                    let (workload, target) = endpoint(table, service, port)?;
                    (workload, target, service.subject_alt_names.clone())
                }
                None => (workload_of(table, ip).ok_or_else(unknown)?, port as u16, vec![]),
            }
        }
    };
    let peers = [identity(workload)].into_iter().chain(names).collect();
    Ok(Route::Hbone { to: (address(workload)?, target).into(), authority: wanted.to_string(), peers })
}

/// One of a service's endpoints, each in turn, and its port.
fn endpoint<'a>(table: &'a Table, service: &Service, port: u32) -> Result<(&'a Workload, u16), String> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let key = format!("{}/{}", service.namespace, service.hostname);
    let all = load_balancing::HealthPolicy::AllowAll as i32;
    let any = service.load_balancing.as_ref().is_some_and(|balancing| balancing.health_policy == all);
    let target = |workload: &Workload| {
        let own = workload.services.get(&key)?;
        let own = own.ports.iter().find(|one| one.service_port == port).map(|one| one.target_port);
        let of_service = || service.ports.iter().find(|one| one.service_port == port).map(|one| one.target_port);
        own.or_else(of_service).filter(|target| *target != 0).map(|target| target as u16)
    };
    let healthy = table.workloads.values().filter(|one| any || one.status == WorkloadStatus::Healthy as i32);
    let found: Vec<_> = healthy.filter_map(|one| Some((one, target(one)?))).collect();
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    found.get(turn % found.len().max(1)).copied().ok_or_else(|| format!("no healthy upstream: {key} port {port}"))
}

fn address(workload: &Workload) -> Result<Ipv4Addr, String> {
    let octets = workload.addresses.iter().find_map(|address| <[u8; 4]>::try_from(address.as_ref()).ok());
    octets.map(Ipv4Addr::from).ok_or_else(|| format!("{} has no address", workload.uid))
}

#[cfg(test)]
mod tests;
