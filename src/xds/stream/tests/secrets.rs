//! Secrets on a stream: asked for by name, each caller for itself, and changed
//! without a word about anything else.

use super::*;
use crate::ca::identity::SpiffeId;
use crate::credential::{Account, Place, Want};
use crate::xds::secret::tests::{id, item, there};
use crate::xds::secret::{Accounts, Content, Vault};
use crate::xds::stream::secrets::Renewed;

use ResourceType::{Cluster, Secret};

/// A gateway's stream, and what there is for it.
struct Proxy {
    bench: Bench,
    vault: Arc<Vault>,
    caller: Option<SpiffeId>,
}

fn node(name: &str) -> WireNode {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let labels = Struct { fields: [("gateway.networking.k8s.io/gateway-name".into(), text("wp"))].into() };
    let labels = Value { kind: Some(Kind::StructValue(labels)) };
    WireNode {
        id: format!("waypoint~1.1.1.1~{name}~ns.svc.cluster.local"),
        metadata: Some(Struct { fields: [("LABELS".into(), labels)].into() }),
        ..Default::default()
    }
}

impl Proxy {
    fn new(variant: Variant) -> Self {
        let mut bench = Bench::new(variant, &[]);
        let scope = Scope::of(&Node::parse(&node("wp.ns")).unwrap()).unwrap();
        let scopes = [(scope, Arc::default())].into_iter().collect();
        bench.views = Arc::new(Views::new(1, Layer::default(), Layer::default()).with_scopes(scopes));
        let vault = Vault { accounts: Accounts::All, ..Vault::default() };
        Self { bench, vault: Arc::new(vault), caller: Some(id("ns", "gw")) }
    }

    /// A delta stream on which these names were asked for.
    fn asking(names: &[&str], items: &[(&str, Content)]) -> Self {
        let mut proxy = Self::new(Variant::Delta);
        items.iter().for_each(|(name, content)| proxy.put(name, content.clone()));
        proxy.request(sub(Secret, names));
        proxy
    }

    fn put(&mut self, name: &str, content: Content) {
        let vault = Arc::make_mut(&mut self.vault);
        vault.items.insert(Place::secret("ns", name), item(content, &[]));
        vault.revision += 1;
    }

    fn renew(&mut self) -> Renewed {
        self.bench.stream.renew_secrets(&self.vault, self.caller.as_ref())
    }

    fn request(&mut self, mut request: DeltaRequest) {
        if self.bench.stream.node().is_none() {
            request.node = Some(node("wp.ns"));
        }
        self.bench.stream.on_delta_request(request).unwrap();
    }

    fn sotw(&mut self, mut request: SotwRequest) {
        if self.bench.stream.node().is_none() {
            request.node = Some(node("wp.ns"));
        }
        self.bench.stream.on_sotw_request(request).unwrap();
    }

    /// The next responses: names with the last byte of their content, and names
    /// that are gone.
    #[track_caller]
    fn expect(&mut self, expected: &[(&[&str], &[&str])]) {
        self.renew();
        let mut found = Vec::new();
        while let Some(response) = self.bench.stream.next(&self.bench.views) {
            self.bench.nonces.insert(response.ty, response.nonce.to_string());
            assert_eq!(response.ty, Secret);
            let sent: Vec<_> = contents(&response).iter().map(|one| (one.name().to_owned(), one.version())).collect();
            let sent: Vec<_> = sent.iter().map(|(name, version)| format!("{name}={}", version.number())).collect();
            let removed: Vec<_> = response.removed.iter().map(ToString::to_string).collect();
            found.push((sent, removed));
        }
        let text = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found, expected.iter().map(|(sent, removed)| (text(sent), text(removed))).collect::<Vec<_>>());
    }

    fn ack(&mut self) {
        let response_nonce = self.bench.nonces[&Secret].clone();
        self.request(DeltaRequest { response_nonce, ..delta(Secret) });
    }
}

