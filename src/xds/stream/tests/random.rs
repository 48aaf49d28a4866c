//! A random walk of a client and a mesh, against a reference client that knows
//! nothing of layers, views or ranks.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// How many walks; `FAIRWAY_SEEDS` asks for more.
const SEEDS: u64 = 2_000;
const STEPS: usize = 80;

/// xorshift64*: small, portable and good enough to pick what happens next.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const WORKLOADS: [&str; 5] = ["w1", "w2", "w3", "w4", "w5"];
const SERVICES: [&str; 2] = ["s1", "s2"];
const POLICIES: [&str; 3] = ["p1", "p2", "p3"];
const CONTENTS: [&str; 6] = ["s1,n1", "s1,n2", "s2,n1", "s2,n2", "s9", "x"];

/// The keys that can be subscribed to; some never exist.
fn keys(ty: ResourceType) -> &'static [&'static str] {
    match ty {
        Authorization => &["p1", "p2", "p3", "p9"],
        Address => &["w1", "w2", "s1", "s2", "/ip-w3", "/ip-w4", "/vip-s1", "/vip-s2", "w9", "/ip-w9"],
        Workload => &["w1", "w2", "/ip-w3", "w9"],
        other => panic!("{other:?} is for Envoys"),
    }
}

/// One type as the client sees it.
#[derive(Default)]
struct Client {
    wildcard: bool,
    names: BTreeSet<String>,
    /// Whether it is given the workloads of its node unasked.
    local: bool,
    /// Name to content.
    held: BTreeMap<String, String>,
    /// What it was sent and has not forgotten, rejected or not.
    told: BTreeMap<String, String>,
    /// What it rejected; in SotW, everything since.
    rejected: BTreeMap<String, String>,
    /// The response it has not answered yet.
    unanswered: Option<(String, BTreeMap<String, String>)>,
    /// Whether it asked for something since the last response was made.
    asked: bool,
}

impl Client {
    /// What of `all` the subscription covers, worked out the slow way.
    fn wanted(&self, ty: ResourceType, all: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let named = |name: &str| {
            let alias = if name.starts_with('s') { format!("/vip-{name}") } else { format!("/ip-{name}") };
            self.names.contains(name) || (ty != Authorization && self.names.contains(&alias))
        };
        let wanted = |(name, content): &(&String, &String)| {
            let mut facts = content.split(',');
            let (service, node) = (facts.next().unwrap_or_default(), facts.next());
            let local = self.local && ty == Address && node == Some("n1");
            let related = all.contains_key(service) && service.starts_with('s') && named(service);
            let is_workload = name.starts_with('w');
            self.wildcard || named(name) || (is_workload && (local || (ty == Address && related)))
        };
        all.iter().filter(wanted).map(|(name, content)| (name.clone(), content.clone())).collect()
    }

    fn forget(&mut self, ty: ResourceType) {
        self.held = self.wanted(ty, &self.held);
        let known = self.wanted(ty, &self.told);
        self.told.retain(|name, _| known.contains_key(name));
    }
}

/// All resources of a type in a view, by name.
fn model(views: &Views, ty: ResourceType) -> BTreeMap<String, String> {
    let carried = views.layer(ty, None).iter().filter(|resource| ty.carries(resource));
    carried.map(|resource| split(&described(&resource))).collect()
}

fn split(described: &str) -> (String, String) {
    let (name, content) = described.split_once('=').unwrap();
    // Through the `Address` type a workload shows with its tag and length.
    (name.into(), content.into())
}

struct Walk {
    random: Random,
    bench: Bench,
    clients: BTreeMap<ResourceType, Client>,
    history: BTreeMap<u64, Arc<Views>>,
    variant: Variant,
}

impl Walk {
    fn new(seed: u64, variant: Variant) -> Self {
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let bench = Bench::new(variant, &[("w1", "s1,n1"), ("s1", "a"), ("p1", "a")]);
        let mut walk = Self { random, bench, clients: BTreeMap::new(), history: BTreeMap::new(), variant };
        walk.note();
        walk
    }

    fn note(&mut self) {
        self.history.insert(self.bench.views.revision, self.bench.views.clone());
    }

    fn step(&mut self) {
        let types = [Authorization, Address, Address, Workload];
        let ty = types[self.random.below(types.len())];
        match self.random.below(12) {
            0..3 => self.change(),
            3 => self.subscribe(ty),
            4 => self.unsubscribe(ty),
            5 if self.random.below(4) == 0 => self.reconnect(),
            5 => self.stale(ty),
            6 => self.answer(ty, true),
            7 | 8 => self.answer(ty, false),
            _ => _ = self.receive(),
        }
    }

