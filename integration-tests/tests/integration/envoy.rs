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

/// What Fairway lets through as an expression, Envoy takes; it would refuse the
/// whole listener otherwise.
pub async fn takes_expressions() {
    let written = [
        "response.code >= 400 || connection.mtls == false",
        "request.headers['x-a'] == \"b\" && !(request.path.startsWith('/healthz'))",
        "has(request.headers) ? request.url_path : 'none'",
        "response.code in [500, 502, 503,] // why",
        "request.duration > duration('1s') && request.time.getHours() < 6",
        "request.path.matches(r'^/api/v\\d+/') || matches(request.host, 'a.*')",
        "-1 + 2u - 0x1F * .5 / 1.5e-3 % 2 == int(1) || uint(1) == 1u || double(2) > 1.0",
        "{'a': 1, \"b\": [2]}['a'] == 1 && {} == {} && size([]) == 0",
        "'\\x41\\u0041\\U00000041\\101\\n' + '''a\nb''' + r'\\q' != b'c'",
        "timestamp('2020-01-01T00:00:00Z') < request.time && type(1) == type(2)",
        "request.time.getMilliseconds() > request.time.getDayOfYear() + request.time.getDayOfWeek()",
    ];
    // Made up from pieces, so that most are expressions and some are deep.
    let pieces =
        ["a", "1", "'x'", "(", ")", ".b", "[0]", "!", "-", " && ", " || ", " == ", " + ", " in ", "[", "]", "size("];
    let mut state = 12_345_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let made = (0..20_000).map(|_| (0..1 + next(40)).map(|_| pieces[next(pieces.len())]).collect::<String>());
    let chained = (1..60).flat_map(|length| {
        let several = |piece: &str| piece.repeat(length);
        [
            format!("{}a{}", several("("), several(")")),
            format!("a{}", several(".b")),
            format!("a{}", several("[0]")),
            format!("a{}", several(" + a")),
            format!("a{}", several(" && a == b + c")),
            format!("{}a", several("!")),
            format!("{}c", several("a ? b : ")),
            format!("{}a{}", several("size("), several(")")),
            format!("(a{}){}", several(" + a"), several(".b")),
        ]
    });
    let all = written.into_iter().map(str::to_owned).chain(made).chain(chained);
    let mut taken: Vec<_> = all.filter(|text| fairway::envoy::telemetry::cel::check(text).is_ok()).collect();
    taken.sort();
    taken.dedup();
    assert!(taken.len() > 200, "{}", taken.len());
    for text in written {
        assert!(taken.iter().any(|one| one == text), "{text}");
    }
    let log = |expression: &String| {
        serde_json::json!({
            "name": "envoy.access_loggers.file",
            "filter": { "extension_filter": {
                "name": "envoy.access_loggers.extension_filters.cel",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                    "expression": expression,
                },
            } },
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": "/dev/null",
            },
        })
    };
    let logs: Vec<_> = taken.iter().map(log).collect();
    let bootstrap = serde_json::json!({ "admin": { "access_log": logs } });
    if let Err(refusal) = validate(&bootstrap.to_string()).await {
        panic!("{}", refusal.lines().filter(|line| line.contains("critical")).collect::<String>());
    }
}
