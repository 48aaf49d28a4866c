use super::*;
use crate::api::yaml;

fn read<T: serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(text: &str) -> T {
    let json = serde_json::to_string(&yaml::<serde_json::Value>(text).unwrap()).unwrap();
    let from_json = serde_json::from_str(&json).unwrap();
    assert_eq!(yaml::<T>(text).unwrap(), from_json, "files and API servers agree");
    from_json
}

#[test]
fn an_http_route_is_read() {
    let route: HTTPRoute = read(
        r#"
metadata: {name: reviews, namespace: bookinfo}
spec:
  parentRefs:
  - {group: "", kind: Service, name: reviews, port: 9080}
  - {name: gateway, namespace: infra, sectionName: http}
  hostnames: [reviews.example.com]
  rules:
  - name: first
    matches:
    - path: {type: Exact, value: /a}
      headers: [{type: RegularExpression, name: x-a, value: b.*}]
      queryParams: [{name: q, value: "1"}]
      method: GET
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}}
    - {type: RequestRedirect, requestRedirect: {scheme: https, hostname: f.g, port: 8443, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /h}}}
    - {type: URLRewrite, urlRewrite: {hostname: i.j, path: {type: ReplaceFullPath, replaceFullPath: /k}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: l, port: 80}, fraction: {numerator: 1, denominator: 1000}}}
    - {type: CORS, cors: {allowOrigins: ["*"], allowMethods: [GET], allowCredentials: true, maxAge: 5}}
    - {type: ExtensionRef, extensionRef: {group: example.com, kind: Novel, name: m}}
    backendRefs:
    - {name: reviews-v1, port: 9080}
    - {name: reviews-v2, namespace: other, port: 9081, weight: 0, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [o]}}]}
    timeouts: {request: 10s, backendRequest: 500ms}
    retry: {codes: [500, 503], attempts: 3, backoff: 100ms}
    sessionPersistence: {sessionName: a}
"#,
    );
    let [service, gateway] = &*route.spec.parent_refs else { panic!("{route:#?}") };
    assert_eq!((&*service.group, &*service.kind, service.port), ("", "Service", Some(9080)));
    assert_eq!((&*gateway.group, &*gateway.kind, &*gateway.section_name), (GROUP, "Gateway", "http"));
    let [rule] = &*route.spec.rules else { panic!("{route:#?}") };
    let [one] = &*rule.matches else { panic!("{rule:#?}") };
    let path = HttpPathMatch { kind: "Exact".into(), value: Some("/a".into()) };
    assert_eq!((&one.path, &*one.method), (&Some(path), "GET"));
    assert_eq!((&*one.headers[0].kind, &*one.query_params[0].kind), ("RegularExpression", ""));
    let [headers, redirect, rewrite, mirror, cors, extension] = &*rule.filters else { panic!("{rule:#?}") };
    assert_eq!(&*headers.request_header_modifier.as_ref().unwrap().add[0].value, "d");
    let redirect = redirect.request_redirect.as_ref().unwrap();
    assert_eq!((&*redirect.hostname, redirect.port, redirect.status_code), ("f.g", Some(8443), Some(301)));
    let path = rewrite.url_rewrite.as_ref().unwrap().path.as_ref().unwrap();
    assert_eq!((&*path.kind, path.replace_full_path.as_deref()), ("ReplaceFullPath", Some("/k")));
    let mirror = mirror.request_mirror.as_ref().unwrap();
    assert_eq!((&*mirror.backend_ref.name, mirror.fraction.unwrap().denominator), ("l", 1000));
    assert_eq!(cors.cors.as_ref().unwrap().max_age, 5);
    assert_eq!(&*extension.extension_ref.as_ref().unwrap().kind, "Novel");
    let [first, second] = &*rule.backend_refs else { panic!("{rule:#?}") };
    assert_eq!((&*first.group, &*first.kind, first.weight), ("", "Service", 1));
    assert_eq!((&*second.namespace, second.port, second.weight, second.filters.len()), ("other", Some(9081), 0, 1));
    assert_eq!(rule.timeouts.backend_request, Some(Duration::from_millis(500)));
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!(
        (&*retry.codes, retry.attempts, retry.backoff),
        (&[500, 503][..], Some(3), Some(Duration::from_millis(100)))
    );
    let session = rule.session_persistence.as_ref().unwrap();
    assert_eq!((&*session.session_name, &*session.kind, &*session.cookie_config.lifetime_type), ("a", "", ""));
    assert!(session.unknown.is_empty() && rule.unknown.is_empty());
}

#[test]
fn the_other_routes_are_read() {
    let route: GRPCRoute = read(
        "spec: {rules: [{matches: [{method: {service: a.B, method: C}, headers: [{name: x, value: z}]}], backendRefs: [{name: d, port: 1}]}]}",
    );
    let method = route.spec.rules[0].matches[0].method.as_ref().unwrap();
    assert_eq!((&*method.service, &*method.method, &*method.kind), ("a.B", "C", ""));
    let route: TLSRoute = read("spec: {hostnames: [a.b], rules: [{backendRefs: [{name: c, port: 443}]}]}");
    assert_eq!((&*route.spec.hostnames[0], route.spec.rules[0].backend_refs[0].port), ("a.b", Some(443)));
    let route: TCPRoute = read("spec: {rules: [{backendRefs: [{name: c, port: 1, weight: 3}]}]}");
    assert_eq!(route.spec.rules[0].backend_refs[0].weight, 3);
}

#[test]
fn what_is_not_known_is_remembered() {
    let route: HTTPRoute =
        read("spec: {rules: [{matches: [{clientIp: 10.0.0.1, headers: [{name: a, value: b, invert: true}]}]}]}");
    let one = &route.spec.rules[0].matches[0];
    assert_eq!(one.unknown.names().collect::<Vec<_>>(), ["clientIp"]);
    assert_eq!(one.headers[0].unknown.names().collect::<Vec<_>>(), ["invert"]);
}

#[test]
fn grants_allow_what_they_say() {
    let grant: ReferenceGrant = read(
        r#"
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}
  - {group: gateway.networking.k8s.io, kind: TCPRoute, namespace: a, onlyOnSundays: true}
  to:
  - {group: "", kind: Service, name: b}
  - {group: "", kind: Secret}
"#,
    );
    let http = (GROUP, "HTTPRoute");
    assert!(grant.allows(http, "a", ("", "Service"), "b"));
    assert!(grant.allows(http, "a", ("", "Secret"), "any"));
    assert!(!grant.allows(http, "other", ("", "Service"), "b"));
    assert!(!grant.allows(http, "a", ("", "Service"), "c"));
    assert!(!grant.allows(("", "HTTPRoute"), "a", ("", "Service"), "b"));
    assert!(!grant.allows((GROUP, "TCPRoute"), "a", ("", "Service"), "b"));
}
