//! From objects to what clients hold: through the writer, a stream and the
//! wire, without threads and sockets. Clients are ztunnels: they apply all of a
//! message at once, updates before removals.

use std::net::Ipv4Addr;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use fairway_proto::workload as proto;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::xds::codec::request::DeltaRequest;
use crate::xds::codec::response::Encoder;
use crate::xds::resource::Resource;
use crate::xds::resource::ResourceType::{Address, Authorization};
use crate::xds::stream::{Stream, Variant};
use crate::xds::view::InitialVersions;

/// Both types that ztunnel wants, in the order in which it asks.
const TYPES: [ResourceType; 2] = [Address, Authorization];

/// Messages by name.
type Table = BTreeMap<String, Vec<u8>>;

/// A writer that has synced, and everything it has published.
struct Mesh {
    writer: Writer,
    published: Vec<Published>,
}

/// What clients of a published view hold, for each of [`TYPES`].
struct Published {
    revision: u64,
    tables: [Table; 2],
}

impl Mesh {
    fn new() -> Self {
        let mut writer = Writer::new(Arc::default(), Vec::new());
        writer.take(Event::Synced(Kind::ALL.to_vec()));
        let mut mesh = Self { writer, published: Vec::new() };
        mesh.commit([]);
        mesh
    }

    fn views(&self) -> Arc<Views> {
        self.writer.views.borrow().clone()
    }

    fn take(&mut self, change: Change) {
        self.writer.take(Event::Changes(vec![change]));
    }

    /// Commits these changes together with those that were taken before.
    fn commit(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.take(change));
        self.writer.commit();
        let views = self.views();
        if self.published.last().is_none_or(|last| last.revision != views.revision) {
            let message = |ty, one: Resource| (one.name().to_owned(), one.message(ty).to_vec());
            let tables = TYPES.map(|ty| views.layer(ty, None).iter().map(|one| message(ty, one)).collect());
            self.published.push(Published { revision: views.revision, tables });
        }
    }

    /// What a client would hold that has all of a published view.
    fn table(&self, number: usize, ty: ResourceType) -> &Table {
        &self.published[number].tables[usize::from(ty != TYPES[0])]
    }
}

fn put(yaml: &str) -> Change {
    match read(yaml).pop() {
        Some(Document::Object(object)) => Change::Put(object),
        other => panic!("{other:?}"),
    }
}

/// What a client holds of one type.
#[derive(Default)]
struct Held {
    table: Table,
    versions: BTreeMap<String, String>,
    /// The response that was not answered yet.
    nonce: Option<String>,
    /// The first published view that this can be.
    at: usize,
}

/// A ztunnel.
struct Client {
    stream: Stream,
    streams: u64,
    held: BTreeMap<ResourceType, Held>,
    /// Whether it was sent addresses on this stream. Before that nothing is
    /// known of what its addresses name, so it keeps every policy.
    has_addresses: bool,
}

impl Client {
    fn connect(mesh: &Mesh) -> Self {
        let held = TYPES.map(|ty| (ty, Held::default())).into();
        let mut client = Self { stream: Stream::new(Variant::Delta, 0), streams: 0, held, has_addresses: false };
        client.reconnect(mesh);
        client
    }

    /// Begins a stream with what it holds.
    fn reconnect(&mut self, mesh: &Mesh) {
        self.streams += 1;
        self.has_addresses = false;
        self.stream = Stream::new(Variant::Delta, self.streams);
        let views = mesh.views();
        for (ty, held) in &mut self.held {
            held.nonce = None;
            let mut versions = InitialVersions::new(*ty, &views);
            for (name, version) in &held.versions {
                versions.add(name.as_bytes(), version.as_bytes()).unwrap();
            }
            let id = "ztunnel~10.0.0.1~zt.istio-system~istio-system.svc.cluster.local".into();
            let request = DeltaRequest {
                node: Some(Node { id, ..Default::default() }),
                type_url: ty.type_url().into(),
                initial_versions: (!versions.is_empty()).then_some(versions),
                ..Default::default()
            };
            self.stream.on_delta_request(request).unwrap();
        }
    }

