//! When a certificate is asked for again.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::agent::certificate::{CertificateError, Workload};
use crate::agent::renewal::{Grace, backoff, keep, renew_after};

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_certificate_is_renewed_when_half_of_its_life_is_left() {
    let grace = Grace { ratio: 0.5, jitter: 0.01 };
    let hours = |chance| renew_after(DAY, grace, chance).as_secs_f64() / 3600.0;
    assert!((hours(0.5) - 12.0).abs() < 0.001);
    // A hundredth of a day is a quarter of an hour, to both sides.
    assert!((hours(0.0) - 12.24).abs() < 0.001 && (hours(1.0) - 11.76).abs() < 0.001);
    let late = Grace { ratio: 0.2, jitter: 0.0 };
    assert_eq!(renew_after(Duration::from_secs(100), late, 0.5).as_secs(), 80);
}

#[test]
fn no_ratio_makes_a_busy_loop_or_renews_too_late() {
    for (ratio, lifetime) in [(1.0, DAY), (0.5, Duration::ZERO)] {
        assert!(renew_after(lifetime, Grace { ratio, jitter: 1.0 }, 1.0) >= Duration::from_millis(500));
    }
    assert!(renew_after(DAY, Grace { ratio: 0.0, jitter: 0.5 }, 0.0) <= DAY);
}

#[test]
fn failures_wait_longer_and_longer_up_to_a_limit() {
    let longest: Vec<_> = (1..8).map(|failures| backoff(failures, 1.0).as_millis()).collect();
    assert_eq!(longest, [500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
    assert_eq!(backoff(1, 0.0).as_millis(), 250);
    assert!(backoff(u32::MAX, 1.0) <= Duration::from_secs(15));
}

fn workload() -> Workload {
    let expires = Timestamp::now() + SignedDuration::from_secs(1000);
    Workload { chain: vec![], key: vec![], roots: vec![], identity: "spiffe://a/ns/b/sa/c".into(), expires }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_asked_for_until_there_is_one_and_again_in_time() {
    let (start, calls, results) = (Instant::now(), Cell::new(0), RefCell::new(Vec::new()));
    let issue = || {
        calls.set(calls.get() + 1);
        let fails = calls.get() <= 2;
        async move { if fails { Err(CertificateError::Answer("it is empty")) } else { Ok(workload()) } }
    };
    let issued = |result: Result<Workload, ()>| results.borrow_mut().push((result.is_ok(), start.elapsed().as_secs()));
    let grace = Grace { ratio: 0.4, jitter: 0.0 };
    let _ = tokio::time::timeout(Duration::from_secs(1000), keep(grace, None, issue, issued)).await;
    let results = results.into_inner();
    let outcomes: Vec<_> = results.iter().map(|(good, _)| *good).collect();
    assert_eq!(outcomes, [false, false, true, true]);
    assert!(results[2].1 < 3 && (599..605).contains(&results[3].1), "{results:?}");
}

#[tokio::test(start_paused = true)]
async fn new_roots_are_a_reason_to_ask() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root-cert.pem");
    std::fs::write(&path, "one").unwrap();
    let (start, times) = (Instant::now(), RefCell::new(Vec::new()));
    let issued = |_: Result<Workload, ()>| times.borrow_mut().push(start.elapsed().as_secs());
    let issue = || async { Ok(workload()) };
    let grace = Grace { ratio: 0.1, jitter: 0.0 };
    let after_first = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        std::fs::write(&path, "two").unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = keep(grace, Some(&path), issue, issued) => {}
        () = after_first => {}
        () = tokio::time::sleep(Duration::from_secs(800)) => {}
    }
    let times = times.into_inner();
    assert!(times.len() == 2 && (30..=60).contains(&times[1]), "{times:?}");
}

#[test]
fn keys_are_not_shown() {
    let workload = Workload { key: b"PRIVATE".to_vec(), ..workload() };
    let shown = format!("{workload:?}");
    assert!(shown.contains("spiffe://a/ns/b/sa/c") && !shown.contains("80, 82"), "{shown}");
}
