//! Who may have what: every row of the table, and what the bulletins were about.

use super::*;

/// Holds both parts.
struct Both(u64);

impl Sealed for Both {
    fn version(&self, part: Part) -> Option<u64> {
        Some(self.0 + u64::from(part == Part::Authority))
    }

    fn message(&self, part: Part) -> Option<Vec<u8>> {
        Some(vec![if part == Part::Authority { 0x22 } else { 0x12 }, 1, b'x'])
    }
}

/// Holds nothing that could be used.
struct Broken;

impl Sealed for Broken {
    fn version(&self, _: Part) -> Option<u64> {
        None
    }

    fn message(&self, _: Part) -> Option<Vec<u8>> {
        None
    }
}

pub(in crate::xds) fn there(version: u64) -> Content {
    Content::There(Arc::new(Both(version)))
}

pub(in crate::xds) fn item(content: Content, grants: &[Grant]) -> Item {
    let version = |sealed: &Arc<dyn Sealed>| sealed.version(Part::Certificate).unwrap_or(0);
    let print = match &content {
        Content::Unknown => 1,
        Content::Missing => 2,
        Content::There(sealed) => 3 + version(sealed) * 10,
    };
    Item { content, grants: grants.into(), print }
}

pub(in crate::xds) fn id(namespace: &str, account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").parse().unwrap()
}

fn grant(namespace: &str, account: Option<&str>, part: Part) -> Grant {
    Grant { namespace: namespace.into(), account: account.map(Into::into), part }
}

/// Two namespaces with gateways. In `gw`, `reader` may list Secrets, and `other`
/// may not; nobody has asked about `new`.
fn vault() -> Vault {
    let granted = [
        grant("gw", Some("made-istio"), Part::Certificate),
        grant("any", None, Part::Certificate),
        grant("gw", Some("made-istio"), Part::Authority),
    ];
    let secret = |namespace: &str, name: &str, item: Item| (Place::secret(namespace, name), item);
    let items = [
        secret("gw", "a", item(there(100), &[])),
        secret("gw", "a-cacert", item(Content::Missing, &[])),
        secret("gw", "own-ca-cacert", item(there(200), &[])),
        secret("gw", "own-ca", item(there(300), &[])),
        secret("gw", "gone", item(Content::Missing, &[])),
        secret("gw", "broken", item(Content::There(Arc::new(Broken)), &[])),
        secret("gw", "coming", item(Content::Unknown, &[])),
        secret("far", "granted", item(there(400), &granted)),
        secret("far", "granted-only-key", item(there(500), &granted[..1])),
        secret("far", "b", item(there(600), &[])),
        (Place::config_map("far", "roots"), item(there(700), &[])),
    ];
    let account = |name: &str| Account { namespace: "gw".into(), name: name.into() };
    let accounts = Accounts::Asked([(account("reader"), true), (account("other"), false)].into_iter().collect());
    Vault { revision: 1, items: items.into_iter().collect(), accounts }
}

const NOTHING: Answer = Answer::Nothing(None);
const OTHER_NAMESPACE: Answer = Answer::Nothing(Some("it is in another namespace"));
const NO_RIGHT: Answer = Answer::Nothing(Some("the service account may not list secrets"));
const NO_REFERENCE: Answer = Answer::Nothing(Some("no Gateway of the caller may refer to it"));
const UNPROVEN: Answer = Answer::Nothing(Some("the caller has not proved who it is, over TLS"));
const UNREFERRED: Answer = Answer::Nothing(Some("nothing refers to it"));

fn version(number: u64) -> Answer {
    Answer::There(Version::of(number))
}

#[test]
fn every_row_of_the_table() {
    let vault = vault();
    let reader = id("gw", "reader");
    let (other, new, made, stranger) =
        (id("gw", "other"), id("gw", "new"), id("gw", "made-istio"), id("far", "reader"));
    let table: &[(Option<&SpiffeId>, &str, Answer)] = &[
        // A Secret of one's own namespace, by either name.
        (Some(&reader), "kubernetes://a", version(100)),
        (Some(&reader), "kubernetes://gw/a", version(100)),
        (Some(&other), "kubernetes://a", NO_RIGHT),
        (Some(&other), "kubernetes://gw/a", NO_RIGHT),
        (Some(&new), "kubernetes://a", Answer::Wait),
        (Some(&stranger), "kubernetes://gw/a", OTHER_NAMESPACE),
        (Some(&reader), "kubernetes://far/b", OTHER_NAMESPACE),
        (None, "kubernetes://a", UNPROVEN),
        (None, "kubernetes://gw/a", UNPROVEN),
        // Whom to trust is no secret to the namespace.
        (Some(&reader), "kubernetes://a-cacert", version(101)),
        (Some(&other), "kubernetes://a-cacert", version(101)),
        (Some(&other), "kubernetes://own-ca-cacert", version(201)),
        (Some(&stranger), "kubernetes://gw/a-cacert", OTHER_NAMESPACE),
        (None, "kubernetes://a-cacert", UNPROVEN),
        // What is not there is not there, whoever asks.
        (Some(&reader), "kubernetes://gone", NOTHING),
        (Some(&reader), "kubernetes://broken", NOTHING),
        (Some(&other), "kubernetes://gone", NO_RIGHT),
        (Some(&reader), "kubernetes://coming", Answer::Wait),
        (Some(&reader), "kubernetes://never-asked-for", Answer::Wait),
        // What a Gateway refers to is for that Gateway's proxies, and needs no
        // rights of their own.
        (Some(&made), "kubernetes-gateway://far/granted", version(400)),
        (Some(&made), "kubernetes-gateway://far/granted-cacert", version(401)),
        (Some(&made), "kubernetes-gateway://far/granted-only-key", version(500)),
        (Some(&made), "kubernetes-gateway://far/granted-only-key-cacert", NO_REFERENCE),
        (Some(&made), "kubernetes-gateway://far/b", NO_REFERENCE),
        (Some(&made), "kubernetes-gateway://gw/a", NO_REFERENCE),
        (Some(&made), "kubernetes-gateway://gw/nothing", NO_REFERENCE),
        (Some(&reader), "kubernetes-gateway://far/granted", NO_REFERENCE),
        (Some(&stranger), "kubernetes-gateway://far/granted", NO_REFERENCE),
        (Some(&id("any", "whoever")), "kubernetes-gateway://far/granted", version(400)),
        (Some(&id("any", "whoever")), "kubernetes-gateway://far/granted-cacert", NO_REFERENCE),
        (None, "kubernetes-gateway://far/granted", UNPROVEN),
        // A grant is for the one name: the other scheme has rules of its own.
        (Some(&made), "kubernetes://far/granted", OTHER_NAMESPACE),
        // ConfigMaps are for the mesh, and only those that are in use.
        (Some(&reader), "configmap://far/roots", version(701)),
        (Some(&stranger), "configmap://far/roots-cacert", version(701)),
        (Some(&reader), "configmap://far/other", UNREFERRED),
        (None, "configmap://far/roots", UNPROVEN),
        // Names that are none.
        (Some(&reader), "default", NOTHING),
        (Some(&reader), "a", NOTHING),
        (Some(&reader), "kubernetes://../gw/a", NOTHING),
        (Some(&reader), "invalid://", NOTHING),
        (None, "default", UNPROVEN),
    ];
    for (caller, name, expected) in table {
        assert_eq!(vault.look(*caller, name), *expected, "{caller:?} asks for {name}");
        // What is looked up to be sent goes by the same rules.
        let resource = vault.resource(*caller, name);
        assert_eq!(resource.is_some(), matches!(expected, Answer::There(_)), "{caller:?} is sent {name}");
    }
}

