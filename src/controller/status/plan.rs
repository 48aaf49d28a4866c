//! What there is to write to one object: a pure function of the object as the
//! API server has it, and of what is to be said.

use serde_json::{Map, Value, json};

use crate::api::Kind;
use crate::api::compact::Uid;
use crate::api::core::LoadBalancerIngress;
use crate::api::meta::Generation;
use crate::api::route::ParentReference;
use crate::controller::resource::{Manner, Reference, Resource, Write};
use crate::model::binding::WAYPOINT_CONTROLLER;
use crate::model::gateway::kubernetes::CONTROLLER;
use crate::model::revision::{REVISION, Revisions};
use crate::status::{Ancestor, Condition, Conditions, Form, PROGRAMMED, REJECTED, Row, Status, WAYPOINT_BOUND};

use super::Part;

/// Entries of a status that each are about another object, and say who says so.
struct Entries {
    /// The field with the list of them.
    list: &'static str,
    /// Their field with the other object.
    reference: &'static str,
    /// How many there may be.
    most: usize,
}

const PARENTS: Entries = Entries { list: "parents", reference: "parentRef", most: 32 };
const ANCESTORS: Entries = Entries { list: "ancestors", reference: "ancestorRef", most: 16 };

/// An entry that is wanted.
struct Wanted<'a> {
    reference: &'a ParentReference,
    controller: &'a str,
    conditions: &'a [Condition],
}

/// What there is to do.
#[derive(Debug, PartialEq)]
pub enum Plan {
    /// Nothing.
    Nothing,
    /// Nothing yet: the object is not the one that was judged.
    Later,
    /// This.
    Write(Write),
}

