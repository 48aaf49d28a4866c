//! Golden files: objects in, resources out. A file holds the objects, then
//! `# Output`, then what is sent for them and what is said about them.
//! `UPDATE_GOLDEN=1 cargo test` rewrites the second part. `# Proxy:` names the
//! proxy it is about; otherwise it is about ztunnels. Certificates in it are for
//! one key, which is derived, and which [`KEY`] stands for.
//!
//! Each file is replayed in several orders; all must end alike.

mod bad_input;
mod bulletins;
mod cases;
mod cost;
mod gateways;
mod simulation;
mod tenants;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fairway_proto::describe;
use fairway_proto::workload as proto;
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use prost::Message;
use serde_json::Value as Json;

use super::*;
use crate::admin::render;
use crate::api::{Change, Kind, Object, ObjectKey};
use crate::ca::identity::SpiffeId;
use crate::credential::{Asked, Scheme};
use crate::model::key_set::{FetchedBy, KeySet, KeySource};
use crate::proxy::scope::Families;
use crate::proxy::{Capabilities, GatewayScope, OwnConfig, Place, WaypointScope};
use crate::source::documents::{Document, read};
use crate::xds::resource::{Family, Resource};
use crate::xds::secret::{Answer, Vault};

/// A mesh, and the proxies of which each file says what they are told.
struct World {
    translation: Translation,
    proxy: Option<Scope>,
    views: Arc<Views>,
    /// Who asks for secrets, which, and what there is.
    caller: Option<SpiffeId>,
    asked: Vec<String>,
    vault: Arc<Vault>,
}

impl World {
    fn new(Given { settings, proxy, keys, caller, asked, now }: &Given) -> Self {
        let mut translation = Translation::new(Arc::new(settings.clone()));
        translation.want(proxy.clone());
        translation.know(keys.clone());
        let namespace = caller.as_ref().map_or("", |caller| &*caller.namespace);
        let names = asked.iter().filter_map(|name| Asked::parse(name, namespace));
        translation.ask(names.filter(|asked| asked.scheme == Scheme::Kubernetes).flat_map(|asked| asked.places));
        if let Some(now) = now {
            translation.commit();
            translation.tick(*now);
        }
        Self {
            translation,
            proxy: proxy.clone(),
            views: Arc::new(Views::new(0, Layer::default(), Layer::default())),
            caller: caller.clone(),
            asked: asked.clone(),
            vault: Arc::default(),
        }
    }

    fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.translation.apply(change));
        self.translation.commit();
        if let Some(vault) = self.translation.vault(None) {
            self.vault = vault;
        }
        if let Some(views) = self.translation.published() {
            self.views = views;
        }
    }

    /// Everything that is sent, by type and name.
    fn sent(&self) -> BTreeMap<(ResourceType, String), Resource> {
        let family = if self.proxy.is_some() { Family::Envoy } else { Family::Ambient };
        let types = ResourceType::ALL.into_iter().filter(|ty| ty.family() == family && ty.is_whole());
        let layers = types.map(|ty| (ty, self.views.layer(ty, self.proxy.as_ref())));
        let all = layers.flat_map(|(ty, layer)| layer.iter().map(move |one| ((ty, one.name().to_owned()), one)));
        all.collect()
    }

    /// What is sent and said, for people.
    fn text(&self) -> String {
        let mut text = String::new();
        for ((ty, name), resource) in self.sent() {
            if self.proxy.is_some() {
                // What every waypoint has is in the file about that alone.
                if FIXTURES.contains(&&*name) && self.hides_fixtures() {
                    continue;
                }
                let message = describe::to_json(ty.type_url(), &resource.message(ty)).expect("it is of its type");
                text += &format!("# {} {name}\n{}", ty.label(), describe::yaml(&message));
                continue;
            }
            if let Ok(message) = fairway_proto::workload::Address::decode(resource.message(ty))
                && let Some(proto::address::Type::Workload(workload)) = message.r#type
            {
                assert_eq!(name, workload.uid, "a workload is kept under its uid");
            }
            text += &format!("{} {name}:\n", ty.label());
            yaml_lines(&mut text, 1, &render::resource(ty, &resource));
        }
        for name in &self.asked {
            let answer = match self.vault.look(self.caller.as_ref(), name) {
                Answer::There(version) => format!("version {version}"),
                Answer::Nothing(Some(why)) => format!("nothing: {why}"),
                Answer::Nothing(None) => "nothing".into(),
                Answer::Wait => "to be looked for".into(),
            };
            text += &format!("# SDS {name}: {answer}\n");
        }
        for diagnostic in self.translation.graph.diagnostics() {
            text += &format!("{:?}: {diagnostic}\n", diagnostic.severity);
        }
        text
    }

    /// Endpoints nobody asks for would hold up listeners, and a cluster that
    /// asks for some that are not there would hold up an Envoy.
    fn assert_endpoints_are_asked_for(&self, path: &Path) {
        let (mut asked, mut there) = (BTreeSet::new(), BTreeSet::new());
        for ((ty, name), resource) in self.sent() {
            let by_eds = || {
                let cluster = describe::to_json(ty.type_url(), &resource.message(ty)).expect("it is of its type");
                cluster["type"] == "EDS"
            };
            match ty {
                ResourceType::Cluster if by_eds() => _ = asked.insert(name),
                ResourceType::Endpoints => _ = there.insert(name),
                _ => {}
            }
        }
        assert_eq!(asked, there, "{}", path.display());
    }

    fn hides_fixtures(&self) -> bool {
        self.sent().len()
            > match self.proxy {
                Some(Scope::Gateway(_)) => 2,
                _ => FIXTURES.len() + 2,
            }
    }
}

