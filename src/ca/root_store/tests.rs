use std::sync::Mutex;

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::ca::testing::*;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_directory_keeps_the_first_root_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let store = DirectoryStore::new(&state);
    assert!(store.load().await.unwrap().is_none());
    let (first, second) = (root(), root());
    assert_eq!(store.create_if_absent(&first).await.unwrap(), first);
    assert_eq!(store.create_if_absent(&second).await.unwrap(), first);
    assert_eq!(DirectoryStore::new(&state).load().await.unwrap().unwrap(), first);
    assert_eq!((mode(&state), mode(&state.join("ca"))), (0o700, 0o700));
    for name in [files::CA_CERT, files::CA_KEY, files::ROOT_CERT, files::CERT_CHAIN, "key.pem"] {
        assert_eq!(mode(&state.join("ca").join(name)), 0o600, "{name}");
    }
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1, "nothing is left beside it");
}

#[tokio::test]
async fn of_many_who_start_together_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let stores: Vec<_> = (0..8).map(|_| DirectoryStore::new(dir.path())).collect();
    let (domain, policy) = (trust_domain(), RootPolicy::default());
    let starts = stores.iter().map(|store| obtain(store, &domain, policy, now_floor()));
    let roots: std::collections::HashSet<_> =
        futures::future::join_all(starts).await.into_iter().map(|bundle| bundle.unwrap().root_pem().clone()).collect();
    assert_eq!(roots.len(), 1);
}

fn now_floor() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap()
}

#[tokio::test]
async fn half_a_root_is_an_error_and_not_a_new_root() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirectoryStore::new(dir.path());
    store.create_if_absent(&root()).await.unwrap();
    std::fs::remove_file(dir.path().join("ca").join(files::CA_KEY)).unwrap();
    let error = obtain(&store, &trust_domain(), RootPolicy::default(), now()).await.unwrap_err();
    assert!(error.to_string().contains("lacks ca-key.pem"), "{error}");
}

#[tokio::test]
async fn a_root_is_renewed_once_and_followed_by_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirectoryStore::new(dir.path());
    let policy = RootPolicy::default();
    let old = obtain(&store, &trust_domain(), policy, now_floor()).await.unwrap();
    assert!(refreshed(&store, &old, policy, now()).await.unwrap().is_none());
    let late = later(3300 * 24 * 3600);
    let new = refreshed(&store, &old, policy, late).await.unwrap().unwrap();
    assert!(new.not_after() > old.not_after());
    let other = refreshed(&store, &old, policy, late).await.unwrap().unwrap();
    assert_eq!(other.root_pem(), new.root_pem());
    assert!(refreshed(&store, &new, policy, late).await.unwrap().is_none());
}

#[tokio::test]
async fn read_only_uses_what_is_there_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let empty = ReadOnlyStore::of(DirectoryStore::new(dir.path().join("none")));
    assert!(obtain(&empty, &trust_domain(), RootPolicy::default(), now_floor()).await.is_ok());
    assert!(!dir.path().join("none").exists());
    let stored = DirectoryStore::new(dir.path()).create_if_absent(&root()).await.unwrap();
    let store = ReadOnlyStore::of(DirectoryStore::new(dir.path()));
    let used = obtain(&store, &trust_domain(), RootPolicy::default(), now()).await.unwrap();
    assert!(used.is_from(&stored));
}

/// An API server with one Secret.
#[derive(Clone, Default)]
struct Api {
    secret: std::sync::Arc<Mutex<Option<serde_json::Value>>>,
    /// What another replica creates between our look and our create.
    rival: std::sync::Arc<Mutex<Option<serde_json::Value>>>,
}

impl Api {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "istio-system")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let method = request.method().clone();
        let body = request.into_body().collect_bytes().await.unwrap();
        let status = |code: u16, reason: &str| {
            (
                code,
                json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "message": reason, "reason": reason, "code": code }),
            )
        };
        let (code, answer) = match method.as_str() {
            "GET" => match self.secret.lock().unwrap().clone() {
                Some(secret) => (200, secret),
                None => status(404, "NotFound"),
            },
            "POST" => {
                if let Some(rival) = self.rival.lock().unwrap().take() {
                    *self.secret.lock().unwrap() = Some(rival);
                }
                let mut secret = self.secret.lock().unwrap();
                if secret.is_some() {
                    status(409, "AlreadyExists")
                } else {
                    *secret = Some(serde_json::from_slice(&body).unwrap());
                    (201, secret.clone().unwrap())
                }
            }
            "PUT" => {
                *self.secret.lock().unwrap() = Some(serde_json::from_slice(&body).unwrap());
                (200, self.secret.lock().unwrap().clone().unwrap())
            }
            other => panic!("{other}"),
        };
        Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap()
    }
}

