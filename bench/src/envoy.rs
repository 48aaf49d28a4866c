//! Envoys, as far as a control plane can tell: clusters, the endpoints of those,
//! then listeners, and what listeners name, over one incremental stream, every
//! response acknowledged. And one that decodes what it is sent.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use envoy_types::pb::envoy::config::core::v3::{Extension, Node};
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, filter};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use fairway_bench::mesh::Holder;
use prost::Message as _;

use crate::client::{Clients, Tally, add, printable};
use crate::http2::{Receiver, Target, grpc};
use crate::message::{Message, Walker};
use crate::site::Site;

/// The types, in the order in which an Envoy asks for them.
const TYPES: [&str; 5] = [
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
];
const CLUSTERS: usize = 0;
pub const ENDPOINTS: usize = 1;
pub const LISTENERS: usize = 2;
pub const ROUTES: usize = 3;
pub const SECRETS: usize = 4;

/// Proxies that are all the same, and what there is for them.
pub struct Proxy {
    /// What an Envoy is there for, as its id says.
    pub kind: &'static str,
    /// Whose pods they are.
    pub holder: Holder,
    /// The Gateway.
    pub gateway: String,
    /// The clusters with endpoints.
    pub clusters: Vec<String>,
    /// How many clusters there are at least besides.
    pub fixed: usize,
    /// How many listeners there are.
    pub listeners: usize,
    /// The route configurations that they name.
    pub routes: Vec<String>,
    /// The secrets that they name.
    pub secrets: Vec<String>,
}

/// What Envoys ask for and wait for.
#[derive(Clone)]
pub struct Wants {
    token: Option<String>,
    /// The first requests, one for each type in order, in frames of gRPC. Who
    /// can do without the last types has none for them.
    requests: Rc<[Vec<u8>]>,
    /// How many resources of each of these types make one complete.
    complete: Rc<[usize]>,
}

impl Wants {
    /// What proxies want. Secrets are for those that show who they are.
    pub fn of(proxy: &Proxy, token: Option<String>) -> Self {
        let Proxy { clusters, routes, secrets, .. } = proxy;
        let mut named = vec![Vec::new(), clusters.clone(), Vec::new(), routes.clone(), secrets.clone()];
        let mut complete =
            vec![clusters.len() + proxy.fixed, clusters.len(), proxy.listeners, routes.len(), secrets.len()];
        if token.is_none() {
            complete.pop();
        }
        // Nobody asks for none by name.
        while complete.last() == Some(&0) {
            complete.pop();
        }
        named.truncate(complete.len());
        let request = |(place, names): (usize, Vec<String>)| {
            let mut request = subscription(place, names);
            request.node = (place == CLUSTERS).then(|| node(proxy));
            grpc(&request.encode_to_vec())
        };
        let requests = named.into_iter().enumerate().map(request).collect();
        Self { token, requests, complete: complete.into() }
    }

    /// Starts Envoys, of which each is the next one's.
    pub fn clients(all: &[Self], target: &Target, count: usize) -> Clients {
        Clients::play(target, count, |at, tally| all[at % all.len()].begin(tally, None))
    }

    fn begin(&self, tally: &Rc<Tally>, held: Option<Rc<RefCell<Held>>>) -> (Option<String>, Vec<u8>, Envoy) {
        let envoy = Envoy {
            walker: Walker::scanning(held.is_some()),
            wants: self.clone(),
            tally: tally.clone(),
            had: [0; TYPES.len()],
            asked: CLUSTERS + 1,
            newest: 0,
            synced: false,
            held,
        };
        (self.token.clone(), self.requests[CLUSTERS].clone(), envoy)
    }
}

fn subscription(place: usize, names: Vec<String>) -> DeltaDiscoveryRequest {
    let type_url = TYPES[place].into();
    DeltaDiscoveryRequest { type_url, resource_names_subscribe: names, ..Default::default() }
}

