use serde_json::{Value, json};

use super::{CONDITION, patch};
use crate::model::binding::Binding;

const NOW: &str = "2026-01-02T00:00:00Z";

fn object(status: Value) -> Value {
    json!({ "metadata": { "name": "a", "resourceVersion": "7" }, "status": status })
}

fn binding(bound: bool, message: &str) -> Binding {
    Binding { bound, reason: if bound { "WaypointAccepted" } else { "WaypointIsNotReady" }, message: message.into() }
}

fn condition(status: &str, reason: &str, message: &str, since: &str) -> Value {
    json!({ "type": CONDITION, "status": status, "reason": reason, "message": message, "lastTransitionTime": since })
}

/// What a patch does besides checking the object's version.
#[track_caller]
fn change(object: &Value, wanted: Option<&Binding>) -> Option<Value> {
    let patch = patch(object, wanted, NOW)?;
    assert_eq!(patch[0], json!({ "op": "test", "path": "/metadata/resourceVersion", "value": "7" }));
    assert_eq!(patch.as_array().map(Vec::len), Some(2));
    Some(patch[1].clone())
}

#[test]
fn a_condition_is_added_beside_others() {
    let wanted = binding(true, "m");
    let said = condition("True", "WaypointAccepted", "m", NOW);
    let other = json!({ "type": "theirs", "status": "True" });
    let cases = [
        (Value::Null, json!({ "op": "add", "path": "/status", "value": { "conditions": [said] } })),
        (json!({ "loadBalancer": {} }), json!({ "op": "add", "path": "/status/conditions", "value": [said] })),
        (json!({ "conditions": [other] }), json!({ "op": "add", "path": "/status/conditions/-", "value": said })),
    ];
    for (status, expected) in cases {
        assert_eq!(change(&object(status), Some(&wanted)), Some(expected));
    }
}

#[test]
fn a_condition_changes_only_if_it_says_something_else() {
    let other = json!({ "type": "theirs", "status": "True" });
    let old = "2025-01-01T00:00:00Z";
    let known = object(json!({ "conditions": [other, condition("False", "WaypointIsNotReady", "m", old)] }));
    assert_eq!(change(&known, Some(&binding(false, "m"))), None);
    let replaced = |value| Some(json!({ "op": "replace", "path": "/status/conditions/1", "value": value }));
    // The time is that of the status.
    let expected = condition("False", "WaypointIsNotReady", "n", old);
    assert_eq!(change(&known, Some(&binding(false, "n"))), replaced(expected));
    let expected = condition("True", "WaypointAccepted", "m", NOW);
    assert_eq!(change(&known, Some(&binding(true, "m"))), replaced(expected));
}

#[test]
fn a_condition_goes_with_the_wish_for_a_waypoint() {
    let other = json!({ "type": "theirs", "status": "True" });
    let known = object(json!({ "conditions": [other, condition("True", "WaypointAccepted", "m", NOW)] }));
    assert_eq!(change(&known, None), Some(json!({ "op": "remove", "path": "/status/conditions/1" })));
    assert_eq!(change(&object(json!({ "conditions": [other] })), None), None);
    assert_eq!(change(&object(Value::Null), None), None);
}
