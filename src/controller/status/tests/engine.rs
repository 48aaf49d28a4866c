//! The engine in front of an API server that keeps VirtualServices.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{condition, of_object, said};
use crate::api::{Kind, ObjectKey};
use crate::controller::election::tests::Locked;
use crate::controller::replicas::Judgements;
use crate::controller::status::{Completeness, OF_OBJECTS, OF_PROXIES, Part, StatusController};
use crate::model::revision::Revisions;
use crate::source::kube::scripted::{Call, server};
use crate::status::{PROGRAMMED, REJECTED, Status, Statuses};

const PATH: &str = "/apis/networking.istio.io/v1/";

#[derive(Default)]
struct Api {
    /// By name.
    leases: BTreeMap<String, Locked>,
    objects: BTreeMap<String, Value>,
    version: u64,
    /// The names of objects that were written, in order.
    writes: Vec<String>,
    events: BTreeMap<String, Value>,
    /// How many requests are answered with an error.
    broken: usize,
}

impl Api {
    fn put(&mut self, name: &str, status: Value) {
        self.version += 1;
        let metadata = json!({
            "name": name, "namespace": "x", "uid": "u", "generation": 3, "resourceVersion": self.version.to_string(),
        });
        self.objects.insert(name.into(), json!({ "kind": "VirtualService", "metadata": metadata, "status": status }));
    }

    fn answer(&mut self, call: Call) {
        if call.path.contains("/leases") {
            let written: Value = serde_json::from_slice(&call.body).unwrap_or_default();
            let of_path = call.path.rsplit('/').next().unwrap_or_default();
            let name = written["metadata"]["name"].as_str().unwrap_or(of_path).to_owned();
            return self.leases.entry(name).or_default().answer(call);
        }
        if self.broken > 0 {
            self.broken -= 1;
            return call.refuse(500, "broken");
        }
        let name = call.path.trim_end_matches("/status").rsplit('/').next().unwrap_or_default().to_owned();
        if call.path.contains("/events/") {
            return match call.method.as_str() {
                "PATCH" => {
                    let event: Value = serde_json::from_slice(&call.body).expect("an Event");
                    call.json(200, &event);
                    self.events.insert(name, event);
                }
                _ => match self.events.get(&name) {
                    Some(event) => call.json(200, event),
                    None => call.refuse(404, "not found"),
                },
            };
        }
        if !call.path.starts_with(PATH) {
            return call.refuse(404, "not installed");
        }
        if call.path == format!("{PATH}virtualservices") {
            return call.list(self.version, "", &self.objects.values().cloned().collect::<Vec<_>>());
        }
        if call.path == format!("{PATH}{name}") {
            return call.list(self.version, "", &[]);
        }
        let Some(object) = self.objects.get(&name).cloned() else { return call.refuse(404, "not found") };
        if call.method == "PATCH" {
            let body: Value = serde_json::from_slice(&call.body).expect("JSON");
            assert!(call.path.ends_with("/status"), "{call}");
            let (version, status) = match body.as_array() {
                Some(steps) => {
                    assert_eq!(steps[1], json!({ "op": "remove", "path": "/status/conditions" }));
                    (&steps[0]["value"], json!({}))
                }
                None => {
                    assert!(call.query.contains("force=true"), "{call}");
                    (&body["metadata"]["resourceVersion"], body["status"].clone())
                }
            };
            if *version != object["metadata"]["resourceVersion"] {
                return call.refuse(409, "changed meanwhile");
            }
            self.put(&name, status);
            let labels = object["metadata"]["labels"].clone();
            self.objects.entry(name.clone()).and_modify(|one| one["metadata"]["labels"] = labels);
            self.writes.push(name.clone());
        }
        call.json(200, &self.objects[&name]);
    }
}

struct Test {
    api: Arc<Mutex<Api>>,
    statuses: watch::Sender<Statuses>,
    revisions: watch::Sender<Arc<Revisions>>,
    others: watch::Sender<Arc<Judgements>>,
    _end: DropGuard,
}

