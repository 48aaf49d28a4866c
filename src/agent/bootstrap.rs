//! What Envoy starts with: everything that xDS cannot say.
//!
//! It is istiod's other half. Generated configuration names the clusters
//! `sds-grpc`, `xds-grpc`, `agent` and `prometheus_stats`, needs internal
//! listeners, and relies on some runtime keys; probes and scrapers expect ports
//! 15021 and 15090. The reference is what pilot-agent writes:
//! <https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/>.

mod stats;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::node::Node;
use super::proxy_config::ProxyConfig;

/// What a bootstrap is made of.
pub struct Bootstrap<'a> {
    /// Who the proxy is.
    pub node: &'a Node,
    /// Its configuration.
    pub proxy_config: &'a ProxyConfig,
    /// Its annotations, which can say which statistics are kept.
    pub annotations: &'a BTreeMap<String, String>,
    /// Its addresses.
    pub instance_ips: &'a [IpAddr],
    /// The socket of the xDS proxy.
    pub xds_path: &'a Path,
    /// The socket of the secret discovery service.
    pub sds_path: &'a Path,
    /// Where Envoy listens for probes and scrapers.
    pub listen_address: IpAddr,
    /// Whether only this machine may scrape.
    pub metrics_local_only: bool,
    /// The port of the admin pages.
    pub admin_port: u16,
    /// The agent's port.
    pub status_port: u16,
    /// The port for probes.
    pub envoy_status_port: u16,
    /// The port for scrapers.
    pub envoy_prometheus_port: u16,
    /// Whether resources are asked for incrementally.
    pub delta: bool,
    /// Whether Envoy logs in JSON.
    pub log_as_json: bool,
    /// Where ejections are logged.
    pub outlier_log_path: Option<&'a str>,
}

/// The address by which the agent and its Envoy find each other.
pub fn loopback(instance_ips: &[IpAddr]) -> IpAddr {
    match instance_ips {
        [] => Ipv4Addr::LOCALHOST.into(),
        ips if ips.iter().all(IpAddr::is_ipv6) => Ipv6Addr::LOCALHOST.into(),
        _ => Ipv4Addr::LOCALHOST.into(),
    }
}

