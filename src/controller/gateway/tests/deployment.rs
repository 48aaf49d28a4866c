//! What a waypoint is deployed as, and what is left alone.

use super::*;

#[test]
fn a_waypoint_is_made_once_and_then_left_alone() {
    let (settings, mut world) = (settings(), world(gateway("istio-waypoint")));
    let writes = apply(&settings, &mut world);
    let expected = ["ServiceAccount ns/w", "Deployment ns/w", "Service ns/w", "Gateway ns/w", "Gateway ns/w"];
    assert_eq!(names(&writes), expected);
    let owner = json!([{
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "w", "uid": "uid-1", "controller": true,
    }]);
    for write in &writes[..3] {
        let metadata = &write.body["metadata"];
        assert_eq!(metadata["ownerReferences"], owner);
        assert_eq!(metadata["labels"]["gateway.networking.k8s.io/gateway-name"], "w");
        assert_eq!(metadata["labels"]["gateway.networking.k8s.io/gateway-class-name"], "istio-waypoint");
        assert_eq!(metadata["labels"]["gateway.istio.io/managed"], "istio.io-mesh-controller");
    }
    assert_eq!((writes[3].manner, writes[4].manner), (Manner::Apply, Manner::ApplyStatus));
    assert_eq!(writes[3].body["metadata"]["annotations"]["gateway.istio.io/controller-version"], "5");
    assert_eq!(condition(&world, "Programmed").1, "AddressNotAssigned");

    // The Service has an address now.
    assert_eq!(names(&apply(&settings, &mut world)), ["Gateway ns/w"]);
    let addresses = json!([
        { "type": "IPAddress", "value": "10.0.0.1" }, { "type": "Hostname", "value": "w.ns.svc.cluster.local" },
    ]);
    assert_eq!(world.gateways[&key()]["status"]["addresses"], addresses);
    assert_eq!(condition(&world, "Programmed").1, "Pending");
    assert!(apply(&settings, &mut world).is_empty());
}

