//! Envoys of a waypoint, as far as a control plane can tell: clusters, the
//! endpoints of those, then listeners over one incremental stream, every
//! response acknowledged. And one that decodes what it is sent.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use envoy_types::pb::envoy::config::core::v3::{Extension, Node};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use fairway_bench::mesh::MARK;
use fairway_bench::waypoint::{GATEWAY, HEADER, NAMESPACE, Shop, cluster};
use prost::Message as _;

use crate::client::{Clients, Tally, add, printable};
use crate::http2::{Receiver, Target, grpc};
use crate::message::{Message, Walker};

/// The types, in the order in which an Envoy asks for them.
const TYPES: [&str; 3] = [
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "type.googleapis.com/envoy.config.listener.v3.Listener",
];
const CLUSTERS: usize = 0;
pub const ENDPOINTS: usize = 1;
pub const LISTENERS: usize = 2;
/// The clusters and listeners that a waypoint has whatever it serves.
const FIXED: usize = 3;

/// What the Envoys of a waypoint ask for and wait for.
#[derive(Clone)]
pub struct Wants {
    token: Option<String>,
    /// How many resources of each type make one complete.
    complete: [usize; 3],
    /// The request for all endpoints.
    endpoints: Rc<Vec<u8>>,
}

impl Wants {
    /// What a shop has for its waypoint.
    pub fn of(shop: &Shop, token: Option<String>) -> Self {
        let names: Vec<_> = shop.clusters().collect();
        let complete = [names.len() + FIXED, names.len(), FIXED];
        Self { token, complete, endpoints: Rc::new(grpc(&subscription(names))) }
    }

    /// Starts Envoys.
    pub fn clients(&self, target: &Target, count: usize) -> Clients {
        Clients::play(target, count, |_, tally| self.begin(tally, None))
    }

    fn begin(&self, tally: &Rc<Tally>, held: Option<Rc<RefCell<Held>>>) -> (Option<String>, Vec<u8>, Envoy) {
        let node = Some(node());
        let first = DeltaDiscoveryRequest { node, type_url: TYPES[CLUSTERS].into(), ..Default::default() };
        let envoy = Envoy {
            walker: Walker::scanning(held.is_some()),
            wants: self.clone(),
            tally: tally.clone(),
            had: [0; 3],
            asked: [true, false, false],
            newest: 0,
            synced: false,
            held,
        };
        (self.token.clone(), grpc(&first.encode_to_vec()), envoy)
    }
}

fn subscription(names: Vec<String>) -> Vec<u8> {
    let type_url = TYPES[ENDPOINTS].into();
    DeltaDiscoveryRequest { type_url, resource_names_subscribe: names, ..Default::default() }.encode_to_vec()
}

/// An Envoy as its own project releases it: some hundred kilobytes of its first
/// request are the list of what it was built with.
fn node() -> Node {
    const CATEGORIES: [&str; 12] = [
        "access_loggers",
        "clusters",
        "filters.http",
        "filters.listener",
        "filters.network",
        "filters.udp",
        "load_balancing_policies",
        "matching.inputs",
        "retry_host_predicates",
        "stats_sinks",
        "tracers",
        "transport_sockets.upstream",
    ];
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.into())) };
    let labels = Struct { fields: [("gateway.networking.k8s.io/gateway-name".into(), text(GATEWAY))].into() };
    let metadata = [
        ("NAME", text("waypoint-1")),
        ("NAMESPACE", text(NAMESPACE)),
        ("SERVICE_ACCOUNT", text(GATEWAY)),
        ("INSTANCE_IPS", text("10.0.0.1")),
        ("LABELS", Value { kind: Some(Kind::StructValue(labels)) }),
    ];
    let extension = |at: usize| Extension {
        name: format!("envoy.{}.number_{at}", CATEGORIES[at % CATEGORIES.len()]),
        category: format!("envoy.{}", CATEGORIES[at % CATEGORIES.len()]),
        type_urls: vec![format!("envoy.extensions.{}.number_{at}.v3.Config", CATEGORIES[at % CATEGORIES.len()])],
        ..Default::default()
    };
    Node {
        id: format!("waypoint~10.0.0.1~waypoint-1.{NAMESPACE}~{NAMESPACE}.svc.cluster.local"),
        cluster: format!("waypoint.{NAMESPACE}"),
        metadata: Some(Struct { fields: metadata.into_iter().map(|(key, value)| (key.into(), value)).collect() }),
        user_agent_name: "envoy".into(),
        extensions: (0..450).map(extension).collect(),
        ..Default::default()
    }
}

