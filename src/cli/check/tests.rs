use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::facts::{Facts, ReplicaFacts, Right, defined_elsewhere, lock as lock_of};
use super::*;
use crate::controller::election::ANNOTATION;

/// A cluster in which all is well.
fn healthy() -> Facts {
    let pod = json!({ "metadata": { "name": "istiod-a" }, "spec": { "containers": [{ "image": "r/fairway:1" }] } });
    let deployment = json!({
        "metadata": { "namespace": "istio-system", "name": "istiod" },
        "spec": { "replicas": 2, "template": { "spec": {
            "serviceAccountName": "istiod",
            "containers": [{
                "image": "r/fairway:1",
                "env": [{ "name": "CA_TRUSTED_NODE_ACCOUNTS", "value": "istio-system/ztunnel" }],
            }],
        } } },
        "status": { "readyReplicas": 2 },
    });
    let lock = json!({ "metadata": {
        "name": "istio-namespace-controller-election",
        "annotations": { ANNOTATION: r#"{"holderIdentity":"istiod-a","holderKey":"default","leaseDurationSeconds":30,"acquireTime":"2026-01-01T00:00:00Z","renewTime":"2026-01-01T00:00:00Z","leaderTransitions":0}"# },
    } });
    let ztunnel = json!({
        "metadata": { "namespace": "istio-system", "name": "ztunnel" },
        "spec": { "template": { "spec": { "serviceAccountName": "ztunnel" } } },
        "status": { "desiredNumberScheduled": 1, "numberReady": 1 },
    });
    let definition = |kind: crate::api::Kind| {
        let info = kind.info();
        let versions = json!([{ "name": info.versions[0], "served": true }]);
        (format!("{}.{}", info.plural, info.group), json!({ "spec": { "versions": versions } }))
    };
    let replica = ReplicaFacts { name: "istiod-a".into(), problems: Ok(vec![]), diagnostics: Ok(vec![]) };
    Facts {
        namespace: "istio-system".into(),
        now: "2026-01-01T00:00:05Z".parse().unwrap(),
        version: Ok(json!({ "minor": "37+", "gitVersion": "v1.37.2" })),
        definitions: Ok(defined_elsewhere().map(definition).collect::<BTreeMap<_, _>>()),
        token: Ok(()),
        rights: vec![right("list", Ok(true))],
        control_planes: Ok(vec![deployment]),
        tags: Ok(vec![]),
        pods: Ok(vec![pod]),
        leases: Ok(vec![lock_of(&lock).unwrap()]),
        root: Ok(None),
        signers: String::new(),
        root_config_maps: Ok(vec![]),
        namespaces: Ok(vec![]),
        ztunnels: Ok(vec![ztunnel]),
        replicas: vec![replica],
        connected: vec!["ztunnel-x.istio-system".into()],
    }
}

fn right(verb: &str, allowed: Result<bool, String>) -> Right {
    let (group, resource) = ("networking.istio.io".into(), "gateways".into());
    Right { group, resource, verb: verb.into(), namespace: String::new(), allowed }
}

/// What is not good.
fn complaints(facts: &Facts, pre: bool) -> Vec<(Level, String)> {
    let findings = rules::findings(facts, pre).into_iter().filter(|one| one.level != Level::Good);
    let findings: Vec<_> = findings.collect();
    assert!(findings.iter().all(|one| !one.fix.is_empty()), "each says what to do: {findings:?}");
    findings.into_iter().map(|one| (one.level, one.what)).collect()
}

#[track_caller]
fn check(change: impl FnOnce(&mut Facts), level: Level, part: &str) {
    let mut facts = healthy();
    facts.root = Ok(Some(("cacerts".into(), root(1000))));
    change(&mut facts);
    let said = complaints(&facts, false);
    assert!(said.iter().any(|(of, what)| *of == level && what.contains(part)), "{part:?} is not in {said:?}");
    assert_eq!(said.len(), 1, "and nothing else: {said:?}");
}

/// A root that is valid for some days.
fn root(days: u32) -> String {
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut root = openssl::x509::X509::builder().unwrap();
    root.set_pubkey(&key).unwrap();
    root.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
    root.set_not_after(&Asn1Time::days_from_now(days).unwrap()).unwrap();
    root.sign(&key, MessageDigest::sha256()).unwrap();
    String::from_utf8(root.build().to_pem().unwrap()).unwrap()
}

#[test]
fn nothing_is_said_of_what_is_well() {
    let mut facts = healthy();
    facts.root = Ok(Some(("cacerts".into(), root(1000))));
    assert_eq!(complaints(&facts, false), []);
    facts.control_planes = Ok(vec![]);
    facts.ztunnels = Ok(vec![]);
    assert_eq!(complaints(&facts, true), []);
}

/// Where nobody listens, nobody refuses anything.
#[test]
fn rights_are_spoken_of_where_they_are_missing() {
    for (error, fix) in [
        ("cannot reach http://127.0.0.1:1/debug/sourcez: refused", "listen"),
        ("403 Forbidden", "rights"),
        ("no answer within 15s", "hangs"),
    ] {
        let mut facts = healthy();
        facts.replicas[0].problems = Err(error.into());
        let said = rules::findings(&facts, false);
        let found = said.iter().find(|one| one.what.contains("cannot be asked")).unwrap();
        assert!(found.fix.contains(fix), "{found:?}");
    }
}

#[test]
fn what_is_wrong_with_the_cluster_is_found() {
    let mut facts = healthy();
    facts.version = Err("no answer within 15s".into());
    facts.token = facts.version.clone().map(drop);
    facts.leases = Err("no answer within 15s".into());
    let said = complaints(&facts, false);
    assert_eq!(said.len(), 1, "one outage is one finding: {said:?}");
    check(
        |facts| facts.version = Ok(json!({ "minor": "28", "gitVersion": "v1.28.0" })),
        Level::Doubtful,
        "v1.28.0 is older",
    );
    check(|facts| facts.token = Err("not found".into()), Level::Bad, "no token for the audience istio-ca");
    check(|facts| facts.token = Err("403 Forbidden".into()), Level::Unknown, "whether there are tokens");
    let gone = r#"namespaces "istio-system" not found"#;
    check(|facts| facts.token = Err(gone.into()), Level::Bad, "there is no namespace istio-system");
    let remove =
        |facts: &mut Facts| _ = facts.definitions.as_mut().unwrap().remove("httproutes.gateway.networking.k8s.io");
    check(remove, Level::Doubtful, "not defined: HTTPRoute");
    let old =
        json!({ "spec": { "versions": [{ "name": "v1alpha1", "served": true }, { "name": "v1", "served": false }] } });
    let replace = |facts: &mut Facts| {
        facts.definitions.as_mut().unwrap().insert("sidecars.networking.istio.io".into(), json!({}));
        facts.definitions.as_mut().unwrap().insert("virtualservices.networking.istio.io".into(), old);
    };
    check(replace, Level::Bad, "no version that is read: VirtualService (v1alpha1)");
}

#[test]
fn rights_are_listed_by_what_they_are_to() {
    let some = |facts: &mut Facts| {
        facts.rights = vec![right("list", Ok(false)), right("watch", Ok(false)), right("get", Ok(true))]
    };
    check(some, Level::Bad, "may not: list/watch gateways.networking.istio.io");
    check(|facts| facts.rights = vec![right("list", Err("403".into()))], Level::Unknown, "what the control plane may");
}

#[test]
fn what_is_wrong_with_replicas_is_found() {
    let ready = |ready: u64| {
        move |facts: &mut Facts| facts.control_planes.as_mut().unwrap()[0]["status"]["readyReplicas"] = json!(ready)
    };
    check(ready(0), Level::Bad, "0 of 2 replicas are ready");
    check(ready(1), Level::Doubtful, "1 of 2 replicas are ready");
    let stuck =
        |facts: &mut Facts| facts.control_planes.as_mut().unwrap()[0]["status"]["unavailableReplicas"] = json!(2);
    check(stuck, Level::Doubtful, "2 of 2 replicas are ready, and 2 more are not");
    let unread = json!({ "place": "VirtualService shop/web", "field": "spec.http", "reason": "invalid type" });
    check(
        |facts| facts.replicas[0].problems = Ok(vec![unread]),
        Level::Bad,
        "istiod-a cannot read VirtualService shop/web: spec.http: invalid type",
    );
    check(|facts| facts.replicas[0].diagnostics = Ok(vec![Value::Null]), Level::Doubtful, "1 findings");
}

#[test]
fn there_is_a_revision_for_every_object() {
    let revision = |name: &str| {
        let labels = json!({ "istio.io/rev": name });
        move |facts: &mut Facts| facts.control_planes.as_mut().unwrap()[0]["metadata"]["labels"] = labels
    };
    let tag = |tag: &str, revision: &str| {
        let labels = json!({ "istio.io/tag": tag, "istio.io/rev": revision });
        move |facts: &mut Facts| facts.tags = Ok(vec![json!({ "metadata": { "labels": labels } })])
    };
    check(
        revision("next"),
        Level::Doubtful,
        "nobody takes care of objects without the label istio.io/rev: there are only next",
    );
    check(tag("prod", "gone"), Level::Doubtful, "the tag prod stands for the revision gone, which is not here");
    let mut facts = healthy();
    facts.root = Ok(Some(("cacerts".into(), root(1000))));
    revision("next")(&mut facts);
    tag("default", "next")(&mut facts);
    assert_eq!(complaints(&facts, false), []);
}

#[test]
fn leases_are_held_by_replicas_that_renew_them() {
    check(|facts| facts.now = "2026-01-01T00:02:00Z".parse().unwrap(), Level::Bad, "was not renewed by istiod-a");
    let spec =
        |facts: &mut Facts, holder: &str| facts.leases.as_mut().unwrap()[0]["spec"]["holderIdentity"] = json!(holder);
    check(|facts| spec(facts, "istiod-of-another"), Level::Doubtful, "which is no replica here");
    check(|facts| spec(facts, ""), Level::Doubtful, "has no holder");
    check(|facts| facts.leases = Ok(vec![]), Level::Doubtful, "nobody has ever held");
    let metadata =
        |annotation: &str| json!({ "name": "istio-ip-autoallocate", "annotations": { ANNOTATION: annotation } });
    let map = |annotation: &str| lock_of(&json!({ "metadata": metadata(annotation) })).unwrap();
    check(|facts| facts.leases.as_mut().unwrap().push(map("{")), Level::Bad, "cannot be read");
    assert_eq!(lock_of(&json!({ "metadata": { "name": "istio", "annotations": {} } })), None);
    // Of a revision that was removed, or ended with its machine.
    for (spec, said) in [
        (json!({ "holderIdentity": "" }), "has no holder"),
        (json!({ "holderIdentity": "gone", "renewTime": "2025-01-01T00:00:00Z" }), "was not renewed by gone"),
    ] {
        let lease = json!({ "metadata": { "name": "istio-status-leader-canary" }, "spec": spec });
        let mut facts = healthy();
        facts.leases.as_mut().unwrap().push(lease);
        assert_eq!(complaints(&facts, false), complaints(&healthy(), false));
        facts.control_planes.as_mut().unwrap()[0]["metadata"]["labels"] = json!({ "istio.io/rev": "canary" });
        assert!(rules::findings(&facts, false).iter().any(|one| one.what.contains(said)), "{said}");
    }
    let mut facts = healthy();
    let lease = json!({
        "metadata": { "name": "istio-status-leader" },
        "spec": { "holderIdentity": "istiod-a", "renewTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 30 },
    });
    facts.leases.as_mut().unwrap().push(lease);
    let held = rules::findings(&facts, false).into_iter().filter(|one| one.what.ends_with("is held by istiod-a"));
    assert_eq!(held.count(), 2, "both kinds of locks");
}

#[test]
fn the_root_is_valid_and_everywhere() {
    check(|facts| facts.root = Ok(Some(("cacerts".into(), root(0)))), Level::Bad, "has expired");
    check(|facts| facts.root = Ok(Some(("cacerts".into(), root(20)))), Level::Doubtful, "expires in");
    check(|facts| facts.root = Ok(Some(("cacerts".into(), "no".into()))), Level::Bad, "is no certificate");
    // As soon as what signs ends, it is as bad as if the root did.
    check(|facts| facts.signers = root(0), Level::Bad, "a signing certificate has expired");
    check(|facts| facts.signers = root(20).repeat(2), Level::Doubtful, "a signing certificate expires in");
    let elsewhere = |facts: &mut Facts| {
        let namespace = |name: &str| json!({ "metadata": { "name": name }, "status": { "phase": "Active" } });
        facts.namespaces = Ok(vec![namespace("shop"), namespace("old"), namespace("kube-public")]);
        let map = |namespace: &str, root: &str| json!({ "metadata": { "namespace": namespace }, "data": { "root-cert.pem": root } });
        let current = facts.root.clone().unwrap().unwrap().1;
        facts.root_config_maps = Ok(vec![map("shop", &current), map("old", &root(1000))]);
    };
    check(elsewhere, Level::Doubtful, "1 namespaces do not have it in istio-ca-root-cert, such as old");
}

#[test]
fn a_ztunnel_is_trusted_and_connected() {
    check(|facts| facts.connected.clear(), Level::Bad, "0 of 1 are connected");
    let account = |facts: &mut Facts| {
        facts.ztunnels.as_mut().unwrap()[0]["spec"]["template"]["spec"]["serviceAccountName"] = json!("other");
    };
    check(account, Level::Bad, "istio-system/other is not trusted");
}

#[test]
fn findings_are_grouped_and_each_has_its_fix() {
    let findings = [
        Finding::good("A", "is well"),
        Finding::of("A", Level::Bad, "is not", "do this"),
        Finding::of("B", Level::Unknown, "who knows", ""),
    ];
    let expected = "A\n  ok  is well\n  XX  is not\n      fix: do this\n\nB\n  ??  who knows\n";
    assert_eq!(shown(Style::PLAIN, &findings), expected);
}

#[test]
fn rights_of_nobody_are_not_praised() {
    let mut facts = healthy();
    facts.rights.clear();
    let said = rules::findings(&facts, false);
    assert!(!said.iter().any(|one| one.what.contains("that it takes")), "{said:?}");
}
