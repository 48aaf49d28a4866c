//! What a proxy says of itself.

use envoy_types::pb::envoy::config::core::v3::Locality;
use envoy_types::pb::google::protobuf::{Struct, Value};

use super::*;

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.into())) }
}

fn fields(fields: &[(&str, Value)]) -> Struct {
    Struct { fields: fields.iter().map(|(name, value)| ((*name).into(), value.clone())).collect() }
}

#[test]
fn the_place_of_a_proxy_is_that_of_all_pods_of_its_gateway() {
    let labels = [
        ("app", text("wp")),
        ("pod-template-hash", text("7d4")),
        ("gateway.networking.k8s.io/gateway-name", text("wp")),
        ("empty", text("")),
    ];
    let labels = Value { kind: Some(Kind::StructValue(fields(&labels))) };
    let wire = WireNode {
        id: "waypoint~10.0.0.1~wp-1.ns~ns.svc.cluster.local".into(),
        metadata: Some(fields(&[("NODE_NAME", text("n1")), ("LABELS", labels)])),
        locality: Some(Locality { region: "eu".into(), zone: "eu-1".into(), sub_zone: "rack".into() }),
        ..Default::default()
    };
    let node = Node::parse(&wire).unwrap();
    assert_eq!(node.gateway.as_deref(), Some("wp"));
    let Place { region, zone, subzone, node, labels } = node.place;
    assert_eq!([&*region, &*zone, &*subzone, &*node], ["eu", "eu-1", "rack", "n1"]);
    let labels: Vec<_> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(labels, [("app", "wp"), ("empty", ""), ("gateway.networking.k8s.io/gateway-name", "wp")]);
}

#[test]
fn a_proxy_that_says_little_is_nowhere() {
    let wire = WireNode { id: "waypoint~10.0.0.1~wp-1.ns~ns.svc.cluster.local".into(), ..Default::default() };
    assert_eq!(Node::parse(&wire).unwrap().place, Place::default());
}
