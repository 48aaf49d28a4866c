use super::*;

#[test]
fn what_envoys_need_is_read() {
    let mesh = MeshConfig::from_yaml(
        r#"
accessLogFile: /dev/stdout
accessLogEncoding: JSON
connectTimeout: 5s
enableAutoMtls: null
h2UpgradePolicy: UPGRADE
defaultHttpRetryPolicy: {attempts: 0}
pathNormalization: {normalization: MERGE_SLASHES}
hboneIdleTimeout: 1h
tcpKeepalive: {time: 10s}
defaultVirtualServiceExportTo: ["."]
localityLbSetting: {failover: [{from: a, to: b}]}
defaultProviders: {accessLogging: [otel]}
defaultConfig:
  discoveryAddress: istiod:15012
  proxyHeaders: {server: {value: fairway}, attemptCount: {disabled: true}, xForwardedHost: {enabled: true}}
extensionProviders:
- name: authz
  envoyExtAuthzHttp:
    service: foo/ext.foo.svc
    port: 8000
    timeout: 2s
    failOpen: false
    statusOnError: "503"
    includeRequestHeadersInCheck: [cookie]
    includeAdditionalHeadersInCheck: {x-a: b}
    includeRequestBodyInCheck: {maxRequestBytes: 4096, allowPartialMessage: true}
    headersToUpstreamOnAllow: [authorization]
- {name: authz-grpc, envoyExtAuthzGrpc: {service: ext, port: 9000, packNovel: 1}}
- {name: otel, envoyOtelAls: {service: otel, port: 4317, logFormat: {labels: {a: "%PROTOCOL%"}}}}
- {name: trace, opentelemetry: {service: otel, port: 4318, http: {path: /v1/traces, timeout: 3s, headers: [{name: a, value: b}]}}}
- {name: zip, zipkin: {service: zipkin, port: 9411, enable64bitTraceId: true}}
- {name: envoy, envoyFileAccessLog: {path: /dev/stderr, logFormat: {text: "%PROTOCOL%"}}}
- {name: novel, carrierPigeon: {}}
"#,
    )
    .unwrap();
    assert_eq!(
        (mesh.connect_timeout, mesh.hbone_idle_timeout),
        (Duration::from_secs(5), Some(Duration::from_secs(3600)))
    );
    assert_eq!(
        (&*mesh.access_log_file, &*mesh.access_log_encoding, mesh.enable_auto_mtls),
        ("/dev/stdout", "JSON", true)
    );
    assert_eq!((&*mesh.h2_upgrade_policy, &*mesh.path_normalization.normalization), ("UPGRADE", "MERGE_SLASHES"));
    assert_eq!(mesh.default_http_retry_policy.map(|retry| retry.attempts), Some(0));
    assert_eq!(mesh.tcp_keepalive.unwrap().time, Some(Duration::from_secs(10)));
    assert_eq!(mesh.default_virtual_service_export_to, [".".into()]);
    assert_eq!(mesh.default_destination_rule_export_to, ["*".into()]);
    assert_eq!((mesh.locality_lb_setting.enabled, mesh.locality_lb_setting.failover.len()), (Some(true), 1));
    assert_eq!(mesh.default_providers.access_logging, ["otel".into()]);
    let headers = &mesh.default_config.proxy_headers;
    assert_eq!((&*headers.server.value, headers.attempt_count.disabled), ("fairway", Some(true)));
    assert_eq!(headers.x_forwarded_host.enabled, Some(true));

    let provider = |name: &str| &mesh.extension_providers.iter().find(|one| *one.name == *name).unwrap().provider;
    let Provider::EnvoyExtAuthzHttp(http) = provider("authz") else { panic!("{:?}", provider("authz")) };
    assert_eq!((&*http.service, http.port, http.timeout), ("foo/ext.foo.svc", 8000, Some(Duration::from_secs(2))));
    assert_eq!((&*http.status_on_error, &*http.include_request_headers_in_check[0]), ("503", "cookie"));
    assert_eq!((&*http.include_additional_headers_in_check["x-a"], http.unknown.is_empty()), ("b", true));
    assert_eq!(http.include_request_body_in_check.as_ref().unwrap().max_request_bytes, 4096);
    let Provider::EnvoyExtAuthzGrpc(grpc) = provider("authz-grpc") else { panic!("{:?}", provider("authz-grpc")) };
    assert_eq!(grpc.unknown.names().collect::<Vec<_>>(), ["packNovel"]);
    let Provider::EnvoyOtelAls(otel) = provider("otel") else { panic!("{:?}", provider("otel")) };
    assert_eq!(otel.log_format.as_ref().unwrap().labels.as_ref().unwrap()["a"], "%PROTOCOL%");
    let Provider::OpenTelemetry(trace) = provider("trace") else { panic!("{:?}", provider("trace")) };
    assert_eq!(&*trace.http.as_ref().unwrap().headers[0].name, "a");
    let Provider::Zipkin(zipkin) = provider("zip") else { panic!("{:?}", provider("zip")) };
    assert!(zipkin.enable_64bit_trace_id);
    let Provider::EnvoyFileAccessLog(file) = provider("envoy") else { panic!("{:?}", provider("envoy")) };
    assert_eq!(&*file.path, "/dev/stderr");
    assert_eq!(provider("prometheus"), &Provider::Prometheus);
    assert_eq!(provider("novel"), &Provider::Unknown("carrierPigeon".into()));
}

#[test]
fn nothing_said_is_the_defaults() {
    for text in ["trustDomain: cluster.local", "{connectTimeout: null, extensionProviders: null}", ""] {
        let mesh = MeshConfig::from_yaml(text).unwrap();
        assert_eq!(MeshConfig { given: Arc::default(), ..mesh.clone() }, MeshConfig::default(), "{text}");
        assert_eq!(mesh.effective(), MeshConfig::default().effective(), "{text}");
    }
}

/// What `/debug/mesh` says is what is in force.
#[test]
fn the_configuration_in_force_can_be_written() {
    let read = |value: &Value| {
        let mut mesh = MeshConfig::from_yaml(&value.to_string()).expect("a configuration");
        mesh.given = Arc::default();
        mesh
    };
    assert_eq!(read(&MeshConfig::default().effective()), MeshConfig::default());
    let given = "
trustDomain: x.example
connectTimeout: null
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
defaultProviders: {tracing: [otel]}
extensionProviders:
- {name: envoy, envoyFileAccessLog: {path: /log}}
- {name: mine, envoyFileAccessLog: {path: /mine}}
";
    let mesh = MeshConfig::from_yaml(given).expect("a configuration");
    let effective = mesh.effective();
    let mut plain = mesh.clone();
    plain.given = Arc::default();
    assert_eq!(read(&effective), plain);
    // Also what is not read.
    assert_eq!(effective["outboundTrafficPolicy"]["mode"], "REGISTRY_ONLY");
    assert_eq!(effective["defaultProviders"], json!({"tracing": ["otel"], "metrics": ["prometheus"]}));
    assert_eq!(effective["connectTimeout"], "10s");
    let names: Vec<_> =
        effective["extensionProviders"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["prometheus", "stackdriver", "envoy", "mine"]);
}
