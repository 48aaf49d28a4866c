use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::{Just, Strategy, prop_oneof};
use serde_json::{Value, json};

use super::Server;
use super::reflector::Reflector;
use super::requests::Selection;
use super::scripted::{Call, Script, Stream, protobuf, server, status};
use crate::api::{Change, Kind};
use crate::source::{Event, Problems, Receiver, channel};

const POLICIES: &str = "/apis/security.istio.io/v1/authorizationpolicies";

/// A reflector of one kind, with the test at both of its ends.
struct Test {
    api: Script,
    events: Receiver,
    problems: Problems,
}

impl Test {
    fn start(kind: Kind) -> Self {
        let (client, api) = server();
        Self::with(&Server::new(client), api, kind)
    }

    fn with(server: &Server, api: Script, kind: Kind) -> Self {
        let (sender, events) = channel();
        let problems = Problems::default();
        let selection = Selection::of(kind, "istio-system");
        tokio::spawn(Reflector::new(server.clone(), selection, sender, problems.clone()).run());
        Self { api, events, problems }
    }

    /// A reflector of pods that has listed these, and watches from a version.
    async fn pods(version: u64, pods: &[Value]) -> (Self, Stream) {
        let mut test = Self::start(Kind::Pod);
        test.api.next().await.list(version, "", pods);
        let mut said = Vec::new();
        if !pods.is_empty() {
            said = test.said().await;
        }
        assert_eq!(said.len(), pods.len());
        assert_eq!(test.said().await, ["synced"]);
        let stream = test.api.watch(version).await;
        (test, stream)
    }

    /// What the next event says. Time passes if there is none.
    async fn said(&mut self) -> Vec<String> {
        let event = tokio::time::timeout(Duration::from_secs(600), self.events.recv()).await;
        match event.expect("an event within ten minutes").expect("the reflector is there") {
            Event::Synced(_) => vec!["synced".into()],
            Event::Sought(places) => panic!("nobody wants {places:?}"),
            Event::Changes(changes) => {
                let mut said: Vec<_> = changes.iter().map(say).collect();
                said.sort();
                said
            }
        }
    }

    /// Fails if anything was said.
    fn silent(&mut self) {
        if let Ok(event) = self.events.try_recv() {
            panic!("said {event:?}");
        }
    }

    /// The reasons of the problems there are.
    fn reasons(&self) -> String {
        self.problems.list().iter().map(|problem| format!("{}: {}\n", problem.place, problem.reason)).collect()
    }
}

fn say(change: &Change) -> String {
    match change {
        Change::Put(object) => format!("+{}@{}", object.meta().key(), object.meta().resource_version.0),
        Change::Delete(_, key) => format!("-{key}"),
        Change::Reset(..) => "reset".into(),
        Change::Unreadable(_, key, Some(_)) => format!("?{key}"),
        Change::Unreadable(_, key, None) => format!("!{key}"),
    }
}

