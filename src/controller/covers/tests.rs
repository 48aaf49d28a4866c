use serde_json::json;

use super::covers;

/// A Deployment would be written again and again for such a field.
#[test]
fn what_the_api_server_does_not_keep_is_covered() {
    let wanted = json!({ "env": [{ "name": "A", "value": "" }, { "name": "B", "value": "b" }], "volumes": {} });
    assert!(covers(&json!({ "env": [{ "name": "A" }, { "name": "B", "value": "b" }] }), &wanted));
    assert!(!covers(&json!({ "env": [{ "name": "A", "value": "a" }, { "name": "B", "value": "b" }] }), &wanted));
    assert!(!covers(&json!({ "env": [{ "name": "A" }, { "name": "B" }] }), &wanted));
}
