#![allow(clippy::unwrap_used, reason = "whatever fails here fails a test")]

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ConfigSource, Http2ProtocolOptions, Metadata, TransportSocket, transport_socket,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{CommonTlsContext, UpstreamTlsContext};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::pb::google::protobuf::{Any, Duration, Struct, UInt32Value, Value, value};
use envoy_types::util::pack_any;
use prost::{Message, Name};
use serde_json::json;

use super::*;

fn yaml_of<M: Message + Name>(message: &M) -> String {
    yaml(&to_json(&M::full_name(), &message.encode_to_vec()).unwrap())
}

fn text(text: &str) -> Value {
    Value { kind: Some(value::Kind::StringValue(text.into())) }
}

#[test]
fn a_cluster_reads_as_in_envoys_documentation() {
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {
                max_concurrent_streams: Some(UInt32Value { value: 100 }),
                ..Default::default()
            })),
        })),
        ..Default::default()
    };
    let tls = UpstreamTlsContext {
        sni: "backend.example.com".into(),
        common_tls_context: Some(CommonTlsContext { alpn_protocols: vec!["h2".into()], ..Default::default() }),
        ..Default::default()
    };
    let fields = [("b", text("true")), ("a", Value { kind: Some(value::Kind::NumberValue(2.5)) })];
    let metadata = Struct { fields: fields.map(|(key, value)| (key.to_string(), value)).into() };
    let cluster = Cluster {
        name: "outbound|80||backend.default.svc.cluster.local".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ConfigSource {
                config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
                ..Default::default()
            }),
            service_name: String::new(),
        }),
        connect_timeout: Some(Duration { seconds: 0, nanos: 250_000_000 }),
        transport_socket: Some(TransportSocket {
            name: "envoy.transport_sockets.tls".into(),
            config_type: Some(transport_socket::ConfigType::TypedConfig(pack_any(tls))),
        }),
        typed_extension_protocol_options: HashMap::from([(HttpProtocolOptions::full_name(), pack_any(options))]),
        metadata: Some(Metadata { filter_metadata: HashMap::from([("istio".into(), metadata)]), ..Default::default() }),
        ..Default::default()
    };
    let expected = r#"name: outbound|80||backend.default.svc.cluster.local
type: EDS
eds_cluster_config:
  eds_config:
    ads: {}
connect_timeout: 0.250s
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config:
      http2_protocol_options:
        max_concurrent_streams: 100
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    common_tls_context:
      alpn_protocols:
      - h2
    sni: backend.example.com
metadata:
  filter_metadata:
    istio:
      a: 2.5
      b: "true"
"#;
    assert_eq!(yaml_of(&cluster), expected);
}

#[test]
fn configuration_as_json_is_written_out() {
    let config = crate::udpa::TypedStruct {
        type_url: "type.googleapis.com/io.istio.http.peer_metadata.Config".into(),
        value: Some(Struct { fields: [("shared_with_upstream".to_string(), text("yes"))].into() }),
    };
    let any = pack_any(config);
    let expected = json!({
        "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
        "type_url": "type.googleapis.com/io.istio.http.peer_metadata.Config",
        "value": { "shared_with_upstream": "yes" },
    });
    assert_eq!(to_json("google.protobuf.Any", &any.encode_to_vec()).unwrap(), expected);
}

#[test]
fn a_message_with_a_json_of_its_own_is_a_value_in_an_any() {
    let any = pack_any(Duration { seconds: 3, nanos: 0 });
    let expected = json!({ "@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s" });
    assert_eq!(to_json("google.protobuf.Any", &any.encode_to_vec()).unwrap(), expected);
}

#[test]
fn what_nobody_knows_shows_its_bytes() {
    let any = Any { type_url: "type.googleapis.com/acme.Thing".into(), value: b"\x08\x01".to_vec() };
    let expected = json!({ "@type": "type.googleapis.com/acme.Thing", "value": "CAE=" });
    assert_eq!(to_json("google.protobuf.Any", &any.encode_to_vec()).unwrap(), expected);
    assert!(matches!(to_json("acme.Thing", b"\x08\x01"), Err(Error::Unknown(_))));
    assert!(matches!(to_json("envoy.config.cluster.v3.Cluster", b"\x0a\x7f"), Err(Error::Decode { .. })));
}

#[test]
fn anys_without_end_are_not_followed_to_it() {
    let mut any = Any::default();
    for _ in 0..5000 {
        any = pack_any(any);
    }
    assert!(to_json("google.protobuf.Any", &any.encode_to_vec()).is_ok());
}

#[test]
fn descriptors_are_let_go() {
    let pool = load().unwrap();
    let weak = Arc::downgrade(&pool);
    assert!(Arc::ptr_eq(&pool, &load().unwrap()));
    drop(pool);
    // Another test may hold them for as long as it runs.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while weak.strong_count() > 0 && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(weak.strong_count(), 0);
}

proptest::proptest! {
    #[test]
    fn yaml_means_what_the_json_does(strings in proptest::collection::vec(strange(), 1..8), float: f64) {
        let nested = json!({ "list": [[], {}, [strings], { "a": strings, "b": 1 }, null, true], "float": float });
        let mut object = nested.clone();
        for one in &strings {
            object[one] = json!(one);
        }
        let text = yaml(&object);
        let read: serde_json::Value = serde_saphyr::from_str(&text).map_err(|e| format!("{e}\n{text}")).unwrap();
        proptest::prop_assert_eq!(read, object, "{}", text);
    }
}

/// Strings that YAML might take for something else.
fn strange() -> impl proptest::strategy::Strategy<Value = String> {
    proptest::prop_oneof![
        "[0-9.:eE+xobs_-]{0,6}",
        "[ -~]{0,12}",
        "(true|No|~|null|NaN|\\.inf|<<|=|---|\\.\\.\\.|0x1f|1_0|12:30:00|2001-01-01)",
        "\\PC{0,6}",
        "(.|\n|\t){0,6}",
    ]
}
