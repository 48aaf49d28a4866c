use std::time::Instant;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use fairway_proto::workload::{Address, Workload, WorkloadStatus, address};
use prost::Message as _;

use super::{Message, Table};
use crate::client::ADDRESS;

const POD: &str = "Kubernetes//Pod/ns/pod";

fn resource(status: WorkloadStatus) -> Resource {
    let workload = Workload {
        uid: POD.into(),
        addresses: vec![vec![10, 0, 0, 1].into()],
        status: status.into(),
        ..Default::default()
    };
    let address = Address { r#type: Some(address::Type::Workload(workload)) };
    let payload = Any { type_url: ADDRESS.into(), value: address.encode_to_vec() };
    Resource { name: POD.into(), version: format!("{status:?}"), resource: Some(payload), ..Default::default() }
}

fn message(resources: Vec<Resource>, removed: &[&str]) -> Message {
    let count = resources.len();
    let response = DeltaDiscoveryResponse {
        type_url: ADDRESS.into(),
        nonce: "n".into(),
        resources,
        removed_resources: removed.iter().map(|name| (*name).into()).collect(),
        ..Default::default()
    };
    Message {
        type_url: ADDRESS.into(),
        nonce: b"n".into(),
        resources: count,
        removed: removed.len(),
        bytes: response.encode_to_vec(),
        ..Message::default()
    }
}

#[test]
fn the_least_is_each_state_once_and_each_removal_of_what_is_held() {
    let mut table = Table { synced: true, ..Table::default() };
    let mut apply = |message: Message| {
        let before = (table.resource_bytes, table.needed_bytes);
        table.apply(&message, Instant::now()).expect("a good message");
        (table.resource_bytes - before.0, table.needed_bytes - before.1)
    };
    let size = |status| resource(status).encoded_len();
    let (healthy, unhealthy) = (WorkloadStatus::Healthy, WorkloadStatus::Unhealthy);
    assert_eq!(apply(message(vec![resource(unhealthy)], &[])), (size(unhealthy), size(unhealthy)));
    assert_eq!(apply(message(vec![resource(healthy)], &[])), (size(healthy), size(healthy)));
    // Said again, and removed twice.
    assert_eq!(apply(message(vec![resource(healthy)], &[])), (size(healthy), 0));
    assert_eq!(apply(message(vec![], &[POD])), (POD.len(), POD.len()));
    assert_eq!(apply(message(vec![], &[POD])), (POD.len(), 0));
    let events: Vec<_> = table.events.iter().map(|event| event.healthy).collect();
    assert_eq!(events, [Some(false), Some(true), Some(true), None, None]);
}

#[test]
fn a_walker_that_counts_wrong_is_found_out() {
    let mut wrong = message(vec![resource(WorkloadStatus::Healthy)], &[]);
    wrong.resources = 2;
    assert!(Table::default().apply(&wrong, Instant::now()).is_err());
}

#[test]
fn a_resource_under_another_name_is_refused() {
    let mut other = resource(WorkloadStatus::Healthy);
    other.name = "Kubernetes//Pod/ns/other".into();
    assert!(Table::default().apply(&message(vec![other], &[]), Instant::now()).is_err());
}