impl Test {
    fn start(api: Api, part: Part, statuses: Statuses) -> Self {
        Self::of(Arc::new(Mutex::new(api)), "default", part, statuses)
    }

    /// A replica of a revision.
    fn of(api: Arc<Mutex<Api>>, revision: &str, part: Part, statuses: Statuses) -> Self {
        Self::with((api, revision), part, statuses, None)
    }

    fn with(
        (api, revision): (Arc<Mutex<Api>>, &str),
        part: Part,
        statuses: Statuses,
        completeness: Option<Completeness>,
    ) -> Self {
        let (client, script) = server();
        let others = watch::Sender::<Arc<Judgements>>::default();
        let store = api.clone();
        tokio::spawn(script.serve(move |call| store.lock().expect("no panic").answer(call)));
        let statuses = watch::Sender::new(statuses);
        let revisions = watch::Sender::new(Arc::new(Revisions::new(revision)));
        let controller = StatusController {
            client,
            part,
            system_namespace: "istio-system".into(),
            identity: "one".into(),
            revisions: revisions.subscribe(),
            statuses: statuses.subscribe(),
            completeness,
            others: others.subscribe(),
        };
        let cancel = CancellationToken::new();
        tokio::spawn(controller.run(cancel.clone()));
        Self { api, statuses, revisions, others, _end: cancel.drop_guard() }
    }

    fn api(&self) -> std::sync::MutexGuard<'_, Api> {
        self.api.lock().expect("no panic")
    }

    /// What was written in some seconds.
    async fn writes(&self, seconds: u64) -> Vec<String> {
        sleep(Duration::from_secs(seconds)).await;
        std::mem::take(&mut self.api().writes)
    }

    fn conditions(&self, name: &str) -> Value {
        self.api().objects[name]["status"]["conditions"].clone()
    }
}

fn key(name: &str) -> (Kind, ObjectKey) {
    (Kind::VirtualService, ObjectKey::new("x", name))
}

fn good() -> Arc<Status> {
    Arc::new(of_object([said("Accepted", true, "Accepted")]))
}

#[tokio::test(start_paused = true)]
async fn what_differs_is_written_once() {
    let mut api = Api::default();
    let fine = || json!({ "conditions": [condition("Accepted", "True", "Accepted", "2025-01-01T00:00:00Z")] });
    api.put("fine", fine());
    api.put("new", Value::Null);
    api.put("stale", fine());
    // Another revision speaks about this one.
    api.put("of-another", fine());
    api.objects.entry("of-another".into()).and_modify(|one| {
        one["metadata"]["labels"] = json!({ "istio.io/rev": "canary" });
    });
    let wanted = [(key("fine"), good()), (key("new"), good()), (key("gone"), good())];
    let test = Test::start(api, OF_OBJECTS, wanted.into_iter().collect());
    assert_eq!(test.writes(5).await, ["new", "stale"]);
    assert_eq!(test.conditions("stale"), Value::Null);
    assert!(test.writes(3600).await.is_empty());
    let bad = Arc::new(of_object([said("Accepted", false, "Why")]));
    test.statuses.send_modify(|statuses| drop(statuses.insert(key("fine"), bad)));
    assert_eq!(test.writes(1).await, ["fine"]);
    test.statuses.send_modify(|statuses| drop(statuses.insert(key("fine"), good())));
    assert_eq!(test.writes(1).await, ["fine"]);
    assert_eq!(test.conditions("fine")[0]["status"], "True");
}

