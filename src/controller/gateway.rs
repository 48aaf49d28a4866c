//! The life of Gateways: what is deployed for them, and what their status says.
//!
//! [`plan`] is a pure function from what is known of the cluster to what there
//! is to write for one Gateway; [`run`] is its edge. An object is ours if it
//! names the Gateway as its owner; whatever else has a name that we would use
//! is left alone, and the status says so.

mod address;
pub mod class;
pub mod overlay;
pub mod run;
pub mod settings;
pub mod status;
pub mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::ObjectKey;
use crate::api::gateway::Gateway;
use crate::api::meta::Generation;
use crate::model::gateway::kubernetes::CheckedSet;
use crate::model::revision::{REVISION, Revisions};
use crate::status::facts::{GatewayFacts, GatewayTable};

use super::covers::{applied_more, covers};
use super::resource::{Manner, Reference, Resource, Write};
use class::Template;
use overlay::{Missing, Overlays};
use settings::{Installation, Settings};
use template::{Input, Names, Port};

/// The owner of the fields we write, by the name that istiod uses, so that one
/// can take over from the other.
pub const MANAGER: &str = "istio.io/gateway-controller";
/// The label of all that is made for Gateways.
pub const MANAGED: &str = "gateway.istio.io/managed";
/// Tells which generation of controllers a Gateway belongs to; the higher one
/// wins.
pub const CONTROLLER_VERSION: &str = "gateway.istio.io/controller-version";
/// The generation that istiod is of since 1.18, and so are we.
const OUR_VERSION: u32 = 5;

/// The proxies of a Gateway that are connected to a replica, or to all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// How many there are.
    pub connected: u32,
    /// How many have acknowledged all they were sent.
    pub current: u32,
    /// Why one of them rejects what it was sent.
    pub rejected: Option<Arc<str>>,
}

impl Proxies {
    /// With others of the same Gateway. The least reason counts, so that the order
    /// does not show.
    pub fn add(&mut self, other: Self) {
        self.connected += other.connected;
        self.current += other.current;
        self.rejected = self.rejected.take().into_iter().chain(other.rejected).min();
    }
}

/// What is known of the cluster.
#[derive(Debug, Default)]
pub struct World {
    /// GatewayClasses by name.
    pub classes: BTreeMap<String, Value>,
    /// Which objects are this revision's.
    pub revisions: Arc<Revisions>,
    /// Gateways by namespace and name.
    pub gateways: BTreeMap<(String, String), Value>,
    /// What adds listeners to them, by namespace and name.
    pub listener_sets: BTreeMap<(String, String), Value>,
    /// What the mesh knows of Gateways.
    pub facts: GatewayTable,
    /// Objects that are or might be ours. What is not here has to be looked
    /// up; `None` is an object that is not there.
    pub objects: BTreeMap<Reference, Option<Value>>,
    /// ConfigMaps with overlays for all Gateways of a class, by name.
    pub class_defaults: BTreeMap<String, Value>,
    /// What the installation says.
    pub installation: Installation,
    /// The connected proxies.
    pub proxies: Arc<BTreeMap<ObjectKey, Proxies>>,
}

/// What there is to do for a Gateway.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Objects to be looked up first.
    pub look_up: Vec<Reference>,
    /// What is to be written, in this order.
    pub writes: Vec<Write>,
}

