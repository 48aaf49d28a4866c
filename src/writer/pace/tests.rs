use super::*;

const WINDOW: Duration = Duration::from_millis(10);

/// Commits at these times, with so much CPU used from each to the next, on two
/// cores. How far apart they should be in the end.
fn apart(count: u32, spent: Duration) -> Duration {
    let mut cost = Cost { cores: 2, ..Cost::new() };
    for at in 0..count {
        cost.note(Instant::now(), spent * at);
    }
    cost.apart(WINDOW)
}

#[test]
fn commits_that_cost_little_are_not_held_back() {
    // A hundred clients at 30 us each.
    assert_eq!(apart(20, Duration::from_millis(3)), Duration::from_millis(3));
    // Nobody but us.
    assert!(apart(20, Duration::from_micros(100)) < Duration::from_millis(1));
}

#[test]
fn the_window_is_the_most() {
    // A thousand clients.
    assert_eq!(apart(20, Duration::from_millis(30)), WINDOW);
    // Nothing is known yet.
    assert_eq!(apart(1, Duration::ZERO), WINDOW);
}

#[test]
fn one_costly_commit_is_forgotten() {
    let mut cost = Cost { cores: 2, ..Cost::new() };
    let mut used = Duration::ZERO;
    for spent in [1, 1, 400].into_iter().chain([1; 30]) {
        cost.note(Instant::now(), used);
        used += Duration::from_millis(spent);
    }
    assert!(cost.apart(WINDOW) < Duration::from_millis(3), "{:?}", cost.apart(WINDOW));
}

/// The clock is that of the whole process, in all its threads.
#[test]
fn what_other_threads_use_counts() {
    let mut cost = Cost::new();
    cost.begin();
    let busy = || {
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(50) {
            std::hint::black_box(started);
        }
    };
    std::thread::spawn(busy).join().unwrap();
    cost.begin();
    assert!(cost.each > Some(Duration::from_millis(1)), "{:?}", cost.each);
}
