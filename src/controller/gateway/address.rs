//! Where a Gateway is reached: what its status lists, and what is in the way.
//! <https://gateway-api.sigs.k8s.io/reference/spec/#gatewaystatusaddress>

use serde_json::{Value, json};

use crate::api::gateway::Gateway;
use crate::controller::resource::{Reference, Resource};
use crate::model::gateway::kubernetes::Placement;

use super::class::Template;
use super::settings::Settings;
use super::status::Facts;
use super::template::{HBONE, Names};

/// Which of a Service's own addresses a gateway's status has, if no load
/// balancer has one.
const ADDRESS_TYPE: &str = "networking.istio.io/address-type";
/// How many addresses a status has room for.
const MOST: usize = 16;

/// The Services that a Gateway's traffic goes to.
pub fn services(settings: &Settings, gateway: &Gateway, template: Template, placement: &Placement) -> Vec<Reference> {
    let namespace = &*gateway.meta.namespace;
    let reference = |name: &str| Reference::new(Resource::Service, namespace, name);
    if placement.managed {
        return vec![reference(&Names::of(gateway, template).deployment)];
    }
    let named = placement.services.iter().filter_map(|host| own(settings, namespace, host)).map(reference);
    let mut services: Vec<_> = named.collect();
    services.sort_unstable();
    services.dedup();
    services
}

/// The name of the Service of a namespace that a host is. One of another
/// namespace has other pods than a Gateway could mean.
fn own<'a>(settings: &Settings, namespace: &str, host: &'a str) -> Option<&'a str> {
    let Some((name, rest)) = host.split_once('.') else { return Some(host) };
    let rest = rest.strip_prefix(namespace)?;
    let same = matches!(rest, "" | ".svc") || rest.strip_prefix(".svc.") == Some(&*settings.domain);
    same.then_some(name)
}

/// The full name of a Service, which may be given short.
pub fn hostname(settings: &Settings, namespace: &str, name: &str) -> String {
    match name.contains('.') {
        true => name.to_owned(),
        false => format!("{name}.{namespace}.svc.{}", settings.domain),
    }
}

/// Where a Gateway is reached, and why not, in the words of `Programmed`.
#[derive(Debug, Default)]
pub struct Reached {
    /// What its status lists.
    pub addresses: Vec<Value>,
    /// Hosts and ports that lead to it.
    pub assigned: Vec<String>,
    /// What is in the way: a reason and a message.
    pub fault: Option<(&'static str, String)>,
}

/// Where a waypoint is reached: what its user says, or its Service. Of that both
/// the name and the addresses are listed, as readers want one or the other.
pub fn of_waypoint(settings: &Settings, facts: &Facts<'_>) -> Reached {
    let namespace = &*facts.gateway.meta.namespace;
    let entry = |kind: &str, value: &str| json!({ "type": kind, "value": value });
    let (name, service) = match facts.services.first() {
        Some((reference, service)) => (reference.name.clone(), *service),
        None => (String::new(), None),
    };
    let host = hostname(settings, namespace, &name);
    let mut addresses = Vec::new();
    if facts.placement.managed {
        let service = service.filter(|service| has_port(service, HBONE));
        let ips = service.map(cluster_ips).unwrap_or_default();
        if !ips.is_empty() {
            addresses.extend(ips.into_iter().map(|ip| entry("IPAddress", ip)));
            addresses.push(entry("Hostname", &host));
        }
    } else {
        for address in facts.gateway.spec.addresses.iter().filter(|address| !address.value.is_empty()) {
            addresses.push(match &*address.kind {
                "Hostname" => entry("Hostname", &hostname(settings, namespace, &address.value)),
                _ => entry("IPAddress", &address.value),
            });
        }
    }
    let fault = addresses.is_empty().then(|| {
        let service = Reference::new(Resource::Service, namespace, name);
        ("AddressNotAssigned", format!("no address: {service} is not there, or has no port {HBONE}"))
    });
    Reached { addresses, assigned: vec![format!("{host}:{HBONE}")], fault }
}

/// Where a gateway is reached: at its load balancers, or at its Services
/// themselves. It is not, as long as a load balancer has no address, or a
/// Service has not all of its ports.
pub fn of_gateway(settings: &Settings, facts: &Facts<'_>, ports: &[u16]) -> Reached {
    let namespace = &*facts.gateway.meta.namespace;
    let (mut external, mut internal, mut assigned) = (Vec::new(), Vec::new(), Vec::new());
    let (mut missing, mut pending) = (Vec::new(), Vec::new());
    let wanted = facts.gateway.meta.annotation(ADDRESS_TYPE).unwrap_or("Hostname");
    for (reference, service) in &facts.services {
        let host = hostname(settings, namespace, &reference.name);
        let Some(service) = service else {
            missing.push(format!("{reference} is not there"));
            continue;
        };
        for port in ports {
            match has_port(service, *port) {
                true => assigned.push(format!("{host}:{port}")),
                false => missing.push(format!("{reference} has no port {port}")),
            }
        }
        let balanced = balanced(service);
        if balanced.is_empty() && service["spec"]["type"] == "LoadBalancer" {
            pending.push(format!("the load balancer of {reference} has no address yet"));
            continue;
        }
        if balanced.is_empty() {
            if wanted != "Hostname" {
                internal.extend(cluster_ips(service).into_iter().map(str::to_owned));
            }
            if wanted != "IPAddress" {
                internal.push(host);
            }
        }
        external.extend(balanced);
    }
    for host in &facts.placement.services {
        if own(settings, namespace, host).is_none() {
            missing.push(format!("there is no Service {host} in namespace {namespace}"));
        }
    }
    let mut values = if external.is_empty() { internal } else { external };
    values.sort_unstable();
    values.dedup();
    values.truncate(MOST);
    let entry = |value: String| {
        let ip = value.parse::<std::net::IpAddr>().is_ok();
        json!({ "type": if ip { "IPAddress" } else { "Hostname" }, "value": value })
    };
    let fault = match (missing.is_empty(), pending.is_empty()) {
        _ if facts.services.is_empty() && missing.is_empty() => {
            Some(("AddressNotUsable", "none of the requested addresses can be had".to_owned()))
        }
        (false, _) => Some(("AddressNotUsable", missing.into_iter().chain(pending).collect::<Vec<_>>().join("; "))),
        (true, false) => Some(("AddressNotAssigned", pending.join("; "))),
        (true, true) => None,
    };
    Reached { addresses: values.into_iter().map(entry).collect(), assigned, fault }
}

fn has_port(service: &Value, number: u16) -> bool {
    service["spec"]["ports"].as_array().is_some_and(|ports| ports.iter().any(|one| one["port"] == number))
}

fn cluster_ips(service: &Value) -> Vec<&str> {
    let ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    ips.filter(|ip| !ip.is_empty() && *ip != "None").collect()
}

/// What a Service is reached at from outside.
fn balanced(service: &Value) -> Vec<String> {
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    let of_balancer = ingress.filter_map(|one| one["ip"].as_str().or_else(|| one["hostname"].as_str()));
    let external = service["spec"]["externalIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    of_balancer.chain(external).filter(|value| !value.is_empty()).map(str::to_owned).collect()
}