/// What there is to do for a Gateway now.
pub fn plan(settings: &Settings, world: &World, key: &(String, String), now: &str) -> Plan {
    let Some(object) = world.gateways.get(key) else { return Plan::default() };
    let Ok(gateway) = Gateway::deserialize(object) else { return Plan::default() };
    let Some(controller) = class::controller(world, &gateway.spec.gateway_class_name) else { return Plan::default() };
    if gateway.meta.deleting || !is_ours(world, &gateway) {
        return Plan::default();
    }
    // What was judged has to be what there is; if it is not, it soon will be.
    let known =
        world.facts.get(&ObjectKey::new(&key.0, &key.1)).filter(|one| judged(object, one.checked.meta.generation));
    let Some(checked) = known else { return Plan::default() };
    let (template, placement) = (controller.template, &checked.checked.placement);
    let mut plan = Plan::default();
    let names = Names::of(&gateway, template);
    let (mut foreign, mut invalid) = (Vec::new(), None);
    if placement.managed {
        let (added, ip) = (added(checked), placement.ip.as_deref());
        let input = Input { gateway: &gateway, object, controller, template, added, ip };
        let overlays = match Overlays::of(world, object) {
            Ok(overlays) => Ok(overlays),
            Err(Missing::Unknown(reference)) => return Plan { look_up: vec![reference], writes: Vec::new() },
            Err(Missing::Invalid(message)) => Err(message),
        };
        let made = overlays.and_then(|overlays| template::objects(world, settings, &input, &overlays));
        // What is there stays as it is until the overlay is one.
        let made = made.or_else(|message| {
            invalid = Some(message);
            template::objects(world, settings, &input, &Overlays::default())
        });
        let made = made.unwrap_or_default();
        if invalid.is_none() {
            plan.writes.extend(surplus(world, &input, &names, &made));
        }
        for (reference, body) in made {
            match world.objects.get(&reference) {
                None => plan.look_up.push(reference),
                Some(_) if invalid.is_some() => {}
                Some(Some(live)) if !owned(live, object) => {
                    foreign.extend(is_in_the_way(&reference).then_some(reference))
                }
                // What is being deleted has to go first.
                Some(Some(live)) if !live["metadata"]["deletionTimestamp"].is_null() => {}
                Some(Some(live)) => {
                    let body = upgraded(body, live);
                    if !covers(live, &body) || applied_more(live, &body, MANAGER, "") {
                        plan.writes.push(write(reference, body));
                    }
                }
                Some(None) => plan.writes.push(write(reference, body)),
            }
        }
    }
    let services = address::services(settings, &gateway, template, placement);
    // Somebody else's are not watched.
    let theirs = template == Template::Gateway && !placement.managed;
    plan.look_up.extend(services.iter().filter(|one| theirs && !world.objects.contains_key(one)).cloned());
    if !plan.look_up.is_empty() {
        plan.writes.clear();
        return plan;
    }
    let deployment = Reference::new(Resource::Deployment, key.0.clone(), names.deployment);
    let deployment = world.objects.get(&deployment).and_then(Option::as_ref).filter(|live| owned(live, object));
    let live = |one: Reference| {
        let live = world.objects.get(&one).and_then(Option::as_ref);
        (one, live)
    };
    let facts = status::Facts {
        object,
        gateway: &gateway,
        template,
        placement,
        checked,
        services: services.into_iter().map(live).collect(),
        deployment,
        foreign: &foreign,
        invalid: invalid.as_deref(),
        proxies: world.proxies.get(&ObjectKey::new(&key.0, &key.1)).cloned().unwrap_or_default(),
    };
    plan.writes.extend(version_write(object, key));
    let statuses = status::status(settings, &facts, now);
    plan.writes.extend(status_write(Resource::Gateway, object, statuses.gateway.clone()));
    for (at, set) in checked.checked.sets.iter().enumerate() {
        let key = (set.meta.namespace.to_string(), set.meta.name.to_string());
        let live = world.listener_sets.get(&key).filter(|live| judged(live, set.meta.generation));
        let Some(live) = live else { continue };
        let attached = checked.attached_to_sets.get(at).map(|all| &**all).unwrap_or_default();
        plan.writes.extend(status_write(Resource::ListenerSet, live, statuses.of_set(live, set, attached, now)));
    }
    plan
}

/// Whether an object is still the one that was judged.
fn judged(object: &Value, generation: Generation) -> bool {
    Generation::of(object["metadata"]["generation"].as_i64().unwrap_or(0)) == generation
}

/// The ports of listeners that others add to a Gateway.
fn added(facts: &GatewayFacts) -> Vec<Port> {
    let allowed = |set: &&CheckedSet| set.denied.is_ok();
    let listeners = facts.checked.sets.iter().filter(allowed).flat_map(|set| &*set.listeners);
    let port = |one: &crate::model::gateway::kubernetes::listener::Listener| Port {
        name: one.name.to_string(),
        number: one.port,
        protocol: one.protocol.to_string(),
    };
    listeners.filter(|one| one.server.is_some()).map(port).collect()
}

