//! Services and the places behind them, as istiod prints those of its model
//! (`pilot/pkg/model/service.go`), but for what is not known here. Services are
//! those of the graph; places are read from what proxies are told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::StatusCode;
use fairway_proto::workload::address::Type;
use fairway_proto::workload::{Address, Workload, WorkloadStatus};
use jiff::Timestamp;
use prost::Message;
use serde_json::{Map, Value, json};

use super::{Admin, Arguments, Shown, Viewer, aside, ask, config_dump, syncz};
use crate::model::service::{Distribution, Port, Protocol, Registry as From, Resolution, Service};
use crate::proxy::Scope;
use crate::writer::{Question, Registry};
use crate::xds::resource::{Resource, ResourceType};
use crate::xds::view::Views;

/// The services by their hostname and namespace.
type Services = BTreeMap<(Arc<str>, Arc<str>), Arc<Service>>;

/// All services.
pub(super) async fn registryz(admin: &Admin) -> Shown {
    let (registry, cluster) = (registry(admin).await?, admin.cluster.clone());
    aside(move || registry.services.iter().map(|one| service(one, &cluster)).collect()).await
}

/// What is behind each service: by hostname, by namespace, and by the registry
/// that it comes from.
pub(super) async fn endpoint_shards(admin: &Admin) -> Shown {
    let services = services(registry(admin).await?);
    let (views, cluster) = (admin.published.views.borrow().clone(), admin.cluster.clone());
    aside(move || shards(&views, &services, &cluster)).await
}

/// For each proxy, the services that its own pod is behind.
pub(super) async fn instancesz(admin: &Admin) -> Shown {
    let services = services(registry(admin).await?);
    let (views, cluster) = (admin.published.views.borrow().clone(), admin.cluster.clone());
    let statuses = syncz::proxies(admin);
    aside(move || {
        let targets = |id: &str| -> Vec<Value> {
            let Some(workload) = of_proxy(&views, &cluster, id) else { return Vec::new() };
            let served = served(&workload, &services);
            served.iter().map(|one| json!({ "Service": service(one.service, &cluster), "Port": one.port() })).collect()
        };
        let rows =
            statuses.iter().map(|status| (status.node.name.to_string(), Value::Array(targets(&status.node.name))));
        Value::Object(rows.collect())
    })
    .await
}

/// Gateways to other networks.
pub(super) async fn networkz(admin: &Admin) -> Shown {
    Ok(network_gateways(admin, &registry(admin).await?, |_| true))
}

/// Gateways to other networks whose addresses have a property.
pub(super) fn network_gateways(admin: &Admin, registry: &Registry, is: impl Fn(&str) -> bool) -> Value {
    let wanted = registry.gateways.iter().filter(|(key, _)| is(&key.address));
    let shown = wanted.map(|(key, gateway)| {
        json!({
            "Network": &*key.network,
            "Cluster": &*admin.cluster,
            "Addr": &*key.address,
            "Port": 0,
            "HBONEPort": key.port,
            "ServiceAccount": { "Namespace": &*gateway.namespace, "Name": &*gateway.service_account },
        })
    });
    shown.collect()
}

/// Whether the address of a gateway is one, and not a name.
pub(super) fn is_resolved(address: &str) -> bool {
    address.parse::<IpAddr>().is_ok()
}

/// What decides what a proxy is told, and the services it is told of.
pub(super) async fn sidecarz(admin: &Admin, viewer: &Viewer, arguments: &Arguments) -> Shown {
    let status = config_dump::asked(admin, viewer, arguments)?;
    let registry = registry(admin).await?;
    let (views, cluster) = (admin.published.views.borrow().clone(), admin.cluster.clone());
    aside(move || {
        let scope = Scope::of(&status.node);
        let told: BTreeSet<String> = views
            .layer(ResourceType::Cluster, scope.as_ref())
            .iter()
            .filter_map(|cluster| cluster.name().rsplit('|').next().map(str::to_owned))
            .collect();
        // A ztunnel is told of all.
        let is_told = |one: &&Arc<Service>| scope.is_none() || told.contains(&*one.key.hostname);
        let services: Vec<_> = registry.services.iter().filter(is_told).map(|one| service(one, &cluster)).collect();
        json!({
            "version": views.revision.to_string(),
            "name": &*status.node.name,
            "namespace": &*status.node.namespace,
            "scope": scope,
            "services": services,
            "sidecar": null,
        })
    })
    .await
}

