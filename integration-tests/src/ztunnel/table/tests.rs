//! That the strict client is strict.

use fairway_proto::security::Authorization;
use fairway_proto::workload::{Address, Service, TunnelProtocol, Workload, address::Type};
use prost::Message;

use super::Table;
use crate::ztunnel::wire::{DeltaDiscoveryResponse, Resource};
use crate::ztunnel::{ADDRESS, AUTHORIZATION};

fn resource(name: &str, version: &str, type_url: &str, value: Vec<u8>) -> Resource {
    let any = prost_types::Any { type_url: type_url.into(), value };
    Resource { name: name.into(), version: version.into(), resource: Some(any), aliases: vec![] }
}

fn workload(uid: &str, version: &str, change: impl FnOnce(&mut Workload)) -> Resource {
    let mut workload = Workload { uid: uid.into(), ..Default::default() };
    change(&mut workload);
    let address = Address { r#type: Some(Type::Workload(workload)) };
    resource(uid, version, ADDRESS, address.encode_to_vec())
}

fn response(type_url: &str, nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.into(),
        nonce: nonce.into(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

/// A client that has one workload and no policy.
fn ready() -> Table {
    let mut table = Table::default();
    table.connect();
    table.take(response(ADDRESS, "1", vec![workload("a", "v1", |_| {})], &[])).unwrap();
    table.take(response(AUTHORIZATION, "2", vec![], &[])).unwrap();
    assert!(table.ready() && table.breaches.is_empty(), "{:?}", table.breaches);
    table
}

#[track_caller]
fn check(wanted: &str, response: DeltaDiscoveryResponse) {
    let mut table = ready();
    let _ = table.take(response);
    assert!(table.breaches.iter().any(|breach| breach.contains(wanted)), "{wanted}: {:?}", table.breaches);
}

#[test]
fn breaches_are_noticed() {
    let changed = || workload("a", "v2", |workload| workload.name = "new".into());
    check("was used before", response(ADDRESS, "1", vec![changed()], &[]));
    check("not the first", response(ADDRESS, "3", vec![], &[]));
    check("twice in one response", response(ADDRESS, "3", vec![changed(), changed()], &[]));
    check("sent and removed", response(ADDRESS, "3", vec![changed()], &["a"]));
    check("never had", response(ADDRESS, "3", vec![], &["b"]));
    check("no version", response(ADDRESS, "3", vec![workload("b", "", |_| {})], &[]));
    check("is held", response(ADDRESS, "3", vec![workload("a", "v1", |_| {})], &[]));
    check("a new version with the same", response(ADDRESS, "3", vec![workload("a", "v2", |_| {})], &[]));
    check(
        "the same version with another",
        response(ADDRESS, "3", vec![workload("a", "v1", |w| w.name = "x".into())], &[]),
    );
    let named = |workload: &mut Workload| workload.authorization_policies = vec!["ns/p".into()];
    check("fails open", response(ADDRESS, "3", vec![workload("a", "v2", named)], &[]));
    let service = Service { namespace: "ns".into(), hostname: "host".into(), ..Default::default() };
    let service = Address { r#type: Some(Type::Service(service)) }.encode_to_vec();
    check("holds ns/host", response(ADDRESS, "3", vec![resource("host", "v1", ADDRESS, service)], &[]));
}

#[test]
fn what_ztunnel_refuses_is_refused() {
    let refused = |change: fn(&mut Workload)| {
        check("ztunnel refuses", response(ADDRESS, "3", vec![workload("b", "v1", change)], &[]))
    };
    refused(|workload| workload.addresses = vec![vec![1, 2, 3].into()]);
    refused(|workload| workload.tunnel_protocol = TunnelProtocol::LegacyIstioMtls.into());
    refused(|workload| workload.tunnel_protocol = 9);
    refused(|workload| workload.status = 9);
    refused(|workload| workload.waypoint = Some(Default::default()));
    refused(|workload| workload.services = [("host".to_string(), Default::default())].into());
    check("unknown address type", response(ADDRESS, "3", vec![resource("x", "v1", ADDRESS, vec![])], &[]));
    let policy = Authorization { scope: 9, ..Default::default() }.encode_to_vec();
    check("unknown scope", response(AUTHORIZATION, "3", vec![resource("x", "v1", AUTHORIZATION, policy)], &[]));
}

#[test]
fn the_good_part_of_a_refused_response_is_taken() {
    let mut table = ready();
    let bad = workload("b", "v1", |workload| workload.status = 9);
    let good = workload("c", "v1", |_| {});
    table.take(response(ADDRESS, "3", vec![bad, good], &["a"])).unwrap_err();
    assert_eq!(table.workloads.keys().collect::<Vec<_>>(), ["c"]);
    assert_eq!(table.versions[ADDRESS].keys().collect::<Vec<_>>(), ["c"]);
}