/// One stream.
struct Envoy {
    walker: Walker,
    wants: Wants,
    tally: Rc<Tally>,
    /// Resources of each type.
    had: [usize; 3],
    /// Which types it has asked for.
    asked: [bool; 3],
    /// The number of the newest change that has arrived.
    newest: usize,
    synced: bool,
    /// Who decodes what it is sent.
    held: Option<Rc<RefCell<Held>>>,
}

impl Receiver for Envoy {
    fn data(&mut self, bytes: &[u8], reply: &mut Vec<u8>) -> anyhow::Result<()> {
        let Self { walker, wants, tally, had, asked, newest, synced, held } = self;
        add(&tally.bytes, bytes.len() as u64);
        walker.read(bytes, |message| {
            reply.extend(grpc(&message.ack()));
            let place = place(&message.type_url)?;
            had[place] += message.resources;
            add(&tally.messages, 1);
            add(&tally.resources, (message.resources + message.removed) as u64);
            // A cluster is complete with its endpoints, and only then does it
            // ask for listeners.
            let next = place + 1;
            if next < TYPES.len() && had[place] >= wants.complete[place] && !std::mem::replace(&mut asked[next], true) {
                match next {
                    ENDPOINTS => reply.extend_from_slice(&wants.endpoints),
                    _ => {
                        let request = DeltaDiscoveryRequest { type_url: TYPES[next].into(), ..Default::default() };
                        reply.extend(grpc(&request.encode_to_vec()));
                    }
                }
            }
            let now = tally.since.elapsed().as_micros() as u32;
            for &change in message.marks.iter().filter(|change| *change > newest) {
                if let Some(arrivals) = tally.arrivals.borrow_mut().get_mut(change) {
                    arrivals.push(now);
                }
            }
            *newest = message.marks.last().copied().unwrap_or_default().max(*newest);
            if !*synced && had.iter().zip(&wants.complete).all(|(had, least)| had >= least) {
                *synced = true;
                tally.synced.set(tally.synced.get() + 1);
                tally.last_synced.set(Some(Instant::now()));
            }
            if let Some(held) = held {
                let new = held.borrow_mut().take(place, message)?;
                // The first ones are asked for above.
                if *synced && !new.is_empty() {
                    reply.extend(grpc(&subscription(new)));
                }
            }
            Ok(())
        })
    }

    fn ended(&mut self, headers: &[u8]) -> anyhow::Result<()> {
        bail!("the server ended the stream: {}", printable(headers))
    }
}

fn place(type_url: &[u8]) -> anyhow::Result<usize> {
    let known = TYPES.iter().position(|known| known.as_bytes() == type_url);
    known.with_context(|| format!("a response of type {}", String::from_utf8_lossy(type_url)))
}

/// What the checking Envoy holds. It decodes clusters and endpoints as they
/// come, and listeners, which have megabytes, when they are compared.
#[derive(Default)]
pub struct Held {
    /// The messages until everything was there.
    pub first: Vec<Vec<u8>>,
    /// The last message of each type.
    pub last: [Vec<u8>; 3],
    clusters: BTreeSet<String>,
    endpoints: BTreeMap<String, Vec<u8>>,
    /// A chain that is waited for.
    awaited: Option<String>,
}

impl Held {
    /// Takes a message. Returns the clusters that are new.
    fn take(&mut self, place: usize, message: Message) -> anyhow::Result<Vec<String>> {
        let mut new = Vec::new();
        if place != LISTENERS {
            let response = DeltaDiscoveryResponse::decode(message.bytes.as_slice())?;
            ensure!(response.resources.len() == message.resources, "resources were not counted right");
            for resource in response.resources {
                let (name, payload) = (resource.name, resource.resource.context("an empty resource")?.value);
                if place == ENDPOINTS {
                    self.endpoints.insert(name, payload);
                } else if self.clusters.insert(name.clone()) {
                    new.push(name);
                }
            }
            for name in response.removed_resources {
                match place {
                    CLUSTERS => _ = self.clusters.remove(&name),
                    _ => _ = self.endpoints.remove(&name),
                }
            }
        } else if let Some(awaited) = self.awaited.take_if(|awaited| find(&message.bytes, awaited.as_bytes())) {
            // Whoever is sent a listener can use all of it.
            ensure!(self.clusters.contains(&awaited), "void: a listener before the cluster {awaited}");
            ensure!(self.endpoints.contains_key(&awaited), "void: a listener before the endpoints of {awaited}");
        }
        if self.last[LISTENERS].is_empty() {
            self.first.push(message.bytes.clone());
        }
        self.last[place] = message.bytes;
        Ok(new)
    }