/// Asks the graph for services and gateways.
pub(super) async fn registry(admin: &Admin) -> Result<Registry, (StatusCode, String)> {
    ask(admin, Question::Registry).await
}

fn services(registry: Registry) -> Services {
    let keyed = |one: Arc<Service>| ((one.key.namespace.clone(), one.key.hostname.clone()), one);
    registry.services.into_iter().map(keyed).collect()
}

/// A service. Numbers and names are those of Go's constants.
fn service(service: &Service, cluster: &str) -> Value {
    let addresses = service.addresses.iter().map(|range| match range.prefix_len() == range.max_prefix_len() {
        true => range.addr().to_string(),
        false => range.to_string(),
    });
    let addresses: Vec<String> = addresses.collect();
    let (kubernetes, meta) = (service.registry == From::Kubernetes, &service.meta);
    let headless = kubernetes && addresses.is_empty();
    let labels = |labels: &crate::api::Labels| -> Map<String, Value> {
        labels.iter().map(|(key, value)| (key.to_owned(), json!(value))).collect()
    };
    let export_to: Map<String, Value> = service.export_to.iter().map(|to| (to.to_string(), json!({}))).collect();
    let distribution = match service.distribution {
        Distribution::PreferSameZone => 1,
        Distribution::PreferSameNode => 2,
        Distribution::Any | Distribution::LocalNode | Distribution::Passthrough => 0,
    };
    let resolution = match service.resolution {
        Resolution::Static if headless => 2,
        Resolution::Static => 0,
        Resolution::Dns | Resolution::DnsRace => 1,
        Resolution::Passthrough => 2,
        Resolution::DnsRoundRobin => 3,
        Resolution::DynamicDns => 5,
    };
    json!({
        "Attributes": {
            "ServiceRegistry": if kubernetes { "Kubernetes" } else { "External" },
            "Name": if kubernetes { &*meta.name } else { &*service.key.hostname },
            "Namespace": &*service.key.namespace,
            "Labels": labels(&meta.labels),
            "ExportTo": export_to,
            "LabelSelectors": labels(&service.selector),
            "NodeLocal": service.distribution == Distribution::LocalNode,
            "TrafficDistribution": distribution,
            "ObjectName": &*meta.name,
            "PublishNotReadyAddresses": service.all_endpoints,
        },
        "ports": service.ports.iter().map(port).collect::<Vec<_>>(),
        "serviceAccounts": service.subject_alt_names.iter().map(|name| &**name).collect::<Vec<_>>(),
        "creationTime": Timestamp::from_second(meta.created.into()).map(|time| time.to_string()).unwrap_or_default(),
        "hostname": &*service.key.hostname,
        "clusterVIPs": { "Addresses": { cluster: addresses } },
        "defaultAddress": addresses.first().map_or("0.0.0.0", String::as_str),
        "Resolution": resolution,
        "MeshExternal": service.external,
        "ResourceVersion": meta.resource_version.0.to_string(),
    })
}

fn port(port: &Port) -> Value {
    let protocol = match port.protocol {
        Protocol::Http11 => "HTTP",
        Protocol::Http2 => "HTTP2",
        Protocol::Grpc => "GRPC",
        Protocol::Tcp => "TCP",
        Protocol::Tls => "TLS",
        Protocol::Unknown if &*port.transport == "UDP" => "UDP",
        Protocol::Unknown => "UnsupportedProtocol",
    };
    json!({ "name": &*port.name, "port": port.number, "protocol": protocol })
}

/// A port of a service that a workload serves.
struct Served<'a> {
    service: &'a Arc<Service>,
    number: u32,
    target: u32,
}

impl Served<'_> {
    fn declared(&self) -> Option<&Port> {
        self.service.ports.iter().find(|port| u32::from(port.number) == self.number)
    }

    fn port(&self) -> Value {
        let mut shown = self.declared().map_or_else(|| json!({ "port": self.number }), port);
        shown["TargetPort"] = json!(self.target);
        shown
    }
}

/// The ports of services that a workload serves, by service.
fn served<'a>(workload: &Workload, services: &'a Services) -> Vec<Served<'a>> {
    let mut names: Vec<_> = workload.services.iter().collect();
    names.sort_by(|a, b| a.0.cmp(b.0));
    let mut served = Vec::new();
    for (name, ports) in names {
        let Some((namespace, hostname)) = name.split_once('/') else { continue };
        // It may be newer than the services here, or older.
        let Some(service) = services.get(&(namespace.into(), hostname.into())) else { continue };
        let ports = ports.ports.iter();
        served.extend(ports.map(|port| Served { service, number: port.service_port, target: port.target_port }));
    }
    served
}

