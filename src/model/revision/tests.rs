use serde_json::json;

use super::*;
use crate::api::{Change, Kind, Object};
use crate::model::Scope;

struct World {
    graph: Graph,
    inputs: Inputs,
    tags: Tags,
    read: Collection<ObjectKey, ()>,
    known: Revisions,
}

impl World {
    /// What a revision knows of some objects, and which it reads.
    fn new(own: &str) -> Self {
        let mut graph = Graph::new();
        let inputs = Inputs::new(&mut graph);
        let settings = Arc::new(Settings { revision: own.into(), ..Settings::default() });
        let scope = Scope::new(&mut graph, inputs, settings);
        let tags = scope.tags();
        let read = graph.derive("read", inputs.virtual_services, move |cx, key: &ObjectKey, one| {
            scope.configures(cx, &one.meta).then(|| (key.clone(), ()))
        });
        Self { graph, inputs, tags, read, known: Revisions::new(own) }
    }

    fn put(&mut self, kind: Kind, object: &serde_json::Value) {
        let object: Object = kind.decode_json(&object.to_string()).unwrap();
        self.inputs.apply(&mut self.graph, Change::Put(object));
        self.commit();
    }

    fn commit(&mut self) {
        self.graph.commit();
        if Revisions::changed(&self.graph, self.inputs, self.tags) {
            self.known = self.known.with(&self.graph, self.inputs, self.tags);
        }
        self.graph.settle();
    }

    fn tag(&mut self, service: &str, (tag, revision): (&str, &str), created: &str) {
        let meta = json!({ "namespace": "istio-system", "name": service, "creationTimestamp": created,
            "labels": { "istio.io/tag": tag, "istio.io/rev": revision } });
        self.put(Kind::Service, &json!({ "metadata": meta }));
    }

    fn namespace(&mut self, name: &str, labels: &serde_json::Value) {
        self.put(Kind::Namespace, &json!({ "metadata": { "name": name, "labels": labels } }));
    }

    fn object(&mut self, name: &str, labels: &serde_json::Value) {
        self.put(Kind::VirtualService, &json!({ "metadata": { "namespace": "shop", "name": name, "labels": labels } }));
    }

    fn reads(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.graph.rows(self.read).map(|(key, _)| &*key.name).collect();
        names.sort_unstable();
        names
    }
}

#[test]
fn what_has_no_label_is_read_by_all_and_owned_by_the_default_revision() {
    for (own, owns) in [("default", true), ("", true), ("next", false)] {
        let mut world = World::new(own);
        world.object("plain", &json!({}));
        assert_eq!(world.reads(), ["plain"], "{own:?}");
        assert_eq!(world.known.own(None, "shop"), owns, "{own:?}");
    }
}

#[test]
fn a_label_names_a_revision() {
    let mut world = World::new("next");
    world.object("ours", &json!({ "istio.io/rev": "next" }));
    world.object("theirs", &json!({ "istio.io/rev": "default" }));
    assert_eq!(world.reads(), ["ours"]);
    assert!(world.known.own(Some("next"), "shop") && !world.known.own(Some("default"), "shop"));
    assert!(!world.known.own(None, "shop"));
    world.namespace("shop", &json!({ "istio.io/rev": "next" }));
    assert!(world.known.own(None, "shop") && !world.known.own(Some("default"), "shop"));
    assert!(!world.known.own(Some(""), "shop"), "an empty label is that of the default revision");
    assert!(!world.known.own(None, "other"));
}

#[test]
fn a_tag_stands_for_a_revision_and_may_move() {
    let mut worlds = [World::new("default"), World::new("next")];
    let mut steps: Vec<[bool; 2]> = Vec::new();
    let mut look = |worlds: &[World; 2]| {
        let each = |world: &World| {
            let own = world.known.own(None, "shop");
            assert_eq!(own, world.known.own(Some("prod"), "elsewhere"));
            assert_eq!(world.reads(), if own { vec!["one"] } else { vec![] });
            own
        };
        steps.push([each(&worlds[0]), each(&worlds[1])]);
    };
    for world in &mut worlds {
        world.namespace("shop", &json!({ "istio.io/rev": "prod" }));
        world.object("one", &json!({ "istio.io/rev": "prod" }));
    }
    look(&worlds);
    for revision in ["default", "next"] {
        for world in &mut worlds {
            world.tag("istiod-revision-tag-prod", ("prod", revision), "2026-01-01T00:00:00Z");
        }
        look(&worlds);
    }
    let key = ObjectKey::new("istio-system", "istiod-revision-tag-prod");
    for world in &mut worlds {
        world.inputs.apply(&mut world.graph, Change::Delete(Kind::Service, key.clone()));
        world.commit();
    }
    look(&worlds);
    assert_eq!(steps, [[false, false], [true, false], [false, true], [false, false]]);
}

/// Nobody else's Service makes one the owner, nor do two of them make two.
#[test]
fn a_name_means_one_revision() {
    let mut worlds = ["default", "next", "last"].map(World::new);
    let owners = |worlds: &[World; 3], name: &str| worlds.each_ref().map(|world| world.known.own(Some(name), "shop"));
    for world in &mut worlds {
        let labels = json!({ "istio.io/tag": "prod", "istio.io/rev": "last" });
        world.put(Kind::Service, &json!({ "metadata": { "namespace": "shop", "name": "tag", "labels": labels } }));
    }
    assert_eq!(owners(&worlds, "prod"), [false; 3]);
    for world in &mut worlds {
        world.tag("b", ("prod", "next"), "2026-01-02T00:00:00Z");
        world.tag("a", ("prod", "last"), "2026-01-03T00:00:00Z");
        // A new default, beside the old one.
        world.tag("c", ("default", "next"), "2026-01-03T00:00:00Z");
    }
    assert_eq!(owners(&worlds, "prod"), [false, true, false]);
    assert_eq!(owners(&worlds, "default"), [false, true, false]);
    assert_eq!(owners(&worlds, ""), [false, true, false]);
    assert_eq!(owners(&worlds, "last"), [false, false, true]);
    for world in &mut worlds {
        world.object("tagged", &json!({ "istio.io/rev": "prod" }));
        world.object("plain", &json!({}));
    }
    assert_eq!(worlds.each_ref().map(|world| world.reads().len()), [1, 2, 1]);
}