#[test]
fn secrets_come_when_they_are_asked_for_and_when_they_change() {
    let mut proxy = Proxy::asking(&["kubernetes://a", "kubernetes://b"], &[("a", there(10)), ("b", there(20))]);
    proxy.expect(&[(&["kubernetes://a=10", "kubernetes://b=20"], &[])]);
    proxy.ack();
    proxy.expect(&[]);
    proxy.put("a", there(11));
    proxy.expect(&[(&["kubernetes://a=11"], &[])]);
    proxy.ack();
    // What somebody else asks for is nothing to this one.
    proxy.put("c", there(30));
    proxy.expect(&[]);
    proxy.request(sub(Secret, &["kubernetes://c"]));
    proxy.expect(&[(&["kubernetes://c=30"], &[])]);
    proxy.ack();
    proxy.request(unsub(Secret, &["kubernetes://a"]));
    proxy.put("a", there(12));
    proxy.expect(&[]);
}

#[test]
fn one_secret_has_several_names() {
    let names = ["kubernetes://a", "kubernetes://ns/a", "kubernetes://a-cacert"];
    let mut proxy = Proxy::asking(&names, &[("a", there(10)), ("a-cacert", Content::Missing)]);
    proxy.expect(&[(&["kubernetes://a=10", "kubernetes://a-cacert=11", "kubernetes://ns/a=10"], &[])]);
    proxy.ack();
    proxy.put("a", there(20));
    proxy.expect(&[(&["kubernetes://a=20", "kubernetes://a-cacert=21", "kubernetes://ns/a=20"], &[])]);
    proxy.ack();
    // One with the whole name comes first.
    proxy.put("a-cacert", there(50));
    proxy.expect(&[(&["kubernetes://a-cacert=51"], &[])]);
}

#[test]
fn a_secret_that_is_missing_holds_up_nothing() {
    let mut proxy = Proxy::asking(&["kubernetes://a", "kubernetes://b"], &[("a", there(10)), ("b", Content::Missing)]);
    proxy.expect(&[(&["kubernetes://a=10"], &["kubernetes://b"])]);
    proxy.ack();
    proxy.put("b", there(20));
    proxy.expect(&[(&["kubernetes://b=20"], &[])]);
    proxy.ack();
    proxy.put("b", Content::Missing);
    proxy.expect(&[(&[], &["kubernetes://b"])]);
    proxy.ack();
    proxy.put("b", there(21));
    proxy.expect(&[(&["kubernetes://b=21"], &[])]);
}

#[test]
fn nothing_is_said_of_what_is_being_looked_for() {
    let mut proxy = Proxy::asking(&["kubernetes://a", "kubernetes://b"], &[("a", Content::Unknown), ("b", there(20))]);
    proxy.expect(&[(&["kubernetes://b=20"], &[])]);
    proxy.ack();
    proxy.put("a", Content::Unknown);
    proxy.expect(&[]);
    proxy.put("a", there(10));
    proxy.expect(&[(&["kubernetes://a=10"], &[])]);
    proxy.ack();
    // Not even when it is looked for again.
    proxy.put("a", Content::Unknown);
    proxy.expect(&[]);
    proxy.put("a", there(11));
    proxy.expect(&[(&["kubernetes://a=11"], &[])]);
}

#[test]
fn a_proxy_that_comes_back_is_sent_what_has_changed() {
    let mut proxy = Proxy::new(Variant::Delta);
    proxy.put("a", there(0x10));
    proxy.put("b", there(0x20));
    proxy.put("c", Content::Unknown);
    proxy.put("d", Content::Missing);
    let version = |number: u64| format!("{number:016x}");
    let held = [
        ("kubernetes://a", &*version(0x10)),
        ("kubernetes://b", &version(0x1f)),
        ("kubernetes://c", &version(0x30)),
        ("kubernetes://d", &version(0x40)),
    ];
    let initial_versions = proxy.bench.held(Secret, &held);
    let names = held.map(|(name, _)| name);
    proxy.request(DeltaRequest { initial_versions, ..sub(Secret, &names) });
    // Of what is not known yet nothing is taken away.
    proxy.expect(&[(&["kubernetes://b=32"], &["kubernetes://d"])]);
    proxy.ack();
    proxy.put("c", there(0x31));
    proxy.expect(&[(&["kubernetes://c=49"], &[])]);
}

