use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{ANNOTATION, Api, Body, ConfigMap, DEADLINE, Fence, Held, Lease, Lock, Request, run_while_leader};
use crate::model::revision::Revisions;
use crate::source::kube::scripted::{Call, server};

/// An object of an API server with a lock, of whichever kind.
#[derive(Default)]
pub struct Locked {
    object: Option<Value>,
    version: u64,
}

impl Locked {
    pub fn answer(&mut self, call: Call) {
        let written: Option<Value> = serde_json::from_slice(&call.body).ok();
        match (call.method.as_str(), &self.object) {
            ("GET", None) => return call.refuse(404, "not found"),
            ("POST", Some(_)) => return call.refuse(409, "already exists"),
            ("POST", None) => self.write(written.expect("a lock")),
            ("PUT", Some(object)) => {
                let written = written.expect("a lock");
                if written["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
                    return call.refuse(409, "the object has been modified");
                }
                self.write(written);
            }
            _ => {}
        }
        call.json(200, self.object.as_ref().expect("a lock"));
    }

    pub fn write(&mut self, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.object = Some(object);
    }

    /// Somebody takes a ConfigMap's lock, or renews it.
    pub fn hold(&mut self, holder: &str, key: &str, seconds: u32) {
        let mut object = self.object.take().unwrap_or_else(|| json!({ "metadata": { "name": "lock" } }));
        object["metadata"]["annotations"][ANNOTATION] = json!(format!(
            r#"{{"holderIdentity":"{holder}","holderKey":"{key}","leaseDurationSeconds":{seconds},"acquireTime":"2026-01-01T00:00:00Z","renewTime":"2026-01-01T00:00:{:02}Z","leaderTransitions":3}}"#,
            self.version % 60
        ));
        self.write(object);
    }

    /// What the annotation of a ConfigMap says.
    fn annotation(&self) -> Value {
        let text = &self.object.as_ref().expect("a lock")["metadata"]["annotations"][ANNOTATION];
        serde_json::from_str(text.as_str().expect("a record")).expect("JSON")
    }

    fn holder(&self) -> &str {
        self.object.as_ref().and_then(|lease| lease["spec"]["holderIdentity"].as_str()).unwrap_or_default()
    }
}

/// A replica that wants to lead.
struct Replica {
    leads: Arc<AtomicBool>,
    /// Whether it is cut off from the API server.
    cut: Arc<AtomicBool>,
    cancel: CancellationToken,
    _end: DropGuard,
}

impl Replica {
    fn start(name: &'static str, leases: &Arc<Mutex<Locked>>, leaders: &Arc<AtomicUsize>) -> Self {
        Self::of(Lock::of_revision("lease", revision("").subscribe()), name, leases, leaders)
    }

    fn of(lock: Lock, name: &'static str, leases: &Arc<Mutex<Locked>>, leaders: &Arc<AtomicUsize>) -> Self {
        let (client, script) = server();
        let (leads, cut, cancel) =
            (Arc::new(AtomicBool::new(false)), Arc::<AtomicBool>::default(), CancellationToken::new());
        let (store, is_cut) = (leases.clone(), cut.clone());
        tokio::spawn(script.serve(move |call| {
            if !is_cut.load(Ordering::Relaxed) {
                store.lock().expect("no panic").answer(call);
            }
        }));
        let (leading, leaders, token) = (leads.clone(), leaders.clone(), cancel.clone());
        tokio::spawn(async move {
            let work = |_| Working::begin(leading.clone(), leaders.clone()).forever();
            run_while_leader(client, "istio-system", lock, name, token, work).await;
        });
        Self { leads, cut, _end: cancel.clone().drop_guard(), cancel }
    }

    fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }
}

/// Work that notes when it begins and ends, and that nobody else works.
struct Working(Arc<AtomicBool>, Arc<AtomicUsize>);

impl Working {
    fn begin(leads: Arc<AtomicBool>, leaders: Arc<AtomicUsize>) -> Self {
        assert_eq!(leaders.fetch_add(1, Ordering::Relaxed), 0, "two leaders");
        leads.store(true, Ordering::Relaxed);
        Self(leads, leaders)
    }

