use prost::Message as _;
use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::{Struct, Value, value};

use super::*;

fn metadata() -> Metadata {
    let text = |text: &str| Value { kind: Some(value::Kind::StringValue(text.into())) };
    let labels = |count: usize| Struct { fields: (0..count).map(|n| (format!("label-{n}"), text("value"))).collect() };
    let filter_metadata = (0..8).map(|n| (format!("filter-{n}"), labels(n))).collect();
    Metadata { filter_metadata, ..Default::default() }
}

/// A cluster with maps at three depths, one of them inside an `Any`.
fn cluster() -> Cluster {
    let options = (0..8).map(|n| (format!("option-{n}"), any(&metadata())));
    Cluster {
        metadata: Some(metadata()),
        typed_extension_protocol_options: HashMap::from_iter(options),
        ..Default::default()
    }
}

#[test]
fn equal_messages_give_equal_bytes() {
    let first = bytes(&cluster());
    assert!((0..8).any(|_| cluster().encode_to_vec() != first), "the maps have an order of their own by now");
    assert!((0..8).all(|_| bytes(&cluster()) == first));
    assert!((0..8).all(|_| any(&cluster()).value == first));
    assert_eq!(Cluster::decode(&*first).unwrap(), cluster());
}

#[test]
fn an_any_names_its_message() {
    assert_eq!(any(&cluster()).type_url, "type.googleapis.com/envoy.config.cluster.v3.Cluster");
    let stats = any(&fairway_proto::stats::PluginConfig::default());
    assert_eq!(stats.type_url, "type.googleapis.com/stats.PluginConfig");
}
