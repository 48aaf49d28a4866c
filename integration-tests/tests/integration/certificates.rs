//! Who gets which certificate, with tokens that a real API server reviews.

use fairway_integration_tests::certificate::{Csr, check_chain, create, p256, p384, rsa};
use fairway_integration_tests::cluster::Cluster;
use fairway_integration_tests::eventually;
use fairway_integration_tests::kubelet::{pod_ip, running};
use fairway_integration_tests::ztunnel::Options;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use serde_json::{Value, json};
use tonic::Code;

use crate::mesh::{Mesh, Namespace, over_tls, pod, shared, ztunnel_pod};

async fn caller(mesh: &Mesh, token: &str) -> Options {
    over_tls(&mesh.cluster, &mesh.fairway, Some(token.into())).await
}

async fn pod_token(cluster: &Cluster, pod: &Value) -> String {
    let (namespace, account) = (&pod["metadata"]["namespace"], &pod["spec"]["serviceAccountName"]);
    cluster.token(namespace.as_str().unwrap(), account.as_str().unwrap(), &["istio-ca"], Some(pod), 3600).await
}

async fn runs(ns: &Namespace, name: &str, node: &str, account: &str, phase: &str) -> Value {
    ns.service_account(account).await;
    let pod = ns.apply(pod(name, node, account, json!({ "app": name }))).await;
    let mut status = running(&pod_ip(), true);
    status["phase"] = json!(phase);
    ns.api.patch_status(&pod, status).await.unwrap()
}

fn identity(ns: &Namespace, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{}/sa/{account}", ns.name)
}

/// Without impersonation a caller gets its own identity, with any good key.
pub async fn own_identity() {
    let mesh = shared().await;
    let ns = mesh.namespace("csr").await;
    let pod = runs(&ns, "app", "node-a", "app", "Running").await;
    let bound = pod_token(&mesh.cluster, &pod).await;
    let unbound = mesh.cluster.token(&ns.name, "app", &["istio-ca"], None, 3600).await;
    let wanted = identity(&ns, "app");
    for (token, key, what) in [
        (&bound, p256(), "P-256"),
        (&bound, p384(), "P-384"),
        (&bound, rsa(2048), "RSA-2048"),
        (&unbound, p256(), "P-256, token without a pod"),
    ] {
        let csr = Csr::new(key.clone()).uri(&wanted).pem();
        let response = create(&caller(mesh, token).await, csr, None).await;
        let leaf = check_chain(&response.unwrap_or_else(|status| panic!("{what}: {status:?}")), &wanted);
        let leaf = leaf.unwrap_or_else(|reason| panic!("{what}: {reason}"));
        assert!(leaf.public_key().unwrap().public_eq(&key), "{what}: another key was certified");
    }
}