/// All addresses of the family that the proxy has.
pub fn wildcard(instance_ips: &[IpAddr]) -> IpAddr {
    match loopback(instance_ips) {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Writes a bootstrap to a folder, which is made if it is not there.
pub fn write(folder: &Path, bootstrap: &Value) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("envoy-rev.json");
    std::fs::write(&path, serde_json::to_vec_pretty(bootstrap)?)?;
    Ok(path)
}

/// The bootstrap, as JSON, which is YAML too.
pub fn bootstrap(from: &Bootstrap) -> Value {
    let loopback = loopback(from.instance_ips);
    let ads = || json!({ "ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3" });
    let scrape_address = if from.metrics_local_only { loopback } else { from.listen_address };
    let mut cluster_manager = json!({ "enable_deferred_cluster_creation": true });
    if let Some(path) = from.outlier_log_path.filter(|path| !path.is_empty()) {
        cluster_manager["outlier_detection"] = json!({ "event_log_path": path });
    }
    json!({
        "application_log_config": { "log_format": log_format(from.log_as_json) },
        "node": {
            "id": from.node.id,
            "cluster": from.node.cluster,
            "locality": from.node.locality,
            "metadata": from.node.metadata,
        },
        "layered_runtime": { "layers": [
            { "name": "global config", "static_layer": runtime(&from.proxy_config.runtime_values) },
            { "name": "admin", "admin_layer": {} },
        ] },
        // HBONE is made of listeners that only other listeners can reach.
        "bootstrap_extensions": [extension(
            "envoy.bootstrap.internal_listener",
            "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            json!({ "buffer_size_kb": 64 }),
        )],
        "stats_config": stats::config(from),
        "deferred_stat_options": { "enable_deferred_creation_stats": true },
        "overload_manager": overload_manager(from.proxy_config),
        "cluster_manager": cluster_manager,
        "admin": { "address": socket_address(loopback, from.admin_port) },
        "dynamic_resources": {
            "lds_config": ads(),
            "cds_config": ads(),
            "ads_config": {
                "api_type": if from.delta { "DELTA_GRPC" } else { "GRPC" },
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds-grpc" } }],
            },
        },
        "static_resources": {
            "clusters": [
                cluster("prometheus_stats", socket_address(loopback, from.admin_port)),
                cluster("agent", socket_address(loopback, from.status_port)),
                http2(cluster("sds-grpc", pipe(from.sds_path))),
                http2(cluster("xds-grpc", pipe(from.xds_path))),
            ],
            "listeners": [
                listener(scrape_address, from.envoy_prometheus_port, "stats", "/stats/prometheus", "prometheus_stats"),
                listener(from.listen_address, from.envoy_status_port, "agent", "/healthz/", "agent"),
            ],
        },
    })
}

fn log_format(json: bool) -> Value {
    match json {
        true => json!({ "json_format": {
            "time": "%Y-%m-%dT%T.%fZ", "level": "%l", "scope": "envoy %n", "msg": "%j", "caller": "%g:%#", "thread": "%t",
        } }),
        false => json!({ "text_format": "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t" }),
    }
}

/// Runtime keys that generated configuration relies on, and the user's.
fn runtime(values: &BTreeMap<String, String>) -> Map<String, Value> {
    let ours = [
        // Envoy's default of 100 refuses the regular expressions of ordinary routes.
        ("re2.max_program_size.error_level", json!(32768)),
        ("envoy.reloadable_features.http_reject_path_with_fragment", json!(false)),
        ("envoy.reloadable_features.fixed_heap_use_allocated", json!(true)),
        // https://github.com/envoyproxy/envoy/issues/45212
        ("envoy.reloadable_features.coalesce_lb_rebuilds_on_batch_update", json!(false)),
        // Sidecars find the original destination by a field that is deprecated.
        (
            "envoy.deprecated_features:envoy.config.listener.v3.Listener.hidden_envoy_deprecated_use_original_dst",
            json!(true),
        ),
    ];
    let mut keys: Map<_, _> = ours.map(|(key, value)| (key.to_string(), value)).into_iter().collect();
    for (key, value) in values {
        match value.as_str() {
            // An empty value means that the key is not to be set.
            "" => _ = keys.shift_remove(key),
            "true" => _ = keys.insert(key.clone(), true.into()),
            "false" => _ = keys.insert(key.clone(), false.into()),
            other => _ = keys.insert(key.clone(), other.into()),
        }
    }
    keys
}

fn overload_manager(config: &ProxyConfig) -> Value {
    let limit = config.connection_settings.global_downstream_connection_limit.filter(|limit| *limit > 0);
    let limit = limit.unwrap_or(i32::MAX.unsigned_abs());
    json!({ "resource_monitors": [extension(
        "envoy.resource_monitors.global_downstream_max_connections",
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        json!({ "max_active_downstream_connections": limit.to_string() }),
    )] })
}

/// An extension with its configuration.
fn extension(name: &str, message: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/{message}").into();
    json!({ "name": name, "typed_config": config })
}

fn socket_address(address: IpAddr, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

fn pipe(path: &Path) -> Value {
    json!({ "pipe": { "path": path } })
}

fn cluster(name: &str, address: Value) -> Value {
    json!({
        "name": name,
        // The semicolon ends names in statistics, which may have dots.
        "alt_stat_name": format!("{name};"),
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
        },
    })
}

fn http2(mut cluster: Value) -> Value {
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster["typed_extension_protocol_options"] = json!({ name: {
        "@type": format!("type.googleapis.com/{name}"),
        "explicit_http_config": { "http2_protocol_options": {} },
    } });
    cluster
}

/// A listener that must answer when all others have reached their limits.
fn listener(address: IpAddr, port: u16, stat_prefix: &str, prefix: &str, cluster: &str) -> Value {
    json!({
        "name": match address {
            IpAddr::V4(address) => format!("{address}_{port}"),
            IpAddr::V6(address) => format!("[{address}]_{port}"),
        },
        "address": socket_address(address, port),
        "ignore_global_conn_limit": true,
        "bypass_overload_manager": true,
        "filter_chains": [{ "filters": [extension(
            "envoy.filters.network.http_connection_manager",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            json!({
                "stat_prefix": stat_prefix,
                "route_config": { "virtual_hosts": [{
                    "name": "backend",
                    "domains": ["*"],
                    "routes": [{ "match": { "prefix": prefix }, "route": { "cluster": cluster } }],
                }] },
                "http_filters": [extension(
                    "envoy.filters.http.router",
                    "envoy.extensions.filters.http.router.v3.Router",
                    json!({}),
                )],
            }),
        )] }],
    })
}
