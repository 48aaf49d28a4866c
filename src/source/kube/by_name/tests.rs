//! What is asked of an API server for what is wanted, and what is said then.

use serde_json::{Value, json};

use super::super::scripted::{Call, Script, Stream, server};
use super::*;

struct Test {
    api: Script,
    wanted: watch::Sender<Arc<Wanted>>,
    events: Receiver,
    problems: Problems,
}

fn object(name: &str, version: u64) -> Value {
    json!({"metadata": {"namespace": "gw", "name": name, "resourceVersion": version.to_string()}})
}

/// A moment for everything that can happen now.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

impl Test {
    /// A seeker of which nothing was wanted yet.
    async fn start() -> Self {
        let (client, api) = server();
        let (sender, events) = channel();
        let (wanted, wants) = watch::channel(Arc::default());
        let problems = Problems::default();
        let options = Options { system_namespace: "istio-system".into() };
        tokio::spawn(run(Server::new(client), options, wants, sender, problems.clone()));
        let mut test = Self { api, wanted, events, problems };
        assert_eq!(test.said().await, "synced");
        test
    }

    /// One that watches, and these are wanted.
    async fn watching(secrets: &[(&str, u64)]) -> (Self, Stream) {
        let mut test = Self::start().await;
        test.want(&secrets.iter().map(|(name, _)| Place::secret("gw", *name)).collect::<Vec<_>>());
        let mut stream = None;
        let mut left = secrets.len() + 2;
        while left > 0 {
            left -= 1;
            let call = test.api.next().await;
            match call.path.strip_prefix("/api/v1/namespaces/gw/secrets/") {
                Some(name) => {
                    let version = secrets.iter().find(|(other, _)| *other == name).unwrap().1;
                    let found = object(name, version);
                    call.json(200, &found);
                }
                None if call.query.contains("watch=true") => stream = Some(call.stream()),
                None => {
                    let all: Vec<_> = secrets.iter().map(|(name, version)| object(name, *version)).collect();
                    call.list(100, "", &all);
                }
            }
        }
        for _ in 0..secrets.len() * 2 {
            test.said().await;
        }
        (test, stream.unwrap())
    }

    fn want(&self, places: &[Place]) {
        self.wanted.send_replace(Arc::new(places.iter().cloned().collect()));
    }

    async fn said(&mut self) -> String {
        let event = tokio::time::timeout(Duration::from_secs(600), self.events.recv()).await;
        match event.expect("an event within ten minutes").expect("the seeker is there") {
            Event::Synced(kinds) => {
                assert_eq!(kinds, [Kind::Secret]);
                "synced".into()
            }
            Event::Sought(places) => places
                .iter()
                .map(|(place, sought)| format!("{place} {}", if *sought { "sought" } else { "left" }))
                .collect(),
            Event::Changes(changes) => changes.iter().map(say).collect(),
        }
    }

    fn silent(&mut self) {
        if let Ok(event) = self.events.try_recv() {
            panic!("said {event:?}");
        }
    }
}

fn say(change: &Change) -> String {
    match change {
        Change::Put(object) => format!("+{}@{}", object.meta().key(), object.meta().resource_version.0),
        Change::Delete(kind, key) => format!("-{kind:?} {key}"),
        Change::Reset(..) | Change::Unreadable(..) => "?".into(),
    }
}

/// The request for one Secret.
#[track_caller]
fn get(call: &Call, name: &str) {
    assert_eq!((&*call.path, &*call.query), (&*format!("/api/v1/namespaces/gw/secrets/{name}"), ""), "{call}");
    assert!(!call.accept.contains("PartialObjectMetadata"), "{}", call.accept);
}

#[tokio::test(start_paused = true)]
async fn a_mesh_without_references_has_no_secret_looked_at() {
    let mut test = Test::start().await;
    test.api.quiet(Duration::from_secs(300)).await;
    test.silent();
}