/// A node's ztunnel gets the identities of its node and no others.
pub async fn impersonation() {
    let mesh = shared().await;
    let ns = mesh.namespace("node").await;
    let ztunnel = ztunnel_pod(mesh.api(), "node-a").await;
    runs(&ns, "here", "node-a", "here", "Running").await;
    runs(&ns, "there", "node-b", "there", "Running").await;
    runs(&ns, "done", "node-a", "done", "Succeeded").await;
    ns.service_account("absent").await;
    let application = runs(&ns, "app", "node-a", "app", "Running").await;

    let trusted = caller(mesh, &pod_token(&mesh.cluster, &ztunnel).await).await;
    let wanted = identity(&ns, "here");
    let ask = async |options: &Options, identity: &str| {
        create(options, Csr::new(p256()).uri(identity).pem(), Some(identity)).await
    };
    // The pods arrive by watch.
    let response = eventually("a certificate for a pod of the node", || ask(&trusted, &wanted)).await;
    check_chain(&response, &wanted).unwrap();
    // The request may name somebody else; what counts is who is impersonated.
    let other = Csr::new(p256()).uri(&identity(&ns, "there")).pem();
    if let Ok(response) = create(&trusted, other, Some(&wanted)).await {
        check_chain(&response, &wanted).unwrap();
    }

    let unbound = mesh.cluster.token("istio-system", "ztunnel", &["istio-ca"], None, 3600).await;
    let (unbound, application) =
        (caller(mesh, &unbound).await, caller(mesh, &pod_token(&mesh.cluster, &application).await).await);
    let malformed = [
        "",
        "spiffe://",
        "cluster.local/ns/x/sa/here",
        "spiffe://cluster.local/ns/x",
        "spiffe://cluster.local/ns//sa/",
    ];
    let mut cases = vec![
        ("on another node", &trusted, identity(&ns, "there")),
        ("without a pod", &trusted, identity(&ns, "absent")),
        ("whose pod has ended", &trusted, identity(&ns, "done")),
        ("that does not exist", &trusted, identity(&ns, "nobody")),
        ("of another trust domain", &trusted, wanted.replace("cluster.local", "example.org")),
        ("in other letters", &trusted, wanted.to_uppercase()),
        ("with a longer path", &trusted, format!("{wanted}/x")),
        ("by a token without a pod", &unbound, wanted.clone()),
        ("by an application", &application, wanted.clone()),
        ("by an application, its own", &application, identity(&ns, "app")),
    ];
    cases.extend(malformed.map(|text| ("that is none", &trusted, text.to_string())));
    for (what, options, identity) in cases {
        match ask(options, &identity).await {
            Err(status) => {
                assert_eq!(status.code(), Code::Unauthenticated, "an identity {what}, {identity:?}: {status:?}")
            }
            Ok(response) => panic!("an identity {what}, {identity:?}, was certified: {:?}", response.cert_chain),
        }
    }

    // A pod that comes later is seen.
    runs(&ns, "late", "node-a", "absent", "Running").await;
    let wanted = identity(&ns, "absent");
    let response = eventually("a certificate for the late pod", || ask(&trusted, &wanted)).await;
    check_chain(&response, &wanted).unwrap();
}

