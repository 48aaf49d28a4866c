//! A waypoint without a cluster.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::Path;

use serde_json::json;

use crate::fairway::Fairway;
use crate::proxy::{Proxy, Role};

/// The port of HBONE.
pub const PORT: u16 = 15008;

/// A running waypoint.
pub struct Waypoint {
    /// Where it takes HBONE.
    pub address: SocketAddr,
    proxy: Proxy,
}

impl Deref for Waypoint {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.proxy
    }
}

impl Waypoint {
    /// Starts the waypoint of a Gateway at an address, and waits until it is
    /// ready. It has the identity that waypoints have in a cluster: the Gateway's
    /// name is that of the service account.
    pub async fn start(fairway: &Fairway, state: &Path, namespace: &str, gateway: &str, ip: IpAddr) -> Self {
        let labels = json!({ "gateway.networking.k8s.io/gateway-name": gateway });
        let role = Role { kind: "waypoint", namespace, account: gateway, labels };
        let proxy = Proxy::start(fairway, state, role, ip).await;
        Self { address: SocketAddr::new(ip, PORT), proxy }
    }
}
