//! The route configurations of gateways. A virtual host is worked out by itself,
//! from the routes that are bound to servers with its host, and a configuration
//! is put together from encoded ones: a change of one route costs its hosts.
//!
//! Names are istiod's: `http.PORT` for what plain HTTP on a port has in common,
//! `https.PORT.NAME.GATEWAY.NAMESPACE` for a server that ends TLS, `HOST:PORT`
//! for a virtual host.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use envoy_types::pb::envoy::config::route::v3::virtual_host::TlsRequirementType;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};

use prost::Message;
use rapidhash::RapidHashMap;

use crate::envoy::destination::{Destination, declared};
use crate::envoy::encode::{self, boolean, uint32};
use crate::envoy::quarantine::{Content, Ward};
use crate::envoy::routing::{At, Routing};
use crate::envoy::{Configs, Scoped, listener, proxy_headers, route};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::Model;
use crate::model::by_host::{covers, exported};
use crate::model::gateway::{Binding, Bound, GatewayKey, RouteKey, RouteKind, Server, ServerHost};
use crate::model::service::Protocol;
use crate::proxy::Scope;
use crate::xds::resource::{Piece, ResourceType};

use super::merge::{Merged, Merging};

/// A route configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::envoy) struct Table {
    scope: Scope,
    name: Arc<str>,
}

impl Scoped for Table {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}

/// A host of a route configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::envoy) struct HostKey {
    table: Table,
    host: Arc<str>,
}

impl Scoped for HostKey {
    fn scope(&self) -> &Scope {
        &self.table.scope
    }

    fn name(&self) -> String {
        format!("{}/{}", self.table.name, self.host)
    }
}

/// Something that a host has routes or a rule by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct PartKey {
    host: HostKey,
    gateway: GatewayKey,
    /// The server, by its place among all of the proxies.
    position: usize,
    /// An object with routes; none is the server itself, which sends plain HTTP
    /// to HTTPS.
    route: Option<RouteKey>,
}

/// What there is to know of it besides.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// The server's port.
    port: u16,
    /// Whether requests arrive by TLS.
    tls: bool,
    /// Whether plain HTTP is sent to HTTPS.
    redirects: bool,
    /// When the object was created.
    created: u32,
}

/// The servers of one gateway that read HTTP, as the proxies of a scope have
/// them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Reader {
    scope: Scope,
    gateway: GatewayKey,
}

/// A virtual host.
#[derive(Debug, PartialEq)]
pub(in crate::envoy) struct Hosted {
    /// `host:port`.
    name: String,
    /// All of it where no other is one with it, as a field of a route
    /// configuration.
    alone: Piece,
    /// All but its name and its domains, encoded.
    rest: Piece,
    /// Whether another with the same routes may be one with it.
    joins: bool,
    references: BTreeSet<Destination>,
}

impl Hosted {
    fn new(name: String, host: &str, body: &VirtualHost) -> Self {
        let rest = encode::bytes(body);
        let alone = Piece::field(VIRTUAL_HOSTS, &[head(&name, vec![host.to_owned()]), rest.clone()].concat());
        Self { name, rest: alone.end(rest.len()), alone, joins: false, references: BTreeSet::new() }
    }
}

/// What is before the rest of a virtual host.
fn head(name: &str, domains: Vec<String>) -> Vec<u8> {
    encode::ordered(&VirtualHost { name: name.to_owned(), domains, ..Default::default() })
}

impl Content for Hosted {
    type Key = HostKey;

    fn print(&self) -> u64 {
        self.rest.hash()
    }

    fn contains(&self, text: &[u8]) -> bool {
        memchr::memmem::find(self.rest.bytes(), text).is_some()
    }

    /// Requests for it find no route.
    fn closed(&self, key: &HostKey) -> Self {
        Self::new(self.name.clone(), &key.host, &VirtualHost::default())
    }

    fn key(scope: &Scope, name: &str) -> Option<HostKey> {
        let (table, host) = name.rsplit_once('/')?;
        let table = Table { scope: scope.clone(), name: table.into() };
        Some(HostKey { table, host: host.into() })
    }

    /// Each route configuration is in a chain, as none is sent that no listener
    /// refers to.
    fn trial(listener: &str, parts: &[(HostKey, &Self)]) -> Vec<Piece> {
        let mut tables: BTreeMap<&Arc<str>, Vec<(&Arc<str>, &Self)>> = BTreeMap::new();
        for (key, hosted) in parts {
            tables.entry(&key.table.name).or_default().push((&key.host, hosted));
        }
        let chain = |(number, (name, hosts)): (u32, (&Arc<str>, Vec<_>))| {
            let bytes: Vec<u8> =
                configuration(name, 0, hosts).iter().flat_map(|piece| piece.bytes().to_vec()).collect();
            let routes = RouteConfiguration::decode(&*bytes).unwrap_or_default();
            let manager = listener::connection_manager(listener.into(), routes, vec![listener::router(true)]);
            // Two chains may not match alike.
            let matches = FilterChainMatch { destination_port: uint32(number), ..Default::default() };
            FilterChain { filter_chain_match: Some(matches), ..listener::http_chain(name, Vec::new(), &manager) }
        };
        let listener = Listener {
            name: listener.into(),
            filter_chains: (1..).zip(tables).map(chain).collect(),
            ..listener::inspected()
        };
        vec![Piece::new(encode::bytes(&listener))]
    }
}

