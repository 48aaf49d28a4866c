use super::*;
use crate::api::yaml;

fn read(text: &str) -> VirtualService {
    let json = serde_json::to_string(&yaml::<serde_json::Value>(text).unwrap()).unwrap();
    let from_json = serde_json::from_str(&json).unwrap();
    assert_eq!(yaml::<VirtualService>(text).unwrap(), from_json, "files and API servers agree");
    from_json
}

fn text(text: &str) -> Arc<str> {
    text.into()
}

#[test]
fn everything_of_a_rule_for_http_is_read() {
    let service = read(
        r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: bookinfo}
spec:
  hosts: [reviews, "*.example.com"]
  gateways: [mesh, istio-ingress/main]
  exportTo: ["."]
  http:
  - name: canary
    match:
    - name: tester
      uri: {prefix: /api}
      scheme: {exact: https}
      method: {regex: GET|HEAD}
      authority: {exact: reviews.example.com}
      headers: {x-user: {exact: jason}, x-any: {}}
      withoutHeaders: {x-no: {prefix: a}}
      queryParams: {v: {exact: "2"}}
      port: 9080
      sourceLabels: {app: productpage}
      sourceNamespace: bookinfo
      gateways: [mesh]
      ignoreUriCase: true
      statPrefix: tests
    route:
    - destination: {host: reviews, subset: v2, port: {number: 9080}}
      weight: 90
      headers: {response: {remove: [x-internal]}}
    - destination: {host: reviews-next}
      weight: 10
    headers:
      request: {set: {x-a: "1"}, add: {x-b: "2"}, remove: [x-c]}
    rewrite: {authority: other, uriRegexRewrite: {match: "^/a(.*)", rewrite: '/b\1'}}
    timeout: 1.5s
    retries:
      attempts: 3
      perTryTimeout: 1m30s
      retryOn: 5xx,503
      retryRemoteLocalities: true
      retryIgnorePreviousHosts: false
      backoff: 25ms
    fault:
      delay: {percentage: {value: 0.1}, fixedDelay: 5s}
      abort: {percentage: {value: 50}, grpcStatus: UNAVAILABLE}
    mirror: {host: shadow}
    mirror_percent: 20
    mirrors:
    - destination: {host: shadow2}
      percentage: {value: 12.5}
    corsPolicy:
      allowOrigins: [{regex: "https://.*"}]
      allowMethods: [GET]
      allowHeaders: [x-a]
      exposeHeaders: [x-b]
      maxAge: 24h
      allowCredentials: true
      unmatchedPreflights: IGNORE
  - redirect: {uri: /x, authority: a.b, port: 8443, scheme: https, redirectCode: 308}
  - directResponse: {status: 503, body: {bytes: aGVsbG8_}}
  - delegate: {name: rest, namespace: other}
"#,
    );
    assert_eq!((&*service.meta.name, &*service.spec.hosts[1]), ("reviews", "*.example.com"));
    assert_eq!((&*service.spec.gateways[1], &*service.spec.export_to[0]), ("istio-ingress/main", "."));
    let [canary, redirect, answer, delegate] = &*service.spec.http else { panic!("{service:#?}") };

    assert!(canary.unknown.is_empty() && canary.matches[0].unknown.is_empty(), "{canary:#?}");
    let wanted = HttpMatchRequest {
        name: text("tester"),
        uri: Some(StringMatch::Prefix(text("/api"))),
        scheme: Some(StringMatch::Exact(text("https"))),
        method: Some(StringMatch::Regex(text("GET|HEAD"))),
        authority: Some(StringMatch::Exact(text("reviews.example.com"))),
        headers: [(text("x-user"), StringMatch::Exact(text("jason"))), (text("x-any"), StringMatch::Any)].into(),
        without_headers: [(text("x-no"), StringMatch::Prefix(text("a")))].into(),
        query_params: [(text("v"), StringMatch::Exact(text("2")))].into(),
        port: 9080,
        source_labels: [("app", "productpage")].into_iter().collect(),
        source_namespace: text("bookinfo"),
        gateways: [text("mesh")].into(),
        ignore_uri_case: true,
        stat_prefix: text("tests"),
        unknown: Unknown::default(),
    };
    assert_eq!(canary.matches, [wanted]);
    let [first, second] = &*canary.route else { panic!("{canary:#?}") };
    let port = Some(PortSelector { number: 9080 });
    assert_eq!(first.destination, Destination { host: text("reviews"), subset: text("v2"), port });
    assert_eq!((first.weight, second.weight, second.destination.port), (90, 10, None));
    assert_eq!(first.headers.as_ref().unwrap().response.remove, [text("x-internal")]);
    let request = &canary.headers.as_ref().unwrap().request;
    assert_eq!((&*request.set["x-a"], &*request.add["x-b"], &*request.remove[0]), ("1", "2", "x-c"));
    let rewrite = canary.rewrite.as_ref().unwrap();
    assert_eq!(rewrite.uri_regex_rewrite, Some(RegexRewrite { pattern: text("^/a(.*)"), rewrite: text(r"/b\1") }));
    assert_eq!(canary.timeout, Some(Duration::from_millis(1500)));
    let wanted = HttpRetry {
        attempts: 3,
        per_try_timeout: Some(Duration::from_secs(90)),
        retry_on: text("5xx,503"),
        retry_remote_localities: Some(true),
        retry_ignore_previous_hosts: Some(false),
        backoff: Some(Duration::from_millis(25)),
    };
    assert_eq!(canary.retries, Some(wanted));
    let fault = canary.fault.as_ref().unwrap();
    let (delay, abort) = (fault.delay.as_ref().unwrap(), fault.abort.as_ref().unwrap());
    assert_eq!((delay.percentage.unwrap().value, delay.fixed_delay), (0.1, Some(Duration::from_secs(5))));
    assert_eq!((abort.percentage.unwrap().value, abort.grpc_status.as_deref()), (50.0, Some("UNAVAILABLE")));
    assert_eq!((canary.mirror_percent, canary.mirrors[0].percentage), (Some(20), Some(Percent { value: 12.5 })));
    let cors = canary.cors_policy.as_ref().unwrap();
    assert_eq!((cors.max_age, cors.allow_credentials), (Some(Duration::from_secs(86400)), Some(true)));
    assert_eq!(
        (&cors.allow_origins[0], &*cors.unmatched_preflights),
        (&StringMatch::Regex(text("https://.*")), "IGNORE")
    );

    let redirect = redirect.redirect.as_ref().unwrap();
    assert_eq!((redirect.port, redirect.redirect_code, &*redirect.scheme), (Some(8443), 308, "https"));
    let body = answer.direct_response.as_ref().unwrap().body.as_ref().unwrap();
    assert_eq!(body.bytes.as_deref(), Some(&b"hello?"[..]));
    assert_eq!(delegate.delegate, Some(Delegate { name: text("rest"), namespace: text("other") }));
}

