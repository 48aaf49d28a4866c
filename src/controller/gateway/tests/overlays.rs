//! What a Gateway's parameters add and change.

use super::*;

/// A ConfigMap with one overlay.
fn overlay(namespace: &str, name: &str, data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": namespace }, "data": data })
}

/// A Gateway whose parameters are in the ConfigMap `mine`.
fn with_parameters() -> Value {
    let mut gateway = gateway("istio-waypoint");
    gateway["spec"]["infrastructure"] =
        json!({ "parametersRef": { "group": "", "kind": "ConfigMap", "name": "mine" } });
    gateway
}

#[test]
fn overlays_change_what_is_made_and_make_more() {
    let mut world = world(with_parameters());
    let mine = Reference::new(Resource::ConfigMap, "ns", "mine");
    let look_up = plan(&settings(), &mut world, &key(), NOW);
    assert_eq!(look_up, Plan { look_up: vec![mine.clone()], writes: vec![] });
    for resource in [Resource::HorizontalPodAutoscaler, Resource::PodDisruptionBudget] {
        world.objects.insert(Reference::new(resource, "ns", "w"), None);
    }
    let mut defaults = overlay(
        "istio-system",
        "defaults",
        json!({
            "deployment": "spec: {replicas: 2, minReadySeconds: 5}",
            "podDisruptionBudget": "spec: {minAvailable: 1}",
        }),
    );
    defaults["metadata"]["labels"] = json!({ "gateway.istio.io/defaults-for-class": "istio-waypoint" });
    world.class_defaults.insert("defaults".into(), defaults);
    let own = json!({
        "deployment": "spec: {replicas: 3, template: {spec: {containers: [{name: istio-proxy, env: [{name: A, value: b}]}]}}}",
        "service": "metadata: {annotations: {a: b}}",
        "horizontalPodAutoscaler": "spec: {minReplicas: 2, maxReplicas: 4}",
    });
    world.objects.insert(mine.clone(), Some(overlay("ns", "mine", own)));
    let writes = apply(&settings(), &mut world);
    let made = names(&writes);
    let expected = [
        "ServiceAccount ns/w",
        "Deployment ns/w",
        "Service ns/w",
        "HorizontalPodAutoscaler ns/w",
        "PodDisruptionBudget ns/w",
    ];
    assert_eq!(made[..5], expected);
    let spec = &writes[1].body["spec"];
    assert_eq!((&spec["replicas"], &spec["minReadySeconds"]), (&json!(3), &json!(5)), "its own beats the class's");
    let container = &spec["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "proxy:default", "an overlay adds");
    assert!(container["env"].as_array().expect("variables").contains(&json!({ "name": "A", "value": "b" })));
    assert_eq!(writes[2].body["metadata"]["annotations"]["a"], "b");
    let scaler = &writes[3].body;
    assert_eq!((&scaler["spec"]["minReplicas"], &scaler["spec"]["maxReplicas"]), (&json!(2), &json!(4)));
    assert_eq!(scaler["spec"]["scaleTargetRef"], json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "w" }));
    assert_eq!(scaler["metadata"]["ownerReferences"][0]["uid"], "uid-1");
    let selector = json!({ "matchLabels": { "gateway.networking.k8s.io/gateway-name": "w" } });
    assert_eq!(writes[4].body["spec"], json!({ "selector": selector, "minAvailable": 1 }));
    apply(&settings(), &mut world);
    assert!(apply(&settings(), &mut world).is_empty());
}