#[test]
fn what_is_sent_has_the_name_that_was_asked_for() {
    let vault = vault();
    let resource = vault.resource(Some(&id("gw", "reader")), "kubernetes://a").unwrap();
    let message = resource.message(ResourceType::Secret);
    assert_eq!(&message[..], b"\x0a\x0ekubernetes://a\x12\x01x");
    assert_eq!(resource.version(), Version::of(100));
}

#[test]
fn a_folder_has_no_accounts_to_ask_about() {
    let vault = Vault { accounts: Accounts::All, ..vault() };
    assert_eq!(vault.look(Some(&id("gw", "new")), "kubernetes://a"), version(100));
    assert_eq!(vault.look(Some(&id("far", "new")), "kubernetes://gw/a"), OTHER_NAMESPACE);
    assert_eq!(vault.look(None, "kubernetes://a"), UNPROVEN);
    let wants = vault.wants(Some(&id("gw", "new")), "kubernetes://x");
    assert_eq!(wants, [Want::Place(Place::secret("gw", "x"))]);
}

#[test]
fn nothing_is_looked_up_for_those_who_may_not_have_it() {
    let vault = vault();
    let wants = |caller: Option<&SpiffeId>, name| vault.wants(caller, name);
    let account = |name: &str| Want::Account(Account { namespace: "gw".into(), name: name.into() });
    let place = |name: &str| Want::Place(Place::secret("gw", name));
    assert_eq!(wants(Some(&id("gw", "reader")), "kubernetes://x"), [account("reader"), place("x")]);
    // Of the account it may turn out that it may, after all.
    assert_eq!(wants(Some(&id("gw", "other")), "kubernetes://x"), [account("other")]);
    assert_eq!(wants(Some(&id("gw", "new")), "kubernetes://x"), [account("new")]);
    assert_eq!(wants(Some(&id("gw", "new")), "kubernetes://x-cacert"), [place("x-cacert"), place("x")]);
    assert_eq!(wants(Some(&id("gw", "reader")), "kubernetes://far/x"), []);
    assert_eq!(wants(Some(&id("gw", "reader")), "kubernetes-gateway://gw/x"), []);
    assert_eq!(wants(Some(&id("gw", "reader")), "configmap://gw/x"), []);
    assert_eq!(wants(None, "kubernetes://x"), []);
}

/// CVE-2021-34824: one proxy's answer was kept under the name alone, and given
/// to whoever asked next.
#[test]
fn cve_2021_34824_an_answer_to_one_is_none_to_another() {
    let vault = vault();
    let (entitled, other) = (id("gw", "reader"), id("far", "reader"));
    for _ in 0..3 {
        assert!(vault.resource(Some(&entitled), "kubernetes://gw/a").is_some());
        assert!(vault.resource(Some(&other), "kubernetes://gw/a").is_none());
        assert!(vault.resource(None, "kubernetes://gw/a").is_none());
    }
}

#[test]
fn nothing_of_a_vault_can_be_shown() {
    let shown = format!("{:?}", vault());
    assert!(shown.contains("there") && !shown.contains("Both"), "{shown}");
}

/// What is beside a Secret may be needed by somebody else.
#[test]
fn what_is_beside_a_secret_is_for_whoever_may_have_that() {
    let (mine, theirs) = (grant("gw", None, Part::Authority), grant("other", None, Part::Authority));
    let mut vault = vault();
    vault.items.insert(Place::secret("far", "foo"), item(there(800), &[mine]));
    vault.items.insert(Place::secret("far", "foo-cacert"), item(there(900), &[theirs]));
    let look = |namespace: &str| vault.look(Some(&id(namespace, "any")), "kubernetes-gateway://far/foo-cacert");
    assert_eq!(look("gw"), version(801));
    assert_eq!(look("other"), version(901));
}