/// Resources of every waypoint.
const FIXTURES: [&str; 3] = ["connect_originate", "connect_terminate", "encap"];

/// YAML enough to read and to compare.
fn yaml_lines(text: &mut String, depth: usize, json: &Json) {
    let indent = "  ".repeat(depth);
    let Json::Object(fields) = json else { return };
    for (key, value) in fields {
        match value {
            Json::Object(inner) if inner.is_empty() => *text += &format!("{indent}{key}: {{}}\n"),
            Json::Object(_) => {
                *text += &format!("{indent}{key}:\n");
                yaml_lines(text, depth + 1, value);
            }
            Json::Array(items) if items.iter().any(Json::is_object) => {
                *text += &format!("{indent}{key}:\n");
                for item in items {
                    *text += &format!("{indent}- {item}\n");
                }
            }
            scalar => *text += &format!("{indent}{key}: {scalar}\n"),
        }
    }
}

fn objects(text: &str) -> Vec<Object> {
    let each = |document| match document {
        Document::Object(object) => object,
        other => panic!("golden files hold objects that are read: {other:?}"),
    };
    read(text).into_iter().map(each).collect()
}

fn key(object: &Object) -> (Kind, ObjectKey) {
    (object.kind(), object.meta().key())
}

/// What is given besides objects.
struct Given {
    settings: Settings,
    proxy: Option<Scope>,
    /// Keys of token issuers that have been fetched.
    keys: Fetched,
    /// Who asks for secrets: `# Caller: NAMESPACE/ACCOUNT`.
    caller: Option<SpiffeId>,
    /// Their names: `# Asks: NAME NAME`.
    asked: Vec<String>,
    /// The time: `# Now: TIME`.
    now: Option<jiff::Timestamp>,
}

impl Given {
    fn new(text: &str) -> Self {
        let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let account = line("# Caller: ").and_then(|line| line.split_once('/'));
        let caller = account.map(|(namespace, name)| format!("spiffe://cluster.local/ns/{namespace}/sa/{name}"));
        Self {
            settings: settings(text),
            proxy: proxy(text),
            keys: keys(text),
            caller: caller.map(|caller| caller.parse().expect("an identity")),
            asked: line("# Asks: ").unwrap_or_default().split_whitespace().map(ToOwned::to_owned).collect(),
            now: line("# Now: ").map(|time| time.parse().expect("a time")),
        }
    }
}

/// Lines `# Keys: URI KEYS`; instead of the keys, `error: WHY` may follow them
/// or stand alone.
fn keys(text: &str) -> Fetched {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# Keys: "));
    let key_set = |line: &str| {
        let (uri, rest) = line.split_once(' ').expect("a URI and keys");
        let (keys, problem) = rest.split_once("error: ").map_or((rest, None), |(keys, why)| (keys, Some(why.into())));
        let keys = Some(keys.trim()).filter(|keys| !keys.is_empty()).map(Into::into);
        (KeySource::Uri(uri.into()), KeySet { keys, problem })
    };
    lines.map(key_set).collect()
}