#[tokio::test(start_paused = true)]
async fn a_leader_speaks_for_all_before_it_writes() {
    let mut api = Api::default();
    api.put("fine", Value::Null);
    let (wanted, (reach, reached)) = (watch::Sender::new(0), watch::channel(false));
    let mut asked = wanted.subscribe();
    let completeness = Some(Completeness { wanted, reached });
    let statuses: Statuses = [(key("fine"), good())].into_iter().collect();
    let test = Test::with((Arc::new(Mutex::new(api)), "default"), OF_OBJECTS, statuses, completeness);
    asked.wait_for(|asked| *asked == 1).await.expect("it leads");
    assert!(test.writes(20).await.is_empty(), "it does not know enough");
    // What is found now is what is written.
    let status = Arc::new(of_object([said("Accepted", false, "CredentialNotFound")]));
    test.statuses.send_modify(|statuses| drop(statuses.insert(key("fine"), status)));
    reach.send_replace(true);
    assert_eq!(test.writes(5).await, ["fine"]);
    assert_eq!(test.conditions("fine")[0]["reason"], "CredentialNotFound");
    drop(test);
    asked.wait_for(|asked| *asked == 0).await.expect("it does not lead any more");
}

/// Two revisions say the same of an object that one of them owns.
#[tokio::test(start_paused = true)]
async fn an_object_goes_from_one_revision_to_another_with_its_tag() {
    let mut api = Api::default();
    for (name, label) in [("plain", None), ("tagged", Some("prod"))] {
        api.put(name, Value::Null);
        api.objects.entry(name.into()).and_modify(|one| one["metadata"]["labels"] = json!({ "istio.io/rev": label }));
    }
    let api = Arc::new(Mutex::new(api));
    let statuses = |reason| {
        let status = Arc::new(of_object([said("Accepted", reason == "Accepted", reason)]));
        [(key("plain"), status.clone()), (key("tagged"), status)].into_iter().collect::<Statuses>()
    };
    let of = |revision, reason| Test::of(api.clone(), revision, OF_OBJECTS, statuses(reason));
    let (old, new) = (of("default", "Accepted"), of("next", "NotAsBefore"));
    assert_eq!(old.writes(5).await, ["plain"], "nobody has the tag");
    let point = |revision| {
        for test in [&old, &new] {
            test.revisions.send_modify(|known| *known = Arc::new(known.tagged("prod", revision)));
        }
    };
    point("default");
    assert_eq!(old.writes(5).await, ["tagged"]);
    assert_eq!(old.conditions("tagged")[0]["reason"], "Accepted");
    point("next");
    assert_eq!(old.writes(5).await, ["tagged"], "once, by the other");
    assert_eq!(old.conditions("tagged")[0]["reason"], "NotAsBefore");
    assert_eq!(old.conditions("plain")[0]["reason"], "Accepted");
    assert!(old.writes(3600).await.is_empty(), "and they do not quarrel");
}

/// A certificate that will expire is served, and its owner hears of it.
#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_gateway_is_an_event() {
    let mut api = Api::default();
    api.put("edge", Value::Null);
    let key = || (Kind::IstioGateway, ObjectKey::new("x", "edge"));
    let test = Test::start(api, OF_OBJECTS, [(key(), good())].into_iter().collect());
    assert_eq!(test.writes(1).await, ["edge"]);
    assert!(test.api().events.is_empty());
    let old = Arc::new(of_object([said("Accepted", true, "CertificateExpires")]));
    test.statuses.send_modify(|statuses| drop(statuses.insert(key(), old)));
    assert_eq!(test.writes(1).await, ["edge"]);
    let event = test.api().events.values().next().cloned().expect("an Event");
    assert_eq!((&event["reason"], &event["type"]), (&json!("CertificateExpires"), &json!("Warning")));
    assert_eq!(event["involvedObject"]["kind"], "Gateway");
    assert_eq!(event["involvedObject"]["apiVersion"], "networking.istio.io/v1");
}

#[tokio::test(start_paused = true)]
async fn errors_are_retried_and_hold_up_nobody() {
    let mut api = Api::default();
    ["a", "b"].into_iter().for_each(|name| api.put(name, Value::Null));
    let test = Test::start(api, OF_OBJECTS, Statuses::new());
    assert!(test.writes(1).await.is_empty());
    test.api().broken = 5;
    test.statuses.send_replace([(key("a"), good()), (key("b"), good())].into_iter().collect());
    assert_eq!(test.writes(60).await.len(), 2);
    assert_eq!(test.api().broken, 0);
}