    /// Reads one message, if there is one, and applies it.
    fn receive(&mut self, mesh: &Mesh) -> Option<DeltaDiscoveryResponse> {
        let response = self.stream.next(&mesh.views())?;
        self.has_addresses |= response.ty == Address;
        let held = self.held.get_mut(&response.ty).unwrap();
        let mut encoder = Encoder::new(response, "test").unwrap();
        let bytes: Vec<u8> = std::iter::from_fn(|| encoder.next_chunk()).flatten().collect();
        let message = DeltaDiscoveryResponse::decode(&bytes[5..]).unwrap();
        for resource in &message.resources {
            held.table.insert(resource.name.clone(), resource.resource.clone().unwrap().value);
            held.versions.insert(resource.name.clone(), resource.version.clone());
        }
        for name in &message.removed_resources {
            held.table.remove(name);
            held.versions.remove(name);
        }
        assert!(held.nonce.replace(message.nonce.clone()).is_none(), "two messages of one type are unanswered");
        Some(message)
    }

    /// Answers the latest response of a type, if it was not.
    fn acknowledge(&mut self, ty: ResourceType) -> bool {
        let Some(response_nonce) = self.held.get_mut(&ty).unwrap().nonce.take() else { return false };
        let request = DeltaRequest { type_url: ty.type_url().into(), response_nonce, ..Default::default() };
        self.stream.on_delta_request(request).unwrap();
        true
    }

    fn table(&self, ty: ResourceType) -> &Table {
        &self.held[&ty].table
    }

    fn workloads(&self) -> Vec<proto::Workload> {
        let addresses = self.table(Address).values().map(|message| proto::Address::decode(&**message).unwrap());
        let workload = |address: proto::Address| match address.r#type {
            Some(proto::address::Type::Workload(workload)) => Some(workload),
            _ => None,
        };
        addresses.filter_map(workload).collect()
    }

    /// Who has each address.
    fn owners(&self) -> BTreeMap<Ipv4Addr, Vec<String>> {
        let mut owners: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for workload in self.workloads() {
            let address = <[u8; 4]>::try_from(&*workload.addresses[0]).unwrap();
            owners.entry(address.into()).or_default().push(workload.name);
        }
        owners
    }
}

fn pod_at(name: &str, address: &str, phase: &str) -> Change {
    put(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: x, uid: u-{name}}}\n\
         spec: {{nodeName: n1}}\nstatus: {{phase: {phase}, podIP: {address}}}\n"
    ))
}

fn gone(kind: Kind, name: &str) -> Change {
    Change::Delete(kind, ObjectKey::new("x", name))
}

