//! What a proxy is told depends on this, and on nothing else about it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Capabilities, Node, NodeKind, OwnConfig};
use crate::intern::Hashed;

/// The facts of a proxy that influence what is generated for it. It is in the
/// key of each row that is worked out for the proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Scope {
    /// An Envoy that serves a Gateway of a waypoint class.
    Waypoint(Hashed<WaypointScope>),
    /// An Envoy at the edge of the mesh.
    Gateway(Hashed<GatewayScope>),
}

impl From<WaypointScope> for Scope {
    fn from(waypoint: WaypointScope) -> Self {
        Self::Waypoint(waypoint.into())
    }
}

impl From<GatewayScope> for Scope {
    fn from(proxy: GatewayScope) -> Self {
        Self::Gateway(proxy.into())
    }
}

/// The facts of a waypoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct WaypointScope {
    /// The namespace of the Gateway, and of the proxy.
    pub namespace: Arc<str>,
    /// The name of the Gateway.
    pub gateway: Arc<str>,
    /// What the proxy can do.
    pub capabilities: Capabilities,
    /// The address families it listens on.
    pub families: Families,
    /// The only address it listens on, if that is one of loopback: such a proxy
    /// is not alone on its address, as one in a pod is, and several may run on
    /// one machine without a cluster.
    pub loopback: Option<IpAddr>,
    /// Where it is, which decides what is near.
    pub place: Place,
}

/// The facts of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct GatewayScope {
    /// The namespace of the proxy.
    pub namespace: Arc<str>,
    /// What the proxy can do.
    pub capabilities: Capabilities,
    /// The address families it listens on.
    pub families: Families,
    /// The only address it listens on, as for a waypoint.
    pub loopback: Option<IpAddr>,
    /// Whether it cannot listen on ports below 1024.
    pub unprivileged: bool,
    /// What its own configuration says that the mesh's does not.
    #[serde(serialize_with = "printed")]
    pub own: Option<Arc<OwnConfig>>,
    /// Where it is, and the labels that gateways select it by.
    pub place: Place,
    /// Its own address. Only that of ServiceEntries that list it is worth
    /// anything, so it is none in a scope that something is worked out for.
    pub address: Option<IpAddr>,
    /// The namespaces and hosts of such ServiceEntries.
    pub listed_by: Arc<[(Arc<str>, Arc<str>)]>,
}

/// For `#[serde(serialize_with)]`: what is only read, as it is printed.
fn printed<S: serde::Serializer>(own: &Option<Arc<OwnConfig>>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&own.as_ref().map(|own| format!("{own:?}")), serializer)
}

/// Where a proxy is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Place {
    /// The region.
    pub region: Arc<str>,
    /// The zone.
    pub zone: Arc<str>,
    /// The subzone.
    pub subzone: Arc<str>,
    /// The Kubernetes node. What is worked out for a scope is shared by those
    /// on different nodes, so it is empty there unless something depends on it.
    pub node: Arc<str>,
    /// The labels of its pod, sorted by key, but for those by which pods of one
    /// Gateway differ.
    pub labels: Arc<[(Arc<str>, Arc<str>)]>,
}

/// Labels by which the pods of one Deployment or StatefulSet differ.
const OF_ONE_POD: [&str; 4] = [
    "pod-template-hash",
    "controller-revision-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
];

impl Place {
    /// Labels of a pod as they are kept, from all it has.
    pub fn labels_of<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Arc<[(Arc<str>, Arc<str>)]> {
        let labels = labels.filter(|(name, _)| !OF_ONE_POD.contains(name));
        let mut labels: Vec<(Arc<str>, Arc<str>)> = labels.map(|(name, value)| (name.into(), value.into())).collect();
        labels.sort_unstable();
        labels.into()
    }

    /// The value of a label of the proxy's pod.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| &**name == key).map(|(_, value)| &**value)
    }
}

/// The address families of a proxy, which decide what it listens on and which
/// DNS answers it can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Dual,
}

impl Scope {
    /// The scope of a proxy; `None` if it is told nothing of its own, such as a
    /// ztunnel.
    pub fn of(node: &Node) -> Option<Self> {
        match node.kind {
            NodeKind::Waypoint => Some(Self::from(WaypointScope {
                namespace: node.namespace.clone(),
                gateway: node.gateway.clone()?,
                capabilities: node.capabilities,
                families: node.families,
                loopback: node.loopback,
                place: node.place.clone(),
            })),
            NodeKind::Router => Some(Self::from(GatewayScope {
                namespace: node.namespace.clone(),
                capabilities: node.capabilities,
                families: node.families,
                loopback: node.loopback,
                unprivileged: node.unprivileged,
                own: node.own.clone(),
                place: node.place.clone(),
                address: node.address,
                listed_by: [].into(),
            })),
            NodeKind::Sidecar | NodeKind::Ztunnel | NodeKind::Agentgateway => None,
        }
    }

    /// The namespace of the proxy.
    pub fn namespace(&self) -> &Arc<str> {
        match self {
            Self::Waypoint(waypoint) => &waypoint.namespace,
            Self::Gateway(proxy) => &proxy.namespace,
        }
    }

    /// What the proxy can do.
    pub fn capabilities(&self) -> Capabilities {
        match self {
            Self::Waypoint(waypoint) => waypoint.capabilities,
            Self::Gateway(proxy) => proxy.capabilities,
        }
    }

    /// The address families of the proxy.
    pub fn families(&self) -> Families {
        match self {
            Self::Waypoint(waypoint) => waypoint.families,
            Self::Gateway(proxy) => proxy.families,
        }
    }

    /// The only address that the proxy listens on.
    pub fn loopback(&self) -> Option<IpAddr> {
        match self {
            Self::Waypoint(waypoint) => waypoint.loopback,
            Self::Gateway(proxy) => proxy.loopback,
        }
    }

    /// Where the proxy is.
    pub fn place(&self) -> &Place {
        match self {
            Self::Waypoint(waypoint) => &waypoint.place,
            Self::Gateway(proxy) => &proxy.place,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waypoint(waypoint) => write!(f, "waypoint:{}/{}", waypoint.namespace, waypoint.gateway),
            Self::Gateway(proxy) => {
                let place = &proxy.place;
                write!(f, "router:{}/", proxy.namespace)?;
                let gateway = place.label("gateway.networking.k8s.io/gateway-name");
                match gateway.or_else(|| place.label("istio")).or_else(|| place.label("app")) {
                    Some(name) => f.write_str(name),
                    None => f.write_str("*"),
                }
            }
        }
    }
}
