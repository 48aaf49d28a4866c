//! The file that Envoy starts with.

use std::path::Path;

use serde_json::{Value, json};

use super::settings;

/// The bootstrap as Envoy reads it, from the file.
fn bootstrap(folder: &Path, line: &str, variables: &[(&str, &str)]) -> Value {
    let line = format!("{line} --configPath {{}}/proxy");
    let (settings, _) = settings(folder, &line, variables);
    let text = std::fs::read_to_string(settings.write_bootstrap().unwrap()).unwrap();
    // JSON is YAML, and that it is one of them is all that is promised.
    serde_saphyr::from_str(&text).unwrap()
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}: {list:#}"))
}

fn socket(cluster: &Value) -> &Value {
    &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
}

#[test]
fn a_waypoint_of_istiods_template() {
    let folder = tempfile::tempdir().unwrap();
    let line = "proxy waypoint --domain shop.svc.cluster.local --serviceCluster waypoint.shop --proxyLogLevel warning \
                --proxyComponentLogLevel misc:error --log_output_level default:info --log_as_json";
    let variables = [
        ("POD_NAME", "waypoint-7d"),
        ("POD_NAMESPACE", "shop"),
        ("INSTANCE_IP", "10.1.2.3"),
        ("PROXY_CONFIG", r#"{"discoveryAddress": "istiod.istio-system.svc:15012", "statusPort": 15020}"#),
    ];
    let bootstrap = bootstrap(folder.path(), line, &variables);
    assert_eq!(bootstrap["node"]["id"], "waypoint~10.1.2.3~waypoint-7d.shop~shop.svc.cluster.local");
    assert_eq!(bootstrap["node"]["cluster"], "waypoint.shop");
    assert_eq!(bootstrap["dynamic_resources"]["ads_config"]["api_type"], "DELTA_GRPC");
    assert_eq!(bootstrap["bootstrap_extensions"][0]["name"], "envoy.bootstrap.internal_listener");
    let runtime = &bootstrap["layered_runtime"]["layers"][0]["static_layer"];
    assert_eq!(runtime["re2.max_program_size.error_level"], 32768);
    assert_eq!(bootstrap["admin"]["address"]["socket_address"], json!({"address": "127.0.0.1", "port_value": 15000}));

    let clusters = &bootstrap["static_resources"]["clusters"];
    let path = |name: &str| socket(named(clusters, name))["pipe"]["path"].as_str().unwrap().to_string();
    assert_eq!(path("xds-grpc"), format!("{}/proxy/XDS", folder.path().display()));
    assert_eq!(path("sds-grpc"), format!("{}/proxy/SDS", folder.path().display()));
    let port = |name: &str| socket(named(clusters, name))["socket_address"]["port_value"].as_u64().unwrap();
    assert_eq!((port("agent"), port("prometheus_stats")), (15020, 15000));

    let listeners = &bootstrap["static_resources"]["listeners"];
    for (name, cluster) in [("0.0.0.0_15021", "agent"), ("0.0.0.0_15090", "prometheus_stats")] {
        let manager = &named(listeners, name)["filter_chains"][0]["filters"][0]["typed_config"];
        assert_eq!(manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"], cluster);
    }
    assert!(bootstrap["application_log_config"]["log_format"].get("json_format").is_some());
}

#[test]
fn ipv6_only() {
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = bootstrap(folder.path(), "waypoint", &[("INSTANCE_IP", "fd00::7")]);
    assert_eq!(bootstrap["node"]["id"], "waypoint~fd00::7~unknown.default~default.svc.cluster.local");
    assert_eq!(bootstrap["admin"]["address"]["socket_address"]["address"], "::1");
    named(&bootstrap["static_resources"]["listeners"], "[::]_15021");
}

#[test]
fn runtime_values_add_replace_and_remove() {
    let folder = tempfile::tempdir().unwrap();
    let config = "runtimeValues: {a.b: 'true', re2.max_program_size.error_level: '5', \
                  envoy.reloadable_features.fixed_heap_use_allocated: ''}";
    let bootstrap = bootstrap(folder.path(), "router", &[("PROXY_CONFIG", config)]);
    let runtime = &bootstrap["layered_runtime"]["layers"][0]["static_layer"];
    assert_eq!((&runtime["a.b"], &runtime["re2.max_program_size.error_level"]), (&json!(true), &json!("5")));
    assert!(runtime.get("envoy.reloadable_features.fixed_heap_use_allocated").is_none());
}

#[test]
fn statistics_are_limited_only_when_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let all = bootstrap(folder.path(), "router", &[]);
    assert!(all["stats_config"].get("stats_matcher").is_none());

    let config = "proxyStatsMatcher: {inclusionPrefixes: ['http.{pod_ip}_'], inclusionSuffixes: [upstream_rq_time]}";
    let variables = [("PROXY_CONFIG", config), ("INSTANCE_IP", "10.0.0.1")];
    std::fs::create_dir(folder.path().join("pod")).unwrap();
    std::fs::write(folder.path().join("pod/annotations"), "sidecar.istio.io/statsInclusionSuffixes=\"cx_total\"\n")
        .unwrap();
    let some = bootstrap(folder.path(), "router", &variables);
    let patterns = some["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"].as_array().unwrap();
    assert!(patterns.contains(&json!({"prefix": "http.10.0.0.1_"})), "{patterns:?}");
    assert!(
        patterns.contains(&json!({"suffix": "cx_total"})) && !patterns.contains(&json!({"suffix": "upstream_rq_time"}))
    );
    // What readiness goes by is never left out.
    assert!(patterns.contains(&json!({"prefix": "listener_manager"})));
}

#[test]
fn free_ports_are_found_and_differ() {
    let folder = tempfile::tempdir().unwrap();
    let line = "waypoint --adminPort auto --statusPort 0 --envoyStatusPort auto --envoyPrometheusPort auto";
    let (settings, _) = settings(folder.path(), line, &[("INSTANCE_IP", "127.0.0.1")]);
    let ports = [settings.admin_port, settings.status_port, settings.envoy_status_port, settings.envoy_prometheus_port];
    let different: std::collections::BTreeSet<_> = ports.into_iter().filter(|port| *port != 0).collect();
    assert_eq!(different.len(), 4, "{ports:?}");
}