fn workload(resource: &Resource) -> Option<Workload> {
    match Address::decode(resource.message(ResourceType::Address)).ok()?.r#type? {
        Type::Workload(workload) => Some(workload),
        Type::Service(_) => None,
    }
}

/// The workload that a proxy is.
fn of_proxy(views: &Views, cluster: &str, id: &str) -> Option<Workload> {
    let (name, namespace) = id.rsplit_once('.')?;
    workload(&views.addresses.get(&format!("{cluster}//Pod/{namespace}/{name}"))?)
}

fn shards(views: &Views, services: &Services, cluster: &str) -> Value {
    type Endpoints = Vec<(String, Value)>;
    #[derive(Default)]
    struct Shards {
        endpoints: BTreeMap<String, Endpoints>,
        accounts: BTreeSet<String>,
    }
    let mut all: BTreeMap<&str, BTreeMap<&str, Shards>> = BTreeMap::new();
    for workload in views.addresses.iter().filter_map(|resource| workload(&resource)) {
        let registry = if workload.uid.contains("//Pod/") { "Kubernetes" } else { "External" };
        let account = account(&workload);
        for served in served(&workload, services) {
            let key = &served.service.key;
            let shards = all.entry(&key.hostname).or_default().entry(&key.namespace).or_default();
            let endpoint = endpoint(&workload, &served, &account);
            shards.endpoints.entry(format!("{registry}/{cluster}")).or_default().push((workload.uid.clone(), endpoint));
            shards.accounts.insert(account.clone());
        }
    }
    let shown = |shards: Shards| {
        let endpoints = shards.endpoints.into_iter().map(|(shard, mut endpoints)| {
            // Those of one workload are in the order of its ports.
            endpoints.sort_by(|a, b| a.0.cmp(&b.0));
            (shard, endpoints.into_iter().map(|(_, endpoint)| endpoint).collect::<Value>())
        });
        let accounts: Map<String, Value> = shards.accounts.into_iter().map(|account| (account, json!({}))).collect();
        json!({ "Shards": endpoints.collect::<Map<_, _>>(), "ServiceAccounts": accounts })
    };
    let by_host = all.into_iter().map(|(hostname, namespaces)| {
        let namespaces = namespaces.into_iter().map(|(namespace, shards)| (namespace.to_owned(), shown(shards)));
        (hostname.to_owned(), Value::Object(namespaces.collect()))
    });
    Value::Object(by_host.collect())
}

fn account(workload: &Workload) -> String {
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let domain = or(&workload.trust_domain, "cluster.local");
    format!("spiffe://{domain}/ns/{}/sa/{}", workload.namespace, or(&workload.service_account, "default"))
}

fn endpoint(workload: &Workload, served: &Served<'_>, account: &str) -> Value {
    let address = |bytes: &prost::bytes::Bytes| match bytes.len() {
        4 => <[u8; 4]>::try_from(&**bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        _ => <[u8; 16]>::try_from(&**bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
    };
    let mut addresses: Vec<_> = workload.addresses.iter().filter_map(address).collect();
    if addresses.is_empty() {
        addresses.push(workload.hostname.clone());
    }
    let place = workload.locality.clone().unwrap_or_default();
    let parts = [place.region, place.zone, place.subzone];
    let healthy = workload.status() == WorkloadStatus::Healthy;
    json!({
        "Labels": {
            "service.istio.io/canonical-name": workload.canonical_name,
            "service.istio.io/canonical-revision": workload.canonical_revision,
        },
        "Addresses": addresses,
        "ServicePortName": served.declared().map_or("", |port| &*port.name),
        "ServiceAccount": account,
        "Network": workload.network,
        "Locality": { "Label": parts.join("/").trim_end_matches('/'), "ClusterID": workload.cluster_id },
        "EndpointPort": served.target,
        "LbWeight": workload.capacity.as_ref().map_or(1, |capacity| *capacity),
        "TunnelProtocol": workload.tunnel_protocol().as_str_name(),
        "Namespace": workload.namespace,
        "WorkloadName": workload.workload_name,
        "HostName": workload.hostname,
        "HealthStatus": if healthy { 1 } else { 2 },
        "NodeName": workload.node,
    })
}