#[tokio::test(start_paused = true)]
async fn only_what_is_wanted_is_read_and_of_the_rest_the_metadata() {
    let mut test = Test::start().await;
    test.want(&[Place::secret("gw", "a")]);
    let (mut fetched, mut listed, mut watched) = (None, None, None);
    for _ in 0..2 {
        let call = test.api.next().await;
        match call.path.as_str() {
            "/api/v1/secrets" => listed = Some(call),
            _ => fetched = Some(call),
        }
    }
    let fetched = fetched.unwrap();
    get(&fetched, "a");
    fetched.json(200, &object("a", 5));
    assert_eq!(test.said().await, "+gw/a@5");
    assert_eq!(test.said().await, "Secret gw/a sought");

    let list = listed.unwrap();
    assert!(
        list.accept.starts_with("application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;"),
        "{}",
        list.accept
    );
    assert_eq!(
        list.query,
        "fieldSelector=type%21%3Dhelm.sh%2Frelease.v1%2Ctype%21%3Dkubernetes.io%2Fservice-account-token&"
    );
    list.list(9, "", &[object("a", 5), object("other", 6)]);
    let call = test.api.next().await;
    assert!(call.query.contains("watch=true") && call.query.contains("fieldSelector=type"), "{call}");
    assert!(
        call.accept.starts_with("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;"),
        "{}",
        call.accept
    );
    watched.replace(call.stream());
    // It is known in this version.
    settle().await;
    test.silent();
    let stream = watched.unwrap();
    stream.event("MODIFIED", &object("other", 10));
    stream.event("MODIFIED", &object("a", 11));
    let call = test.api.next().await;
    get(&call, "a");
    call.json(200, &object("a", 12));
    assert_eq!(test.said().await, "+gw/a@12");
    assert_eq!(test.said().await, "Secret gw/a sought");
    // What was fetched was newer than what was told.
    stream.event("MODIFIED", &object("a", 12));
    test.api.quiet(Duration::from_secs(20)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_said_and_found_when_it_is_made() {
    let mut test = Test::start().await;
    test.want(&[Place::secret("gw", "a")]);
    let mut stream = None;
    for _ in 0..3 {
        let call = test.api.next().await;
        match call.path.as_str() {
            "/api/v1/secrets" if call.query.contains("watch=true") => stream = Some(call.stream()),
            "/api/v1/secrets" => call.list(9, "", &[]),
            _ => call.refuse(404, "not found"),
        }
    }
    assert_eq!(test.said().await, "-Secret gw/a");
    assert_eq!(test.said().await, "Secret gw/a sought");
    let stream = stream.unwrap();
    stream.event("ADDED", &object("a", 10));
    let call = test.api.next().await;
    get(&call, "a");
    call.json(200, &object("a", 10));
    assert_eq!(test.said().await, "+gw/a@10");
    assert_eq!(test.said().await, "Secret gw/a sought");
    stream.event("DELETED", &object("a", 11));
    test.api.next().await.refuse(404, "not found");
    assert_eq!(test.said().await, "-Secret gw/a");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_wanted_is_forgotten() {
    let (mut test, stream) = Test::watching(&[("a", 5), ("b", 6)]).await;
    test.want(&[Place::secret("gw", "b")]);
    assert_eq!(test.said().await, "-Secret gw/a");
    assert_eq!(test.said().await, "Secret gw/a left");
    stream.event("MODIFIED", &object("a", 110));
    test.api.quiet(Duration::from_secs(20)).await;
    // With the last of them, the watch goes.
    test.want(&[]);
    assert_eq!(test.said().await, "-Secret gw/b");
    assert_eq!(test.said().await, "Secret gw/b left");
    settle().await;
    drop(stream);
    test.api.quiet(Duration::from_secs(300)).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_withdraws_nothing_and_is_tried_again() {
    let (mut test, stream) = Test::watching(&[("a", 5)]).await;
    stream.event("MODIFIED", &object("a", 110));
    test.api.next().await.refuse(500, "oh");
    settle().await;
    test.silent();
    assert!(test.problems.list().iter().any(|problem| problem.place == "Secret gw/a"), "{:?}", test.problems.list());
    let call = test.api.next().await;
    get(&call, "a");
    call.refuse(403, "no");
    settle().await;
    let reasons = format!("{:?}", test.problems.list());
    assert!(reasons.contains("grant us the verb get"), "{reasons}");
    test.api.next().await.json(200, &object("a", 110));
    assert_eq!(test.said().await, "+gw/a@110");
    settle().await;
    assert_eq!(test.problems.list(), []);
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_watch_looks_again() {
    let mut test = Test::start().await;
    test.want(&[Place::secret("gw", "a")]);
    let mut fetched = 0;
    let started = Instant::now();
    while fetched < 3 {
        let call = test.api.next().await;
        match call.path.as_str() {
            "/api/v1/secrets" => call.refuse(403, "you may not list"),
            _ => {
                fetched += 1;
                call.json(200, &object("a", fetched));
            }
        }
    }
    assert!(started.elapsed() <= Duration::from_secs(65), "{:?}", started.elapsed());
    assert!(started.elapsed() >= Duration::from_secs(30), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_change_while_it_is_fetched_is_fetched_too() {
    let (mut test, stream) = Test::watching(&[("a", 5)]).await;
    stream.event("MODIFIED", &object("a", 110));
    let first = test.api.next().await;
    stream.event("MODIFIED", &object("a", 111));
    settle().await;
    first.json(200, &object("a", 110));
    assert_eq!(test.said().await, "+gw/a@110");
    assert_eq!(test.said().await, "Secret gw/a sought");
    test.api.next().await.json(200, &object("a", 111));
    assert_eq!(test.said().await, "+gw/a@111");
}

#[tokio::test(start_paused = true)]
async fn tokens_and_releases_are_not_read() {
    let mut test = Test::start().await;
    test.want(&[Place::secret("gw", "a")]);
    loop {
        let call = test.api.next().await;
        if call.path == "/api/v1/secrets" {
            call.list(9, "", &[]);
            continue;
        }
        let mut token = object("a", 5);
        token["type"] = "kubernetes.io/service-account-token".into();
        call.json(200, &token);
        break;
    }
    assert_eq!(test.said().await, "-Secret gw/a");
    assert_eq!(test.said().await, "Secret gw/a sought");
}

#[tokio::test(start_paused = true)]
async fn the_control_planes_own_config_maps_are_read_by_others() {
    let mut test = Test::start().await;
    test.want(&[Place::config_map("istio-system", "roots")]);
    assert_eq!(test.said().await, "ConfigMap istio-system/roots sought");
    test.api.quiet(Duration::from_secs(60)).await;
    test.want(&[Place::config_map("istio-system", "roots"), Place::config_map("gw", "roots")]);
    let mut paths = Vec::new();
    for _ in 0..2 {
        let call = test.api.next().await;
        paths.push(call.path.clone());
        match call.path.as_str() {
            "/api/v1/configmaps" => call.list(9, "", &[]),
            _ => call.json(200, &object("roots", 5)),
        }
    }
    paths.sort();
    assert_eq!(paths, ["/api/v1/configmaps", "/api/v1/namespaces/gw/configmaps/roots"]);
    assert_eq!(test.said().await, "+gw/roots@5");
}

/// A flood of rotations fetches each Secret as often as it takes, no more of
/// them at a time than a few.
#[tokio::test(start_paused = true)]
async fn a_flood_of_changes_is_taken_together() {
    let names: Vec<String> = (0..100).map(|number| format!("s{number}")).collect();
    let mut test = Test::start().await;
    test.want(&names.iter().map(|name| Place::secret("gw", &**name)).collect::<Vec<_>>());
    let (mut open, mut most, mut done) = (Vec::new(), 0, 0);
    while done < 100 {
        while let Ok(call) = tokio::time::timeout(Duration::from_millis(1), test.api.next()).await {
            match call.path.strip_prefix("/api/v1/namespaces/gw/secrets/") {
                Some(_) => open.push(call),
                None => call.refuse(403, "no"),
            }
        }
        most = most.max(open.len());
        for call in open.drain(..) {
            let name = call.path.rsplit('/').next().unwrap().to_owned();
            call.json(200, &object(&name, 5));
            done += 1;
        }
        while test.events.try_recv().is_ok() {}
    }
    assert!(most <= AT_ONCE, "{most} at a time");
}

/// What is gone before all are listed is in no list and in no event.
#[tokio::test(start_paused = true)]
async fn what_is_deleted_before_the_first_list_is_missed() {
    let mut test = Test::start().await;
    test.want(&[Place::secret("gw", "a"), Place::secret("gw", "b")]);
    let mut list = None;
    for _ in 0..3 {
        let call = test.api.next().await;
        match call.path.rsplit('/').next() {
            Some("secrets") => list = Some(call),
            Some(name) => {
                let found = object(name, 5);
                call.json(200, &found);
            }
            None => panic!("{call}"),
        }
    }
    for _ in 0..4 {
        test.said().await;
    }
    list.expect("they are listed").list(9, "", &[object("b", 5)]);
    let mut watch = None;
    for _ in 0..2 {
        let call = test.api.next().await;
        match call.path.as_str() {
            "/api/v1/secrets" => watch = Some(call.stream()),
            _ => {
                get(&call, "a");
                call.refuse(404, "not found");
            }
        }
    }
    assert!(watch.is_some());
    assert_eq!(test.said().await, "-Secret gw/a");
}

/// An answer to what was wanted before is not one to what is wanted now.
#[tokio::test(start_paused = true)]
async fn a_late_answer_is_nobodys() {
    let (mut test, stream) = Test::watching(&[("a", 5)]).await;
    stream.event("MODIFIED", &object("a", 110));
    let old = test.api.next().await;
    test.want(&[]);
    assert_eq!(test.said().await, "-Secret gw/a");
    assert_eq!(test.said().await, "Secret gw/a left");
    test.want(&[Place::secret("gw", "a")]);
    let mut new = None;
    while new.is_none() {
        let call = test.api.next().await;
        match call.path.as_str() {
            "/api/v1/secrets" if call.query.contains("watch=true") => drop(call.stream()),
            "/api/v1/secrets" => call.list(200, "", &[object("a", 111)]),
            _ => new = Some(call),
        }
    }
    new.expect("it is asked for again").json(200, &object("a", 111));
    assert_eq!(test.said().await, "+gw/a@111");
    assert_eq!(test.said().await, "Secret gw/a sought");
    old.json(200, &object("a", 110));
    settle().await;
    test.silent();
}

/// Whoever wants much does not come before whoever came first.
#[tokio::test(start_paused = true)]
async fn what_was_wanted_first_is_fetched_first() {
    let mut test = Test::start().await;
    let of = |namespace: &str, many: usize| {
        (0..many).map(|number| Place::secret(namespace, format!("s{number:02}"))).collect::<Vec<_>>()
    };
    async fn fetch(test: &mut Test) -> Call {
        loop {
            let call = test.api.next().await;
            match call.path.as_str() {
                "/api/v1/secrets" => call.refuse(403, "no"),
                _ => return call,
            }
        }
    }
    let mut wanted = of("mm", AT_ONCE);
    test.want(&wanted);
    let mut held = Vec::new();
    for _ in 0..AT_ONCE {
        held.push(fetch(&mut test).await);
    }
    for more in [of("zz", 1), of("aa", 50)] {
        wanted.extend(more);
        test.want(&wanted);
        settle().await;
    }
    held.pop().expect("there are some").refuse(404, "not found");
    let next = fetch(&mut test).await;
    assert_eq!(next.path, "/api/v1/namespaces/zz/secrets/s00");
}

/// A name that cannot be one is that of nothing, and no path is made of it.
#[tokio::test(start_paused = true)]
async fn what_is_no_name_is_not_asked_for() {
    let mut test = Test::start().await;
    test.want(&[Place::secret("gw", "?limit=500"), Place::secret("gw", "../configmaps/a")]);
    for _ in 0..2 {
        assert!(test.said().await.ends_with("sought"));
    }
    test.api.quiet(Duration::from_secs(60)).await;
}

/// A watch that has lost its rights tells of nothing.
#[tokio::test(start_paused = true)]
async fn whoever_may_not_watch_any_more_looks_again() {
    let (mut test, stream) = Test::watching(&[("a", 5)]).await;
    drop(stream);
    let (started, mut fetched) = (Instant::now(), false);
    while !fetched && started.elapsed() < Duration::from_secs(120) {
        let call = test.api.next().await;
        match call.path.as_str() {
            "/api/v1/secrets" => call.refuse(403, "you may not watch"),
            _ => {
                get(&call, "a");
                call.refuse(404, "not found");
                fetched = true;
            }
        }
    }
    assert!(fetched);
    assert_eq!(test.said().await, "-Secret gw/a");
}
