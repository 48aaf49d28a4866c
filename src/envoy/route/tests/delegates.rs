use super::super::delegate::{Resolved, resolve};
use super::*;
use crate::api::ObjectKey;
use crate::api::virtual_service::VirtualService;

const DELEGATES: &str = r#"
- metadata: {name: reviews, namespace: team}
  spec:
    http:
    - name: v2
      match: [{uri: {prefix: /reviews/v2}}, {uri: {exact: /reviews}, method: {exact: GET}}]
      route: [{destination: {host: reviews, subset: v2}}]
    - route: [{destination: {host: reviews.other}}]
      timeout: 1s
- metadata: {name: outside, namespace: team}
  spec: {http: [{match: [{uri: {prefix: /elsewhere}}], redirect: {uri: /x}}, {redirect: {uri: /y}}]}
- metadata: {name: root, namespace: team}
  spec: {hosts: [a], http: [{redirect: {uri: /y}}]}
- metadata: {name: chain, namespace: team}
  spec: {http: [{delegate: {name: reviews}}]}
- metadata: {name: near, namespace: ns}
  spec: {http: [{redirect: {uri: /near}}]}
"#;

fn resolved(text: &str) -> Resolved {
    let delegates: Vec<VirtualService> = yaml(DELEGATES).unwrap();
    let root: VirtualService =
        yaml(&format!("{{metadata: {{name: top, namespace: ns}}, spec: {{hosts: [a], http: {text}}}}}")).unwrap();
    let find = |key: &ObjectKey| delegates.iter().find(|one| one.meta.key() == *key);
    resolve(&root, "cluster.local", &find)
}

/// The routes that the merged rules make, and what could not be merged.
#[track_caller]
fn merges(text: &str, wanted: &[&str]) {
    let resolved = resolved(text);
    assert_eq!(resolved.http.len(), resolved.origins.len());
    let (routes, problems) = routes(&request(Semantics::Istio), &resolved.http);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(lines(&routes, &resolved.problems), wanted, "{text}");
}

#[test]
fn a_delegate_matches_within_its_root() {
    merges(
        "[{redirect: {uri: /first}, match: [{uri: {exact: /first}}]}, {match: [{uri: {prefix: /reviews}, headers: {x: {exact: '1'}}}], delegate: {name: reviews, namespace: team}, timeout: 5s}]",
        &[
            "path /first => redirect 0 /first",
            "prefix /reviews/v2; x = exact 1 => outbound|80|v2|reviews.team.svc.cluster.local; timeout 5s",
            "path /reviews; x = exact 1; :method = exact GET => outbound|80|v2|reviews.team.svc.cluster.local; timeout 5s",
            "prefix /reviews; x = exact 1 => outbound|80||reviews.other; timeout 1s",
        ],
    );
    let names = |text: &str| resolved(text).http.into_iter().map(|http| http.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names("[{name: top, delegate: {name: reviews, namespace: team}}]"), ["top-v2", "top"]);
    assert_eq!(names("[{delegate: {name: reviews, namespace: team}}]"), ["v2", ""]);
    assert_eq!(resolved("[{redirect: {uri: /a}}, {delegate: {name: reviews, namespace: team}}]").origins, [0, 1, 1]);
}

#[test]
fn a_delegate_is_never_wider_than_its_root() {
    merges(
        "[{match: [{uri: {prefix: /api}}], delegate: {name: outside, namespace: team}}]",
        &["prefix /api => redirect 0 /y", "http[0].match Conflict"],
    );
    for (root, leaf, wanted) in [
        ("uri: {exact: /a}", "uri: {exact: /a}", true),
        ("uri: {exact: /a}", "uri: {prefix: /a}", false),
        ("uri: {regex: a}", "uri: {regex: a}", false),
        ("uri: {prefix: /a}, ignoreUriCase: true", "uri: {prefix: /a}", false),
        ("headers: {x: {prefix: a}}", "headers: {x: {exact: ab}}", true),
        ("headers: {x: {exact: a}}", "headers: {x: {exact: b}}", false),
        ("headers: {x: {exact: a}}", "headers: {y: {exact: b}}", true),
        // "Not ab" would let "ac" through, which the root excludes.
        ("withoutHeaders: {x: {prefix: a}}", "withoutHeaders: {x: {prefix: ab}}", false),
        ("queryParams: {x: {prefix: a}}", "queryParams: {x: {exact: b}}", false),
        ("port: 80", "port: 81", false),
        ("gateways: [a]", "gateways: [b]", false),
        ("gateways: [a, b]", "gateways: [b]", true),
        ("sourceNamespace: a", "uri: {exact: /}", false),
        ("sourceLabels: {a: b}", "sourceLabels: {a: c}", false),
        ("novel: 1", "uri: {exact: /}", false),
    ] {
        let one: VirtualService = yaml(&format!("{{metadata: {{name: leaf, namespace: ns}}, spec: {{http: [{{match: [{{{leaf}}}], redirect: {{uri: /x}}}}]}}}}")).unwrap();
        let root_text = format!(
            "{{metadata: {{name: top, namespace: ns}}, spec: {{hosts: [a], http: [{{match: [{{{root}}}], delegate: {{name: leaf}}}}]}}}}"
        );
        let resolved = resolve(&yaml(&root_text).unwrap(), "cluster.local", &|_| Some(&one));
        assert_eq!(!resolved.http.is_empty(), wanted, "{root} and {leaf}");
        assert_eq!(resolved.problems.is_empty(), wanted, "{root} and {leaf}");
    }
}

#[test]
fn a_rule_without_its_delegate_vanishes() {
    merges("[{delegate: {name: near}}]", &["prefix / => redirect 0 /near"]);
    for reference in ["{name: nobody}", "{name: reviews}", "{name: root, namespace: team}"] {
        merges(&format!("[{{delegate: {reference}}}]"), &["http[0].delegate InvalidReference"]);
    }
    merges("[{delegate: {name: chain, namespace: team}}]", &["http[0].delegate UnsupportedValue"]);
}