    async fn forever(self) {
        std::future::pending().await
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::Relaxed);
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Lets time pass until something holds. Returns how much.
#[track_caller]
fn until(what: impl Fn() -> bool) -> impl Future<Output = Duration> {
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        while !what() {
            sleep(Duration::from_millis(100)).await;
            assert!(started.elapsed() < Duration::from_secs(300), "it never does: {caller}");
        }
        started.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_leaves_is_followed() {
    let (leases, leaders) = Default::default();
    let one = Replica::start("one", &leases, &leaders);
    until(|| one.leads()).await;
    let two = Replica::start("two", &leases, &leaders);
    sleep(Duration::from_secs(600)).await;
    assert!(one.leads() && !two.leads());
    one.cancel.cancel();
    let waited = until(|| two.leads()).await;
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    let spec = leases.lock().expect("no panic").object.as_ref().expect("a lease")["spec"].clone();
    assert_eq!((&spec["holderIdentity"], &spec["leaseTransitions"]), (&json!("two"), &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_before_another_begins() {
    let (leases, leaders) = Default::default();
    let one = Replica::start("one", &leases, &leaders);
    until(|| one.leads()).await;
    let two = Replica::start("two", &leases, &leaders);
    sleep(Duration::from_secs(60)).await;
    one.cut.store(true, Ordering::Relaxed);
    let stopped = until(|| !one.leads()).await;
    assert!((Duration::from_secs(7)..=Duration::from_secs(16)).contains(&stopped), "{stopped:?}");
    assert!(!two.leads());
    let waited = until(|| two.leads()).await;
    assert!(stopped + waited < Duration::from_secs(45), "{waited:?}");
    // The old leader comes back, and does not take over.
    one.cut.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(600)).await;
    assert!(two.leads() && !one.leads());
}

#[tokio::test(start_paused = true)]
async fn clocks_of_replicas_are_not_compared() {
    let (leases, leaders): (Arc<Mutex<Locked>>, _) = Default::default();
    let held = |renewed: u32| {
        let spec = json!({
            "holderIdentity": "old", "leaseDurationSeconds": 30,
            "renewTime": format!("1970-01-01T00:{renewed:02}:00.000000Z"),
        });
        json!({"metadata": {"name": "lease"}, "spec": spec})
    };
    leases.lock().expect("no panic").write(held(0));
    let one = Replica::start("one", &leases, &leaders);
    for minute in 1..20 {
        sleep(Duration::from_secs(20)).await;
        leases.lock().expect("no panic").write(held(minute));
        assert!(!one.leads(), "a record that changes is held, whatever its time");
    }
    let waited = until(|| one.leads()).await;
    assert!((Duration::from_secs(29)..Duration::from_secs(46)).contains(&waited), "{waited:?}");
    assert_eq!(leases.lock().expect("no panic").holder(), "one");
}

/// Requests that were on their way out when the process was stopped.
#[tokio::test(start_paused = true)]
async fn a_leader_that_was_stopped_sends_nothing_when_it_goes_on() {
    let (client, mut script) = server();
    let fence = Fence::new();
    let lock = Lock::of_revision("lease", revision("").subscribe());
    let held = Held { api: Api::<Lease>::namespaced(client.clone(), "istio-system"), lock, identity: "one".into() };
    let fenced = fence.before(client, held);
    let request = || Request::get("/version").body(Body::empty()).expect("a request");
    assert!(fenced.send(request()).await.is_err(), "nobody leads yet");
    fence.open(Instant::now());
    let sent = tokio::spawn({
        let (fenced, request) = (fenced.clone(), request());
        async move { fenced.send(request).await.is_ok() }
    });
    script.next().await.json(200, &json!({}));
    assert!(sent.await.expect("no panic"));
    tokio::time::advance(DEADLINE).await;
    let error = fenced.send(request()).await.expect_err("another may lead");
    assert!(error.to_string().contains("another replica may lead"), "{error}");
    fence.open(Instant::now());
    fence.close();
    assert!(fenced.send(request()).await.is_err(), "the lease was given back");
    script.quiet(Duration::from_secs(60)).await;
}

/// Locks that are ConfigMaps, with replicas of some revisions and an istiod.
struct Shared {
    locked: Arc<Mutex<Locked>>,
    leaders: Arc<AtomicUsize>,
}

impl Shared {
    fn new() -> Self {
        Self { locked: Arc::default(), leaders: Arc::default() }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Locked> {
        self.locked.lock().expect("no panic")
    }

    fn start(&self, name: &'static str, revisions: &watch::Sender<Arc<Revisions>>) -> Replica {
        Replica::of(Lock::config_map("lock", revisions.subscribe()), name, &self.locked, &self.leaders)
    }

    /// The identity and the revision of whoever leads.
    fn leader(&self) -> (String, String) {
        let record = self.locked().annotation();
        let text = |field: &str| record[field].as_str().expect("a text").to_owned();
        (text("holderIdentity"), text("holderKey"))
    }
}

fn revision(name: &str) -> watch::Sender<Arc<Revisions>> {
    watch::Sender::new(Arc::new(Revisions::new(name)))
}

#[tokio::test(start_paused = true)]
async fn a_config_map_is_a_lock_as_istiod_writes_it() {
    let shared = Shared::new();
    let (one, two) = (shared.start("one", &revision("")), shared.start("two", &revision("")));
    until(|| one.leads() || two.leads()).await;
    let record = shared.locked().annotation();
    let fields: Vec<_> = record.as_object().expect("an object").keys().map(String::as_str).collect();
    let wanted =
        ["acquireTime", "holderIdentity", "holderKey", "leaderTransitions", "leaseDurationSeconds", "renewTime"];
    assert_eq!(fields.into_iter().collect::<BTreeSet<_>>(), wanted.into());
    assert_eq!((&record["holderKey"], &record["leaseDurationSeconds"]), (&json!("default"), &json!(30)));
    // Go's times, which have no parts of seconds here.
    let time = record["renewTime"].as_str().expect("a time");
    assert_eq!(("2026-01-01T00:00:00Z".len(), time.ends_with('Z')), (time.len(), true), "{time}");

    // Of two, one leads; when it ends, the other; both leave alone what else the
    // ConfigMap says.
    shared.locked().object.as_mut().expect("a lock")["data"] = json!({ "of": "somebody" });
    let (leader, other) = if one.leads() { (&one, &two) } else { (&two, &one) };
    sleep(Duration::from_secs(600)).await;
    assert!(leader.leads() && !other.leads());
    leader.cancel.cancel();
    let waited = until(|| other.leads()).await;
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    assert_eq!(shared.locked().annotation()["leaderTransitions"], 1);
    assert_eq!(shared.locked().object.as_ref().expect("a lock")["data"], json!({ "of": "somebody" }));
}

#[tokio::test(start_paused = true)]
async fn an_istiod_that_holds_a_config_map_is_waited_for() {
    let shared = Shared::new();
    shared.locked().hold("istiod-0", "default", 30);
    let one = shared.start("one", &revision(""));
    for _ in 0..20 {
        sleep(Duration::from_secs(20)).await;
        shared.locked().hold("istiod-0", "default", 30);
        assert!(!one.leads());
    }
    let waited = until(|| one.leads()).await;
    assert!((Duration::from_secs(29)..Duration::from_secs(46)).contains(&waited), "{waited:?}");
    // It goes on with the count, and is noticed when another takes it.
    assert_eq!(shared.locked().annotation()["leaderTransitions"], 4);
    shared.locked().hold("istiod-0", "default", 3600);
    until(|| !one.leads()).await;
    // istiod lets go of it so.
    shared.locked().hold("", "", 1);
    let waited = until(|| one.leads()).await;
    assert!(waited < Duration::from_secs(10), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn the_default_revision_takes_a_lock_from_others() {
    let shared = Shared::new();
    shared.locked().hold("istiod-0", "1-30", 3600);
    let canary = revision("canary");
    let one = shared.start("one", &canary);
    sleep(Duration::from_secs(600)).await;
    assert!(!one.leads(), "it is not the default one");
    canary.send_replace(Arc::new(Revisions::new("canary").tagged("default", "canary")));
    let waited = until(|| shared.leader() == ("one".to_owned(), "canary".to_owned())).await;
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    // Until the other one has noticed, it writes nothing.
    let waited = until(|| one.leads()).await;
    assert!((Duration::from_secs(29)..Duration::from_secs(31)).contains(&waited), "{waited:?}");

    // Of two that both say so, whoever came last keeps it.
    shared.locked().hold("istiod-0", "1-30", 3600);
    until(|| !one.leads()).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(shared.leader().0, "istiod-0", "no turns are taken");
    // From another one it is taken again.
    shared.locked().hold("other", "1-31", 3600);
    until(|| one.leads()).await;

    // A tag that goes and comes back, whichever is heard of first, is no quarrel.
    let tagged = || Arc::new(Revisions::new("canary").tagged("default", "canary"));
    for heard_of_the_tag in [true, false] {
        if heard_of_the_tag {
            canary.send_replace(Arc::new(Revisions::new("canary")));
        }
        shared.locked().hold("istiod-0", "1-30", 3600);
        until(|| !one.leads()).await;
        canary.send_replace(Arc::new(Revisions::new("canary")));
        sleep(Duration::from_secs(600)).await;
        assert!(!one.leads(), "it is not the default one");
        canary.send_replace(tagged());
        until(|| one.leads()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_not_taken_from_the_same_revision_or_from_one_that_does_not_say() {
    for key in ["default", ""] {
        let shared = Shared::new();
        shared.locked().hold("other", key, 3600);
        let one = shared.start("one", &revision(""));
        sleep(Duration::from_secs(600)).await;
        assert!(!one.leads(), "{key:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_annotation_that_is_no_record_is_left_alone() {
    let shared = Shared::new();
    let object = json!({ "metadata": { "name": "lock", "annotations": { ANNOTATION: "{" } } });
    shared.locked().write(object);
    let one = shared.start("one", &revision(""));
    sleep(Duration::from_secs(600)).await;
    assert!(!one.leads());
    // A ConfigMap without one is free.
    shared.locked().write(json!({ "metadata": { "name": "lock" } }));
    until(|| one.leads()).await;
    assert_eq!(shared.locked().annotation()["holderIdentity"], "one");
}

/// istiod's default revision takes a Lease from whoever does not say that it is
/// of the same one.
#[tokio::test(start_paused = true)]
async fn a_shared_lease_says_which_revision_holds_it() {
    let (locked, leaders): (Arc<Mutex<Locked>>, _) = Default::default();
    let annotations =
        || locked.lock().expect("no panic").object.clone().expect("a lock")["metadata"]["annotations"].clone();
    let one = Replica::of(Lock::lease("lease", revision("").subscribe()), "one", &locked, &leaders);
    until(|| one.leads()).await;
    assert_eq!(annotations(), json!({ "leader.istio.io/holder-key": "default" }));
    one.cancel.cancel();
    until(|| !one.leads()).await;
    let two = Replica::of(Lock::of_revision("lease", revision("").subscribe()), "two", &locked, &leaders);
    until(|| two.leads()).await;
    assert!(annotations()["leader.istio.io/holder-key"].is_null());
}

/// istiod's default revision takes a lock and begins at once, seconds before we
/// would find that out when we renew it.
#[tokio::test(start_paused = true)]
async fn nothing_is_written_under_a_lock_that_another_revision_has_taken() {
    let shared = Shared::new();
    for (ours, sent_after) in [("canary", false), ("", true)] {
        let (client, script) = server();
        let (store, revisions) = (shared.locked.clone(), revision(ours));
        tokio::spawn(script.serve(move |call| match call.path.ends_with("/lock") {
            true => store.lock().expect("no panic").answer(call),
            false => call.json(200, &json!({})),
        }));
        let api = Api::<ConfigMap>::namespaced(client.clone(), "istio-system");
        let held = Held { api, lock: Lock::config_map("lock", revisions.subscribe()), identity: "one".into() };
        let fence = Fence::new();
        let fenced = fence.before(client, held);
        fence.open(Instant::now());
        let send = |request: http::request::Builder| fenced.send(request.body(Body::empty()).expect("a request"));
        shared.locked().hold("one", ours, 30);
        send(Request::patch("/api/v1/namespaces/a/configmaps/b")).await.expect("it is ours");
        shared.locked().hold("istiod-0", "default", 30);
        let sent = send(Request::patch("/api/v1/namespaces/a/configmaps/b")).await.is_ok();
        assert_eq!(sent, sent_after, "from the default revision nobody takes it");
        send(Request::get("/api/v1/namespaces/a/configmaps/b")).await.expect("to read is no harm");
    }
}
