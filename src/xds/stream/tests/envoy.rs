//! What Envoys need besides: everything a listener refers to is there before
//! it, and for as long as it may be used.

use super::*;
use crate::proxy::scope::Families;
use crate::proxy::{Capabilities, WaypointScope};
use crate::xds::view::{Config, LayerKind};

use ResourceType::{Cluster, Endpoints, Listener};

/// A waypoint's stream, and what its scope is told: clusters and endpoints
/// named `c…`, listeners named `l…`.
struct Waypoint {
    bench: Bench,
    layers: [Layer; LayerKind::SCOPED.len()],
}

fn scope() -> Scope {
    Scope::from(WaypointScope {
        namespace: "ns".into(),
        gateway: "wp".into(),
        capabilities: Capabilities::STOCK,
        families: Families::V4,
        loopback: None,
        place: Node::parse(&node()).unwrap().place,
    })
}

fn node() -> WireNode {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let labels = Struct { fields: [("gateway.networking.k8s.io/gateway-name".into(), text("wp"))].into() };
    let labels = Value { kind: Some(Kind::StructValue(labels)) };
    WireNode {
        id: "waypoint~1.1.1.1~wp-x.ns~ns.svc.cluster.local".into(),
        metadata: Some(Struct { fields: [("LABELS".into(), labels)].into() }),
        ..Default::default()
    }
}

impl Waypoint {
    /// Nothing is known of the scope yet.
    fn unknown() -> Self {
        Self { bench: Bench::new(Variant::Delta, &[]), layers: Default::default() }
    }

