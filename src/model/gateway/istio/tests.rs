//! What Istio's objects say, and which of it is left out.

use super::*;
use crate::api::yaml;

/// A server of a Gateway in `ns`, and what is said about it.
fn lowered(text: &str) -> (Result<Server, String>, Vec<String>) {
    let one: api::Server = yaml(text).unwrap();
    let meta = Meta { namespace: "ns".into(), name: "gw".into(), ..Meta::default() };
    let said = std::cell::RefCell::new(Vec::new());
    let say = |field: &str, reason: &'static str, _: String| said.borrow_mut().push(format!("{field} {reason}"));
    let server = server(&meta, &one, "spec.servers[0]", &say).map_err(|(field, reason, _)| format!("{field} {reason}"));
    (server, said.into_inner())
}

#[track_caller]
fn left_out(text: &str, why: &str) {
    let (server, _) = lowered(text);
    assert_eq!(server.unwrap_err(), why, "{text}");
}

const HTTPS: &str = "port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.com]";

/// TLS of a server; why it is closed.
fn tls(text: &str) -> Result<ServerTls, String> {
    closed(&format!("{{{HTTPS}, tls: {text}}}"))
}

fn closed(text: &str) -> Result<ServerTls, String> {
    let (server, said) = lowered(text);
    let server = server.unwrap();
    assert_eq!(server.hosts.len(), 1, "they stay its own");
    let tls = *server.tls.unwrap();
    if tls.closed { Err(said.concat()) } else { Ok(tls) }
}

#[test]
fn hosts_may_be_of_one_namespace() {
    let (server, said) = lowered(
        "{port: {number: 80, protocol: http2}, hosts: [A.com, ./b.com, ns/b.com, '*/c.com', other/*.d.com, '*', 'a*.com', '']}",
    );
    let server = server.unwrap();
    let hosts: Vec<_> =
        server.hosts.iter().map(|host| format!("{}/{}", host.namespace.as_deref().unwrap_or("*"), host.host)).collect();
    assert_eq!(hosts, ["*/a.com", "ns/b.com", "*/c.com", "other/*.d.com", "*/*"]);
    assert_eq!(said, ["hosts[6] InvalidValue", "hosts[7] InvalidValue"]);
    assert_eq!(server.protocol, ServerProtocol::Http);
}

#[test]
fn what_is_impossible_is_left_out() {
    left_out("{hosts: [a.com]}", "port InvalidValue");
    left_out("{port: {number: 0, protocol: HTTP}, hosts: [a.com]}", "port InvalidValue");
    left_out("{port: {number: 80, protocol: QUACK}, hosts: [a.com]}", "port.protocol UnsupportedValue");
    left_out("{port: {number: 80, protocol: HTTP}}", "hosts InvalidValue");
    left_out("{port: {number: 80, protocol: HTTP}, hosts: ['*x']}", "hosts InvalidValue");
    left_out("{port: {number: 80, protocol: HTTP}, hosts: [a.com], bind: unix:///a}", "bind UnsupportedValue");
    assert_eq!(closed(&format!("{{{HTTPS}}}")).unwrap_err(), "tls InvalidValue");
    assert_eq!(tls("{mode: NOVEL}").unwrap_err(), "tls.mode UnsupportedValue");
}

#[test]
fn an_address_is_written_in_one_way() {
    let bind = |bind: &str| {
        let server = format!("{{port: {{number: 80, protocol: HTTP}}, hosts: [a.com], bind: '{bind}'}}");
        lowered(&server).0.unwrap().bind.to_string()
    };
    for any in ["", "0.0.0.0", "::", "0:0:0:0:0:0:0:0", "::ffff:0.0.0.0"] {
        assert_eq!(bind(any), "", "{any}");
    }
    assert_eq!(bind("10.0.0.1"), "10.0.0.1");
    assert_eq!(bind("::FFFF:10.0.0.1"), "10.0.0.1");
    assert_eq!(bind("2001:DB8:0::1"), "2001:db8::1");
}

