//! Gateways to other networks, as the workloads that `network_gateway` fields
//! point at.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_proto::workload as proto;

use crate::graph::{Collection, Graph};
use crate::model::Model;
use crate::xds::resource::Resource;

use super::{octets, trust_domain, workload_row};

/// The workloads of all network gateways.
pub(super) fn workloads(graph: &mut Graph, model: &Model) -> Collection<Arc<str>, Resource> {
    let model = model.clone();
    graph.derive("network_gateway_workloads", model.network_gateways, move |cx, key, gateway| {
        let uid = format!("NetworkGateway/{}/{}/{}", key.network, key.address, key.port);
        let address = key.address.parse::<IpAddr>().ok();
        let workload = proto::Workload {
            name: uid.clone(),
            uid,
            namespace: gateway.namespace.to_string(),
            service_account: gateway.service_account.to_string(),
            addresses: address.map(octets).into_iter().collect(),
            hostname: if address.is_some() { String::new() } else { key.address.to_string() },
            network: key.network.to_string(),
            trust_domain: trust_domain(cx, model.scope()),
            ..Default::default()
        };
        Some(workload_row(workload))
    })
}
