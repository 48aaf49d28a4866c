//! The root of trust: where it is kept and where it is published.

use std::time::{Duration, Instant};

use fairway_integration_tests::api::Api;
use fairway_integration_tests::certificate::{Csr, check_chain, create, p256, rsa};
use fairway_integration_tests::eventually;
use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::ztunnel::{self, Tls};
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectKeyIdentifier};
use openssl::x509::{X509, X509NameBuilder};
use serde_json::{Value, json};

use crate::mesh::{root_certificate, shared};

const ROOT: &str = "istio-ca-root-cert";

async fn root_map(api: &Api, namespace: &str) -> Result<Value, String> {
    api.get("v1", "ConfigMap", namespace, ROOT).await.map_err(|refused| refused.message)
}

/// The root is in every namespace, is put back when somebody changes it, and
/// two replicas do not fight over it.
pub async fn config_maps() {
    let mesh = shared().await;
    let api = mesh.api();
    let root = root_certificate(api, "istio-system").await;
    assert_eq!(X509::stack_from_pem(root.as_bytes()).unwrap().len(), 1);
    let second = Fairway::start(&Options::new(&mesh.cluster.kubeconfig())).await;
    let ns = mesh.namespace("root").await;
    for namespace in ["kube-system", "default", &ns.name] {
        assert_eq!(root_certificate(api, namespace).await, root, "{namespace}");
        let map = root_map(api, namespace).await.unwrap();
        assert_eq!(map["metadata"]["labels"]["istio.io/config"], "true", "{namespace}: {map}");
    }
    let repaired = async |what: &str| {
        eventually(what, || async {
            let map = root_map(api, &ns.name).await?;
            if map["data"]["root-cert.pem"] == root.as_str() { Ok(map) } else { Err(map.to_string()) }
        })
        .await
    };
    let mut map = root_map(api, &ns.name).await.unwrap();
    (map["apiVersion"], map["kind"]) = (json!("v1"), json!("ConfigMap"));
    api.patch(&map, json!({ "data": { "root-cert.pem": "another" } })).await;
    repaired("an edited root is put back").await;
    api.delete(&map).await;
    let map = repaired("a deleted root is put back").await;

    // That nothing happens can only be watched for a while.
    let version = map["metadata"]["resourceVersion"].clone();
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        let now = root_map(api, &ns.name).await.unwrap();
        assert_eq!(now["metadata"]["resourceVersion"], version, "two replicas write by turns: {now}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    second.assert_running();
}

/// A new root looks like istiod's, so that istiod could go on with it.
pub async fn new_root() {
    let mesh = shared().await;
    let secret = mesh.api().get("v1", "Secret", "istio-system", "istio-ca-secret").await.unwrap();
    assert_eq!(secret["type"], "istio.io/ca-root");
    let data = secret["data"].as_object().unwrap();
    let decode = |key: &str| openssl::base64::decode_block(data[key].as_str().unwrap()).unwrap();
    let keys: Vec<_> = data.keys().map(String::as_str).collect();
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(sorted, ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "key.pem", "root-cert.pem"]);
    assert!(decode("cert-chain.pem").is_empty() && decode("key.pem").is_empty());
    assert_eq!(decode("ca-cert.pem"), decode("root-cert.pem"));
    let root = X509::from_pem(&decode("ca-cert.pem")).unwrap();
    let key = openssl::pkey::PKey::private_key_from_pem(&decode("ca-key.pem")).unwrap();
    assert!(root.public_key().unwrap().public_eq(&key));
    let subject: Vec<_> = root.subject_name().entries().map(|entry| entry.data().to_string().unwrap()).collect();
    assert_eq!(subject, ["cluster.local"]);
    let days = Asn1Time::days_from_now(0).unwrap().diff(root.not_after()).unwrap().days;
    assert!((3600..=3660).contains(&days), "the root is valid for {days} days");
    let published = root_certificate(mesh.api(), "kube-system").await;
    assert_eq!(X509::from_pem(published.as_bytes()).unwrap().to_der().unwrap(), root.to_der().unwrap());
}

/// The root of an istiod that was here before is continued.
pub async fn continued_root() {
    let mesh = shared().await;
    // A system namespace of its own keeps it from the root of the others.
    let ns = mesh.namespace("continued").await;
    let (certificate, key) = istiod_root();
    ns.apply(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "istio.io/ca-root", "metadata": { "name": "istio-ca-secret" },
        "stringData": {
            "ca-cert.pem": certificate, "ca-key.pem": key, "root-cert.pem": certificate,
            "cert-chain.pem": "", "key.pem": "",
        },
    }))
    .await;
    let before = ns.api.get("v1", "Secret", &ns.name, "istio-ca-secret").await.unwrap();
    let options = Options::new(&mesh.cluster.kubeconfig()).env("POD_NAMESPACE", &ns.name).flag("--read-only");
    let fairway = Fairway::start(&options).await;
    let pod = ns.pod("app", json!({ "app": "app" })).await;
    let token = mesh.cluster.token(&ns.name, "default", &["istio-ca"], Some(&pod), 3600).await;
    let caller = ztunnel::Options {
        tls: Some(Tls { roots: certificate.clone(), server_name: format!("istiod.{}.svc", ns.name) }),
        token: Some(token),
        ..ztunnel::Options::plaintext(fairway.secure_grpc)
    };
    let response = create(&caller, Csr::new(p256()).pem(), None).await.unwrap();
    check_chain(&response, &format!("spiffe://cluster.local/ns/{}/sa/default", ns.name)).unwrap();
    let root = X509::from_pem(response.cert_chain.last().unwrap().as_bytes()).unwrap();
    assert_eq!(root.to_der().unwrap(), X509::from_pem(certificate.as_bytes()).unwrap().to_der().unwrap());
    let after = ns.api.get("v1", "Secret", &ns.name, "istio-ca-secret").await.unwrap();
    assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"], "the Secret was written");
}

/// A root as istiod makes it: RSA-2048, O=cluster.local.
fn istiod_root() -> (String, String) {
    let key = rsa(2048);
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("O", "cluster.local").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = openssl::bn::BigNum::from_u32(4711).unwrap().to_asn1_integer().unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(3650).unwrap()).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.append_extension(KeyUsage::new().critical().key_cert_sign().build().unwrap()).unwrap();
    builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    let id = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(id).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
    (text(builder.build().to_pem().unwrap()), text(key.rsa().unwrap().private_key_to_pem().unwrap()))
}