#[tokio::test(start_paused = true)]
async fn many_are_written_at_a_bounded_rate() {
    let mut api = Api::default();
    let names: Vec<_> = (0..300).map(|number| format!("n{number:03}")).collect();
    names.iter().for_each(|name| api.put(name, Value::Null));
    let test = Test::start(api, OF_OBJECTS, names.iter().map(|name| (key(name), good())).collect());
    let early = test.writes(1).await.len();
    assert!((50..=110).contains(&early), "{early}");
    assert_eq!(test.writes(5).await.len(), 300 - early);
}

#[tokio::test(start_paused = true)]
async fn without_the_lease_nothing_is_written_but_what_proxies_say() {
    let mut api = Api::default();
    let spec = json!({ "holderIdentity": "istiod", "leaseDurationSeconds": 36_000 });
    let lease = api.leases.entry("istio-status-leader".into()).or_default();
    lease.write(json!({ "metadata": { "name": "istio-status-leader" }, "spec": spec }));
    api.put("a", Value::Null);
    let test = Test::start(api, OF_OBJECTS, [(key("a"), good())].into_iter().collect());
    assert!(test.writes(600).await.is_empty());

    let mut api = Api::default();
    api.put("a", Value::Null);
    let rejected = || Arc::new(of_object([said(PROGRAMMED, false, REJECTED)]));
    let test = Test::start(api, OF_PROXIES, [(key("a"), rejected())].into_iter().collect());
    assert_eq!(test.writes(1).await, ["a"]);
    let event = test.api().events.values().next().cloned().expect("an Event");
    assert_eq!((&event["reason"], &event["type"], &event["count"]), (&json!(REJECTED), &json!("Warning"), &json!(1)));
    let about = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "namespace": "x", "name": "a", "uid": "u",
    });
    assert_eq!(event["involvedObject"], about);
    // Nothing new, nothing more; but what somebody takes away comes back, and
    // is the same Event.
    assert!(test.writes(600).await.is_empty());
    test.api().put("a", Value::Null);
    assert_eq!(test.writes(600).await, ["a"]);
    let counts: Vec<_> = test.api().events.values().map(|event| event["count"].clone()).collect();
    assert_eq!(counts, [json!(2)]);
    test.statuses.send_replace(Statuses::new());
    assert_eq!(test.writes(1).await, ["a"]);
    assert_eq!(test.conditions("a"), Value::Null);
}

/// Two replicas have proxies that reject the same; then one of them has none any
/// more.
#[tokio::test(start_paused = true)]
async fn what_proxies_of_another_replica_reject_stays_said() {
    let mut api = Api::default();
    api.put("a", Value::Null);
    let rejected = Arc::new(of_object([said(PROGRAMMED, false, REJECTED)]));
    let test = Test::start(api, OF_PROXIES, [(key("a"), rejected)].into_iter().collect());
    assert_eq!(test.writes(1).await, ["a"]);
    let of_others = Judgements { rejected: [key("a")].into(), ..Judgements::default() };
    test.others.send_replace(Arc::new(of_others));
    // Each of the two would name its own proxy.
    let other = crate::status::Condition { message: "another proxy".into(), ..said(PROGRAMMED, false, REJECTED) };
    test.statuses.send_replace([(key("a"), Arc::new(of_object([other])))].into_iter().collect());
    assert!(test.writes(600).await.is_empty());
    test.statuses.send_replace(Statuses::new());
    assert!(test.writes(600).await.is_empty());
    assert_eq!(test.conditions("a")[0]["reason"], REJECTED);
    // The other one has ended, or its proxies are content too, and it thought of us.
    test.others.send_replace(Arc::default());
    assert_eq!(test.writes(60).await, ["a"]);
    assert_eq!(test.conditions("a"), Value::Null);
}
