//! Changes while requests are on their way lose none of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fairway_integration_tests::echo::{Backend, Echo};
use fairway_integration_tests::eventually;
use fairway_integration_tests::hbone::{Client, Http, request};

use super::{SERVICE, Scene, get, pod, subsets, virtual_service};

/// Callers that never stop.
struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Tally {
    who: BTreeMap<String, usize>,
    failed: Vec<String>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.callers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Load {
    /// Two callers that open a tunnel for each request, and two that keep
    /// theirs for as long as the waypoint does.
    fn start(client: &Client, destination: &str) -> Self {
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::default())));
        let callers = (0..4).map(|number| {
            let (client, destination) = (client.clone(), destination.to_owned());
            let (stop, tally) = (stop.clone(), tally.clone());
            tokio::spawn(async move {
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) {
                    let answer = ask(&client, &destination, &mut kept).await;
                    if number % 2 == 0 {
                        kept = None;
                    }
                    let mut tally = tally.lock().unwrap();
                    match answer {
                        Ok(who) => *tally.who.entry(who).or_default() += 1,
                        // One is enough, and the next may fail at once.
                        Err(reason) => {
                            tally.failed.push(reason);
                            return;
                        }
                    }
                }
            })
        });
        let callers = callers.collect();
        Self { stop, tally, callers }
    }

    /// Waits until this many more requests were answered.
    async fn more(&self, requests: usize) {
        let total = || self.tally.lock().unwrap().who.values().sum::<usize>();
        let before = total();
        eventually("requests", async || {
            let failed = self.tally.lock().unwrap().failed.clone();
            assert!(failed.is_empty(), "failed: {failed:?}");
            if total() >= before + requests { Ok(()) } else { Err(total() - before) }
        })
        .await;
    }

    /// How many requests somebody answered.
    fn answered(&self, who: &str) -> usize {
        self.tally.lock().unwrap().who.get(who).copied().unwrap_or_default()
    }

    async fn end(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        for caller in std::mem::take(&mut self.callers) {
            caller.await.unwrap();
        }
        std::mem::take(&mut *self.tally.lock().unwrap())
    }
}

async fn ask(client: &Client, destination: &str, kept: &mut Option<Http>) -> Result<String, String> {
    if let Some(http) = kept
        && http.usable().await
    {
        match http.send(request("GET", "/", &[])).await {
            Ok(answer) if answer.status == 200 => return Ok(answer.who()),
            Ok(answer) => return Err(format!("{answer:?}")),
            // The waypoint had closed a connection that was idle as the request
            // was written. Every HTTP client sends a GET again then.
            Err(_) => {}
        }
    }
    let mut http = client.http(destination).await?;
    let answer = http.send(request("GET", "/", &[])).await?;
    *kept = Some(http);
    if answer.status == 200 { Ok(answer.who()) } else { Err(format!("{answer:?}")) }
}

/// Weights that change, routes that come and go, pods that are replaced.
pub async fn under_load() {
    let scene = Scene::new("load").await;
    let start = async |host: u8| {
        let address = SocketAddr::new(scene.ip(host).into(), 8080);
        Backend::http(address, &Echo::new(&format!("v{host}"))).await
    };
    let (old, _other) = (start(11).await, start(12).await);
    let mesh = |pods: &[u8]| {
        let pods: String = pods.iter().map(|host| pod(*host)).collect();
        format!("{SERVICE}{pods}{}", subsets(&[11, 12, 13]))
    };
    let weights = |one: u32| {
        let other = 100 - one;
        format!(
            "
  - route:
    - {{destination: {{host: $name, subset: v11}}, weight: {one}}}
    - {{destination: {{host: $name, subset: v12}}, weight: {other}}}"
        )
    };
    let apply = async |pods: &[u8], rules: &str| scene.apply(&[&*mesh(pods), &virtual_service(rules)].concat()).await;
    apply(&[11, 12], &weights(100)).await;
    let client = scene.world.client("caller").await;
    let service = scene.service();
    let load = Load::start(&client, &service);
    load.more(50).await;
    assert_eq!(load.answered("v12"), 0);

    apply(&[11, 12], &weights(0)).await;
    load.more(20).await;
    // What was on its way has arrived.
    let before = load.answered("v11");
    load.more(100).await;
    assert_eq!(load.answered("v11"), before, "after the weights had changed");

    // Another rule, and away with it.
    let extra = "
  - match: [{uri: {prefix: /extra}}]
    directResponse: {status: 201}";
    for round in 0..5 {
        apply(&[11, 12], &format!("{extra}{}", weights(50))).await;
        assert_eq!(get(&client, &service, "/extra").await.status, 201, "round {round}");
        apply(&[11, 12], &weights(50)).await;
        assert_eq!(get(&client, &service, "/extra").await.status, 200, "round {round}");
    }
    load.more(100).await;

    // v13 takes the place of v11: first it is there, then v11 is gone.
    let _new = start(13).await;
    let both = weights(50).replace("subset: v11", "subset: v13");
    apply(&[11, 12, 13], &both).await;
    load.more(50).await;
    apply(&[12, 13], &both).await;
    // As long as a pod that was told to end goes on.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(old);
    load.more(200).await;
    assert!(load.answered("v13") > 20);

    // A pod that is replaced while it is in use, as a rollout does, without any
    // rule that changes.
    let plain = "
  - route: [{destination: {host: $name}}]";
    apply(&[12, 13], plain).await;
    let again = start(11).await;
    for pods in [&[11, 12][..], &[12, 13], &[11, 13], &[11, 12, 13]] {
        apply(pods, plain).await;
        load.more(50).await;
    }
    let tally = load.end().await;
    drop(again);
    let failed = &tally.failed;
    assert!(failed.is_empty(), "{} failed of {:?}, such as {}", failed.len(), tally.who, failed[0]);
    scene.end().await;
}