    /// Compares with what the objects mean.
    fn compare(&self, shop: &Shop) -> anyhow::Result<()> {
        let response = DeltaDiscoveryResponse::decode(self.last[LISTENERS].as_slice())?;
        let main = response.resources.into_iter().find(|resource| resource.name == "main_internal");
        let main = main.and_then(|main| main.resource).context("no main_internal")?.value;
        let listener = Listener::decode(main.as_slice())?;
        let mut chains = BTreeMap::new();
        for chain in &listener.filter_chains {
            for route in routes(chain)?.into_iter().flat_map(|routes| routes.virtual_hosts).flat_map(|host| host.routes)
            {
                let to = target(&route).with_context(|| format!("{}: a route to nowhere", chain.name))?;
                ensure!(self.clusters.contains(&to), "{}: there is no cluster {to}", chain.name);
                let headers = route.response_headers_to_add.iter().filter_map(|one| one.header.as_ref());
                let versions = headers.filter(|header| header.key == HEADER).map(|header| header.value.clone());
                chains.entry(chain.name.clone()).or_insert_with(Vec::new).extend(versions);
            }
        }
        for (at, (name, version)) in shop.expected_routes().into_iter().enumerate() {
            let found = chains.get(&name).with_context(|| format!("{name} is missing"))?;
            ensure!(found.contains(&version), "{name}: routes of versions {found:?}, not {version}");
            let marked = found.iter().filter(|found| found.starts_with(MARK)).count();
            ensure!(marked <= 1 && !found.is_empty(), "{name} ({at}): {found:?}");
        }
        for name in shop.clusters() {
            ensure!(self.clusters.contains(&name) && self.endpoints.contains_key(&name), "{name} is missing");
        }
        for (name, version) in shop.expected_pods() {
            let assignment = ClusterLoadAssignment::decode(self.endpoints[&name].as_slice())?;
            let count: usize = assignment.endpoints.iter().map(|locality| locality.lb_endpoints.len()).sum();
            ensure!(count > 0 && find(&self.endpoints[&name], version.as_bytes()), "{name}: not of version {version}");
        }
        Ok(())
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> bool {
    memchr::memmem::find(bytes, wanted).is_some()
}

/// The routes of a filter chain for HTTP.
fn routes(chain: &FilterChain) -> anyhow::Result<Option<RouteConfiguration>> {
    for filter in &chain.filters {
        let Some(filter::ConfigType::TypedConfig(config)) = &filter.config_type else { continue };
        if config.type_url.ends_with(".HttpConnectionManager") {
            let manager = HttpConnectionManager::decode(config.value.as_slice())?;
            return Ok(match manager.route_specifier {
                Some(RouteSpecifier::RouteConfig(routes)) => Some(routes),
                _ => None,
            });
        }
    }
    Ok(None)
}

fn target(route: &Route) -> Option<String> {
    let Some(Action::Route(action)) = &route.action else { return None };
    match action.cluster_specifier.as_ref()? {
        ClusterSpecifier::Cluster(name) => Some(name.clone()),
        ClusterSpecifier::WeightedClusters(all) => all.clusters.first().map(|one| one.name.clone()),
        _ => None,
    }
}

/// The checking Envoy, which is connected until this is dropped.
pub struct Checker {
    /// What it holds.
    pub held: Rc<RefCell<Held>>,
    client: Clients,
}

impl Checker {
    /// Connects, and waits until it holds what the objects mean.
    pub async fn start(target: &Target, wants: &Wants, shop: &Shop, limit: Duration) -> anyhow::Result<Self> {
        let held = Rc::<RefCell<Held>>::default();
        let client = Clients::play(target, 1, |_, tally| wants.begin(tally, Some(held.clone())));
        let checker = Self { held, client };
        checker.client.all_synced(limit, |_| {}).await.context("void: the checking client")?;
        checker.agrees(shop, limit).await?;
        Ok(checker)
    }

    /// Waits until it holds what the objects mean, which makes a run count.
    pub async fn agrees(&self, shop: &Shop, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            self.client.check()?;
            let compared = self.held.borrow().compare(shop);
            match compared {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("void: the checking client disagrees"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Waits for the chain of a service that has just been added, and checks
    /// that what it needs came first. `add` adds it.
    pub async fn in_order(
        &self,
        service: usize,
        limit: Duration,
        add: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.held.borrow_mut().awaited = Some(cluster(service));
        add()?;
        let deadline = Instant::now() + limit;
        while self.held.borrow().awaited.is_some() {
            self.client.check()?;
            ensure!(Instant::now() < deadline, "void: a new service has not arrived");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Ends it.
    pub async fn stop(self) {
        self.client.stop().await;
    }
}
