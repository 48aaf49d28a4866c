//! Objects in; what is looked up and written, out.

use std::sync::Arc;

use serde_json::{Value, json};

use super::settings::Settings;
use super::{Plan, Proxies, World, class, plan};
use crate::api::ObjectKey;
use crate::controller::resource::{Manner, Reference, Resource, Write};

const NOW: &str = "2026-01-01T00:00:00Z";

fn settings() -> Settings {
    Settings {
        revision: "default".into(),
        system_namespace: "istio-system".into(),
        domain: "cluster.local".into(),
        cluster: "Kubernetes".into(),
        root_config_map: "istio-ca-root-cert".into(),
        proxy_image: None,
        default_image: "proxy:default".into(),
        programmed_by_address: false,
    }
}

fn gateway(class: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": "w", "namespace": "ns", "uid": "uid-1", "generation": 3 },
        "spec": { "gatewayClassName": class, "listeners": [{ "name": "mesh", "port": 15008, "protocol": "HBONE" }] },
    })
}

fn key() -> (String, String) {
    ("ns".into(), "w".into())
}

/// A cluster with a Gateway, in which nothing is made for it.
fn world(gateway: Value) -> World {
    let mut world = World::default();
    for resource in [Resource::ServiceAccount, Resource::Deployment, Resource::Service] {
        world.objects.insert(Reference::new(resource, "ns", "w"), None);
    }
    world.gateways.insert(key(), gateway);
    world
}

/// Does what is planned, as an API server would. Returns what was written.
fn apply(settings: &Settings, world: &mut World) -> Vec<Write> {
    let Plan { look_up, writes } = plan(settings, world, &key(), NOW);
    assert!(look_up.is_empty(), "{look_up:?}");
    for write in &writes {
        match write.manner {
            Manner::ApplyStatus => {
                let gateway = world.gateways.get_mut(&key()).expect("it is there");
                gateway["status"] = write.body["status"].clone();
            }
            Manner::PatchStatus => panic!("Gateways are applied: {write:?}"),
            Manner::Delete => _ = world.objects.remove(&write.object),
            Manner::Apply if write.object.resource == Resource::Gateway => {
                let gateway = world.gateways.get_mut(&key()).expect("it is there");
                let annotations = write.body["metadata"]["annotations"].as_object().expect("annotations");
                for (name, value) in annotations {
                    gateway["metadata"]["annotations"][name] = value.clone();
                }
            }
            Manner::Apply | Manner::Create => {
                let mut object = write.body.clone();
                object["metadata"]["uid"] = json!("made");
                if write.object.resource == Resource::Service {
                    object["spec"]["clusterIPs"] = json!(["10.0.0.1"]);
                }
                world.objects.insert(write.object.clone(), Some(object));
            }
        }
    }
    writes
}

fn names(writes: &[Write]) -> Vec<String> {
    writes.iter().map(|write| write.object.to_string()).collect()
}

/// The status, reason and message of a Gateway's condition.
#[track_caller]
fn condition<'a>(world: &'a World, kind: &str) -> (&'a str, &'a str, &'a str) {
    let conditions = world.gateways[&key()]["status"]["conditions"].as_array().expect("conditions");
    let found = conditions.iter().find(|one| one["type"] == kind).expect("the condition");
    let text = |field: &str| found[field].as_str().expect("a text");
    (text("status"), text("reason"), text("message"))
}

fn proxies(connected: u32, current: u32, rejected: Option<&str>) -> super::run::ProxyTable {
    let proxies = Proxies { connected, current, rejected: rejected.map(Into::into) };
    Arc::new([(ObjectKey::new("ns", "w"), proxies)].into())
}

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
    assert_eq!(plan(&settings, &world, &key(), NOW), Plan { look_up: vec![deployment], writes: vec![] });
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
        !plan(&settings(), &world, &key(), NOW).writes.is_empty()
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
    let writes = plan(&settings, &world, &key(), "2027-01-01T00:00:00Z").writes;
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
    assert_eq!(plan(&settings(), &world, &key(), NOW), Plan::default());
}

