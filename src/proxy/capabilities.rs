//! What an Envoy was built with. Every Envoy lists its extensions in its first
//! request (`Node.extensions`); versions are never compared.
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/core/v3/base.proto>

use envoy_types::pb::envoy::config::core::v3::Node as WireNode;

/// Which extensions that stock Envoy does not have, or had not always, a proxy
/// has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Capabilities {
    /// Istio's metrics: `istio.stats`.
    pub istio_stats: bool,
    /// Istio's discovery of who is at the other end: `io.istio.http.peer_metadata`.
    pub peer_metadata: bool,
    /// Metrics by access log: `envoy.access_loggers.stats`.
    pub stats_logger: bool,
    /// Expressions of CEL in access logs.
    pub cel_log_filter: bool,
    /// Addresses in filter state: `envoy.network.ip`.
    pub network_ip: bool,
    /// How text becomes part of the key of connection pools.
    pub hashable_string: HashableString,
    /// Whether it is to take HTTP/1.0, as its user says: the metadata `HTTP10`.
    pub http10: bool,
}

/// The factory of filter state objects that hold a text and take part in the
/// choice of an upstream connection. Without one, requests of different callers
/// or for different services would share connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum HashableString {
    /// That of Istio's proxy.
    Istio,
    /// That of Envoy itself, since 1.38.
    Envoy,
}

impl HashableString {
    /// The factory's name.
    pub const fn factory(self) -> &'static str {
        match self {
            Self::Istio => "istio.hashable_string",
            Self::Envoy => "envoy.hashable_string",
        }
    }
}

impl Capabilities {
    /// An Envoy as its own project releases it.
    pub const STOCK: Self = Self {
        istio_stats: false,
        peer_metadata: false,
        stats_logger: true,
        cel_log_filter: true,
        network_ip: true,
        hashable_string: HashableString::Envoy,
        http10: false,
    };
    /// The Envoy of Istio's image.
    pub const ISTIO: Self = Self {
        istio_stats: true,
        peer_metadata: true,
        stats_logger: false,
        cel_log_filter: true,
        network_ip: true,
        hashable_string: HashableString::Istio,
        http10: false,
    };

    /// Reads them off the node of a first request. A client that lists nothing
    /// is taken for Istio's proxy if it says which version of Istio it is of.
    pub(super) fn of(node: &WireNode, of_istio: bool, http10: bool) -> Self {
        if node.extensions.is_empty() {
            return Self { http10, ..if of_istio { Self::ISTIO } else { Self::STOCK } };
        }
        let has = |name: &str, ty: &str| {
            let extensions = node.extensions.iter();
            let mut live = extensions.filter(|extension| !extension.disabled);
            live.any(|extension| {
                extension.name == name || (!ty.is_empty() && extension.type_urls.iter().any(|url| url == ty))
            })
        };
        Self {
            istio_stats: has("istio.stats", "stats.PluginConfig"),
            peer_metadata: has("io.istio.http.peer_metadata", "io.istio.http.peer_metadata.Config"),
            // Its configuration is another one since 1.39, which brought the
            // other extension. An Envoy that does not know the newer field would
            // refuse the listener; one that has both may be told of it.
            stats_logger: has("envoy.access_loggers.stats", "") && has("envoy.filters.http.filter_chain", ""),
            cel_log_filter: has("envoy.access_loggers.extension_filters.cel", ""),
            network_ip: has("envoy.network.ip", ""),
            // Preferred where it is: that is what Istio's proxy was tested with.
            hashable_string: match has(HashableString::Istio.factory(), "") {
                true => HashableString::Istio,
                false => HashableString::Envoy,
            },
            http10,
        }
    }
}
