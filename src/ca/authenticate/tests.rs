use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::jwt::{Jwt, base64url};
use super::*;
use crate::ca::testing::{ec_key, id, p256, rsa_key, trust_domains};

const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";

fn encode(bytes: &[u8]) -> String {
    openssl::base64::encode_block(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// A token signed with a key as the header says, or with an HMAC of `secret`.
fn token(header: &Value, claims: &Value, key: &PKey<Private>) -> String {
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let digest = match header["alg"].as_str().unwrap_or_default() {
        "RS384" | "ES384" => MessageDigest::sha384(),
        "RS512" => MessageDigest::sha512(),
        _ => MessageDigest::sha256(),
    };
    let mut signature = Signer::new(digest, key).unwrap().sign_oneshot_to_vec(signed.as_bytes()).unwrap();
    if key.id() == openssl::pkey::Id::EC {
        let numbers = EcdsaSig::from_der(&signature).unwrap();
        let half = (key.bits() as i32 + 7) / 8;
        signature = numbers.r().to_vec_padded(half).unwrap();
        signature.extend(numbers.s().to_vec_padded(half).unwrap());
    }
    format!("{signed}.{}", encode(&signature))
}

fn rsa_jwk(kid: &str, key: &PKey<Private>) -> Value {
    let rsa = key.rsa().unwrap();
    json!({ "kty": "RSA", "kid": kid, "use": "sig", "n": encode(&rsa.n().to_vec()), "e": encode(&rsa.e().to_vec()) })
}

fn ec_jwk(kid: &str, crv: &str, key: &PKey<Private>) -> Value {
    let ec = key.ec_key().unwrap();
    let mut context = openssl::bn::BigNumContext::new().unwrap();
    let (mut x, mut y) = (openssl::bn::BigNum::new().unwrap(), openssl::bn::BigNum::new().unwrap());
    ec.public_key().affine_coordinates(ec.group(), &mut x, &mut y, &mut context).unwrap();
    let size = (key.bits() as i32 + 7) / 8;
    let (x, y) = (x.to_vec_padded(size).unwrap(), y.to_vec_padded(size).unwrap());
    json!({ "kty": "EC", "kid": kid, "crv": crv, "x": encode(&x), "y": encode(&y) })
}

struct Issuer {
    rsa: PKey<Private>,
    p256: PKey<Private>,
    p384: PKey<Private>,
    chain: AuthenticatorChain,
}

fn issuer() -> Issuer {
    let (rsa, p256, p384) = (rsa_key(2048), p256(), ec_key(Nid::SECP384R1));
    let unknown = json!({ "kty": "oct", "k": "c2VjcmV0" });
    let jwks = json!({ "keys": [unknown, rsa_jwk("r", &rsa), ec_jwk("p256", "P-256", &p256), ec_jwk("p384", "P-384", &p384)] });
    let rule = json!({ "issuer": "https://issuer", "jwks": jwks.to_string(), "audiences": ["istio-ca", "other"] });
    let rule: JwtRule = serde_json::from_value(rule).unwrap();
    let authenticator = JwtAuthenticator::new(rule, &[], trust_domains()).unwrap();
    Issuer { rsa, p256, p384, chain: AuthenticatorChain::new(trust_domains(), vec![Arc::new(authenticator)]) }
}

fn unix_now() -> i64 {
    Timestamp::now().as_second()
}

fn claims() -> Value {
    json!({ "iss": "https://issuer", "sub": "system:serviceaccount:default:alice", "aud": "istio-ca",
        "exp": unix_now() + 600, "nbf": unix_now() - 5 })
}

fn with(mut object: Value, changes: &Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(object.as_object_mut().unwrap().remove(key)),
            value => object[key] = value.clone(),
        }
    }
    object
}

fn headers(authorization: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap())])
}

async fn ask(chain: &AuthenticatorChain, token: &str) -> Result<Caller, Denial> {
    chain.authenticate(&Peer::default(), &headers(&format!("Bearer {token}"))).await
}