#[test]
fn what_was_rejected_is_sent_again_when_it_has_changed() {
    let mut proxy = Proxy::asking(&["kubernetes://a"], &[("a", there(10))]);
    proxy.expect(&[(&["kubernetes://a=10"], &[])]);
    let response_nonce = proxy.bench.nonces[&Secret].clone();
    let rejection = Some(Rejection { message: "no".into() });
    proxy.request(DeltaRequest { response_nonce, rejection, ..delta(Secret) });
    proxy.put("b", there(20));
    proxy.expect(&[]);
    proxy.put("a", there(11));
    proxy.expect(&[(&["kubernetes://a=11"], &[])]);
}

#[test]
fn changes_meanwhile_are_one_change() {
    let mut proxy = Proxy::asking(&["kubernetes://a"], &[("a", there(10))]);
    proxy.expect(&[(&["kubernetes://a=10"], &[])]);
    for version in 11..=15 {
        proxy.put("a", there(version));
        proxy.expect(&[]);
    }
    proxy.ack();
    proxy.expect(&[(&["kubernetes://a=15"], &[])]);
}

#[test]
fn the_state_of_the_world_has_what_there_is() {
    let mut proxy = Proxy::new(Variant::Sotw);
    proxy.put("a", there(10));
    proxy.put("b", Content::Missing);
    let ask = |names: &[&str], nonce: &str| SotwRequest { response_nonce: nonce.into(), ..sotw(Secret, names) };
    let both = ["kubernetes://a", "kubernetes://b"];
    proxy.sotw(ask(&both, ""));
    proxy.expect(&[(&["kubernetes://a=10"], &[])]);
    let nonce = |proxy: &Proxy| proxy.bench.nonces[&Secret].clone();
    proxy.sotw(ask(&both, &nonce(&proxy)));
    proxy.expect(&[]);
    proxy.put("b", there(20));
    proxy.expect(&[(&["kubernetes://a=10", "kubernetes://b=20"], &[])]);
    proxy.sotw(ask(&["kubernetes://b"], &nonce(&proxy)));
    proxy.expect(&[(&["kubernetes://b=20"], &[])]);
    proxy.sotw(ask(&["kubernetes://b"], &nonce(&proxy)));
    proxy.put("a", there(11));
    proxy.expect(&[]);
}

#[test]
fn nobody_is_told_what_is_not_theirs() {
    let mut proxy = Proxy::asking(&["kubernetes://a", "kubernetes://far/b"], &[("a", there(10))]);
    let items = &mut Arc::make_mut(&mut proxy.vault).items;
    items.insert(Place::secret("far", "b"), item(there(20), &[]));
    let renewed = proxy.renew();
    assert_eq!(renewed.denied, [("kubernetes://far/b".into(), "it is in another namespace")]);
    proxy.expect(&[(&["kubernetes://a=10"], &["kubernetes://far/b"])]);
    proxy.ack();
    // It has changed, and is still not theirs. It is complained of once.
    Arc::make_mut(&mut proxy.vault).items.insert(Place::secret("far", "b"), item(there(21), &[]));
    assert_eq!(proxy.renew().denied, []);
    proxy.expect(&[]);
}

#[test]
fn whoever_has_not_proved_who_it_is_gets_nothing() {
    let mut proxy = Proxy::asking(&["kubernetes://a", "kubernetes://a-cacert"], &[("a", there(10))]);
    proxy.caller = None;
    proxy.expect(&[(&[], &["kubernetes://a", "kubernetes://a-cacert"])]);
    proxy.ack();
    proxy.put("a", there(11));
    proxy.expect(&[]);
    proxy.request(sub(Secret, &["*"]));
    proxy.expect(&[(&[], &[])]);
}

