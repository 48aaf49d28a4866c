use super::*;

/// What a definition says of a field; panics if it does not say anything.
#[track_caller]
fn field(plural: &str, path: &str) -> Json {
    let all = all().unwrap();
    let one = all.iter().find(|one| one["spec"]["names"]["plural"] == plural).unwrap();
    let schema = &one["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let step = |schema: &Json, name: &str| match name {
        "[]" => schema["items"].clone(),
        "*" => schema["additionalProperties"].clone(),
        name => schema["properties"][name].clone(),
    };
    let found = path.split('.').fold(schema.clone(), |schema, name| step(&schema, name));
    assert!(found.is_object(), "{plural} has no {path}");
    found
}

#[test]
fn every_kind_of_istio_is_defined_and_no_other() {
    let defined: Vec<_> =
        all().unwrap().iter().map(|one| one["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    let istio = Kind::ALL.iter().map(|kind| kind.info()).filter(|info| info.group.ends_with(".istio.io"));
    let mut read: Vec<_> = istio.map(|info| (info.group, format!("{}.{}", info.plural, info.group))).collect();
    read.sort();
    assert_eq!(defined, read.into_iter().map(|(_, name)| name).collect::<Vec<_>>());
    let read: Vec<_> = Kind::ALL.iter().map(|kind| kind.info().kind).collect();
    assert!(NOT_READ.iter().all(|kind| !read.contains(kind)), "one of {NOT_READ:?} is read");
}

#[test]
fn one_version_is_stored() {
    for one in all().unwrap() {
        let versions = one["spec"]["versions"].as_array().unwrap();
        let stored: Vec<_> = versions.iter().filter(|one| one["storage"] == true).map(|one| &one["name"]).collect();
        assert_eq!(stored.len(), 1, "{}", one["metadata"]["name"]);
    }
}

#[test]
fn schemas_are_those_of_the_models() {
    let open = |of: &str| json!({ "type": of });
    assert_eq!(field("virtualservices", "spec.http.[].timeout"), open("string"));
    assert_eq!(field("virtualservices", "spec.http.[].match.[].headers.*.exact"), open("string"));
    assert_eq!(field("virtualservices", "spec.http.[].fault.delay.percentage.value"), open("number"));
    assert_eq!(field("virtualservices", "spec.http.[].route.[].weight"), open("integer"));
    assert_eq!(field("destinationrules", "spec.trafficPolicy.tls.insecureSkipVerify"), open("boolean"));
    assert_eq!(
        field("destinationrules", "spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.ttl"),
        open("string")
    );
    assert_eq!(field("authorizationpolicies", "spec.rules.[].from.[].source.notIpBlocks.[]"), open("string"));
    assert_eq!(field("peerauthentications", "spec.portLevelMtls.*.mode"), open("string"));
    assert_eq!(field("serviceentries", "status.addresses.[].value"), open("string"));
    assert_eq!(field("gateways", "spec.servers.[].port.number"), open("integer"));
    // The older spelling is the same field, and kept because the object is open.
    let rule = field("virtualservices", "spec.http.[]");
    assert!(rule["properties"]["mirrorPercent"].is_object() && rule["properties"]["mirror_percent"].is_null());
    assert_eq!(rule["x-kubernetes-preserve-unknown-fields"], true);
}

/// Every object keeps what its schema does not name, or only some of a user's
/// fields would be stored.
#[test]
fn nothing_is_pruned() {
    fn look(at: &str, schema: &Json) {
        match schema["type"].as_str() {
            Some("object") if schema["additionalProperties"].is_object() => look(at, &schema["additionalProperties"]),
            Some("object") => {
                assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true, "{at}");
                let properties = schema["properties"].as_object().into_iter().flatten();
                properties.for_each(|(name, schema)| look(&format!("{at}.{name}"), schema));
            }
            Some("array") => look(at, &schema["items"]),
            Some(_) => {}
            None => assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true, "{at}"),
        }
    }
    for one in all().unwrap() {
        for version in one["spec"]["versions"].as_array().unwrap() {
            for (name, schema) in version["schema"]["openAPIV3Schema"]["properties"].as_object().unwrap() {
                look(&format!("{}: {name}", one["metadata"]["name"]), schema);
            }
        }
    }
}