#[tokio::test]
async fn tokens_of_every_accepted_algorithm() {
    let issuer = issuer();
    for (alg, kid, key) in [
        ("RS256", "r", &issuer.rsa),
        ("RS384", "r", &issuer.rsa),
        ("RS512", "r", &issuer.rsa),
        ("ES256", "p256", &issuer.p256),
        ("ES384", "p384", &issuer.p384),
    ] {
        for header in [json!({ "alg": alg, "kid": kid }), json!({ "alg": alg })] {
            let caller = ask(&issuer.chain, &token(&header, &claims(), key)).await.unwrap();
            assert_eq!(caller, Caller { identities: vec![id(ALICE)], proof: Proof::Jwt, pod: None }, "{header}");
        }
    }
    let many = with(claims(), &json!({ "aud": ["x", "other"], "exp": unix_now() as f64 + 30.5 }));
    assert!(ask(&issuer.chain, &token(&json!({ "alg": "RS256" }), &many, &issuer.rsa)).await.is_ok());
    let skewed = with(claims(), &json!({ "exp": unix_now() - 30, "nbf": unix_now() + 30 }));
    assert!(ask(&issuer.chain, &token(&json!({ "alg": "RS256" }), &skewed, &issuer.rsa)).await.is_ok());
}

#[tokio::test]
async fn claims_that_do_not_fit_are_refused_with_the_reason() {
    let issuer = issuer();
    for (changes, why) in [
        (json!({ "aud": "kubernetes" }), "audience [\"kubernetes\"]"),
        (json!({ "aud": [] }), "audience []"),
        (json!({ "aud": null }), "audience []"),
        (json!({ "exp": unix_now() - 120 }), "expired"),
        (json!({ "exp": null }), "no expiry"),
        (json!({ "nbf": unix_now() + 120 }), "not valid for another"),
        (json!({ "iss": "https://evil" }), "issuer \"https://evil\" is unknown"),
        (json!({ "iss": null }), "issuer \"\" is unknown"),
        (json!({ "sub": "alice" }), "not a service account"),
        (json!({ "sub": "system:serviceaccount:default" }), "not a service account"),
        (json!({ "sub": "system:serviceaccount:default:alice:x" }), "not a service account"),
        (json!({ "sub": "system:serviceaccount::alice" }), "not a service account"),
        (json!({ "sub": "system:serviceaccount:..:alice" }), "path segment"),
        (json!({ "sub": "system:serviceaccount:a/sa/b:alice" }), "path segment"),
        (json!({ "sub": 7 }), "claims are not JSON"),
        (json!({ "exp": "soon" }), "claims are not JSON"),
    ] {
        let refused =
            ask(&issuer.chain, &token(&json!({ "alg": "RS256" }), &with(claims(), &changes), &issuer.rsa)).await;
        let Denial(reason) = refused.unwrap_err();
        assert!(reason.contains(why), "{reason:?} does not say {why:?}");
    }
}

#[tokio::test]
async fn signatures_that_do_not_fit_are_refused() {
    let issuer = issuer();
    let stranger = rsa_key(2048);
    let public_pem = issuer.rsa.public_key_to_pem().unwrap();
    let hmac = PKey::hmac(&public_pem).unwrap();
    let traversal = json!({ "alg": "RS256", "kid": "../../../../dev/null" });
    for (header, key, why) in [
        (json!({ "alg": "RS256", "kid": "r" }), &stranger, "does not verify"),
        (json!({ "alg": "RS256" }), &stranger, "does not verify"),
        (json!({ "alg": "ES256", "kid": "r" }), &issuer.p256, "no ES256 key"),
        (json!({ "alg": "ES256", "kid": "p384" }), &issuer.p384, "no ES256 key"),
        (json!({ "alg": "RS256", "kid": "p256" }), &issuer.rsa, "no RS256 key"),
        (traversal, &issuer.rsa, "no RS256 key"),
        (json!({ "alg": "HS256", "kid": "r" }), &hmac, "algorithm \"HS256\" is not accepted"),
        (json!({ "alg": "none" }), &issuer.rsa, "algorithm \"none\" is not accepted"),
        (json!({ "alg": "rs256" }), &issuer.rsa, "not accepted"),
        (json!({ "alg": "PS256" }), &issuer.rsa, "not accepted"),
        (json!({ "alg": "RS256", "crit": ["b64"], "b64": false }), &issuer.rsa, "critical extensions"),
    ] {
        let Denial(reason) = ask(&issuer.chain, &token(&header, &claims(), key)).await.unwrap_err();
        assert!(reason.contains(why), "{reason:?} does not say {why:?}");
    }
    let good = token(&json!({ "alg": "RS256" }), &claims(), &issuer.rsa);
    let (signed, _) = good.rsplit_once('.').unwrap();
    assert!(ask(&issuer.chain, &format!("{signed}.")).await.is_err());
    let es = token(&json!({ "alg": "ES256" }), &claims(), &issuer.p256);
    let (signed, _) = es.rsplit_once('.').unwrap();
    // r = s = 0, which broken verifiers have taken (CVE-2022-21449).
    assert!(ask(&issuer.chain, &format!("{signed}.{}", encode(&[0; 64]))).await.is_err());
}

