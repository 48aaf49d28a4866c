//! The controller in front of an API server that keeps ServiceEntries, and
//! what the graph makes of them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::time::sleep;
use tokio_util::sync::DropGuard;

use super::*;
use crate::controller::election::tests::Locked;
use crate::source::kube::scripted::{Call, server};

const PATH: &str = "/apis/networking.istio.io/v1/namespaces/x/serviceentries/";

struct Api {
    lock: Locked,
    objects: BTreeMap<String, Value>,
    version: u64,
    /// The names of objects that were written, in order.
    writes: Vec<String>,
    /// How many requests are answered with an error.
    broken: usize,
    /// How many writes somebody else comes before.
    overtaken: usize,
    /// What a replica learns of them.
    entries: watch::Sender<Entries>,
}

impl Api {
    fn new() -> Self {
        Self {
            lock: Locked::default(),
            objects: BTreeMap::new(),
            version: 0,
            writes: Vec::new(),
            broken: 0,
            overtaken: 0,
            entries: watch::Sender::new(Entries::new()),
        }
    }

    fn put(&mut self, name: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["name"] = json!(name);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let known = ServiceEntry::deserialize(&object).expect("a ServiceEntry");
        self.entries.send_modify(|entries| match entry(&known, &Pools::default()) {
            Some(entry) => _ = entries.insert(key(name), Arc::new(entry)),
            None => _ = entries.remove(&key(name)),
        });
        self.objects.insert(name.into(), object);
    }

    fn delete(&mut self, name: &str) {
        self.objects.remove(name);
        self.entries.send_modify(|entries| _ = entries.remove(&key(name)));
    }

    fn answer(&mut self, call: Call) {
        if call.path.contains("/configmaps") {
            assert!(call.path.ends_with("/configmaps") || call.path.ends_with("/istio-ip-autoallocate"), "{call}");
            return self.lock.answer(call);
        }
        if self.broken > 0 {
            self.broken -= 1;
            return call.refuse(500, "broken");
        }
        let name = call.path.strip_prefix(PATH).unwrap_or_else(|| panic!("{call}"));
        let name = name.trim_end_matches("/status").to_owned();
        let Some(mut object) = self.objects.get(&name).cloned() else { return call.refuse(404, "not found") };
        if call.method == "PATCH" {
            assert!(call.path.ends_with("/status") && call.query.contains("fieldManager=fairway-addresses"), "{call}");
            if self.overtaken > 0 {
                self.overtaken -= 1;
                object["status"]["conditions"] = json!([{ "type": "theirs" }]);
                self.put(&name, object);
                return call.refuse(422, "the test failed");
            }
            let steps: Value = serde_json::from_slice(&call.body).expect("JSON");
            assert_eq!(steps[0]["value"], object["metadata"]["resourceVersion"], "{call}");
            match (steps[1]["op"].as_str(), steps[1]["path"].as_str()) {
                (Some("add"), Some("/status")) => object["status"] = steps[1]["value"].clone(),
                (Some("add"), Some("/status/addresses")) => {
                    object["status"]["addresses"] = steps[1]["value"].clone();
                }
                (Some("remove"), Some("/status/addresses")) => {
                    _ = object["status"].as_object_mut().and_then(|status| status.remove("addresses"));
                }
                other => panic!("{other:?}"),
            }
            self.put(&name, object);
            self.writes.push(name.clone());
        }
        call.json(200, &self.objects[&name]);
    }