/// `RouteConfiguration.virtual_hosts`.
const VIRTUAL_HOSTS: u32 = 2;

/// Adds the route configurations. Returns the destinations that they lead to, and
/// their parts.
pub(super) fn add(
    graph: &mut Graph,
    model: &Model,
    merged: Collection<Scope, Arc<Merged>>,
    to: &mut Configs,
) -> (Collection<Destination, Protocol>, Ward<Hosted>) {
    let readers = graph.derive("gateway_http_servers", merged, |_, scope: &Scope, merged: &Arc<Merged>| {
        let mut readers: Vec<(Reader, Vec<Merging>)> = Vec::new();
        for one in merged.listeners.values().flat_map(|listened| listened.servers()).filter(|one| one.routes.is_some())
        {
            match readers.iter_mut().find(|(key, _)| key.gateway == one.gateway) {
                Some((_, servers)) => servers.push(one.clone()),
                None => {
                    readers.push((Reader { scope: scope.clone(), gateway: one.gateway.clone() }, vec![one.clone()]));
                }
            }
        }
        readers
    });
    let by_gateway = graph.index(readers, |key: &Reader, _: &Vec<Merging>, keys| keys.push(key.gateway.clone()));
    let redirects = graph.derive("gateway_redirects", readers, |_, key: &Reader, servers: &Vec<Merging>| {
        let redirecting = servers.iter().filter(|one| redirects(one.server()));
        let parts = redirecting
            .flat_map(|one| one.server().hosts.iter().filter_map(move |host| part(key, one, &host.host, None)));
        parts.collect::<Vec<_>>()
    });
    let model_of = model.clone();
    let bound = graph.derive("gateway_routes", model.gateways.bound, move |cx, key: &RouteKey, bound: &Arc<Bound>| {
        let mut parts = Vec::new();
        for binding in &bound.to {
            for (reader, servers) in cx.fetch(by_gateway, &binding.gateway) {
                if !visible(cx, &model_of, key, &reader.scope) {
                    continue;
                }
                for one in servers {
                    for host in hosts(one.server(), binding, &key.object.namespace) {
                        parts.extend(part(reader, one, &host, Some((key, bound.created))));
                    }
                }
            }
        }
        parts
    });
    let parts = graph.union("gateway_host_parts", [bound, redirects]);
    let by_host = graph.index(parts, |key: &PartKey, _: &Part, keys| keys.push(key.host.clone()));
    let model_of = model.clone();
    let hosts = graph.group("gateway_virtual_hosts", by_host, move |cx, key: &HostKey| {
        let parts: Vec<_> = cx.fetch(by_host, key).collect();
        hosted(cx, &model_of, key, parts).map(Arc::new)
    });
    let quarantine = Ward::new(graph, ["gateway_quarantine", "gateway_parts", "gateway_parts_asked"], hosts);
    quarantine.add_trials(graph, to.gateways, ["gateway_trials", "gateway_trial_listeners"], to);
    let hosts = quarantine.parts();
    let by_table = graph.index(hosts, |key: &HostKey, _: &Arc<Hosted>, keys| keys.push(key.table.clone()));
    let tables = graph.derive("gateway_route_tables", merged, |_, scope: &Scope, merged: &Arc<Merged>| {
        let mut tables: Vec<(Table, u16)> = Vec::new();
        for one in merged.listeners.values().flat_map(|listened| listened.servers()) {
            if let Some(name) = &one.routes {
                tables.push((Table { scope: scope.clone(), name: name.clone() }, one.server().port));
            }
        }
        // Of those that have one in common the first counts.
        tables.dedup_by(|next, first| next.0 == first.0);
        tables
    });
    to.add(graph, "gateway_route_configurations", ResourceType::Routes, tables, move |cx, key: &Table, port: &u16| {
        let hosts = cx.fetch(by_table, key).map(|(key, hosted)| (&key.host, &**hosted));
        Some(configuration(&key.name, *port, hosts.collect()))
    });
    let model = model.clone();
    let references = graph.derive("gateway_route_references", hosts, move |cx, _, hosted: &Arc<Hosted>| {
        let known = |destination: &Destination| Some((destination.clone(), declared(cx, &model, destination)?));
        hosted.references.iter().filter_map(known).collect::<Vec<_>>()
    });
    (references, quarantine)
}

