mod engine;
mod planning;

use serde_json::{Value, json};

use super::*;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("x", name)
}

fn pools(v4: &str, v6: &str) -> Pools {
    Pools { v4: v4.parse().expect("a range"), v6: v6.parse().expect("a range") }
}

/// What a status says.
fn said(addresses: &[(&str, &str)]) -> Box<[AllocatedAddress]> {
    addresses.iter().map(|(host, value)| AllocatedAddress { value: (*value).into(), host: (*host).into() }).collect()
}

/// An entry that was made at a time.
fn made(created: u32, hosts: &[&str], addresses: &[(&str, &str)]) -> Entry {
    Entry {
        uid: "u".into(),
        created,
        hosts: hosts.iter().map(|host| (*host).into()).collect(),
        allocated: said(addresses),
        chosen: [].into(),
    }
}

fn live(status: &Value) -> Value {
    json!({
        "kind": "ServiceEntry",
        "metadata": {
            "name": "a", "namespace": "x", "uid": "u", "resourceVersion": "7",
            "creationTimestamp": "1970-01-01T00:00:05Z",
        },
        "spec": { "hosts": ["h"], "resolution": "DNS" },
        "status": status,
    })
}

const ONE: &[(&str, &str)] = &[("h", "240.240.0.1"), ("h", "2001:2::1")];

#[track_caller]
fn steps(live: &Value, planned: &Entry, wanted: &[(&str, &str)]) -> Step {
    step(live, &Pools::default(), planned, &said(wanted))
}

#[test]
fn only_addresses_are_changed_and_only_of_what_was_planned_for() {
    let addresses = json!([{ "host": "h", "value": "240.240.0.1" }, { "host": "h", "value": "2001:2::1" }]);
    let guard = json!({ "op": "test", "path": "/metadata/resourceVersion", "value": "7" });
    let patch = |change: Value| Step::Patch(json!([guard, change]));
    let fresh = made(5, &["h"], &[]);

    let added = json!({ "op": "add", "path": "/status", "value": { "addresses": addresses } });
    assert_eq!(steps(&live(&Value::Null), &fresh, ONE), patch(added));
    // Conditions of others stay.
    let beside = json!({ "op": "add", "path": "/status/addresses", "value": addresses });
    assert_eq!(steps(&live(&json!({ "conditions": [{ "type": "theirs" }] })), &fresh, ONE), patch(beside.clone()));
    let old = made(5, &["h"], &[("gone", "240.240.0.9")]);
    let known = live(&json!({ "addresses": [{ "host": "gone", "value": "240.240.0.9" }] }));
    assert_eq!(steps(&known, &old, ONE), patch(beside));
    assert_eq!(steps(&known, &old, &[]), patch(json!({ "op": "remove", "path": "/status/addresses" })));

    // It is as it should be, whatever the order.
    let turned = json!({ "addresses": [addresses[1], addresses[0]] });
    assert_eq!(steps(&live(&turned), &fresh, ONE), Step::Nothing);
    // It is not what was planned for.
    assert_eq!(steps(&known, &fresh, ONE), Step::Later);
    assert_eq!(steps(&live(&Value::Null), &made(6, &["h"], &[]), ONE), Step::Later);
    let mut another = live(&Value::Null);
    another["metadata"]["uid"] = json!("another");
    assert_eq!(steps(&another, &fresh, ONE), Step::Later);
    let mut unreadable = live(&Value::Null);
    unreadable["spec"]["hosts"] = json!(7);
    assert_eq!(steps(&unreadable, &fresh, ONE), Step::Later);
}
