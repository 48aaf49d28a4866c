mod engine;

use serde_json::{Value, json};

use super::*;
use crate::api::Kind;
use crate::api::core::LoadBalancerIngress;
use crate::api::meta::Generation;
use crate::api::route::ParentReference;
use crate::controller::resource::{Manner, Resource};
use crate::status::{Condition, Conditions, PROGRAMMED, REJECTED, ROWS, Row, Status};

const NOW: &str = "2026-01-02T00:00:00Z";
const OLD: &str = "2025-01-01T00:00:00Z";

fn object(kind: &str, status: Value) -> Value {
    json!({
        "kind": kind, "metadata": { "name": "a", "namespace": "x", "resourceVersion": "7", "generation": 3, "uid": "u" },
        "status": status,
    })
}

fn said(kind: &'static str, holds: bool, reason: &'static str) -> Condition {
    Condition { kind, holds, reason, message: "m".into() }
}

fn of_object(conditions: impl Into<Vec<Condition>>) -> Status {
    Status { uid: "u".into(), generation: Some(Generation::of(3)), conditions: Conditions::OfObject(conditions.into()) }
}

fn condition(kind: &str, status: &str, reason: &str, since: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": "m", "lastTransitionTime": since,
        "observedGeneration": 3,
    })
}

fn planned(part: &Part, kind: Kind, live: &Value, status: Option<&Status>) -> Plan {
    plan(part, Row::of(kind).expect("it has a row"), live, status, NOW)
}