    fn change(&mut self) {
        for _ in 0..1 + self.random.below(3) {
            let (name, content) = match self.random.below(4) {
                0 => (self.random.pick(&POLICIES), self.random.pick(&["a", "b"])),
                1 => (self.random.pick(&SERVICES), self.random.pick(&["a", "b"])),
                _ => (self.random.pick(&WORKLOADS), self.random.pick(&CONTENTS)),
            };
            let layer = if name.starts_with('p') { Authorization } else { Address };
            let exists = self.bench.views.layer(layer, None).get(name).is_some();
            match self.random.below(3) {
                0 if exists => self.bench.publish(&[], &[name]),
                _ => self.bench.publish(&[(name, content)], &[]),
            }
            self.note();
        }
    }

    /// Sends a request of either variant for the client's subscription.
    fn request(&mut self, ty: ResourceType, nonce: &str, error: bool, subscribe: &[&str], unsubscribe: &[&str]) {
        let rejection = error.then(|| Rejection { message: "no".into() });
        let response_nonce = nonce.to_owned();
        match self.variant {
            Variant::Delta => {
                let (subscribe, unsubscribe) = (names(subscribe), names(unsubscribe));
                self.bench.request(DeltaRequest { subscribe, unsubscribe, response_nonce, rejection, ..delta(ty) });
            }
            Variant::Sotw => {
                let client = &self.clients[&ty];
                let mut all: Vec<_> = client.names.iter().map(|name| &**name).collect();
                all.extend(client.wildcard.then_some("*"));
                self.bench.sotw_request(SotwRequest { response_nonce, rejection, ..sotw(ty, &all) });
            }
        }
    }

    /// The nonce to send when nothing is acknowledged: SotW always has one.
    fn latest(&self, ty: ResourceType) -> String {
        match self.variant {
            Variant::Delta => String::new(),
            Variant::Sotw => self.bench.nonces.get(&ty).cloned().unwrap_or_default(),
        }
    }

    fn subscribe(&mut self, ty: ResourceType) {
        if self.variant == Variant::Sotw && self.clients.get(&ty).is_some_and(|client| client.unanswered.is_some()) {
            // A SotW client that changes its mind answers at the same time.
            return self.answer(ty, false);
        }
        let begins = !self.clients.contains_key(&ty);
        let wildcard = self.random.below(3) == 0;
        let mut subscribe = Vec::new();
        if wildcard {
            subscribe.push("*");
        }
        for _ in 0..self.random.below(3) {
            let key = self.random.pick(keys(ty));
            if !subscribe.contains(&key) {
                subscribe.push(key);
            }
        }
        let client = self.clients.entry(ty).or_default();
        client.asked = true;
        client.local = self.variant == Variant::Delta;
        // Nothing at first is a wildcard, also to the client.
        client.wildcard |= wildcard || (begins && subscribe.is_empty());
        client.names.extend(subscribe.iter().filter(|name| **name != "*").map(|name| name.to_string()));
        self.request(ty, &self.latest(ty), false, &subscribe, &[]);
    }

    fn unsubscribe(&mut self, ty: ResourceType) {
        if self.clients.get(&ty).is_none_or(|client| self.variant == Variant::Sotw && client.unanswered.is_some()) {
            return;
        }
        let (first, second) = (self.random.pick(keys(ty)), self.random.pick(keys(ty)));
        let mut unsubscribe = if first == second { vec![first] } else { vec![first, second] };
        if self.random.below(3) == 0 {
            unsubscribe.push("*");
        }
        let Some(client) = self.clients.get_mut(&ty) else { return };
        client.asked = true;
        client.wildcard &= !unsubscribe.contains(&"*");
        client.names.retain(|name| !unsubscribe.contains(&&**name));
        client.forget(ty);
        self.request(ty, &self.latest(ty), false, &[], &unsubscribe);
    }

    fn stale(&mut self, ty: ResourceType) {
        if self.clients.get(&ty).is_some_and(|client| !client.unanswered.iter().any(|(nonce, _)| nonce == "7-0")) {
            self.request(ty, "7-0", self.random.0 & 1 == 0, &[], &[]);
        }
    }

    fn reconnect(&mut self) {
        let salt = self.random.below(1000) as u64 + 100;
        self.bench.stream = Stream::new(self.variant, salt);
        self.bench.nonces.clear();
        let types: Vec<_> = self.clients.keys().copied().collect();
        for ty in types {
            let Some(client) = self.clients.get_mut(&ty) else { continue };
            (client.unanswered, client.asked) = (None, true);
            client.told = client.held.clone();
            client.rejected.clear();
            if self.variant == Variant::Sotw {
                if client.wildcard || !client.names.is_empty() {
                    self.request(ty, "", false, &[], &[]);
                } else {
                    self.clients.remove(&ty);
                }
                continue;
            }
            let mut subscribe: Vec<_> = client.names.iter().map(String::as_str).collect();
            let unsubscribe: &[&str] = if client.wildcard { &[] } else { &["*"] };
            subscribe.push("*");
            let versions: Vec<_> =
                client.held.iter().map(|(name, content)| (name.clone(), version(name, content))).collect();
            let versions: Vec<_> = versions.iter().map(|(name, version)| (&**name, &**version)).collect();
            let initial_versions = self.bench.held(ty, &versions);
            let (subscribe, unsubscribe) = (names(&subscribe), names(unsubscribe));
            // What it lists counts as subscribed unless everything is.
            if !client.wildcard {
                client.names.extend(client.held.keys().cloned());
            }
            self.bench.request(DeltaRequest { subscribe, unsubscribe, initial_versions, ..delta(ty) });
        }
    }

