use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Body, DEADLINE, Fence, Request, run_while_leader};
use crate::source::kube::scripted::{Call, server};

/// The Leases of an API server.
#[derive(Default)]
pub struct Leases {
    lease: Option<Value>,
    version: u64,
}

impl Leases {
    pub fn answer(&mut self, call: Call) {
        let written: Option<Value> = serde_json::from_slice(&call.body).ok();
        match (call.method.as_str(), &self.lease) {
            ("GET", None) => return call.refuse(404, "not found"),
            ("POST", Some(_)) => return call.refuse(409, "already exists"),
            ("POST", None) => self.write(written.expect("a lease")),
            ("PUT", Some(lease)) => {
                let written = written.expect("a lease");
                if written["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"] {
                    return call.refuse(409, "the object has been modified");
                }
                self.write(written);
            }
            _ => {}
        }
        call.json(200, self.lease.as_ref().expect("a lease"));
    }

    pub fn write(&mut self, mut lease: Value) {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(lease);
    }

    fn holder(&self) -> &str {
        self.lease.as_ref().and_then(|lease| lease["spec"]["holderIdentity"].as_str()).unwrap_or_default()
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
    fn start(name: &'static str, leases: &Arc<Mutex<Leases>>, leaders: &Arc<AtomicUsize>) -> Self {
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
            run_while_leader(client, "istio-system", "lease", name, token, work).await;
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
    let spec = leases.lock().expect("no panic").lease.as_ref().expect("a lease")["spec"].clone();
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
    let (leases, leaders): (Arc<Mutex<Leases>>, _) = Default::default();
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
    let fenced = fence.before(client);
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
