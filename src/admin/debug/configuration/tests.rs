use super::*;

/// An object as it is written, and as it is read.
fn original(name: &str, spec: Value) -> Original {
    let metadata = json!({ "name": name, "namespace": "x", "managedFields": [{ "manager": "kubectl" }] });
    let (version, kind) = ("networking.istio.io/v1", Kind::VirtualService);
    let written = json!({ "apiVersion": version, "kind": "VirtualService", "metadata": metadata, "spec": spec });
    Original { kind, key: ObjectKey::new("x", name), read: kind.decode_json(&written.to_string()), written }
}

fn read(name: &str, spec: Value) -> Object {
    original(name, spec).read.expect("it is good")
}

fn said(originals: Result<Vec<Original>, Unavailable>, in_force: Vec<Object>) -> Vec<String> {
    let text = |(_, shown): (_, Value)| {
        assert_eq!(
            (&shown["kind"], &shown["apiVersion"]),
            (&json!("VirtualService"), &json!("networking.istio.io/v1"))
        );
        assert_eq!(shown["metadata"].get("managedFields"), None);
        let (name, in_force) = (shown["metadata"]["name"].as_str().unwrap(), &shown[IN_FORCE]);
        let problem = shown.get(PROBLEM).map(|problem| format!(": {}", problem.as_str().unwrap()));
        format!("{name} {in_force}{}", problem.unwrap_or_default())
    };
    rows(originals, in_force).into_iter().map(text).collect()
}

#[test]
fn what_is_written_is_compared_with_what_is_in_force() {
    let hosts = |host: &str| json!({ "hosts": [host] });
    let written = vec![
        original("new", hosts("a")),
        original("same", hosts("a")),
        original("changed", hosts("b")),
        original("broken", json!({ "hosts": 7 })),
        original("broken-at-once", json!({ "hosts": 7 })),
        // A field without a value changes nothing, and a word that is not known
        // only what is said of the object.
        original("unheard", json!({ "hosts": ["a"], "unheard": "of" })),
        original("without", json!({ "hosts": ["a"], "http": null })),
    ];
    let in_force = ["same", "changed", "broken", "unheard", "without", "gone"].map(|name| read(name, hosts("a")));
    assert_eq!(
        said(Ok(written), in_force.to_vec()),
        [
            "broken false: spec.hosts: invalid type: integer `7`, expected a sequence; \
             the last version that could be read is in force",
            "broken-at-once false: spec.hosts: invalid type: integer `7`, expected a sequence",
            "changed false: another version of it is in force",
            "gone false: it is not there any more",
            "new false: nothing of it is in force yet",
            "same true",
            "unheard false: another version of it is in force",
            "without true",
        ]
    );
}

#[test]
fn without_the_source_there_are_the_names() {
    let error = std::io::Error::from(std::io::ErrorKind::NotFound);
    let unavailable = Unavailable::File { path: "mesh".into(), source: error };
    let in_force = vec![read("b", json!({})), read("a", json!({}))];
    assert_eq!(said(Err(unavailable), in_force), ["a true: mesh: entity not found", "b true: mesh: entity not found"]);
}