/// The proxy that a file is about; ztunnel if it names none. Metrics are a lot
/// of text in each chain, so only files that are about them have them.
fn proxy(text: &str) -> Option<Scope> {
    let named = text.lines().find_map(|line| line.strip_prefix("# Proxy: "))?;
    let (kind, named) = named.split_once(' ').expect("a kind of proxy and its name");
    let (namespace, gateway) = named.split_once('/').expect("namespace and name");
    let (gateway, metrics) = gateway.strip_suffix(" with metrics").map_or((gateway, false), |name| (name, true));
    let stock = Capabilities { stats_logger: metrics, ..Capabilities::STOCK };
    let gateway = gateway.strip_suffix(" of Istio").map_or((gateway, stock), |name| (name, Capabilities::ISTIO));
    if kind == "router" {
        return Some(router(namespace, gateway, place(text), text));
    }
    Some(Scope::from(WaypointScope {
        namespace: namespace.into(),
        gateway: gateway.0.into(),
        capabilities: gateway.1,
        families: Families::V4,
        loopback: None,
        place: place(text),
    }))
}

/// A gateway, by the Gateway that it was made for or by labels such as
/// `istio=ingressgateway`. `# Address: IP` says where it is.
fn router(namespace: &str, (pods, capabilities): (&str, Capabilities), mut place: Place, text: &str) -> Scope {
    let name = format!("{}={pods}", crate::model::gateway::GATEWAY_NAME);
    let pairs = if pods.contains('=') { pods } else { &name };
    let pairs = pairs.split(',').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.into(), value.into()));
    let mut labels: Vec<_> = place.labels.iter().cloned().chain(pairs).collect();
    labels.sort_unstable();
    place.labels = labels.into();
    let address = text.lines().find_map(|line| line.strip_prefix("# Address: "));
    Scope::from(GatewayScope {
        namespace: namespace.into(),
        capabilities,
        families: Families::V4,
        loopback: None,
        unprivileged: text.lines().any(|line| line == "# Unprivileged"),
        own: text.lines().find_map(|line| line.strip_prefix("# ProxyConfig: ")).and_then(|config| {
            let config: Json = crate::api::yaml(config).expect("YAML");
            OwnConfig::read(&config)
        }),
        place,
        address: address.map(|address| address.parse().expect("an address")),
        listed_by: [].into(),
    })
}

/// Where the proxy is: `# Place: region/zone/subzone on NODE with LABEL=VALUE`,
/// the latter two if there are any.
fn place(text: &str) -> Place {
    let line = text.lines().find_map(|line| line.strip_prefix("# Place: ")).unwrap_or_default();
    let (line, labels) = line.split_once(" with ").unwrap_or((line, ""));
    let (locality, node) = line.split_once(" on ").unwrap_or((line, ""));
    let mut parts = locality.split('/').map(Into::into);
    let mut part = || parts.next().unwrap_or_default();
    let labels = labels.split(' ').filter_map(|label| label.split_once('='));
    let mut labels: Vec<(Arc<str>, Arc<str>)> = labels.map(|(key, value)| (key.into(), value.into())).collect();
    labels.sort_unstable();
    Place { region: part(), zone: part(), subzone: part(), node: node.into(), labels: labels.into() }
}

fn settings(text: &str) -> Settings {
    let mut settings = Settings::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("# Settings: ")) {
        match line {
            "dry-run policies" => settings.dry_run_policies = true,
            "keys fetched by Envoy" => settings.keys_fetched_by = FetchedBy::Envoy,
            "keys fetched by either" => settings.keys_fetched_by = FetchedBy::Either,
            "HTTP/1.0" => settings.http10 = true,
            "persistent sessions" => settings.persistent_sessions = true,
            "gateways in their own namespace" => settings.gateways_in_own_namespace = true,
            "all services at gateways" => settings.all_services_at_gateways = true,
            "revision canary" => settings.revision = "canary".into(),
            "domain example.org" => settings.domain = "example.org".into(),
            other => panic!("unknown setting {other}"),
        }
    }
    settings
}

/// The golden files, in order.
fn golden() -> Vec<PathBuf> {
    let folders = ["src/workload/golden", "src/envoy/golden"];
    let folders = folders.map(|folder| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder));
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("the folder is there"));
    let files = entries.map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).collect();
    files.sort();
    assert!(files.len() > 20, "golden files are found");
    files
}

