//! What ztunnel is told: the address table (`istio.workload.Address`) and L4
//! policies (`istio.security.Authorization`), as encoded resources.
//!
//! Each kind of object has a transform here that goes straight from the object
//! to its resource, so that no second form of a workload is kept. Names, uids
//! and fields are those a real istiod sends; where it is known to be wrong,
//! `docs/differences.md` says what we do instead.

mod authorization;
mod endpoint_slice;
mod entry;
mod gateway;
mod peer_authentication;
mod pod;
mod profile;
mod service;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fairway_proto::workload as proto;
use prost::Message;

use crate::api::{Labels, Meta, ObjectKey, intern};
use crate::graph::{Collection, Ctx, Graph, Key, Provenance, Value};
use crate::model::endpoint;
use crate::model::waypoint::{Address, TrafficType, Waypoint};
use crate::model::{Model, Scope};
use crate::xds::resource::{Keys, Resource, ResourceType};
use crate::xds::view::{Draft, Layer};

/// What is sent, by layer.
pub struct Resources {
    /// Workloads and services.
    pub addresses: Tables,
    /// Policies.
    pub authorizations: Tables,
}

/// The tables of one layer. No two have a resource of the same name.
#[derive(Default)]
pub struct Tables {
    /// The few, which the graph keeps.
    rows: Vec<Collection<Arc<str>, Resource>>,
    /// Finds where a resource of the many comes from, which it does not.
    provenances: Vec<Box<dyn Fn(&Graph, &str) -> Option<Provenance> + Send>>,
    // The graph writes to it during a commit, `update` reads it after that.
    draft: Arc<Mutex<Draft>>,
}

impl Tables {
    fn rows(rows: impl IntoIterator<Item = Collection<Arc<str>, Resource>>) -> Self {
        Self { rows: rows.into_iter().collect(), ..Self::default() }
    }

