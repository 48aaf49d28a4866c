//! Gateways that lead to other networks: `istio-remote` Gateways with an HBONE
//! listener, labelled with the network behind them.

use std::sync::Arc;

use crate::api::gateway::Gateway;
use crate::api::{Meta, ObjectKey};
use crate::graph::{Collection, Graph};

use super::Scope;

/// What tells network gateways apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayKey {
    /// The network behind it.
    pub network: Arc<str>,
    /// The Gateway it comes from.
    pub gateway: ObjectKey,
    /// Its IP address or hostname.
    pub address: Arc<str>,
    /// Its HBONE port.
    pub port: u16,
}

/// A gateway to another network.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkGateway {
    /// The namespace it runs in.
    pub namespace: Arc<str>,
    /// The service account it runs as.
    pub service_account: Arc<str>,
}

/// All gateways to other networks.
pub fn gateways(graph: &mut Graph, scope: &Scope) -> Collection<GatewayKey, NetworkGateway> {
    graph.derive("network_gateways", scope.inputs.gateways, |_, key, gateway: &Gateway| {
        let network = gateway.meta.label("topology.istio.io/network").filter(|network| !network.is_empty());
        let listener = gateway.spec.listeners.iter().find(|listener| &*listener.protocol == "HBONE");
        let remote = &*gateway.spec.gateway_class_name == "istio-remote";
        let (Some(network), Some(listener), true) = (network, listener, remote) else { return Vec::new() };
        let asked = gateway.status.addresses.is_empty().then_some(&gateway.spec.addresses);
        let addresses = asked.unwrap_or(&gateway.status.addresses).iter();
        let row = |address: &Arc<str>| {
            let key = GatewayKey {
                network: network.into(),
                gateway: key.clone(),
                address: address.clone(),
                port: listener.port,
            };
            (
                key,
                NetworkGateway { namespace: gateway.meta.namespace.clone(), service_account: service_account(gateway) },
            )
        };
        addresses.filter(|address| !address.value.is_empty()).map(|address| row(&address.value)).collect()
    })
}

/// The service account of a gateway's pods, where the gateway does not say.
pub fn service_account(gateway: &Gateway) -> Arc<str> {
    let Meta { name, .. } = &gateway.meta;
    match gateway.meta.annotation("gateway.istio.io/service-account") {
        Some(account) => account.into(),
        None => format!("{name}-{}", gateway.spec.gateway_class_name).into(),
    }
}
