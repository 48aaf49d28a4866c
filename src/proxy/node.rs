//! Who a client says it is: the facts of its `Node` that matter to xDS itself.
//!
//! The node id is Istio's `type~ip~name.namespace~domain`
//! (<https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/>). What a
//! client says is not proof; the server compares it with the identity the
//! client authenticated as.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::google::protobuf::value::Kind;
use tonic::Status;

use super::scope::{Families, Place};
use super::{Capabilities, OwnConfig};

/// The kind of proxy a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// An Envoy beside one workload.
    Sidecar,
    /// An Envoy at the edge of the mesh.
    Router,
    /// An Envoy that handles HTTP for a namespace or service.
    Waypoint,
    /// The per-node proxy of ambient mode.
    Ztunnel,
    /// An agentgateway.
    Agentgateway,
}

/// A connected proxy as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Node {
    /// The whole node id.
    pub id: Arc<str>,
    /// The kind of proxy.
    pub kind: NodeKind,
    /// The third part of the id, by convention `name.namespace`.
    pub name: Arc<str>,
    /// The namespace it belongs to.
    pub namespace: Arc<str>,
    /// The service account it claims to run as.
    pub service_account: Option<Arc<str>>,
    /// The Kubernetes node it runs on.
    pub node_name: Option<Arc<str>>,
    /// The version of Istio it was built from.
    pub version: Arc<str>,
    /// The Gateway it serves, by the label that Istio's templates give its pod.
    pub gateway: Option<Arc<str>>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The address families it has.
    pub families: Families,
    /// Its own address, if that is one of loopback.
    pub loopback: Option<IpAddr>,
    /// Its own address.
    pub address: Option<IpAddr>,
    /// Whether it says that it cannot listen on ports below 1024.
    pub unprivileged: bool,
    /// Where it says it is.
    pub place: Place,
    /// What its own configuration says of HTTP, if it is a gateway.
    #[serde(skip)]
    pub own: Option<Arc<OwnConfig>>,
}

/// Names the Gateway that a pod serves.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

impl Node {
    /// Reads the node of a first request.
    pub fn parse(node: &WireNode) -> Result<Self, Status> {
        let malformed = || Status::invalid_argument("node id is not type~ip~name.namespace~domain");
        let mut parts = node.id.split('~');
        let (kind, ip, name, domain) = (parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(kind), Some(ip), Some(name), Some(_), None) = (kind, ip, name, domain, parts.next()) else {
            return Err(malformed());
        };
        let kind = match kind {
            "sidecar" => NodeKind::Sidecar,
            "router" => NodeKind::Router,
            "waypoint" => NodeKind::Waypoint,
            "ztunnel" => NodeKind::Ztunnel,
            "agentgateway" => NodeKind::Agentgateway,
            _ => return Err(Status::invalid_argument("node id names an unknown type of proxy")),
        };
        // A pod's name may contain dots, the name of a namespace may not.
        let namespace = match (metadata(node, "NAMESPACE"), name.rsplit_once('.')) {
            (Some(namespace), _) => namespace.into(),
            (None, Some((_, namespace))) => namespace.into(),
            (None, None) => return Err(malformed()),
        };
        let version = metadata(node, "ISTIO_VERSION");
        Ok(Self {
            id: node.id.as_str().into(),
            kind,
            name: name.into(),
            namespace,
            service_account: metadata(node, "SERVICE_ACCOUNT").map(Into::into),
            node_name: metadata(node, "NODE_NAME").map(Into::into),
            version: version.unwrap_or("unknown").into(),
            gateway: label(node, GATEWAY_NAME).map(Into::into),
            capabilities: Capabilities::of(node, version.is_some(), metadata(node, "HTTP10") == Some("1")),
            families: families(std::iter::once(ip).chain(metadata(node, "INSTANCE_IPS"))),
            loopback: ip.parse().ok().filter(IpAddr::is_loopback),
            address: ip.parse().ok(),
            unprivileged: metadata(node, "UNPRIVILEGED_POD") == Some("true"),
            place: place(node),
            own: if kind == NodeKind::Router { OwnConfig::of(node) } else { None },
        })
    }
}

/// A string of the node's metadata; empty counts as absent.
fn metadata<'a>(node: &'a WireNode, key: &str) -> Option<&'a str> {
    match node.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// A label of the node's pod.
fn label<'a>(node: &'a WireNode, key: &str) -> Option<&'a str> {
    labels(node).find(|(name, value)| *name == key && !value.is_empty()).map(|(_, value)| value)
}

/// The labels of the node's pod, in no particular order.
fn labels(node: &WireNode) -> impl Iterator<Item = (&str, &str)> {
    let labels = node.metadata.as_ref().and_then(|metadata| metadata.fields.get("LABELS"));
    let labels = match labels.and_then(|labels| labels.kind.as_ref()) {
        Some(Kind::StructValue(labels)) => Some(labels),
        _ => None,
    };
    labels.into_iter().flat_map(|labels| &labels.fields).filter_map(|(name, value)| match value.kind.as_ref()? {
        Kind::StringValue(text) => Some((name.as_str(), text.as_str())),
        _ => None,
    })
}

/// Where the node says it is.
fn place(node: &WireNode) -> Place {
    let locality = node.locality.clone().unwrap_or_default();
    Place {
        region: locality.region.into(),
        zone: locality.zone.into(),
        subzone: locality.sub_zone.into(),
        node: metadata(node, "NODE_NAME").unwrap_or_default().into(),
        labels: Place::labels_of(labels(node)),
    }
}

/// The families of lists of addresses; IPv4 if there are none.
fn families<'a>(lists: impl Iterator<Item = &'a str>) -> Families {
    let addresses = lists.flat_map(|list| list.split(',')).filter_map(|one| one.trim().parse::<IpAddr>().ok());
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.partition(IpAddr::is_ipv6);
    match (v4.is_empty(), v6.is_empty()) {
        (_, true) => Families::V4,
        (true, false) => Families::V6,
        (false, false) => Families::Dual,
    }
}
