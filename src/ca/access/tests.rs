use std::sync::{Arc, Mutex};

use super::*;
use crate::credential::Place;

/// An API server that answers as it is told, and counts.
#[derive(Clone, Default)]
struct Api {
    answers: Arc<Mutex<BTreeMap<String, Result<bool, String>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Api {
    fn say(&self, name: &str, answer: Result<bool, &str>) {
        self.answers.lock().unwrap().insert(name.into(), answer.map_err(Into::into));
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

struct World {
    api: Api,
    wanted: watch::Sender<imbl::OrdMap<Want, usize>>,
    access: watch::Receiver<Access>,
}

fn account(name: &str) -> Account {
    Account { namespace: "ns".into(), name: name.into() }
}

impl World {
    fn start() -> Self {
        let (api, (wanted, wants), (access, answers)) =
            (Api::default(), watch::channel(imbl::OrdMap::new()), watch::channel(Access::new()));
        let asked = api.clone();
        let review = move |account: Account| {
            asked.asked.lock().unwrap().push(account.name.to_string());
            let answer = asked.answers.lock().unwrap().get(&*account.name).cloned();
            async move { answer.unwrap_or_else(|| Err("nobody knows".into())) }
        };
        tokio::spawn(keep(review, wants, access));
        Self { api, wanted, access: answers }
    }

    fn want(&self, names: &[&str]) {
        let accounts = names.iter().map(|name| (Want::Account(account(name)), 1usize));
        // Objects are wanted besides, and are somebody else's affair.
        let place = (Want::Place(Place::secret("ns", "a")), 1usize);
        self.wanted.send_replace(accounts.chain([place]).collect());
    }

    async fn after(&mut self, seconds: u64) -> Vec<(String, bool)> {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        self.access.borrow_and_update().iter().map(|(account, allowed)| (account.name.to_string(), *allowed)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_yes_counts_for_five_minutes_and_a_no_for_one() {
    let mut world = World::start();
    world.api.say("yes", Ok(true));
    world.api.say("no", Ok(false));
    world.want(&["yes", "no"]);
    let both = [("no".to_owned(), false), ("yes".to_owned(), true)];
    assert_eq!(world.after(1).await, both);
    assert_eq!(world.api.asked(), 2);
    world.api.say("yes", Ok(false));
    world.api.say("no", Ok(true));
    assert_eq!(world.after(57).await, both);
    assert_eq!(world.after(5).await, [("no".to_owned(), true), ("yes".to_owned(), true)]);
    assert_eq!(world.after(230).await, [("no".to_owned(), true), ("yes".to_owned(), true)]);
    assert_eq!(world.after(10).await, [("no".to_owned(), true), ("yes".to_owned(), false)]);
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_the_last_one_counts() {
    let mut world = World::start();
    world.want(&["a"]);
    assert_eq!(world.after(1).await, [], "nothing is assumed");
    world.api.say("a", Ok(true));
    assert_eq!(world.after(10).await, [("a".to_owned(), true)]);
    world.api.say("a", Err("the API server is away"));
    assert_eq!(world.after(600).await, [("a".to_owned(), true)]);
    let asked = world.api.asked();
    assert!((50..150).contains(&asked), "{asked}");
    world.api.say("a", Ok(false));
    assert_eq!(world.after(10).await, [("a".to_owned(), false)]);
}

#[tokio::test(start_paused = true)]
async fn accounts_that_nobody_uses_are_forgotten() {
    let mut world = World::start();
    world.api.say("a", Ok(true));
    world.want(&["a"]);
    assert_eq!(world.after(1).await.len(), 1);
    world.want(&[]);
    assert_eq!(world.after(1).await, []);
    let asked = world.api.asked();
    world.after(1000).await;
    assert_eq!(world.api.asked(), asked);
}