    /// Adds a table that has one resource at most for each row of `source`,
    /// under the name that belongs to its key.
    fn add<K: Key, V: Value>(
        &mut self,
        graph: &mut Graph,
        table: &'static str,
        source: Collection<K, V>,
        name: impl Fn(&K) -> String + Clone + Send + 'static,
        resource: impl Fn(&Ctx<'_>, &K, &V) -> Option<Resource> + Send + 'static,
    ) {
        let (draft, name_of) = (self.draft.clone(), name.clone());
        let sink = move |key: &K, resource: Option<Resource>| {
            let mut draft = draft.lock().unwrap_or_else(PoisonError::into_inner);
            match resource {
                Some(resource) => draft.upsert(resource),
                None => draft.remove(&name_of(key)),
            }
        };
        let output = graph.output(table, source, resource, Resource::fingerprint, sink);
        self.provenances
            .push(Box::new(move |graph, wanted| graph.output_provenance(output, |key| name(key) == wanted)));
    }

    /// The layer after the last commit, if it is another than the last time.
    pub fn update(&self, graph: &Graph) -> Option<Layer> {
        let mut draft = self.draft.lock().unwrap_or_else(PoisonError::into_inner);
        for change in self.rows.iter().flat_map(|rows| graph.changes(*rows)) {
            match &change.new {
                Some(resource) => draft.upsert((**resource).clone()),
                None => draft.remove(&change.key),
            }
        }
        draft.finish()
    }

    /// Where the resource of a name comes from.
    pub fn provenance(&self, graph: &Graph, name: &Arc<str>) -> Option<Provenance> {
        let kept = self.rows.iter().find(|rows| graph.get(**rows, name).is_some());
        let kept = kept.map(|rows| graph.provenance(*rows, name));
        kept.or_else(|| self.provenances.iter().find_map(|find| find(graph, name)))
    }
}

/// Declares the tables.
pub fn resources(graph: &mut Graph, model: &Model) -> Resources {
    let mut addresses = Tables::rows([
        entry::workload_entries(graph, model),
        entry::service_entry_endpoints(graph, model),
        endpoint_slice::workloads(graph, model),
        gateway::workloads(graph, model),
    ]);
    pod::add_workloads(graph, model, &mut addresses);
    service::add_services(graph, model, &mut addresses);
    let authorizations = Tables::rows([
        authorization::authorizations(graph, model),
        peer_authentication::static_strict(graph, model),
        peer_authentication::converted(graph, model),
    ]);
    Resources { addresses, authorizations }
}

/// A row of the address table for a workload.
fn workload_row(workload: proto::Workload) -> (Arc<str>, Resource) {
    (workload.uid.as_str().into(), workload_resource(workload))
}

/// A workload as a resource under its uid.
fn workload_resource(workload: proto::Workload) -> Resource {
    let name = workload.uid.clone();
    let by_address = workload.network_mode() == proto::NetworkMode::Standard;
    let addresses = workload.addresses.iter().filter(|_| by_address).filter_map(|bytes| ip(bytes));
    let keys = Keys {
        aliases: addresses.map(|address| format!("{}/{address}", workload.network).into()).collect(),
        related: workload.services.keys().map(|service| intern(service)).collect(),
        node: (!workload.node.is_empty()).then(|| intern(&workload.node)),
    };
    let address = proto::Address { r#type: Some(proto::address::Type::Workload(workload)) };
    Resource::new(ResourceType::Address, &name, &address.encode_to_vec(), &keys)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

fn octets(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    }
}

/// The trust domain as ztunnel expects it: empty is `cluster.local`.
fn trust_domain(cx: &Ctx<'_>, scope: &Scope) -> String {
    match &*scope.mesh(cx).trust_domain {
        "cluster.local" => String::new(),
        domain => domain.to_string(),
    }
}

/// Where traffic for a waypoint goes.
fn waypoint_address(cx: &Ctx<'_>, scope: &Scope, namespace: &str, waypoint: &Waypoint) -> proto::GatewayAddress {
    use proto::gateway_address::Destination;
    let destination = match &waypoint.address {
        Address::Hostname(hostname) => Destination::Hostname(proto::NamespacedHostname {
            namespace: namespace.to_string(),
            hostname: hostname.to_string(),
        }),
        Address::Ip(address) => Destination::Address(proto::NetworkAddress {
            network: scope.network(cx).to_string(),
            address: octets(*address),
            length: None,
        }),
    };
    let hbone_mtls_port = crate::model::waypoint::PORT.into();
    proto::GatewayAddress { destination: Some(destination), hbone_mtls_port }
}

/// The tunnel of an instance of a waypoint.
fn application_tunnel(
    cx: &Ctx<'_>,
    model: &Model,
    namespace: &Arc<str>,
    labels: &Labels,
) -> Option<proto::ApplicationTunnel> {
    let binding = model.instance_of(cx, namespace, labels)?.binding?;
    Some(proto::ApplicationTunnel { protocol: binding.protocol.into(), port: binding.port.into() })
}

/// What a workload that is not a pod has to do with waypoints: the tunnel of
/// an instance, or the waypoint that traffic to its own address goes through.
fn own_waypoint_fields(
    cx: &Ctx<'_>,
    model: &Model,
    kind: &'static str,
    meta: &Meta,
    labels: &Labels,
) -> (Option<proto::ApplicationTunnel>, Option<proto::GatewayAddress>) {
    let namespace = &meta.namespace;
    if model.instance_of(cx, namespace, labels).is_some() {
        return (application_tunnel(cx, model, namespace, labels), None);
    }
    let waypoint = model.attached(cx, namespace, labels, &TrafficType::Workload).unwrap_or_else(|unattached| {
        unattached.diagnose(cx, kind, meta);
        None
    });
    let address =
        |(key, waypoint): (ObjectKey, &Waypoint)| waypoint_address(cx, model.scope(), &key.namespace, waypoint);
    (None, waypoint.map(address))
}

/// Sets how the workload is reached: HBONE if the CNI redirects it, or if it
/// says that it speaks HBONE itself. The namespace's label plays no part.
fn set_tunnel(workload: &mut proto::Workload, meta: &Meta, labels: &Labels) {
    workload.native_tunnel = endpoint::speaks_hbone(labels);
    let hbone = workload.native_tunnel || endpoint::tunnels(meta);
    workload.set_tunnel_protocol(match hbone {
        true => proto::TunnelProtocol::Hbone,
        false => proto::TunnelProtocol::None,
    });
}

/// Sets the names telemetry knows the workload by.
/// <https://istio.io/latest/docs/ops/configuration/telemetry/canonical-service/>
fn set_canonical(workload: &mut proto::Workload, labels: &Labels, name: &str) {
    let first =
        |keys: [&str; 3], default: &str| keys.iter().find_map(|key| labels.get(key)).unwrap_or(default).to_string();
    workload.workload_name = name.to_string();
    let names = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
    workload.canonical_name = first(names, name);
    let revisions = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
    workload.canonical_revision = first(revisions, "latest");
}

/// The policies a workload names: those that select it, then those that stand
/// for its PeerAuthentication.
fn policies(cx: &Ctx<'_>, model: &Model, namespace: &Arc<str>, labels: &Labels) -> Vec<String> {
    let scope = model.scope();
    let selecting = model.selector_policies.of_workload(cx, scope, namespace, labels);
    let mut names: Vec<_> = selecting.into_iter().map(ToString::to_string).collect();
    names.extend(peer_authentication::of_workload(cx, model, scope, namespace, labels));
    names
}

/// The gateway to a network that is not the cluster's own.
fn network_gateway(cx: &Ctx<'_>, model: &Model, network: &str) -> Option<proto::GatewayAddress> {
    use proto::gateway_address::Destination;
    if network.is_empty() {
        return None;
    }
    let (key, gateway) = cx.fetch(model.network_gateways_by_network, &intern(network)).next()?;
    let destination = match key.address.parse::<IpAddr>() {
        Ok(address) => Destination::Address(proto::NetworkAddress {
            network: network.to_string(),
            address: octets(address),
            length: None,
        }),
        Err(_) => Destination::Hostname(proto::NamespacedHostname {
            namespace: gateway.namespace.to_string(),
            hostname: key.address.to_string(),
        }),
    };
    Some(proto::GatewayAddress { destination: Some(destination), hbone_mtls_port: key.port.into() })
}

/// `region/zone/subzone`; nothing if all are empty.
fn locality(region: &str, zone: &str, subzone: &str) -> Option<proto::Locality> {
    let any = !(region.is_empty() && zone.is_empty() && subzone.is_empty());
    any.then(|| proto::Locality { region: region.into(), zone: zone.into(), subzone: subzone.into() })
}
