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
    let own = move || Own { streams: count, judgements: Judgements::default() };
    let ended = tokio::spawn(replica.run(own, sender, watch::Sender::default(), stop.clone()));
    (streams, stop, ended)
}

fn judgements(gateways: &[(&str, u32, Option<&str>)], rejected: &[&str]) -> Judgements {
    let key = |name: &str| ObjectKey::new("ns", name);
    let gateways = gateways.iter().map(|(name, connected, reason)| {
        let rejected = reason.map(Into::into);
        (key(name), Proxies { connected: *connected, current: u32::from(rejected.is_none()) * connected, rejected })
    });
    let rejected = rejected.iter().map(|name| (Kind::VirtualService, key(name)));
    Judgements { gateways: gateways.collect(), rejected: rejected.collect() }
}

#[test]
fn judgements_are_read_as_they_were_written() {
    let all = judgements(&[("a", 2, None), ("b", 1, Some("no \"such\" thing"))], &["x", "y"]);
    assert_eq!(Judgements::read(&all.written()), all);
    for text in
        ["", "{", "[]", "{\"rejected\": [\"Nothing/ns/a\", \"VirtualService\"], \"gateways\": {\"a\": [1, 1, null]}}"]
    {
        assert_eq!(Judgements::read(text), Judgements::default(), "{text}");
    }
    // What an annotation cannot hold is left to readiness; what is wrong is not.
    let names: Vec<_> = (0..9000).map(|number| format!("gateway-{number:05}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), 1, None)).chain([("bad", 1, Some("no"))]).collect();
    assert_eq!(Judgements::read(&judgements(&many, &[]).written()), judgements(&[("bad", 1, Some("no"))], &[]));
    let long = "x".repeat(100_000);
    assert!(judgements(&[("bad", 1, Some(&long))], &[]).written().len() < 1000);
}

#[tokio::test(start_paused = true)]
async fn what_proxies_of_others_say_is_known_until_they_are_gone() {
    let leases = Leases::default();
    let replica = |identity: &str, own: Judgements| {
        let (client, script) = server();
        let store = leases.clone();
        tokio::spawn(script.serve(move |call| answer(&store, call)));
        let (sender, heard) = watch::channel(Arc::default());
        let (system_namespace, revision) = ("istio-system".into(), "default".into());
        let replica = Replica { client, system_namespace, identity: identity.into(), revision };
        let say = move || Own { streams: 1, judgements: own.clone() };
        (heard, tokio::spawn(replica.run(say, watch::Sender::default(), sender, CancellationToken::new())))
    };
    let until = async |heard: &mut watch::Receiver<Arc<Judgements>>, wanted: &Judgements| {
        let found = timeout(Duration::from_secs(300), heard.wait_for(|heard| **heard == *wanted)).await;
        found.expect("it comes").expect("it is told");
    };
    let (mut one, _one) = replica("one", Judgements::default());
    let (_, two) = replica("two", judgements(&[("a", 2, None)], &["x"]));
    let (_, _three) = replica("three", judgements(&[("a", 1, Some("no"))], &["x", "y"]));
    let mut both = judgements(&[("a", 3, Some("no"))], &["x", "y"]);
    both.gateways.values_mut().for_each(|proxies| proxies.current = 2);
    until(&mut one, &both).await;
    // A replica that is killed is one that may come back, for a while.
    two.abort();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(**one.borrow(), both);
    until(&mut one, &judgements(&[("a", 1, Some("no"))], &["x", "y"])).await;
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
