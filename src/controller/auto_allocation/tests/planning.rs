//! Who gets which address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

/// Entries, and what is planned for them.
struct World {
    plan: Plan,
    entries: BTreeMap<ObjectKey, Entry>,
}

impl World {
    fn new(pools: &Pools) -> Self {
        Self { plan: Plan::new(pools), entries: BTreeMap::new() }
    }

    fn of(pools: &Pools, entries: impl IntoIterator<Item = (ObjectKey, Entry)>) -> Self {
        let mut world = Self::new(pools);
        world.entries.extend(entries);
        let all = world.entries.iter().map(|(key, entry)| (key.clone(), Some(Arc::new(entry.clone()))));
        world.plan.update(all);
        world
    }

    fn put(&mut self, key: &ObjectKey, entry: Option<Entry>) {
        match entry.clone() {
            Some(entry) => _ = self.entries.insert(key.clone(), entry),
            None => _ = self.entries.remove(key),
        }
        self.plan.update([(key.clone(), entry.map(Arc::new))]);
    }

    /// What the status of an entry should say.
    fn wanted(&self, key: &ObjectKey) -> Vec<AllocatedAddress> {
        self.plan.due(key).map_or_else(|| self.entries[key].allocated.to_vec(), |(_, wanted)| wanted)
    }

    /// Writes what is planned for an entry.
    fn write(&mut self, key: &ObjectKey) {
        if let Some((_, wanted)) = self.plan.due(key) {
            let entry = Entry { allocated: wanted.into(), ..self.entries[key].clone() };
            self.put(key, Some(entry));
        }
    }

    /// Writes all that is planned.
    fn settle(&mut self) {
        for key in self.entries.keys().cloned().collect::<Vec<_>>() {
            self.write(&key);
        }
    }

    fn texts(&self, name: &str) -> Vec<(String, String)> {
        let wanted = self.wanted(&key(name));
        wanted.iter().map(|one| (one.host.to_string(), one.value.to_string())).collect()
    }
}

#[track_caller]
fn kept(entries: &[(&str, Entry)], name: &str, wanted: &[(&str, &str)]) {
    let all = entries.iter().map(|(name, entry)| (key(name), entry.clone()));
    let world = World::of(&Pools::default(), all);
    assert_eq!(world.texts(name), wanted.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect::<Vec<_>>());
}

#[test]
fn each_host_gets_one_address_of_each_family() {
    let world = World::of(&Pools::default(), [(key("a"), made(1, &["h", "i"], &[]))]);
    let wanted = world.texts("a");
    assert_eq!(wanted.iter().map(|(host, _)| host.as_str()).collect::<Vec<_>>(), ["h", "h", "i", "i"]);
    let v4: ipnet::IpNet = "240.240.0.0/16".parse().expect("a range");
    let v6: ipnet::IpNet = "2001:2::/48".parse().expect("a range");
    for (at, (_, value)) in wanted.iter().enumerate() {
        let address: IpAddr = value.parse().expect("an address");
        let pool = if at % 2 == 0 { v4 } else { v6 };
        assert!(pool.contains(&address) && address != pool.network(), "{value}");
    }
    // Names decide, so whoever asks again is told the same.
    assert_eq!(World::of(&Pools::default(), [(key("a"), made(9, &["h", "i"], &[]))]).texts("a"), wanted);
    assert_ne!(World::of(&Pools::default(), [(key("b"), made(1, &["h", "i"], &[]))]).texts("b"), wanted);
}

#[test]
fn what_a_status_says_stays() {
    kept(&[("a", made(1, &["h"], ONE))], "a", ONE);
    // Whoever wrote it, and wherever it is from.
    let other = &[("h", "10.1.2.3"), ("h", "10.1.2.4"), ("h", "2001:DB8::7")];
    kept(&[("a", made(1, &["h"], other))], "a", other);
    let twice = &[("h", "240.240.0.1"), ("h", "2001:2::a"), ("h", "2001:2::A")];
    kept(&[("a", made(1, &["h"], twice))], "a", &twice[..2]);
    let turned = &[("h", "2001:2::1"), ("h", "240.240.0.1")];
    kept(&[("a", made(1, &["h"], turned))], "a", turned);
    // A host more: the others keep theirs. One less: only its own go.
    let world = World::of(&Pools::default(), [(key("a"), made(1, &["new", "h"], ONE))]);
    assert_eq!((world.texts("a").len(), &world.texts("a")[2].1), (4, &"240.240.0.1".to_owned()));
    let two = &[("h", "240.240.0.1"), ("h", "2001:2::1"), ("gone", "240.240.0.2"), ("gone", "2001:2::2")];
    kept(&[("a", made(1, &["h"], two))], "a", ONE);
    // None are wanted any more.
    kept(&[("a", made(1, &[], ONE))], "a", &[]);
    // A missing family is added, what is no address goes.
    let world = World::of(&Pools::default(), [(key("a"), made(1, &["h"], &[("h", "nonsense"), ("h", "2001:2::1")]))]);
    let wanted = world.texts("a");
    assert!(wanted.len() == 2 && wanted[0].1 == "2001:2::1" && wanted[1].1.starts_with("240.240."), "{wanted:?}");
}

