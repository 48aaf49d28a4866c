use serde_json::json;

use super::*;

/// What an overlay makes of an object.
fn merged(mut object: Value, patch: &str) -> Result<Value, String> {
    merge(&mut object, &crate::api::yaml(patch).expect("YAML"))?;
    Ok(object)
}

#[test]
fn maps_are_merged_and_nulls_remove() {
    let object = json!({ "spec": { "a": { "b": 1, "c": 2 }, "d": 3, "e": "text" } });
    assert_eq!(
        merged(object, "spec: {a: {b: 4, f: 5}, d: null, e: {g: 6}, h: null}"),
        Ok(json!({ "spec": { "a": { "b": 4, "c": 2, "f": 5 }, "e": { "g": 6 } } }))
    );
}

#[test]
fn lists_with_a_key_are_merged_and_others_replaced() {
    let object = json!({ "containers": [{ "name": "a", "args": ["x", "y"], "env": [{ "name": "E", "value": "1" }] }] });
    assert_eq!(
        merged(object, "containers: [{name: b, image: i}, {name: a, args: [z], env: [{name: F, value: '2'}]}]"),
        Ok(json!({ "containers": [
            { "name": "a", "args": ["z"], "env": [{ "name": "E", "value": "1" }, { "name": "F", "value": "2" }] },
            { "name": "b", "image": "i" },
        ] }))
    );
    let ports = json!({ "ports": [{ "name": "mesh", "port": 15008 }] });
    assert_eq!(
        merged(ports, "ports: [{port: 15008, nodePort: 30000}]"),
        Ok(json!({ "ports": [{ "name": "mesh", "port": 15008, "nodePort": 30000 }] }))
    );
}

#[test]
fn directives_replace_and_delete() {
    let object = || json!({ "volumes": [{ "name": "a" }, { "name": "b" }], "strategy": { "type": "x", "y": 1 } });
    let volumes = |patch: &str| merged(object(), patch).map(|object| object["volumes"].clone());
    assert_eq!(volumes("volumes: [{name: a, $patch: delete}]"), Ok(json!([{ "name": "b" }])));
    assert_eq!(volumes("volumes: [{$patch: replace}, {name: c}]"), Ok(json!([{ "name": "c" }])));
    let strategy = |patch: &str| merged(object(), patch).map(|object| object["strategy"].clone());
    assert_eq!(strategy("strategy: {$patch: replace, z: 2}"), Ok(json!({ "z": 2 })));
    assert_eq!(strategy("strategy: {$patch: delete}"), Ok(Value::Null));
    assert_eq!(strategy("strategy: {$retainKeys: [type], type: w}"), Ok(json!({ "type": "w" })));
}

#[test]
fn what_cannot_be_merged_is_an_error() {
    for (patch, part) in [
        ("spec: {$patch: whatever}", "$patch"),
        ("spec: {$deleteFromPrimitiveList/x: [a]}", "$deleteFromPrimitiveList/x"),
        ("containers: [{image: i}]", "name"),
    ] {
        let error = merged(json!({}), patch).expect_err(patch);
        assert!(error.contains(part), "{error}");
    }
}

/// A body of the right shape ended istiod, or took all of its memory. Overlays
/// are what anybody who may write ConfigMaps has us read as a whole.
#[test]
fn cve_2022_24726_an_overlay_can_neither_be_deep_nor_grow() {
    let read = |text: &str| {
        let map = json!({ "metadata": { "name": "m", "namespace": "ns" }, "data": { "deployment": text } });
        Overlays::default().read(&map).map_err(|missing| format!("{missing:?}").len() < 2000)
    };
    assert_eq!(read("spec: {template: {spec: {containers: [{name: a, x: &x [1], y: *x}]}}}"), Ok(()));
    let laughs: String =
        (1..20).map(|at| format!("a{at}: &a{at} [{}]\n", format!("*a{},", at - 1).repeat(9))).collect();
    for text in [
        format!("a: {}", "[".repeat(100_000)),
        format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000)),
        format!("a: {}1{}", "{a: ".repeat(10_000), "}".repeat(10_000)),
        (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect(),
        format!("{}- 1", "- ".repeat(10_000)),
        format!("a0: &a0 [x]\n{laughs}"),
        format!("a: [{}]", "1,".repeat(200_000)),
    ] {
        assert_eq!(read(&text), Err(true), "{}", &text[..40.min(text.len())]);
    }
}
