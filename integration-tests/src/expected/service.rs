//! Services: Kubernetes' own, and those of ServiceEntries.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::{Objects, age, list, map, name, namespace, sorted, text};

/// A port of a service.
#[derive(Clone)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) number: u32,
    pub(super) transport: String,
    pub(super) target: Target,
}

/// Where workloads listen.
#[derive(Clone)]
pub(super) enum Target {
    Number(u32),
    Name(String),
}

/// A service with what its workloads need of it.
pub(super) struct Service {
    pub(super) namespace: String,
    pub(super) addresses: Vec<String>,
    pub(super) ports: Vec<Port>,
    pub(super) shown_ports: Vec<(u32, u32)>,
    pub(super) selector: BTreeMap<String, String>,
    /// Whether it comes from a ServiceEntry, and from which.
    pub(super) entry: Option<(String, String)>,
}

pub(super) fn hostname(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}.svc.cluster.local")
}

pub(super) fn services(objects: &Objects) -> BTreeMap<String, Service> {
    let mut services = BTreeMap::new();
    for service in objects.services.iter().filter(|service| text(service, "/spec/type") != "ExternalName") {
        let key = format!("{}/{}", namespace(service), hostname(name(service), namespace(service)));
        services.insert(key, kubernetes(service));
    }
    let mut entries: Vec<_> = objects.service_entries.iter().collect();
    entries.sort_by_key(|entry| age(entry));
    for entry in entries {
        for host in list(entry, "/spec/hosts").iter().filter_map(Value::as_str) {
            // Whoever was first keeps the host.
            if let Some(service) = of_entry(entry, host) {
                services.entry(format!("{}/{host}", namespace(entry))).or_insert(service);
            }
        }
    }
    services
}

fn kubernetes(service: &Value) -> Service {
    let addresses = list(service, "/spec/clusterIPs").iter().filter_map(Value::as_str);
    let ports: Vec<_> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let number = port["port"].as_u64().unwrap() as u32;
            Port {
                name: text(port, "/name").into(),
                number,
                transport: text(port, "/protocol").into(),
                target: match &port["targetPort"] {
                    Value::String(name) => Target::Name(name.clone()),
                    other => Target::Number(other.as_u64().map_or(number, |target| target as u32)),
                },
            }
        })
        .collect();
    Service {
        namespace: namespace(service).into(),
        addresses: addresses.filter(|address| *address != "None").map(String::from).collect(),
        shown_ports: shown(&ports),
        ports,
        selector: map(service, "/spec/selector"),
        entry: None,
    }
}

fn of_entry(entry: &Value, host: &str) -> Option<Service> {
    let resolution = text(entry, "/spec/resolution");
    let passthrough = matches!(resolution, "" | "NONE");
    let mut addresses = vec![];
    for address in list(entry, "/spec/addresses").iter().filter_map(Value::as_str) {
        // The tests write ranges in their plain form only.
        let (ip, _) = address.split_once('/').unwrap_or((address, ""));
        ip.parse::<IpAddr>().ok()?;
        addresses.push(address.trim_end_matches("/32").to_string());
    }
    if addresses.is_empty() && !passthrough {
        let allocated = list(entry, "/status/addresses").iter();
        addresses.extend(allocated.filter(|one| text(one, "/host") == host).map(|one| text(one, "/value").into()));
    }
    let mut ports = vec![];
    for port in list(entry, "/spec/ports") {
        // What cannot be read is not served.
        let number = port["number"].as_u64()? as u32;
        let target = port["targetPort"].as_u64().filter(|target| *target > 0);
        ports.push(Port {
            name: text(port, "/name").into(),
            number,
            transport: if text(port, "/protocol") == "UDP" { "UDP" } else { "TCP" }.into(),
            target: Target::Number(target.map_or(number, |target| target as u32)),
        });
    }
    Some(Service {
        namespace: namespace(entry).into(),
        addresses,
        shown_ports: shown(&ports),
        ports,
        selector: map(entry, "/spec/workloadSelector/labels"),
        entry: Some((namespace(entry).into(), name(entry).into())),
    })
}

fn shown(ports: &[Port]) -> Vec<(u32, u32)> {
    let target = |port: &Port| match port.target {
        Target::Number(number) => number,
        Target::Name(_) => 0,
    };
    sorted(ports.iter().map(|port| (port.number, target(port))))
}