/// What there is to write to an object now.
pub fn plan(part: &Part, row: &Row, live: &Value, status: Option<&Status>, now: &str) -> Plan {
    let generation = live["metadata"]["generation"].as_i64();
    let judged = status.and_then(|status| status.generation);
    let uid = status.map(|status| &status.uid).filter(|uid| !uid.is_empty());
    if judged.is_some_and(|judged| judged != Generation::of(generation.unwrap_or(0)))
        || uid.is_some_and(|uid| *uid != Uid::from(live["metadata"]["uid"].as_str().unwrap_or_default()))
    {
        return Plan::Later;
    }
    let wanted = status.map(|status| &status.conditions);
    let made = |condition: &Condition, known: &[Value]| value(condition, known, generation, now);
    let kept = |condition: &Value| kept(part, row.kind, condition, generation);
    match (row.form, wanted) {
        (Form::Map | Form::List, wanted) => {
            let wanted = match wanted {
                Some(Conditions::OfObject(wanted)) => &wanted[..],
                Some(_) | None => &[],
            };
            let known = live["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
            let conditions = merged(part, known, wanted, &made, &kept);
            of_object(part, row, live, known, conditions)
        }
        (Form::Parents | Form::Ancestors, wanted) => {
            let of = if row.form == Form::Parents { &PARENTS } else { &ANCESTORS };
            let wanted: Vec<_> = match wanted {
                Some(Conditions::OfParents(wanted)) => wanted
                    .iter()
                    .map(|(reference, conditions)| Wanted { reference, controller: CONTROLLER, conditions })
                    .collect(),
                Some(Conditions::OfAncestors(wanted)) => wanted
                    .iter()
                    .map(|Ancestor { reference, controller, conditions }| Wanted { reference, controller, conditions })
                    .collect(),
                Some(Conditions::OfObject(_) | Conditions::Addresses(_)) | None => Vec::new(),
            };
            let known = live["status"][of.list].as_array().map(Vec::as_slice).unwrap_or_default();
            let entries = entries(part, of, live, wanted, &made, &kept);
            if entries == known {
                return Plan::Nothing;
            }
            let mut status = json!({});
            status[of.list] = json!(entries);
            apply(part, row, live, status, true)
        }
        (Form::LoadBalancer, Some(Conditions::Addresses(wanted))) => of_addresses(part, row, live, wanted),
        (Form::LoadBalancer, _) => given_up(part, row, live),
    }
}

/// Says where an object is reached.
fn of_addresses(part: &Part, row: &Row, live: &Value, wanted: &[LoadBalancerIngress]) -> Plan {
    let address = |one: &LoadBalancerIngress| match one.ip.is_empty() {
        true => json!({ "hostname": &*one.hostname }),
        false => json!({ "ip": &*one.ip }),
    };
    let wanted: Vec<_> = wanted.iter().map(address).collect();
    let known = live["status"]["loadBalancer"]["ingress"].as_array().map(Vec::as_slice).unwrap_or_default();
    match known == wanted {
        true => Plan::Nothing,
        false => apply(part, row, live, json!({ "loadBalancer": { "ingress": wanted } }), false),
    }
}

/// Takes back what we have said of an object that is somebody else's now, and
/// nothing else.
fn given_up(part: &Part, row: &Row, live: &Value) -> Plan {
    let mut owners = live["metadata"]["managedFields"].as_array().into_iter().flatten();
    match owners.any(|owner| owner["manager"] == part.manager && owner["subresource"] == "status") {
        true => apply(part, row, live, json!({}), false),
        false => Plan::Nothing,
    }
}

/// Whether a condition that is there and not wanted stays. A rejection of what
/// the object was before its last change is nobody's any more.
fn kept(part: &Part, kind: Kind, condition: &Value, generation: Option<i64>) -> bool {
    let ty = condition["type"].as_str().unwrap_or_default();
    // `Accepted` of a Service, say, is somebody else's.
    let ours = part.types.contains(&ty) && (kind != Kind::Service || matches!(ty, WAYPOINT_BOUND | PROGRAMMED));
    let outdated = part.parents
        && ty == PROGRAMMED
        && condition["reason"] == REJECTED
        && condition["observedGeneration"].as_i64() < generation;
    !ours && !outdated
}

/// A condition as it is to be. The time of a status that has not changed stays.
fn value(condition: &Condition, known: &[Value], generation: Option<i64>, now: &str) -> Value {
    let status = if condition.holds { "True" } else { "False" };
    let same = known.iter().find(|one| one["type"] == condition.kind && one["status"] == status);
    let since = same.and_then(|one| one["lastTransitionTime"].as_str()).unwrap_or(now);
    let mut value = json!({
        "type": condition.kind,
        "status": status,
        "reason": condition.reason,
        "message": &*condition.message,
        "lastTransitionTime": since,
    });
    if let Some(generation) = generation {
        value["observedGeneration"] = json!(generation);
    }
    value
}

/// All conditions there should be: those that stay, in their places, and those
/// that are wanted.
fn merged(
    part: &Part,
    known: &[Value],
    wanted: &[Condition],
    made: &dyn Fn(&Condition, &[Value]) -> Value,
    kept: &dyn Fn(&Value) -> bool,
) -> Vec<Value> {
    let mut all = Vec::new();
    for one in known {
        match wanted.iter().find(|wanted| one["type"] == wanted.kind) {
            Some(wanted) => all.push(same_or(part, one, made(wanted, known))),
            None if kept(one) => all.push(one.clone()),
            None => {}
        }
    }
    let new = wanted.iter().filter(|wanted| known.iter().all(|one| one["type"] != wanted.kind));
    all.extend(new.map(|wanted| made(wanted, known)));
    all
}

/// What is there, if it says the same: it may have more fields than ours.
fn same_or(part: &Part, known: &Value, new: Value) -> Value {
    let same = |(key, value): (&String, &Value)| {
        let there = &known[key];
        if key == "message" && part.any_words && there.is_string() {
            return true;
        }
        // Istio's conditions may have the number as a text.
        there == value || (key == "observedGeneration" && there.as_str() == Some(value.to_string().as_str()))
    };
    match new.as_object().is_some_and(|new| new.iter().all(same)) {
        true => known.clone(),
        false => new,
    }
}

fn of_object(part: &Part, row: &Row, live: &Value, known: &[Value], conditions: Vec<Value>) -> Plan {
    if conditions == known {
        return Plan::Nothing;
    }
    let whole = row.form == Form::List;
    if !whole || conditions.is_empty() {
        // What others have applied goes only if it is removed by name.
        let gone = |one: &&Value| conditions.iter().all(|other| other["type"] != one["type"]);
        if let Some(at) = known.iter().position(|one| gone(&one)) {
            let path = match conditions.is_empty() {
                true => "/status/conditions".to_owned(),
                false => format!("/status/conditions/{at}"),
            };
            return patch(row, live, json!({ "op": "remove", "path": path }));
        }
        let new = conditions.into_iter().filter(|one| !known.contains(one));
        return apply(part, row, live, json!({ "conditions": new.collect::<Vec<_>>() }), false);
    }
    apply(part, row, live, json!({ "conditions": conditions }), true)
}

/// All entries there should be.
fn entries(
    part: &Part,
    of: &Entries,
    live: &Value,
    mut left: Vec<Wanted<'_>>,
    made: &dyn Fn(&Condition, &[Value]) -> Value,
    kept: &dyn Fn(&Value) -> bool,
) -> Vec<Value> {
    let namespace = live["metadata"]["namespace"].as_str().unwrap_or_default();
    let mut all = Vec::new();
    for one in live["status"][of.list].as_array().into_iter().flatten() {
        let controller = one["controllerName"].as_str().unwrap_or_default();
        // Routes are spoken about by one of our names, whatever they are for.
        let ours = controller == CONTROLLER || (controller == WAYPOINT_CONTROLLER && of.list == ANCESTORS.list);
        if !ours {
            all.push(one.clone());
            continue;
        }
        let reference = serde_json::from_value::<ParentReference>(one[of.reference].clone()).unwrap_or_default();
        let same = |wanted: &Wanted<'_>| {
            wanted.controller == controller && same_parent(wanted.reference, &reference, namespace)
        };
        let wanted = left.iter().position(same).map(|at| left.remove(at));
        if wanted.is_none() && part.parents {
            continue;
        }
        let conditions = one["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let wanted = wanted.map(|wanted| wanted.conditions).unwrap_or_default();
        let conditions = merged(part, conditions, wanted, made, kept);
        let mut one = one.clone();
        one["conditions"] = json!(conditions);
        all.push(one);
    }
    for Wanted { reference, controller, conditions } in left {
        let mut one = json!({
            "controllerName": controller,
            "conditions": conditions.iter().map(|one| made(one, &[])).collect::<Vec<_>>(),
        });
        one[of.reference] = written(reference);
        all.push(one);
    }
    all.truncate(of.most);
    all
}

/// Whether an object is for another revision, which speaks about it. What proxies
/// reject is said by the revision that they are connected to, unless it does not
/// read the object.
pub fn of_another_revision(part: &Part, live: &Value, revisions: &Revisions) -> bool {
    let metadata = &live["metadata"];
    let label = metadata["labels"][REVISION].as_str();
    match part.lock {
        Some(_) => !revisions.own(label, metadata["namespace"].as_str().unwrap_or_default()),
        None => label.is_some_and(|name| !revisions.mean(name)),
    }
}

fn same_parent(a: &ParentReference, b: &ParentReference, namespace: &str) -> bool {
    let place = |reference: &ParentReference| match &*reference.namespace {
        "" => namespace.to_owned(),
        namespace => namespace.to_owned(),
    };
    let names = |one: &ParentReference| (one.group.clone(), one.kind.clone(), one.name.clone());
    names(a) == names(b) && place(a) == place(b) && a.section_name == b.section_name && a.port == b.port
}

/// A reference as the route has it.
fn written(reference: &ParentReference) -> Value {
    let mut value = Map::new();
    value.insert("group".into(), json!(&*reference.group));
    value.insert("kind".into(), json!(&*reference.kind));
    for (key, text) in [("namespace", &reference.namespace), ("name", &reference.name)] {
        if !text.is_empty() {
            value.insert(key.into(), json!(&**text));
        }
    }
    if !reference.section_name.is_empty() {
        value.insert("sectionName".into(), json!(&*reference.section_name));
    }
    if let Some(port) = reference.port {
        value.insert("port".into(), json!(port));
    }
    Value::Object(value)
}

/// `guarded`: only if nobody has changed the object since.
fn apply(part: &Part, row: &Row, live: &Value, status: Value, guarded: bool) -> Plan {
    debug_assert!(!part.manager.is_empty());
    let Some(object) = reference(row, live) else { return Plan::Nothing };
    let mut metadata = json!({ "name": object.name, "namespace": object.namespace });
    if guarded {
        metadata["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
    }
    let body = json!({
        "apiVersion": object.resource.api_version(),
        "kind": object.resource.kind(),
        "metadata": metadata,
        "status": status,
    });
    Plan::Write(Write { object, manner: Manner::ApplyStatus, body })
}

fn patch(row: &Row, live: &Value, change: Value) -> Plan {
    let Some(object) = reference(row, live) else { return Plan::Nothing };
    let guard = json!({
        "op": "test", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"],
    });
    Plan::Write(Write { object, manner: Manner::PatchStatus, body: json!([guard, change]) })
}

fn reference(row: &Row, live: &Value) -> Option<Reference> {
    Resource::of(row.kind).map(|resource| Reference::of(resource, live))
}
