use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{Clients, Hello, Tally};

#[test]
fn latency_counts_from_when_a_change_was_due_however_late_it_was_made() {
    let tally = Rc::new(Tally::new());
    let since = tally.since;
    let clients = Clients { tally, tasks: JoinSet::new(), count: 2, hearers: Cell::new(2) };
    clients.expect(2);
    clients.tally.arrivals.borrow_mut()[0] = vec![5_000, 7_000];
    // A server that stalled for 90 ms; the second change was due at 10 ms.
    clients.tally.arrivals.borrow_mut()[1] = vec![100_000, 102_000];
    let due = |at| since + Duration::from_millis(at);
    let latencies = clients.latencies([(0, due(0)), (1, due(10))].into_iter());
    assert_eq!(latencies, [5.0, 7.0, 90.0, 92.0]);
}

#[test]
fn an_arrival_before_its_reference_counts_as_such() {
    let tally = Rc::new(Tally::new());
    let since = tally.since;
    let clients = Clients { tally, tasks: JoinSet::new(), count: 1, hearers: Cell::new(1) };
    clients.expect(1);
    clients.tally.arrivals.borrow_mut()[0] = vec![1_000];
    assert_eq!(clients.latencies([(0, since + Duration::from_millis(3))].into_iter()), [-2.0]);
}

#[test]
fn a_resuming_client_says_what_it_has() {
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use prost::Message as _;
    let hello = Hello::resuming([vec![("a".into(), "1".into())], vec![("b".into(), "2".into())]]);
    let credentials = super::Credentials { node: 0, pod: "ztunnel-x".into(), token: None };
    let bytes = hello.requests(&credentials);
    let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    let first = DeltaDiscoveryRequest::decode(&bytes[5..5 + length]).expect("a request");
    assert_eq!(first.initial_resource_versions.get("a").map(String::as_str), Some("1"));
    assert_eq!(first.type_url, super::ADDRESS);
    assert!(first.node.is_some());
    let second = DeltaDiscoveryRequest::decode(&bytes[5 + length + 5..]).expect("a request");
    assert_eq!(second.initial_resource_versions.get("b").map(String::as_str), Some("2"));
}