#[tokio::test]
async fn the_secret_is_what_istiod_writes() {
    let api = Api::default();
    let store = SecretStore::new(api.client(), "istio-system", SECRET);
    let bundle = obtain(&store, &trust_domain(), RootPolicy::default(), now_floor()).await.unwrap();
    let secret = api.secret.lock().unwrap().clone().unwrap();
    assert_eq!(secret["type"], "istio.io/ca-root");
    assert_eq!(secret["metadata"]["name"], "istio-ca-secret");
    let data = secret["data"].as_object().unwrap();
    let mut keys: Vec<_> = data.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "key.pem", "root-cert.pem"]);
    assert_eq!((&data["cert-chain.pem"], &data["key.pem"]), (&json!(""), &json!("")));
    assert_eq!(data["root-cert.pem"], data["ca-cert.pem"]);
    // The next start, and the next replica, continue it.
    let again = obtain(&store, &trust_domain(), RootPolicy::default(), now()).await.unwrap();
    assert_eq!(again.root_pem(), bundle.root_pem());
}

#[tokio::test]
async fn an_istiods_rsa_root_is_continued() {
    let api = Api::default();
    let policy = RootPolicy { key: self_signed::RootKey::Rsa(2048), ..RootPolicy::default() };
    let mut files = self_signed::create(&trust_domain(), policy, now_floor()).unwrap();
    // Some istiods leave this entry empty.
    files.root = Bytes::new();
    *api.secret.lock().unwrap() = Some(serde_json::to_value(secret("istio-system", SECRET, &files)).unwrap());
    let store = SecretStore::new(api.client(), "istio-system", SECRET);
    let bundle = obtain(&store, &trust_domain(), RootPolicy::default(), now()).await.unwrap();
    assert_eq!(bundle.root_pem().as_bytes(), files.cert.as_ref());
}

#[tokio::test]
async fn the_loser_of_a_race_takes_the_winners_root() {
    let api = Api::default();
    let winner = root();
    *api.rival.lock().unwrap() = Some(serde_json::to_value(secret("istio-system", SECRET, &winner)).unwrap());
    let store = SecretStore::new(api.client(), "istio-system", SECRET);
    let bundle = obtain(&store, &trust_domain(), RootPolicy::default(), now()).await.unwrap();
    assert!(bundle.is_from(&winner));
}

#[tokio::test]
async fn renewal_updates_the_secret_unless_another_did() {
    let api = Api::default();
    let store = SecretStore::new(api.client(), "istio-system", SECRET);
    let policy = RootPolicy::default();
    let old = obtain(&store, &trust_domain(), policy, now_floor()).await.unwrap();
    let late = later(3300 * 24 * 3600);
    let new = refreshed(&store, &old, policy, late).await.unwrap().unwrap();
    assert!(CaBundle::verified(&store.load().await.unwrap().unwrap(), late).unwrap().root_pem() == new.root_pem());
    // A replica that still has the old one as what is stored changes nothing.
    let stale = self_signed::renewed(&old, policy, late).unwrap();
    let kept = store.replace(&old, &stale).await.unwrap();
    assert!(new.is_from(&kept));
}

#[tokio::test]
async fn a_root_that_somebody_deletes_is_stored_again() {
    let api = Api::default();
    let store = SecretStore::new(api.client(), "istio-system", SECRET);
    let policy = RootPolicy::default();
    let old = obtain(&store, &trust_domain(), policy, now_floor()).await.unwrap();
    *api.secret.lock().unwrap() = None;
    let again = refreshed(&store, &old, policy, now()).await.unwrap().unwrap();
    assert_eq!(again.root_pem(), old.root_pem());
    let next = obtain(&store, &trust_domain(), policy, now()).await.unwrap();
    assert_eq!(next.root_pem(), old.root_pem(), "whoever starts now goes on with it");
    assert!(refreshed(&store, &again, policy, now()).await.unwrap().is_none());
    // One that lives with the process only is not missed.
    let only = ReadOnlyStore::of(SecretStore::new(Api::default().client(), "istio-system", SECRET));
    let made = obtain(&only, &trust_domain(), policy, now_floor()).await.unwrap();
    assert!(refreshed(&only, &made, policy, now()).await.unwrap().is_none());
}
