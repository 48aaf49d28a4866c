use std::collections::BTreeMap;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

/// A small world with every construct of the engine: keyed reads, indexed
/// reads, reads of everything, several outputs per row, outputs that several
/// rows claim, a merge, rows for distinct keys, and rows that leave the graph.
struct World {
    graph: Graph,
    pods: Collection<u8, u16>,
    nodes: Collection<u8, u16>,
    endpoints: Collection<u16, (u8, u16)>,
    sums: Collection<u8, u32>,
    summary: Collection<u8, Vec<(u16, u8)>>,
    families: Collection<u16, u32>,
    by_pod: Index<u8, u16, (u8, u16)>,
    /// What has left the graph and was not taken back.
    handed: Arc<Mutex<BTreeMap<u8, u32>>>,
}

impl World {
    fn new() -> Self {
        let mut graph = Graph::new();
        let pods = graph.input("pods");
        let nodes = graph.input("nodes");
        let by_node = graph.index(pods, |_: &u8, pod: &u16, keys| keys.push((pod % 4) as u8));
        let by_bit = graph.index(pods, |_: &u8, pod: &u16, keys| {
            keys.extend((0..3u8).filter(|bit| pod >> (4 + bit) & 1 == 1));
        });
        // Rows 0..16 are claimed by many pods.
        let endpoints = graph.derive("endpoints", pods, move |cx, key: &u8, pod: &u16| {
            let node = cx.get(nodes, &((pod % 4) as u8)).copied().unwrap_or(7);
            let mates = cx.fetch(by_bit, &(key % 3)).count() as u16;
            let count = pod % 3;
            (0..count).map(|i| ((pod + i) % 16, (*key, node + mates))).collect::<Vec<_>>()
        });
        // Whose rows may go from one pod to another within a commit.
        let by_pod = graph.index(endpoints, |_: &u16, row: &(u8, u16), keys| keys.extend([row.0 % 2, 2]));
        let sums = graph.group("sums", by_node, move |cx, node: &u8| {
            let sum = cx.fetch(by_node, node).map(|(key, pod)| u32::from(*key) * 7 + u32::from(*pod)).sum();
            (sum % 5 != 0).then_some(sum)
        });
        let summary = graph.derive("summary", nodes, move |cx, key: &u8, node: &u16| {
            let all = match node % 2 {
                0 => cx.all(endpoints).into_iter().map(|(key, value)| (*key, value.0)).collect(),
                _ => vec![(cx.get(sums, key).copied().unwrap_or(0) as u16, 0)],
            };
            Some((*key, all))
        });
        let families = graph.distinct(
            "families",
            pods,
            |_, pod: &u16| (pod % 7 != 6).then_some(pod % 7),
            move |cx, family: &u16| {
                let node = u32::from(cx.get(nodes, &((family % 4) as u8)).copied()?);
                (node != 3).then_some(node * 10 + u32::from(*family))
            },
        );
        let handed = Arc::<Mutex<BTreeMap<u8, u32>>>::default();
        let taker = handed.clone();
        graph.output(
            "handed",
            pods,
            move |cx, key: &u8, pod: &u16| Some(cx.get(families, &(pod % 7))? + u32::from(*key % 2)),
            |value| u64::from(*value),
            move |key, value| {
                let mut handed = taker.lock().unwrap();
                let old = match value {
                    Some(value) => handed.insert(*key, value),
                    None => handed.remove(key),
                };
                assert!(old != value && (old.is_some() || value.is_some()), "only changes are handed on");
            },
        );
        Self { graph, pods, nodes, endpoints, sums, summary, families, by_pod, handed }
    }

