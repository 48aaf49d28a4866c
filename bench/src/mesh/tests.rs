use super::{Kind, Mesh, PodState, Size, mark};

const SIZE: Size = Size { pods: 120, services: 10, namespaces: 3, compact: false };

fn value(text: &str) -> serde_json::Value {
    serde_saphyr::from_str(text).expect("YAML")
}

#[test]
fn whole_and_compact_pods_say_the_same_to_a_mesh() {
    let state = PodState { revision: mark(7), ready: false, terminating: true, present: true };
    let pods = [false, true].map(|compact| {
        let mut mesh = Mesh::new(Size { compact, ..SIZE });
        mesh.changed.insert(3, state.clone());
        value(&mesh.object(Kind::Pod, 3))
    });
    for pointer in
        ["/metadata/name", "/metadata/labels", "/metadata/deletionTimestamp", "/spec/nodeName", "/status/podIPs"]
    {
        assert!(pods[0].pointer(pointer).is_some(), "{pointer}");
        assert_eq!(pods[0].pointer(pointer), pods[1].pointer(pointer), "{pointer}");
    }
    let ready = |pod: &serde_json::Value| {
        let conditions = pod["status"]["conditions"].as_array().expect("conditions");
        conditions.iter().find(|condition| condition["type"] == "Ready").map(|ready| ready["status"].clone())
    };
    assert_eq!(ready(&pods[0]), Some("False".into()));
    assert_eq!(ready(&pods[0]), ready(&pods[1]));
}

#[test]
fn what_is_expected_follows_the_changes() {
    let mut mesh = Mesh::new(SIZE);
    assert_eq!(mesh.workloads().len(), SIZE.workloads());
    let new = mesh.new_pod(0);
    mesh.changed.insert(0, PodState { present: false, ..PodState::default() });
    mesh.changed.insert(new, PodState { ready: false, ..PodState::default() });
    let workloads = mesh.workloads();
    let uid = |at| {
        let (namespace, name) = mesh.pod_name(at);
        format!("Kubernetes//Pod/{namespace}/{name}")
    };
    assert!(!workloads.contains_key(&uid(0)));
    assert!(!workloads[&uid(new)].healthy);
    let mut addresses: Vec<_> = workloads.values().map(|expected| expected.address).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), workloads.len());
}