#[test]
fn tls_is_never_less_than_was_asked_for() {
    let why = |text: &str| tls(text).unwrap_err();
    assert_eq!(why("{mode: SIMPLE}"), "tls InvalidValue");
    assert_eq!(why("{mode: SIMPLE, serverCertificate: /c}"), "tls InvalidValue");
    assert_eq!(why("{mode: MUTUAL, serverCertificate: /c, privateKey: /k}"), "tls.caCertificates InvalidValue");
    assert_eq!(
        why("{mode: OPTIONAL_MUTUAL, serverCertificate: /c, privateKey: /k}"),
        "tls.caCertificates InvalidValue"
    );
    assert_eq!(why("{mode: SIMPLE, credentialName: a, novel: true}"), "tls.novel UnknownField");
    assert_eq!(
        why("{mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_9}"),
        "tls.minProtocolVersion UnsupportedValue"
    );
    assert_eq!(
        why("{mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2}"),
        "tls.minProtocolVersion InvalidValue"
    );
}

#[test]
fn certificates_are_secrets_or_files() {
    let secret = |name: &str| ServerCertificate::Secret(name.into());
    let simple = tls("{mode: SIMPLE, credentialName: a}").unwrap();
    assert_eq!((&*simple.certificates, &simple.client_ca), (&[secret("kubernetes://a")][..], &None));
    let mutual = tls("{mode: MUTUAL, credentialNames: [a, b]}").unwrap();
    assert_eq!(&*mutual.certificates, [secret("kubernetes://a"), secret("kubernetes://b")]);
    assert_eq!(mutual.client_ca, Some(ClientCa::Secret("kubernetes://a-cacert".into())));
    let explicit = tls("{mode: MUTUAL, credentialName: a, caCertCredentialName: configmap://ns/b-cacert}").unwrap();
    assert_eq!(explicit.client_ca, Some(ClientCa::Secret("configmap://ns/b-cacert".into())));
    let files = tls("{mode: OPTIONAL_MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /ca, caCrl: /crl}")
        .unwrap();
    let pair = ServerCertificate::Files { certificate: "/c".into(), private_key: "/k".into() };
    assert_eq!((&*files.certificates, &*files.crl_file), (&[pair][..], "/crl"));
    assert_eq!(files.client_ca, Some(ClientCa::File("/ca".into())));
    let workload = tls("{mode: ISTIO_MUTUAL}").unwrap();
    assert_eq!((workload.mode, workload.certificates.len()), (TlsMode::IstioMutual, 0));
}

#[test]
fn a_gateway_is_named_in_several_ways() {
    let named = |name: &str| {
        let key = gateway_key(name, &"own".into());
        format!("{}/{}", key.namespace, key.name)
    };
    assert_eq!(named("gw"), "own/gw");
    assert_eq!(named("./gw"), "own/gw");
    assert_eq!(named("other/gw"), "other/gw");
    assert_eq!(named("gw.other"), "other/gw");
    assert_eq!(named("gw.other.svc.cluster.local"), "other/gw");
}

#[test]
fn virtual_services_are_bound_once_to_each_gateway() {
    let one: VirtualService = yaml(
        "{metadata: {name: vs, namespace: ns}, spec: {hosts: [web, A.com, '*.B.com'], gateways: [mesh, gw, ns/gw, x/y]}}",
    )
    .unwrap();
    let bound = bindings(&one, "cluster.local");
    let keys: Vec<_> = bound.iter().map(|binding| binding.gateway.object().to_string()).collect();
    assert_eq!(keys, ["ns/gw", "x/y"]);
    assert_eq!(
        bound[0].hosts.iter().map(|host| &**host).collect::<Vec<_>>(),
        ["web.ns.svc.cluster.local", "a.com", "*.b.com"]
    );
    let mesh: VirtualService = yaml("{metadata: {name: vs, namespace: ns}, spec: {hosts: [a.com]}}").unwrap();
    assert!(bindings(&mesh, "cluster.local").is_empty());
}