/// ztunnel finds workloads by address. In one message it applies updates first,
/// so for a moment two have the same; between messages only one may.
#[test]
fn an_address_that_is_used_again_has_one_owner_between_messages() {
    let (a, b) = ("10.0.0.1", "10.0.0.2");
    let running = |name: &str, address: &str| pod_at(name, address, "Running");
    // What happens to pods `a` and `b` in each commit, and who has what then.
    let cases: [(&str, Vec<Vec<Change>>, &[(&str, &str)]); 7] = [
        ("gone, then taken", vec![vec![gone(Kind::Pod, "a"), running("c", a)]], &[(a, "c"), (b, "b")]),
        ("taken, then gone", vec![vec![running("c", a), gone(Kind::Pod, "a")]], &[(a, "c"), (b, "b")]),
        ("the old one has ended", vec![vec![running("c", a), pod_at("a", a, "Succeeded")]], &[(a, "c"), (b, "b")]),
        ("exchanged", vec![vec![running("a", b), running("b", a)]], &[(a, "b"), (b, "a")]),
        (
            "a name used again",
            vec![vec![gone(Kind::Pod, "a"), running("a", "10.0.0.3")]],
            &[("10.0.0.3", "a"), (b, "b")],
        ),
        ("two commits", vec![vec![gone(Kind::Pod, "a")], vec![running("c", a)]], &[(a, "c"), (b, "b")]),
        (
            "all move on",
            vec![vec![running("c", b), running("b", a), gone(Kind::Pod, "a")], vec![running("a", "10.0.0.3")]],
            &[(a, "b"), (b, "c"), ("10.0.0.3", "a")],
        ),
    ];
    for (what, commits, expected) in cases {
        // A client that is sent each view, and one that gets all of it at once.
        for reads_each in [true, false] {
            let mut mesh = Mesh::new();
            mesh.commit([running("a", a), running("b", b)]);
            let mut client = Client::connect(&mesh);
            let read_all = |mesh: &Mesh, client: &mut Client| {
                let mut messages = 0;
                while client.receive(mesh).is_some() {
                    let owners = client.owners();
                    assert!(owners.values().all(|owners| owners.len() == 1), "{what}: {owners:?}");
                    TYPES.iter().for_each(|ty| _ = client.acknowledge(*ty));
                    messages += 1;
                }
                messages
            };
            read_all(&mesh, &mut client);
            let count = commits.len();
            let mut messages = 0;
            for changes in commits.clone() {
                mesh.commit(changes);
                if reads_each {
                    messages += read_all(&mesh, &mut client);
                }
            }
            messages += read_all(&mesh, &mut client);
            // What belongs together comes in one message, removals included.
            assert_eq!(messages, if reads_each { count } else { 1 }, "{what}");
            let owners = client.owners().into_iter().map(|(address, names)| (address.to_string(), names.concat()));
            let mut expected: Vec<_> = expected.iter().map(|(ip, name)| (ip.to_string(), name.to_string())).collect();
            expected.sort();
            assert_eq!(owners.collect::<Vec<_>>(), expected, "{what}");
        }
    }
}

/// What may happen in a mesh, to its writer and to a client.
#[derive(Clone, Debug)]
enum Step {
    Pod { name: u8, address: u8, app: u8, ended: bool },
    PodGone(u8),
    Service { name: u8, app: u8 },
    ServiceGone(u8),
    Policy { name: u8, app: u8, caller: u8 },
    PolicyGone(u8),
    Strict(bool),
    Commit,
    Receive,
    Acknowledge(ResourceType),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        6 => (0..5u8, 0..4u8, 0..2u8, prop::bool::weighted(0.15))
            .prop_map(|(name, address, app, ended)| Pod { name, address, app, ended }),
        3 => (0..5u8).prop_map(PodGone),
        2 => (0..2u8, 0..2u8).prop_map(|(name, app)| Service { name, app }),
        1 => (0..2u8).prop_map(ServiceGone),
        4 => (0..3u8, 0..3u8, 0..2u8).prop_map(|(name, app, caller)| Policy { name, app, caller }),
        3 => (0..3u8).prop_map(PolicyGone),
        1 => any::<bool>().prop_map(Strict),
        6 => Just(Commit),
        8 => Just(Receive),
        4 => prop::sample::select(&TYPES[..]).prop_map(Acknowledge),
        1 => Just(Reconnect),
    ]
}