#[test]
fn everything_is_what_was_asked_for() {
    let mut proxy = Proxy::asking(&["kubernetes://a"], &[("a", there(10)), ("b", there(20))]);
    proxy.request(sub(Secret, &["*"]));
    proxy.expect(&[(&["kubernetes://a=10"], &[])]);
    proxy.ack();
    proxy.put("b", there(21));
    proxy.expect(&[]);
}

#[test]
fn a_right_that_is_withdrawn_withdraws_the_secret() {
    let mut proxy = Proxy::asking(&["kubernetes://a"], &[("a", there(10))]);
    let account = Account { namespace: "ns".into(), name: "gw".into() };
    let rights = |allowed: &[bool]| Accounts::Asked(allowed.iter().map(|it| (account.clone(), *it)).collect());
    Arc::make_mut(&mut proxy.vault).accounts = rights(&[]);
    let wants = proxy.renew().wants.unwrap();
    assert_eq!(wants.into_iter().collect::<Vec<_>>(), [Want::Account(account.clone())]);
    proxy.expect(&[]);
    Arc::make_mut(&mut proxy.vault).accounts = rights(&[true]);
    let wants = proxy.renew().wants.unwrap();
    assert_eq!(
        wants.into_iter().collect::<Vec<_>>(),
        [Want::Place(Place::secret("ns", "a")), Want::Account(account.clone())]
    );
    proxy.expect(&[(&["kubernetes://a=10"], &[])]);
    proxy.ack();
    Arc::make_mut(&mut proxy.vault).accounts = rights(&[false]);
    proxy.expect(&[(&[], &["kubernetes://a"])]);
    // An answer that was lost is not a no.
    Arc::make_mut(&mut proxy.vault).accounts = rights(&[true]);
    proxy.ack();
    proxy.expect(&[(&["kubernetes://a=10"], &[])]);
    proxy.ack();
    Arc::make_mut(&mut proxy.vault).accounts = rights(&[]);
    proxy.expect(&[]);
}

#[test]
fn secrets_wait_for_nothing_else_and_nothing_for_them() {
    let mut proxy = Proxy::asking(&["kubernetes://a"], &[("a", there(10))]);
    proxy.request(delta(Cluster));
    proxy.renew();
    // Both are under way at once.
    let types: Vec<_> = std::iter::from_fn(|| proxy.bench.stream.next(&proxy.bench.views)).map(|it| it.ty).collect();
    assert_eq!(types, [Cluster, Secret]);
}

#[test]
fn a_stream_remembers_no_secret() {
    let mut proxy = Proxy::asking(&["kubernetes://a"], &[("a", there(10))]);
    proxy.expect(&[(&["kubernetes://a=10"], &[])]);
    let shown = format!("{:?}", proxy.bench.stream);
    assert!(shown.contains("kubernetes://a") && !shown.contains("[18, 1, 120]"), "{shown}");
}

#[test]
fn clients_without_a_configuration_have_no_secrets() {
    let mut bench = Bench::new(Variant::Delta, &[]);
    let received = bench.request(sub(Secret, &["kubernetes://a"]));
    assert_eq!(received, Received::UnknownType(Secret.type_url().into()));
    assert!(!bench.stream.asks_for_secrets());
}

#[test]
fn a_flood_of_names_is_refused() {
    let mut proxy = Proxy::new(Variant::Delta);
    let names: Vec<Arc<str>> = (0..250_001).map(|number| format!("kubernetes://s{number}").into()).collect();
    let request = DeltaRequest { subscribe: names, node: Some(node("wp.ns")), ..delta(Secret) };
    let refused = proxy.bench.stream.on_delta_request(request);
    assert_eq!(refused.map_err(|status| status.code()).unwrap_err(), tonic::Code::ResourceExhausted);
}