#[tokio::test]
async fn headers_that_carry_no_token_are_refused() {
    let chain = issuer().chain;
    for (authorization, why) in [
        ("Basic YTpi", "not a bearer token"),
        ("Bearer", "not a bearer token"),
        ("Bearer  ", "not a bearer token"),
        ("Bearer a", "not three parts"),
        ("Bearer a.b.c.d", "not three parts"),
        ("Bearer ..", "header is not JSON"),
        ("Bearer a=.b.c", "not base64url"),
        ("Bearer e30.e30.!", "header is not JSON"),
    ] {
        let Denial(reason) = chain.authenticate(&Peer::default(), &headers(authorization)).await.unwrap_err();
        assert!(reason.contains(why), "{reason:?} does not say {why:?}");
    }
    for huge in ["a".repeat(1 << 20), ".".repeat(1_000_000)] {
        let Denial(reason) = ask(&chain, &huge).await.unwrap_err();
        assert!(reason.contains("larger than 8 KiB"), "{reason}");
    }
    let dots = ask(&chain, &".".repeat(8000)).await.unwrap_err();
    assert!(dots.0.contains("not three parts"), "{dots}");
    let Denial(reason) = chain.authenticate(&Peer::default(), &HeaderMap::new()).await.unwrap_err();
    assert!(reason.contains("no authorization header"), "{reason}");
    let mut twice = headers("Bearer a.b.c");
    twice.append(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer d.e.f"));
    let Denial(reason) = chain.authenticate(&Peer::default(), &twice).await.unwrap_err();
    assert!(reason.contains("more than one"), "{reason}");
}

#[tokio::test]
async fn the_scheme_is_case_insensitive() {
    let issuer = issuer();
    let good = token(&json!({ "alg": "RS256" }), &claims(), &issuer.rsa);
    for scheme in ["bearer", "BEARER", "Bearer"] {
        assert!(issuer.chain.authenticate(&Peer::default(), &headers(&format!("{scheme} {good}"))).await.is_ok());
    }
}

#[tokio::test]
async fn a_client_certificate_comes_first_and_must_be_of_this_mesh() {
    let chain = issuer().chain;
    let peer = |identity: &str| Peer { certificate: [id(identity)].into(), encrypted: true, ..Peer::default() };
    for own in [ALICE, "spiffe://old.example/ns/default/sa/alice"] {
        let caller = chain.authenticate(&peer(own), &headers("Bearer a.b.c")).await.unwrap();
        assert_eq!(caller, Caller { identities: vec![id(own)], proof: Proof::Certificate, pod: None });
    }
    let foreign = peer("spiffe://federated.example/ns/default/sa/alice");
    let Denial(reason) = chain.authenticate(&foreign, &HeaderMap::new()).await.unwrap_err();
    assert!(reason.contains("not of this mesh's trust domain"), "{reason}");
}

#[tokio::test]
async fn cve_2022_39388_what_a_request_says_of_itself_proves_nothing() {
    let chain = issuer().chain;
    let mut headers = HeaderMap::new();
    headers
        .insert("x-forwarded-client-cert", HeaderValue::from_static("URI=spiffe://cluster.local/ns/default/sa/alice"));
    let peer = Peer { address: Some("127.0.0.1:1".parse().unwrap()), encrypted: true, ..Peer::default() };
    assert!(chain.authenticate(&peer, &headers).await.is_err());
}

#[test]
fn rules_are_read_in_both_spellings() {
    for text in [r#"{"issuer":"i","jwks_uri":"https://x/"}"#, r#"{"issuer":"i","jwksUri":"https://x/"}"#] {
        let rule: JwtRule = serde_json::from_str(text).unwrap();
        assert_eq!(rule.jwks_uri, "https://x/");
        assert!(JwtAuthenticator::new(rule, &[], trust_domains()).is_ok());
    }
    for text in [
        r#"{"issuer":""}"#,
        r#"{"issuer":"not a uri"}"#,
        r#"{"issuer":"i","jwks_uri":"file:///etc/passwd"}"#,
        r#"{"issuer":"i","jwks":"{}"}"#,
        r#"{"issuer":"i","jwks":"{\"keys\":[]}"}"#,
    ] {
        let rule: JwtRule = serde_json::from_str(text).unwrap();
        assert!(JwtAuthenticator::new(rule, &[], trust_domains()).is_err(), "{text}");
    }
}

#[tokio::test]
async fn cve_2026_31837_keys_are_found_by_discovery_and_a_failure_refuses() {
    let key = p256();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let fetches = Arc::new(AtomicUsize::new(0));
    let (jwks, counter, place) = (json!({ "keys": [ec_jwk("k", "P-256", &key)] }), fetches.clone(), base.clone());
    let answer = move |value: Value| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move { axum::Json(value) }
    };
    let configuration = json!({ "jwks_uri": format!("{place}/keys") });
    let app = axum::Router::new()
        .route(
            "/.well-known/openid-configuration",
            axum::routing::get({
                let answer = answer.clone();
                move || answer(configuration.clone())
            }),
        )
        .route("/keys", axum::routing::get(move || answer(jwks.clone())));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let rule = JwtRule { issuer: base.clone(), jwks_uri: String::new(), jwks: String::new(), audiences: vec![] };
    let authenticator = JwtAuthenticator::new(rule, &["istio-ca".into()], trust_domains()).unwrap();
    let chain = AuthenticatorChain::new(trust_domains(), vec![Arc::new(authenticator)]);
    let own = with(claims(), &json!({ "iss": base }));
    let good = token(&json!({ "alg": "ES256", "kid": "k" }), &own, &key);
    let storm = futures::future::join_all((0..50).map(|_| ask(&chain, &good))).await;
    assert!(storm.iter().all(Result::is_ok), "{:?}", storm[0]);
    assert_eq!(fetches.load(Ordering::SeqCst), 2, "one configuration, one set of keys");
    // Unknown key ids do not make us fetch at the caller's pace.
    for kid in ["x", "y", "z"] {
        assert!(ask(&chain, &token(&json!({ "alg": "ES256", "kid": kid }), &own, &key)).await.is_err());
    }
    assert_eq!(fetches.load(Ordering::SeqCst), 2);
    server.abort();

    let gone =
        JwtRule { issuer: "i".into(), jwks_uri: "http://127.0.0.1:1/".into(), jwks: String::new(), audiences: vec![] };
    let authenticator = JwtAuthenticator::new(gone, &["istio-ca".into()], trust_domains()).unwrap();
    let chain = AuthenticatorChain::new(trust_domains(), vec![Arc::new(authenticator)]);
    let own = with(claims(), &json!({ "iss": "i" }));
    let Denial(reason) = ask(&chain, &token(&json!({ "alg": "ES256" }), &own, &key)).await.unwrap_err();
    assert!(reason.contains("keys cannot be fetched"), "{reason}");
}