#[test]
fn what_only_an_overlay_made_goes_with_it() {
    let optional = [Resource::HorizontalPodAutoscaler, Resource::PodDisruptionBudget];
    let of_kind = |resource| Reference::new(resource, "ns", "w");
    let mine = Reference::new(Resource::ConfigMap, "ns", "mine");
    let both = json!({
        "horizontalPodAutoscaler": "spec: {minReplicas: 2, maxReplicas: 4}", "podDisruptionBudget": "spec: {minAvailable: 1}",
    });
    let made = || {
        let mut world = world(with_parameters());
        world.objects.insert(mine.clone(), Some(overlay("ns", "mine", both.clone())));
        world.objects.extend(optional.map(|resource| (of_kind(resource), None)));
        apply(&settings(), &mut world);
        for resource in optional {
            let object = world.objects.get_mut(&of_kind(resource)).and_then(Option::as_mut).expect("it was made");
            object["metadata"]["resourceVersion"] = json!("7");
            object["metadata"]["managedFields"] =
                json!([{ "manager": "istio.io/gateway-controller", "operation": "Apply" }]);
        }
        apply(&settings(), &mut world);
        assert!(apply(&settings(), &mut world).is_empty());
        world
    };
    let deleted = |world: &mut World| {
        let writes = apply(&settings(), world);
        let deleted: Vec<_> = writes.into_iter().filter(|write| write.manner == Manner::Delete).collect();
        (names(&deleted), deleted)
    };

    let mut world = made();
    let fewer = json!({ "podDisruptionBudget": "spec: {minAvailable: 1}" });
    world.objects.insert(mine.clone(), Some(overlay("ns", "mine", fewer)));
    let (names, writes) = deleted(&mut world);
    assert_eq!(names, ["HorizontalPodAutoscaler ns/w"]);
    assert_eq!(writes[0].body["preconditions"], json!({ "uid": "made", "resourceVersion": "7" }));
    world.gateways.insert(key(), gateway("istio-waypoint"));
    assert_eq!(deleted(&mut world).0, ["PodDisruptionBudget ns/w"]);
    assert_eq!(deleted(&mut world).0, [""; 0]);

    // What is not ours by every sign stays, and so does all while the overlay is
    // none.
    for (part, value) in [
        ("ownerReferences", json!([{ "kind": "Gateway", "name": "w", "uid": "another" }])),
        ("labels", json!({ "gateway.istio.io/managed": "somebody-else" })),
        ("managedFields", json!([{ "manager": "kubectl", "operation": "Apply" }])),
        ("deletionTimestamp", json!(NOW)),
    ] {
        let mut world = made();
        for resource in optional {
            let object = world.objects.get_mut(&of_kind(resource)).and_then(Option::as_mut).expect("it was made");
            object["metadata"][part] = value.clone();
        }
        world.gateways.insert(key(), gateway("istio-waypoint"));
        assert_eq!(deleted(&mut world).0, [""; 0], "{part}");
    }
    let mut world = made();
    world.objects.insert(mine.clone(), Some(overlay("ns", "mine", json!({ "deployment": "- a" }))));
    assert_eq!(deleted(&mut world).0, [""; 0]);
}

#[test]
fn an_overlay_that_is_none_changes_nothing_and_is_said() {
    let mine = Reference::new(Resource::ConfigMap, "ns", "mine");
    let expect = |parameters: Option<Value>, gateway: Value, part: &str| {
        let mut world = world(gateway);
        world.objects.insert(mine.clone(), parameters);
        let writes = apply(&settings(), &mut world);
        assert_eq!(names(&writes), ["Gateway ns/w", "Gateway ns/w"], "{part}");
        let (status, reason, message) = condition(&world, "Accepted");
        assert_eq!((status, reason), ("False", "InvalidParameters"), "{message}");
        assert!(message.contains(part), "{message}");
    };
    expect(None, with_parameters(), "ConfigMap ns/mine");
    let mut other = with_parameters();
    other["spec"]["infrastructure"]["parametersRef"]["kind"] = json!("Secret");
    expect(None, other, "Secret");
    for (key, text, part) in [
        ("ingress", "{}", "ingress"),
        ("deployment", "- a", "mapping"),
        ("deployment", "a: [", "deployment"),
        ("service", "metadata: {name: other}", "metadata.name"),
        ("service", "metadata: {namespace: kube-system}", "metadata.namespace"),
        ("deployment", "kind: ClusterRoleBinding", "apiVersion and kind"),
        ("deployment", "{apiVersion: v1, kind: Secret}", "apiVersion and kind"),
        ("deployment", "{kind: Secret}\n---\nkind: ClusterRole", "deployment"),
        ("deployment", "$patch: delete", "apiVersion and kind"),
        ("clusterRole", "rules: []", "clusterRole"),
        ("serviceAccount", "metadata: {ownerReferences: []}", "metadata.ownerReferences"),
        ("deployment", "spec: {template: {spec: {containers: [{image: x}]}}}", "containers"),
    ] {
        expect(Some(overlay("ns", "mine", json!({ key: text }))), with_parameters(), part);
    }
}
