use std::time::Duration;

use tokio::time::{Instant, advance};

use super::Due;

const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(30);

fn wait(due: &Due<&str>) -> Duration {
    let now = Instant::now();
    due.next(now, |_| false).map(|(at, _)| at - now).expect("something is due")
}

#[tokio::test(start_paused = true)]
async fn attempts_become_rarer_and_are_forgotten() {
    let mut due = Due::new(FIRST, MOST);
    due.insert("a");
    assert_eq!(wait(&due), Duration::ZERO);
    let mut waits = Vec::new();
    for _ in 0..8 {
        due.attempted("a");
        waits.push(wait(&due));
        advance(wait(&due)).await;
    }
    // Each is drawn from the upper half of its range.
    assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST, "{waits:?}");
    assert!(waits[7] >= MOST / 2 && waits[7] <= MOST, "{waits:?}");
    due.renew(&"a");
    assert_eq!(wait(&due), Duration::ZERO);
    due.attempted("a");
    assert!(wait(&due) <= FIRST);
    advance(Duration::from_secs(60)).await;
    due.attempted("a");
    assert!(wait(&due) <= FIRST);
}

#[tokio::test(start_paused = true)]
async fn others_do_not_wait() {
    let mut due = Due::new(FIRST, MOST);
    due.extend(["a", "b"]);
    due.attempted("a");
    let now = Instant::now();
    assert_eq!(due.next(now, |_| false), Some((now, "b")));
    assert_eq!(due.next(now, |key| *key == "b").map(|(_, key)| key), Some("a"));
    assert_eq!(due.next(now + MOST, |_| false), Some((now + MOST, "a")), "of equals the first");
    due.remove(&"a");
    due.remove(&"b");
    assert_eq!(due.next(now, |_| false), None);
}
