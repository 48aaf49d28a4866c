//! THE table of xDS types: what each is called, what it has to wait for, and
//! which layer of a view it is served from.

use super::Resource;
use crate::xds::view::LayerKind;

/// A type of resource that can be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// L4 authorization policies for ztunnel.
    Authorization,
    /// Workloads and services for ztunnel.
    Address,
    /// The workloads alone, for the peer metadata of Envoys.
    Workload,
    /// Where an Envoy can send traffic.
    Cluster,
    /// What is behind a cluster.
    Endpoints,
    /// Where an Envoy takes traffic, and what it does with it.
    Listener,
    /// Routes that listeners refer to.
    Routes,
    /// Certificates and keys. They are not in views: see [`secret`](crate::xds::secret).
    Secret,
}

/// Types that refer to each other. Between families there is no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// What ztunnels are told.
    Ambient,
    /// What Envoys are configured with.
    Envoy,
    /// Secrets, for which whatever needs them waits by itself.
    Secrets,
}

/// One row of the table of types.
struct Row {
    type_url: &'static str,
    /// The value of the `type` label of metrics.
    label: &'static str,
    family: Family,
    /// Make before break: additions go out in ascending rank, so that nothing
    /// refers to what has not arrived; removals in descending rank.
    rank: u8,
    layer: LayerKind,
    projection: Projection,
    /// Whether ztunnels are sent what runs on their node without asking.
    node_local: bool,
}

impl Row {
    const fn envoy(type_url: &'static str, label: &'static str, rank: u8, layer: LayerKind) -> Self {
        let (family, projection) = (Family::Envoy, Projection::Whole);
        Self { type_url, label, family, rank, layer, projection, node_local: false }
    }
}

/// Which part of a stored message a type sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Projection {
    /// The message as it is stored.
    Whole,
    /// Only messages made of field 1 alone, and of those the inner message.
    First,
}

impl ResourceType {
    /// Every type, by family and in the order of their ranks.
    pub const ALL: [Self; 8] = [
        Self::Authorization,
        Self::Address,
        Self::Workload,
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::Routes,
        Self::Secret,
    ];

    /// THE table of xDS types.
    const fn row(self) -> Row {
        match self {
            // A policy must arrive before the address that refers to it:
            // ztunnel ignores references it cannot resolve, which fails open.
            Self::Authorization => Row {
                type_url: "type.googleapis.com/istio.security.Authorization",
                label: "Authorization",
                family: Family::Ambient,
                rank: 0,
                layer: LayerKind::Authorizations,
                projection: Projection::Whole,
                node_local: false,
            },
            Self::Address => Row {
                type_url: "type.googleapis.com/istio.workload.Address",
                label: "Address",
                family: Family::Ambient,
                rank: 1,
                layer: LayerKind::Addresses,
                projection: Projection::Whole,
                node_local: true,
            },
            Self::Workload => Row {
                type_url: "type.googleapis.com/istio.workload.Workload",
                label: "Workload",
                family: Family::Ambient,
                rank: 1,
                layer: LayerKind::Addresses,
                projection: Projection::First,
                node_local: false,
            },
            // An Envoy answers 503 for a route to a cluster that it does not
            // know, or whose endpoints it still waits for.
            Self::Cluster => {
                Row::envoy("type.googleapis.com/envoy.config.cluster.v3.Cluster", "CDS", 0, LayerKind::Clusters)
            }
            Self::Endpoints => Row::envoy(
                "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
                "EDS",
                1,
                LayerKind::Endpoints,
            ),
            Self::Listener => {
                Row::envoy("type.googleapis.com/envoy.config.listener.v3.Listener", "LDS", 2, LayerKind::Listeners)
            }
            Self::Routes => {
                Row::envoy("type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "RDS", 3, LayerKind::Routes)
            }
            Self::Secret => Row {
                type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                label: "SDS",
                family: Family::Secrets,
                rank: 0,
                layer: LayerKind::Secrets,
                projection: Projection::Whole,
                node_local: false,
            },
        }
    }

    /// The type a request or response names, or `None` if it is not served.
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.type_url() == type_url)
    }

    /// The type URL as it appears on the wire.
    pub const fn type_url(self) -> &'static str {
        self.row().type_url
    }

    /// The short name used in metrics, logs and debug pages.
    pub const fn label(self) -> &'static str {
        self.row().label
    }

    /// The types it has an order with.
    pub const fn family(self) -> Family {
        self.row().family
    }

    /// The type whose resources need one of this type each, under the same
    /// name, whenever they are new or have changed. An Envoy waits for the
    /// endpoints of a cluster it was sent, also if it had them before.
    pub const fn follows(self) -> Option<Self> {
        match self {
            Self::Endpoints => Some(Self::Cluster),
            _ => None,
        }
    }

    /// The make-before-break rank: lower ranks are referred to by higher ones
    /// of the family.
    pub const fn rank(self) -> u8 {
        self.row().rank
    }

    /// The layer of a view this type is served from.
    pub const fn layer(self) -> LayerKind {
        self.row().layer
    }

    /// Which part of a stored message it sends.
    pub(super) const fn projection(self) -> Projection {
        self.row().projection
    }

    /// Whether resources are sent as they are stored, all of them.
    pub const fn is_whole(self) -> bool {
        matches!(self.projection(), Projection::Whole)
    }

    /// Which of the two forms that resources of a layer can have it sends.
    pub(in crate::xds) const fn projected(self) -> usize {
        match self.projection() {
            Projection::Whole => 0,
            Projection::First => 1,
        }
    }

    /// Whether ztunnels are sent the resources of their node without asking.
    pub const fn node_local(self) -> bool {
        self.row().node_local
    }

    /// Whether subscribers of this type are sent the resource.
    pub fn carries(self, resource: &Resource) -> bool {
        self.layer() == resource.ty().layer()
            && match self.projection() {
                Projection::Whole => true,
                Projection::First => resource.is_stub() || resource.inner().is_some(),
            }
    }
}

impl serde::Serialize for ResourceType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}
