//! Objects in; what is looked up and written, out.

use std::sync::Arc;

use serde_json::{Value, json};

use super::settings::Settings;
use super::{Plan, Proxies, World, class};
use crate::api::{Change, Kind, ObjectKey};
use crate::controller::resource::{Manner, Reference, Resource, Write};
use crate::model::Settings as ModelSettings;
use crate::model::revision::Revisions;
use crate::status::facts::GatewayTable;
use crate::translation::Translation;

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

/// What the mesh makes of the Gateways of a world.
fn facts(world: &World, more: &[(Kind, Value)]) -> GatewayTable {
    let mut translation = Translation::new(Arc::<ModelSettings>::default());
    let classes = world.classes.values().map(|one| (Kind::GatewayClass, one));
    let gateways = world.gateways.values().map(|one| (Kind::Gateway, one));
    let sets = world.listener_sets.values().map(|one| (Kind::ListenerSet, one));
    for (kind, object) in classes.chain(gateways).chain(sets).chain(more.iter().map(|(kind, one)| (*kind, one))) {
        let object = kind.decode_json(&object.to_string()).expect("it decodes");
        translation.apply(Change::Put(object));
    }
    translation.commit();
    let rows = translation.graph.rows(translation.facts.gateways);
    rows.map(|(key, facts)| (key.clone(), facts.clone())).collect()
}

/// What is planned, when the mesh knows what there is.
fn plan(settings: &Settings, world: &mut World, key: &(String, String), now: &str) -> Plan {
    world.facts = facts(world, &[]);
    super::plan(settings, world, key, now)
}

/// Does what is planned, as an API server would. Returns what was written.
fn apply(settings: &Settings, world: &mut World) -> Vec<Write> {
    let plan = plan(settings, world, &key(), NOW);
    done(world, plan)
}

/// An object as an API server keeps it, which drops fields without a value.
fn stored(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| **value != json!(""));
            Value::Object(kept.map(|(key, value)| (key.clone(), stored(value))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(stored).collect()),
        other => other.clone(),
    }
}

