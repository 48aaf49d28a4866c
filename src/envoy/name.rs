//! The names of clusters. People and tools parse them: `istioctl
//! proxy-config`, dashboards, EnvoyFilters and access logs.

use crate::model::service::ServiceKey;

/// What a proxy does with a connection, hence with a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Handling {
    /// It reads HTTP.
    Http,
    /// It passes bytes on.
    Tcp,
    /// It calls a service that is not its own.
    Outbound,
    /// It passes the mutual TLS of sidecars on.
    Passed,
}

impl Handling {
    /// As it appears in names.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Outbound => "outbound",
            Self::Passed => "passed",
        }
    }
}

/// The cluster, and the filter chain, for a port of a service that a waypoint
/// serves; `subset` is empty for the whole service.
pub fn inbound_vip(port: u16, handling: Handling, subset: &str, service: &ServiceKey) -> String {
    let slash = if subset.is_empty() { "" } else { "/" };
    format!("inbound-vip|{port}|{}{slash}{subset}|{}", handling.text(), service.hostname)
}

/// The cluster for a port of a service that a proxy calls.
pub fn outbound(port: u16, subset: &str, hostname: &str) -> String {
    format!("outbound|{port}|{subset}|{hostname}")
}

/// The name in TLS of a port of a service, or a subset of it: what sidecars ask
/// for, and the cluster of a gateway that passes it on.
pub fn sni(port: u16, subset: &str, hostname: &str) -> String {
    format!("outbound_.{port}_.{subset}_.{hostname}")
}

/// The prefix of a cluster's statistics: its name with a delimiter that the
/// proxies' tag extraction knows.
pub fn statistics(cluster: &str) -> String {
    format!("{cluster};")
}
