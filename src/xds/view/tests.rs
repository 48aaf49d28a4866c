use std::time::Duration;

use super::*;
use crate::xds::resource::Keys;

fn resource(name: &str, content: &str, keys: Keys) -> Arc<Resource> {
    Arc::new(Resource::new(ResourceType::Address, name, content.as_bytes(), keys, Arc::default()))
}

fn plain(name: &str, content: &str) -> Arc<Resource> {
    resource(name, content, Keys::default())
}

fn names<'a>(resources: impl IntoIterator<Item = &'a Arc<Resource>>) -> Vec<&'a str> {
    resources.into_iter().map(|resource| &**resource.name()).collect()
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
    assert_eq!(names(layer.on_node("n1")), ["w1", "w2"]);
    layer.remove("w1");
    layer.upsert(resource("w2", "moved", Keys::default()));
    assert_eq!(names(&layer.lookup("/vip")), ["ns/svc"]);
    assert_eq!(layer.on_node("n1").count(), 0);
}

#[test]
fn ranges_resume_after_a_name() {
    let layer: Layer = ["a", "b", "c"].map(|name| plain(name, "")).into_iter().collect();
    assert_eq!(names(layer.range_after(None)), ["a", "b", "c"]);
    assert_eq!(names(layer.range_after(Some("a"))), ["b", "c"]);
    assert_eq!(names(layer.range_after(Some("aa"))), ["b", "c"]);
    assert_eq!(names(layer.range_after(Some("c"))), [""; 0]);
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
        for ty in ResourceType::ALL {
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
