use std::net::SocketAddrV4;

use fairway_proto::workload::gateway_address::Destination;
use fairway_proto::workload::{
    GatewayAddress, NamespacedHostname, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload,
};

use super::{Route, outbound};
use crate::ztunnel::table::Table;

const VIP: [u8; 4] = [10, 96, 0, 1];

fn workload(name: &str, ip: u8, tunnel: TunnelProtocol, service: &str, ports: (u32, u32)) -> Workload {
    let ports = PortList { ports: vec![Port { service_port: ports.0, target_port: ports.1, ..Port::default() }] };
    Workload {
        uid: format!("Kubernetes//Pod/n/{name}"),
        name: name.into(),
        namespace: "n".into(),
        service_account: name.into(),
        addresses: vec![vec![10, 244, 0, ip].into()],
        tunnel_protocol: tunnel as i32,
        services: [(format!("n/{service}"), ports)].into(),
        ..Workload::default()
    }
}

fn table(waypoint: Option<&str>) -> Table {
    let hostname = |name: &str| NamespacedHostname { namespace: "n".into(), hostname: name.into() };
    let waypoint = waypoint.map(|name| GatewayAddress {
        destination: Some(Destination::Hostname(hostname(name))),
        hbone_mtls_port: 15008,
    });
    let service = |name: &str, addresses: Vec<NetworkAddress>, waypoint| Service {
        namespace: "n".into(),
        hostname: name.into(),
        addresses,
        waypoint,
        ..Service::default()
    };
    let mut table = Table::default();
    let vip = NetworkAddress { address: VIP.to_vec().into(), ..NetworkAddress::default() };
    table.services.insert("n/a".into(), service("a", vec![vip], waypoint));
    table.services.insert("n/w".into(), service("w", vec![], None));
    for one in [
        workload("hbone", 2, TunnelProtocol::Hbone, "a", (80, 8080)),
        workload("way", 9, TunnelProtocol::None, "w", (15008, 15008)),
        workload("plain", 3, TunnelProtocol::None, "other", (80, 8080)),
    ] {
        table.workloads.insert(one.uid.clone(), one);
    }
    table
}

#[track_caller]
fn check(waypoint: Option<&str>, to: &str, wanted: Result<Route, &str>) {
    let destination: SocketAddrV4 = to.parse().expect("an address and a port");
    let found = outbound(&table(waypoint), &Workload::default(), destination);
    match wanted {
        Ok(wanted) => assert_eq!(found, Ok(wanted)),
        Err(wanted) => assert!(found.clone().is_err_and(|error| error.contains(wanted)), "{found:?}"),
    }
}

fn hbone(to: &str, authority: &str, peer: &str) -> Result<Route, &'static str> {
    let peers = vec![format!("spiffe://cluster.local/ns/n/sa/{peer}")];
    Ok(Route::Hbone { to: to.parse().expect("an address"), authority: authority.into(), peers })
}

#[test]
fn a_service_without_a_waypoint_is_its_endpoints() {
    check(None, "10.96.0.1:80", hbone("10.244.0.2:15008", "10.244.0.2:8080", "hbone"));
    check(None, "10.96.0.1:81", Err("no healthy upstream"));
}

#[test]
fn a_waypoint_is_asked_for_the_service() {
    check(Some("w"), "10.96.0.1:80", hbone("10.244.0.9:15008", "10.96.0.1:80", "way"));
}

#[test]
fn a_waypoint_that_is_not_there_lets_nothing_through() {
    check(Some("nobody"), "10.96.0.1:80", Err("unknown waypoint"));
}

#[test]
fn pods_are_reached_as_they_take_connections() {
    check(None, "10.244.0.2:8080", hbone("10.244.0.2:15008", "10.244.0.2:8080", "hbone"));
    let plain = |address: &str| Ok(Route::Plain(address.parse().expect("an address")));
    check(None, "10.244.0.3:8080", plain("10.244.0.3:8080"));
    check(None, "192.0.2.1:443", plain("192.0.2.1:443"));
}
