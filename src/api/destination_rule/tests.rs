use super::*;
use crate::api::yaml;

#[test]
fn everything_is_read() {
    let text = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: bookinfo}
spec:
  host: reviews
  exportTo: ["*"]
  workloadSelector: {matchLabels: {app: productpage}}
  trafficPolicy:
    loadBalancer:
      consistentHash:
        httpCookie: {name: user, path: /, ttl: 0s, attributes: [{name: SameSite, value: Strict}]}
        maglev: {tableSize: 65537}
      localityLbSetting:
        enabled: true
        distribute: [{from: us-west/*, to: {us-west/a: 80, us-west/b: 20}}]
        failover: [{from: us-east, to: eu-west}]
        failoverPriority: [topology.kubernetes.io/region]
      warmup: {duration: 30s, minimumPercent: 20, aggression: 1.5}
    connectionPool:
      tcp:
        maxConnections: 100
        connectTimeout: 30ms
        tcpKeepalive: {time: 7200s, interval: 75s, probes: 9}
        maxConnectionDuration: 1h
        idleTimeout: 10m
      http:
        http1MaxPendingRequests: 1
        http2MaxRequests: 2
        maxRequestsPerConnection: 3
        maxRetries: 4
        idleTimeout: 5s
        h2UpgradePolicy: UPGRADE
        useClientProtocol: true
        maxConcurrentStreams: 6
        http2KeepAlive: {interval: 10s, timeout: 2s}
    outlierDetection:
      consecutive5xxErrors: 7
      consecutiveGatewayErrors: 0
      splitExternalLocalOriginErrors: true
      consecutiveLocalOriginFailures: 2
      interval: 5m
      baseEjectionTime: 15m
      maxEjectionPercent: 50
      minHealthPercent: 10
      outlierDetectionHttpErrorCodes: [500, 429]
    tls: {mode: SIMPLE, sni: a.b, credentialName: c, subjectAltNames: [d], insecureSkipVerify: false}
    proxyProtocol: {version: V2}
    retryBudget: {percent: 25.5, minRetryConcurrency: 5, budgetInterval: 10s}
    tunnel: {protocol: POST, targetHost: e, targetPort: 443}
    portLevelSettings:
    - port: {number: 80}
      loadBalancer: {simple: ROUND_ROBIN}
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 1024}}}}
"#;
    let rule: DestinationRule = yaml(text).unwrap();
    let json = serde_json::to_string(&yaml::<serde_json::Value>(text).unwrap()).unwrap();
    assert_eq!(rule, serde_json::from_str(&json).unwrap());

    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let DestinationRuleSpec { host, traffic_policy, subsets, export_to, workload_selector } = rule.spec;
    assert_eq!((&*host, &*export_to[0]), ("reviews", "*"));
    assert_eq!(workload_selector.unwrap().match_labels.get("app"), Some("productpage"));
    let policy = traffic_policy.unwrap();
    let balancer = policy.load_balancer.unwrap();
    let hash = balancer.consistent_hash.unwrap();
    let Some(HashKey::Cookie(cookie)) = hash.key else { panic!("{hash:#?}") };
    assert_eq!((&*cookie.name, &*cookie.path, cookie.ttl), ("user", "/", seconds(0)));
    assert_eq!((&*cookie.attributes[0].name, &*cookie.attributes[0].value), ("SameSite", "Strict"));
    assert_eq!(hash.algorithm, Some(HashAlgorithm::Maglev(65537)));
    let locality = balancer.locality_lb_setting.unwrap();
    assert_eq!((locality.enabled, locality.distribute[0].to["us-west/b"]), (Some(true), 20));
    assert_eq!(
        (&*locality.failover[0].to, &*locality.failover_priority[0]),
        ("eu-west", "topology.kubernetes.io/region")
    );
    let warmup = balancer.warmup.unwrap();
    assert_eq!((warmup.duration, warmup.minimum_percent, warmup.aggression), (seconds(30), Some(20.0), Some(1.5)));

    let pool = policy.connection_pool.unwrap();
    let wanted = TcpSettings {
        max_connections: 100,
        connect_timeout: Some(Duration::from_millis(30)),
        tcp_keepalive: Some(TcpKeepalive { probes: 9, time: seconds(7200), interval: seconds(75) }),
        max_connection_duration: seconds(3600),
        idle_timeout: seconds(600),
    };
    assert_eq!(pool.tcp, Some(wanted));
    let wanted = HttpSettings {
        http1_max_pending_requests: 1,
        http2_max_requests: 2,
        max_requests_per_connection: 3,
        max_retries: 4,
        idle_timeout: seconds(5),
        h2_upgrade_policy: "UPGRADE".into(),
        use_client_protocol: true,
        max_concurrent_streams: 6,
        http2_keep_alive: Some(ConnectionKeepalive { interval: seconds(10), timeout: seconds(2) }),
    };
    assert_eq!(pool.http, Some(wanted));
    let wanted = OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failures: Some(2),
        consecutive_gateway_errors: Some(0),
        consecutive_5xx_errors: Some(7),
        interval: seconds(300),
        base_ejection_time: seconds(900),
        max_ejection_percent: 50,
        min_health_percent: 10,
        outlier_detection_http_error_codes: [500, 429].into(),
    };
    assert_eq!(policy.outlier_detection, Some(wanted));
    let tls = policy.tls.unwrap();
    assert_eq!((&*tls.mode, &*tls.sni, &*tls.credential_name), ("SIMPLE", "a.b", "c"));
    assert_eq!((&*tls.subject_alt_names[0], tls.insecure_skip_verify), ("d", Some(false)));
    assert_eq!(&*policy.proxy_protocol.unwrap().version, "V2");
    let budget = policy.retry_budget.unwrap();
    assert_eq!((budget.percent, budget.min_retry_concurrency, budget.budget_interval), (Some(25.5), 5, seconds(10)));
    let tunnel = policy.tunnel.unwrap();
    assert_eq!((&*tunnel.protocol, &*tunnel.target_host, tunnel.target_port), ("POST", "e", 443));
    let [port] = &*policy.port_level_settings else { panic!("one port") };
    assert_eq!((port.port.unwrap().number, &*port.load_balancer.as_ref().unwrap().simple), (80, "ROUND_ROBIN"));

    let [subset] = &*subsets else { panic!("one subset") };
    assert_eq!((&*subset.name, subset.labels.get("version")), ("v1", Some("v1")));
    let hash =
        subset.traffic_policy.as_ref().unwrap().load_balancer.as_ref().unwrap().consistent_hash.as_ref().unwrap();
    assert_eq!((&hash.key, &hash.algorithm), (&Some(HashKey::SourceIp(true)), &Some(HashAlgorithm::RingHash(1024))));
}

#[test]
fn a_check_that_is_not_known_is_remembered() {
    let rule: DestinationRule = yaml("spec: {trafficPolicy: {tls: {mode: SIMPLE, verifyEverything: true}}}").unwrap();
    let tls = rule.spec.traffic_policy.unwrap().tls.unwrap();
    assert_eq!(tls.unknown.names().collect::<Vec<_>>(), ["verifyEverything"]);
}
