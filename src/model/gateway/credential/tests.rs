//! Istio's Gateways, Services and Secrets in; what is said, out. No proxy is
//! connected.

use std::sync::Arc;

use jiff::Timestamp;

use crate::api::{Change, Object};
use crate::model::Settings;
use crate::model::secret::testing::{certificate, days, key, pem, secret};
use crate::source::documents::{Document, read};
use crate::translation::Translation;

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g, namespace: infra}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: a, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: a}}
  - {port: {number: 444, name: b, protocol: HTTPS}, hosts: [b.com], tls: {mode: MUTUAL, credentialName: b}}
  - {port: {number: 445, name: c, protocol: TLS}, hosts: [c.com], tls: {mode: PASSTHROUGH}}
---
";

fn service(namespace: &str, selector: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: edge, namespace: {namespace}}}\n\
         spec: {{clusterIP: 10.96.0.9, selector: {{{selector}}}, ports: [{{name: https, port: 443}}]}}\n---\n"
    )
}

fn pod(namespace: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: edge, namespace: {namespace}, labels: {{app: edge, istio: ingressgateway}}}}\n\
         status: {{podIP: 10.0.0.1, phase: Running}}\n---\n"
    )
}

/// What is said of the Gateway, and what has to be read for that.
fn said(settings: Settings, text: &str, secrets: Vec<Object>) -> (Vec<String>, Vec<String>) {
    let mut translation = Translation::new(Arc::new(settings));
    let objects = read(text).into_iter().map(|document| match document {
        Document::Object(object) => object,
        other => panic!("{other:?}"),
    });
    objects.chain(secrets).for_each(|object| translation.apply(Change::Put(object)));
    translation.commit();
    translation.tick(Timestamp::now());
    translation.commit();
    let all = translation.graph.diagnostics();
    let said = all.iter().map(|one| format!("{} {} {}", one.subject.name, one.field, one.reason)).collect();
    let needed = translation.graph.rows(translation.credentials.needed);
    let mut wanted: Vec<_> = needed.map(|(place, _)| place.to_string()).collect();
    wanted.sort();
    (said, wanted)
}

fn tls(namespace: &str, name: &str, host: &str, until: i64) -> Object {
    let key = key();
    let certificate = certificate(&key, &[host], (days(-90), days(until)));
    Object::Secret(secret(namespace, name, &[("tls.crt", &certificate), ("tls.key", &pem(&key))]))
}

#[test]
fn certificates_are_looked_at_where_proxies_will_be() {
    let text = GATEWAY.to_owned() + &service("gw", "istio: ingressgateway, app: edge") + &pod("gw");
    let (found, wanted) = said(Settings::default(), &text, Vec::new());
    let missing = [
        "g spec.servers[0].tls.credentialName CredentialNotFound",
        "g spec.servers[1].tls.caCertCredentialName CredentialNotFound",
        "g spec.servers[1].tls.credentialName CredentialNotFound",
    ];
    assert_eq!(found[..1], missing[..1]);
    assert!(found.iter().all(|one| missing.contains(&&**one)), "{found:?}");
    assert_eq!(wanted, ["Secret gw/a", "Secret gw/b", "Secret gw/b-cacert"]);
    let secrets = vec![tls("gw", "a", "other.com", 5), tls("gw", "b", "b.com", -1)];
    let (found, _) = said(Settings::default(), &text, secrets);
    for expected in [
        "g spec.servers[0].tls.credentialName CertificateExpires",
        "g spec.servers[0].tls.credentialName CertificateForOtherHosts",
        "g spec.servers[1].tls.credentialName CertificateExpired",
    ] {
        assert!(found.iter().any(|one| one == expected), "{expected}: {found:?}");
    }
}

#[test]
fn nothing_is_read_for_proxies_that_are_nowhere() {
    let nothing = (Vec::<String>::new(), Vec::<String>::new());
    let selecting = service("gw", "istio: ingressgateway");
    for text in [
        String::new(),
        selecting.clone(),
        pod("gw"),
        service("gw", "app: edge") + &pod("gw"),
        selecting.clone() + &pod("elsewhere"),
    ] {
        assert_eq!(said(Settings::default(), &(GATEWAY.to_owned() + &text), Vec::new()), nothing, "{text}");
    }
    let own = || Settings { gateways_in_own_namespace: true, ..Settings::default() };
    assert_eq!(said(own(), &(GATEWAY.to_owned() + &selecting + &pod("gw")), Vec::new()), nothing);
    let beside = GATEWAY.to_owned() + &service("infra", "istio: ingressgateway") + &pod("infra");
    assert_eq!(said(own(), &beside, Vec::new()).1.len(), 3);
}
