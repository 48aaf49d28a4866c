//! Addresses for Services of type LoadBalancer, as a cloud would give them.
//! Connections to them are kube-proxy's business.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::network::load_balancer_ip;
use crate::api::Api;
use crate::watch::Watch;

/// The address that a Service has.
pub(super) fn address(service: &Value) -> Option<Ipv4Addr> {
    service.pointer("/status/loadBalancer/ingress/0/ip")?.as_str()?.parse().ok()
}

/// Gives addresses until it is dropped.
pub(super) async fn serve(api: Api, mut services: Watch) {
    loop {
        let all = services.all();
        let mut taken: BTreeSet<_> = all.iter().filter_map(|service| address(service)).collect();
        for service in all.iter().filter(|it| it["spec"]["type"] == "LoadBalancer" && address(it).is_none()) {
            let Some(free) = (1..=254).map(load_balancer_ip).find(|ip| !taken.contains(ip)) else { break };
            let status = json!({ "loadBalancer": { "ingress": [{ "ip": free, "ipMode": "VIP" }] } });
            // One that is gone meanwhile needs none.
            if api.patch_status(service, status).await.is_ok() {
                taken.insert(free);
            }
        }
        services.changed().await;
    }
}