#[test]
fn of_two_that_have_an_address_the_older_keeps_it() {
    let other = &[("h", "240.240.0.1"), ("h", "2001:2::2")];
    for (a, b, older) in [(1, 2, "a"), (2, 1, "b"), (1, 1, "a")] {
        let entries = [("a", made(a, &["h"], ONE)), ("b", made(b, &["h"], other))];
        let mut world = World::of(&Pools::default(), entries.map(|(name, entry)| (key(name), entry)));
        let younger = if older == "a" { "b" } else { "a" };
        assert!(world.texts(older).iter().any(|(_, value)| value == "240.240.0.1"), "{older}");
        let moved = world.texts(younger);
        assert!(moved.len() == 2 && moved.iter().all(|(_, value)| value != "240.240.0.1"), "{moved:?}");
        // Its other address is its own.
        let own = if younger == "a" { "2001:2::1" } else { "2001:2::2" };
        assert!(moved.iter().any(|(_, value)| value == own), "{moved:?}");
        // The older goes before anything is written.
        world.put(&key(older), None);
        assert!(world.plan.due(&key(younger)).is_none(), "nobody is in the way");
    }
    // Two hosts of one entry.
    let twice = &[("h", "240.240.0.1"), ("h", "2001:2::1"), ("i", "240.240.0.1"), ("i", "2001:2::2")];
    let world = World::of(&Pools::default(), [(key("a"), made(1, &["h", "i"], twice))]);
    let wanted = world.texts("a");
    assert_eq!(wanted.iter().filter(|(_, value)| value == "240.240.0.1").collect::<Vec<_>>(), [&wanted[0]]);
    assert_eq!(wanted[0].0, "h");
}

#[test]
fn what_a_user_chose_is_the_users() {
    let mut world = World::of(&Pools::default(), [(key("a"), made(1, &["h"], &[]))]);
    let planned = world.texts("a");
    let chosen = || {
        let address = planned[0].1.parse().expect("an address");
        Some(Entry { chosen: [address].into(), ..made(9, &[], &[]) })
    };
    world.put(&key("user"), chosen());
    let instead = world.texts("a");
    assert_ne!(instead[0], planned[0], "it was only planned");
    assert_eq!(instead[1], planned[1]);
    world.settle();
    world.put(&key("user"), None);
    assert_eq!(world.texts("a"), instead, "it has another now");

    let mut world = World::of(&Pools::default(), [(key("a"), made(1, &["h"], &[]))]);
    world.settle();
    world.put(&key("user"), chosen());
    assert_eq!(world.texts("a"), [instead[1].clone(), instead[0].clone()], "it was in the status");
}

#[test]
fn an_entry_that_is_made_again_gets_what_it_had() {
    let mut world = World::of(&Pools::default(), [(key("a"), made(1, &["h"], &[])), (key("b"), made(2, &["h"], &[]))]);
    world.settle();
    let had = world.texts("a");
    world.put(&key("a"), None);
    world.put(&key("a"), Some(made(7, &["h"], &[])));
    assert_eq!(world.texts("a"), had);
}

#[test]
fn when_a_pool_is_exhausted_the_others_go_on() {
    // Three of IPv4, enough of IPv6.
    let pools = pools("240.240.0.0/30", "2001:2::/48");
    let names = ["a", "b", "c", "d", "e"];
    let entries = names.iter().zip(1..).map(|(name, age)| (key(name), made(age, &["h"], &[])));
    let mut world = World::of(&pools, entries);
    let counts = |world: &World| names.map(|name| world.entries.get(&key(name)).map_or(0, |_| world.texts(name).len()));
    assert_eq!(counts(&world), [2, 2, 2, 1, 1], "the oldest are served first");
    assert_eq!(world.plan.unserved().iter().collect::<Vec<_>>(), [&key("d"), &key("e")]);
    world.settle();
    assert_eq!(counts(&world), [2, 2, 2, 1, 1]);
    world.put(&key("b"), None);
    assert_eq!(counts(&world), [2, 0, 2, 2, 1], "what is free is used");
    world.put(&key("a"), Some(made(1, &[], &[])));
    assert_eq!(counts(&world), [0, 0, 2, 2, 2]);
    assert!(world.plan.unserved().is_empty());
    // A planned address that is not needed is free, too.
    let four = &["h", "i", "j", "k"];
    world.put(&key("f"), Some(made(9, four, &[])));
    assert_eq!(world.plan.unserved().len(), 1);
    world.put(&key("d"), None);
    world.put(&key("e"), None);
    assert_eq!(world.texts("f").len(), 6);
    world.put(&key("f"), Some(made(9, &["h"], &[])));
    assert_eq!((world.texts("f").len(), world.plan.unserved().len()), (2, 0));
}

