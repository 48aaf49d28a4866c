use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::ca::testing::*;
use crate::source::kube::scripted::{Call, server};

fn both() -> [Previous; 2] {
    let files = root();
    let (next, until, ends) = ("f00d".to_owned(), later(100), later(200));
    let signs = Previous { next: next.clone(), state: State::Signs(files.clone(), later(0)), until, ends };
    let signed = Previous { next, state: State::Signed(files.root, later(9)), until, ends };
    [signs, signed]
}

async fn check(store: &PreviousStore, raw: impl Fn() -> String) {
    let [signs, signed] = both();
    assert_eq!(store.load().await.unwrap(), None);
    store.keep(None).await.unwrap();
    store.keep(Some(&signs)).await.unwrap();
    assert_eq!(store.load().await.unwrap().as_ref(), Some(&signs));
    // Another replica notices later; what counts is who was first.
    let State::Signs(files, _) = signs.state.clone() else { panic!("it signs") };
    let later = Previous { state: State::Signs(files.clone(), later(60)), ..signs.clone() };
    store.keep(Some(&later)).await.unwrap();
    assert_eq!(store.load().await.unwrap().as_ref(), Some(&signs));
    // But what it has signed may end later.
    let longer = Previous { until: self::later(5000), ends: self::later(7000), ..later };
    store.keep(Some(&longer)).await.unwrap();
    let both = Previous { until: longer.until, ends: longer.ends, ..signs.clone() };
    assert_eq!(store.load().await.unwrap(), Some(both));
    assert!(raw().contains("ca-key.pem"));
    store.keep(Some(&signed)).await.unwrap();
    assert_eq!(store.load().await.unwrap().as_ref(), Some(&signed));
    assert!(!raw().contains("ca-key.pem"), "a key that is not needed any more is gone");
    store.keep(None).await.unwrap();
    assert_eq!(store.load().await.unwrap(), None);
}

#[tokio::test]
async fn a_directory_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    // What a process that was killed in the middle has left.
    std::fs::write(dir.path().join(format!(".{FILE}")), "{").unwrap();
    let text = || std::fs::read_to_string(dir.path().join(FILE)).unwrap();
    check(&PreviousStore::Directory(dir.path().to_owned()), text).await;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of it");
}

#[tokio::test]
async fn a_secret_keeps_it() {
    let (client, script) = server();
    let stored = Arc::<Mutex<Option<Value>>>::default();
    let answering = stored.clone();
    tokio::spawn(script.serve(move |call: Call| {
        let mut stored = answering.lock().unwrap();
        match (call.method.as_str(), stored.is_some()) {
            ("GET", false) => return call.refuse(404, "not found"),
            ("GET", true) => {}
            ("POST", false) | ("PUT", true) => *stored = serde_json::from_slice(&call.body).unwrap(),
            _ => return call.refuse(409, "conflict"),
        }
        let answer = stored.clone().unwrap_or_else(|| json!({}));
        call.json(200, &answer);
    }));
    let raw = || stored.lock().unwrap().as_ref().map(ToString::to_string).unwrap_or_default();
    check(&PreviousStore::Secret(Box::new(Api::namespaced(client, "istio-system"))), raw).await;
}

#[test]
fn what_makes_no_sense_is_nothing() {
    let entries = |names: &[(&str, &'static str)]| {
        names.iter().map(|(name, content)| ((*name).to_owned(), Bytes::from_static(content.as_bytes()))).collect()
    };
    for bad in
        [&[][..], &[("next", "x")], &[("next", "x"), ("staged", "yesterday")], &[("signed", "2026-01-01T00:00:00Z")]]
    {
        assert_eq!(Previous::from_entries(&entries(bad)), None, "{bad:?}");
    }
}