impl Step {
    /// The change of an object, if it is one.
    fn change(&self) -> Option<Change> {
        Some(match self {
            Step::Pod { name, address, app, ended } => put(&format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{name}, namespace: x, uid: u{name}, labels: {{app: a{app}}}}}\n\
                 spec: {{nodeName: n1}}\nstatus: {{phase: {}, podIP: 10.0.0.{address}}}\n",
                if *ended { "Succeeded" } else { "Running" }
            )),
            Step::PodGone(name) => gone(Kind::Pod, &format!("p{name}")),
            Step::Service { name, app } => put(&format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: s{name}, namespace: x}}\n\
                 spec: {{clusterIP: 10.1.0.{name}, selector: {{app: a{app}}}, ports: [{{port: 80}}]}}\n"
            )),
            Step::ServiceGone(name) => gone(Kind::Service, &format!("s{name}")),
            // An `app` that no pod has is a policy of the whole namespace.
            Step::Policy { name, app, caller } => put(&format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {{name: q{name}, namespace: x}}\nspec: {{{}rules: [{{from: [{{source: \
                 {{principals: [td/ns/x/sa/c{caller}]}}}}]}}]}}\n",
                if *app < 2 { format!("selector: {{matchLabels: {{app: a{app}}}}}, ") } else { String::new() }
            )),
            Step::PolicyGone(name) => gone(Kind::AuthorizationPolicy, &format!("q{name}")),
            Step::Strict(true) => put("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                 metadata: {name: default, namespace: x}\nspec: {mtls: {mode: STRICT}}\n"),
            Step::Strict(false) => gone(Kind::PeerAuthentication, "default"),
            Step::Commit | Step::Receive | Step::Acknowledge(_) | Step::Reconnect => return None,
        })
    }
}

/// Checks what a client holds after a message of a type: a view that was
/// published, and no older one than before.
///
/// Of policies it may hold more: one that is gone is removed after the addresses
/// that named it, so that they never name what the client does not have.
fn check(mesh: &Mesh, client: &mut Client, ty: ResourceType) {
    let addresses_at = if client.has_addresses { client.held[&Address].at } else { 0 };
    let held = client.held.get_mut(&ty).unwrap();
    let is = |number: &usize| {
        let view = mesh.table(*number, ty);
        let may_linger = |name: &String, message: &Vec<u8>| {
            let named = (addresses_at..*number).any(|earlier| mesh.table(earlier, ty).contains_key(name));
            let was = |earlier| mesh.table(earlier, ty).get(name) == Some(message);
            ty == Authorization && named && (0..*number).any(was)
        };
        let all = view.iter().all(|(name, message)| held.table.get(name) == Some(message));
        all && held.table.iter().all(|(name, message)| view.contains_key(name) || may_linger(name, message))
    };
    let found = (held.at..mesh.published.len()).find(is);
    let names: Vec<_> = held.table.keys().collect();
    held.at = found.unwrap_or_else(|| panic!("{ty:?} is no published view from {} on: {names:?}", held.at));
    // Once it has both, it has every policy that an address names.
    for workload in client.workloads() {
        for policy in workload.authorization_policies {
            let known = client.table(Authorization).contains_key(&policy);
            assert!(known, "{} names {policy}, which the client does not have", workload.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever changes, is committed and is read when: views that a client
    /// skips leave no trace.
    #[test]
    fn a_client_never_holds_what_never_was(steps in prop::collection::vec(step(), 1..80)) {
        let mut mesh = Mesh::new();
        let mut client = Client::connect(&mesh);
        let receive = |mesh: &Mesh, client: &mut Client| {
            let message = client.receive(mesh)?;
            check(mesh, client, ResourceType::from_type_url(&message.type_url).unwrap());
            Some(())
        };
        for step in &steps {
            match step {
                Step::Commit => mesh.commit([]),
                Step::Receive => _ = receive(&mesh, &mut client),
                Step::Acknowledge(ty) => _ = client.acknowledge(*ty),
                Step::Reconnect => client.reconnect(&mesh),
                change => change.change().into_iter().for_each(|change| mesh.take(change)),
            }
        }
        // In the end it holds the newest view, and nothing besides.
        mesh.commit([]);
        while receive(&mesh, &mut client).is_some() || TYPES.iter().any(|ty| client.acknowledge(*ty)) {}
        for ty in TYPES {
            prop_assert_eq!(client.table(ty), mesh.table(mesh.published.len() - 1, ty));
        }
    }
}