#[test]
fn a_whole_pool_is_given_away_in_no_time() {
    let started = std::time::Instant::now();
    let entries = (0..70_000).map(|at| (key(&format!("n{at}")), made(at, &["h"], &[])));
    let mut world = World::of(&Pools::default(), entries);
    assert_eq!(world.plan.unserved().len(), 70_000 - 65_535);
    for at in 0..20 {
        world.write(&key(&format!("n{at}")));
        world.put(&key(&format!("n{at}")), None);
    }
    assert_eq!(world.plan.unserved().len(), 70_000 - 65_535 - 20);
    // Much more than it takes without optimisation on a busy machine.
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "{:?}", started.elapsed());
}

/// What happens to a world.
#[derive(Clone, Debug)]
enum Event {
    Put {
        name: u8,
        created: u32,
        hosts: u8,
    },
    Delete(u8),
    Write(u8),
    /// Somebody else writes an address into a status.
    Claim {
        name: u8,
        address: u8,
    },
    Choose {
        name: u8,
        address: u8,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let name = 0..6_u8;
    prop_oneof![
        3 => (name.clone(), 0..3_u32, 0..4_u8).prop_map(|(name, created, hosts)| Event::Put { name, created, hosts }),
        1 => name.clone().prop_map(Event::Delete),
        4 => name.clone().prop_map(Event::Write),
        1 => (name.clone(), 1..16_u8).prop_map(|(name, address)| Event::Claim { name, address }),
        1 => (name, 1..16_u8).prop_map(|(name, address)| Event::Choose { name, address }),
    ]
}

/// No two hosts are to have one address, nor one that a user chose.
fn is_unique(world: &World) {
    let mut seen = BTreeSet::new();
    for (name, entry) in &world.entries {
        seen.extend(entry.chosen.iter().copied());
        assert!(entry.chosen.is_empty() || entry.hosts.is_empty(), "{name}");
    }
    for name in world.entries.keys() {
        for one in world.wanted(name) {
            assert!(seen.insert(one.value.parse().expect("an address")), "{name} has {one:?}, as another");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn addresses_are_unique_and_stay(events in prop::collection::vec(event(), 1..60)) {
        let pools = pools("240.240.0.0/28", "2001:2::/124");
        let mut world = World::new(&pools);
        for event in events {
            let before: BTreeMap<_, _> = world.entries.keys().map(|name| (name.clone(), world.wanted(name))).collect();
            let mut calm = false;
            match event {
                Event::Put { name, created, hosts } => {
                    let name = key(&name.to_string());
                    let all = ["h", "i", "j"];
                    let old = world.entries.get(&name).map(|entry| entry.allocated.clone()).unwrap_or_default();
                    let entry = made(created, &all[..usize::from(hosts)], &[]);
                    world.put(&name, Some(Entry { allocated: old, ..entry }));
                }
                Event::Delete(name) => world.put(&key(&name.to_string()), None),
                Event::Write(name) => {
                    world.write(&key(&name.to_string()));
                    calm = true;
                }
                Event::Claim { name, address } => {
                    let name = key(&name.to_string());
                    if let Some(entry) = world.entries.get(&name).filter(|entry| !entry.hosts.is_empty()).cloned() {
                        let mut allocated = entry.allocated.to_vec();
                        allocated.extend(said(&[("h", &format!("240.240.0.{address}"))]).into_vec());
                        world.put(&name, Some(Entry { allocated: allocated.into(), ..entry }));
                    }
                }
                Event::Choose { name, address } => {
                    let address = IpAddr::from([240, 240, 0, address]);
                    let entry = Entry { chosen: [address].into(), ..made(1, &[], &[]) };
                    world.put(&key(&name.to_string()), Some(entry));
                }
            }
            is_unique(&world);
            if calm {
                // What is written does not change what is planned for others.
                for (name, wanted) in before {
                    prop_assert!(plan::same(&world.wanted(&name), &wanted), "{name}");
                }
            }
        }
        world.settle();
        is_unique(&world);
        for name in world.entries.keys() {
            prop_assert!(world.plan.due(name).is_none(), "{name} is never done");
        }
        // Who begins now comes to the same.
        let again = World::of(&pools, world.entries.clone());
        for name in world.entries.keys() {
            prop_assert!(again.plan.due(name).is_none(), "{name} is not done for another");
        }
    }
}