#[test]
fn the_pod_is_what_istios_image_expects() {
    let mut world = world(gateway("istio-waypoint"));
    let writes = apply(&settings(), &mut world);
    let template = &writes[1].body["spec"]["template"];
    assert_eq!(template["metadata"]["labels"]["istio.io/dataplane-mode"], "none");
    assert_eq!(template["metadata"]["labels"]["sidecar.istio.io/inject"], "false");
    assert_eq!(template["metadata"]["annotations"]["istio.io/rev"], "default");
    let container = &template["spec"]["containers"][0];
    assert_eq!(container["name"], "istio-proxy");
    assert_eq!(container["image"], "proxy:default");
    let start = json!([
        "proxy",
        "waypoint",
        "--domain",
        "$(POD_NAMESPACE).svc.cluster.local",
        "--serviceCluster",
        "w.$(POD_NAMESPACE)"
    ]);
    assert_eq!(container["args"].as_array().expect("arguments")[..6], *start.as_array().expect("arguments"));
    let variable = |name: &str| {
        let environment = container["env"].as_array().expect("variables");
        environment.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(variable("CA_ADDR")["value"], "istiod.istio-system.svc:15012");
    assert_eq!(variable("PROXY_CONFIG")["value"], r#"{"discoveryAddress":"istiod.istio-system.svc:15012"}"#);
    assert_eq!(variable("ISTIO_META_OWNER")["value"], "kubernetes://apis/apps/v1/namespaces/ns/deployments/w");
    let ports = writes[2].body["spec"]["ports"].as_array().expect("ports");
    let ports: Vec<_> = ports.iter().map(|port| (port["name"].as_str(), port["port"].as_u64())).collect();
    assert_eq!(ports, [(Some("status-port"), Some(15021)), (Some("mesh"), Some(15008))]);
    // Every volume is mounted, and every mount has its volume.
    let names = |list: &Value| {
        let mut names: Vec<_> = list.as_array().expect("a list").iter().map(|one| one["name"].to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&template["spec"]["volumes"]), names(&container["volumeMounts"]));
}

#[test]
fn the_image_is_the_first_that_is_said() {
    let image = |settings: &Settings, values: Value| {
        let mut world = world(gateway("istio-waypoint"));
        world.installation.values = json!({ "global": values });
        apply(settings, &mut world)[1].body["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    };
    let hub = json!({ "hub": "example.com/istio", "tag": "1.2.3", "proxy": { "image": "proxyv2" } });
    assert_eq!(image(&settings(), json!({})), "proxy:default");
    assert_eq!(image(&settings(), hub.clone()), "example.com/istio/proxyv2:1.2.3");
    assert_eq!(image(&settings(), json!({ "hub": "h", "tag": 7, "variant": "distroless" })), "h/proxyv2:7-distroless");
    assert_eq!(image(&settings(), json!({ "proxy": { "image": "a/b:c" } })), "a/b:c");
    assert_eq!(image(&Settings { proxy_image: Some("mine:1".into()), ..settings() }, hub), "mine:1");
}

#[test]
fn drift_is_repaired_and_additions_of_others_are_not_drift() {
    let (settings, mut world) = (settings(), world(gateway("istio-waypoint")));
    apply(&settings, &mut world);
    apply(&settings, &mut world);
    let deployment = Reference::new(Resource::Deployment, "ns", "w");
    let change = |world: &mut World, change: fn(&mut Value)| {
        change(world.objects.get_mut(&deployment).and_then(Option::as_mut).expect("it is there"));
    };
    change(&mut world, |object| {
        object["spec"]["replicas"] = json!(3);
        object["metadata"]["labels"]["theirs"] = json!("x");
        object["spec"]["template"]["spec"]["containers"][0]["terminationMessagePath"] = json!("/dev/termination-log");
    });
    assert!(apply(&settings, &mut world).is_empty());
    change(&mut world, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other"));
    let writes = apply(&settings, &mut world);
    assert_eq!(names(&writes), ["Deployment ns/w"]);
    assert_eq!(writes[0].body["metadata"]["uid"], "made", "only if it is still the same object");
    // A label that we applied and no longer want.
    change(&mut world, |object| {
        object["metadata"]["labels"]["old"] = json!("x");
        object["metadata"]["managedFields"] = json!([{
            "manager": "istio.io/gateway-controller", "operation": "Apply",
            "fieldsV1": { "f:metadata": { "f:labels": { "f:old": {} } } },
        }]);
    });
    assert_eq!(names(&apply(&settings, &mut world)), ["Deployment ns/w"]);
    world.objects.insert(deployment.clone(), None);
    assert_eq!(names(&apply(&settings, &mut world)), ["Deployment ns/w"]);
    world.objects.remove(&deployment);
    assert_eq!(plan(&settings, &mut world, &key(), NOW), Plan { look_up: vec![deployment], writes: vec![] });
}

#[test]
fn amounts_are_compared_by_value() {
    let mut world = world(gateway("istio-waypoint"));
    let amounts = |cpu: &str, memory: &str| json!({ "requests": { "cpu": cpu, "memory": memory } });
    world.installation.values =
        json!({ "global": { "waypoint": { "resources": { "requests": { "cpu": 1.5, "memory": "2048Mi" } } } } });
    apply(&settings(), &mut world);
    apply(&settings(), &mut world);
    let deployment = Reference::new(Resource::Deployment, "ns", "w");
    let mut planned = |resources: Value| {
        let live = world.objects.get_mut(&deployment).and_then(Option::as_mut).expect("it is there");
        live["spec"]["template"]["spec"]["containers"][0]["resources"] = resources;
        !plan(&settings(), &mut world, &key(), NOW).writes.is_empty()
    };
    assert!(!planned(amounts("1500m", "2Gi")), "as an API server stores them");
    assert!(planned(amounts("1501m", "2Gi")));
    assert!(planned(amounts("1500m", "2G")));
    assert!(planned(amounts("1500m", "much")));
}

#[test]
fn what_others_made_is_not_touched() {
    let (settings, mut world) = (settings(), world(gateway("istio-waypoint")));
    let foreign = json!({ "kind": "Deployment", "metadata": { "name": "w", "namespace": "ns", "uid": "theirs" } });
    world.objects.insert(Reference::new(Resource::Deployment, "ns", "w"), Some(foreign.clone()));
    world.objects.insert(Reference::new(Resource::ServiceAccount, "ns", "w"), Some(foreign));
    assert_eq!(names(&apply(&settings, &mut world)), ["Service ns/w", "Gateway ns/w", "Gateway ns/w"]);
    apply(&settings, &mut world);
    assert!(apply(&settings, &mut world).is_empty());
    let (status, reason, message) = condition(&world, "Programmed");
    assert_eq!((status, reason), ("False", "Pending"));
    assert!(message.contains("Deployment ns/w does not belong to this Gateway"), "{message}");
    assert!(!message.contains("ServiceAccount"), "{message}");
}

#[test]
fn programmed_means_that_a_proxy_has_its_configuration() {
    let (settings, mut world) = (settings(), world(gateway("istio-waypoint")));
    apply(&settings, &mut world);
    apply(&settings, &mut world);
    let mut expect = |proxies, ready: Option<u32>, expected: (&str, &str)| {
        world.proxies = proxies;
        let deployment = Reference::new(Resource::Deployment, "ns", "w");
        world.objects.get_mut(&deployment).and_then(Option::as_mut).expect("it is there")["status"]["readyReplicas"] =
            json!(ready);
        apply(&settings, &mut world);
        let (status, reason, message) = condition(&world, "Programmed");
        assert_eq!((status, reason), expected, "{message}");
        let listener = &world.gateways[&key()]["status"]["listeners"][0];
        let programmed =
            listener["conditions"].as_array().expect("conditions").iter().find(|one| one["type"] == "Programmed");
        assert_eq!(programmed.expect("it is there")["status"], expected.0);
        message.to_owned()
    };
    expect(proxies(0, 0, None), None, ("False", "Pending"));
    expect(proxies(1, 0, None), None, ("False", "Pending"));
    expect(proxies(1, 1, None), None, ("True", "Programmed"));
    let message = expect(proxies(2, 1, Some("no such filter")), Some(1), ("False", "Invalid"));
    assert!(message.contains("no such filter"), "{message}");
    // Connected to another replica.
    let message = expect(proxies(0, 0, None), Some(1), ("True", "Programmed"));
    assert_eq!(message, "Resource programmed, assigned to service(s) w.ns.svc.cluster.local:15008");
}

#[test]
fn istiods_meaning_of_programmed_can_be_had() {
    let settings = Settings { programmed_by_address: true, ..settings() };
    let mut world = world(gateway("istio-waypoint"));
    apply(&settings, &mut world);
    assert_eq!(condition(&world, "Programmed").1, "AddressNotAssigned");
    apply(&settings, &mut world);
    assert_eq!(condition(&world, "Programmed").0, "True");
}

#[test]
fn times_change_with_statuses_only_and_addresses_stay() {
    let (settings, mut world) = (settings(), world(gateway("istio-waypoint")));
    apply(&settings, &mut world);
    apply(&settings, &mut world);
    world.gateways.get_mut(&key()).expect("it is there")["metadata"]["generation"] = json!(4);
    world.objects.insert(Reference::new(Resource::Service, "ns", "w"), None);
    let writes = plan(&settings, &mut world, &key(), "2027-01-01T00:00:00Z").writes;
    let status = &writes.last().expect("a write").body["status"];
    for condition in status["conditions"].as_array().expect("conditions") {
        assert_eq!(condition["lastTransitionTime"], NOW);
        assert_eq!(condition["observedGeneration"], 4);
    }
    assert_eq!(status["addresses"][1]["value"], "w.ns.svc.cluster.local");
    assert_eq!(status["conditions"][1]["reason"], "AddressNotAssigned");
}

/// Whether anything is planned for a Gateway after a change.
#[track_caller]
fn ignored(change: impl FnOnce(&mut World)) {
    let mut world = world(gateway("istio-waypoint"));
    change(&mut world);
    assert_eq!(plan(&settings(), &mut world, &key(), NOW), Plan::default());
}

#[test]
fn gateways_of_others_are_theirs() {
    let edit = |world: &mut World, pointer: &str, value: Value| {
        let gateway = world.gateways.get_mut(&key()).expect("it is there");
        gateway[pointer.split('/').next().expect("a part")][pointer.split('/').nth(1).expect("a part")] = value;
    };
    let named = |name: &str, controller: &str| json!({ "metadata": { "name": name }, "spec": { "controllerName": controller } });
    let class = |controller: &str| named("istio-waypoint", controller);
    ignored(|world| edit(world, "spec/gatewayClassName", json!("nginx")));
    ignored(|world| edit(world, "spec/gatewayClassName", json!("istio-remote")));
    ignored(|world| _ = world.classes.insert("istio-waypoint".into(), class("example.com/other")));
    ignored(|world| edit(world, "metadata/labels", json!({ "istio.io/rev": "canary" })));
    ignored(|world| edit(world, "metadata/annotations", json!({ "gateway.istio.io/controller-version": "6" })));
    ignored(|world| edit(world, "metadata/annotations", json!({ "gateway.istio.io/controller-version": "next" })));
    ignored(|world| edit(world, "metadata/deletionTimestamp", json!(NOW)));
    ignored(|world| {
        world.revisions = Arc::new(Revisions::new("canary"));
    });
    // A class of somebody's own with our controller is ours.
    let mut own = world(gateway("special"));
    own.classes.insert("special".into(), named("special", "istio.io/mesh-controller"));
    assert_eq!(apply(&settings(), &mut own).len(), 5);
}

#[test]
fn a_gateway_with_an_address_is_not_deployed() {
    let mut gateway = gateway("istio-waypoint");
    gateway["spec"]["addresses"] =
        json!([{ "type": "Hostname", "value": "mine" }, { "type": "IPAddress", "value": "10.1.1.1" }]);
    let mut world = world(gateway);
    assert_eq!(names(&apply(&settings(), &mut world)), ["Gateway ns/w", "Gateway ns/w"]);
    let expected = json!([{ "type": "Hostname", "value": "mine.ns.svc.cluster.local" }, { "type": "IPAddress", "value": "10.1.1.1" }]);
    assert_eq!(world.gateways[&key()]["status"]["addresses"], expected);
    world.proxies = proxies(1, 1, None);
    apply(&settings(), &mut world);
    assert_eq!(condition(&world, "Programmed").0, "True");
    assert!(apply(&settings(), &mut world).is_empty());
}

#[test]
fn names_and_metadata_can_be_chosen() {
    let mut gateway = gateway("istio-waypoint");
    gateway["metadata"]["annotations"] = json!({
        "gateway.istio.io/name-override": "other", "gateway.istio.io/service-account": "account", "theirs": "kept",
    });
    gateway["metadata"]["labels"] = json!({ "istio.io/waypoint-for": "all" });
    let mut world = world(gateway.clone());
    for (resource, name) in
        [(Resource::ServiceAccount, "account"), (Resource::Deployment, "other"), (Resource::Service, "other")]
    {
        world.objects.insert(Reference::new(resource, "ns", name), None);
    }
    let writes = apply(&settings(), &mut world);
    assert_eq!(names(&writes)[..3], ["ServiceAccount ns/account", "Deployment ns/other", "Service ns/other"]);
    assert_eq!(writes[1].body["spec"]["template"]["spec"]["serviceAccountName"], "account");
    assert_eq!(writes[1].body["spec"]["selector"]["matchLabels"]["gateway.networking.k8s.io/gateway-name"], "w");
    assert_eq!(writes[2].body["metadata"]["labels"]["istio.io/waypoint-for"], "all");
    assert_eq!(writes[1].body["metadata"]["annotations"], json!({ "theirs": "kept" }));

    gateway["spec"]["infrastructure"] =
        json!({ "labels": { "a": "b", "gateway.networking.k8s.io/x": "y" }, "annotations": { "c": "d" } });
    world.gateways.insert(key(), gateway);
    let writes = apply(&settings(), &mut world);
    let labels = &writes[0].body["metadata"]["labels"];
    assert_eq!(
        (&labels["a"], &labels["istio.io/waypoint-for"], &labels["gateway.networking.k8s.io/x"]),
        (&json!("b"), &Value::Null, &Value::Null)
    );
    assert_eq!(writes[0].body["metadata"]["annotations"], json!({ "c": "d" }));
}

#[test]
fn the_old_class_says_what_to_write_instead() {
    let mut gateway = gateway("istio-mesh");
    gateway["metadata"]["annotations"] = json!({ "istio.io/service-account": "reviews" });
    let mut world = world(gateway);
    assert_eq!(apply(&settings(), &mut world).len(), 5);
    let (status, reason, message) = condition(&world, "Accepted");
    assert_eq!((status, reason), ("True", "Accepted"));
    assert!(
        message.contains("istio-waypoint")
            && message.contains("istio.io/use-waypoint: w")
            && message.contains("serves the workloads of the service account reviews"),
        "{message}"
    );
}

/// Fields of a Gateway went into a text that was read as YAML, and so made
/// whatever objects they said. The overlays that could are in
/// `an_overlay_that_is_none_changes_nothing_and_is_said`.
#[test]
fn cve_2022_21701_what_a_gateway_says_makes_no_other_objects() {
    const HOSTILE: [&str; 4] = [
        "x\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: evil}",
        "x\"\n  hostNetwork: true\n  y: \"",
        "{{ .Values.evil }} ${EVIL} $(EVIL)",
        "a: [*b, &b {c: !!binary d}]\u{0}",
    ];
    let expected = ["ServiceAccount", "Deployment", "Service"];
    for hostile in HOSTILE {
        let mut gateway = gateway("istio");
        let annotations = json!({
            "a": hostile,
            "networking.istio.io/service-type": hostile,
            "sidecar.istio.io/proxyImage": format!("{hostile}/x"),
            "sidecar.istio.io/logLevel": hostile,
            "sidecar.istio.io/componentLogLevel": hostile,
            "sidecar.istio.io/agentLogLevel": hostile,
        });
        gateway["metadata"]["annotations"] = annotations.clone();
        gateway["metadata"]["labels"] = json!({ "b": hostile, "topology.istio.io/network": hostile });
        gateway["spec"]["listeners"] = json!([{ "name": hostile, "port": 80, "protocol": hostile }]);
        gateway["spec"]["addresses"] = json!([{ "type": "IPAddress", "value": hostile }]);
        let mut world = World::default();
        for (resource, name) in
            [(Resource::ServiceAccount, "w-istio"), (Resource::Deployment, "w-istio"), (Resource::Service, "w-istio")]
        {
            world.objects.insert(Reference::new(resource, "ns", name), None);
        }
        world.gateways.insert(key(), gateway);
        let Plan { look_up, writes } = plan(&settings(), &mut world, &key(), NOW);
        let made: Vec<_> = writes.iter().filter(|write| write.object.resource != Resource::Gateway).collect();
        assert!(look_up.is_empty());
        // An address that is none is asked for by nobody.
        let kinds: Vec<_> = made.iter().filter_map(|write| write.body["kind"].as_str()).collect();
        assert!(kinds.iter().all(|kind| expected.contains(kind)), "{kinds:?}");
        for write in &made {
            let Reference { resource, namespace, name } = &write.object;
            let metadata = &write.body["metadata"];
            assert_eq!((write.body["kind"].as_str(), namespace.as_str()), (Some(resource.kind()), "ns"));
            assert_eq!((&metadata["name"], &metadata["namespace"]), (&json!(name), &json!("ns")));
            assert_eq!(metadata["annotations"]["a"], hostile, "it is a text, and stays one");
        }
        let Some(pod) = made.iter().find(|write| write.object.resource == Resource::Deployment) else { continue };
        let spec = &pod.body["spec"]["template"]["spec"];
        assert!(spec["hostNetwork"].is_null());
        let containers = spec["containers"].as_array().expect("containers");
        assert_eq!(containers.len(), 1);
        let arguments = containers[0]["args"].as_array().expect("arguments");
        assert!(arguments.contains(&json!(hostile)), "{arguments:?}");
    }
}