/// Tokens that prove nothing.
pub async fn tokens() {
    let mesh = shared().await;
    let ns = mesh.namespace("token").await;
    let pod = runs(&ns, "app", "node-a", "app", "Running").await;
    let good = pod_token(&mesh.cluster, &pod).await;
    let gone = runs(&ns, "gone", "node-a", "app", "Running").await;
    let revoked = pod_token(&mesh.cluster, &gone).await;
    ns.api.delete(&gone).await;
    let cluster_key = PKey::private_key_from_pem(&mesh.cluster.service_account_key()).unwrap();
    let expire = |claims: &mut Value| claims["exp"] = json!(1_600_000_000);
    let same = |_: &mut Value| {};
    let root = |claims: &mut Value| claims["sub"] = json!("system:serviceaccount:istio-system:ztunnel");
    let none = {
        let mut parts = good.split('.');
        let (_, claims) = (parts.next(), parts.next().unwrap());
        format!("{}.{claims}.", base64url(br#"{"alg":"none"}"#))
    };
    let cases = [
        ("for another audience", mesh.cluster.token(&ns.name, "app", &["another"], Some(&pod), 3600).await),
        ("for the API server", mesh.cluster.token(&ns.name, "app", &[], Some(&pod), 3600).await),
        ("expired", resigned(&good, &cluster_key, expire)),
        ("signed by a stranger", resigned(&good, &rsa(2048), same)),
        ("signed by a stranger, for ztunnel", resigned(&good, &rsa(2048), root)),
        ("not signed", none),
        ("of a deleted pod", revoked),
        ("garbage", "garbage".into()),
        ("empty", String::new()),
        ("of a megabyte", "x".repeat(1 << 20)),
    ];
    for (what, token) in cases {
        let csr = Csr::new(p256()).pem();
        match create(&caller(mesh, &token).await, csr, None).await {
            Ok(_) => panic!("a token {what} was believed"),
            // Headers of a megabyte are HTTP/2's business.
            Err(_) if token.len() > 1 << 16 => {}
            Err(status) => assert_eq!(status.code(), Code::Unauthenticated, "a token {what}: {status:?}"),
        }
    }
    let csr = Csr::new(p256()).pem();
    let response = create(&caller(mesh, &good).await, csr, None).await.unwrap();
    check_chain(&response, &identity(&ns, "app")).unwrap();
}

/// Requests that want more than they should: refused, or certified without
/// what they want.
pub async fn hostile_requests() {
    let mesh = shared().await;
    let ns = mesh.namespace("hostile").await;
    let pod = runs(&ns, "app", "node-a", "app", "Running").await;
    let options = caller(mesh, &pod_token(&mesh.cluster, &pod).await).await;
    let wanted = identity(&ns, "app");
    let new = || Csr::new(p256());
    let root = "spiffe://cluster.local/ns/istio-system/sa/istiod";
    let good = new().uri(&wanted).pem();
    let cases = [
        ("another's name", new().uri(root).pem(), None),
        (
            "names of all kinds",
            new()
                .names(|names| {
                    names.uri(root).uri(&wanted).dns("istiod.istio-system.svc").ip("127.0.0.1").email("a@b.c");
                })
                .pem(),
            None,
        ),
        (
            "a thousand names",
            new()
                .names(|names| {
                    for number in 0..1000 {
                        names.dns(&format!("n{number}.example.com"));
                    }
                })
                .pem(),
            None,
        ),
        (
            "a name with a comma",
            new()
                .names(|names| {
                    names.dns("a\\,URI:spiffe://x");
                })
                .pem(),
            None,
        ),
        ("CA:TRUE", new().uri(&wanted).ca().pem(), None),
        ("a common name", new().uri(&wanted).common_name("istiod.istio-system.svc").pem(), None),
        ("a bad signature", new().uri(&wanted).pem_with_bad_signature(), Some(Code::InvalidArgument)),
        ("RSA-1024", Csr::new(rsa(1024)).uri(&wanted).pem(), Some(Code::InvalidArgument)),
        ("nothing", String::new(), Some(Code::InvalidArgument)),
        ("no PEM", "CSR".into(), Some(Code::InvalidArgument)),
        ("PEM of something else", mesh.fairway.secure_grpc.to_string(), Some(Code::InvalidArgument)),
        ("half a request", good[..good.len() / 2].into(), Some(Code::InvalidArgument)),
        (
            "a megabyte",
            "-----BEGIN CERTIFICATE REQUEST-----\n".to_string() + &"A".repeat(1 << 20),
            Some(Code::OutOfRange),
        ),
    ];
    for (what, csr, code) in cases {
        match (create(&options, csr, None).await, code) {
            (Ok(response), None) => {
                drop(check_chain(&response, &wanted).unwrap_or_else(|reason| panic!("{what}: {reason}")))
            }
            (Err(status), None) => assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}"),
            (Err(status), Some(code)) => {
                assert!(
                    [code, Code::InvalidArgument, Code::ResourceExhausted].contains(&status.code()),
                    "{what}: {status:?}"
                );
            }
            (Ok(_), Some(_)) => panic!("a request with {what} was certified"),
        }
    }
    mesh.fairway.assert_running();
}

fn base64url(bytes: &[u8]) -> String {
    openssl::base64::encode_block(bytes).replace('\n', "").replace('+', "-").replace('/', "_").replace('=', "")
}

/// A token with other claims, signed by a key.
fn resigned(token: &str, key: &PKey<openssl::pkey::Private>, change: impl Fn(&mut Value)) -> String {
    let mut parts = token.split('.');
    let (header, claims) = (parts.next().unwrap(), parts.next().unwrap());
    let mut padded = claims.replace('-', "+").replace('_', "/");
    padded.extend(std::iter::repeat_n('=', (4 - padded.len() % 4) % 4));
    let mut claims: Value = serde_json::from_slice(&openssl::base64::decode_block(&padded).unwrap()).unwrap();
    change(&mut claims);
    let signed = format!("{header}.{}", base64url(claims.to_string().as_bytes()));
    let mut signer = Signer::new(MessageDigest::sha256(), key).unwrap();
    let signature = signer.sign_oneshot_to_vec(signed.as_bytes()).unwrap();
    format!("{signed}.{}", base64url(&signature))
}
