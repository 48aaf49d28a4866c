//! The GatewayClasses.

use super::*;

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
