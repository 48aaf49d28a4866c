use serde_json::json;

use super::*;

#[test]
fn a_generation_is_told_by_its_end() {
    let page = json!({ "found": true, "generation": 1, "revision": 4 });
    assert!(is_in_force(&page, Some(65537), false));
    assert!(!is_in_force(&page, Some(2), false));
    assert!(is_in_force(&page, None, false), "of kinds without one, that it is there");
    assert!(!is_in_force(&page, Some(1), true));
    assert!(is_in_force(&json!({ "found": false, "generation": null }), None, true));
    assert!(!is_in_force(&json!({ "found": false, "generation": null }), Some(1), false));
}

#[test]
fn kinds_are_called_as_people_write_them() {
    assert_eq!(said(Kind::VirtualService), "VirtualService");
    assert_eq!(said(Kind::IstioGateway), "Gateway.networking.istio.io");
    assert_eq!(said(Kind::Gateway), "Gateway.gateway.networking.k8s.io");
}
