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

/// A gateway is one with others for what it says of HTTP, as far as the mesh does
/// not say it too; a waypoint for none of it.
#[test]
fn what_a_gateway_says_of_http_is_its_own() {
    let number = |number: f64| Value { kind: Some(Kind::NumberValue(number)) };
    let object = |of: &[(&str, Value)]| Value { kind: Some(Kind::StructValue(fields(of))) };
    let own = |kind: &str, config: Value| {
        let wire = WireNode {
            id: format!("{kind}~10.0.0.1~gw-1.ns~ns.svc.cluster.local"),
            metadata: Some(fields(&[("PROXY_CONFIG", config), ("HTTP10", text("1"))])),
            ..Default::default()
        };
        let node = Node::parse(&wire).unwrap();
        assert!(node.capabilities.http10);
        node.own
    };
    let topology = object(&[("numTrustedProxies", number(2.0)), ("proxyProtocol", object(&[]))]);
    let config = object(&[("concurrency", number(2.5)), ("gatewayTopology", topology)]);
    let said = own("router", config.clone()).expect("it says something");
    let topology = said.topology.clone().expect("it says what is in front");
    assert_eq!((topology.num_trusted_proxies, topology.proxy_protocol, &said.headers), (2, true, &None));
    assert_eq!(own("waypoint", config), None);
    assert_eq!(own("router", object(&[("discoveryAddress", text("istiod:15012"))])), None);
    assert_eq!(own("router", object(&[("gatewayTopology", number(1.0))])), None, "it cannot be read");
    assert_eq!(own("router", text("gatewayTopology: {}")), None);
    let (said, headers) = (Some(said), Default::default());
    assert_eq!(OwnConfig::beside(&said, &topology, &headers), None, "the mesh says the same");
    assert_eq!(OwnConfig::beside(&said, &Default::default(), &headers), said);
}