#[test]
fn gateways_of_others_are_theirs() {
    let edit = |world: &mut World, pointer: &str, value: Value| {
        let gateway = world.gateways.get_mut(&key()).expect("it is there");
        gateway[pointer.split('/').next().expect("a part")][pointer.split('/').nth(1).expect("a part")] = value;
    };
    let class = |controller: &str| json!({ "metadata": { "name": "istio-waypoint" }, "spec": { "controllerName": controller } });
    ignored(|world| edit(world, "spec/gatewayClassName", json!("nginx")));
    ignored(|world| edit(world, "spec/gatewayClassName", json!("istio")));
    ignored(|world| _ = world.classes.insert("istio-waypoint".into(), class("example.com/other")));
    ignored(|world| edit(world, "metadata/labels", json!({ "istio.io/rev": "canary" })));
    ignored(|world| edit(world, "metadata/annotations", json!({ "gateway.istio.io/controller-version": "6" })));
    ignored(|world| edit(world, "metadata/annotations", json!({ "gateway.istio.io/controller-version": "next" })));
    ignored(|world| edit(world, "metadata/deletionTimestamp", json!(NOW)));
    ignored(|world| {
        let namespace = json!({ "metadata": { "name": "ns", "labels": { "istio.io/rev": "canary" } } });
        world.namespaces.insert("ns".into(), namespace);
    });
    // A class of somebody's own with our controller is ours.
    let mut own = world(gateway("special"));
    own.classes.insert("special".into(), class("istio.io/mesh-controller"));
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
    let look_up = plan(&settings(), &world, &key(), NOW);
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
        ("serviceAccount", "metadata: {ownerReferences: []}", "metadata.ownerReferences"),
        ("deployment", "spec: {template: {spec: {containers: [{image: x}]}}}", "containers"),
    ] {
        expect(Some(overlay("ns", "mine", json!({ key: text }))), with_parameters(), part);
    }
}

#[test]
fn listeners_that_no_waypoint_has_are_refused() {
    let mut gateway = gateway("istio-waypoint");
    gateway["spec"]["listeners"] = json!([
        { "name": "mesh", "port": 15008, "protocol": "HBONE" },
        { "name": "elsewhere", "port": 15009, "protocol": "HBONE" },
        { "name": "udp", "port": 53, "protocol": "UDP" },
    ]);
    let mut world = world(gateway);
    apply(&settings(), &mut world);
    assert_eq!(condition(&world, "Accepted"), ("True", "ListenersNotValid", "Invalid listeners: elsewhere, udp"));
    let reasons: Vec<_> = world.gateways[&key()]["status"]["listeners"]
        .as_array()
        .expect("listeners")
        .iter()
        .map(|one| one["conditions"][0]["reason"].as_str().expect("a reason").to_owned())
        .collect();
    assert_eq!(reasons, ["Accepted", "PortUnavailable", "UnsupportedProtocol"]);
}

#[test]
fn classes_are_made_and_those_of_others_are_theirs() {
    let mut world = World::default();
    let write = class::plan(&world, "istio-waypoint", NOW).expect("it is missing");
    assert_eq!(write.manner, Manner::Create);
    assert_eq!(write.body["spec"]["controllerName"], "istio.io/mesh-controller");
    assert_eq!(class::plan(&world, "unknown", NOW), None);
    world.classes.insert("istio-waypoint".into(), write.body);
    let write = class::plan(&world, "istio-waypoint", NOW).expect("it has no status");
    assert_eq!(write.manner, Manner::ApplyStatus);
    assert_eq!(write.body["status"]["conditions"][0]["status"], "True");
    let features: Vec<_> = write.body["status"]["supportedFeatures"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["name"].to_string())
        .collect();
    assert!(features.is_sorted() && !features.is_empty());
    let foreign = json!({ "metadata": { "name": "istio-waypoint" }, "spec": { "controllerName": "example.com/x" } });
    world.classes.insert("istio-waypoint".into(), foreign);
    assert_eq!(class::plan(&world, "istio-waypoint", NOW), None);
}

#[test]
fn every_class_of_ours_has_a_controller() {
    for one in class::CLASSES {
        // The API's limit.
        assert!(one.description.len() <= 64, "{}", one.name);
        assert!(class::CONTROLLERS.iter().any(|controller| controller.name == one.controller), "{}", one.name);
    }
}
