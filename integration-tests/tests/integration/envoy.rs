//! The Envoy that other tests hand to Fairway is the one they mean.

use fairway_integration_tests::child::free_address;
use fairway_integration_tests::envoy::{Envoy, validate};

/// A listener that answers by itself, and a cluster.
fn bootstrap(port: u16) -> String {
    format!(
        r#"
static_resources:
  clusters:
  - name: backend
    type: STATIC
    load_assignment:
      cluster_name: backend
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}
  listeners:
  - name: direct
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.direct_response
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config
          response: {{ inline_string: here }}
"#
    )
}

pub async fn starts() {
    let port = free_address().port();
    let envoy = Envoy::start(&bootstrap(port)).await;
    assert!(envoy.page("/server_info").await.contains("/1.40.0/"));

    let dump = envoy.config_dump(Some("static_listeners")).await;
    assert_eq!(dump["configs"][0]["listener"]["name"], "direct");
    let clusters = envoy.clusters().await;
    let address = &clusters["cluster_statuses"][0]["host_statuses"][0]["address"]["socket_address"];
    assert_eq!(address["port_value"], port);
    assert_eq!(envoy.stat("cluster_manager.active_clusters").await, Some(1));

    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut { stream }, &mut answer).await.unwrap();
    assert_eq!(answer, "here");
    assert!(envoy.terminate().await.success());
}

pub async fn refuses_what_it_does_not_know() {
    let port = free_address().port();
    assert_eq!(validate(&bootstrap(port)).await, Ok(()));
    let unknown = bootstrap(port).replace("direct_response.v3.Config", "direct_response.v3.Unknown");
    let refusal = validate(&unknown).await.unwrap_err();
    assert!(refusal.contains("direct_response.v3.Unknown"), "{refusal}");
    // Which is why it is told apart from Istio's proxy.
    let istio = bootstrap(port)
        .replace("envoy.filters.network.direct_response", "istio.stats")
        .replace("envoy.extensions.filters.network.direct_response.v3.Config", "udpa.type.v1.TypedStruct")
        .replace("response: { inline_string: here }", "type_url: type.googleapis.com/stats.PluginConfig");
    let refusal = validate(&istio).await.unwrap_err();
    assert!(refusal.contains("stats.PluginConfig"), "{refusal}");
}