#[tokio::test]
async fn a_token_shown_again_is_that_token_in_the_mesh_of_today() {
    let dir = tempfile::tempdir().unwrap();
    let (issuer, trust) = (DevIssuer::open(dir.path()).unwrap(), trust_domains());
    let authenticator = issuer.authenticator(&["istio-ca".to_owned()], trust.clone()).unwrap();
    let chain = AuthenticatorChain::new(trust.clone(), vec![Arc::new(authenticator)]);
    let ttl = Duration::from_secs(600);
    let token = issuer.mint("default", "alice", None, "istio-ca", ttl, Timestamp::now()).unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&chain, &token).await.unwrap().identities, [id(ALICE)]);
    }
    // Same claims, another signature.
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", signature.chars().rev().collect::<String>());
    assert!(ask(&chain, &forged).await.is_err());
    trust.set("new.example".parse().unwrap(), vec![]);
    assert_eq!(ask(&chain, &token).await.unwrap().identities, [id("spiffe://new.example/ns/default/sa/alice")]);
}

#[tokio::test]
async fn the_development_issuer_accepts_its_own_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let first = DevIssuer::open(&state).unwrap();
    let mode = |path: &std::path::Path| {
        std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777
    };
    assert_eq!((mode(&state), mode(&state.join("token-key.pem"))), (0o700, 0o600));
    let audiences = ["istio-ca".to_owned()];
    let again = DevIssuer::open(&state).unwrap().authenticator(&audiences, trust_domains()).unwrap();
    let chain = AuthenticatorChain::new(trust_domains(), vec![Arc::new(again)]);
    let pod = PodBinding { name: "web-0".into(), uid: "u-1".into() };
    let mint = |audience: &str, at: Timestamp| {
        first.mint("default", "alice", Some(&pod), audience, Duration::from_secs(600), at).unwrap()
    };
    let caller = ask(&chain, &mint("istio-ca", Timestamp::now())).await.unwrap();
    assert_eq!(caller, Caller { identities: vec![id(ALICE)], proof: Proof::Jwt, pod: Some(pod.clone()) });
    let unbound = first.mint("default", "alice", None, "istio-ca", Duration::from_secs(600), Timestamp::now()).unwrap();
    assert_eq!(ask(&chain, &unbound).await.unwrap().pod, None);
    assert!(ask(&chain, &mint("other", Timestamp::now())).await.unwrap_err().0.contains("audience"));
    let old = Timestamp::from_second(unix_now() - 3600).unwrap();
    assert!(ask(&chain, &mint("istio-ca", old)).await.unwrap_err().0.contains("expired"));
    let other = DevIssuer::open(&dir.path().join("other")).unwrap();
    let stranger =
        other.mint("default", "alice", None, "istio-ca", Duration::from_secs(600), Timestamp::now()).unwrap();
    assert!(ask(&chain, &stranger).await.is_err());
}