fn object(name: &str, version: u64) -> Value {
    json!({"metadata": {"namespace": "a", "name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string()}})
}

/// A pod that does not decode.
fn broken(name: &str, version: u64) -> Value {
    let mut pod = object(name, version);
    pod["spec"] = json!({"serviceAccountName": {"is": "no text"}});
    pod
}

/// A moment for everything that can happen now.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

fn newest(call: Call, version: u64) {
    assert!(call.query.ends_with("limit=1"), "{call}");
    call.list(version, "", &[]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_the_list_ends() {
    let mut test = Test::start(Kind::Pod);
    let call = test.api.next().await;
    assert_eq!((&*call.path, &*call.query), ("/api/v1/pods", ""));
    assert_eq!(call.accept, "application/vnd.kubernetes.protobuf, application/json");
    call.list(7, "", &[object("x", 3), object("y", 5)]);
    assert_eq!(test.said().await, ["+a/x@3", "+a/y@5"]);
    assert_eq!(test.said().await, ["synced"]);

    let stream = test.api.watch(7).await;
    stream.event("MODIFIED", &object("x", 8));
    stream.event("DELETED", &object("y", 9));
    stream.event("ADDED", &object("z", 10));
    assert_eq!(test.said().await, ["+a/x@8", "+a/z@10", "-a/y"], "what is there already is said at once");
    drop(stream);
    test.api.watch(10).await;
}

#[tokio::test(start_paused = true)]
async fn lines_arrive_in_pieces() {
    let (mut test, stream) = Test::pods(7, &[]).await;
    let line = format!("{}\n", json!({"type": "ADDED", "object": object("ä", 8)}));
    let (head, tail) = line.split_at(30);
    stream.bytes(head);
    settle().await;
    stream.bytes(format!("{tail}{{\"type\":"));
    assert_eq!(test.said().await, ["+a/ä@8"]);
    drop(stream);
    test.api.watch(8).await;
}

#[tokio::test(start_paused = true)]
async fn what_there_is_only_in_json_is_listed_in_pages() {
    let mut test = Test::start(Kind::AuthorizationPolicy);
    discovery(test.api.next().await, &["v1"], &[]);
    discovery(test.api.next().await, &[], &["authorizationpolicies"]);
    let call = test.api.next().await;
    assert_eq!((&*call.path, &*call.query, &*call.accept), (POLICIES, "limit=500", "application/json"));
    call.list(20, "more", &[object("x", 3)]);
    let call = test.api.next().await;
    assert_eq!(call.query, "limit=500&continue=more");
    call.list(20, "", &[object("y", 5)]);
    assert_eq!(test.said().await, ["+a/x@3", "+a/y@5"]);
    assert_eq!(test.said().await, ["synced"]);
    test.api.watch(20).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_stalls_or_is_cut_off_begins_again() {
    for stalls in [false, true] {
        let mut test = Test::start(Kind::Pod);
        let list = protobuf::list(20, &[object("x", 3), object("y", 5)]);
        let stream = test.api.next().await.protobuf();
        stream.bytes(&list[..list.len() * 2 / 3]);
        let stalled = stalls.then_some(stream);
        let again = test.api.next().await;
        test.silent();
        assert!(!test.reasons().is_empty());
        again.list(30, "", &[object("y", 4)]);
        assert_eq!(test.said().await, ["+a/y@4"]);
        drop(stalled);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_token_expires_begins_again() {
    let mut test = Test::start(Kind::Pod);
    test.api.next().await.list(20, "more", &[object("x", 3), object("y", 4)]);
    let call = test.api.next().await;
    assert_eq!(call.query, "continue=more");
    call.refuse(410, "the provided continue parameter is too old");
    let call = test.api.next().await;
    assert_eq!(call.query, "");
    call.list(30, "", &[object("y", 4)]);
    assert_eq!(test.said().await, ["+a/y@4"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_may_answer_in_protobuf() {
    let mut test = Test::start(Kind::Pod);
    let stream = test.api.next().await.protobuf();
    // In pieces, as a network has them.
    let list = protobuf::list(20, &[object("x", 3), object("y", 5)]);
    for piece in list.chunks(7) {
        stream.bytes(piece);
        settle().await;
    }
    test.silent();
    drop(stream);
    assert_eq!(test.said().await, ["+a/x@3", "+a/y@5"]);
    assert_eq!(test.said().await, ["synced"]);

    let call = test.api.next().await;
    assert!(call.query.contains("&resourceVersion=20&"), "{call}");
    let stream = call.protobuf();
    let said = [("MODIFIED", object("x", 21)), ("DELETED", object("y", 22)), ("BOOKMARK", object("", 25))];
    for (kind, object) in &said {
        for piece in protobuf::event(kind, object).chunks(11) {
            stream.bytes(piece);
            settle().await;
        }
    }
    assert_eq!(test.said().await, ["+a/x@21"]);
    assert_eq!(test.said().await, ["-a/y"]);
    stream.bytes(protobuf::event("MODIFIED", &broken("x", 26)));
    settle().await;
    assert_eq!(test.problems.list()[0].field, "spec.serviceAccountName");
    stream.bytes(protobuf::error(410, "too old resource version"));
    newest(test.api.next().await, 30);
    assert_eq!(test.api.next().await.query, "");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_protobuf_is_not_believed() {
    for wrong in [
        &b"k8s\0\x0b"[..],
        b"{\"items\":[]}",
        b"k8s\0\x12\x04\x12\x7fab",
        b"k8s\0",
        b"",
        // Lengths that no address space has: of the type, of the list and of
        // an item in it.
        b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"k8s\0\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ] {
        let mut test = Test::start(Kind::Pod);
        let stream = test.api.next().await.protobuf();
        stream.bytes(wrong);
        drop(stream);
        let again = test.api.next().await;
        test.silent();
        let reasons = test.reasons();
        assert!(!reasons.is_empty() && !reasons.contains("panicked"), "{wrong:?}: {reasons}");
        again.list(30, "", &[]);
        assert_eq!(test.said().await, ["synced"]);
    }
    // An error that a proxy on the way does not know to encode.
    let mut test = Test::start(Kind::Pod);
    test.api.next().await.refuse_in_protobuf(503, b"down for maintenance");
    settle().await;
    assert!(test.reasons().contains("503"), "{}", test.reasons());
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_found_by_a_list() {
    let (mut test, stream) = Test::pods(7, &[object("x", 3), object("y", 4), object("z", 5)]).await;
    drop(stream);
    let call = test.api.next().await;
    call.refuse(410, "too old resource version");
    newest(test.api.next().await, 30);
    test.api.next().await.list(30, "", &[object("x", 3), object("z", 29)]);
    assert_eq!(test.said().await, ["+a/z@29", "-a/y"], "what is the same is not said again");
    let _stream = test.api.watch(30).await;
    settle().await;
    test.silent();
    assert_eq!(test.reasons(), "");
}

#[tokio::test(start_paused = true)]
async fn an_error_inside_a_watch_is_not_an_object() {
    let (mut test, stream) = Test::pods(7, &[object("x", 3)]).await;
    stream.event("ERROR", &status(500, "etcdserver: no leader"));
    settle().await;
    assert!(test.reasons().contains("no leader"), "{}", test.reasons());
    newest(test.api.next().await, 8);
    let _stream = test.api.watch(7).await;
    settle().await;
    assert_eq!(test.reasons(), "");
    test.silent();
}

#[tokio::test(start_paused = true)]
async fn a_line_that_only_looks_usual_is_read_with_care() {
    let (mut test, stream) = Test::pods(7, &[]).await;
    stream.bytes(format!("{{\"type\":\"ADDED\",\"object\":{},\"more\":{{}}}}\n", object("x", 8)));
    assert_eq!(test.said().await, ["+a/x@8"]);
    stream.bytes(format!("{{\"object\":{},\"type\":\"MODIFIED\"}}\n", object("x", 9)));
    assert_eq!(test.said().await, ["+a/x@9"]);
    assert_eq!(test.reasons(), "");
    // A brace too many: nothing in the line is believed.
    stream.bytes(format!("{{\"type\":\"ADDED\",\"object\":{}}}}}\n", object("y", 10)));
    settle().await;
    assert!(!test.reasons().is_empty());
    test.silent();
}

#[tokio::test(start_paused = true)]
async fn bookmarks_keep_a_watch_alive_and_move_it() {
    let (mut test, stream) = Test::pods(7, &[]).await;
    for minute in 0..60 {
        test.api.quiet(Duration::from_secs(60)).await;
        stream.bookmark(100 + minute);
    }
    settle().await;
    drop(stream);
    test.api.watch(159).await;
    test.silent();
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_silent_is_replaced() {
    let (mut test, stream) = Test::pods(7, &[]).await;
    test.api.quiet(Duration::from_secs(84)).await;
    newest(tokio::time::timeout(Duration::from_secs(6), test.api.next()).await.expect("by 90 s"), 8);
    test.api.watch(7).await;
    assert_eq!(test.reasons(), "");
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn older_states_of_an_object_change_nothing() {
    let (mut test, stream) = Test::pods(7, &[object("x", 6)]).await;
    stream.event("MODIFIED", &object("x", 5));
    stream.event("ADDED", &object("x", 6));
    stream.event("DELETED", &object("x", 4));
    stream.event("DELETED", &object("never", 8));
    settle().await;
    test.silent();
    stream.event("DELETED", &object("x", 9));
    assert_eq!(test.said().await, ["-a/x"]);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_keeps_its_last_good_version() {
    let (mut test, stream) = Test::pods(7, &[object("x", 6), object("y", 7)]).await;
    stream.event("MODIFIED", &broken("x", 8));
    stream.event("ADDED", &broken("new", 9));
    stream.event("MODIFIED", &object("y", 10));
    assert_eq!(test.said().await, ["+a/y@10", "?a/new", "?a/x"]);
    let problems = test.problems.list();
    assert_eq!(problems.iter().map(|problem| &*problem.place).collect::<Vec<_>>(), ["Pod a/new", "Pod a/x"]);
    assert_eq!(problems[0].field, "spec.serviceAccountName");

    // Neither does a list withdraw it.
    stream.event("ERROR", &status(410, "expired"));
    newest(test.api.next().await, 20);
    test.api.next().await.list(20, "", &[broken("x", 8), object("z", 19)]);
    assert_eq!(test.said().await, ["!a/new", "+a/z@19", "-a/y", "?a/x"]);
    assert_eq!(test.problems.list().len(), 1, "{}", test.reasons());
    let stream = test.api.watch(20).await;

    stream.event("MODIFIED", &object("x", 21));
    assert_eq!(test.said().await, ["!a/x", "+a/x@21"]);
    assert_eq!(test.reasons(), "");
    stream.event("MODIFIED", &broken("x", 22));
    stream.event("DELETED", &broken("x", 23));
    assert_eq!(test.said().await, ["!a/x", "-a/x", "?a/x"]);
    assert_eq!(test.reasons(), "");
}

#[tokio::test(start_paused = true)]
async fn a_list_with_a_nameless_object_withdraws_nothing() {
    let (mut test, stream) = Test::pods(7, &[object("x", 6), object("y", 7)]).await;
    stream.event("ERROR", &status(410, "expired"));
    newest(test.api.next().await, 20);
    test.api.next().await.list(20, "", &[json!({"metadata": {"name": 5}}), object("y", 19)]);
    assert_eq!(test.said().await, ["+a/y@19"]);
    assert_eq!(test.problems.list().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn permission_that_is_taken_away_withdraws_nothing() {
    let (mut test, stream) = Test::pods(7, &[object("x", 6)]).await;
    drop(stream);
    for _ in 0..5 {
        test.api.next().await.refuse(403, "pods is forbidden");
    }
    settle().await;
    assert_eq!(test.reasons(), "Pod: not permitted; grant us the verbs list and watch on pods: pods is forbidden\n");
    newest(test.api.next().await, 9);
    let stream = test.api.watch(7).await;
    stream.event("MODIFIED", &object("x", 9));
    assert_eq!(test.said().await, ["+a/x@9"]);
    assert_eq!(test.reasons(), "");
}

#[tokio::test(start_paused = true)]
async fn without_permission_nothing_is_synced() {
    let mut test = Test::start(Kind::Pod);
    test.api.next().await.refuse(403, "no");
    test.api.next().await.refuse(401, "who?");
    drop(test.api.next().await);
    settle().await;
    test.silent();
    assert!(test.reasons().contains("cannot be reached"), "{}", test.reasons());
    test.api.next().await.list(5, "", &[]);
    assert_eq!(test.said().await, ["synced"]);
}

#[tokio::test(start_paused = true)]
async fn attempts_become_rare_and_respect_the_server() {
    let mut test = Test::start(Kind::Pod);
    let started = tokio::time::Instant::now();
    for _ in 0..20 {
        drop(test.api.next().await);
    }
    let spent = started.elapsed();
    assert!((Duration::from_secs(35)..Duration::from_secs(72)).contains(&spent), "{spent:?}");
    test.api.next().await.throttle(40);
    test.api.quiet(Duration::from_secs(39)).await;
    test.api.next().await.list(5, "", &[]);
    assert_eq!(test.said().await, ["synced"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_from_the_past_is_not_believed() {
    let (mut test, stream) = Test::pods(1000, &[object("x", 900)]).await;
    stream.break_off();
    newest(test.api.next().await, 50);
    newest(test.api.next().await, 60);
    settle().await;
    assert!(test.reasons().contains("at version 60, and was at 1000"), "{}", test.reasons());
    newest(test.api.next().await, 1000);
    let stream = test.api.watch(1000).await;
    settle().await;
    assert_eq!(test.reasons(), "");

    // A list may come from another member than the answer before.
    stream.event("ERROR", &status(410, "expired"));
    newest(test.api.next().await, 1001);
    test.api.next().await.list(20, "", &[]);
    newest(test.api.next().await, 1001);
    test.silent();
    test.api.next().await.list(1001, "", &[object("x", 900)]);
    let stream = test.api.watch(1001).await;
    settle().await;
    test.silent();

    // Neither is a bookmark believed.
    stream.bookmark(30);
    newest(test.api.next().await, 1001);
    test.api.watch(1001).await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_was_rebuilt_is_believed_in_the_end() {
    let (mut test, stream) = Test::pods(1000, &[object("x", 900), object("y", 901)]).await;
    stream.break_off();
    let started = tokio::time::Instant::now();
    let call = loop {
        let call = test.api.next().await;
        if !call.query.ends_with("limit=1") {
            break call;
        }
        test.silent();
        newest(call, 50);
    };
    assert!(started.elapsed() >= Duration::from_secs(300));
    call.list(51, "", &[object("x", 40)]);
    assert_eq!(test.said().await, ["+a/x@40", "-a/y"]);
    let stream = test.api.watch(51).await;
    stream.event("MODIFIED", &object("x", 52));
    assert_eq!(test.said().await, ["+a/x@52"]);
    assert_eq!(test.reasons(), "");
}

fn discovery(call: Call, versions: &[&str], plurals: &[&str]) {
    let versions: Vec<_> = versions.iter().map(|version| json!({"version": version})).collect();
    let resources: Vec<_> = plurals.iter().map(|plural| json!({"name": plural})).collect();
    call.json(200, &json!({"versions": versions, "resources": resources}));
}

#[tokio::test(start_paused = true)]
async fn a_kind_may_appear_and_go() {
    let (client, api) = server();
    let server = Server::new(client);
    let mut test = Test::with(&server, api, Kind::AuthorizationPolicy);
    let call = test.api.next().await;
    assert_eq!(call.path, "/apis/security.istio.io");
    call.refuse(404, "404 page not found");
    assert_eq!(test.said().await, ["synced"]);
    assert_eq!(test.reasons(), "");
    for _ in 0..20 {
        test.api.next().await.refuse(404, "404 page not found");
    }

    // Its definition appears.
    let started = tokio::time::Instant::now();
    server.definitions.send_replace(());
    discovery(test.api.next().await, &["v1beta1", "v1"], &[]);
    assert!(started.elapsed() < Duration::from_secs(1));
    let call = test.api.next().await;
    assert_eq!(call.path, "/apis/security.istio.io/v1");
    discovery(call, &[], &["authorizationpolicies"]);
    let call = test.api.next().await;
    assert_eq!(call.path, POLICIES);
    call.list(7, "", &[object("x", 6)]);
    assert_eq!(test.said().await, ["+a/x@6"]);
    let stream = test.api.watch(7).await;

    // It goes; an error of discovery is not believed, nor is a hasty answer.
    let gone = tokio::time::Instant::now();
    drop(stream);
    test.api.next().await.refuse(404, "404 page not found");
    test.api.next().await.refuse(503, "not now");
    while test.events.is_empty() && gone.elapsed() < Duration::from_secs(60) {
        discovery(test.api.next().await, &["v1beta2"], &[]);
        settle().await;
    }
    assert!(gone.elapsed() >= Duration::from_secs(10));
    assert_eq!(test.said().await, ["-a/x"]);
    assert_eq!(test.reasons(), "");
}

#[tokio::test(start_paused = true)]
async fn an_older_version_of_a_kind_is_read_where_there_is_no_other() {
    let mut test = Test::start(Kind::AuthorizationPolicy);
    discovery(test.api.next().await, &["v1", "v1beta1"], &[]);
    discovery(test.api.next().await, &[], &["requestauthentications"]);
    discovery(test.api.next().await, &[], &["authorizationpolicies"]);
    assert_eq!(test.api.next().await.path, "/apis/security.istio.io/v1beta1/authorizationpolicies");
}

#[tokio::test(start_paused = true)]
async fn only_definitions_of_our_kinds_wake() {
    let (client, api) = server();
    let server = Server::new(client);
    let mut woken = server.definitions.subscribe();
    let mut test = Test::with(&server, api, Kind::CustomResourceDefinition);
    let named = |name: &str, version: u64| json!({"metadata": {"name": name, "resourceVersion": version.to_string()}});
    test.api.next().await.list(6, "", &[named("widgets.example.org", 5)]);
    test.said().await;
    let stream = test.api.watch(6).await;
    settle().await;
    assert_eq!(woken.has_changed().ok(), Some(false));
    stream.event("ADDED", &named("authorizationpolicies.security.istio.io", 7));
    test.said().await;
    settle().await;
    assert_eq!(woken.has_changed().ok(), Some(true));
    woken.mark_unchanged();
}

#[tokio::test(start_paused = true)]
async fn config_maps_are_read_of_the_system_namespace_only() {
    let mut test = Test::start(Kind::ConfigMap);
    assert_eq!(test.api.next().await.path, "/api/v1/namespaces/istio-system/configmaps");
}

/// What happens to the objects and to the connection.
#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Break(u8),
    Delete(u8),
    Disconnect,
    Compact,
    Bookmark,
    Wait,
}

/// An API server that keeps its promises, and no others.
#[derive(Default)]
struct World {
    version: u64,
    objects: BTreeMap<u8, Value>,
    /// What a client must end up with: the last good version of each.
    wanted: BTreeMap<String, String>,
    log: Vec<(u64, &'static str, Value)>,
    /// Watches can begin here at the earliest.
    compacted: u64,
    watch: Option<Stream>,
    /// Whether it knows protobuf.
    protobuf: bool,
}

impl World {
    fn answer(&mut self, call: Call) {
        if call.query.ends_with("limit=1") {
            return call.list(self.version, "", &[]);
        }
        if !call.query.contains("watch=") {
            let objects: Vec<_> = self.objects.values().cloned().collect();
            return match self.protobuf {
                true => call.protobuf().bytes(protobuf::list(self.version, &objects)),
                false => call.list(self.version, "", &objects),
            };
        }
        let from = call.query.split("resourceVersion=").nth(1).and_then(|rest| rest.split('&').next()?.parse().ok());
        let from: u64 = from.expect("a version");
        if from < self.compacted {
            return match from % 2 {
                0 => call.refuse(410, "too old"),
                _ if self.protobuf => call.protobuf().bytes(protobuf::error(410, "too old")),
                _ => call.stream().event("ERROR", &status(410, "too old")),
            };
        }
        let stream = if self.protobuf { call.protobuf() } else { call.stream() };
        self.log.iter().filter(|(at, ..)| *at > from).for_each(|(_, kind, object)| stream.event(kind, object));
        self.watch = Some(stream);
    }

    fn say(&mut self, kind: &'static str, object: Value) {
        // Nobody may be listening, or have noticed that the connection broke.
        if let Some(stream) = &self.watch {
            stream.event(kind, &object);
        }
        self.log.push((self.version, kind, object));
    }

    fn step(&mut self, step: &Step) {
        self.version += 1;
        match step {
            Step::Put(name) => {
                let (name, new) = (*name, object(&name.to_string(), self.version));
                self.wanted.insert(format!("a/{name}"), self.version.to_string());
                let kind = if self.objects.insert(name, new.clone()).is_some() { "MODIFIED" } else { "ADDED" };
                self.say(kind, new);
            }
            Step::Break(name) => {
                // One that is new was never good.
                let new = broken(&name.to_string(), self.version);
                if self.objects.contains_key(name) {
                    self.objects.insert(*name, new.clone());
                    self.say("MODIFIED", new);
                }
            }
            Step::Delete(name) => {
                if let Some(mut old) = self.objects.remove(name) {
                    old["metadata"]["resourceVersion"] = json!(self.version.to_string());
                    self.wanted.remove(&format!("a/{name}"));
                    self.say("DELETED", old);
                }
            }
            Step::Disconnect => drop(self.watch.take()),
            Step::Compact => {
                self.compacted = self.version;
                if let Some(watch) = self.watch.take() {
                    watch.break_off();
                }
            }
            Step::Bookmark => {
                if let Some(watch) = &self.watch {
                    watch.bookmark(self.version);
                }
            }
            Step::Wait => {}
        }
    }
}

/// Whatever happens, a client ends with what the API server has. Versions are
/// not compared for objects that were broken while nobody watched: their last
/// good version may not have been seen.
async fn converge(steps: Vec<Step>, protobuf: bool) {
    let (client, script) = server();
    let (sender, mut events) = channel();
    let world = Arc::new(Mutex::new(World { version: 1, protobuf, ..World::default() }));
    let api = world.clone();
    tokio::spawn(script.serve(move |call| api.lock().expect("no panic").answer(call)));
    let selection = Selection::of(Kind::Pod, "istio-system");
    tokio::spawn(Reflector::new(Server::new(client), selection, sender, Problems::default()).run());
    for step in &steps {
        match step {
            Step::Wait => tokio::time::sleep(Duration::from_secs(1)).await,
            step => world.lock().expect("no panic").step(step),
        }
    }
    tokio::time::sleep(Duration::from_secs(300)).await;
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    while let Ok(event) = events.try_recv() {
        let Event::Changes(changes) = event else { continue };
        for change in changes {
            match change {
                Change::Put(object) => {
                    let (key, version) = (object.meta().key().to_string(), object.meta().resource_version.0);
                    let old = seen.insert(key, version.to_string());
                    assert!(old.is_none_or(|old| old.parse::<u64>().is_ok_and(|old| old < version)), "moves backwards");
                }
                Change::Delete(_, key) => drop(seen.remove(&key.to_string())),
                Change::Reset(..) => seen.clear(),
                Change::Unreadable(..) => {}
            }
        }
    }
    let world = world.lock().expect("no panic");
    for (name, object) in &world.objects {
        let key = format!("a/{name}");
        match object.get("spec") {
            None => assert_eq!(seen.remove(&key), world.wanted.get(&key).cloned(), "{key}"),
            Some(_) => drop(seen.remove(&key)),
        }
    }
    assert!(seen.is_empty(), "these are gone: {seen:?}");
}

proptest::proptest! {
    #[test]
    fn every_history_converges(steps in proptest::collection::vec(step(), 0..60), protobuf: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(converge(steps, protobuf));
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5u8).prop_map(Step::Put),
        2 => (0..5u8).prop_map(Step::Break),
        3 => (0..5u8).prop_map(Step::Delete),
        1 => Just(Step::Disconnect),
        1 => Just(Step::Compact),
        1 => Just(Step::Bookmark),
        2 => Just(Step::Wait),
    ]
}
