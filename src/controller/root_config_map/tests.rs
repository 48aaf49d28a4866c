use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::RootConfigMap;
use crate::controller::election::tests::Locked;
use crate::source::kube::scripted::{Call, Stream, server};

const GOOD: &str = "root";

/// An API server with namespaces and ConfigMaps of one name.
#[derive(Default)]
struct Api {
    lock: Locked,
    namespaces: BTreeSet<String>,
    maps: BTreeMap<String, Value>,
    version: u64,
    watch: Option<Stream>,
    /// The namespaces that were written in, in order.
    writes: Vec<String>,
    cut: bool,
}

impl Api {
    fn answer(&mut self, call: Call) {
        if self.cut {
            return;
        }
        let lock = "/api/v1/namespaces/istio-system/configmaps/istio-namespace-controller-election";
        if call.path == lock || call.method == "POST" && lock.starts_with(&call.path) {
            return self.lock.answer(call);
        }
        if call.method == "PATCH" {
            let namespace = call.path.split('/').nth(4).unwrap_or_default().to_owned();
            assert_eq!(call.path, format!("/api/v1/namespaces/{namespace}/configmaps/istio-ca-root-cert"));
            assert!(call.query.contains("fieldManager=fairway") && call.query.contains("force=true"), "{call}");
            self.writes.push(namespace.clone());
            if !self.namespaces.contains(&namespace) {
                return call.refuse(404, "namespaces not found");
            }
            let map: Value = serde_json::from_slice(&call.body).expect("a ConfigMap");
            call.json(200, &map);
            let root = map["data"]["root-cert.pem"].as_str().expect("a root").to_owned();
            assert_eq!(map["metadata"]["labels"]["istio.io/config"], "true");
            return self.set(&namespace, &root, "true");
        }
        assert!(call.query.contains("fieldSelector=metadata.name%3Distio-ca-root-cert"), "{call}");
        assert_eq!(call.path, "/api/v1/configmaps");
        if call.query.contains("limit=1") {
            return call.list(self.version, "", &[]);
        }
        match call.query.contains("watch=true") {
            true => self.watch = Some(call.stream()),
            false => call.list(self.version, "", &self.maps.values().cloned().collect::<Vec<_>>()),
        }
    }

    fn set(&mut self, namespace: &str, root: &str, label: &str) {
        self.version += 1;
        let metadata = json!({
            "name": "istio-ca-root-cert", "namespace": namespace,
            "labels": {"istio.io/config": label}, "resourceVersion": self.version.to_string(),
        });
        let map = json!({"metadata": metadata, "data": {"root-cert.pem": root}});
        self.say("MODIFIED", &map);
        self.maps.insert(namespace.into(), map);
    }

    fn delete(&mut self, namespace: &str) {
        self.version += 1;
        let mut map = self.maps.remove(namespace).expect("a ConfigMap");
        map["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.say("DELETED", &map);
    }

    fn say(&self, kind: &str, map: &Value) {
        if let Some(watch) = &self.watch {
            watch.event(kind, map);
        }
    }
}

struct Test {
    api: Arc<Mutex<Api>>,
    namespaces: watch::Sender<Arc<BTreeSet<String>>>,
    root: watch::Sender<Arc<str>>,
    _end: DropGuard,
}

impl Test {
    fn start(api: Api) -> Self {
        let namespaces = watch::Sender::new(Arc::new(api.namespaces.clone()));
        let root = watch::Sender::new(Arc::from(GOOD));
        let api = Arc::new(Mutex::new(api));
        let (client, script) = server();
        let store = api.clone();
        tokio::spawn(script.serve(move |call| store.lock().expect("no panic").answer(call)));
        let config = RootConfigMap {
            client,
            system_namespace: "istio-system".into(),
            name: "istio-ca-root-cert".into(),
            identity: "one".into(),
            revisions: watch::Sender::new(Arc::default()).subscribe(),
            namespaces: namespaces.subscribe(),
            root: root.subscribe(),
        };
        let cancel = CancellationToken::new();
        tokio::spawn(config.run(cancel.clone()));
        Self { api, namespaces, root, _end: cancel.drop_guard() }
    }

    fn api(&self) -> std::sync::MutexGuard<'_, Api> {
        self.api.lock().expect("no panic")
    }

    /// What was written in some seconds.
    async fn writes(&self, seconds: u64) -> Vec<String> {
        sleep(Duration::from_secs(seconds)).await;
        std::mem::take(&mut self.api().writes)
    }
}

fn api(namespaces: &[&str]) -> Api {
    let mut api = Api { version: 100, ..Api::default() };
    api.namespaces.extend(namespaces.iter().map(|namespace| (*namespace).to_owned()));
    api
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_or_different_is_written_and_nothing_else() {
    let mut api =
        api(&["a", "good", "kube-public", "kube-node-lease", "kube-system", "local-path-storage", "other", "plain"]);
    api.set("good", GOOD, "true");
    api.set("other", "another root", "true");
    api.set("plain", GOOD, "false");
    api.set("elsewhere", "another root", "true");
    let test = Test::start(api);
    assert_eq!(test.writes(5).await, ["a", "kube-system", "other", "plain"]);
    assert!(test.writes(3600).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changes_is_repaired() {
    let test = Test::start(api(&["a", "b"]));
    assert_eq!(test.writes(100).await, ["a", "b"]);
    test.api().set("a", "mine", "true");
    assert_eq!(test.writes(100).await, ["a"]);
    test.api().delete("b");
    assert_eq!(test.writes(100).await, ["b"]);
    // Somebody who goes on is not fought without end.
    for _ in 0..100 {
        sleep(Duration::from_secs(1)).await;
        test.api().set("a", "mine", "true");
    }
    let writes = test.writes(0).await.len();
    assert!((3..12).contains(&writes), "{writes}");
}

#[tokio::test(start_paused = true)]
async fn new_namespaces_and_new_roots_are_followed() {
    let test = Test::start(api(&["a"]));
    assert_eq!(test.writes(100).await, ["a"]);
    test.api().namespaces.insert("b".into());
    test.namespaces.send_replace(Arc::new(["a".into(), "b".into()].into()));
    assert_eq!(test.writes(100).await, ["b"]);
    test.root.send_replace("new root".into());
    assert_eq!(test.writes(100).await, ["a", "b"]);
    assert_eq!(test.api().maps["a"]["data"]["root-cert.pem"], "new root");
    test.root.send_replace("".into());
    assert!(test.writes(100).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_fails_does_not_hold_up_others() {
    let api = api(&["b", "c"]);
    let test = Test::start(api);
    test.namespaces.send_replace(Arc::new(["a".into(), "b".into(), "c".into()].into()));
    assert_eq!(test.writes(1).await[..3], ["a", "b", "c"]);
    let again = test.writes(300).await;
    assert!((8..40).contains(&again.len()) && again.iter().all(|one| one == "a"), "{again:?}");
    test.api().namespaces.insert("a".into());
    assert_eq!(test.writes(40).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn without_the_lock_nothing_is_written() {
    let mut held = api(&["a"]);
    held.lock.hold("istiod", "default", 30);
    let test = Test::start(held);
    assert!(test.writes(29).await.is_empty());
    assert_eq!(test.writes(20).await, ["a"], "istiod is gone");

    // The lock is lost: another takes it while we are cut off.
    test.api().cut = true;
    sleep(Duration::from_secs(20)).await;
    test.api().lock.hold("istiod", "default", 3600);
    test.api().cut = false;
    test.api().watch = None;
    test.api().set("a", "of istiod", "true");
    assert!(test.writes(600).await.is_empty());
}
