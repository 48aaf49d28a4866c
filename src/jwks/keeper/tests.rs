use std::sync::Mutex;

use super::*;

/// An issuer that answers as it is told, and counts.
#[derive(Clone, Default)]
struct Issuer {
    answer: Arc<Mutex<Option<Result<Arc<str>, String>>>>,
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Issuer {
    fn say(&self, answer: Result<&str, &str>) {
        *self.answer.lock().unwrap() = Some(answer.map(Into::into).map_err(Into::into));
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

struct World {
    issuer: Issuer,
    wanted: watch::Sender<Arc<Wanted>>,
    fetched: watch::Receiver<Fetched>,
}

const REFRESH: Duration = Duration::from_secs(1200);

fn source(name: &str) -> KeySource {
    KeySource::Uri(name.into())
}

fn wanted(names: &[&str]) -> Arc<Wanted> {
    Arc::new(names.iter().map(|name| (source(name), Duration::from_secs(5))).collect())
}

impl World {
    fn start(names: &[&str], answer: Result<&str, &str>) -> Self {
        let issuer = Issuer::default();
        issuer.say(answer);
        let (wanted, of_keeper) = watch::channel(wanted(names));
        let (known, fetched) = watch::channel(Fetched::new());
        let asked = issuer.clone();
        let fetch = move |_, _| {
            asked.asked.lock().unwrap().push(Instant::now());
            let answer = asked.answer.lock().unwrap().clone().unwrap();
            async move { answer }
        };
        tokio::spawn(keep(fetch, REFRESH, of_keeper, known, Metrics::default()));
        Self { issuer, wanted, fetched }
    }

    async fn next(&mut self) -> Fetched {
        self.fetched.changed().await.unwrap();
        self.fetched.borrow_and_update().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_when_wanted_and_when_old() {
    let mut world = World::start(&["a"], Ok("one"));
    let known = world.next().await;
    assert_eq!(known[&source("a")], KeySet { keys: Some("one".into()), problem: None });
    assert_eq!(world.issuer.asked(), 1);
    // Equal keys are no news.
    tokio::time::sleep(REFRESH + Duration::from_secs(1)).await;
    assert_eq!(world.issuer.asked(), 2);
    assert!(!world.fetched.has_changed().unwrap());
    world.issuer.say(Ok("two"));
    let before = Instant::now();
    assert_eq!(world.next().await[&source("a")].keys, Some("two".into()));
    assert!(before.elapsed() <= REFRESH);
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_less_and_less_often() {
    let mut world = World::start(&["a"], Err("gone"));
    let known = world.next().await;
    assert_eq!(known[&source("a")], KeySet { keys: None, problem: Some("gone".into()) });
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let asked = world.issuer.asked.lock().unwrap().clone();
    let waits: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(waits[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    assert!(waits[10..].iter().all(|wait| *wait == 300), "{waits:?}");
    world.issuer.say(Ok("one"));
    assert_eq!(world.next().await[&source("a")], KeySet { keys: Some("one".into()), problem: None });
}

#[tokio::test(start_paused = true)]
async fn keys_stay_for_a_week_when_the_issuer_is_gone() {
    let mut world = World::start(&["a"], Ok("one"));
    world.next().await;
    world.issuer.say(Err("gone"));
    let kept = KeySet { keys: Some("one".into()), problem: Some("gone".into()) };
    assert_eq!(world.next().await[&source("a")], kept);
    let before = Instant::now();
    assert_eq!(world.next().await[&source("a")], KeySet { keys: None, problem: Some("gone".into()) });
    let elapsed = before.elapsed();
    assert!(elapsed > STALE - 2 * REFRESH && elapsed < STALE + LAST_RETRY, "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_wanted_any_more_is_forgotten() {
    let mut world = World::start(&["a", "b"], Ok("one"));
    while world.next().await.len() < 2 {}
    world.wanted.send_replace(wanted(&["b"]));
    assert_eq!(world.next().await.keys().collect::<Vec<_>>(), [&source("b")]);
    let asked = world.issuer.asked();
    world.wanted.send_replace(wanted(&["b", "c"]));
    assert!(world.next().await.contains_key(&source("c")));
    // The one that stayed was not fetched again.
    assert_eq!(world.issuer.asked(), asked + 1);
}

#[tokio::test(start_paused = true)]
async fn few_are_fetched_at_a_time() {
    let names: Vec<_> = (0..30).map(|number| format!("{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (running, most) = (Arc::new(Mutex::new(0_usize)), Arc::new(Mutex::new(0_usize)));
    let fetch = {
        let (running, most) = (running.clone(), most.clone());
        move |_, _| {
            let (running, most) = (running.clone(), most.clone());
            async move {
                let now = {
                    let mut running = running.lock().unwrap();
                    *running += 1;
                    *running
                };
                let highest = (*most.lock().unwrap()).max(now);
                *most.lock().unwrap() = highest;
                tokio::time::sleep(Duration::from_secs(1)).await;
                *running.lock().unwrap() -= 1;
                Ok("keys".into())
            }
        }
    };
    let (_wanted, of_keeper) = watch::channel(wanted(&names));
    let (known, mut fetched) = watch::channel(Fetched::new());
    tokio::spawn(keep(fetch, REFRESH, of_keeper, known, Metrics::default()));
    fetched.wait_for(|known| known.len() == 30).await.unwrap();
    assert_eq!(*most.lock().unwrap(), AT_ONCE);
}
