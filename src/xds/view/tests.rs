use std::time::Duration;

use super::*;
use crate::xds::resource::Keys;

fn resource(name: &str, content: &str, keys: Keys) -> Resource {
    Resource::new(ResourceType::Address, name, content.as_bytes(), &keys)
}

fn plain(name: &str, content: &str) -> Resource {
    resource(name, content, Keys::default())
}

fn names(resources: &[Resource]) -> Vec<&str> {
    resources.iter().map(|resource| resource.name()).collect()
}

#[test]
fn equal_resources_change_nothing() {
    let mut layer: Layer = [plain("a", "1"), plain("b", "1")].into_iter().collect();
    let before = layer.clone();
    assert!(!layer.upsert(plain("a", "1")));
    assert!(layer.same_as(&before));
    assert!(!layer.remove("c"));
    assert!(layer.upsert(plain("a", "2")));
    assert!(layer.remove("b"));
    let differences: Vec<_> = layer.diff(&before).collect();
    assert!(matches!(&differences[..], [Difference::Updated { .. }, Difference::Removed(_)]));
}

#[test]
fn lookup_follows_aliases_and_relations() {
    let workload = |name: &str| {
        let aliases = Box::new([format!("/ip-{name}").into()]) as _;
        resource(name, name, Keys { aliases, related: Box::new(["ns/svc".into()]), node: Some("n1".into()) })
    };
    let service = resource("ns/svc", "s", Keys { aliases: Box::new(["/vip".into()]), ..Default::default() });
    let mut layer: Layer = [workload("w1"), workload("w2"), service].into_iter().collect();
    for (key, expected) in [
        ("w1", vec!["w1"]),
        ("/ip-w1", vec!["w1"]),
        ("ns/svc", vec!["ns/svc", "w1", "w2"]),
        ("/vip", vec!["ns/svc", "w1", "w2"]),
        ("/ip", vec![]),
        ("n1", vec![]),
    ] {
        assert_eq!(names(&layer.lookup(key)), expected, "{key}");
    }
    assert_eq!(names(&layer.on_node("n1")), ["w1", "w2"]);
    layer.remove("w1");
    layer.upsert(resource("w2", "moved", Keys::default()));
    assert_eq!(names(&layer.lookup("/vip")), ["ns/svc"]);
    assert!(layer.on_node("n1").is_empty());
}

/// A layer and a plain map go through the same changes; whatever can be asked of
/// the layer is what the map says.
#[test]
fn layers_are_maps() {
    let mut random = 1u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let (mut layer, mut map) = (Layer::default(), BTreeMap::<String, Resource>::new());
    // Up to some thousand resources and back, so that chunks divide and join.
    for step in 0..700 {
        let before = (layer.clone(), map.clone());
        let mut edits = Edits::default();
        for _ in 0..below(40) {
            let name = format!("r{}", below(3000));
            if below(10) < if step < 200 { 8 } else { 2 } {
                let keys = Keys {
                    aliases: Box::new([format!("/{name}").into()]),
                    node: Some(format!("n{}", below(3)).into()),
                    ..Keys::default()
                };
                let resource = resource(&name, &below(3).to_string(), keys);
                map.insert(name, resource.clone());
                edits.upsert(resource);
            } else {
                map.remove(&name);
                edits.remove(&name);
            }
        }
        let changed = layer.apply(edits);
        assert_eq!(changed, map != before.1);
        let mut all: Vec<_> = layer.iter().collect();
        assert!(all.is_sorted_by_key(|resource| (name_hash(resource.name()), resource.name().to_owned())));
        all.sort_by(|a, b| a.name().cmp(b.name()));
        assert!(all.iter().eq(map.values()));
        assert_eq!(layer.len(), map.len());
        let chunks = (0..).map_while(|number| layer.chunk(number)).flatten();
        assert!(chunks.eq(layer.iter()));
        let frames: Vec<u8> = (0..).map_while(|number| layer.frames(number)).flatten().flatten().collect();
        assert_eq!(frames.len(), layer.encoded_len(ResourceType::Address, Framing::Delta));
        for node in ["n0", "n1", "n2", "n3"] {
            let expected = map.values().filter(|resource| resource.node() == Some(node));
            assert!(layer.on_node(node).iter().eq(expected));
        }
        for (name, resource) in map.iter().step_by(17) {
            assert_eq!(layer.get(name).as_ref(), Some(resource));
            assert_eq!(layer.lookup(&format!("/{name}")), std::slice::from_ref(resource));
        }
        let mut differences = BTreeMap::new();
        for difference in layer.diff(&before.0) {
            let (name, pair) = match difference {
                Difference::Added(new) => (new.name().to_owned(), (None, Some(new))),
                Difference::Updated { old, new } => (new.name().to_owned(), (Some(old), Some(new))),
                Difference::Removed(old) => (old.name().to_owned(), (Some(old), None)),
            };
            assert!(differences.insert(name, pair).is_none());
        }
        let names: std::collections::BTreeSet<_> = map.keys().chain(before.1.keys()).collect();
        let expected = names.into_iter().filter_map(|name| {
            let pair = (before.1.get(name).cloned(), map.get(name).cloned());
            (pair.0 != pair.1).then(|| (name.clone(), pair))
        });
        assert!(differences.into_iter().eq(expected));
    }
    assert!(layer.len() < 900, "chunks have joined again");
}

#[test]
fn the_last_edit_of_a_name_counts() {
    let mut edits = Edits::default();
    edits.upsert(plain("a", "1"));
    edits.remove("a");
    edits.upsert(plain("a", "2"));
    edits.upsert(plain("b", "1"));
    edits.remove("b");
    let mut layer = Layer::default();
    assert!(layer.apply(edits));
    assert_eq!(layer.iter().collect::<Vec<_>>(), [plain("a", "2")]);
}

#[test]
fn sizes_are_those_of_the_resources() {
    let mut layer = Layer::default();
    for step in 0..200 {
        // "\n\x01x" is an address that is a workload, "x" is not.
        let content = if step % 3 == 0 { "\n\u{1}x" } else { "x" };
        layer.upsert(plain(&format!("r{}", step * 7 % 50), &content.repeat(1 + step % 2)));
        if step % 5 == 0 {
            layer.remove(&format!("r{}", step % 50));
        }
        for ty in [ResourceType::Address, ResourceType::Workload] {
            let carried: Vec<_> = layer.iter().filter(|resource| ty.carries(resource)).collect();
            assert_eq!(layer.count(ty), carried.len());
            for framing in [Framing::Delta, Framing::Sotw] {
                let sum: usize = carried.iter().map(|resource| resource.encoded_len(ty, framing)).sum();
                assert_eq!(layer.encoded_len(ty, framing), sum);
            }
        }
    }
}

#[test]
fn diff_costs_what_changed() {
    let large: Layer = (0..100_000).map(|n| plain(&format!("workload-{n:06}"), "1")).collect();
    let edits: [fn(&mut Layer); 3] = [
        |layer| _ = layer.upsert(plain("workload-050000", "2")),
        |layer| _ = layer.upsert(plain("workload-050000-new", "1")),
        |layer| _ = layer.remove("workload-050000"),
    ];
    for edit in edits {
        let mut next = large.clone();
        edit(&mut next);
        // The best of several, so that a busy machine does not fail the test.
        let best = (0..50)
            .map(|_| {
                let start = Instant::now();
                assert_eq!(next.diff(&large).count(), 1);
                start.elapsed()
            })
            .min();
        println!("one difference among 100,000: {best:?}");
        assert!(best < Some(Duration::from_millis(2)));
    }
}