/// What is wrong with objects is said by one replica, whichever replicas proxies
/// are connected to.
#[test]
fn who_speaks_for_all_says_what_others_would() {
    let (mut wrong, mut said) = (Vec::new(), 0);
    for path in golden() {
        let text = std::fs::read_to_string(&path).expect("readable");
        let (input, _) = text.split_once("# Output\n").unwrap_or((&text, ""));
        let given = Given::new(input);
        let Some(proxy) = given.proxy else { continue };
        let mut objects = objects(&with_key(input));
        if let Scope::Gateway(gateway) = &proxy {
            // Proxies are pods, and a Service leads to them.
            objects.extend(front(gateway));
        }
        let found = |proxy: Option<Scope>, speaks| {
            let mut world = World::new(&Given { proxy, ..Given::new(input) });
            world.translation.speak_for_all(speaks);
            world.apply(objects.iter().cloned().map(Change::Put));
            world.translation.graph.diagnostics()
        };
        let (alone, connected, expected) = (found(None, false), found(Some(proxy), false), found(None, true));
        said += connected.iter().filter(|one| !alone.contains(one)).count();
        let missing = connected.iter().filter(|one| !expected.contains(one));
        wrong.extend(missing.map(|one| format!("{}: {one}", path.display())));
    }
    assert!(wrong.is_empty(), "not said:\n{}", wrong.join("\n"));
    assert!(said > 20, "{said} findings are about what proxies are told");
}

/// A pod that is this proxy, and a Service that leads to it.
fn front(proxy: &GatewayScope) -> Vec<Object> {
    let labels: Vec<_> = proxy.place.labels.iter().map(|(key, value)| format!("{key}: \"{value}\"")).collect();
    let (namespace, labels) = (&proxy.namespace, labels.join(", "));
    objects(&format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: the-proxy, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec: {{nodeName: n}}\nstatus: {{phase: Running, podIP: 10.99.0.1}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: the-proxy, namespace: {namespace}}}\n\
         spec: {{clusterIP: 10.99.1.1, selector: {{{labels}}}, ports: [{{name: tls, port: 15021}}]}}\n"
    ))
}

#[test]
fn golden_files() {
    // Held while many messages are shown.
    let _descriptors = describe::load().expect("they are ours");
    let files = golden();
    let wrong: Vec<_> = files.iter().filter_map(|path| check(path).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn check(path: &PathBuf) -> Result<(), String> {
    let text = std::fs::read_to_string(path).expect("readable");
    let (input, expected) = text.split_once("# Output\n").unwrap_or((&text, ""));
    let given = Given::new(input);
    let objects = objects(&with_key(input));

    let mut world = World::new(&given);
    world.apply(objects.iter().cloned().map(Change::Put));
    let output = world.text();
    let origin = |place: &str, world: &World| match world.text() == output {
        true => Ok(()),
        false => Err(format!("{}: {place} ends differently:\n{}", path.display(), difference(&output, &world.text()))),
    };

    world.assert_endpoints_are_asked_for(path);

    let mut reversed = World::new(&given);
    reversed.apply(objects.iter().rev().cloned().map(Change::Put));
    origin("reversed", &reversed)?;

    let mut one_by_one = World::new(&given);
    objects.iter().for_each(|object| one_by_one.apply([Change::Put(object.clone())]));
    origin("one by one", &one_by_one)?;

    let mut backwards = World::new(&given);
    objects.iter().rev().for_each(|object| backwards.apply([Change::Put(object.clone())]));
    origin("one by one, reversed", &backwards)?;

    // Each object goes and comes back while the others stay.
    for object in &objects {
        let (kind, name) = key(object);
        world.apply([Change::Delete(kind, name)]);
        world.apply([Change::Put(object.clone())]);
    }
    origin("each deleted and added again", &world)?;
    objects.iter().for_each(|object| {
        let (kind, name) = key(object);
        world.apply([Change::Delete(kind, name)]);
    });
    let fixtures = match given.proxy {
        Some(Scope::Waypoint(_)) => 2 * FIXTURES.len(),
        // The way out by HBONE.
        Some(Scope::Gateway(_)) => 2,
        None => 0,
    };
    if world.sent().len() > fixtures {
        return Err(format!("{}: something is left when every object is gone", path.display()));
    }
    let mut kinds: BTreeMap<Kind, Vec<Object>> = BTreeMap::new();
    objects.iter().for_each(|object| kinds.entry(object.kind()).or_default().push(object.clone()));
    world.apply(kinds.into_iter().map(|(kind, objects)| Change::Reset(kind, objects)));
    origin("listed again", &world)?;

    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, format!("{input}# Output\n{output}")).expect("writable");
    } else if output != expected {
        return Err(format!("{}:\n{}", path.display(), difference(expected, &output)));
    }
    Ok(())
}

