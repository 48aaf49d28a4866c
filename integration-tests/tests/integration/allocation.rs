//! Addresses of ServiceEntries that have none.

use std::net::IpAddr;

use fairway_integration_tests::eventually;
use fairway_integration_tests::expected::converged_in;
use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::ztunnel::{self, Ztunnel};
use serde_json::{Value, json};

use crate::gateways::{condition, gateway, is};
use crate::mesh::Namespace;
use crate::outage::spare;

const BOUND: &str = "istio.io/WaypointBound";

fn entry(name: &str, hosts: &[&str]) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": { "name": name },
        "spec": {
            "hosts": hosts, "resolution": "DNS", "ports": [{ "name": "tcp", "number": 5432, "protocol": "TCP" }],
        },
    })
}

/// The addresses that a status gives a host.
fn addresses(entry: &Value, host: &str) -> Vec<IpAddr> {
    let all = entry["status"]["addresses"].as_array().into_iter().flatten();
    all.filter(|one| one["host"] == host).map(|one| one["value"].as_str().unwrap().parse().unwrap()).collect()
}

/// Whether each host has an address of each family.
fn has(entry: &Value, hosts: &[&str]) -> bool {
    let both = |host: &&str| matches!(addresses(entry, host)[..], [IpAddr::V4(_), IpAddr::V6(_)]);
    hosts.iter().all(both) && entry["status"]["addresses"].as_array().map_or(0, Vec::len) == 2 * hosts.len()
}

/// Waits until a client knows a host by its addresses.
async fn known(ztunnel: &Ztunnel, ns: &Namespace, host: &str, wanted: &[IpAddr]) {
    let name = format!("{}/{host}", ns.name);
    ztunnel
        .until(&format!("{host} has its addresses"), |table| {
            let service = table.services.get(&name).ok_or("it is not there")?;
            let octets = |address: &IpAddr| match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let there: Vec<_> = service.addresses.iter().map(|one| one.address.to_vec()).collect();
            let all = wanted.iter().all(|address| there.contains(&octets(address))) && there.len() == wanted.len();
            if all { Ok(()) } else { Err(format!("{there:?}")) }
        })
        .await;
}

/// From an entry's first address to its last, beside what else its status says.
pub async fn life() {
    let cluster = spare().await;
    let ns = Namespace::new(&cluster.api, "allocation").await;
    // With their own namespace they have leases that nobody held before.
    let options = Options::new(&cluster.kubeconfig()).env("POD_NAMESPACE", &ns.name);
    let (first, second) = tokio::join!(Fairway::start(&options), Fairway::start(&options));
    let ztunnel = Ztunnel::ready(ztunnel::Options::plaintext(first.grpc)).await;
    let other = Ztunnel::ready(ztunnel::Options::plaintext(second.grpc)).await;

    let hosts = &["one.example.com", "two.example.com"];
    let mut asks = entry("db", hosts);
    asks["metadata"]["labels"] = json!({ "istio.io/use-waypoint": "w" });
    ns.apply(asks.clone()).await;
    let db = ns.until("ServiceEntry", "db", "has addresses", |one| has(one, hosts)).await;
    let had = addresses(&db, hosts[0]);
    for host in hosts {
        known(&ztunnel, &ns, host, &addresses(&db, host)).await;
        known(&other, &ns, host, &addresses(&db, host)).await;
    }

    // Its conditions come and go beside them.
    ns.until("ServiceEntry", "db", "waits for a waypoint", |one| is(one, BOUND, "False", "WaypointIsNotReady")).await;
    ns.apply(gateway("w", "istio-waypoint")).await;
    let bound = ns.until("ServiceEntry", "db", "is bound", |one| is(one, BOUND, "True", "WaypointAccepted")).await;
    assert_eq!(bound["status"]["addresses"], db["status"]["addresses"]);

    // One host more and one less: the other keeps its addresses.
    let hosts = &["three.example.com", "one.example.com"];
    asks["spec"]["hosts"] = json!(hosts);
    ns.apply(asks.clone()).await;
    let changed = ns.until("ServiceEntry", "db", "has those of its hosts", |one| has(one, hosts)).await;
    assert_eq!(addresses(&changed, "one.example.com"), had);
    assert!(is(&changed, BOUND, "True", "WaypointAccepted"), "{}", condition(&changed, BOUND));

    // Somebody takes them away, or takes those of another.
    ns.api.patch_status(&changed, json!({ "addresses": null })).await.unwrap();
    let again = ns.until("ServiceEntry", "db", "has addresses again", |one| has(one, hosts)).await;
    assert_eq!(addresses(&again, "one.example.com"), had, "names decide");
    let late = ns.apply(entry("late", &["late.example.com"])).await;
    ns.until("ServiceEntry", "late", "has addresses", |one| has(one, &["late.example.com"])).await;
    let stolen = json!({ "addresses": [{ "host": "late.example.com", "value": had[0].to_string() }] });
    ns.api.patch_status(&late, stolen).await.unwrap();
    // Where both are as old as each other, `db` comes first by name.
    let late = ns
        .until("ServiceEntry", "late", "has its own", |one| {
            has(one, &["late.example.com"]) && !addresses(one, "late.example.com").contains(&had[0])
        })
        .await;

    // Who does without loses them.
    let mut opted_out = entry("late", &["late.example.com"]);
    opted_out["metadata"]["labels"] = json!({ "networking.istio.io/enable-autoallocate-ip": "False" });
    ns.apply(opted_out).await;
    ns.until("ServiceEntry", "late", "has none", |one| one["status"]["addresses"].is_null()).await;
    known(&ztunnel, &ns, "late.example.com", &[]).await;
    ns.apply(entry("none", &["none.example.com"])).await;

    // Of two replicas one has written, each change once.
    ns.until("ServiceEntry", "none", "has addresses", |one| has(one, &["none.example.com"])).await;
    let writes = cluster.writes();
    let of_none = writes.iter().filter(|event| {
        let reference = &event["objectRef"];
        let ours = event["requestURI"].as_str().is_some_and(|uri| uri.contains("fieldManager=fairway-addresses"));
        let done = event["responseStatus"]["code"] == 200;
        ours && done && reference["name"] == "none" && reference["namespace"] == *ns.name
    });
    assert_eq!(of_none.count(), 1);
    assert!(!ns.api.holder(&ns.name, "istio-ip-autoallocate").await.is_empty());

    // What is gone is free: whoever chooses it has it, and whoever is made again.
    ns.api.delete(&late).await;
    ns.api.delete(&changed).await;
    eventually("it is gone", || async {
        match ns.api.get("networking.istio.io/v1", "ServiceEntry", &ns.name, "db").await {
            Err(refused) if refused.code == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    ns.apply(asks).await;
    let made = ns.until("ServiceEntry", "db", "has addresses", |one| has(one, hosts)).await;
    assert_eq!(addresses(&made, "one.example.com"), had);
    converged_in(&ns.api, &ztunnel, &[&ns.name]).await;
    converged_in(&ns.api, &other, &[&ns.name]).await;
    ztunnel.assert_correct();
    other.assert_correct();
}