fn redirects(server: &Server) -> bool {
    server.tls.as_ref().is_some_and(|tls| tls.https_redirect)
}

fn part(key: &Reader, one: &Merging, host: &Arc<str>, route: Option<(&RouteKey, u32)>) -> Option<(PartKey, Part)> {
    let server = one.server();
    let table = Table { scope: key.scope.clone(), name: one.routes.clone()? };
    let host = HostKey { table, host: host.clone() };
    let (route, created) = route.unzip();
    let part = Part {
        port: server.port,
        tls: server.tls.as_ref().is_some_and(|tls| !tls.https_redirect || tls.mode.terminates()),
        redirects: redirects(server),
        created: created.unwrap_or_default(),
    };
    Some((PartKey { host, gateway: key.gateway.clone(), position: one.position, route: route.cloned() }, part))
}

/// Whether routes may be seen by the proxies of a scope: a VirtualService may
/// be kept to some namespaces.
pub(super) fn visible(cx: &Ctx<'_>, model: &Model, key: &RouteKey, scope: &Scope) -> bool {
    if key.kind != RouteKind::VirtualService {
        return true;
    }
    let default = &model.scope().mesh(cx).default_virtual_service_export_to;
    let found = cx.get(model.inputs.virtual_services, &key.object);
    found.is_some_and(|one| exported(&one.spec.export_to, default, &key.object.namespace, scope.namespace()))
}

/// The hosts that a server and routes of a namespace have in common: of two
/// that one of them covers, the narrower.
pub(super) fn hosts(server: &Server, binding: &Binding, namespace: &Arc<str>) -> Vec<Arc<str>> {
    if let Some(name) = &binding.server {
        return if *name == server.name { binding.hosts.to_vec() } else { Vec::new() };
    }
    let mut common: Vec<Arc<str>> = Vec::new();
    let open = |host: &&ServerHost| host.namespace.as_ref().is_none_or(|only| only == namespace);
    for ServerHost { host: own, .. } in server.hosts.iter().filter(open) {
        for host in &binding.hosts {
            let narrower = match () {
                () if within(own, host) => own,
                () if within(host, own) => host,
                () => continue,
            };
            if !common.contains(narrower) {
                common.push(narrower.clone());
            }
        }
    }
    common
}

/// Whether all that a host stands for is also what another does.
pub(super) fn within(host: &str, other: &str) -> bool {
    host == other || covers(other, host)
}