    fn new(clusters: &[&str], listeners: &[&str]) -> Self {
        let mut waypoint = Self::unknown();
        let all = |names: &[&'static str], ty| names.iter().map(|name| (ty, *name)).collect::<Vec<_>>();
        let names =
            |names: &[&str]| names.iter().map(|name| name.to_string().leak() as &'static str).collect::<Vec<_>>();
        let (clusters, listeners) = (names(clusters), names(listeners));
        let both = [all(&clusters, Cluster), all(&clusters, Endpoints), all(&listeners, Listener)].concat();
        waypoint.publish(&both.iter().map(|(ty, name)| (*ty, *name, "1")).collect::<Vec<_>>(), &[]);
        waypoint
    }

    /// Publishes the next view.
    fn publish(&mut self, upserts: &[(ResourceType, &str, &str)], removals: &[(ResourceType, &str)]) {
        for (ty, name, content) in upserts {
            let resource = Resource::new(*ty, name, content.as_bytes(), &Keys::default());
            self.layers[ty.layer().scoped().unwrap()].upsert(resource);
        }
        for (ty, name) in removals {
            assert!(self.layers[ty.layer().scoped().unwrap()].remove(name));
        }
        let views = &self.bench.views;
        let scopes = [(scope(), Arc::new(Config::new(self.layers.clone())))].into_iter().collect();
        let next = Views::new(views.revision + 1, views.addresses.clone(), views.authorizations.clone());
        self.bench.views = Arc::new(next.with_scopes(scopes));
    }

    fn request(&mut self, mut request: DeltaRequest) -> Received {
        if self.bench.stream.node().is_none() {
            request.node = Some(node());
        }
        self.bench.stream.on_delta_request(request).unwrap()
    }

    /// An Envoy that has everything and has accepted it.
    fn synced(clusters: &[&str], listeners: &[&str]) -> Self {
        let mut waypoint = Self::new(clusters, listeners);
        waypoint.request(delta(Cluster));
        assert_eq!(waypoint.bench.response().unwrap().0, Cluster);
        if !clusters.is_empty() {
            waypoint.request(sub(Endpoints, clusters));
        }
        waypoint.bench.ack(Cluster);
        if !clusters.is_empty() {
            assert_eq!(waypoint.bench.response().unwrap().0, Endpoints);
            waypoint.bench.ack(Endpoints);
        }
        waypoint.request(delta(Listener));
        assert_eq!(waypoint.bench.response().unwrap().0, Listener);
        waypoint.bench.ack(Listener);
        waypoint.bench.expect(&[]);
        waypoint
    }
}

#[test]
fn nothing_before_the_scope_is_known() {
    let mut waypoint = Waypoint::unknown();
    waypoint.request(delta(Cluster));
    waypoint.bench.expect(&[]);
    assert_eq!(waypoint.bench.stream.scope(), Some(&scope()));
    waypoint.publish(&[], &[]);
    waypoint.bench.expect(&[(Cluster, &[], &[])]);
}

#[test]
fn a_proxy_without_a_scope_is_not_served() {
    let mut bench = Bench::new(Variant::Delta, &[]);
    let received = bench.request(delta(Cluster));
    assert_eq!(received, Received::UnknownType(Cluster.type_url().into()));
    bench.expect(&[]);
}

#[test]
fn clusters_and_their_endpoints_are_there_before_what_uses_them() {
    let mut waypoint = Waypoint::synced(&["c1"], &["l"]);
    waypoint.publish(&[(Cluster, "c2", "1"), (Endpoints, "c2", "1"), (Listener, "l", "2")], &[]);
    waypoint.bench.expect(&[(Cluster, &["c2=1"], &[])]);
    // The cluster is accepted; its endpoints have not even been asked for.
    waypoint.bench.ack(Cluster);
    waypoint.bench.expect(&[]);
    waypoint.request(sub(Endpoints, &["c2"]));
    waypoint.bench.expect(&[(Endpoints, &["c2=1"], &[])]);
    waypoint.bench.ack(Endpoints);
    waypoint.bench.expect(&[(Listener, &["l=2"], &[])]);
}

#[test]
fn clusters_stay_until_what_used_them_is_accepted() {
    let mut waypoint = Waypoint::synced(&["c1", "c2"], &["l"]);
    waypoint.publish(&[(Listener, "l", "2")], &[(Cluster, "c2"), (Endpoints, "c2")]);
    waypoint.bench.expect(&[(Listener, &["l=2"], &[])]);
    waypoint.bench.ack(Listener);
    waypoint.bench.expect(&[(Endpoints, &[], &["c2"]), (Cluster, &[], &["c2"])]);
}

#[test]
fn clusters_stay_while_what_uses_them_is_rejected() {
    let mut waypoint = Waypoint::synced(&["c1", "c2"], &["l"]);
    waypoint.publish(&[(Listener, "l", "bad")], &[(Cluster, "c2"), (Endpoints, "c2")]);
    waypoint.bench.expect(&[(Listener, &["l=bad"], &[])]);
    waypoint.bench.nack(Listener);
    // The proxy still has the old listener, and is not sent the new one again.
    waypoint.bench.expect(&[]);
    waypoint.publish(&[(Cluster, "c1", "2")], &[]);
    waypoint.bench.expect(&[(Cluster, &["c1=2"], &[]), (Endpoints, &["c1=1"], &[])]);
    waypoint.bench.ack(Cluster);
    waypoint.bench.ack(Endpoints);
    waypoint.publish(&[(Listener, "l", "3")], &[]);
    waypoint.bench.expect(&[(Listener, &["l=3"], &[])]);
    waypoint.bench.ack(Listener);
    waypoint.bench.expect(&[(Endpoints, &[], &["c2"]), (Cluster, &[], &["c2"])]);
}

/// That it takes another listener does not mean that it has the rejected one.
#[test]
fn clusters_stay_while_another_listener_is_accepted() {
    let mut waypoint = Waypoint::synced(&["c1", "c2"], &["first"]);
    let synced = waypoint.bench.views.revision;
    waypoint.publish(&[(Listener, "first", "bad")], &[(Cluster, "c2"), (Endpoints, "c2")]);
    waypoint.bench.expect(&[(Listener, &["first=bad"], &[])]);
    let rejection = Some(Rejection { message: "Error adding/updating listener(s) first: no".into() });
    let response_nonce = waypoint.bench.nonces[&Listener].clone();
    waypoint.request(DeltaRequest { response_nonce, rejection, ..delta(Listener) });
    waypoint.publish(&[(Listener, "second", "1")], &[]);
    waypoint.bench.expect(&[(Listener, &["second=1"], &[])]);
    waypoint.bench.ack(Listener);
    waypoint.bench.expect(&[]);
    let listeners = |waypoint: &Waypoint| {
        let error = waypoint.bench.stream.progress().find(|progress| progress.ty == Listener).unwrap().error;
        let verdict = waypoint.bench.stream.verdict(Listener, None).unwrap();
        (error.is_some(), verdict.accepted.unwrap().revision)
    };
    assert_eq!(listeners(&waypoint), (true, synced));

    waypoint.publish(&[(Listener, "first", "3")], &[]);
    waypoint.bench.expect(&[(Listener, &["first=3"], &[])]);
    waypoint.bench.ack(Listener);
    waypoint.bench.expect(&[(Endpoints, &[], &["c2"]), (Cluster, &[], &["c2"])]);
    assert_eq!(listeners(&waypoint), (false, waypoint.bench.views.revision));
}

#[test]
fn a_changed_cluster_is_followed_by_its_endpoints() {
    let mut waypoint = Waypoint::synced(&["c1", "c2"], &["l"]);
    waypoint.publish(&[(Cluster, "c1", "2")], &[]);
    waypoint.bench.expect(&[(Cluster, &["c1=2"], &[]), (Endpoints, &["c1=1"], &[])]);
}

#[test]
fn the_rest_goes_on_when_a_cluster_is_rejected() {
    let mut waypoint = Waypoint::synced(&["c1"], &["l"]);
    waypoint.publish(&[(Cluster, "c2", "bad"), (Endpoints, "c2", "1"), (Listener, "l", "2")], &[]);
    waypoint.bench.expect(&[(Cluster, &["c2=bad"], &[])]);
    // It never asks for the endpoints of what it rejected.
    waypoint.bench.nack(Cluster);
    waypoint.bench.expect(&[(Listener, &["l=2"], &[])]);
}

#[test]
fn listeners_do_not_starve_while_endpoints_change() {
    let mut waypoint = Waypoint::synced(&["c1"], &["l"]);
    waypoint.publish(&[(Endpoints, "c1", "2")], &[]);
    waypoint.bench.expect(&[(Endpoints, &["c1=2"], &[])]);
    for round in 3..6 {
        let content = round.to_string();
        waypoint.publish(&[(Endpoints, "c1", &content), (Listener, "l", &content)], &[]);
        waypoint.bench.ack(Endpoints);
        assert_eq!(waypoint.bench.response().unwrap().0, Endpoints, "round {round}");
    }
    // While the last one is under way, the listener may be as of the one before.
    assert_eq!(waypoint.bench.response().unwrap(), (Listener, vec!["l=4".into()], vec![]));
}

#[test]
fn a_proxy_that_comes_back_is_sent_what_changed_in_order() {
    let mut waypoint = Waypoint::new(&["c1", "c2"], &["l"]);
    let version = |ty: ResourceType, name: &str, waypoint: &Waypoint| {
        waypoint.bench.views.layer(ty, Some(&scope())).get(name).unwrap().version().to_string()
    };
    let held = |ty: ResourceType, name: &str, waypoint: &Waypoint| {
        let mut held = InitialVersions::new(ty, &waypoint.bench.views);
        held.add(name.as_bytes(), version(ty, name, waypoint).as_bytes()).unwrap();
        Some(held)
    };
    // It knew c1 and an older listener.
    let initial_versions = held(Cluster, "c1", &waypoint);
    waypoint.request(DeltaRequest { initial_versions, ..delta(Cluster) });
    let initial_versions = held(Endpoints, "c1", &waypoint);
    waypoint.request(DeltaRequest { initial_versions, ..sub(Endpoints, &["c1"]) });
    let mut old = InitialVersions::new(Listener, &waypoint.bench.views);
    old.add(b"l", b"older").unwrap();
    waypoint.request(DeltaRequest { initial_versions: Some(old), ..delta(Listener) });

    waypoint.bench.expect(&[(Cluster, &["c2=1"], &[])]);
    waypoint.bench.ack(Cluster);
    waypoint.bench.expect(&[(Endpoints, &[], &[])]);
    waypoint.bench.ack(Endpoints);
    waypoint.bench.expect(&[]);
    waypoint.request(sub(Endpoints, &["c2"]));
    waypoint.bench.expect(&[(Endpoints, &["c2=1"], &[])]);
    waypoint.bench.ack(Endpoints);
    waypoint.bench.expect(&[(Listener, &["l=1"], &[])]);
}

/// Proxies that ask for all endpoints by name share what they are sent and what
/// they hold with each other, as those do that ask for everything.
#[test]
fn endpoints_that_are_all_asked_for_are_shared() {
    let mut waypoint = Waypoint::synced(&["c1", "c2"], &["l"]);
    waypoint.publish(&[(Endpoints, "c1", "2")], &[]);
    waypoint.bench.expect(&[(Endpoints, &["c1=2"], &[])]);
    let names = |waypoint: &Waypoint| {
        let all = waypoint.bench.views.names(Endpoints, Some(&scope())).expect("it has a scope");
        let subscriptions = waypoint.bench.stream.subscriptions.iter();
        let own =
            subscriptions.filter(|one| one.ty == Endpoints).map(|one| one.names()).next().expect("it asks for some");
        (std::ptr::eq(own, &**all), own.len())
    };
    let shared = |waypoint: &Waypoint| match &waypoint.bench.last.as_ref().unwrap().contents {
        Contents::Step(step) => step.upserts.len(),
        other => panic!("a list of its own: {other:?}"),
    };
    assert_eq!(shared(&waypoint), 1);
    waypoint.bench.ack(Endpoints);

    // One that is new is not asked for at first; what is known goes on.
    waypoint.publish(&[(Cluster, "c3", "1"), (Endpoints, "c3", "1"), (Endpoints, "c2", "2")], &[]);
    waypoint.bench.expect(&[(Cluster, &["c3=1"], &[])]);
    waypoint.bench.ack(Cluster);
    waypoint.bench.expect(&[(Endpoints, &["c2=2"], &[])]);
    waypoint.request(sub(Endpoints, &["c3"]));
    waypoint.bench.ack(Endpoints);
    waypoint.bench.expect(&[(Endpoints, &["c3=1"], &[])]);
    waypoint.bench.ack(Endpoints);
    waypoint.publish(&[(Endpoints, "c3", "2")], &[]);
    waypoint.bench.expect(&[(Endpoints, &["c3=2"], &[])]);
    assert_eq!(shared(&waypoint), 1);
    waypoint.bench.ack(Endpoints);

    // A proxy that comes now has the same names.
    waypoint.bench.stream = Stream::new(Variant::Delta, 8);
    waypoint.request(delta(Cluster));
    assert_eq!(waypoint.bench.response().unwrap().0, Cluster);
    waypoint.bench.ack(Cluster);
    waypoint.request(sub(Endpoints, &["c1", "c2", "c3"]));
    waypoint.bench.expect(&[(Endpoints, &["c1=2", "c2=2", "c3=2"], &[])]);
    waypoint.bench.ack(Endpoints);
    assert_eq!(names(&waypoint), (true, 3));

    // Who gives one up has names of its own, and is not told of it any more.
    waypoint.request(unsub(Endpoints, &["c1"]));
    waypoint.bench.expect(&[]);
    assert_eq!(names(&waypoint), (false, 2));
    waypoint.publish(&[(Endpoints, "c1", "3"), (Endpoints, "c2", "3")], &[]);
    waypoint.bench.expect(&[(Endpoints, &["c2=3"], &[])]);
}