/// Does a plan, as an API server would. Returns what was written.
fn done(world: &mut World, plan: Plan) -> Vec<Write> {
    let Plan { look_up, writes } = plan;
    assert!(look_up.is_empty(), "{look_up:?}");
    for write in &writes {
        match write.manner {
            Manner::ApplyStatus if write.object.resource == Resource::ListenerSet => {
                let key = (write.object.namespace.clone(), write.object.name.clone());
                let set = world.listener_sets.get_mut(&key).expect("it is there");
                set["status"] = write.body["status"].clone();
            }
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
                let mut object = stored(&write.body);
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

/// A Gateway of the class `istio`.
fn edge(listeners: Value) -> Value {
    let mut gateway = gateway("istio");
    gateway["spec"]["listeners"] = listeners;
    gateway
}

/// A cluster with such a Gateway, in which nothing is made for it.
fn edge_world(gateway: Value) -> World {
    let mut world = world(gateway);
    for resource in [Resource::ServiceAccount, Resource::Deployment, Resource::Service] {
        world.objects.insert(Reference::new(resource, "ns", "w-istio"), None);
    }
    world
}

fn http() -> Value {
    json!([{ "name": "http", "port": 80, "protocol": "HTTP" }])
}

/// Gives the Service of a Gateway a load balancer.
fn balance(world: &mut World, name: &str, ingress: Value) {
    let service = Reference::new(Resource::Service, "ns", name);
    let service = world.objects.get_mut(&service).and_then(Option::as_mut).expect("it is there");
    service["status"]["loadBalancer"]["ingress"] = ingress;
}

#[test]
fn a_gateway_is_what_istiods_is() {
    let mut gateway = edge(json!([
        { "name": "http", "port": 80, "protocol": "HTTP", "hostname": "a.example.com" },
        { "name": "http-too", "port": 80, "protocol": "HTTP", "hostname": "b.example.com" },
        { "name": "with.dots", "port": 443, "protocol": "TLS", "tls": { "mode": "Passthrough" } },
        { "name": "with-dots", "port": 8443, "protocol": "TLS", "tls": { "mode": "Passthrough" } },
    ]));
    gateway["metadata"]["labels"] = json!({ "team": "a", "topology.istio.io/network": "n1" });
    let mut world = edge_world(gateway);
    world.installation.values = json!({ "global": {
        "network": "n2", "proxy": { "resources": { "requests": { "cpu": "300m" } } },
        "waypoint": { "resources": { "requests": { "cpu": "7" } }, "tolerations": [{ "key": "no" }] },
    } });
    let writes = apply(&settings(), &mut world);
    let expected = ["ServiceAccount ns/w-istio", "Deployment ns/w-istio", "Service ns/w-istio"];
    assert_eq!(names(&writes)[..3], expected);
    for write in &writes[..3] {
        let labels = json!({
            "team": "a",
            "topology.istio.io/network": "n1",
            "istio.io/dataplane-mode": "none",
            "gateway.istio.io/managed": "istio.io-gateway-controller",
            "gateway.networking.k8s.io/gateway-name": "w",
            "gateway.networking.k8s.io/gateway-class-name": "istio",
        });
        assert_eq!(write.body["metadata"]["labels"], labels);
        assert_eq!(write.body["metadata"]["annotations"], Value::Null);
    }
    let spec = &writes[1].body["spec"];
    assert_eq!(spec["selector"]["matchLabels"], json!({ "gateway.networking.k8s.io/gateway-name": "w" }));
    let labels = &spec["template"]["metadata"]["labels"];
    assert_eq!(labels["service.istio.io/canonical-name"], "w-istio");
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "w-istio");
    assert_eq!(pod["securityContext"]["sysctls"][0]["name"], "net.ipv4.ip_unprivileged_port_start");
    assert_eq!(pod["tolerations"], Value::Null, "those are of waypoints");
    let container = &pod["containers"][0];
    assert_eq!(
        container["args"].as_array().expect("arguments")[..3],
        [json!("proxy"), json!("router"), json!("--domain")]
    );
    assert!(!container["args"].to_string().contains("serviceCluster"));
    assert_eq!(container["resources"], json!({ "requests": { "cpu": "300m" } }));
    assert!(!container["ports"].to_string().contains("15008"));
    let variable = |name: &str| {
        let environment = container["env"].as_array().expect("variables");
        environment.iter().find(|one| one["name"] == name).map(|one| one["value"].clone())
    };
    assert_eq!(variable("ISTIO_META_NETWORK"), Some(json!("n1")));
    assert_eq!(variable("ISTIO_META_REQUESTED_NETWORK_VIEW"), Some(json!("n1")));
    assert_eq!(variable("ISTIO_META_WORKLOAD_NAME"), Some(json!("w-istio")));
    let volumes = |list: &Value| {
        let mut names: Vec<_> = list.as_array().expect("a list").iter().map(|one| one["name"].to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(volumes(&pod["volumes"]), volumes(&container["volumeMounts"]));
    let service = &writes[2].body["spec"];
    assert_eq!(service["type"], "LoadBalancer");
    let ports = service["ports"].as_array().expect("ports");
    let ports: Vec<_> =
        ports.iter().map(|one| (one["name"].as_str(), one["port"].as_u64(), one["appProtocol"].as_str())).collect();
    let expected = [
        (Some("status-port"), Some(15021), Some("tcp")),
        (Some("http"), Some(80), Some("http")),
        (Some("with-dots"), Some(443), Some("tls")),
        (Some("with-dots-8443"), Some(8443), Some("tls")),
    ];
    assert_eq!(ports, expected);
}

#[test]
fn a_gateway_is_reached_at_its_load_balancer() {
    let (settings, mut world) = (settings(), edge_world(edge(http())));
    apply(&settings, &mut world);
    apply(&settings, &mut world);
    let (status, reason, message) = condition(&world, "Programmed");
    assert_eq!((status, reason), ("False", "AddressNotAssigned"), "{message}");
    assert_eq!(world.gateways[&key()]["status"]["addresses"], Value::Null);
    balance(
        &mut world,
        "w-istio",
        json!([{ "ip": "192.0.2.2" }, { "hostname": "lb.example.com" }, { "ip": "192.0.2.1" }]),
    );
    apply(&settings, &mut world);
    assert_eq!(condition(&world, "Programmed").1, "Pending", "there is an address, and nobody who answers");
    let addresses = json!([
        { "type": "IPAddress", "value": "192.0.2.1" },
        { "type": "IPAddress", "value": "192.0.2.2" },
        { "type": "Hostname", "value": "lb.example.com" },
    ]);
    assert_eq!(world.gateways[&key()]["status"]["addresses"], addresses);
    world.proxies = proxies(1, 1, None);
    apply(&settings, &mut world);
    let message = "Resource programmed, assigned to service(s) w-istio.ns.svc.cluster.local:80";
    assert_eq!(condition(&world, "Programmed"), ("True", "Programmed", message));
    assert_eq!(condition(&world, "ResolvedRefs").0, "True");
    assert!(apply(&settings, &mut world).is_empty());
    // One that goes is no longer listed, the last one neither.
    balance(&mut world, "w-istio", json!([{ "ip": "192.0.2.1" }]));
    assert_eq!(names(&apply(&settings, &mut world)), ["Gateway ns/w"]);
    let left = json!([{ "type": "IPAddress", "value": "192.0.2.1" }]);
    assert_eq!(world.gateways[&key()]["status"]["addresses"], left);
    balance(&mut world, "w-istio", json!([]));
    apply(&settings, &mut world);
    assert_eq!(world.gateways[&key()]["status"]["addresses"], Value::Null);
    assert_eq!(condition(&world, "Programmed").1, "AddressNotAssigned");
}

#[test]
fn the_type_of_the_service_can_be_chosen() {
    let addresses = |annotations: Value| {
        let mut gateway = edge(http());
        gateway["metadata"]["annotations"] = annotations;
        let mut world = edge_world(gateway);
        apply(&settings(), &mut world);
        apply(&settings(), &mut world);
        world.gateways[&key()]["status"]["addresses"].clone()
    };
    let host = json!({ "type": "Hostname", "value": "w-istio.ns.svc.cluster.local" });
    let ip = json!({ "type": "IPAddress", "value": "10.0.0.1" });
    let cluster = "networking.istio.io/service-type";
    let of_type = "networking.istio.io/address-type";
    assert_eq!(addresses(json!({ cluster: "ClusterIP" })), json!([host]));
    assert_eq!(addresses(json!({ cluster: "ClusterIP", of_type: "IPAddress" })), json!([ip]));
}

#[test]
fn an_address_can_be_asked_for() {
    let mut gateway = edge(http());
    gateway["spec"]["addresses"] = json!([{ "type": "IPAddress", "value": "192.0.2.9" }]);
    let mut world = edge_world(gateway.clone());
    let writes = apply(&settings(), &mut world);
    assert_eq!(writes[2].body["spec"]["loadBalancerIP"], "192.0.2.9");
    // Any address will do.
    gateway["spec"]["addresses"] = json!([{ "type": "IPAddress" }, { "type": "Hostname" }]);
    let mut world = edge_world(gateway);
    let writes = apply(&settings(), &mut world);
    assert_eq!(writes[2].body["spec"]["loadBalancerIP"], Value::Null);
}

#[test]
fn a_gateway_may_be_somebody_elses_service() {
    let mut gateway = edge(http());
    gateway["spec"]["addresses"] = json!([{ "type": "Hostname", "value": "mine.ns.svc.cluster.local" }]);
    let (settings, mut world) = (settings(), edge_world(gateway.clone()));
    let mine = Reference::new(Resource::Service, "ns", "mine");
    let look_up = plan(&settings, &mut world, &key(), NOW);
    assert_eq!(look_up, Plan { look_up: vec![mine.clone()], writes: vec![] });
    world.objects.insert(mine.clone(), None);
    assert_eq!(names(&apply(&settings, &mut world)), ["Gateway ns/w", "Gateway ns/w"], "nothing is made");
    let (status, reason, message) = condition(&world, "Programmed");
    assert_eq!((status, reason), ("False", "AddressNotUsable"), "{message}");
    let service =
        |port: u16| json!({ "spec": { "type": "ClusterIP", "clusterIPs": ["10.1.1.1"], "ports": [{ "port": port }] } });
    world.objects.insert(mine.clone(), Some(service(8080)));
    apply(&settings, &mut world);
    let (_, reason, message) = condition(&world, "Programmed");
    assert_eq!(reason, "AddressNotUsable");
    assert!(message.contains("Service ns/mine has no port 80"), "{message}");
    world.objects.insert(mine, Some(service(80)));
    apply(&settings, &mut world);
    assert_eq!(condition(&world, "Programmed").0, "True");
    let expected = json!([{ "type": "Hostname", "value": "mine.ns.svc.cluster.local" }]);
    assert_eq!(world.gateways[&key()]["status"]["addresses"], expected);
    assert!(apply(&settings, &mut world).is_empty());

    gateway["spec"]["addresses"] =
        json!([{ "type": "Hostname", "value": "mine" }, { "type": "example.com/named", "value": "x" }]);
    world.gateways.insert(key(), gateway);
    apply(&settings, &mut world);
    assert_eq!(condition(&world, "Accepted").1, "UnsupportedAddress");
}

#[test]
fn listeners_say_what_is_wrong_with_them() {
    let listeners = json!([
        { "name": "good", "port": 80, "protocol": "HTTP" },
        { "name": "again", "port": 80, "protocol": "HTTP" },
        { "name": "other", "port": 80, "protocol": "TCP" },
        { "name": "udp", "port": 53, "protocol": "UDP" },
        { "name": "hbone", "port": 15008, "protocol": "HBONE" },
        { "name": "kinds", "port": 81, "protocol": "HTTP", "allowedRoutes": { "kinds": [{ "kind": "HTTPRoute" }, { "kind": "TCPRoute" }] } },
        { "name": "elsewhere", "port": 443, "protocol": "HTTPS", "tls": { "certificateRefs": [{ "name": "s", "namespace": "other" }] } },
        { "name": "nothing", "port": 444, "protocol": "HTTPS" },
    ]);
    let mut world = edge_world(edge(listeners));
    apply(&settings(), &mut world);
    let status = world.gateways[&key()]["status"].clone();
    let lines: Vec<String> = status["listeners"]
        .as_array()
        .expect("listeners")
        .iter()
        .map(|one| {
            let said = one["conditions"].as_array().expect("conditions").iter();
            let said: Vec<_> = said
                .map(|one| {
                    format!("{}={}", one["type"].as_str().expect("a type"), one["reason"].as_str().expect("a reason"))
                })
                .collect();
            format!("{} {}", one["name"].as_str().expect("a name"), said.join(" "))
        })
        .collect();
    let expected = [
        "good Accepted=Accepted Conflicted=NoConflicts Programmed=Pending ResolvedRefs=ResolvedRefs",
        "again Accepted=HostnameConflict Conflicted=HostnameConflict Programmed=HostnameConflict ResolvedRefs=ResolvedRefs",
        "other Accepted=ProtocolConflict Conflicted=ProtocolConflict Programmed=ProtocolConflict ResolvedRefs=ResolvedRefs",
        "udp Accepted=UnsupportedProtocol Conflicted=NoConflicts Programmed=Invalid ResolvedRefs=ResolvedRefs",
        "hbone Accepted=UnsupportedProtocol Conflicted=NoConflicts Programmed=Invalid ResolvedRefs=ResolvedRefs",
        "kinds Accepted=Accepted Conflicted=NoConflicts Programmed=Pending ResolvedRefs=InvalidRouteKinds",
        "elsewhere Accepted=Accepted Conflicted=NoConflicts Programmed=Invalid ResolvedRefs=RefNotPermitted",
        "nothing Accepted=Accepted Conflicted=NoConflicts Programmed=Pending ResolvedRefs=ResolvedRefs",
    ];
    assert_eq!(lines, expected);
    let kinds = |at: usize| status["listeners"][at]["supportedKinds"].to_string();
    assert!(kinds(0).contains("HTTPRoute") && kinds(0).contains("GRPCRoute"));
    assert!(kinds(5).contains("HTTPRoute") && !kinds(5).contains("GRPCRoute"));
    let (accepted, reason, message) = condition(&world, "Accepted");
    assert_eq!((accepted, reason), ("True", "ListenersNotValid"));
    assert_eq!(message, "Invalid listeners: again, other, udp, hbone, elsewhere");
    let ports: Vec<_> =
        apply(&settings(), &mut edge_world(edge(json!([{ "name": "u", "port": 53, "protocol": "UDP" }]))))
            .iter()
            .filter(|write| write.object.resource == Resource::Gateway && write.manner == Manner::ApplyStatus)
            .flat_map(|write| write.body["status"]["conditions"].as_array().cloned().unwrap_or_default())
            .map(|one| {
                format!("{} {}", one["type"].as_str().expect("a type"), one["reason"].as_str().expect("a reason"))
            })
            .collect();
    assert_eq!(ports, ["Accepted ListenersNotValid", "Programmed Invalid", "ResolvedRefs ResolvedRefs"]);
}

/// Whoever owns a certificate is told when something is the matter with it, and
/// not again with each status that is written.
#[test]
fn what_listeners_refer_to_is_complained_about_once() {
    let listeners = json!([
        { "name": "good", "port": 80, "protocol": "HTTP" },
        { "name": "one", "port": 443, "protocol": "HTTPS", "hostname": "a.com", "tls": { "certificateRefs": [{ "name": "s", "namespace": "other" }] } },
        { "name": "two", "port": 443, "protocol": "HTTPS", "hostname": "b.com", "tls": { "certificateRefs": [{ "name": "t", "namespace": "other" }] } },
        { "name": "three", "port": 443, "protocol": "HTTPS", "hostname": "c.com", "tls": { "certificateRefs": [{ "kind": "ConfigMap", "name": "s" }] } },
    ]);
    let mut world = edge_world(edge(listeners));
    let complaints = |world: &World, before: &Value| {
        let facts = &world.facts[&ObjectKey::new("ns", "w")];
        super::status::complaints(before, &facts.checked.listeners)
    };
    apply(&settings(), &mut world);
    let first = complaints(&world, &Value::Null);
    assert_eq!(first.keys().collect::<Vec<_>>(), [&"InvalidCertificateRef", &"RefNotPermitted"]);
    let both = &first["RefNotPermitted"];
    assert!(
        both.contains("listener one: ") && both.contains("; listener two: ") && both.contains("Secret other/t"),
        "{both}"
    );
    let mut status = world.gateways[&key()]["status"].clone();
    assert!(complaints(&world, &status).is_empty(), "{status}");
    status["listeners"][2]["conditions"] = json!([]);
    let again = complaints(&world, &status);
    assert_eq!(again.len(), 1);
    assert!(again["RefNotPermitted"].starts_with("listener two: "), "{again:?}");
}

/// What adds a listener to the Gateway.
fn set(namespace: &str, name: &str, listeners: Value) -> ((String, String), Value) {
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ListenerSet",
        "metadata": { "name": name, "namespace": namespace, "generation": 2 },
        "spec": { "parentRef": { "name": "w", "namespace": "ns" }, "listeners": listeners },
    });
    ((namespace.to_owned(), name.to_owned()), object)
}

#[test]
fn listeners_are_added_if_the_gateway_lets_them() {
    let mut gateway = edge(http());
    gateway["spec"]["allowedListeners"] = json!({ "namespaces": { "from": "Same" } });
    let (settings, mut world) = (settings(), edge_world(gateway.clone()));
    world.listener_sets.extend([
        set("ns", "a", json!([{ "name": "more", "port": 8080, "protocol": "HTTP" }, { "name": "taken", "port": 80, "protocol": "HTTP" }])),
        set("ns", "b", json!([{ "name": "late", "port": 8080, "protocol": "HTTP" }])),
        set("elsewhere", "c", json!([{ "name": "x", "port": 9090, "protocol": "HTTP" }])),
    ]);
    let writes = apply(&settings, &mut world);
    let ports = writes[2].body["spec"]["ports"].as_array().expect("ports");
    let ports: Vec<_> = ports.iter().filter_map(|one| one["port"].as_u64()).collect();
    assert_eq!(ports, [15021, 80, 8080], "one of another namespace does not count");
    balance(&mut world, "w-istio", json!([{ "ip": "192.0.2.1" }]));
    world.proxies = proxies(1, 1, None);
    apply(&settings, &mut world);
    assert!(apply(&settings, &mut world).is_empty());
    assert_eq!(world.gateways[&key()]["status"]["attachedListenerSets"], 1);
    let said = |namespace: &str, name: &str| {
        let status = &world.listener_sets[&(namespace.to_owned(), name.to_owned())]["status"];
        let conditions = status["conditions"].as_array().expect("conditions").iter();
        assert!(conditions.clone().all(|one| one["observedGeneration"] == 2), "{status}");
        let said: Vec<_> = conditions
            .map(|one| {
                format!("{}={}", one["type"].as_str().unwrap_or_default(), one["reason"].as_str().unwrap_or_default())
            })
            .collect();
        (said.join(" "), status["listeners"].as_array().map_or(0, Vec::len))
    };
    assert_eq!(said("ns", "a"), ("Accepted=Accepted Programmed=Programmed".to_owned(), 2));
    assert_eq!(said("ns", "b"), ("Accepted=ListenersNotValid Programmed=ListenersNotValid".to_owned(), 1));
    assert_eq!(said("elsewhere", "c"), ("Accepted=NotAllowed Programmed=NotAllowed".to_owned(), 0));

    gateway["spec"]["allowedListeners"] = Value::Null;
    world.gateways.insert(key(), gateway);
    apply(&settings, &mut world);
    let status = &world.listener_sets[&("ns".to_owned(), "a".to_owned())]["status"];
    assert_eq!(status["conditions"][0]["reason"], "NotAllowed", "nobody may, if it is not said who may");
}

#[test]
fn what_was_judged_is_what_there_is() {
    let mut world = edge_world(edge(http()));
    world.facts = facts(&world, &[]);
    world.gateways.get_mut(&key()).expect("it is there")["metadata"]["generation"] = json!(4);
    assert_eq!(super::plan(&settings(), &world, &key(), NOW), Plan::default());
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