/// Names that are looked at for whoever asks are few, whether they have been
/// answered or not.
#[test]
fn names_that_need_no_right_are_few() {
    let mut proxy = Proxy::new(Variant::Delta);
    let names = |from: usize, to: usize| -> Vec<Arc<str>> {
        (from..to).map(|number| format!("kubernetes://s{number}-cacert").into()).collect()
    };
    for number in 0..600 {
        proxy.put(&format!("s{number}-cacert"), Content::Missing);
        proxy.put(&format!("s{number}"), Content::Missing);
    }
    proxy.request(DeltaRequest { subscribe: names(0, 600), ..delta(Secret) });
    proxy.renew();
    let ask = |proxy: &mut Proxy, subscribe| {
        let refused = proxy.bench.stream.on_delta_request(DeltaRequest { subscribe, ..delta(Secret) });
        refused.err().map(|status| status.code())
    };
    let others = (0..2000).map(|number| format!("kubernetes://s{number}").into()).collect();
    assert_eq!(ask(&mut proxy, others), None, "those are for who may read them");
    assert_eq!(ask(&mut proxy, names(600, 1000)), None);
    assert_eq!(ask(&mut proxy, names(1000, 1001)), Some(tonic::Code::ResourceExhausted));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    /// Whatever changes in whatever order, a client ends with what it may have.
    #[test]
    fn clients_end_with_what_they_may_have(
        steps in proptest::collection::vec((0..4usize, 0..6usize, 0..3u64), 1..40),
    ) {
        let names = ["kubernetes://a", "kubernetes://a-cacert", "kubernetes://b", "kubernetes://far/c"];
        let mut proxy = Proxy::new(Variant::Delta);
        let mut held: BTreeMap<String, u64> = BTreeMap::new();
        let mut asked = std::collections::BTreeSet::new();
        let turn = |proxy: &mut Proxy, held: &mut BTreeMap<String, u64>, answer: bool| {
            proxy.renew();
            while let Some(response) = proxy.bench.stream.next(&proxy.bench.views) {
                proxy.bench.nonces.insert(Secret, response.nonce.to_string());
                for one in contents(&response) {
                    held.insert(one.name().to_owned(), one.version().number());
                }
                response.removed.iter().for_each(|name| _ = held.remove(&**name));
                if answer {
                    proxy.ack();
                    proxy.renew();
                }
            }
        };
        for (kind, at, number) in steps {
            match (kind, at) {
                (0, 0..4) => {
                    asked.insert(names[at]);
                    proxy.request(sub(Secret, &[names[at]]));
                }
                (1, 0..4) => {
                    asked.remove(names[at]);
                    held.remove(names[at]);
                    proxy.request(unsub(Secret, &[names[at]]));
                }
                (2, 0..3) => {
                    let content = match number {
                        0 => Content::Missing,
                        1 => Content::Unknown,
                        _ => there(100 * at as u64 + 10 * number),
                    };
                    proxy.put(["a", "a-cacert", "b"][at], content);
                }
                (3, _) if proxy.bench.nonces.contains_key(&Secret) => proxy.ack(),
                _ => {}
            }
            turn(&mut proxy, &mut held, false);
        }
        if proxy.bench.nonces.contains_key(&Secret) {
            proxy.ack();
        }
        // Everything is known in the end.
        for name in ["a", "a-cacert", "b"] {
            let place = Place::secret("ns", name);
            if !matches!(proxy.vault.items.get(&place).map(|it| &it.content), Some(Content::There(_) | Content::Missing)) {
                proxy.put(name, Content::Missing);
            }
        }
        turn(&mut proxy, &mut held, true);
        let mut expected = BTreeMap::new();
        for name in asked {
            if let crate::xds::secret::Answer::There(version) = proxy.vault.look(proxy.caller.as_ref(), name) {
                expected.insert(name.to_owned(), version.number());
            }
        }
        proptest::prop_assert_eq!(held, expected);
    }
}

#[test]
fn a_vault_without_changes_costs_nothing() {
    let mut proxy = Proxy::asking(&["kubernetes://a"], &[("a", there(10))]);
    assert!(proxy.renew().wants.is_some());
    assert!(proxy.renew().wants.is_none());
    let same = Arc::new((*proxy.vault).clone());
    proxy.vault = same;
    assert!(proxy.renew().wants.is_none());
}
