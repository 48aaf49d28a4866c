use std::collections::BTreeMap;

use serde_json::json;

use super::{expand, field, resource};

#[test]
fn a_pod_describes_itself() {
    let pod = json!({
        "metadata": { "name": "p", "labels": { "app": "a", "b.c/d": "e \"f\"" } },
        "spec": { "serviceAccountName": "s" },
        "status": { "podIP": "10.0.0.1" },
    });
    assert_eq!(field(&pod, "metadata.name").unwrap(), "p");
    assert_eq!(field(&pod, "metadata.labels").unwrap(), "app=\"a\"\nb.c/d=\"e \\\"f\\\"\"\n");
    assert_eq!(field(&pod, "metadata.labels['b.c/d']").unwrap(), "e \"f\"");
    assert_eq!(field(&pod, "metadata.annotations").unwrap(), "");
    assert_eq!(field(&pod, "spec.serviceAccountName").unwrap(), "s");
    assert_eq!(field(&pod, "status.podIPs").unwrap(), "10.0.0.1");
    assert_eq!(field(&pod, "status.hostIP"), None);
}

#[test]
fn resources_are_rounded_up() {
    let container = json!({ "resources": { "limits": { "cpu": "1500m", "memory": "1Gi" } } });
    assert_eq!(resource(&container, "limits.cpu", "1").unwrap(), "2");
    assert_eq!(resource(&container, "limits.cpu", "1m").unwrap(), "1500");
    assert_eq!(resource(&container, "limits.memory", "").unwrap(), "1073741824");
    assert_eq!(resource(&container, "limits.memory", "1Mi").unwrap(), "1024");
}

#[test]
fn references_are_expanded_once() {
    let environment = BTreeMap::from([("A".to_owned(), "1$(B)".to_owned()), ("B".to_owned(), "2".to_owned())]);
    assert_eq!(expand("$(A) $$(A) $(C) $", &environment), "1$(B) $(A) $(C) $");
}
