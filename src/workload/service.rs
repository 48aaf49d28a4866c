//! Services in the address table.

use fairway_proto::workload as proto;
use prost::Message;
use proto::load_balancing::{HealthPolicy, Mode, Scope as Affinity};

use crate::api::core::TargetPort;
use crate::graph::{Ctx, Graph};
use crate::model::service::{Distribution, Port, Protocol, Service, ServiceKey};
use crate::model::{Model, problem};
use crate::xds::resource::{Keys, Resource, ResourceType};

use super::{Tables, octets, waypoint_address};

/// The services.
pub(super) fn add_services(graph: &mut Graph, model: &Model, to: &mut Tables) {
    let model_of = model.clone();
    to.add(graph, "service_addresses", model.services, ServiceKey::to_string, move |cx, key, service| {
        let message = message(cx, &model_of, service);
        let hosts = service.addresses.iter().filter(|range| range.prefix_len() == range.max_prefix_len());
        let network = model_of.scope().network(cx);
        let keys = Keys {
            aliases: hosts.map(|range| format!("{network}/{}", range.addr()).into()).collect(),
            ..Keys::default()
        };
        let address = proto::Address { r#type: Some(proto::address::Type::Service(message)) };
        Some(Resource::new(ResourceType::Address, &key.to_string(), &address.encode_to_vec(), &keys))
    });
}

fn message(cx: &Ctx<'_>, model: &Model, service: &Service) -> proto::Service {
    let scope = model.scope();
    let waypoint = waypoint(cx, model, service);
    let network = scope.network(cx);
    let address = |range: &ipnet::IpNet| proto::NetworkAddress {
        network: network.to_string(),
        address: octets(range.addr()),
        length: (range.prefix_len() != range.max_prefix_len()).then(|| range.prefix_len().into()),
    };
    let canonical = cx.get(model.canonical, &service.key.hostname) == Some(&service.key);
    proto::Service {
        name: service.meta.name.to_string(),
        namespace: service.key.namespace.to_string(),
        hostname: service.key.hostname.to_string(),
        addresses: service.addresses.iter().map(address).collect(),
        ports: service.ports.iter().map(|port| port_message(service, port)).collect(),
        subject_alt_names: service.subject_alt_names.iter().map(ToString::to_string).collect(),
        ingress_use_waypoint: waypoint.is_some() && ingress_use_waypoint(cx, model, service),
        weighted_waypoints: weighted_waypoints(cx, model, service, waypoint.as_ref()),
        waypoint,
        load_balancing: load_balancing(service),
        ip_families: families(service).into(),
        canonical,
        ..Default::default()
    }
}

fn port_message(service: &Service, port: &Port) -> proto::Port {
    let target = match (&port.target, service.registry) {
        (TargetPort::Number(number), _) => *number,
        // 0 says: ask the workload.
        (TargetPort::Name(_), _) => 0,
        (TargetPort::Same, _) => port.number,
    };
    let protocol = match port.protocol {
        Protocol::Unknown => proto::AppProtocol::Unknown,
        Protocol::Http11 => proto::AppProtocol::Http11,
        Protocol::Http2 => proto::AppProtocol::Http2,
        Protocol::Grpc => proto::AppProtocol::Grpc,
        Protocol::Tcp => proto::AppProtocol::Tcp,
        Protocol::Tls => proto::AppProtocol::Tls,
    };
    proto::Port { service_port: port.number.into(), target_port: target.into(), app_protocol: protocol.into() }
}

/// The waypoint of the service.
fn waypoint(cx: &Ctx<'_>, model: &Model, service: &Service) -> Option<proto::GatewayAddress> {
    let key = cx.get(model.service_waypoints, &service.key)?;
    let waypoint = cx.get(model.waypoints, key)?;
    Some(waypoint_address(cx, model.scope(), &key.namespace, waypoint))
}

/// The shares of the service's waypoint and its canary; empty if it has none.
fn weighted_waypoints(
    cx: &Ctx<'_>,
    model: &Model,
    service: &Service,
    waypoint: Option<&proto::GatewayAddress>,
) -> Vec<proto::WeightedWaypoint> {
    let canary = cx.get(model.service_canaries, &service.key);
    let Some((canary, first)) = canary.zip(waypoint) else { return Vec::new() };
    let Some(second) = cx.get(model.waypoints, &canary.waypoint) else { return Vec::new() };
    let second = waypoint_address(cx, model.scope(), &canary.waypoint.namespace, second);
    let share = |address, weight| proto::WeightedWaypoint { destination: Some(address), weight };
    vec![share(first.clone(), 100_u32.saturating_sub(canary.weight)), share(second, canary.weight)]
}

/// Whether gateways send traffic for the service through its waypoint: the
/// service's label, else its namespace's.
fn ingress_use_waypoint(cx: &Ctx<'_>, model: &Model, service: &Service) -> bool {
    const LABEL: &str = "istio.io/ingress-use-waypoint";
    let scope = model.scope();
    let own = service.meta.label(LABEL);
    let value = own.or_else(|| scope.namespace(cx, &service.key.namespace)?.label(LABEL));
    // The spellings that Go's ParseBool knows.
    match value {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some(other) => {
            let message = format!("{other:?} is not true or false; false is used");
            let field = format!("metadata.labels[{LABEL}]");
            cx.diagnose(problem(service.registry.kind(), &service.meta, field, "UnsupportedValue", message));
            false
        }
    }
}

fn load_balancing(service: &Service) -> Option<proto::LoadBalancing> {
    const NEAR: [Affinity; 3] = [Affinity::Network, Affinity::Region, Affinity::Zone];
    const NEAREST: [Affinity; 5] =
        [Affinity::Network, Affinity::Region, Affinity::Zone, Affinity::Subzone, Affinity::Node];
    let (preference, mode): (&[Affinity], _) = match service.distribution {
        Distribution::Any => (&[], Mode::UnspecifiedMode),
        Distribution::LocalNode => (&[Affinity::Node], Mode::Strict),
        Distribution::PreferSameZone => (&NEAR, Mode::Failover),
        Distribution::PreferSameNode => (&NEAREST, Mode::Failover),
        Distribution::Passthrough => (&[], Mode::Passthrough),
    };
    if service.distribution == Distribution::Any && !service.all_endpoints {
        return None;
    }
    let health = if service.all_endpoints { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy };
    Some(proto::LoadBalancing {
        routing_preference: preference.iter().map(|scope| (*scope).into()).collect(),
        mode: mode.into(),
        health_policy: health.into(),
    })
}

fn families(service: &Service) -> proto::IpFamilies {
    match &*service.families {
        [one] if &**one == "IPv4" => proto::IpFamilies::Ipv4Only,
        [_] => proto::IpFamilies::Ipv6Only,
        [_, _] => proto::IpFamilies::Dual,
        _ => proto::IpFamilies::Automatic,
    }
}
