//! Policies and services in, TLS of ports out.

use std::sync::Arc;

use crate::api::Change;
use crate::model::Settings;
use crate::source::documents::{Document, read};
use crate::status::facts::About;
use crate::translation::Translation;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: s, namespace: x}
spec: {clusterIP: 10.0.0.1, ports: [{name: https, port: 443}, {name: other, port: 8443}]}
---
";

fn policy(name: &str, created: u32, targets: &str, validation: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}, namespace: x, \
         creationTimestamp: '2026-01-0{created}T00:00:00Z'}}\nspec: {{targetRefs: [{targets}], validation: {{hostname: \
         {name}.example.com, {validation}}}}}\n---\n"
    )
}

/// What each target of a policy is told, by the policy's name.
fn said(yaml: &str, name: &str) -> Vec<String> {
    let mut translation = Translation::new(Arc::<Settings>::default());
    for document in read(&format!("{SERVICE}{yaml}")) {
        match document {
            Document::Object(object) => translation.apply(Change::Put(object)),
            other => panic!("{other:?}"),
        }
    }
    translation.commit();
    let facts = translation.facts.objects.iter().find(|(kind, _)| *kind == crate::api::Kind::BackendTLSPolicy);
    let facts = facts.expect("the kind has facts").1;
    let Some(facts) = translation.graph.get(facts, &crate::api::ObjectKey::new("x", name)) else { return Vec::new() };
    let About::Policy(targets) = &facts.about else { panic!("{facts:?}") };
    let reason = |verdict: &Result<(), super::Said>| verdict.as_ref().err().map_or("fine", |said| said.reason);
    targets
        .iter()
        .map(|one| {
            let (kind, name) = (&one.reference.kind, &one.reference.name);
            format!("{kind}/{name} {} {}", reason(&one.accepted), reason(&one.resolved))
        })
        .collect()
}

const ALL: &str = "{group: '', kind: Service, name: s}";
const SYSTEM: &str = "wellKnownCACertificates: System";

#[test]
fn the_oldest_counts() {
    let yaml = policy("young", 2, ALL, SYSTEM) + &policy("old", 1, ALL, SYSTEM);
    assert_eq!(said(&yaml, "old"), ["Service/s fine fine"]);
    assert_eq!(said(&yaml, "young"), ["Service/s Conflicted fine"]);
    // One for a port is for something else.
    let port = "{group: '', kind: Service, name: s, sectionName: https}";
    let yaml = policy("young", 2, port, SYSTEM) + &policy("old", 1, ALL, SYSTEM);
    assert_eq!(said(&yaml, "young"), ["Service/s fine fine"]);
}

#[test]
fn what_is_wrong_is_said() {
    for (targets, validation, expected) in [
        ("{group: '', kind: Service, name: gone}", SYSTEM, "Service/gone TargetNotFound fine"),
        ("{group: '', kind: Service, name: s, sectionName: gone}", SYSTEM, "Service/s TargetNotFound fine"),
        ("{group: '', kind: Pod, name: s}", SYSTEM, "Pod/s TargetNotFound fine"),
        (ALL, "wellKnownCACertificates: Mine", "Service/s Invalid fine"),
        (ALL, "caCertificateRefs: [{group: '', kind: Secret, name: c}]", "Service/s NoValidCACertificate InvalidKind"),
        (
            ALL,
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: c}]",
            "Service/s NoValidCACertificate InvalidCACertificateRef",
        ),
    ] {
        assert_eq!(said(&policy("p", 1, targets, validation), "p"), [expected], "{targets} {validation}");
    }
}

#[test]
fn gateways_that_lead_to_a_target_are_told() {
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: x}\n\
                   spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}\n---\n\
                   apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: x}\n\
                   spec: {parentRefs: [{name: g}], rules: [{backendRefs: [{name: s, port: 443}]}]}\n---\n";
    let yaml = policy("p", 1, ALL, SYSTEM) + gateway;
    assert_eq!(said(&yaml, "p"), ["Service/s fine fine", "Gateway/g fine fine"]);
    let ignored = yaml.replace(
        "namespace: x, creation",
        "namespace: x, annotations: {istio.io/ignore-policy-attachment: 'true'}, creation",
    );
    assert_eq!(said(&ignored, "p"), [""; 0]);
}

/// A route leads to the target by listeners that somebody has added.
#[test]
fn gateways_lead_to_a_target_by_what_is_added_to_them_too() {
    let object = |kind: &str, name: &str, spec: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: x}}\nspec: {{{spec}}}\n---\n"
        )
    };
    let gateway = |allowed: &str| {
        let listeners = "listeners: [{name: http, port: 80, protocol: HTTP}]";
        object(
            "Gateway",
            "g",
            &format!("gatewayClassName: istio, allowedListeners: {{namespaces: {{from: {allowed}}}}}, {listeners}"),
        )
    };
    let set = object("ListenerSet", "set", "parentRef: {name: g}, listeners: [{name: more, port: 81, protocol: HTTP}]");
    let rules = "rules: [{backendRefs: [{name: s, port: 443}]}]";
    let route = object("HTTPRoute", "r", &format!("parentRefs: [{{kind: ListenerSet, name: set}}], {rules}"));
    let told = |allowed: &str| said(&(gateway(allowed) + &set + &route + &policy("p", 1, ALL, SYSTEM)), "p");
    assert_eq!(told("All"), ["Service/s fine fine", "Gateway/g fine fine"]);
    assert_eq!(told("None"), ["Service/s fine fine"]);
}

#[test]
fn a_rule_that_says_what_tls_there_is_counts_instead() {
    let rule = |policy: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: rule, namespace: x}}\n\
             spec: {{host: s, trafficPolicy: {{{policy}}}}}\n---\n"
        )
    };
    let told = |rule: &str| said(&(rule.to_owned() + &policy("p", 1, ALL, SYSTEM)), "p");
    assert_eq!(told(&rule("tls: {mode: DISABLE}")), ["Service/s Conflicted fine"]);
    assert_eq!(told(&rule("loadBalancer: {simple: RANDOM}")), ["Service/s fine fine"]);
    let one = "portLevelSettings: [{port: {number: 443}, tls: {mode: DISABLE}}]";
    assert_eq!(told(&rule(one)), ["Service/s fine fine"], "the other port has it");
}
