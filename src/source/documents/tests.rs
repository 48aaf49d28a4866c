use super::*;

fn names(text: &str) -> Vec<String> {
    let name = |document: Document| match document {
        Document::Object(object) => format!("{} {}", object.kind().info().kind, object.meta().key()),
        Document::Other { kind } => format!("other {kind}"),
        Document::Broken { line, object, error } => {
            let object = object.map(|(kind, key)| format!(" {} {key}", kind.info().kind)).unwrap_or_default();
            format!("line {line}{object}: {}: {}", error.field, error.reason)
        }
    };
    read(text).into_iter().map(name).collect()
}

#[test]
fn documents_are_read_each_on_its_own() {
    let text = "\
# A comment, then an object without namespace.
apiVersion: v1
kind: Pod
metadata: {name: a}
--- # another
apiVersion: apps/v1
kind: Deployment
metadata: {name: b}
---
apiVersion: v1
kind: Pod
metadata: {name: c, namespace: x}
spec: {hostNetwork: perhaps}
---
---
{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"d\"}}
---
apiVersion: networking.istio.io/v1alpha3
kind: ServiceEntry
metadata: {name: e}
";
    let found = names(text);
    assert_eq!(found[..2], ["Pod default/a", "other Deployment"]);
    assert!(found[2].starts_with("line 9 Pod x/c: spec.hostNetwork: line 13:"), "{found:?}");
    assert_eq!(found[3..], ["Namespace d", "ServiceEntry default/e"]);
}

#[test]
fn a_document_that_is_not_yaml_is_broken_alone() {
    let found =
        names("apiVersion: v1\nkind: Pod\nmetadata: {name: a\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n");
    assert!(found[0].starts_with("line 1: "), "{found:?}");
    assert_eq!(found[1], "Pod default/b");
}

#[test]
fn what_is_not_an_object_is_said_to_be_none() {
    for text in ["just: data", "- a\n- list\n", "kind: Pod\n", "42"] {
        let found = names(text);
        assert!(found.len() == 1 && found[0].starts_with("line 1: "), "{text:?}: {found:?}");
    }
    assert!(names("").is_empty() && names("# nothing\n---\n# at all\n").is_empty());
    let nameless = names("apiVersion: v1\nkind: Pod\nspec: {}\n");
    assert!(nameless[0].contains("metadata.name"), "{nameless:?}");
}

#[test]
fn lists_are_their_items() {
    let text = "\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}}
- {apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {hostNetwork: perhaps}}
- {apiVersion: v1, kind: Node, metadata: {name: one}}
";
    let found = names(text);
    assert_eq!((found[0].as_str(), found[2].as_str()), ("Pod x/a", "Node one"));
    assert!(found[1].contains("Pod default/b: spec.hostNetwork"), "{found:?}");
}

#[test]
fn yaml_is_read_as_kubernetes_reads_it() {
    let text = "\
apiVersion: v1
kind: Pod
metadata:
  name: a
  creationTimestamp: 2026-01-01T00:00:00Z
  labels: &labels {app: web}
  annotations: null
spec:
  hostNetwork: yes
  containers: null
status:
  podIP: 10.0.0.1
";
    let [Document::Object(Object::Pod(pod))] = &read(text)[..] else { panic!("one pod: {:?}", read(text)) };
    assert!(pod.spec.template.host_network);
    assert_eq!((pod.meta.created, pod.meta.label("app")), (1_767_225_600, Some("web")));
}

#[test]
fn originals_are_whole_and_of_the_wanted_kinds() {
    let text = "\
kind: ServiceEntry
apiVersion: networking.istio.io/v1alpha3
metadata: {name: a, annotations: {of: nobody}}
spec: {hosts: [a.com], unheard: of}
---
apiVersion: v1
kind: Pod
metadata: {name: b}
---
apiVersion: v1
kind: List
items:
- {apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: c, namespace: x}, spec: {hosts: 7}}
- {apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: d}}
- {apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e, namespace: x}}
---
this is: [not yaml
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: f}
";
    let found = originals(text, |kind| kind == Kind::ServiceEntry);
    let keys: Vec<_> = found.iter().map(|one| format!("{:?} {}", one.kind, one.key)).collect();
    assert_eq!(
        keys,
        ["ServiceEntry default/a", "ServiceEntry x/c", "ServiceEntry x/e", "ServiceEntry default/f"],
        "in the order of the text"
    );
    assert_eq!(found[0].written["spec"]["unheard"], "of");
    assert_eq!(found[0].written["metadata"]["annotations"]["of"], "nobody");
    let Ok(Object::ServiceEntry(entry)) = &found[0].read else { panic!("{found:?}") };
    assert_eq!(*entry.spec.hosts[0], *"a.com");
    // What is read is what the source says, and what is broken is said to be.
    let [Document::Object(said), ..] = &*read(text) else { panic!("it is good") };
    assert_eq!(found[0].read.as_ref().unwrap(), said);
    assert_eq!(found[1].read.as_ref().unwrap_err().field, "spec.hosts");
}