/// An API server that counts its reviews, and answers when told to.
#[derive(Default)]
struct Reviewer {
    count: AtomicUsize,
    gate: Option<Arc<Notify>>,
    answer: Mutex<Option<Result<TokenReviewStatus, String>>>,
}

impl TokenReviewer for Arc<Reviewer> {
    fn review(&self, _: String, audiences: Vec<String>) -> BoxFuture<'static, Result<TokenReviewStatus, String>> {
        self.count.fetch_add(1, Ordering::SeqCst);
        assert_eq!(audiences, ["istio-ca"]);
        let (gate, answer) = (self.gate.clone(), self.answer.lock().unwrap().clone());
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.notified().await;
            }
            answer.unwrap_or_else(|| Ok(vouched()))
        })
    }
}

fn vouched() -> TokenReviewStatus {
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec!["istio-ca".into()]),
        error: None,
        user: Some(UserInfo {
            username: Some("system:serviceaccount:default:alice".into()),
            extra: Some(BTreeMap::from([
                ("authentication.kubernetes.io/pod-name".into(), vec!["web-0".into()]),
                ("authentication.kubernetes.io/pod-uid".into(), vec!["u-1".into()]),
            ])),
            ..UserInfo::default()
        }),
    }
}

fn kubernetes(reviewer: &Arc<Reviewer>) -> AuthenticatorChain {
    let tokens =
        KubernetesTokens::new(Arc::new(reviewer.clone()), vec!["istio-ca".into()], "Kubernetes", trust_domains());
    AuthenticatorChain::new(trust_domains(), vec![Arc::new(tokens)])
}

/// Only the API server can check it, so the signature is of no matter here.
fn opaque(changes: &Value) -> String {
    let part = |value: &Value| encode(value.to_string().as_bytes());
    format!("{}.{}.c2ln", part(&json!({ "alg": "RS256" })), part(&with(claims(), changes)))
}

