//! Tokens of users: RequestAuthentication at a waypoint.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use fairway_integration_tests::certificate::rsa;
use fairway_integration_tests::eventually;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::policies::policy;
use super::{SERVICE, Scene, get_with, pod, status};

/// A signer of tokens, and the JSON Web Key Set that knows it.
struct Issuer {
    key: PKey<Private>,
    jwks: String,
}

fn base64url(bytes: &[u8]) -> String {
    let text = openssl::base64::encode_block(bytes).replace('\n', "");
    text.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

impl Issuer {
    fn new() -> Self {
        let key = rsa(2048);
        let public = key.rsa().unwrap();
        let (n, e) = (base64url(&public.n().to_vec()), base64url(&public.e().to_vec()));
        let jwks = json!({ "keys": [{ "kty": "RSA", "kid": "one", "alg": "RS256", "use": "sig", "n": n, "e": e }] });
        Self { key, jwks: jwks.to_string() }
    }

    fn token(&self, claims: &Value) -> String {
        let head = json!({ "alg": "RS256", "typ": "JWT", "kid": "one" });
        let text = format!("{}.{}", base64url(head.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
        let mut signer = Signer::new(MessageDigest::sha256(), &self.key).unwrap();
        let signature = signer.sign_oneshot_to_vec(text.as_bytes()).unwrap();
        format!("Bearer {text}.{}", base64url(&signature))
    }
}

/// Tokens must be good, and their claims those that the policy asks for.
pub async fn claims() {
    let scene = Scene::new("tokens").await;
    let _echo = scene.echo(11, "v11").await;
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let authentication = format!(
        "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: $name, namespace: default}}
spec:
  targetRefs: [{{kind: Service, group: \"\", name: $name}}]
  jwtRules: [{{issuer: issuer.example, jwks: '{}'}}]
",
        issuer.jwks
    );
    let claims = policy(
        "claims",
        "
  action: ALLOW
  rules:
  - from: [{source: {requestPrincipals: [issuer.example/alice]}}]
  - from: [{source: {requestPrincipals: [issuer.example/*]}}]
    when: [{key: 'request.auth.claims[groups]', values: [admin]}]",
    );
    scene.apply(&[SERVICE, &pod(11), &authentication, &claims].concat()).await;
    let client = scene.world.client("caller").await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = |subject: &str, groups: &[&str]| json!({ "iss": "issuer.example", "sub": subject, "exp": now + 600, "groups": groups });
    let expired = json!({ "iss": "issuer.example", "sub": "alice", "exp": now - 600 });
    for (token, wanted) in [
        (Some(issuer.token(&claims("alice", &[]))), 200),
        (Some(issuer.token(&claims("bob", &["staff", "admin"]))), 200),
        (Some(issuer.token(&claims("bob", &["staff"]))), 403),
        (Some(stranger.token(&claims("alice", &[]))), 401),
        (Some(issuer.token(&expired)), 401),
        (None, 403),
    ] {
        let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
        let got = status(&client, &scene.service(), "GET", "/", &headers).await;
        assert_eq!(got, wanted, "{token:?}");
    }
    scene.end().await;
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn authentication(rule: &str) -> String {
    format!(
        "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: $name, namespace: default}}
spec:
  targetRefs: [{{kind: Service, group: \"\", name: $name}}]
  jwtRules: [{rule}]
"
    )
}

/// Tokens are taken from where the rule says, and what they say goes where it
/// says.
pub async fn places() {
    let scene = Scene::new("places").await;
    let _echo = scene.echo(11, "v11").await;
    let issuer = Issuer::new();
    let rule = format!(
        "{{issuer: issuer.example, jwks: '{}', fromHeaders: [{{name: x-token, prefix: 'Token '}}], fromParams: [token],
          outputPayloadToHeader: x-payload, outputClaimToHeaders: [{{header: x-user, claim: sub}}]}}",
        issuer.jwks
    );
    let needed = policy("needed", "  action: DENY\n  rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]");
    scene.apply(&[SERVICE, &pod(11), &authentication(&rule), &needed].concat()).await;
    let client = scene.world.client("caller").await;
    let bearer = issuer.token(&json!({ "iss": "issuer.example", "sub": "alice", "exp": now() + 600 }));
    let token = bearer.strip_prefix("Bearer ").unwrap();
    let own = format!("Token {token}");
    let at = scene.service();
    // The usual place is none if others are given.
    assert_eq!(status(&client, &at, "GET", "/", &[("authorization", &bearer)]).await, 403);
    assert_eq!(status(&client, &at, "GET", "/", &[]).await, 403);
    assert_eq!(status(&client, &at, "GET", &format!("/?token={token}"), &[]).await, 200);
    assert_eq!(status(&client, &at, "GET", "/?token=bad", &[]).await, 401);
    // What a caller says about itself there does not count.
    let echo = get_with(&client, &at, "/", &[("x-token", &own), ("x-user", "root")]).await.echo();
    assert_eq!(echo["headers"]["x-user"], "alice", "{echo}");
    assert!(echo["headers"]["x-payload"].is_string() && echo["headers"]["x-token"].is_null(), "{echo}");
    scene.end().await;
}

/// A server of keys, which fails as long as it is told to.
struct KeyServer {
    failing: Arc<Mutex<bool>>,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KeyServer {
    async fn start(address: SocketAddr, jwks: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (failing, asked) = (Arc::new(Mutex::new(true)), Arc::new(AtomicUsize::new(0)));
        let (jwks, told, count) = (jwks.to_owned(), failing.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let Ok(read) = stream.read(&mut request).await else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let (status, body) = match (*told.lock().unwrap(), request[..read].starts_with(b"GET /keys ")) {
                    (false, true) => (200, &*jwks),
                    (false, false) => (404, ""),
                    (true, _) => (503, "not now"),
                };
                let answer =
                    format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { failing, asked, task }
    }
}

/// Keys are fetched from where the rule says. Until they are, no token is
/// believed, and it is said why.
pub async fn fetched_keys() {
    let scene = Scene::new("fetched").await;
    let _echo = scene.echo(11, "v11").await;
    let issuer = Issuer::new();
    let keys = KeyServer::start(SocketAddr::new(scene.ip(31).into(), 8090), &issuer.jwks).await;
    let rule = format!("{{issuer: issuer.example, jwksUri: 'http://{}/keys'}}", scene.at(31, 8090));
    scene.apply(&[SERVICE, &pod(11), &authentication(&rule)].concat()).await;
    let client = scene.world.client("caller").await;
    let at = scene.service();
    let token = issuer.token(&json!({ "iss": "issuer.example", "sub": "alice", "exp": now() + 600 }));
    let stranger = Issuer::new().token(&json!({ "iss": "issuer.example", "sub": "alice", "exp": now() + 600 }));
    let with = |token: &str| status_with(&client, &at, token.to_owned());
    assert_eq!(with(&token).await, 401, "without keys nothing is believed");
    assert_eq!(status(&client, &at, "GET", "/", &[]).await, 200, "a token is not needed");
    let fairway = &scene.world.fairway;
    eventually("the reason to be said", || async {
        let page = fairway.page("/debug/diagnosticsz").await;
        if page.contains("the answer is 503") { Ok(()) } else { Err(page) }
    })
    .await;
    *keys.failing.lock().unwrap() = false;
    eventually("tokens to be believed", || async {
        match with(&token).await {
            200 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(with(&stranger).await, 401);
    assert!(keys.asked.load(Ordering::Relaxed) >= 2);
    let page = fairway.page("/debug/diagnosticsz").await;
    assert!(!page.contains("the answer is 503"), "{page}");
    let metrics = fairway.page("/metrics").await;
    let counted = |name: &str| metrics.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0"));
    assert!(counted("pilot_jwks_resolver_network_fetch_fail_total"), "{metrics}");
    assert!(counted("pilot_jwks_resolver_network_fetch_success_total"), "{metrics}");
    scene.end().await;
}

async fn status_with(client: &fairway_integration_tests::hbone::Client, at: &str, token: String) -> u16 {
    status(client, at, "GET", "/", &[("authorization", &token)]).await
}