/// An Envoy as its own project releases it: some hundred kilobytes of its first
/// request are the list of what it was built with.
fn node(proxy: &Proxy) -> Node {
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
    let labels = Struct { fields: [("gateway.networking.k8s.io/gateway-name".into(), text(&proxy.gateway))].into() };
    let Holder { namespace, service_account, pod, .. } = &proxy.holder;
    let metadata = [
        ("NAME", text(pod)),
        ("NAMESPACE", text(namespace)),
        ("SERVICE_ACCOUNT", text(service_account)),
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
        id: format!("{}~10.0.0.1~{pod}.{namespace}~{namespace}.svc.cluster.local", proxy.kind),
        cluster: format!("{}.{namespace}", proxy.gateway),
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
    had: [usize; TYPES.len()],
    /// How many of the types it has asked for.
    asked: usize,
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
            let (place, before) = (place(&message.type_url)?, *synced);
            had[place] += message.resources;
            add(&tally.messages, 1);
            add(&tally.resources, (message.resources + message.removed) as u64);
            // A cluster is complete with its endpoints, and only then does it
            // ask for listeners, which name the rest.
            while *asked < wants.requests.len() && had[*asked - 1] >= wants.complete[*asked - 1] {
                reply.extend_from_slice(&wants.requests[*asked]);
                *asked += 1;
            }
            let now = tally.since.elapsed().as_micros() as u32;
            for &change in message.marks.iter().filter(|change| *change > newest) {
                if let Some(arrivals) = tally.arrivals.borrow_mut().get_mut(change) {
                    arrivals.push(now);
                }
            }
            *newest = message.marks.last().copied().unwrap_or_default().max(*newest);
            if !*synced && had.iter().zip(&*wants.complete).all(|(had, least)| had >= least) {
                *synced = true;
                tally.synced.set(tally.synced.get() + 1);
                tally.last_synced.set(Some(Instant::now()));
            }
            if let Some(held) = held {
                let new = held.borrow_mut().take(place, message, before)?;
                // The first ones are asked for above.
                if *synced && !new.is_empty() {
                    reply.extend(grpc(&subscription(ENDPOINTS, new).encode_to_vec()));
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

/// What the checking Envoy holds.
#[derive(Default)]
pub struct Held {
    /// The messages until everything was there.
    pub first: Vec<Vec<u8>>,
    /// The last message of each type.
    pub last: [Vec<u8>; TYPES.len()],
    /// The resources of each type, by name.
    resources: [BTreeMap<String, Vec<u8>>; TYPES.len()],
    /// A cluster that something which leads there is waited for.
    awaited: Option<(usize, String)>,
}

impl Held {
    /// Takes a message. Returns the clusters that are new.
    fn take(&mut self, place: usize, message: Message, synced: bool) -> anyhow::Result<Vec<String>> {
        let response = DeltaDiscoveryResponse::decode(message.bytes.as_slice())?;
        ensure!(response.resources.len() == message.resources, "resources were not counted right");
        let mut new = Vec::new();
        for resource in response.resources {
            let payload = resource.resource.context("an empty resource")?.value;
            if self.resources[place].insert(resource.name.clone(), payload).is_none() && place == CLUSTERS {
                new.push(resource.name);
            }
        }
        for name in response.removed_resources {
            self.resources[place].remove(&name);
        }
        let arrives =
            |awaited: &mut (usize, String)| awaited.0 == place && contains(&message.bytes, awaited.1.as_bytes());
        if let Some((_, awaited)) = self.awaited.take_if(arrives) {
            // Whoever is sent what leads there can go there.
            self.leads(&awaited)?;
            self.resource(ENDPOINTS, &awaited)?;
        }
        if !synced {
            self.first.push(message.bytes.clone());
        }
        self.last[place] = message.bytes;
        Ok(new)
    }

    /// Fails if there is no such cluster.
    pub fn leads(&self, cluster: &str) -> anyhow::Result<()> {
        let known = self.resources[CLUSTERS].contains_key(cluster);
        ensure!(known, "void: something leads to {cluster}, which is not there");
        Ok(())
    }

    /// Whether anything of a type was sent.
    pub fn has(&self, place: usize) -> bool {
        !self.resources[place].is_empty()
    }

    /// A resource of a type.
    pub fn resource(&self, place: usize, name: &str) -> anyhow::Result<&[u8]> {
        let found = self.resources[place].get(name);
        found
            .map(Vec::as_slice)
            .with_context(|| format!("void: {name} is missing from what was sent of {}", TYPES[place]))
    }
}

/// Whether bytes are somewhere among others.
pub fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    memchr::memmem::find(bytes, wanted).is_some()
}

/// The routes of a filter chain for HTTP.
pub fn routes(chain: &FilterChain) -> anyhow::Result<Option<RouteConfiguration>> {
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

/// The cluster that a route leads to.
pub fn target(route: &Route) -> Option<String> {
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
    /// Connects as one of the proxies of a site, and waits until it holds what the
    /// objects mean for them.
    pub async fn start(
        target: &Target,
        wants: &Wants,
        site: &impl Site,
        proxy: usize,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        let held = Rc::<RefCell<Held>>::default();
        let client = Clients::play(target, 1, |_, tally| wants.begin(tally, Some(held.clone())));
        let checker = Self { held, client };
        checker.client.all_synced(limit, |_| {}).await.context("void: the checking client")?;
        checker.agrees(site, proxy, limit).await?;
        Ok(checker)
    }

    /// Waits until it holds what the objects mean, which makes a run count.
    pub async fn agrees(&self, site: &impl Site, proxy: usize, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            self.client.check()?;
            let compared = site.compare(proxy, &self.held.borrow());
            match compared {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("void: the checking client disagrees"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Waits for something that leads to a cluster which has just been added, and
    /// checks that what it needs came first. `add` adds it.
    pub async fn in_order(
        &self,
        (place, cluster): (usize, String),
        limit: Duration,
        add: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.held.borrow_mut().awaited = Some((place, cluster));
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
