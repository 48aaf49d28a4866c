use super::*;

#[test]
fn kinds_are_known_by_group_and_kind_in_any_version() {
    for (version, kind, wanted) in [
        ("v1", "Pod", Some(Kind::Pod)),
        ("networking.istio.io/v1alpha3", "ServiceEntry", Some(Kind::ServiceEntry)),
        ("networking.istio.io/v9", "ServiceEntry", Some(Kind::ServiceEntry)),
        ("gateway.networking.k8s.io/v1", "Gateway", Some(Kind::Gateway)),
        // Istio has a Gateway of its own, which is another kind.
        ("networking.istio.io/v1", "Gateway", Some(Kind::IstioGateway)),
        ("v1", "Secret", Some(Kind::Secret)),
        ("v1", "ReplicationController", None),
    ] {
        assert_eq!(Kind::of(version, kind), wanted, "{version} {kind}");
    }
}

#[test]
fn unknown_fields_values_and_nulls_are_tolerated() {
    let json = r#"{"metadata": {"name": "a", "namespace": "b", "labels": null, "managedFields": [{}], "novel": 1},
        "spec": {"selector": null, "action": "BLESS", "rules": [{"from": null, "to": [{"operation": null}], "novel": {}}]}}"#;
    let Ok(Object::AuthorizationPolicy(policy)) = Kind::AuthorizationPolicy.decode_json(json) else {
        panic!("{:?}", Kind::AuthorizationPolicy.decode_json(json))
    };
    assert_eq!((&*policy.spec.action, policy.spec.rules.len()), ("BLESS", 1));
}

#[test]
fn an_undecodable_object_names_the_field() {
    let json = r#"{"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}, {"port": 99999999}]}}"#;
    let error = Kind::Service.decode_json(json).unwrap_err();
    assert_eq!(error.field, "spec.ports[1].port");
    assert!(error.reason.contains("99999999"), "{error}");
    let mesh = r#"{"metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": "trustDomain: [not a name]"}}"#;
    assert_eq!(Kind::ConfigMap.decode_json(mesh).unwrap_err().field, "data.mesh");
}

#[test]
fn what_nobody_reads_does_not_make_objects_differ() {
    let pod = |version: u32, heartbeat: &str| {
        let json = format!(
            r#"{{"metadata": {{"name": "a", "resourceVersion": "{version}", "annotations": {{"example.com/x": "{heartbeat}"}}}},
                "status": {{"conditions": [{{"type": "Ready", "status": "True", "lastProbeTime": "{heartbeat}"}}]}}}}"#
        );
        Kind::Pod.decode_json(&json).unwrap()
    };
    assert_eq!(pod(1, "now"), pod(2, "later"));
    assert_eq!(pod(7, "").meta().resource_version.0, 7);
}

#[test]
fn selectors_select() {
    let labels: Labels = [("app", "web"), ("tier", "1")].into_iter().collect();
    let selector = |pairs: &[(&'static str, &'static str)]| pairs.iter().copied().collect::<Labels>();
    assert!(selector(&[]).select(&labels) && selector(&[("app", "web")]).select(&labels));
    assert!(!selector(&[("app", "db")]).select(&labels) && !selector(&[("x", "")]).select(&labels));
    let over = labels.overlaid(&selector(&[("app", "db")]));
    assert_eq!((over.get("app"), over.get("tier")), (Some("db"), Some("1")));
}

#[test]
fn texts_are_shared_and_given_back() {
    let (one, other) = (intern("some-namespace"), intern("some-namespace"));
    assert!(std::sync::Arc::ptr_eq(&one, &other));
}

#[test]
fn a_pod_is_small() {
    // There may be a million of them. With the two counts of an `Arc` one takes
    // 160 bytes, which is a size that the allocator has; the next is 192.
    assert_eq!(size_of::<core::Pod>(), 144);
}

#[test]
fn unknown_words_cost_what_has_none_next_to_nothing() {
    assert_eq!(size_of::<super::unknown::Unknown>(), 8);
    let json = |spec: &str| {
        format!(r#"{{"apiVersion": "a", "kind": "b", "status": {{"c": 1}}, "metadata": {{"d": 1}}, {spec}}}"#)
    };
    let words = |spec: &str| {
        let entry = serde_json::from_str::<super::istio::WorkloadEntry>(&json(spec)).unwrap();
        entry.unknown.names().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(words(r#""spec": {"address": "10.0.0.1", "labels": {"e": "f"}}"#).is_empty());
    assert_eq!(words(r#""spec": {"labels": null, "lables": {"e": {}}}, "sepc": {}"#), ["sepc", "spec.lables"]);
    // As many as help.
    let many: Vec<_> = (0..1000).map(|n| format!(r#""a{n}": {{}}"#)).collect();
    assert_eq!(words(&format!(r#""spec": {{{}}}"#, many.join(","))).len(), 20);
}

/// What ended istiod was nested deeply. What an object says besides is skipped
/// without going down into it; what is read has a bound.
#[test]
fn cve_2022_24726_no_object_is_too_deep() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(50_000), close.repeat(50_000));
    for kind in Kind::ALL.iter().copied() {
        for (open, close) in [("[", "]"), ("{\"a\":[", "]}")] {
            let meta = r#""metadata": {"name": "a", "namespace": "b"}"#;
            let text = format!(r#"{{{meta}, "nobody": {}, "spec": {{"nobody": {0}}}}}"#, deep(open, close));
            // Either is fine, as long as there is an answer.
            let _ = kind.decode_json(&text);
            let labels = format!(r#"{{"metadata": {{"name": "a", "labels": {}}}}}"#, deep(open, close));
            assert!(kind.decode_json(&labels).is_err(), "{kind:?}");
        }
    }
}

#[test]
fn what_does_not_decode_is_said_on_one_line_without_a_place_in_json() {
    let json = r#"{"metadata": {"name": "a"}, "spec": {"hosts": 7}}"#;
    let error = Kind::VirtualService.decode_json(json).unwrap_err();
    assert_eq!((&*error.field, &*error.reason), ("spec.hosts", "invalid type: integer `7`, expected a sequence"));
    let mesh = r#"{"metadata": {"name": "istio"}, "data": {"mesh": "a: 1\nenableAutoMtls: maybe\nb: 1\n"}}"#;
    let error = Kind::ConfigMap.decode_json(mesh).unwrap_err();
    assert!(!error.reason.contains('\n') && error.reason.contains("line 2"), "{}", error.reason);
}