    fn addresses(&self, name: &str) -> Vec<String> {
        let all = self.objects[name]["status"]["addresses"].as_array().cloned().unwrap_or_default();
        all.iter().map(|one| one["value"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

struct Test {
    api: Arc<Mutex<Api>>,
    _ends: Vec<DropGuard>,
}

impl Test {
    fn start(api: Api) -> Self {
        let mut test = Self { api: Arc::new(Mutex::new(api)), _ends: Vec::new() };
        test.replica("one");
        test
    }

    fn replica(&mut self, identity: &str) {
        let (client, script) = server();
        let store = self.api.clone();
        tokio::spawn(script.serve(move |call| store.lock().expect("no panic").answer(call)));
        let entries = self.api().entries.subscribe();
        let controller = AutoAllocation {
            client,
            system_namespace: "istio-system".into(),
            identity: identity.into(),
            revisions: watch::Sender::new(Arc::default()).subscribe(),
            pools: Pools::default(),
            entries,
        };
        let cancel = CancellationToken::new();
        tokio::spawn(controller.run(cancel.clone()));
        self._ends.push(cancel.drop_guard());
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

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_written_once_and_taken_back_when_it_is_not_wanted() {
    let mut api = Api::new();
    api.put("new", live(&json!({ "conditions": [{ "type": "theirs" }] })));
    api.put(
        "known",
        live(&json!({ "addresses": [
        { "host": "h", "value": "240.240.0.1" }, { "host": "h", "value": "2001:2::1" },
    ] })),
    );
    let mut opted_out = live(&Value::Null);
    opted_out["metadata"]["labels"] = json!({ "networking.istio.io/enable-autoallocate-ip": "False" });
    api.put("opted-out", opted_out);
    let mut test = Test::start(api);
    test.replica("two");
    assert_eq!(test.writes(5).await, ["new"], "by one of two");
    assert_eq!(test.api().addresses("new").len(), 2);
    assert_eq!(test.api().objects["new"]["status"]["conditions"], json!([{ "type": "theirs" }]));
    assert!(test.writes(3600).await.is_empty());

    let mut own = test.api().objects["known"].clone();
    own["spec"]["addresses"] = json!(["10.0.0.1"]);
    test.api().put("known", own);
    assert_eq!(test.writes(5).await, ["known"]);
    assert!(test.api().addresses("known").is_empty());

    // Made again, with the same name, it has the same.
    let had = test.api().addresses("new");
    test.api().delete("new");
    assert!(test.writes(5).await.is_empty());
    test.api().put("new", live(&Value::Null));
    assert_eq!(test.writes(5).await, ["new"]);
    assert_eq!(test.api().addresses("new"), had);
}

#[tokio::test(start_paused = true)]
async fn errors_and_writes_of_others_are_retried_from_what_is_there() {
    let mut api = Api::new();
    ["a", "b"].into_iter().for_each(|name| api.put(name, live(&Value::Null)));
    (api.broken, api.overtaken) = (3, 2);
    let test = Test::start(api);
    assert_eq!(test.writes(60).await.len(), 2);
    let api = test.api();
    assert_eq!((api.broken, api.overtaken), (0, 0));
    let with_theirs = api.objects.values().filter(|one| one["status"]["conditions"].is_array()).count();
    assert!(with_theirs > 0 && api.addresses("a").len() == 2 && api.addresses("b").len() == 2);
}

#[tokio::test(start_paused = true)]
async fn somebody_who_undoes_it_is_not_fought_without_end() {
    let mut api = Api::new();
    api.put("a", live(&Value::Null));
    let test = Test::start(api);
    assert_eq!(test.writes(5).await, ["a"]);
    for _ in 0..100 {
        sleep(Duration::from_secs(1)).await;
        test.api().put("a", live(&Value::Null));
    }
    let writes = test.writes(0).await.len();
    assert!((3..15).contains(&writes), "{writes}");
    assert!(test.writes(60).await.len() <= 1);
    assert_eq!(test.api().addresses("a").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn many_are_written_at_a_bounded_rate() {
    let mut api = Api::new();
    (0..300).for_each(|number| api.put(&format!("n{number:03}"), live(&Value::Null)));
    let test = Test::start(api);
    let early = test.writes(1).await.len();
    assert!((50..=110).contains(&early), "{early}");
    assert_eq!(test.writes(5).await.len(), 300 - early, "and each once");
    let api = test.api();
    let all: BTreeSet<_> = api.objects.keys().flat_map(|name| api.addresses(name)).collect();
    assert_eq!(all.len(), 600);
}

#[tokio::test(start_paused = true)]
async fn without_the_lock_nothing_is_written() {
    let mut api = Api::new();
    api.lock.hold("istiod", "default", 30);
    api.put("a", live(&Value::Null));
    let test = Test::start(api);
    assert!(test.writes(29).await.is_empty());
    assert_eq!(test.writes(20).await, ["a"], "istiod is gone");
}
