//! A reflector at an API server that the test plays.

mod failures;
mod kinds;
mod lists;
mod model;
mod watches;

use std::time::Duration;

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

fn discovery(call: Call, versions: &[&str], plurals: &[&str]) {
    let versions: Vec<_> = versions.iter().map(|version| json!({"version": version})).collect();
    let resources: Vec<_> = plurals.iter().map(|plural| json!({"name": plural})).collect();
    call.json(200, &json!({"versions": versions, "resources": resources}));
}