#[test]
fn rules_for_tls_and_tcp_are_read() {
    let service = read(
        r#"
metadata: {name: a}
spec:
  tls:
  - match: [{sniHosts: [a.example.com], destinationSubnets: [10.0.0.0/8], port: 443}]
    route: [{destination: {host: a}, weight: 1}]
  tcp:
  - match: [{port: 5432, sourceSubnet: 10.1.0.0/16, sourceNamespace: b}]
    route: [{destination: {host: db, port: {number: 5432}}}]
"#,
    );
    let [tls] = &*service.spec.tls[0].matches else { panic!("{service:#?}") };
    assert_eq!((&*tls.sni_hosts[0], &*tls.destination_subnets[0], tls.port), ("a.example.com", "10.0.0.0/8", 443));
    assert_eq!(service.spec.tls[0].route[0].weight, 1);
    let [tcp] = &*service.spec.tcp[0].matches else { panic!("{service:#?}") };
    assert_eq!((tcp.port, &*tcp.source_subnet, &*tcp.source_namespace), (5432, "10.1.0.0/16", "b"));
    assert_eq!(&*service.spec.tcp[0].route[0].destination.host, "db");
}

#[test]
fn what_is_not_known_is_remembered() {
    let service = read(
        r#"
metadata: {name: a}
spec:
  http:
  - novel: {}
    match:
    - clientIp: 10.0.0.1
      uri: {suffix: .html}
      method: {exact: GET, prefix: P}
      headers: {a: null}
"#,
    );
    let [rule] = &*service.spec.http else { panic!("{service:#?}") };
    let [one] = &*rule.matches else { panic!("{rule:#?}") };
    assert_eq!(rule.unknown.names().collect::<Vec<_>>(), ["novel"]);
    assert_eq!(one.unknown.names().collect::<Vec<_>>(), ["clientIp"]);
    assert_eq!(one.uri, Some(StringMatch::Unknown(text("suffix"))));
    assert_eq!(one.method, Some(StringMatch::Unknown(text("exact, prefix"))));
    assert_eq!(one.headers["a"], StringMatch::Any);
}

#[test]
fn a_broken_duration_is_named() {
    let json = r#"{"metadata": {"name": "a"}, "spec": {"http": [{"retries": {"perTryTimeout": "2 s"}}]}}"#;
    let error = crate::api::Kind::VirtualService.decode_json(json).unwrap_err();
    assert_eq!(error.field, "spec.http[0].retries.perTryTimeout");
    assert!(error.reason.contains("\"2 s\" is not a duration"), "{error}");
}
