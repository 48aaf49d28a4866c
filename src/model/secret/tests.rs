//! From objects to what proxies can ask for: through all tables.

use super::testing::{certificate, days, key, pair, pem, secret};
use super::*;
use crate::api::{Change, Kind, Object};
use crate::credential::Place;
use crate::model::Settings;
use crate::source::documents::{Document, read};
use crate::translation::Translation;
use crate::xds::secret::{Accounts, Answer, Vault};

struct World {
    translation: Translation,
    vault: Arc<Vault>,
}

impl World {
    fn new(by_name: bool) -> Self {
        let settings = Settings { credentials_by_name: by_name, ..Settings::default() };
        let mut world = Self { translation: Translation::new(Arc::new(settings)), vault: Arc::default() };
        world.commit(Some(Accounts::All));
        world
    }

    fn commit(&mut self, accounts: Option<Accounts>) {
        self.translation.commit();
        if let Some(vault) = self.translation.vault(accounts) {
            self.vault = vault;
        }
    }

    fn put(&mut self, object: Object) {
        self.translation.apply(Change::Put(object));
        self.commit(None);
    }

    fn apply(&mut self, yaml: &str) {
        for document in read(yaml) {
            match document {
                Document::Object(object) => self.translation.apply(Change::Put(object)),
                other => panic!("{other:?}"),
            }
        }
        self.commit(None);
    }

    fn ask(&mut self, places: &[Place]) {
        self.translation.ask(places.iter().cloned());
        self.commit(None);
    }

    fn look(&self, name: &str) -> Answer {
        let caller = "spiffe://cluster.local/ns/gw/sa/gw".parse().unwrap();
        self.vault.look(Some(&caller), name)
    }

    fn is_there(&self, name: &str) -> bool {
        matches!(self.look(name), Answer::There(_))
    }

    fn places(&self) -> Vec<String> {
        self.vault.items.keys().map(ToString::to_string).collect()
    }
}

fn a() -> Place {
    Place::secret("gw", "a")
}

fn tls(name: &str) -> Object {
    let (cert, key) = pair("a.example.com");
    Object::Secret(secret("gw", name, &[("tls.crt", &cert), ("tls.key", &key)]))
}

#[test]
fn only_what_is_needed_is_kept() {
    let mut world = World::new(false);
    world.put(tls("a"));
    world.put(tls("b"));
    assert_eq!(world.places(), [""; 0]);
    world.ask(&[a()]);
    assert_eq!(world.places(), ["Secret gw/a"]);
    assert!(world.is_there("kubernetes://a"));
    world.ask(&[]);
    assert_eq!(world.places(), [""; 0]);
    assert_eq!(world.look("kubernetes://a"), Answer::Wait);
}

#[test]
fn a_new_secret_is_no_news_for_listeners() {
    let mut world = World::new(false);
    world.put(tls("a"));
    world.ask(&[a()]);
    world.translation.published();
    let before = world.look("kubernetes://a");
    world.put(tls("a"));
    assert!(world.is_there("kubernetes://a"));
    assert_ne!(world.look("kubernetes://a"), before);
    assert!(world.translation.published().is_none(), "no view has changed");
    // The same once more is no change at all.
    let revision = world.vault.revision;
    let same =
        world.translation.graph.get(world.translation.inputs.secrets, &ObjectKey::new("gw", "a")).unwrap().clone();
    world.put(Object::Secret(same));
    assert_eq!(world.vault.revision, revision);
}

#[test]
fn what_cannot_be_used_is_not_sent_until_it_is_mended() {
    let mut world = World::new(false);
    world.ask(&[a()]);
    assert_eq!(world.look("kubernetes://a"), Answer::Nothing(None));
    world.put(tls("a"));
    assert!(world.is_there("kubernetes://a"));
    let ((cert, _), (_, other)) = (pair("a"), pair("b"));
    world.put(Object::Secret(secret("gw", "a", &[("tls.crt", &cert), ("tls.key", &other)])));
    assert_eq!(world.look("kubernetes://a"), Answer::Nothing(None));
    world.put(tls("a"));
    assert!(world.is_there("kubernetes://a"));
    world.translation.apply(Change::Delete(Kind::Secret, ObjectKey::new("gw", "a")));
    world.commit(None);
    assert_eq!(world.look("kubernetes://a"), Answer::Nothing(None));
}

#[test]
fn what_was_not_looked_for_is_not_missing() {
    let mut world = World::new(true);
    world.commit(Some(Accounts::All));
    world.ask(&[a()]);
    assert_eq!(world.look("kubernetes://a"), Answer::Wait);
    assert!(!world.vault.is_complete());
    world.translation.seek(a(), true);
    world.commit(None);
    assert_eq!(world.look("kubernetes://a"), Answer::Nothing(None));
    assert!(world.vault.is_complete());
    world.put(tls("a"));
    assert!(world.is_there("kubernetes://a"));
    // Whoever asks later has it looked for again.
    world.ask(&[]);
    world.translation.apply(Change::Delete(Kind::Secret, ObjectKey::new("gw", "a")));
    world.translation.seek(a(), false);
    world.ask(&[a()]);
    assert_eq!(world.look("kubernetes://a"), Answer::Wait);
}

