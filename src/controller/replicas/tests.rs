use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::source::kube::scripted::{Call, server};

fn streams(own: usize, others: Option<&[usize]>) -> Streams {
    Streams { own, others: others.map(<[_]>::to_vec), round: 1 }
}

#[test]
fn what_is_over_the_share_goes_elsewhere() {
    for (own, others, surplus) in [
        (100, Some(&[0][..]), 50),
        (100, Some(&[0, 0]), 66),
        (55, Some(&[45]), 0),
        (56, Some(&[44]), 6),
        (0, Some(&[100]), 0),
        (3, Some(&[0]), 0),
        (100, Some(&[]), 0),
        (100, None, 0),
    ] {
        assert_eq!(streams(own, others).surplus(), surplus, "{own} beside {others:?}");
    }
}

/// An API server with Leases.
type Leases = Arc<Mutex<BTreeMap<String, Value>>>;

fn answer(leases: &Leases, call: Call) {
    let mut leases = leases.lock().expect("no panic");
    let name = call.path.rsplit('/').next().unwrap_or_default().to_owned();
    match call.method.as_str() {
        "GET" if name.starts_with("fairway-replica-") => match leases.get(&name) {
            Some(lease) => call.json(200, lease),
            None => call.refuse(404, "not found"),
        },
        "GET" => {
            let items: Vec<_> = leases.values().cloned().collect();
            call.json(200, &json!({"metadata": {}, "items": items}));
        }
        "DELETE" => {
            let gone = leases.remove(&name);
            call.json(200, &gone.unwrap_or_else(|| json!({"status": "Success"})));
        }
        _ => {
            let mut lease: Value = serde_json::from_slice(&call.body).expect("a lease");
            let name = lease["metadata"]["name"].as_str().expect("a name").to_owned();
            let known = leases.get(&name).map(|known| known["metadata"]["resourceVersion"].clone());
            // As the API server has it: no Lease is replaced without its version.
            if known.clone().unwrap_or_default() != lease["metadata"]["resourceVersion"] {
                return call.refuse(409, "the object has been modified");
            }
            let version = known.and_then(|known| known.as_str()?.parse::<u64>().ok()).unwrap_or_default() + 1;
            lease["metadata"]["resourceVersion"] = json!(version.to_string());
            leases.insert(name, lease.clone());
            call.json(200, &lease);
        }
    }
}

fn start(
    identity: &str,
    leases: &Leases,
    count: usize,
) -> (watch::Receiver<Streams>, CancellationToken, tokio::task::JoinHandle<()>) {
    let (client, script) = server();
    let store = leases.clone();
    tokio::spawn(script.serve(move |call| answer(&store, call)));
    let (sender, streams) = watch::channel(Streams::default());
    let stop = CancellationToken::new();
    let replica = Replica {
        client,
        system_namespace: "istio-system".into(),
        identity: identity.into(),
        revision: "default".into(),
    };
    let ended = tokio::spawn(replica.run(move || count, sender, stop.clone()));
    (streams, stop, ended)
}

async fn until(streams: &mut watch::Receiver<Streams>, what: impl Fn(&Streams) -> bool) -> Streams {
    let found = timeout(Duration::from_secs(120), streams.wait_for(|streams| what(streams))).await;
    found.expect("it comes").expect("it is told").clone()
}

#[tokio::test(start_paused = true)]
async fn replicas_know_of_each_other() {
    let leases = Leases::default();
    let (mut one, _stop, _task) = start("one", &leases, 100);
    assert_eq!(until(&mut one, |streams| streams.round > 2).await.others, Some(vec![]));
    let (mut two, stop, ended) = start("two", &leases, 20);
    assert_eq!(until(&mut one, |streams| streams.others == Some(vec![20])).await.surplus(), 40);
    assert_eq!(until(&mut two, |streams| streams.others == Some(vec![100])).await.surplus(), 0);
    // One that ends takes its Lease with it.
    stop.cancel();
    ended.await.expect("no panic");
    until(&mut one, |streams| streams.others == Some(vec![])).await;
    assert_eq!(leases.lock().expect("no panic").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_may_be_gone_makes_it_unknown_and_is_cleared_away() {
    let leases = Leases::default();
    let (mut one, _stop, _task) = start("one", &leases, 100);
    let (_two, _stop_two, task) = start("two", &leases, 20);
    until(&mut one, |streams| streams.others == Some(vec![20])).await;
    task.abort();
    until(&mut one, |streams| streams.others.is_none()).await;
    until(&mut one, |streams| streams.others == Some(vec![])).await;
    let left: Vec<_> = leases.lock().expect("no panic").keys().cloned().collect();
    assert_eq!(left, ["fairway-replica-one"]);
}

/// Whoever starts again after a crash finds the record of the process before.
/// Nobody is sent to that.
#[tokio::test(start_paused = true)]
async fn a_record_that_never_changes_is_of_nobody() {
    let leases = Leases::default();
    let (mut before, _stop, task) = start("before", &leases, 0);
    until(&mut before, |streams| streams.round > 1).await;
    task.abort();
    let (mut one, _stop_one, _task) = start("one", &leases, 100);
    let first = until(&mut one, |streams| streams.others.is_some()).await;
    assert_eq!((first.others, leases.lock().expect("no panic").len()), (Some(vec![]), 1));
}