    fn answer(&mut self, ty: ResourceType, reject: bool) {
        let Some(client) = self.clients.get_mut(&ty) else { return };
        let Some((nonce, sent)) = client.unanswered.take() else { return };
        // Rejecting a service would also drop what is only of use with it.
        let bad = sent.iter().find(|(name, _)| !name.starts_with('s')).filter(|_| reject);
        if let Some((name, content)) = bad {
            client.rejected.insert(name.clone(), content.clone());
            if client.held.get(name) == Some(content) {
                client.held.remove(name);
            }
            if self.variant == Variant::Sotw {
                client.rejected.extend(sent.clone());
            }
        }
        let error = bad.is_some();
        self.request(ty, &nonce, error, &[], &[]);
    }

    /// Takes one response off the stream, if there is one.
    fn receive(&mut self) -> bool {
        let reached = |bench: &Bench, ty| bench.stream.progress().find(|p| p.ty == ty).and_then(|p| p.revision);
        let Some((ty, sent, removed)) = self.bench.response() else { return false };
        let response = self.bench.last.take().unwrap();
        let sent: BTreeMap<_, _> = sent.iter().map(|sent| split(sent)).collect();

        // Make before break, as far as both types are wildcards.
        let everything = |client: Option<&Client>| client.is_some_and(|client| client.wildcard && !client.asked);
        if everything(self.clients.get(&Authorization)) && everything(self.clients.get(&Address)) {
            match ty {
                Address if !sent.is_empty() => {
                    for policy in model(&response.views, Authorization).keys() {
                        assert!(self.clients[&Authorization].told.contains_key(policy), "{policy} comes too late");
                    }
                }
                Authorization => {
                    let reached = reached(&self.bench, Address).expect("the addresses were sent");
                    let views = &self.history[&reached];
                    for policy in &removed {
                        assert!(views.authorizations.get(policy).is_none(), "{policy} leaves too early at {reached}");
                    }
                }
                _ => {}
            }
        }

        let client = self.clients.get_mut(&ty).expect("only what is subscribed is sent");
        assert!(client.unanswered.is_none(), "two responses of one type are outstanding");
        if self.variant == Variant::Sotw {
            client.rejected.clear();
            client.held = sent.clone();
            client.told = sent.clone();
        } else {
            if !client.asked {
                assert!(!sent.is_empty() || !removed.is_empty(), "an empty response");
                for (name, content) in &sent {
                    assert_ne!(client.told.get(name), Some(content), "{name} is sent again unchanged");
                }
            }
            for name in &removed {
                client.held.remove(name);
                client.told.remove(name);
            }
            for (name, content) in &sent {
                client.rejected.remove(name);
                client.held.insert(name.clone(), content.clone());
                client.told.insert(name.clone(), content.clone());
            }
            client.forget(ty);
        }
        client.asked = false;
        client.unanswered = Some((response.nonce.to_string(), sent));
        true
    }

    fn settle(&mut self) {
        loop {
            let mut moved = false;
            while self.receive() {
                moved = true;
            }
            for ty in ResourceType::ALL {
                moved |= self.clients.get(&ty).is_some_and(|client| client.unanswered.is_some());
                self.answer(ty, false);
            }
            if !moved {
                break;
            }
        }
        for (ty, client) in &self.clients {
            let mut expected = client.wanted(*ty, &model(&self.bench.views, *ty));
            let mut held = client.held.clone();
            for (name, content) in &client.rejected {
                if expected.get(name) == Some(content) {
                    expected.remove(name);
                    held.remove(name);
                }
            }
            assert_eq!(held, expected, "{ty:?} wildcard {} names {:?}", client.wildcard, client.names);
        }
    }
}

fn version(name: &str, content: &str) -> String {
    resource(name, content).version().to_string()
}

#[track_caller]
fn walks(variant: Variant) {
    let seeds = std::env::var("FAIRWAY_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    for seed in 1..=seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut walk = Walk::new(seed, variant);
            for _ in 0..3 {
                (0..STEPS).for_each(|_| walk.step());
                walk.settle();
            }
        });
        assert!(outcome.is_ok(), "seed {seed} of {variant:?}");
    }
}

#[test]
fn delta_clients_converge() {
    walks(Variant::Delta);
}

#[test]
fn sotw_clients_converge() {
    walks(Variant::Sotw);
}