const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: r, namespace: ns}
spec:
  host: a.example.com
  trafficPolicy:
    tls: {mode: SIMPLE, credentialName: 'configmap://far/roots'}
    portLevelSettings: [{port: {number: 90}, tls: {mode: SIMPLE, credentialName: other}}]
  subsets: [{name: s, trafficPolicy: {tls: {mode: SIMPLE, credentialName: 'configmap://far/more-cacert'}}}]
";

#[test]
fn rules_refer_to_config_maps_by_name() {
    let mut world = World::new(false);
    world.apply(RULE);
    assert_eq!(world.places(), ["ConfigMap far/more-cacert", "ConfigMap far/roots"]);
    assert_eq!(world.look("configmap://far/roots-cacert"), Answer::Nothing(None));
    let (ca, _) = pair("ca");
    let indented = ca.lines().map(|line| format!("    {line}\n")).collect::<String>();
    world.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: far}}\ndata:\n  ca.crt: |\n{indented}"
    ));
    assert!(world.is_there("configmap://far/roots-cacert"));
    world.translation.apply(Change::Delete(Kind::DestinationRule, ObjectKey::new("ns", "r")));
    world.commit(None);
    assert!(matches!(world.look("configmap://far/roots-cacert"), Answer::Nothing(Some(_))));
}

#[test]
fn secrets_of_namespaces_that_are_not_looked_at_are_not_there() {
    let mut world = World::new(false);
    world.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
         data: {mesh: 'discoverySelectors: [{matchLabels: {mesh: in}}]'}\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {name: gw}\n",
    );
    world.put(tls("a"));
    world.ask(&[a()]);
    assert_eq!(world.look("kubernetes://a"), Answer::Nothing(None));
    world.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: gw, labels: {mesh: in}}\n");
    assert!(world.is_there("kubernetes://a"));
}

#[test]
fn an_old_certificate_is_served_and_talked_about() {
    let mut world = World::new(false);
    let key = key();
    let cert = certificate(&key, &["a"], (days(-100), days(-1)));
    world.put(Object::Secret(secret("gw", "a", &[("tls.crt", &cert), ("tls.key", &pem(&key))])));
    assert!(!world.translation.tick(Timestamp::now()), "nothing depends on the time");
    world.ask(&[a()]);
    assert!(world.is_there("kubernetes://a"));
    assert!(world.translation.tick(Timestamp::now()));
    world.commit(None);
    assert!(world.is_there("kubernetes://a"), "a proxy without it would do nothing at all");
}

/// A flood of rotations: each costs what it changes, and nothing is left of it.
#[test]
fn a_flood_of_rotations_leaves_nothing() {
    let mut world = World::new(false);
    let places: Vec<Place> = (0..20).map(|number| Place::secret("gw", format!("s{number}"))).collect();
    places.iter().for_each(|place| world.put(tls(&place.name)));
    world.ask(&places);
    let recomputed = |world: &World| -> u64 {
        let stats = world.translation.graph.stats();
        stats
            .iter()
            .filter(|one| ["credentials", "opened_credentials"].contains(&one.name))
            .map(|one| one.recomputed)
            .sum()
    };
    let (pairs, before) = ([tls("s7"), tls("s7")], recomputed(&world));
    for turn in 0..1000 {
        world.put(pairs[turn % 2].clone());
    }
    assert_eq!(recomputed(&world) - before, 2000, "one Secret, one row in each table");
    assert_eq!(world.vault.items.len(), 20);
    world.translation.graph.settle();
    let Object::Secret(last) = &pairs[1] else { panic!() };
    let handles = Arc::strong_count(last);
    assert!(handles <= 4, "{handles} handles to what is in force");
    let Object::Secret(old) = &pairs[0] else { panic!() };
    assert_eq!(Arc::strong_count(old), 1, "nobody keeps what was replaced");
}

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g, namespace: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: MUTUAL, credentialName: 'kubernetes-gateway://gw/a', caCertCredentialName: 'configmap://far/roots'}
  - port: {number: 444, name: https, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: SIMPLE, credentialNames: ['kubernetes-gateway://far/a', beside]}
";

#[test]
fn istios_gateways_give_away_what_is_their_own() {
    let mut world = World::new(false);
    world.apply(GATEWAY);
    assert_eq!(world.places(), ["Secret gw/a", "ConfigMap far/roots"]);
    world.put(tls("a"));
    assert!(world.is_there("kubernetes-gateway://gw/a"));
    assert!(matches!(world.look("kubernetes-gateway://gw/a-cacert"), Answer::Nothing(Some(_))));
    assert!(matches!(world.look("kubernetes-gateway://far/a"), Answer::Nothing(Some(_))));
    let other = "spiffe://cluster.local/ns/other/sa/gw".parse().unwrap();
    assert!(matches!(world.vault.look(Some(&other), "kubernetes-gateway://gw/a"), Answer::Nothing(Some(_))));
}

/// A ConfigMap whose name ends like that of what is trusted is asked for with
/// that ending once more.
#[test]
fn policies_refer_to_config_maps_by_name() {
    let mut world = World::new(false);
    world.apply(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: p, namespace: far}\n\
         spec: {targetRefs: [{group: '', kind: Service, name: s}], validation: {hostname: a.com, \
         caCertificateRefs: [{group: '', kind: ConfigMap, name: backend-cacert}]}}\n",
    );
    assert_eq!(world.places(), ["ConfigMap far/backend-cacert"]);
    assert_eq!(world.look("configmap://far/backend-cacert-cacert"), Answer::Nothing(None));
}