/// What stands in files for the private key that their certificates are for.
const KEY: &str = "THE KEY OF TESTS";

/// Puts the key there. It is derived from a word, so that there is none to keep.
fn with_key(input: &str) -> String {
    let Some(line) = input.lines().find(|line| line.trim() == KEY) else { return input.to_owned() };
    let key = derived_key().expect("a key").private_key_to_pem_pkcs8().expect("PEM");
    let indent = &line[..line.len() - KEY.len()];
    let text = String::from_utf8(key).expect("text").trim_end().replace('\n', &format!("\n{indent}"));
    input.replace(KEY, &text)
}

fn derived_key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let number = BigNum::from_slice(&openssl::sha::sha256(b"golden"))?;
    let mut point = EcPoint::new(&group)?;
    let mut context = BigNumContext::new()?;
    point.mul_generator2(&group, &number, &mut context)?;
    PKey::from_ec_key(EcKey::from_private_components(&group, &number, &point)?)
}

/// The lines that differ, as a person would look for them.
fn difference(expected: &str, output: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), output.lines().collect());
    let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
    let came = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
    gone.chain(came).collect::<Vec<_>>().join("\n")
}

/// What the proxies of a waypoint on these nodes are told, by node.
struct Placed {
    translation: Translation,
    scopes: Vec<Scope>,
    views: Arc<Views>,
}

impl Placed {
    fn new(nodes: &[&str]) -> Self {
        let scope = |node: &&str| match proxy(&format!("# Proxy: waypoint ns/wp\n# Place: // on {node}")) {
            Some(scope) => scope,
            None => panic!("it names one"),
        };
        let scopes: Vec<_> = nodes.iter().map(scope).collect();
        let mut translation = Translation::new(Arc::default());
        translation.want(scopes.clone());
        Self { translation, scopes, views: Arc::new(Views::new(0, Layer::default(), Layer::default())) }
    }

    fn apply(&mut self, text: &str) {
        objects(text).into_iter().for_each(|object| self.translation.apply(Change::Put(object)));
        self.translation.commit();
        if let Some(views) = self.translation.published() {
            self.views = views;
        }
    }

    /// Which of the proxies share what they are told: for each the first that
    /// is told the same.
    fn shared(&self) -> Vec<usize> {
        let of = |scope: &Scope| self.views.scopes.get(scope).expect("it is served");
        let first = |scope| self.scopes.iter().position(|other| Arc::ptr_eq(of(other), of(scope)));
        self.scopes.iter().filter_map(first).collect()
    }
}

#[test]
fn proxies_in_one_zone_share_what_they_are_told() {
    let node = |name: &str, zone: &str| {
        let labels = format!("topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: {zone}");
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n---\n")
    };
    let service = |distribution: &str| {
        let labels = "labels: {istio.io/use-waypoint: wp}";
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: ns, {labels}}}\n\
             spec: {{clusterIP: 10.96.0.1, trafficDistribution: {distribution}, ports: [{{name: tcp, port: 90}}]}}\n---\n"
        )
    };
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp, namespace: ns}\n\
                   spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n\
                   status: {addresses: [{type: IPAddress, value: 10.96.0.9}]}\n---\n";
    let mut world = Placed::new(&["a", "b", "c", "unknown"]);
    world.apply("");
    assert_eq!(world.shared(), [0, 0, 0, 0], "nothing is known of any node");
    world.apply(&[node("a", "eu-1"), node("b", "eu-1"), node("c", "eu-2")].concat());
    assert_eq!(world.shared(), [0, 0, 2, 3]);
    world.apply(&[gateway, &service("PreferClose")].concat());
    assert_eq!(world.shared(), [0, 0, 2, 3]);
    world.apply(&service("PreferSameNode"));
    assert_eq!(world.shared(), [0, 1, 2, 3], "a service goes by nodes");
    world.apply(&[service("PreferClose"), node("c", "eu-1")].concat());
    assert_eq!(world.shared(), [0, 0, 0, 3], "a node has moved");
    let leaving = world.scopes.pop();
    world.translation.want(world.scopes.clone());
    world.apply("");
    assert!(leaving.is_some_and(|scope| !world.views.scopes.contains_key(&scope)));
    assert_eq!(world.shared(), [0, 0, 0]);
}
