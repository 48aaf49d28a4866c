//! Who a proxy says it is.

use std::path::Path;

use serde_json::{Value, json};

use super::{environment, settings};
use crate::agent::node::Role;
use crate::agent::proxy_config::{self, ProxyConfig};
use crate::agent::upstream::Roots;
use crate::config::agent::AgentEnvironment;

fn pod_info(folder: &Path, labels: &str) {
    std::fs::create_dir(folder.join("pod")).unwrap();
    std::fs::write(folder.join("pod/labels"), labels).unwrap();
}

#[test]
fn metadata_comes_from_the_environment_and_the_pod() {
    let folder = tempfile::tempdir().unwrap();
    pod_info(
        folder.path(),
        "app=\"shop\"\nnote=\"a \\\"b\\\"\\tc=d\\u00e9\"\npod-template-hash=\"7d\"\nistio-locality=\"eu.eu-1.rack\"\n",
    );
    let variables = [
        ("POD_NAMESPACE", "shop"),
        ("SERVICE_ACCOUNT", "waypoint"),
        ("INSTANCE_IP", "10.0.0.1"),
        ("INSTANCE_IPS", "10.0.0.1,fd00::1"),
        ("ISTIO_META_CLUSTER_ID", "east"),
        ("ISTIO_META_NETWORK", "net-1"),
        ("ISTIO_METAJSON_LABELS", r#"{"app": "other", "tier": "gold"}"#),
        ("ISTIO_METAJSON_EXTRA", r#"{"DEPTH": 3}"#),
        ("ISTIO_METAJSON_BROKEN", "{"),
        ("PROXY_CONFIG", "proxyMetadata: {ISTIO_META_NETWORK: net-2, ISTIO_META_HTTP10: '1', OTHER: x}"),
    ];
    let (settings, problems) = settings(folder.path(), "proxy waypoint", &variables);
    let metadata = Value::Object(settings.node.metadata.clone());
    let has = |key: &str, value: Value| assert_eq!(metadata[key], value, "{key}");
    has("NAMESPACE", json!("shop"));
    has("SERVICE_ACCOUNT", json!("waypoint"));
    has("INSTANCE_IPS", json!("10.0.0.1,fd00::1"));
    has("CLUSTER_ID", json!("east"));
    // The environment is what proxyMetadata became, and is closer to the pod.
    has("NETWORK", json!("net-1"));
    has("HTTP10", json!("1"));
    has("DEPTH", json!(3));
    has("STATIC_LABELS", json!({"app": "other", "tier": "gold"}));
    has("LABELS", json!({"app": "shop", "tier": "gold", "note": "a \"b\"\tc=dé", "istio-locality": "eu/eu-1/rack"}));
    has("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", json!("false"));
    has("ENVOY_STATUS_PORT", json!(15021));
    assert!(metadata.get("OTHER").is_none());
    let locality = json!({"region": "eu", "zone": "eu-1", "sub_zone": "rack"});
    assert_eq!(Value::Object(settings.node.locality.clone()), locality);
    assert_eq!(settings.node.cluster, "shop.shop");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("ISTIO_METAJSON_BROKEN"), "{problems:?}");
    assert_eq!(settings.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/waypoint");
}

#[test]
fn roles_are_those_of_pilot_agent() {
    let role = |words: &str| Role::parse(&words.split_whitespace().map(String::from).collect::<Vec<_>>());
    assert_eq!(role("proxy waypoint"), Ok(Role::Waypoint));
    assert_eq!(role("router"), Ok(Role::Router));
    assert_eq!(role("proxy"), Ok(Role::Sidecar));
    assert!(role("proxy ztunnel").unwrap_err().contains("ztunnel"));
}

#[test]
fn later_proxy_configs_replace_fields_of_earlier_ones() {
    let parse = |text| proxy_config::parse("here", text).unwrap();
    let merged = ProxyConfig::merged([
        ("mesh", parse("{discoveryAddress: a:1, drainDuration: 45s, tracing: {}}")),
        ("PROXY_CONFIG", parse(r#"{"discoveryAddress":"b:2","concurrency":0,"proxyMetadata":null}"#)),
        ("annotation", parse("")),
    ])
    .unwrap();
    assert_eq!(merged.discovery_address, "b:2");
    assert_eq!((merged.drain_duration.unwrap().as_secs(), merged.concurrency), (45, Some(0)));
    assert_eq!(merged.without_effect().collect::<Vec<_>>(), ["ProxyConfig.tracing"]);
    let broken = ProxyConfig::merged([("x", parse("{drainDuration: soon}"))]).unwrap_err();
    assert!(broken.starts_with("ProxyConfig.drainDuration"), "{broken}");
    assert!(ProxyConfig::merged([("mesh", parse("[1]"))]).unwrap_err().starts_with("mesh"));
}

#[test]
fn the_control_plane_is_where_the_settings_say() {
    let folder = tempfile::tempdir().unwrap();
    let config = ("PROXY_CONFIG", "{discoveryAddress: 'fairway.mesh.svc:15012'}");
    let variables =
        [config, ("XDS_ROOT_CA", "SYSTEM"), ("XDS_HEADER_x-tenant", "a"), ("ISTIO_META_CLUSTER_ID", "east")];
    let (settings, _) = settings(folder.path(), "waypoint", &variables);
    assert_eq!([&settings.discovery.address, &settings.ca.address], ["fairway.mesh.svc:15012"; 2]);
    assert_eq!(settings.discovery.roots, Some(Roots::System));
    assert_eq!(settings.ca.roots, Some(Roots::File("/var/run/secrets/istio/root-cert.pem".into())));
    assert_eq!(settings.discovery.headers["x-tenant"], "a");
    assert_eq!(settings.ca.headers["clusterid"], "east");
    assert_eq!(environment(&[("CA_ADDR", "")]).ca_address, None);
    for (policy, plaintext) in [("NONE", true), ("0", true), ("MUTUAL_TLS", false), ("1", false), ("null", false)] {
        let config = format!("controlPlaneAuthPolicy: {policy}");
        let (settings, _) = super::settings(folder.path(), "waypoint", &[("PROXY_CONFIG", &config)]);
        // Certificates are never asked for where a token could be read.
        assert_eq!((settings.discovery.roots.is_none(), settings.ca.roots.is_none()), (plaintext, false), "{policy}");
    }
}

#[test]
fn broken_variables_are_named() {
    for (name, value) in
        [("INSTANCE_IP", "here"), ("SECRET_TTL", "long"), ("SECRET_GRACE_PERIOD_RATIO", "2"), ("ISTIO_DELTA_XDS", "x")]
    {
        let error = AgentEnvironment::read([(name.to_string(), value.to_string())]).unwrap_err();
        assert!(error.starts_with(name), "{error}");
    }
    let ignored = [("PROV_CERT", "/x"), ("FILE_MOUNTED_CERTS", "false")];
    let ignored = ignored.map(|(name, value)| (name.to_string(), value.to_string()));
    assert_eq!(AgentEnvironment::read(ignored).unwrap().1, ["PROV_CERT"]);
}