/// The write of a status, if it is not what is there.
fn status_write(resource: Resource, object: &Value, status: Value) -> Option<Write> {
    let reference = Reference::of(resource, object);
    let body = json!({
        "apiVersion": resource.api_version(),
        "kind": resource.kind(),
        "metadata": { "name": reference.name, "namespace": reference.namespace },
        "status": status,
    });
    // The list of addresses is one value, of which a part may have gone.
    let moved = object["status"]["addresses"] != body["status"]["addresses"];
    (moved || !covers(object, &body) || applied_more(object, &body, MANAGER, "status")).then_some(Write {
        object: reference,
        manner: Manner::ApplyStatus,
        body,
    })
}

/// Whether a Gateway is of our revision, and not of a newer kind of controller.
fn is_ours(world: &World, gateway: &Gateway) -> bool {
    if !world.revisions.own(gateway.meta.label(REVISION), &gateway.meta.namespace) {
        return false;
    }
    // A version that is no number is from a future that we do not know.
    let version = gateway.meta.annotation(CONTROLLER_VERSION);
    version.is_none_or(|version| version.parse::<u32>().is_ok_and(|version| version <= OUR_VERSION))
}

/// Says that the Gateway is of our generation, if it does not say so yet. Of a
/// write to the status, an API server would drop the annotation.
fn version_write(object: &Value, (namespace, name): &(String, String)) -> Option<Write> {
    let version = object["metadata"]["annotations"][CONTROLLER_VERSION].as_str();
    let known = version.is_some_and(|version| version.parse::<u32>().is_ok_and(|version| version >= OUR_VERSION));
    let body = json!({
        "apiVersion": Resource::Gateway.api_version(),
        "kind": Resource::Gateway.kind(),
        "metadata": {
            "name": name,
            "namespace": namespace,
            // It must not make a Gateway that has just been deleted.
            "uid": object["metadata"]["uid"],
            "annotations": { CONTROLLER_VERSION: OUR_VERSION.to_string() },
        },
    });
    (!known).then(|| write(Reference::new(Resource::Gateway, namespace.clone(), name.clone()), body))
}

/// What only an overlay had us make, and whose overlay is gone. What is not ours
/// by every sign, its owner, its label and who applied it, stays.
fn surplus(world: &World, input: &Input<'_>, names: &Names, made: &[(Reference, Value)]) -> Vec<Write> {
    let delete = |resource: Resource| {
        let reference = Reference::new(resource, &*input.gateway.meta.namespace, names.deployment.clone());
        let live = world.objects.get(&reference)?.as_ref()?;
        let metadata = &live["metadata"];
        let applied = metadata["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ours = owned(live, input.object)
            && metadata["labels"][MANAGED] == input.controller.label
            && applied.iter().any(|entry| entry["manager"] == MANAGER && entry["operation"] == "Apply");
        let going = !metadata["deletionTimestamp"].is_null();
        if !ours || going || made.iter().any(|(other, _)| *other == reference) {
            return None;
        }
        let only = json!({ "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"] });
        let body = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": only });
        Some(Write { object: reference, manner: Manner::Delete, body })
    };
    template::OPTIONAL.into_iter().filter_map(delete).collect()
}

/// Whether an object names the Gateway as an owner.
pub fn owned(object: &Value, gateway: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    owners.iter().any(|owner| owner["uid"].is_string() && owner["uid"] == gateway["metadata"]["uid"])
}

/// A ServiceAccount of the user's own is used as it is; a Deployment or Service
/// with our name is in the way.
fn is_in_the_way(reference: &Reference) -> bool {
    reference.resource != Resource::ServiceAccount
}

fn write(object: Reference, body: Value) -> Write {
    Write { object, manner: Manner::Apply, body }
}

/// The body for an object that is there already: it is written only if it is
/// still that one, and keeps what cannot change. Deployments that an old
/// istiod made select one label more.
fn upgraded(mut body: Value, live: &Value) -> Value {
    const OLD_LABEL: &str = "istio.io/gateway-name";
    body["metadata"]["uid"] = live["metadata"]["uid"].clone();
    let old = &live["spec"]["selector"]["matchLabels"][OLD_LABEL];
    if live["kind"] == "Deployment" && old.is_string() {
        body["spec"]["selector"] = live["spec"]["selector"].clone();
        body["spec"]["template"]["metadata"]["labels"][OLD_LABEL] = old.clone();
    }
    body
}