    fn apply(&mut self, fact: &Fact) {
        match fact {
            Fact::Pod(key, Some(value)) => self.graph.put(self.pods, *key, *value),
            Fact::Pod(key, None) => self.graph.delete(self.pods, *key),
            Fact::Node(key, Some(value)) => self.graph.put(self.nodes, *key, *value),
            Fact::Node(key, None) => self.graph.delete(self.nodes, *key),
            Fact::Pods(rows) => self.graph.reset(self.pods, rows.clone()),
            Fact::Commit => {
                self.graph.commit();
            }
        }
    }

    fn tables(&self) -> Tables {
        Tables {
            endpoints: rows(&self.graph, self.endpoints),
            sums: rows(&self.graph, self.sums),
            summary: rows(&self.graph, self.summary),
            families: rows(&self.graph, self.families),
            by_pod: [0, 1, 2].map(|pod| self.graph.fetch(self.by_pod, &pod).map(|(key, row)| (*key, *row)).collect()),
            handed: self.handed.lock().unwrap().clone(),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Tables {
    endpoints: BTreeMap<u16, (u8, u16)>,
    sums: BTreeMap<u8, u32>,
    summary: BTreeMap<u8, Vec<(u16, u8)>>,
    families: BTreeMap<u16, u32>,
    by_pod: [Vec<(u16, (u8, u16))>; 3],
    handed: BTreeMap<u8, u32>,
}

fn rows<K: Key, V: Value + Clone>(graph: &Graph, collection: Collection<K, V>) -> BTreeMap<K, V> {
    graph.rows(collection).map(|(key, value)| (key.clone(), (**value).clone())).collect()
}

#[derive(Clone, Debug)]
enum Fact {
    Pod(u8, Option<u16>),
    Node(u8, Option<u16>),
    Pods(BTreeMap<u8, u16>),
    Commit,
}

fn fact() -> impl Strategy<Value = Fact> {
    let pod = (0..12u8, prop::option::weighted(0.7, 0..256u16)).prop_map(|(key, value)| Fact::Pod(key, value));
    let node = (0..5u8, prop::option::weighted(0.7, 0..6u16)).prop_map(|(key, value)| Fact::Node(key, value));
    let pods = prop::collection::btree_map(0..12u8, 0..256u16, 0..8).prop_map(Fact::Pods);
    prop_oneof![6 => pod, 3 => node, 1 => pods, 3 => Just(Fact::Commit)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the order, batching and interleaving of facts, the tables are
    /// those of a graph that is given the final facts at once.
    #[test]
    fn every_schedule_ends_as_from_scratch(schedule in prop::collection::vec(fact(), 1..40)) {
        let mut world = World::new();
        let (mut pods, mut nodes) = (BTreeMap::new(), BTreeMap::new());
        for fact in &schedule {
            world.apply(fact);
            match fact {
                Fact::Pod(key, Some(value)) => { pods.insert(*key, *value); }
                Fact::Pod(key, None) => { pods.remove(key); }
                Fact::Node(key, Some(value)) => { nodes.insert(*key, *value); }
                Fact::Node(key, None) => { nodes.remove(key); }
                Fact::Pods(rows) => pods = rows.clone(),
                Fact::Commit => {}
            }
        }
        world.graph.commit();
        let mut fresh = World::new();
        fresh.graph.reset(fresh.nodes, nodes);
        fresh.graph.reset(fresh.pods, pods);
        fresh.graph.commit();
        let tables = world.tables();
        prop_assert_eq!(&tables, &fresh.tables());
        for (pod, found) in (0..).zip(&tables.by_pod) {
            let expected = tables.endpoints.iter().filter(|(_, row)| pod == 2 || row.0 % 2 == pod);
            prop_assert_eq!(found, &expected.map(|(key, row)| (*key, *row)).collect::<Vec<_>>());
        }
    }

    /// The list of changes of each commit leads from one table to the next.
    #[test]
    fn changes_are_the_difference(schedule in prop::collection::vec(fact(), 1..40)) {
        let mut world = World::new();
        let mut known = BTreeMap::new();
        for fact in &schedule {
            world.apply(fact);
            if matches!(fact, Fact::Commit) {
                for change in world.graph.changes(world.endpoints) {
                    let old = match &change.new {
                        Some(new) => known.insert(change.key, **new),
                        None => known.remove(&change.key),
                    };
                    prop_assert_eq!(old, change.old.as_deref().copied());
                    prop_assert_ne!(&change.old, &change.new);
                }
                prop_assert_eq!(&known, &rows(&world.graph, world.endpoints));
            }
        }
    }
}

fn recomputed(graph: &Graph, name: &str) -> u64 {
    graph.stats().iter().find(|stats| stats.name == name).map_or(0, |stats| stats.recomputed)
}

#[test]
fn only_readers_of_a_changed_row_are_recomputed() {
    let mut graph = Graph::new();
    let pods = graph.input::<u32, u32>("pods");
    let nodes = graph.input::<u32, u32>("nodes");
    let by_service = graph.index(pods, |_, pod, keys| keys.push(pod % 100));
    let workloads =
        graph.derive("workloads", pods, move |cx, key, pod| Some((*key, (*pod, cx.get(nodes, &(pod % 10)).copied()))));
    let services = graph.group("services", by_service, move |cx, service| Some(cx.fetch(by_service, service).count()));
    graph.reset(pods, (0..1000).map(|key| (key, key)));
    graph.reset(nodes, (0..10).map(|key| (key, 0)));
    graph.commit();
    assert_eq!(recomputed(&graph, "workloads"), 1000);
    assert_eq!(recomputed(&graph, "services"), 100);

    // One node: the hundred pods on it, and nothing downstream of them.
    graph.put(nodes, 3, 1);
    graph.commit();
    assert_eq!(recomputed(&graph, "workloads"), 1100);
    assert_eq!(recomputed(&graph, "services"), 100);
    assert_eq!(graph.changes(workloads).len(), 100);

    // One pod moves between services: itself, and both services.
    graph.put(pods, 7, 8);
    graph.commit();
    assert_eq!(recomputed(&graph, "workloads"), 1101);
    assert_eq!(recomputed(&graph, "services"), 102);
    assert_eq!(graph.changes(services).len(), 2);

    // An equal value is not a change, and neither is one that was undone.
    graph.put(pods, 7, 8);
    graph.put(pods, 9, 5);
    graph.put(pods, 9, 9);
    assert!(!graph.commit());
    assert_eq!(recomputed(&graph, "workloads"), 1101);
}

/// Rows come to an index one by one and by the hundred, and go likewise; it has
/// them in the order of their keys.
#[test]
fn an_index_is_in_order_however_rows_come() {
    let mut graph = Graph::new();
    let input = graph.input::<u32, u32>("input");
    let all = graph.index(input, |_, value, keys| keys.push(value % 2));
    let mut known = BTreeMap::new();
    let mut random = 1u32;
    for step in [1, 2, 300, 7, 9, 400, 1, 3, 500, 20] {
        for _ in 0..step {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (key, value) = (random >> 22, random >> 8);
            if value % 3 == 0 {
                graph.delete(input, key);
                known.remove(&key);
            } else {
                graph.put(input, key, value);
                known.insert(key, value);
            }
        }
        graph.commit();
        for half in [0, 1] {
            let found: Vec<_> = graph.fetch(all, &half).map(|(key, value)| (*key, *value)).collect();
            let expected = known.iter().filter(|(_, value)| *value % 2 == half).map(|(key, value)| (*key, *value));
            assert_eq!(found, expected.collect::<Vec<_>>());
        }
    }
    graph.reset(input, [(1, 1)]);
    graph.commit();
    assert_eq!([0, 1].map(|half| graph.fetch(all, &half).count()), [0, 1]);
}

#[test]
fn an_equal_result_stops_the_ripple() {
    let mut graph = Graph::new();
    let input = graph.input::<u8, i32>("input");
    let sign = graph.derive("sign", input, |_, key, value| Some((*key, value.signum())));
    let text = graph.derive("text", sign, |_, key, sign| Some((*key, sign.to_string())));
    graph.put(input, 1, 5);
    graph.commit();
    graph.put(input, 1, 6);
    assert!(graph.commit(), "the input did change");
    assert_eq!(recomputed(&graph, "sign"), 2);
    assert_eq!(recomputed(&graph, "text"), 1);
    assert!(graph.changes(text).is_empty());
}

#[test]
fn a_read_of_an_absent_row_is_a_read() {
    let mut graph = Graph::new();
    let pods = graph.input::<u8, u8>("pods");
    let nodes = graph.input::<u8, u8>("nodes");
    let joined = graph.derive("joined", pods, move |cx, key, node| Some((*key, cx.get(nodes, node).copied())));
    graph.put(pods, 1, 9);
    graph.commit();
    assert_eq!(graph.get(joined, &1).map(|row| **row), Some(None));
    graph.put(nodes, 9, 4);
    graph.commit();
    assert_eq!(graph.get(joined, &1).map(|row| **row), Some(Some(4)));
}

#[test]
fn a_panic_costs_its_row_only_and_heals() {
    let mut graph = Graph::new();
    let pods = graph.input::<u8, u8>("pods");
    let switch = graph.input::<(), bool>("switch");
    let rows = graph.derive("rows", pods, move |cx, key, value| {
        assert!(!(*key == 1 && cx.get(switch, &()).is_some()), "row 1 is cursed");
        Some((*key, *value))
    });
    graph.reset(pods, [(1, 10), (2, 20)]);
    graph.commit();
    graph.put(switch, (), true);
    graph.put(pods, 1, 11);
    graph.put(pods, 2, 21);
    graph.commit();
    assert_eq!(graph.get(rows, &1).map(|row| **row), Some(10), "the old row is kept");
    assert_eq!(graph.get(rows, &2).map(|row| **row), Some(21), "its neighbour goes on");
    assert_eq!(graph.stats()[2].panics, 1);
    let said = graph.diagnostics();
    assert!(said.len() == 1 && said[0].message.contains("row 1 is cursed"), "{said:?}");

    graph.delete(switch, ());
    graph.commit();
    assert_eq!(graph.get(rows, &1).map(|row| **row), Some(11));
    assert!(graph.diagnostics().is_empty());
}

#[test]
fn a_union_shows_the_first_collection_that_has_a_row() {
    let mut graph = Graph::new();
    let (first, second) = (graph.input::<u8, u8>("first"), graph.input::<u8, u8>("second"));
    let both = graph.union("both", [first, second]);
    graph.reset(first, [(1, 10)]);
    graph.reset(second, [(1, 11), (2, 12)]);
    graph.commit();
    assert_eq!(rows(&graph, both), BTreeMap::from([(1, 10), (2, 12)]));
    graph.delete(first, 1);
    graph.delete(second, 2);
    graph.commit();
    assert_eq!(rows(&graph, both), BTreeMap::from([(1, 11)]));
    assert_eq!(graph.provenance(both, &1).origins, [("second", "1".to_string())]);
}

#[test]
fn diagnostics_live_as_long_as_their_row() {
    let mut graph = Graph::new();
    let policies = graph.input::<u8, i8>("policies");
    graph.derive("checked", policies, |cx, key, value| {
        if *value < 0 {
            cx.diagnose(Diagnostic {
                subject: Subject { kind: "Policy", namespace: "default".into(), name: key.to_string().into() },
                field: "value".into(),
                severity: Severity::Error,
                reason: "Negative",
                message: format!("{value} is negative"),
            });
        }
        None::<(u8, ())>
    });
    graph.put(policies, 3, -1);
    graph.commit();
    assert!(graph.diagnostics_changed());
    let said: Vec<_> = graph.diagnostics().iter().map(ToString::to_string).collect();
    assert_eq!(said, ["Policy default/3: value: -1 is negative (Negative)"]);
    graph.put(policies, 3, 1);
    graph.commit();
    assert!(graph.diagnostics().is_empty());
}

#[test]
fn provenance_names_sources_and_reads() {
    let mut graph = Graph::new();
    let pods = graph.input::<&str, &str>("pods");
    let nodes = graph.input::<&str, u8>("nodes");
    let by_node = graph.index(pods, |_, node, keys| keys.push(*node));
    let groups = graph.group("groups", by_node, move |cx, node| Some(cx.fetch(by_node, node).count()));
    let named = graph.derive("named", groups, move |cx, node, count| {
        Some((node.to_string(), (*count, cx.get(nodes, node).copied())))
    });
    graph.reset(pods, [("a", "n1"), ("b", "n1"), ("c", "n2")]);
    graph.put(nodes, "n1", 1);
    graph.commit();
    let provenance = graph.provenance(named, &"n1".to_string());
    assert_eq!(provenance.origins, [("pods", "\"a\"".to_string()), ("pods", "\"b\"".to_string())]);
    assert_eq!(provenance.reads, [("nodes", "\"n1\"".to_string())]);
}

#[test]
fn tables_can_be_looked_into() {
    let mut graph = Graph::new();
    let pods = graph.input::<&str, u8>("pods");
    let nodes = graph.input::<u8, &str>("nodes");
    graph.derive("placed", pods, move |cx, key, node| Some((*key, cx.get(nodes, node).copied()?)));
    graph.output("told", pods, |_, _, node| Some(*node), |node| u64::from(*node), |_, _| {});
    graph.reset(pods, [("b", 1), ("a", 1), ("ab", 2)]);
    graph.put(nodes, 1, "here");
    graph.commit();

    let row = |key: &str, row: Option<&str>| DumpedRow {
        key: format!("{key:?}"),
        row: row.map(str::to_owned),
        provenance: None,
    };
    let all = graph.dump("placed", None, 10).unwrap();
    assert_eq!(all, Dump { rows: 2, shown: vec![row("a", Some("\"here\"")), row("b", Some("\"here\""))] });
    assert_eq!(graph.dump("pods", None, 2).unwrap().shown.len(), 2);
    // Of what has left the graph there is no more than the keys.
    assert_eq!(graph.dump("told", None, 10).unwrap().shown, ["a", "ab", "b"].map(|key| row(key, None)));

    let one = graph.dump("placed", Some("\"a\""), 10).unwrap();
    let [DumpedRow { key, provenance: Some(provenance), .. }] = &*one.shown else { panic!("{one:?}") };
    assert_eq!((&**key, one.rows), ("\"a\"", 2));
    assert_eq!(provenance.origins, [("pods", "\"a\"".to_owned())]);
    assert_eq!(provenance.reads, [("nodes", "1".to_owned())]);
    for other in ["", "\"", "\"a", "\"ab\"", "\"a\"b"] {
        assert_eq!(graph.dump("placed", Some(other), 10).unwrap().shown, [], "{other}");
    }
    assert_eq!(graph.dump("nothing", None, 10), None);
}

#[test]
fn a_long_row_is_cut_short() {
    let mut graph = Graph::new();
    let texts = graph.input::<u8, String>("texts");
    graph.put(texts, 1, "ä".repeat(3000));
    graph.put(texts, 2, "b".repeat(4000));
    graph.commit();
    let rows: Vec<_> = graph.dump("texts", None, 10).unwrap().shown.into_iter().filter_map(|one| one.row).collect();
    assert_eq!(rows, ["\"".to_owned() + &"ä".repeat(2047) + "…", format!("{:?}", "b".repeat(4000))]);
    let whole = graph.dump("texts", Some("1"), 10).unwrap().shown.remove(0).row;
    assert_eq!(whole, Some(format!("{:?}", "ä".repeat(3000))));
}
