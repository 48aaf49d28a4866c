//! Objects in; what is looked up and written, out.

mod deployment;
mod overlays;
mod classes;
mod edge;
mod listeners;

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