#[tokio::test]
async fn the_api_server_vouches_for_a_token() {
    let reviewer = Arc::new(Reviewer::default());
    let chain = kubernetes(&reviewer);
    let pod = Some(PodBinding { name: "web-0".into(), uid: "u-1".into() });
    let expected = Caller { identities: vec![id(ALICE)], proof: Proof::KubernetesToken, pod };
    for _ in 0..3 {
        assert_eq!(ask(&chain, &opaque(&json!({}))).await.unwrap(), expected);
    }
    assert_eq!(reviewer.count.load(Ordering::SeqCst), 1, "a positive answer is remembered");
    ask(&chain, &opaque(&json!({ "jti": "another" }))).await.unwrap();
    assert_eq!(reviewer.count.load(Ordering::SeqCst), 2, "for this token only");
    // Expired but within the skew: never remembered.
    for _ in 0..2 {
        ask(&chain, &opaque(&json!({ "exp": unix_now() - 10 }))).await.unwrap();
    }
    assert_eq!(reviewer.count.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_renewal_storm_is_one_review() {
    let gate = Arc::new(Notify::new());
    let reviewer = Arc::new(Reviewer { gate: Some(gate.clone()), ..Reviewer::default() });
    let chain = kubernetes(&reviewer);
    let same = opaque(&json!({}));
    let storm = futures::future::join_all((0..1000).map(|_| ask(&chain, &same)));
    let (answers, ()) = futures::join!(storm, async {
        tokio::task::yield_now().await;
        gate.notify_one();
    });
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(reviewer.count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn refusals_are_not_remembered() {
    let reviewer = Arc::new(Reviewer::default());
    let chain = kubernetes(&reviewer);
    let changed = |change: &dyn Fn(&mut TokenReviewStatus)| {
        let mut status = vouched();
        change(&mut status);
        status
    };
    let user = |name: &'static str| {
        move |status: &mut TokenReviewStatus| status.user.as_mut().unwrap().username = Some(name.into())
    };
    let not_vouched = changed(&|status| {
        status.authenticated = Some(false);
        status.error = Some("[invalid bearer token, token audiences [x] is invalid]".into());
    });
    for (answer, why) in [
        (Ok(not_vouched), "token audiences [x] is invalid"),
        (Ok(changed(&|status| status.authenticated = None)), "does not vouch"),
        (Ok(changed(&|status| status.audiences = None)), "audience [] is not one of"),
        (Ok(changed(&|status| status.audiences = Some(vec!["api".into()]))), "audience [\"api\"]"),
        (Ok(changed(&|status| status.user = None)), "names no user"),
        (Ok(changed(&user("system:node:n1"))), "not a service account"),
        (Ok(changed(&user("system:serviceaccount:a/b:c"))), "path segment"),
        (Err("connection refused".to_owned()), "token review failed: connection refused"),
    ] {
        *reviewer.answer.lock().unwrap() = Some(answer);
        let Denial(reason) = ask(&chain, &opaque(&json!({}))).await.unwrap_err();
        assert!(reason.contains(why), "{reason:?} does not say {why:?}");
    }
    *reviewer.answer.lock().unwrap() = None;
    assert!(ask(&chain, &opaque(&json!({}))).await.is_ok());
    assert_eq!(reviewer.count.load(Ordering::SeqCst), 9);
}

#[tokio::test]
async fn what_cannot_be_good_is_not_reviewed() {
    let reviewer = Arc::new(Reviewer::default());
    let chain = kubernetes(&reviewer);
    for (token, why) in [
        ("garbage".to_owned(), "malformed"),
        (opaque(&json!({ "exp": unix_now() - 600 })), "expired"),
        (opaque(&json!({ "exp": null })), "no expiry"),
        (opaque(&json!({ "nbf": unix_now() + 600 })), "not valid for another"),
    ] {
        let Denial(reason) = ask(&chain, &token).await.unwrap_err();
        assert!(reason.contains(why), "{reason:?} does not say {why:?}");
    }
    let mut other_cluster = headers(&format!("Bearer {}", opaque(&json!({}))));
    other_cluster.insert("clusterid", HeaderValue::from_static("remote"));
    let Denial(reason) = chain.authenticate(&Peer::default(), &other_cluster).await.unwrap_err();
    assert!(reason.contains("cluster \"remote\" is not \"Kubernetes\""), "{reason}");
    assert_eq!(reviewer.count.load(Ordering::SeqCst), 0);
    for own in ["Kubernetes", ""] {
        other_cluster.insert("clusterid", HeaderValue::from_static(own));
        assert!(chain.authenticate(&Peer::default(), &other_cluster).await.is_ok());
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_block_the_next() {
    let gate = Arc::new(Notify::new());
    let reviewer = Arc::new(Reviewer { gate: Some(gate.clone()), ..Reviewer::default() });
    let chain = kubernetes(&reviewer);
    let same = opaque(&json!({}));
    {
        let mut leaving = std::pin::pin!(ask(&chain, &same));
        assert!(futures::poll!(&mut leaving).is_pending());
    }
    gate.notify_one();
    assert!(ask(&chain, &same).await.is_ok());
    assert_eq!(reviewer.count.load(Ordering::SeqCst), 1);
}

proptest! {
    #[test]
    fn cve_2019_12995_random_tokens_never_panic(text in "[ -~]{0,300}", header in any::<Vec<u8>>(), claims in any::<Vec<u8>>()) {
        let _ = Jwt::parse(&text);
        let _ = Jwt::parse(&format!("{}.{}.AA", encode(&header), encode(&claims)));
        let _ = Jwks::parse(&header);
    }

    #[test]
    fn base64url_is_strict(bytes in any::<Vec<u8>>()) {
        let text = encode(&bytes);
        prop_assert_eq!(base64url(&text), Some(bytes));
        prop_assert_eq!(base64url(&format!("{text}=")), None);
        prop_assert_eq!(base64url(&format!(" {text}")), None);
    }
}