/// A virtual host: the routes of each object in the order of servers, then of
/// age. What always matches comes last, whoever has it.
fn hosted(cx: &Ctx<'_>, model: &Model, key: &HostKey, parts: Vec<(&PartKey, &Part)>) -> Option<Hosted> {
    let mut parts = parts;
    parts.sort_by_key(|(key, part)| {
        let object = key.route.as_ref().map(|route| (&route.object.name, &route.object.namespace, route.kind));
        (key.position, part.created, object)
    });
    // Whatever paths an Ingress has for a wider host are for other requests.
    let closest = parts.iter().filter_map(|(key, _)| closeness(key)).max();
    parts.retain(|(key, _)| closeness(key).is_none() || closeness(key) == closest);
    let (_, first) = parts.iter().find(|(key, _)| key.route.is_some()).or(parts.first())?;
    let references = RefCell::default();
    let mut routes = Vec::new();
    // One gateway may have two servers with a host in common. Whose an Ingress's
    // rules are does not depend on the gateway.
    let mut done: BTreeSet<(Option<&GatewayKey>, u16, &RouteKey)> = BTreeSet::new();
    let by = |route: &RouteKey, gateway| (route.kind != RouteKind::Ingress).then_some(gateway);
    let mut joins = true;
    // Rules that could not be made into routes still have the host to
    // themselves: nothing else is to answer in their place.
    let mut any = parts.iter().any(|(_, part)| part.redirects);
    for (at, (part_key, part)) in parts.iter().enumerate() {
        let (gateway, port, tls) = (&part_key.gateway, part.port, part.tls);
        let Some(route) = &part_key.route else { continue };
        if !done.insert((by(route, gateway), port, route)) {
            continue;
        }
        let at_server = At::Server { gateway, port, tls };
        let routing = Routing { cx, model, scope: &key.table.scope, at: at_server, references: &references };
        match route.kind {
            RouteKind::VirtualService => {
                let found = cx.get(model.inputs.virtual_services, &route.object);
                if let Some(one) = found.filter(|one| routing.applies(one)) {
                    any = true;
                    routes.extend(routing.of_virtual_service(one));
                }
                continue;
            }
            RouteKind::Ingress => {
                any = true;
                let found = cx.get(model.ingresses.hosts, &route.object.name);
                routes.extend(found.map(|of| routing.of_ingress(of)).unwrap_or_default());
                continue;
            }
            RouteKind::HTTPRoute | RouteKind::GRPCRoute | RouteKind::TLSRoute | RouteKind::TCPRoute => {}
        }
        // Those of the Gateway API at one server are put together.
        (joins, any) = (false, true);
        let together = parts[at..].iter().filter(|(other, _)| other.position == part_key.position);
        let keys: Vec<_> = together.filter_map(|(other, _)| other.route.as_ref()).collect();
        done.extend(keys.iter().map(|route| (Some(gateway), port, *route)));
        routes.extend(of_gateway_api(&routing, &keys, &key.host));
    }
    if !any {
        return None;
    }
    let (last, mut rest): (Vec<Route>, Vec<Route>) =
        routes.into_iter().partition(|route| route.r#match.as_ref().is_some_and(route::is_catch_all));
    rest.extend(last);
    let mesh = model.scope().mesh(cx);
    let redirects = parts.iter().any(|(_, part)| part.redirects);
    let body = VirtualHost {
        routes: rest,
        require_tls: if redirects { TlsRequirementType::All } else { TlsRequirementType::None }.into(),
        include_request_attempt_count: proxy_headers(&key.table.scope, mesh).attempt_count.disabled != Some(true),
        ..Default::default()
    };
    let name = format!("{}:{}", key.host, first.port);
    Some(Hosted { joins, references: references.into_inner(), ..Hosted::new(name, &key.host, &body) })
}

/// How close the host of an Ingress's rules is to those that it stands for.
fn closeness(key: &PartKey) -> Option<(bool, usize)> {
    let route = key.route.as_ref().filter(|route| route.kind == RouteKind::Ingress)?;
    Some((!route.object.name.starts_with('*'), route.object.name.len()))
}

fn of_gateway_api(routing: &Routing<'_>, keys: &[&RouteKey], host: &str) -> Vec<Route> {
    let Routing { cx, model, .. } = *routing;
    let of = |kind: RouteKind| keys.iter().filter(move |key| key.kind == kind).map(|key| &key.object);
    let http: Vec<_> = of(RouteKind::HTTPRoute).filter_map(|key| cx.get(model.inputs.http_routes, key)).collect();
    let grpc: Vec<_> = of(RouteKind::GRPCRoute).filter_map(|key| cx.get(model.inputs.grpc_routes, key)).collect();
    match http.is_empty() && grpc.is_empty() {
        true => Vec::new(),
        false => routing.of_gateway_api(&http, &grpc, host),
    }
}

/// Puts a route configuration together. Hosts with the same routes share a
/// virtual host, which has the name of the first.
fn configuration(name: &str, port: u16, hosts: Vec<(&Arc<str>, &Hosted)>) -> Vec<Piece> {
    let opening = RouteConfiguration {
        name: name.to_owned(),
        validate_clusters: boolean(false),
        ignore_port_in_host_matching: true,
        max_direct_response_body_size_bytes: uint32(1 << 20),
        ..Default::default()
    };
    let mut pieces = vec![Piece::new(encode::bytes(&opening))];
    if hosts.is_empty() {
        // Requests are answered with a 404.
        let name = format!("blackhole:{port}");
        let none = VirtualHost { name, domains: vec!["*".into()], ..Default::default() };
        pieces.push(Piece::field(VIRTUAL_HOSTS, &encode::bytes(&none)));
        return pieces;
    }
    let mut joined: Vec<Vec<(&Arc<str>, &Hosted)>> = Vec::with_capacity(hosts.len());
    let mut known: RapidHashMap<u64, usize> = RapidHashMap::default();
    for one in hosts {
        if !one.1.joins {
            joined.push(vec![one]);
            continue;
        }
        match known.entry(one.1.rest.hash()) {
            Entry::Occupied(at) if joined[*at.get()][0].1.rest == one.1.rest => joined[*at.get()].push(one),
            at => {
                at.insert_entry(joined.len());
                joined.push(vec![one]);
            }
        }
    }
    // The longer first, and those with a wildcard last.
    let place = |(host, _): &(&Arc<str>, &Hosted)| (host.starts_with('*'), Reverse(host.len()));
    for hosts in joined.iter_mut().filter(|hosts| hosts.len() > 1) {
        hosts.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.0.cmp(b.0)));
    }
    joined.sort_by(|a, b| a[0].1.name.cmp(&b[0].1.name));
    for hosts in joined {
        let (_, first) = hosts[0];
        match &hosts[..] {
            [_] => pieces.push(first.alone.clone()),
            hosts => {
                let domains = hosts.iter().map(|(host, _)| host.to_string()).collect();
                pieces.push(Piece::opening(VIRTUAL_HOSTS, &head(&first.name, domains), first.rest.bytes().len()));
                pieces.push(first.rest.clone());
            }
        }
    }
    pieces
}
