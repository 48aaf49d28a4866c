//! A client beside an API server that keeps its promises, through whatever may
//! happen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::{Just, Strategy, prop_oneof};

use super::*;

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
    // Long enough for a list that lacks everything to be believed.
    tokio::time::sleep(Duration::from_secs(700)).await;
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
