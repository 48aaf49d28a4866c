//! A waypoint with several services, of which an Envoy that the test plays
//! rejects whatever has the word `poison` in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::api::Change;
use crate::model::Settings;
use crate::proxy::scope::Families;
use crate::proxy::{Capabilities, Place, WaypointScope};
use crate::source::documents::{Document, read};
use crate::translation::Translation;
use crate::xds::view::Layer;

const MESH: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: x}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: IPAddress, value: 10.0.0.9}]}
---
";

fn service(name: &str, number: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: x, labels: {{istio.io/use-waypoint: w}}}}\n\
         spec: {{clusterIP: 10.0.1.{number}, ports: [{{name: http, port: 80}}]}}\n---\n"
    )
}

/// A virtual service that answers with a text.
fn answers(name: &str, text: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v-{name}, namespace: x}}\n\
         spec: {{hosts: [{name}], http: [{{directResponse: {{status: 200, body: {{string: \"{text}\"}}}}}}]}}\n---\n"
    )
}

fn scope() -> Scope {
    Scope::Waypoint(WaypointScope {
        namespace: "x".into(),
        gateway: "w".into(),
        capabilities: Capabilities::STOCK,
        families: Families::V4,
        loopback: None,
        place: Place::default(),
    })
}

/// How an Envoy puts it.
#[derive(Clone, Copy, PartialEq)]
enum Words {
    /// Without a hint.
    Vague,
    /// With a word of what it does not like.
    Quoting,
}

struct World {
    translation: Translation,
    views: Arc<Views>,
    /// The last views of which the Envoy accepted all.
    accepted: Option<Arc<Views>>,
    /// The versions of listeners that it has been sent.
    sent: BTreeMap<String, u64>,
    /// Those that it did not take.
    refused: BTreeSet<String>,
    words: Words,
    blank: bool,
    /// How often it rejected something.
    rejections: usize,
    /// The services of which connections have ended at any time.
    closed: BTreeSet<String>,
}

impl World {
    fn new(words: Words) -> Self {
        let mut translation = Translation::new(Arc::<Settings>::default());
        translation.want([scope()]);
        let views = Arc::new(Views::new(0, Layer::default(), Layer::default()));
        Self {
            translation,
            views,
            accepted: None,
            sent: BTreeMap::new(),
            refused: BTreeSet::new(),
            words,
            blank: true,
            rejections: 0,
            closed: BTreeSet::new(),
        }
    }

    fn apply(&mut self, yaml: &str) {
        for document in read(yaml) {
            match document {
                Document::Object(object) => self.translation.apply(Change::Put(object)),
                other => panic!("{other:?}"),
            }
        }
        self.commit();
    }

    fn commit(&mut self) {
        self.translation.commit();
        if let Some(views) = self.translation.published() {
            self.views = views;
        }
        self.translation.graph.settle();
    }

    fn listener(views: &Views) -> Vec<u8> {
        let listener = views.layer(ResourceType::Listener, Some(&scope())).get(MAIN_INTERNAL).expect("a listener");
        listener.message(ResourceType::Listener).to_vec()
    }

    fn has(&self, text: &str) -> bool {
        memchr::memmem::find(&Self::listener(&self.views), text.as_bytes()).is_some()
    }

    /// The Envoy takes what there is, until nothing changes any more.
    fn settle(&mut self) {
        for _ in 0..64 {
            let closed = (1..=32).map(|number| format!("s{number}"));
            self.closed.extend(closed.filter(|name| self.has(&format!("quarantined|80|x/{name}.x"))));
            let sent = self.views.clone();
            let Some(error) = self.answer(&sent) else { return };
            self.rejections += usize::from(error.is_some());
            if self.refused.is_empty() {
                self.accepted = Some(sent.clone());
            }
            let verdict = Verdict {
                scope: Some(scope()),
                proxy: "w-1.x".into(),
                ty: ResourceType::Listener,
                accepted: self.accepted.clone(),
                sent,
                blank: self.blank,
                error: error.map(Into::into),
            };
            if self.translation.judge(&verdict) {
                self.commit();
            }
        }
        panic!("it does not come to an end");
    }

    /// What the Envoy says of what is new to it; nothing if nothing is.
    fn answer(&mut self, views: &Views) -> Option<Option<String>> {
        let layer = views.layer(ResourceType::Listener, Some(&scope()));
        let all: BTreeMap<String, u64> =
            layer.iter().map(|one| (one.name().to_owned(), one.version().number())).collect();
        if all == self.sent {
            return None;
        }
        let new = all.iter().filter(|(name, version)| self.sent.get(*name) != Some(*version));
        let (mut errors, mut changed) = (Vec::new(), BTreeSet::new());
        for (name, _) in new {
            let message = layer.get(name).expect("it is there").message(ResourceType::Listener);
            changed.insert(name.clone());
            if memchr::memmem::find(&message, b"poison").is_some() {
                errors.push(match self.words {
                    Words::Vague => format!("{name}: no"),
                    Words::Quoting => format!("{name}: bad value 'poison'"),
                });
                self.refused.insert(name.clone());
            } else {
                self.refused.remove(name);
            }
        }
        self.refused.retain(|name| all.contains_key(name));
        self.sent = all;
        Some((!errors.is_empty()).then(|| format!("Error adding/updating listener(s) {}", errors.join("\n"))))
    }

    /// The listeners that the Envoy is told.
    fn listeners(&self) -> Vec<String> {
        let layer = self.views.layer(ResourceType::Listener, Some(&scope()));
        layer.iter().map(|one| one.name().to_owned()).filter(|name| !name.starts_with("connect_")).collect()
    }

    /// The objects that something is said of.
    fn said(&mut self) -> Option<BTreeSet<String>> {
        let names = |all: BTreeMap<Object, String>| all.into_keys().map(|(kind, key)| format!("{kind:?} {key}")).collect();
        self.translation.rejections().news().map(names)
    }
}

fn world(words: Words, count: usize) -> World {
    let mut world = World::new(words);
    let services = (1..=count).map(|number| service(&format!("s{number}"), number));
    world.apply(&(MESH.to_owned() + &services.collect::<String>()));
    world
}

fn said(names: &[&str]) -> Option<BTreeSet<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn a_bad_change_keeps_what_was_accepted_and_others_go_on() {
    let mut world = world(Words::Vague, 3);
    world.apply(&answers("s1", "good"));
    world.settle();
    assert_eq!(world.said(), None);
    world.apply(&answers("s1", "poison"));
    world.settle();
    assert_eq!(world.rejections, 1, "it is not sent again");
    assert_eq!(world.said(), said(&["VirtualService x/v-s1"]));
    assert!(world.has("good") && !world.has("poison"));
    // Others change as if nothing was.
    world.apply(&answers("s2", "second"));
    world.settle();
    assert!(world.has("good") && world.has("second"));
    assert_eq!((world.rejections, world.said()), (1, None));
    // What is mended is told again, and the complaint is over.
    world.apply(&answers("s1", "mended"));
    world.settle();
    assert!(world.has("mended") && !world.has("good"));
    assert_eq!(world.said(), said(&[]));
    assert!(!world.translation.rejections().open());
}

#[test]
fn a_new_service_that_is_bad_is_closed() {
    let mut world = world(Words::Vague, 2);
    world.settle();
    world.apply(&(service("new", 9) + &answers("new", "poison")));
    world.settle();
    assert_eq!(world.rejections, 1);
    assert!(world.has("quarantined|80|x/new.x.svc.cluster.local") && world.has("10.0.1.9"), "its address leads nowhere");
    let expected = ["VirtualService x/v-new"];
    assert_eq!(world.said(), said(&expected));
    world.translation.apply(Change::Delete(Kind::VirtualService, ObjectKey::new("x", "v-new")));
    world.commit();
    world.settle();
    assert!(!world.has("quarantined|") && world.has("inbound-vip|80|http|new.x.svc.cluster.local"));
    assert_eq!(world.said(), said(&[]));
}

#[test]
fn the_bad_ones_among_many_are_found() {
    for words in [Words::Vague, Words::Quoting] {
        let mut world = world(words, 32);
        world.settle();
        let all = (1..=32).map(|number| {
            answers(&format!("s{number}"), if matches!(number, 7 | 20) { "poison" } else { "good" })
        });
        world.apply(&all.collect::<String>());
        world.settle();
        assert!(world.rejections <= 16, "{}", world.rejections);
        assert!(!world.has("poison"));
        let good = Arc::from(World::listener(&world.views));
        let count = |good: &Arc<[u8]>| memchr::memmem::find_iter(good, "good").count();
        assert_eq!(count(&good), 30, "all the others have what they should");
        let mut blamed = BTreeSet::new();
        while let Some(more) = world.said() {
            blamed = more;
        }
        assert_eq!(Some(blamed), said(&["VirtualService x/v-s20", "VirtualService x/v-s7"]));
    }
}

#[test]
fn a_waypoint_that_begins_with_something_bad() {
    let mut world = world(Words::Vague, 4);
    world.apply(&(answers("s3", "poison") + &answers("s4", "good")));
    world.settle();
    assert!(world.has("good") && !world.has("poison"));
    assert!(world.has("quarantined|80|x/s3.x.svc.cluster.local") && !world.has("quarantined|80|x/s4"));

}

/// As after a restart of the control plane.
#[test]
fn of_a_waypoint_that_goes_on_with_what_only_it_knows_the_innocent_lose_nothing() {
    for words in [Words::Vague, Words::Quoting] {
        for bad in [&[3][..], &[1, 32], &[9, 10, 20]] {
            let mut world = self::world(words, 32);
            world.blank = false;
            let text = |number| if bad.contains(&number) { "poison" } else { "good" };
            world.apply(&(1..=32).map(|number| answers(&format!("s{number}"), text(number))).collect::<String>());
            world.settle();
            assert!(!world.has("poison") && world.has("good"));
            let named = |one: &i32| format!("s{one}");
            assert_eq!(world.closed, bad.iter().map(named).collect(), "{bad:?}");
            assert_eq!(world.listeners(), [MAIN_INTERNAL], "nothing is left of the search");
            let mut blamed = BTreeSet::new();
            while let Some(more) = world.said() {
                blamed = more;
            }
            assert_eq!(blamed, bad.iter().map(|one| format!("VirtualService x/v-s{one}")).collect());
            // What is mended is told again.
            world.apply(&bad.iter().map(|one| answers(&named(one), "mended")).collect::<String>());
            world.settle();
            assert!(world.has("mended") && !world.has("quarantined|"));
            assert_eq!(world.said(), said(&[]));
            assert!(!world.translation.rejections().open());
        }
    }
}

#[test]
fn others_may_change_during_a_search() {
    let mut world = world(Words::Vague, 16);
    world.blank = false;
    world.apply(&answers("s5", "poison"));
    // Until it is asked about parts of it.
    let error = world.answer(&world.views.clone()).expect("something is new");
    let verdict = Verdict {
        scope: Some(scope()),
        proxy: "w-1.x".into(),
        ty: ResourceType::Listener,
        accepted: None,
        sent: world.views.clone(),
        blank: false,
        error: error.map(Into::into),
    };
    assert!(world.translation.judge(&verdict));
    world.apply(&answers("s6", "second"));
    assert_eq!(world.listeners().len(), 2);
    world.settle();
    assert!(world.has("second") && !world.has("poison"));
    assert_eq!(world.closed, ["s5".to_owned()].into());
    assert_eq!(world.listeners(), [MAIN_INTERNAL]);
}

#[test]
fn a_waypoint_stays_as_it_is_if_what_all_have_is_rejected() {
    let mut world = world(Words::Vague, 16);
    world.blank = false;
    world.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
         data: {mesh: 'accessLogFile: /poison'}\n",
    );
    world.settle();
    assert_eq!(world.closed, BTreeSet::new());
    assert_eq!(world.listeners(), [MAIN_INTERNAL]);
    world.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
         data: {mesh: 'accessLogFile: /mended'}\n",
    );
    world.settle();
    assert!(world.refused.is_empty());
}

#[test]
fn a_search_ends_with_the_proxy() {
    let mut world = world(Words::Vague, 8);
    world.blank = false;
    world.apply(&answers("s5", "poison"));
    let error = world.answer(&world.views.clone()).expect("something is new");
    let verdict = Verdict {
        scope: Some(scope()),
        proxy: "w-1.x".into(),
        ty: ResourceType::Listener,
        accepted: None,
        sent: world.views.clone(),
        blank: false,
        error: error.map(Into::into),
    };
    assert!(world.translation.judge(&verdict));
    world.commit();
    assert_eq!(world.listeners().len(), 2);
    world.translation.want([]);
    world.commit();
    assert!(!world.translation.rejections().open());
    // It comes back with nothing.
    world.translation.want([scope()]);
    world.commit();
    assert_eq!(world.listeners(), [MAIN_INTERNAL]);
}

#[test]
fn another_listener_is_not_the_services_fault() {
    let mut world = world(Words::Vague, 2);
    world.settle();
    world.apply(&answers("s1", "new"));
    let verdict = Verdict {
        scope: Some(scope()),
        proxy: "w-1.x".into(),
        ty: ResourceType::Listener,
        accepted: world.accepted.clone(),
        sent: world.views.clone(),
        blank: true,
        error: Some("Error adding/updating listener(s) connect_terminate: no".into()),
    };
    assert!(!world.translation.judge(&verdict), "nothing is held back");
    assert!(world.has("new"));
}

#[test]
fn a_resource_of_its_own_is_named() {
    let mut world = world(Words::Vague, 2);
    world.apply(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: x}\n\
         spec: {host: s1, trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}}\n",
    );
    let cluster = "inbound-vip|80|http||s1.x.svc.cluster.local";
    let layer = world.views.layer(ResourceType::Cluster, Some(&scope()));
    let cluster = layer.iter().map(|one| one.name().to_owned()).find(|name| name.contains("s1.x")).expect(cluster);
    let verdict = |error: Option<String>, views: &Arc<Views>| Verdict {
        scope: Some(scope()),
        proxy: "w-1.x".into(),
        ty: ResourceType::Cluster,
        accepted: None,
        sent: views.clone(),
        blank: true,
        error: error.map(Into::into),
    };
    let views = world.views.clone();
    let error = format!("Error adding/updating cluster(s) {cluster}: no");
    assert!(!world.translation.judge(&verdict(Some(error), &views)));
    assert_eq!(world.said(), said(&["DestinationRule x/d"]));
    assert!(world.translation.rejections().open());
    // The same again is not the end of it; another version is.
    world.translation.judge(&verdict(None, &views));
    assert_eq!(world.said(), None);
    world.apply(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: x}\n\
         spec: {host: s1, trafficPolicy: {connectionPool: {tcp: {maxConnections: 8}}}}\n",
    );
    let views = world.views.clone();
    world.translation.judge(&verdict(None, &views));
    assert_eq!(world.said(), said(&[]));
    // A proxy that has gone takes its complaints along.
    let error = format!("Error adding/updating cluster(s) {cluster}: no");
    world.translation.judge(&verdict(Some(error), &views));
    assert!(world.said().is_some_and(|said| !said.is_empty()));
    world.translation.want([]);
    world.commit();
    assert_eq!(world.said(), said(&[]));
}
