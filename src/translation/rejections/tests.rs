//! A waypoint with several services, of which an Envoy that the test plays
//! rejects whatever has the word `poison` in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::api::Change;
use crate::model::Settings;
use crate::proxy::scope::Families;
use crate::proxy::{Capabilities, GatewayScope, Place, WaypointScope};
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
    Scope::from(WaypointScope {
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
    scope: Scope,
    /// The resource that is put together from parts.
    resource: (ResourceType, &'static str),
    views: Arc<Views>,
    /// What the Envoy was told, by type.
    told: BTreeMap<ResourceType, Told>,
    words: Words,
    blank: bool,
    /// How often it rejected something.
    rejections: usize,
    /// How often the word `good` has been in what it was told, at least.
    good: usize,
}

/// What an Envoy was told of a type.
#[derive(Default)]
struct Told {
    versions: BTreeMap<String, u64>,
    /// What of it was rejected.
    refused: BTreeSet<String>,
    /// The last views of which all was accepted.
    accepted: Option<Arc<Views>>,
}

impl World {
    fn new(words: Words) -> Self {
        Self::of(words, scope(), (ResourceType::Listener, MAIN_INTERNAL))
    }

    fn of(words: Words, scope: Scope, resource: (ResourceType, &'static str)) -> Self {
        let mut translation = Translation::new(Arc::<Settings>::default());
        translation.want([scope.clone()]);
        let views = Arc::new(Views::new(0, Layer::default(), Layer::default()));
        let told = BTreeMap::new();
        Self { translation, scope, resource, views, told, words, blank: true, rejections: 0, good: usize::MAX }
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

    fn resource(&self) -> Vec<u8> {
        let (ty, name) = self.resource;
        self.views.layer(ty, Some(&self.scope)).get(name).expect("it is there").message(ty).to_vec()
    }

    fn has(&self, text: &str) -> bool {
        self.count(text) > 0
    }

    fn count(&self, text: &str) -> usize {
        memchr::memmem::find_iter(&self.resource(), text.as_bytes()).count()
    }

    /// The listeners, but those that every proxy has.
    fn listeners(&self) -> Vec<String> {
        let layer = self.views.layer(ResourceType::Listener, Some(&self.scope));
        layer.iter().map(|one| one.name().to_owned()).filter(|name| !name.starts_with("connect_")).collect()
    }

    /// The Envoy takes what there is, until nothing changes any more.
    fn settle(&mut self) {
        for _ in 0..128 {
            self.good = self.good.min(self.count("good"));
            let types = [ResourceType::Routes, ResourceType::Listener];
            let Some(verdict) = types.into_iter().find_map(|ty| self.verdict(ty)) else { return };
            if self.translation.judge(&verdict) {
                self.commit();
            }
        }
        panic!("it does not come to an end");
    }

    /// What the Envoy says of what is new to it; nothing if nothing is.
    fn verdict(&mut self, ty: ResourceType) -> Option<Verdict> {
        let layer = self.views.layer(ty, Some(&self.scope));
        let all: BTreeMap<String, u64> =
            layer.iter().map(|one| (one.name().to_owned(), one.version().number())).collect();
        let told = self.told.entry(ty).or_default();
        if all == told.versions {
            return None;
        }
        let mut errors = Vec::new();
        for (name, _) in all.iter().filter(|(name, version)| told.versions.get(*name) != Some(*version)) {
            let message = layer.get(name).expect("it is there").message(ty);
            if memchr::memmem::find(&message, b"poison").is_some() {
                let why = if self.words == Words::Vague { "no" } else { "bad value 'poison'" };
                errors.push(format!("{name}: {why}"));
                told.refused.insert(name.clone());
            } else {
                told.refused.remove(name);
            }
        }
        told.refused.retain(|name| all.contains_key(name));
        told.versions = all;
        if told.refused.is_empty() {
            told.accepted = Some(self.views.clone());
        }
        self.rejections += usize::from(!errors.is_empty());
        Some(Verdict {
            scope: Some(self.scope.clone()),
            proxy: "w-1.x".into(),
            ty,
            accepted: told.accepted.clone(),
            sent: self.views.clone(),
            blank: self.blank,
            error: (!errors.is_empty()).then(|| format!("Error adding/updating {}", errors.join(", ")).into()),
        })
    }

    /// The objects that something is said of, after all of what is new.
    fn blamed(&mut self) -> BTreeSet<String> {
        let mut blamed = BTreeSet::new();
        while let Some(more) = self.said() {
            blamed = more;
        }
        blamed
    }

    /// The objects that something is said of.
    fn said(&mut self) -> Option<BTreeSet<String>> {
        let names =
            |all: BTreeMap<Object, String>| all.into_keys().map(|(kind, key)| format!("{kind:?} {key}")).collect();
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

/// A gateway with one port.
fn at_gateway(words: Words) -> World {
    let scope = Scope::from(GatewayScope {
        namespace: "x".into(),
        capabilities: Capabilities::STOCK,
        families: Families::V4,
        loopback: None,
        unprivileged: false,
        own: None,
        place: Place::default(),
        address: None,
        listed_by: [].into(),
    });
    let mut world = World::of(words, scope, (ResourceType::Routes, "http.80"));
    world.apply(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: x}\n\
         spec: {servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}\n",
    );
    world
}

/// A virtual service of that gateway which answers with a text.
fn answers_at_gateway(name: &str, text: &str) -> String {
    answers(name, text).replace(&format!("hosts: [{name}]"), &format!("gateways: [gw], hosts: [{name}.com]"))
}

/// The hosts of a gateway's port are in one route configuration.
#[test]
fn a_bad_host_of_a_gateway_is_held_back_alone() {
    let answers = answers_at_gateway;
    for words in [Words::Vague, Words::Quoting] {
        let mut world = at_gateway(words);
        world.apply(&(1..=8).map(|number| answers(&format!("s{number}"), "good")).collect::<String>());
        world.settle();
        let hosts = (1..=8).map(|number| answers(&format!("s{number}"), if number == 3 { "poison" } else { "better" }));
        world.apply(&(hosts.collect::<String>() + &answers("new", "poison")));
        world.settle();
        assert!(!world.has("poison") && world.has("better") && world.rejections <= 8, "{}", world.rejections);
        assert!(world.has("good"), "what was accepted of it goes on");
        assert!(world.has("new.com"), "nobody answers in its place");
        assert_eq!(Some(world.blamed()), said(&["VirtualService x/v-new", "VirtualService x/v-s3"]));
        world.apply(&(answers("s3", "mended") + &answers("new", "mended")));
        world.settle();
        assert!(world.has("mended") && !world.has("good"));
        assert_eq!(world.said(), said(&[]));
    }
}

#[test]
fn a_new_service_that_is_bad_is_closed() {
    let mut world = world(Words::Vague, 2);
    world.settle();
    world.apply(&(service("new", 9) + &answers("new", "poison")));
    world.settle();
    assert_eq!(world.rejections, 1);
    assert!(
        world.has("quarantined|80|x/new.x.svc.cluster.local") && world.has("10.0.1.9"),
        "its address leads nowhere"
    );
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
        let all = (1..=32)
            .map(|number| answers(&format!("s{number}"), if matches!(number, 7 | 20) { "poison" } else { "good" }));
        world.apply(&all.collect::<String>());
        world.settle();
        assert!(world.rejections <= 16, "{}", world.rejections);
        assert!(!world.has("poison"));
        assert_eq!(world.count("good"), 30, "all the others have what they should");
        assert_eq!(Some(world.blamed()), said(&["VirtualService x/v-s20", "VirtualService x/v-s7"]));
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
            assert!(!world.has("poison"));
            assert_eq!(world.good, 32 - bad.len(), "nobody else was held back at any time");
            assert_eq!(world.listeners(), [MAIN_INTERNAL], "nothing is left of the search");
            let objects = bad.iter().map(|one| format!("VirtualService x/v-s{one}")).collect();
            assert_eq!(world.blamed(), objects);
            // What is mended is told again.
            world.apply(&bad.iter().map(|one| answers(&format!("s{one}"), "mended")).collect::<String>());
            world.settle();
            assert!(world.has("mended") && !world.has("quarantined|"));
            assert_eq!(world.said(), said(&[]));
            assert!(!world.translation.rejections().open());
        }
    }
}

/// The same for hosts of a gateway.
#[test]
fn of_a_gateway_that_goes_on_with_what_only_it_knows_the_innocent_lose_nothing() {
    let all = |text: &dyn Fn(usize) -> &'static str| {
        (1..=8).map(|number| answers_at_gateway(&format!("s{number}"), text(number))).collect::<String>()
    };
    for words in [Words::Vague, Words::Quoting] {
        let mut world = at_gateway(words);
        world.blank = false;
        world.apply(&all(&|number| if number == 3 { "poison" } else { "good" }));
        world.settle();
        assert!(!world.has("poison"));
        assert_eq!(world.good, 7);
        assert!(world.listeners().iter().all(|name| !is_trial(name)), "{:?}", world.listeners());
        assert_eq!(Some(world.blamed()), said(&["VirtualService x/v-s3"]));
        world.apply(&all(&|_| "good"));
        world.settle();
        assert_eq!((world.count("good"), world.said()), (8, said(&[])));
    }
}

/// A waypoint that goes on with something, of whose services `s5` is bad, and
/// that has been asked about some of them.
fn asked() -> World {
    let mut world = world(Words::Vague, 16);
    world.blank = false;
    world.apply(&answers("s5", "poison"));
    let verdict = world.verdict(ResourceType::Listener).expect("something is new");
    assert!(world.translation.judge(&verdict));
    world.commit();
    assert_eq!(world.listeners().len(), 2);
    world
}

#[test]
fn others_may_change_during_a_search() {
    let mut world = asked();
    world.apply(&answers("s6", "second"));
    world.settle();
    assert!(world.has("second"));
    assert!(!world.has("poison"));
    assert!(world.has("quarantined|80|x/s5."));
    assert_eq!(world.count("quarantined|80|x/s"), world.count("quarantined|80|x/s5."), "no other");
    assert_eq!(world.listeners(), [MAIN_INTERNAL]);
}

#[test]
fn a_search_ends_with_the_proxy() {
    let mut world = asked();
    world.translation.want([]);
    world.commit();
    assert!(!world.translation.rejections().open());
    // One that comes with nothing is told everything.
    world.translation.want([scope()]);
    world.commit();
    assert_eq!(world.listeners(), [MAIN_INTERNAL]);
}

#[test]
fn a_waypoint_stays_as_it_is_if_what_all_have_is_rejected() {
    let config = |path: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
             data: {{mesh: 'accessLogFile: {path}'}}\n"
        )
    };
    let mut world = world(Words::Vague, 16);
    world.blank = false;
    world.apply(&config("/poison"));
    world.settle();
    assert!(!world.has("quarantined|"));
    assert_eq!(world.listeners(), [MAIN_INTERNAL]);
    world.apply(&config("/mended"));
    world.settle();
    assert!(world.told[&ResourceType::Listener].refused.is_empty());
    assert!(!world.translation.rejections().open());
}

#[test]
fn a_name_is_not_a_part_of_another() {
    let cases = [
        ("duplicate domain shop.com", "shop.com", true),
        ("domain 'shop.com'.", "shop.com", true),
        ("It is shop.com. And so on", "shop.com", true),
        ("domain myshop.com", "shop.com", false),
        ("domain my.shop.com", "shop.com", false),
        ("domain shop.com.example", "shop.com", false),
        ("domain shop.community, then shop.com", "shop.com", true),
        ("chain inbound-vip|80|http|a.x.svc", "|a.x.svc", true),
        ("chain inbound-vip|80|http|a.x.svc2", "|a.x.svc", false),
    ];
    for (text, name, expected) in cases {
        assert_eq!(mentions(text, name), expected, "{text}: {name}");
    }
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
        accepted: world.told[&ResourceType::Listener].accepted.clone(),
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