/// What is applied as the status.
#[track_caller]
fn applied(part: &Part, kind: Kind, live: &Value, status: Option<&Status>) -> Value {
    match planned(part, kind, live, status) {
        Plan::Write(write) => {
            assert_eq!(write.manner, Manner::ApplyStatus, "{write:?}");
            let metadata = &write.body["metadata"];
            assert_eq!((&metadata["name"], &metadata["namespace"]), (&json!("a"), &json!("x")));
            // Where others' conditions are written too, nobody may come between.
            let guarded = !matches!(kind, Kind::Service | Kind::Ingress);
            assert_eq!(metadata["resourceVersion"].is_string(), guarded, "{write:?}");
            write.body["status"].clone()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_with_a_status_has_a_place_for_it() {
    for row in ROWS {
        let info = row.kind.info();
        let resource = Resource::of(row.kind).unwrap_or_else(|| panic!("{} has none", info.subject));
        let group = resource.api_version().rsplit_once('/').map_or("", |(group, _)| group);
        assert_eq!(group, info.group, "{}", info.subject);
        assert!(resource.path("").ends_with(&format!("/{}", info.plural)), "{}", info.subject);
    }
}

/// Each kind has one leader, of istiod's name for it.
#[test]
fn every_kind_with_a_status_has_a_lock() {
    for (kinds, [of_default, of_another]) in [
        (
            &[Kind::Service, Kind::AuthorizationPolicy, Kind::IstioGateway][..],
            ["istio-status-leader", "istio-status-leader-next"],
        ),
        (
            &[Kind::HTTPRoute, Kind::BackendTLSPolicy],
            ["istio-gateway-status-leader-default", "istio-gateway-status-leader-next"],
        ),
        (&[Kind::Ingress], ["istio-leader", "istio-leader-next"]),
    ] {
        for kind in kinds {
            let parts = [OF_OBJECTS, OF_ROUTES, OF_INGRESSES].into_iter().filter(|part| part.writes(*kind));
            let locks: Vec<_> = parts.filter_map(|part| part.lock).collect();
            let names = |revision: &str| {
                let revisions = watch::Sender::new(Arc::new(Revisions::new(revision)));
                locks.iter().map(|lock| lock(revisions.subscribe()).name().to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(names(""), [of_default], "{kind:?}");
            assert_eq!(names("next"), [of_another], "{kind:?}");
        }
    }
    for row in ROWS {
        let parts = [OF_OBJECTS, OF_ROUTES, OF_INGRESSES].into_iter().filter(|part| part.writes(row.kind));
        assert_eq!(parts.count(), 1, "{}", row.kind.info().subject);
        // Where an Ingress is reached no proxy says.
        assert_eq!(OF_PROXIES.writes(row.kind), row.kind != Kind::Ingress);
    }
    assert!(!OF_OBJECTS.writes(Kind::Pod));
}

#[test]
fn what_is_one_value_keeps_the_conditions_of_others() {
    let theirs = json!({ "type": "theirs", "status": "True" });
    let wanted = of_object([said("Accepted", false, "Conflict")]);
    let fresh = condition("Accepted", "False", "Conflict", NOW);
    let kind = Kind::VirtualService;
    for (status, expected) in [
        (Value::Null, json!([fresh])),
        (json!({ "conditions": [theirs] }), json!([theirs, fresh])),
        // The time is that of the status, not that of the reason.
        (
            json!({ "conditions": [condition("Accepted", "False", "Other", OLD), theirs] }),
            json!([condition("Accepted", "False", "Conflict", OLD), theirs]),
        ),
        (json!({ "conditions": [condition("Accepted", "True", "Accepted", OLD), theirs] }), json!([fresh, theirs])),
    ] {
        let live = object("VirtualService", status);
        assert_eq!(applied(&OF_OBJECTS, kind, &live, Some(&wanted)), json!({ "conditions": expected }));
    }
    // A condition of ours that is no longer wanted goes, theirs stays.
    let live =
        object("VirtualService", json!({ "conditions": [theirs, condition("Accepted", "True", "Accepted", OLD)] }));
    assert_eq!(applied(&OF_OBJECTS, kind, &live, None), json!({ "conditions": [theirs] }));
}

#[test]
fn when_all_is_as_it_should_be_nothing_is_written() {
    let wanted = of_object([said("Accepted", false, "Conflict")]);
    let mut known = condition("Accepted", "False", "Conflict", OLD);
    let live = |known: &Value| object("VirtualService", json!({ "conditions": [known] }));
    assert_eq!(planned(&OF_OBJECTS, Kind::VirtualService, &live(&known), Some(&wanted)), Plan::Nothing);
    // Istio's own way to write a number, and a field of its own.
    known["observedGeneration"] = json!("3");
    known["lastProbeTime"] = json!(OLD);
    assert_eq!(planned(&OF_OBJECTS, Kind::VirtualService, &live(&known), Some(&wanted)), Plan::Nothing);
    let live = object("VirtualService", Value::Null);
    assert_eq!(planned(&OF_OBJECTS, Kind::VirtualService, &live, None), Plan::Nothing);
}

#[test]
fn another_state_than_the_one_that_was_judged_is_not_spoken_about() {
    let mut live = object("VirtualService", Value::Null);
    live["metadata"]["generation"] = json!(4);
    let wanted = of_object([said("Accepted", true, "Accepted")]);
    assert_eq!(planned(&OF_OBJECTS, Kind::VirtualService, &live, Some(&wanted)), Plan::Later);
    // Only the end of the number is compared.
    live["metadata"]["generation"] = json!(3 + (1 << 16));
    assert_eq!(
        applied(&OF_OBJECTS, Kind::VirtualService, &live, Some(&wanted))["conditions"][0]["observedGeneration"],
        3 + (1 << 16)
    );
}

#[test]
fn what_is_merged_by_type_is_written_alone_and_removed_by_name() {
    const BOUND: &str = crate::status::WAYPOINT_BOUND;
    let theirs = json!({ "type": "Accepted", "status": "True" });
    let wanted = of_object([said(BOUND, true, "WaypointAccepted")]);
    let live = object("Service", json!({ "loadBalancer": {}, "conditions": [theirs] }));
    let expected = json!({ "conditions": [condition(BOUND, "True", "WaypointAccepted", NOW)] });
    assert_eq!(applied(&OF_OBJECTS, Kind::Service, &live, Some(&wanted)), expected);

    let live = object("Service", json!({ "conditions": [theirs, condition(BOUND, "True", "WaypointAccepted", OLD)] }));
    assert_eq!(planned(&OF_OBJECTS, Kind::Service, &live, Some(&wanted)), Plan::Nothing);
    let Plan::Write(write) = planned(&OF_OBJECTS, Kind::Service, &live, None) else { panic!("it is to be removed") };
    assert_eq!(write.manner, Manner::PatchStatus);
    let guard = json!({ "op": "test", "path": "/metadata/resourceVersion", "value": "7" });
    assert_eq!(write.body, json!([guard, { "op": "remove", "path": "/status/conditions/1" }]));
}

fn parent(name: &str) -> ParentReference {
    ParentReference { group: "".into(), kind: "Service".into(), name: name.into(), ..ParentReference::default() }
}

fn entry(name: &str, controller: &str, conditions: Value) -> Value {
    json!({
        "parentRef": { "group": "", "kind": "Service", "name": name }, "controllerName": controller,
        "conditions": conditions,
    })
}

fn of_parents(parents: &[(&str, Condition)]) -> Status {
    let parents = parents.iter().map(|(name, condition)| (parent(name), vec![condition.clone()])).collect();
    Status { uid: "u".into(), generation: Some(Generation::of(3)), conditions: Conditions::OfParents(parents) }
}

const OURS: &str = "istio.io/gateway-controller";

#[test]
fn parents_of_other_controllers_stay() {
    let good = || condition("Accepted", "True", "Accepted", OLD);
    let theirs = entry("a", "example.com/other", json!([good()]));
    let wanted = of_parents(&[("a", said("Accepted", true, "Accepted")), ("b", said("Accepted", false, "Why"))]);
    let live = object(
        "HTTPRoute",
        json!({ "parents": [
            entry("gone", OURS, json!([good()])), theirs,
            entry("a", OURS, json!([good(), { "type": "theirs", "status": "True" }])),
        ] }),
    );
    let expected = json!({ "parents": [
        theirs,
        entry("a", OURS, json!([good(), { "type": "theirs", "status": "True" }])),
        entry("b", OURS, json!([condition("Accepted", "False", "Why", NOW)])),
    ] });
    assert_eq!(applied(&OF_OBJECTS, Kind::HTTPRoute, &live, Some(&wanted)), expected);
    // The namespace of a parent may be written or not.
    let mut same = object("HTTPRoute", expected);
    same["status"]["parents"][1]["parentRef"]["namespace"] = json!("x");
    assert_eq!(planned(&OF_OBJECTS, Kind::HTTPRoute, &same, Some(&wanted)), Plan::Nothing);
    assert_eq!(applied(&OF_OBJECTS, Kind::HTTPRoute, &same, None), json!({ "parents": [theirs] }));
}

#[test]
fn another_object_of_the_name_is_not_spoken_about() {
    let wanted = of_object([said("Accepted", true, "Accepted")]);
    let mut live = object("VirtualService", json!({}));
    assert!(matches!(planned(&OF_OBJECTS, Kind::VirtualService, &live, Some(&wanted)), Plan::Write(_)));
    live["metadata"]["uid"] = json!("another");
    assert_eq!(planned(&OF_OBJECTS, Kind::VirtualService, &live, Some(&wanted)), Plan::Later);
}

#[test]
fn what_a_proxy_says_is_beside_what_the_object_says() {
    let good = condition("Accepted", "True", "Accepted", OLD);
    let bad = condition(PROGRAMMED, "False", REJECTED, NOW);
    let wanted = of_object([said(PROGRAMMED, false, REJECTED)]);
    let kind = Kind::VirtualService;
    let live = object("VirtualService", json!({ "conditions": [good] }));
    assert_eq!(applied(&OF_PROXIES, kind, &live, Some(&wanted)), json!({ "conditions": [good, bad] }));
    let both = object("VirtualService", json!({ "conditions": [good, bad] }));
    let own = of_object([said("Accepted", true, "Accepted")]);
    assert_eq!(planned(&OF_OBJECTS, kind, &both, Some(&own)), Plan::Nothing);
    assert_eq!(applied(&OF_PROXIES, kind, &both, None), json!({ "conditions": [good] }));
    // What was rejected is not what there is now, so nobody vouches for it.
    let mut changed = both.clone();
    changed["metadata"]["generation"] = json!(4);
    let own = Status { generation: Some(Generation::of(4)), ..own };
    let conditions = applied(&OF_OBJECTS, kind, &changed, Some(&own));
    assert_eq!(conditions["conditions"].as_array().map(Vec::len), Some(1), "{conditions}");

    // The same for each parent of a route.
    let live = object("HTTPRoute", json!({ "parents": [entry("a", OURS, json!([good]))] }));
    let wanted = of_parents(&[("a", said(PROGRAMMED, false, REJECTED))]);
    let expected = json!({ "parents": [entry("a", OURS, json!([good, bad]))] });
    assert_eq!(applied(&OF_PROXIES, Kind::HTTPRoute, &live, Some(&wanted)), expected);
    let both = object("HTTPRoute", expected);
    let own = of_parents(&[("a", said("Accepted", true, "Accepted"))]);
    assert_eq!(planned(&OF_OBJECTS, Kind::HTTPRoute, &both, Some(&own)), Plan::Nothing);
    assert_eq!(
        applied(&OF_PROXIES, Kind::HTTPRoute, &both, None),
        json!({ "parents": [entry("a", OURS, json!([good]))] })
    );
}

#[test]
fn addresses_are_written_while_the_object_is_ours() {
    let address = |ip: &str, hostname: &str| LoadBalancerIngress { ip: ip.into(), hostname: hostname.into() };
    let reached = |addresses: &[LoadBalancerIngress]| Status {
        uid: "u".into(),
        generation: Some(Generation::of(3)),
        conditions: Conditions::Addresses(addresses.to_vec()),
    };
    let both = reached(&[address("192.0.2.1", ""), address("", "lb.example.com")]);
    let written = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }, { "hostname": "lb.example.com" }] } });
    let kind = Kind::Ingress;
    let bare = object("Ingress", json!({ "loadBalancer": {} }));
    assert_eq!(applied(&OF_OBJECTS, kind, &bare, Some(&both)), written);
    let mut live = object("Ingress", written);
    assert_eq!(planned(&OF_OBJECTS, kind, &live, Some(&both)), Plan::Nothing);
    assert_eq!(applied(&OF_OBJECTS, kind, &live, Some(&reached(&[]))), json!({ "loadBalancer": { "ingress": [] } }));
    assert_eq!(planned(&OF_OBJECTS, kind, &bare, Some(&reached(&[]))), Plan::Nothing);
    // What somebody else says of an Ingress of theirs stays.
    assert_eq!(planned(&OF_OBJECTS, kind, &live, None), Plan::Nothing);
    live["metadata"]["managedFields"] = json!([
        { "manager": "nginx", "operation": "Update", "subresource": "status" },
        { "manager": OF_OBJECTS.manager, "operation": "Apply", "subresource": "status" },
    ]);
    assert_eq!(applied(&OF_OBJECTS, kind, &live, None), json!({}));
}
