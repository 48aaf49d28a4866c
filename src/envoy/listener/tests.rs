//! Where waypoints listen, and which ports they look into.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::listener::v3::listener_filter_chain_match_predicate::Rule;

use super::*;
use crate::proxy::{Place, WaypointScope};

fn terminate(families: Families, loopback: Option<&str>) -> Vec<String> {
    let scope = Scope::from(WaypointScope {
        namespace: "ns".into(),
        gateway: "wp".into(),
        capabilities: Capabilities::STOCK,
        families,
        loopback: loopback.map(|address| address.parse().unwrap()),
        place: Place::default(),
    });
    let listener = connect_terminate(&scope, &["cluster.local"], &MeshConfig::default(), Vec::new());
    let more = listener.additional_addresses.into_iter().filter_map(|more| more.address);
    let all = listener.address.into_iter().chain(more).filter_map(|address| address.address);
    let text = |address| match address {
        AddressKind::SocketAddress(socket) => socket.address,
        other => panic!("{other:?}"),
    };
    all.map(text).collect()
}

#[test]
fn hbone_is_taken_on_all_addresses_of_a_pod() {
    assert_eq!(terminate(Families::V4, None), ["0.0.0.0"]);
    assert_eq!(terminate(Families::V6, None), ["::"]);
    assert_eq!(terminate(Families::Dual, None), ["0.0.0.0", "::"]);
}

#[test]
fn a_waypoint_on_loopback_listens_there_only() {
    assert_eq!(terminate(Families::V4, Some("127.0.9.9")), ["127.0.9.9"]);
    assert_eq!(terminate(Families::Dual, Some("127.0.9.9")), ["127.0.9.9"]);
    assert!("127.0.9.9".parse::<IpAddr>().unwrap().is_loopback());
}

/// Whether a filter is run for a connection to a port.
fn runs(listener: &Listener, filter: &str, port: u16) -> bool {
    fn matches(predicate: &Predicate, port: i32) -> bool {
        match predicate.rule.as_ref().unwrap() {
            Rule::DestinationPortRange(range) => (range.start..range.end).contains(&port),
            Rule::OrMatch(set) => {
                assert!(set.rules.len() > 1, "Envoy refuses a set of one");
                set.rules.iter().any(|one| matches(one, port))
            }
            Rule::NotMatch(inner) => !matches(inner, port),
            other => panic!("{other:?}"),
        }
    }
    let filter = listener.listener_filters.iter().find(|one| one.name == format!("envoy.filters.listener.{filter}"));
    filter.is_some_and(|filter| filter.filter_disabled.as_ref().is_none_or(|disabled| !matches(disabled, port.into())))
}

#[test]
fn only_ports_that_declare_nothing_are_searched_for_http() {
    let inspected = Inspected {
        http: [80, 8080].into(),
        bytes: [443, 3306].into(),
        undeclared: [80, 9000].into(),
        tls: [443].into(),
        ..Inspected::default()
    };
    let listener = main_internal(&inspected);
    let http: Vec<_> =
        [80, 8080, 443, 3306, 9000, 1].into_iter().filter(|port| runs(&listener, "http_inspector", *port)).collect();
    // One service declares 80, another does not; 1 is nobody's.
    assert_eq!(http, [80, 9000, 1]);
    let tls: Vec<_> = [80, 443, 9000].into_iter().filter(|port| runs(&listener, "tls_inspector", *port)).collect();
    assert_eq!(tls, [443]);
    let none = main_internal(&Inspected { http: [80].into(), ..Inspected::default() });
    assert!(!runs(&none, "http_inspector", 80) && !runs(&none, "tls_inspector", 80));
}

#[test]
fn ports_of_workloads_are_searched_unless_a_service_declares_other_than_http() {
    let inspected = Inspected { http: [80].into(), bytes: [3306].into(), workloads: true, ..Inspected::default() };
    let listener = main_internal(&inspected);
    let http: Vec<_> = [80, 3306, 1].into_iter().filter(|port| runs(&listener, "http_inspector", *port)).collect();
    assert_eq!(http, [80, 1]);
    assert!(listener.continue_on_listener_filters_timeout);
}

#[test]
fn nobody_waits_for_the_client_where_a_server_may_speak_first() {
    let ports = || [443, 3306];
    for workloads in [false, true] {
        let main = main_internal(&Inspected {
            bytes: ports().into(),
            undeclared: [3306].into(),
            tls: [443].into(),
            elsewhere: ports().into(),
            workloads,
            ..Inspected::default()
        });
        for port in ports() {
            assert!(!runs(&main, "http_inspector", port) && !runs(&main, "tls_inspector", port), "{port}");
            let other = super::inspected();
            assert!(runs(&other, "http_inspector", port) && runs(&other, "tls_inspector", port), "{port}");
        }
    }
}
